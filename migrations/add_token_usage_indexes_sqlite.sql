-- token_usage: the ledger and its indexes, for SQLite 3.34 and later.
--
--   sqlite3 content_curator.db < migrations/add_token_usage_indexes_sqlite.sql
--
-- Plain SQL: it needs no extension, and running it again changes nothing. token_usage_migrate() runs this same text, and
-- besides adopts a table token_usage that is there already but lacks columns; use it for such a table.
--
-- Both foreign keys are declared, since plain SQL cannot ask which tables exist. SQLite looks at them only under
-- PRAGMA foreign_keys=ON, and then needs the tables users and content_pieces.

BEGIN;

CREATE TABLE IF NOT EXISTS token_usage (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  user_id INTEGER NOT NULL,
  content_id TEXT,
  workflow_id TEXT,
  agent_id TEXT NOT NULL,
  request_id TEXT UNIQUE,
  endpoint TEXT,
  ai_provider TEXT NOT NULL,
  ai_model TEXT NOT NULL,
  prompt_tokens INTEGER NOT NULL DEFAULT 0,
  completion_tokens INTEGER NOT NULL DEFAULT 0,
  total_tokens INTEGER NOT NULL DEFAULT 0,
  cost_usd REAL DEFAULT 0,
  cost_rub REAL DEFAULT 0,
  platform TEXT,
  content_type TEXT,
  task_type TEXT,
  execution_time_ms INTEGER,
  request_metadata TEXT,
  response_metadata TEXT,
  created_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
  cache_read_tokens INTEGER,
  cache_write_tokens INTEGER,
  cache_write_1h_tokens INTEGER,
  cache_read_audio_tokens INTEGER,
  cache_read_image_tokens INTEGER,
  reasoning_tokens INTEGER,
  input_audio_tokens INTEGER,
  output_audio_tokens INTEGER,
  input_image_tokens INTEGER,
  output_image_tokens INTEGER,
  web_search_requests INTEGER,
  cost_source TEXT,
  FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE,
  FOREIGN KEY (content_id) REFERENCES content_pieces (id) ON DELETE SET NULL,
  CONSTRAINT check_tokens_positive
    CHECK (prompt_tokens >= 0 AND completion_tokens >= 0 AND total_tokens >= 0),
  CONSTRAINT check_total_tokens_sum CHECK (total_tokens = prompt_tokens + completion_tokens)
);

CREATE INDEX IF NOT EXISTS idx_token_usage_user_date
  ON token_usage (user_id, created_at DESC);
CREATE INDEX IF NOT EXISTS idx_token_usage_user_agent
  ON token_usage (user_id, agent_id);
CREATE INDEX IF NOT EXISTS idx_token_usage_user_provider_model
  ON token_usage (user_id, ai_provider, ai_model);
CREATE INDEX IF NOT EXISTS idx_token_usage_workflow
  ON token_usage (workflow_id) WHERE workflow_id IS NOT NULL;
CREATE INDEX IF NOT EXISTS idx_token_usage_detailed
  ON token_usage (user_id, agent_id, created_at DESC);
CREATE INDEX IF NOT EXISTS idx_token_usage_request_id
  ON token_usage (request_id);
CREATE INDEX IF NOT EXISTS idx_token_usage_created_at
  ON token_usage (created_at DESC);

-- The ledger's settings, by name; token_usage_set() writes them.
CREATE TABLE IF NOT EXISTS token_usage_settings (
  name TEXT PRIMARY KEY NOT NULL,
  value TEXT NOT NULL
);

-- Prices per token class, exact decimals as text. A row holds from valid_from until a newer one of the
-- same class; no price (NULL) ends the older ones. What is entered by hand has source 'manual'.
CREATE TABLE IF NOT EXISTS token_usage_price (
  id INTEGER PRIMARY KEY,
  source TEXT NOT NULL DEFAULT 'manual',
  ai_provider TEXT NOT NULL,
  ai_model TEXT NOT NULL,
  token_class TEXT NOT NULL,
  tier_start INTEGER NOT NULL DEFAULT 0,
  usd_per_million TEXT,
  valid_from TEXT NOT NULL DEFAULT '0001-01-01 00:00:00',
  time_from TEXT NOT NULL DEFAULT '00:00:00',
  time_to TEXT NOT NULL DEFAULT '24:00:00',
  UNIQUE (source, ai_provider, ai_model, token_class, tier_start, valid_from, time_from, time_to),
  CONSTRAINT check_token_usage_price_class
    CHECK (token_class IN ('input', 'output', 'cache_read', 'cache_write', 'cache_write_1h',
      'cache_read_audio', 'cache_read_image', 'reasoning', 'input_audio', 'output_audio',
      'input_image', 'output_image', 'web_search', 'request'))
);

-- How an imported catalogue names its providers and models.
CREATE TABLE IF NOT EXISTS token_usage_price_provider (
  source TEXT NOT NULL,
  ai_provider TEXT NOT NULL,
  position INTEGER NOT NULL,
  match TEXT,
  fallback TEXT,
  PRIMARY KEY (source, ai_provider)
);

CREATE TABLE IF NOT EXISTS token_usage_price_model (
  source TEXT NOT NULL,
  ai_provider TEXT NOT NULL,
  ai_model TEXT NOT NULL,
  position INTEGER NOT NULL,
  match TEXT NOT NULL,
  PRIMARY KEY (source, ai_provider, ai_model)
);

-- Units of a currency for one US dollar, from an instant on; token_usage_set_rate() writes them.
CREATE TABLE IF NOT EXISTS token_usage_exchange_rate (
  currency TEXT NOT NULL,
  rate TEXT NOT NULL,
  valid_from TEXT NOT NULL,
  PRIMARY KEY (currency, valid_from)
);

-- Every cost that token_usage_reprice() changed.
CREATE TABLE IF NOT EXISTS token_usage_reprice_log (
  id INTEGER PRIMARY KEY,
  repriced_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
  row_id TEXT NOT NULL,
  old_cost_usd REAL,
  new_cost_usd REAL,
  old_cost_rub REAL,
  new_cost_rub REAL
);

-- Rollups: sums of whole UTC hours, days and months of a user (docs/rollups.md). A bucket's row counts
-- as long as no late write is marked in it: the triggers below mark the hour of every row that comes,
-- changes or goes in time that is rolled already. They add nothing up, so nothing can go wrong in them,
-- they work in any sqlite3, and writing a mark twice is the same as once. token_usage_rebuild() and
-- token_usage_compact() compute the buckets.

-- Users that have rollups; every bucket ends at or before this hour (hours since 1970, UTC).
CREATE TABLE IF NOT EXISTS token_usage_rollup_user (
  user_id NOT NULL PRIMARY KEY,
  rolled_until INTEGER NOT NULL
) WITHOUT ROWID;

-- tier: 0 hour, 1 day, 2 month; dimension: 0 all, 1 by agent (key1), 2 by provider and model; bucket:
-- its first hour. Money and time are whole units and 10^-12 parts, so that they add up exactly.
CREATE TABLE IF NOT EXISTS token_usage_rollup (
  user_id NOT NULL,
  tier INTEGER NOT NULL,
  dimension INTEGER NOT NULL,
  bucket INTEGER NOT NULL,
  key1 NOT NULL,
  key2 NOT NULL,
  requests_count INTEGER NOT NULL,
  prompt_tokens INTEGER NOT NULL,
  completion_tokens INTEGER NOT NULL,
  total_tokens INTEGER NOT NULL,
  usd_whole INTEGER NOT NULL,
  usd_fraction INTEGER NOT NULL,
  rub_whole INTEGER NOT NULL,
  rub_fraction INTEGER NOT NULL,
  unpriced_count INTEGER NOT NULL,
  ms_whole INTEGER NOT NULL,
  ms_fraction INTEGER NOT NULL,
  ms_count INTEGER NOT NULL,
  PRIMARY KEY (user_id, tier, dimension, bucket, key1, key2)
) WITHOUT ROWID;

-- Hours with late writes.
CREATE TABLE IF NOT EXISTS token_usage_rollup_late (
  user_id NOT NULL,
  hour INTEGER NOT NULL,
  PRIMARY KEY (user_id, hour)
) WITHOUT ROWID;

-- Where the triggers were not there to see every write, nothing that is rolled counts.
DELETE FROM token_usage_rollup_user WHERE 5 <> (
  SELECT count(*) FROM sqlite_master
  WHERE type = 'trigger' AND tbl_name = 'token_usage' AND name GLOB 'token_usage_rollup_*');
DELETE FROM token_usage_rollup WHERE 5 <> (
  SELECT count(*) FROM sqlite_master
  WHERE type = 'trigger' AND tbl_name = 'token_usage' AND name GLOB 'token_usage_rollup_*');

-- Rows that OR REPLACE may take away without any DELETE trigger.
CREATE TRIGGER IF NOT EXISTS token_usage_rollup_before_insert BEFORE INSERT ON token_usage
WHEN EXISTS (SELECT 1 FROM token_usage WHERE id = NEW.id)
  OR EXISTS (SELECT 1 FROM token_usage WHERE request_id = NEW.request_id)
BEGIN
  INSERT INTO token_usage_rollup_late
    SELECT user_id, hour
    FROM (
      SELECT +user_id AS user_id,
        CASE typeof(created_at)
          WHEN 'text' THEN
            coalesce(strftime('%s', substr(created_at, 1, 16)
              || CASE WHEN substr(created_at, -6, 1) IN ('+', '-') THEN substr(created_at, -6) ELSE '' END) / 3600,
              CASE WHEN substr(created_at, -6, 1) IN ('+', '-') THEN -1 END)
          ELSE CAST(created_at AS INTEGER) / CASE WHEN created_at < 100000000000 THEN 3600 ELSE 3600000 END
        END AS hour
      FROM token_usage WHERE id = NEW.id OR request_id = NEW.request_id
      LIMIT -1) AS t
    WHERE hour < (SELECT rolled_until FROM token_usage_rollup_user WHERE user_id = t.user_id)
    ON CONFLICT DO NOTHING;
END;

CREATE TRIGGER IF NOT EXISTS token_usage_rollup_after_insert AFTER INSERT ON token_usage
WHEN EXISTS (SELECT 1 FROM token_usage_rollup_user WHERE user_id = +NEW.user_id)
BEGIN
  INSERT INTO token_usage_rollup_late
    SELECT user_id, hour
    FROM (
      SELECT +NEW.user_id AS user_id,
        CASE typeof(NEW.created_at)
          WHEN 'text' THEN
            coalesce(strftime('%s', substr(NEW.created_at, 1, 16)
              || CASE WHEN substr(NEW.created_at, -6, 1) IN ('+', '-') THEN substr(NEW.created_at, -6) ELSE '' END) / 3600,
              CASE WHEN substr(NEW.created_at, -6, 1) IN ('+', '-') THEN -1 END)
          ELSE CAST(NEW.created_at AS INTEGER) / CASE WHEN NEW.created_at < 100000000000 THEN 3600 ELSE 3600000 END
        END AS hour
      LIMIT -1) AS t
    WHERE hour < (SELECT rolled_until FROM token_usage_rollup_user WHERE user_id = t.user_id)
    ON CONFLICT DO NOTHING;
END;

CREATE TRIGGER IF NOT EXISTS token_usage_rollup_before_update BEFORE UPDATE ON token_usage
WHEN NEW.id IS NOT OLD.id OR NEW.request_id IS NOT OLD.request_id
BEGIN
  INSERT INTO token_usage_rollup_late
    SELECT user_id, hour
    FROM (
      SELECT +user_id AS user_id,
        CASE typeof(created_at)
          WHEN 'text' THEN
            coalesce(strftime('%s', substr(created_at, 1, 16)
              || CASE WHEN substr(created_at, -6, 1) IN ('+', '-') THEN substr(created_at, -6) ELSE '' END) / 3600,
              CASE WHEN substr(created_at, -6, 1) IN ('+', '-') THEN -1 END)
          ELSE CAST(created_at AS INTEGER) / CASE WHEN created_at < 100000000000 THEN 3600 ELSE 3600000 END
        END AS hour
      FROM token_usage WHERE id = NEW.id OR request_id = NEW.request_id
      LIMIT -1) AS t
    WHERE hour < (SELECT rolled_until FROM token_usage_rollup_user WHERE user_id = t.user_id)
    ON CONFLICT DO NOTHING;
END;

CREATE TRIGGER IF NOT EXISTS token_usage_rollup_after_update AFTER UPDATE ON token_usage
BEGIN
  INSERT INTO token_usage_rollup_late
    SELECT user_id, hour
    FROM (
      SELECT +OLD.user_id AS user_id,
        CASE typeof(OLD.created_at)
          WHEN 'text' THEN
            coalesce(strftime('%s', substr(OLD.created_at, 1, 16)
              || CASE WHEN substr(OLD.created_at, -6, 1) IN ('+', '-') THEN substr(OLD.created_at, -6) ELSE '' END) / 3600,
              CASE WHEN substr(OLD.created_at, -6, 1) IN ('+', '-') THEN -1 END)
          ELSE CAST(OLD.created_at AS INTEGER) / CASE WHEN OLD.created_at < 100000000000 THEN 3600 ELSE 3600000 END
        END AS hour
      LIMIT -1) AS t
    WHERE hour < (SELECT rolled_until FROM token_usage_rollup_user WHERE user_id = t.user_id)
    ON CONFLICT DO NOTHING;
  INSERT INTO token_usage_rollup_late
    SELECT user_id, hour
    FROM (
      SELECT +NEW.user_id AS user_id,
        CASE typeof(NEW.created_at)
          WHEN 'text' THEN
            coalesce(strftime('%s', substr(NEW.created_at, 1, 16)
              || CASE WHEN substr(NEW.created_at, -6, 1) IN ('+', '-') THEN substr(NEW.created_at, -6) ELSE '' END) / 3600,
              CASE WHEN substr(NEW.created_at, -6, 1) IN ('+', '-') THEN -1 END)
          ELSE CAST(NEW.created_at AS INTEGER) / CASE WHEN NEW.created_at < 100000000000 THEN 3600 ELSE 3600000 END
        END AS hour
      LIMIT -1) AS t
    WHERE hour < (SELECT rolled_until FROM token_usage_rollup_user WHERE user_id = t.user_id)
    ON CONFLICT DO NOTHING;
END;

CREATE TRIGGER IF NOT EXISTS token_usage_rollup_after_delete AFTER DELETE ON token_usage
BEGIN
  INSERT INTO token_usage_rollup_late
    SELECT user_id, hour
    FROM (
      SELECT +OLD.user_id AS user_id,
        CASE typeof(OLD.created_at)
          WHEN 'text' THEN
            coalesce(strftime('%s', substr(OLD.created_at, 1, 16)
              || CASE WHEN substr(OLD.created_at, -6, 1) IN ('+', '-') THEN substr(OLD.created_at, -6) ELSE '' END) / 3600,
              CASE WHEN substr(OLD.created_at, -6, 1) IN ('+', '-') THEN -1 END)
          ELSE CAST(OLD.created_at AS INTEGER) / CASE WHEN OLD.created_at < 100000000000 THEN 3600 ELSE 3600000 END
        END AS hour
      LIMIT -1) AS t
    WHERE hour < (SELECT rolled_until FROM token_usage_rollup_user WHERE user_id = t.user_id)
    ON CONFLICT DO NOTHING;
END;

COMMIT;
