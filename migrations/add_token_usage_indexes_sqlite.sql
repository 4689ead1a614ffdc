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

-- Rollups: sums of buckets of 3, 24, 192 and 1536 hours (UTC) of a user; docs/rollups.md explains them.
-- A bucket's rows count as long as no mark of it is in token_usage_rollup_late. The triggers mark
-- the buckets of every row that comes, changes or goes in time that is rolled already; what is marked,
-- and what was never rolled, reports read from the ledger. One insert in eight also computes one
-- bucket of its user, so the ledger keeps itself compact. All of it is plain SQL that any sqlite3 runs.

-- Where each user stands: every bucket ends at or before the hour rolled_until (hours since 1970).
-- The columns behind it are notes that the trigger token_usage_rollup_work takes from one of its
-- statements to the next.
CREATE TABLE IF NOT EXISTS token_usage_rollup_user (
  user_id NOT NULL PRIMARY KEY,
  rolled_until INTEGER NOT NULL DEFAULT 0,
  rolled_from INTEGER,
  now INTEGER,
  form TEXT,
  far,
  job_size INTEGER,
  job_from INTEGER,
  job_step INTEGER,
  job_rows INTEGER
) WITHOUT ROWID;

-- size: hours; bucket: its first hour; dimension: 0 all, 1 by agent (key1), 2 by provider and model.
-- Money is millionths of a unit and a rest in millionths of those, so that it adds up exactly. A sum of
-- nothing is NULL.
CREATE TABLE IF NOT EXISTS token_usage_rollup (
  user_id NOT NULL,
  size INTEGER NOT NULL,
  dimension INTEGER NOT NULL,
  bucket INTEGER NOT NULL,
  key1 NOT NULL,
  key2 NOT NULL,
  requests_count INTEGER NOT NULL,
  prompt_tokens INTEGER,
  completion_tokens INTEGER,
  total_tokens INTEGER,
  usd_millionths INTEGER,
  usd_rest INTEGER,
  rub_millionths INTEGER,
  rub_rest INTEGER,
  unpriced_count INTEGER NOT NULL,
  ms_sum INTEGER,
  ms_count INTEGER NOT NULL,
  PRIMARY KEY (user_id, size, dimension, bucket, key1, key2)
) WITHOUT ROWID;

-- Buckets (by their end and size) that have to be computed, anew or for the first time.
CREATE TABLE IF NOT EXISTS token_usage_rollup_late (
  user_id NOT NULL,
  until INTEGER NOT NULL,
  size INTEGER NOT NULL,
  PRIMARY KEY (user_id, until, size)
) WITHOUT ROWID;

-- Ledger rows that are in no bucket, because plain SQL cannot add them up without a doubt: reports
-- read them one by one. An entry without a row, or for a row that is not odd any more, does no harm.
CREATE TABLE IF NOT EXISTS token_usage_rollup_odd (
  id NOT NULL PRIMARY KEY,
  user_id
) WITHOUT ROWID;

CREATE INDEX IF NOT EXISTS idx_token_usage_rollup_odd
  ON token_usage_rollup_odd (user_id);

-- Constants: the sizes, and what a bucket is put together from (eight parts, the four forms in
-- which created_at stands in order, three dimensions).
CREATE TABLE IF NOT EXISTS token_usage_rollup_size (
  size INTEGER PRIMARY KEY
);

CREATE TABLE IF NOT EXISTS token_usage_rollup_part (
  dimension INTEGER NOT NULL,
  form TEXT NOT NULL,
  slot INTEGER NOT NULL,
  PRIMARY KEY (dimension, form, slot)
) WITHOUT ROWID;

INSERT INTO token_usage_rollup_size VALUES (3), (24), (192), (1536) ON CONFLICT DO NOTHING;
INSERT INTO token_usage_rollup_part
  WITH dimensions (dimension) AS (VALUES (0), (1), (2)),
    forms (form) AS (VALUES ('%Y-%m-%d %H'), ('%Y-%m-%dT%H'), ('%s'), ('%s000')),
    slots (slot) AS (VALUES (0), (1), (2), (3), (4), (5), (6), (7))
  SELECT dimension, form, slot FROM dimensions, forms, slots WHERE true
  ON CONFLICT DO NOTHING;

-- Where the triggers were not there to see every write, nothing that is rolled counts, and odd rows
-- have to be looked for. (Conditions that are tested for each row have CASE in place of lists: SQLite
-- would make a temporary table of a list of three each time.)
DELETE FROM token_usage_rollup_user WHERE 10 <> (
  SELECT count(*) FROM sqlite_master WHERE type = 'trigger' AND name GLOB 'token_usage_rollup_*');
DELETE FROM token_usage_rollup_late WHERE 10 <> (
  SELECT count(*) FROM sqlite_master WHERE type = 'trigger' AND name GLOB 'token_usage_rollup_*');
DELETE FROM token_usage_rollup WHERE 10 <> (
  SELECT count(*) FROM sqlite_master WHERE type = 'trigger' AND name GLOB 'token_usage_rollup_*');
INSERT INTO token_usage_rollup_odd
  SELECT id, user_id FROM token_usage
  WHERE (prompt_tokens % 4294967296 IS prompt_tokens
    AND completion_tokens % 4294967296 IS completion_tokens
    AND total_tokens % 4294967296 IS total_tokens
    AND execution_time_ms % 4294967296 IS execution_time_ms
    AND CASE WHEN cost_usd IS NULL THEN 1 WHEN +cost_usd BETWEEN -999 AND 999
      THEN abs(cost_usd * 1e12 - round(cost_usd * 1e12)) + min(0.25, abs(cost_usd * 0.006)) <= 0.5 END
    AND CASE WHEN cost_rub IS NULL THEN 1 WHEN +cost_rub BETWEEN -999 AND 999
      THEN abs(cost_rub * 1e12 - round(cost_rub * 1e12)) + min(0.25, abs(cost_rub * 0.006)) <= 0.5 END
    AND CASE typeof(created_at)
      WHEN 'text' THEN CASE WHEN datetime(created_at, '+0 days') = created_at THEN 1
        ELSE CASE ltrim(substr(created_at, 20), '.0123456789') WHEN '' THEN 1 WHEN 'Z' THEN 1 WHEN '+00:00' THEN 1 END
          AND substr(created_at, 20, 4) <> '.999'
          AND strftime('%Y-%m-%d' || substr(created_at, 11, 1) || '%H:%M:%S', created_at, '+0 days')
            = substr(created_at, 1, 19) END
      WHEN 'integer' THEN created_at < 253402300800000
      ELSE created_at < 100000000000 AND created_at - CAST(created_at AS INTEGER) < 0.999
    END) IS NOT 1
    AND 10 <> (
      SELECT count(*) FROM sqlite_master WHERE type = 'trigger' AND name GLOB 'token_usage_rollup_*')
  ON CONFLICT (id) DO UPDATE SET user_id = excluded.user_id;

-- Rows that OR REPLACE may take away without any DELETE trigger.
CREATE TRIGGER IF NOT EXISTS token_usage_rollup_before_insert BEFORE INSERT ON token_usage
WHEN EXISTS (SELECT 1 FROM token_usage WHERE id = NEW.id)
  OR EXISTS (SELECT 1 FROM token_usage WHERE request_id = NEW.request_id)
BEGIN
  INSERT INTO token_usage_rollup_late
    SELECT u.user_id, (t.hour / size + 1) * size, size
    FROM (SELECT user_id,
        CASE typeof(created_at) WHEN 'text' THEN strftime('%s', created_at)
          ELSE CAST(created_at AS INTEGER) / CASE WHEN created_at < 100000000000 THEN 1 ELSE 1000 END END / 3600 AS hour
      FROM token_usage WHERE id = NEW.id OR request_id = NEW.request_id LIMIT -1) AS t
      CROSS JOIN token_usage_rollup_user AS u CROSS JOIN token_usage_rollup_size
    WHERE u.user_id = +t.user_id AND (t.hour / size + 1) * size <= u.rolled_until
    ON CONFLICT DO NOTHING;
END;

CREATE TRIGGER IF NOT EXISTS token_usage_rollup_after_insert AFTER INSERT ON token_usage
WHEN CASE typeof(NEW.created_at) WHEN 'text' THEN strftime('%s', NEW.created_at)
    ELSE CAST(NEW.created_at AS INTEGER) / CASE WHEN NEW.created_at < 100000000000 THEN 1 ELSE 1000 END END / 3600
  < (SELECT rolled_until FROM token_usage_rollup_user WHERE user_id = +NEW.user_id)
BEGIN
  INSERT INTO token_usage_rollup_late
    SELECT u.user_id, (t.hour / size + 1) * size, size
    FROM (SELECT NEW.user_id AS user_id,
        CASE typeof(NEW.created_at) WHEN 'text' THEN strftime('%s', NEW.created_at)
          ELSE CAST(NEW.created_at AS INTEGER) / CASE WHEN NEW.created_at < 100000000000 THEN 1 ELSE 1000 END END / 3600 AS hour LIMIT -1) AS t
      CROSS JOIN token_usage_rollup_user AS u CROSS JOIN token_usage_rollup_size
    WHERE u.user_id = +t.user_id AND (t.hour / size + 1) * size <= u.rolled_until
    ON CONFLICT DO NOTHING;
END;

CREATE TRIGGER IF NOT EXISTS token_usage_rollup_odd_insert AFTER INSERT ON token_usage
WHEN (NEW.prompt_tokens % 4294967296 IS NEW.prompt_tokens
    AND NEW.completion_tokens % 4294967296 IS NEW.completion_tokens
    AND NEW.total_tokens % 4294967296 IS NEW.total_tokens
    AND NEW.execution_time_ms % 4294967296 IS NEW.execution_time_ms
    AND CASE WHEN NEW.cost_usd IS NULL THEN 1 WHEN +NEW.cost_usd BETWEEN -999 AND 999
      THEN abs(NEW.cost_usd * 1e12 - round(NEW.cost_usd * 1e12)) + min(0.25, abs(NEW.cost_usd * 0.006)) <= 0.5 END
    AND CASE WHEN NEW.cost_rub IS NULL THEN 1 WHEN +NEW.cost_rub BETWEEN -999 AND 999
      THEN abs(NEW.cost_rub * 1e12 - round(NEW.cost_rub * 1e12)) + min(0.25, abs(NEW.cost_rub * 0.006)) <= 0.5 END
    AND CASE typeof(NEW.created_at)
      WHEN 'text' THEN CASE WHEN datetime(NEW.created_at, '+0 days') = NEW.created_at THEN 1
        ELSE CASE ltrim(substr(NEW.created_at, 20), '.0123456789') WHEN '' THEN 1 WHEN 'Z' THEN 1 WHEN '+00:00' THEN 1 END
          AND substr(NEW.created_at, 20, 4) <> '.999'
          AND strftime('%Y-%m-%d' || substr(NEW.created_at, 11, 1) || '%H:%M:%S', NEW.created_at, '+0 days')
            = substr(NEW.created_at, 1, 19) END
      WHEN 'integer' THEN NEW.created_at < 253402300800000
      ELSE NEW.created_at < 100000000000 AND NEW.created_at - CAST(NEW.created_at AS INTEGER) < 0.999
    END) IS NOT 1
BEGIN
  INSERT INTO token_usage_rollup_odd VALUES (NEW.id, NEW.user_id)
    ON CONFLICT (id) DO UPDATE SET user_id = excluded.user_id;
END;

CREATE TRIGGER IF NOT EXISTS token_usage_rollup_before_update BEFORE UPDATE ON token_usage
WHEN NEW.id IS NOT OLD.id OR NEW.request_id IS NOT OLD.request_id
BEGIN
  INSERT INTO token_usage_rollup_late
    SELECT u.user_id, (t.hour / size + 1) * size, size
    FROM (SELECT user_id,
        CASE typeof(created_at) WHEN 'text' THEN strftime('%s', created_at)
          ELSE CAST(created_at AS INTEGER) / CASE WHEN created_at < 100000000000 THEN 1 ELSE 1000 END END / 3600 AS hour
      FROM token_usage WHERE id = NEW.id OR request_id = NEW.request_id LIMIT -1) AS t
      CROSS JOIN token_usage_rollup_user AS u CROSS JOIN token_usage_rollup_size
    WHERE u.user_id = +t.user_id AND (t.hour / size + 1) * size <= u.rolled_until
    ON CONFLICT DO NOTHING;
END;

CREATE TRIGGER IF NOT EXISTS token_usage_rollup_after_update AFTER UPDATE ON token_usage
BEGIN
  INSERT INTO token_usage_rollup_late
    SELECT u.user_id, (t.hour / size + 1) * size, size
    FROM (SELECT OLD.user_id AS user_id,
        CASE typeof(OLD.created_at) WHEN 'text' THEN strftime('%s', OLD.created_at)
          ELSE CAST(OLD.created_at AS INTEGER) / CASE WHEN OLD.created_at < 100000000000 THEN 1 ELSE 1000 END END / 3600 AS hour LIMIT -1) AS t
      CROSS JOIN token_usage_rollup_user AS u CROSS JOIN token_usage_rollup_size
    WHERE u.user_id = +t.user_id AND (t.hour / size + 1) * size <= u.rolled_until
    ON CONFLICT DO NOTHING;
  INSERT INTO token_usage_rollup_late
    SELECT u.user_id, (t.hour / size + 1) * size, size
    FROM (SELECT NEW.user_id AS user_id,
        CASE typeof(NEW.created_at) WHEN 'text' THEN strftime('%s', NEW.created_at)
          ELSE CAST(NEW.created_at AS INTEGER) / CASE WHEN NEW.created_at < 100000000000 THEN 1 ELSE 1000 END END / 3600 AS hour LIMIT -1) AS t
      CROSS JOIN token_usage_rollup_user AS u CROSS JOIN token_usage_rollup_size
    WHERE u.user_id = +t.user_id AND (t.hour / size + 1) * size <= u.rolled_until
    ON CONFLICT DO NOTHING;
END;

CREATE TRIGGER IF NOT EXISTS token_usage_rollup_odd_update AFTER UPDATE ON token_usage
WHEN (NEW.prompt_tokens % 4294967296 IS NEW.prompt_tokens
    AND NEW.completion_tokens % 4294967296 IS NEW.completion_tokens
    AND NEW.total_tokens % 4294967296 IS NEW.total_tokens
    AND NEW.execution_time_ms % 4294967296 IS NEW.execution_time_ms
    AND CASE WHEN NEW.cost_usd IS NULL THEN 1 WHEN +NEW.cost_usd BETWEEN -999 AND 999
      THEN abs(NEW.cost_usd * 1e12 - round(NEW.cost_usd * 1e12)) + min(0.25, abs(NEW.cost_usd * 0.006)) <= 0.5 END
    AND CASE WHEN NEW.cost_rub IS NULL THEN 1 WHEN +NEW.cost_rub BETWEEN -999 AND 999
      THEN abs(NEW.cost_rub * 1e12 - round(NEW.cost_rub * 1e12)) + min(0.25, abs(NEW.cost_rub * 0.006)) <= 0.5 END
    AND CASE typeof(NEW.created_at)
      WHEN 'text' THEN CASE WHEN datetime(NEW.created_at, '+0 days') = NEW.created_at THEN 1
        ELSE CASE ltrim(substr(NEW.created_at, 20), '.0123456789') WHEN '' THEN 1 WHEN 'Z' THEN 1 WHEN '+00:00' THEN 1 END
          AND substr(NEW.created_at, 20, 4) <> '.999'
          AND strftime('%Y-%m-%d' || substr(NEW.created_at, 11, 1) || '%H:%M:%S', NEW.created_at, '+0 days')
            = substr(NEW.created_at, 1, 19) END
      WHEN 'integer' THEN NEW.created_at < 253402300800000
      ELSE NEW.created_at < 100000000000 AND NEW.created_at - CAST(NEW.created_at AS INTEGER) < 0.999
    END) IS NOT 1
BEGIN
  INSERT INTO token_usage_rollup_odd VALUES (NEW.id, NEW.user_id)
    ON CONFLICT (id) DO UPDATE SET user_id = excluded.user_id;
END;

CREATE TRIGGER IF NOT EXISTS token_usage_rollup_after_delete AFTER DELETE ON token_usage
BEGIN
  INSERT INTO token_usage_rollup_late
    SELECT u.user_id, (t.hour / size + 1) * size, size
    FROM (SELECT OLD.user_id AS user_id,
        CASE typeof(OLD.created_at) WHEN 'text' THEN strftime('%s', OLD.created_at)
          ELSE CAST(OLD.created_at AS INTEGER) / CASE WHEN OLD.created_at < 100000000000 THEN 1 ELSE 1000 END END / 3600 AS hour LIMIT -1) AS t
      CROSS JOIN token_usage_rollup_user AS u CROSS JOIN token_usage_rollup_size
    WHERE u.user_id = +t.user_id AND (t.hour / size + 1) * size <= u.rolled_until
    ON CONFLICT DO NOTHING;
END;

-- One insert in eight does a bounded piece of work for its user: it moves rolled_until on, past 64
-- rows or past one bucket of 3 hours with that many, and computes the first bucket that is marked, if it
-- has 64 rows, from its eight parts or from the ledger where those are not rolled. The inserted row
-- itself is in none of the buckets computed. Three of the four sizes stand for the three dimensions, so
-- that each ledger row is read once.
CREATE TRIGGER IF NOT EXISTS token_usage_rollup_work AFTER INSERT ON token_usage
WHEN (NEW.id & 1048575) * 2654435769 >> 20 & 7 = 0 AND NEW.user_id IS NOT NULL
BEGIN
  INSERT INTO token_usage_rollup_user (user_id) VALUES (+NEW.user_id) ON CONFLICT DO NOTHING;
  UPDATE token_usage_rollup_user SET
    now = CASE typeof(NEW.created_at) WHEN 'text' THEN strftime('%s', NEW.created_at)
      ELSE CAST(NEW.created_at AS INTEGER) / CASE WHEN NEW.created_at < 100000000000 THEN 1 ELSE 1000 END END / 3600,
    form = CASE typeof(NEW.created_at) WHEN 'text' THEN '%Y-%m-%d' || substr(NEW.created_at, 11, 1) || '%H'
      WHEN 'integer' THEN substr('%s000', 1, length(NEW.created_at) - 8) ELSE '%s' END
    WHERE user_id = +NEW.user_id;
  UPDATE token_usage_rollup_user SET
    far = CASE WHEN now >= rolled_until + 3 THEN (
      SELECT created_at FROM token_usage
      WHERE user_id = NEW.user_id AND created_at <= NEW.created_at
        AND created_at >= strftime(form, rolled_until * 3600, 'unixepoch')
      ORDER BY created_at LIMIT 1 OFFSET 63) END
    WHERE user_id = +NEW.user_id;
  UPDATE token_usage_rollup_user SET
    rolled_from = rolled_until,
    rolled_until = max(rolled_until, coalesce(max(rolled_until + 3,
      CASE typeof(far) WHEN 'text' THEN strftime('%s', far)
        ELSE CAST(far AS INTEGER) / CASE WHEN far < 100000000000 THEN 1 ELSE 1000 END END / 10800 * 3), 0)),
    (job_size, job_from, job_step, job_rows) = (
      SELECT size, until - size, max(3, size / 8), (
        SELECT count(*) FROM (
          SELECT 1 FROM token_usage
          WHERE user_id = NEW.user_id AND until - size BETWEEN 30000 AND 20000000
            AND created_at >= strftime(form, (until - size) * 3600, 'unixepoch')
            AND created_at < strftime(form, until * 3600, 'unixepoch')
          LIMIT 64))
      FROM token_usage_rollup_late
      WHERE user_id = +NEW.user_id AND (until <= now OR until - size > now)
      LIMIT 1)
    WHERE user_id = +NEW.user_id;
  INSERT INTO token_usage_rollup
    SELECT +NEW.user_id, size, dimension, bucket, key1, key2, sum(n), sum(prompt), sum(completion), sum(total),
      sum(usd), sum(usd_rest), sum(rub), sum(rub_rest), sum(unpriced), sum(ms), sum(timed)
    FROM (
      SELECT j.job_size AS size, r.dimension, j.job_from AS bucket, r.key1, r.key2,
        r.requests_count AS n, r.prompt_tokens AS prompt, r.completion_tokens AS completion,
        r.total_tokens AS total, r.usd_millionths AS usd, r.usd_rest, r.rub_millionths AS rub, r.rub_rest,
        r.unpriced_count AS unpriced, r.ms_sum AS ms, r.ms_count AS timed
      FROM token_usage_rollup_user AS j CROSS JOIN token_usage_rollup AS r
      WHERE j.user_id = +NEW.user_id AND j.job_rows = 64
        AND r.user_id = +NEW.user_id AND r.size = j.job_size / 8 AND r.dimension IN (0, 1, 2)
        AND r.bucket >= j.job_from AND r.bucket < j.job_from + j.job_size
      UNION ALL
      SELECT j.job_size, CASE d.size WHEN 3 THEN 0 WHEN 24 THEN 1 ELSE 2 END, j.job_from,
        CASE d.size WHEN 3 THEN '' WHEN 24 THEN coalesce(CAST(t.agent_id AS TEXT), x'')
          ELSE coalesce(CAST(t.ai_provider AS TEXT), x'') END,
        CASE d.size WHEN 192 THEN coalesce(CAST(t.ai_model AS TEXT), x'') ELSE '' END,
        1, t.prompt_tokens % 4294967296, t.completion_tokens % 4294967296,
        coalesce(t.total_tokens, coalesce(t.prompt_tokens, 0) + coalesce(t.completion_tokens, 0)) % 4294967296,
        CAST(round(t.cost_usd * 1e12) AS INTEGER) / 1000000, CAST(round(t.cost_usd * 1e12) AS INTEGER) % 1000000,
        CAST(round(t.cost_rub * 1e12) AS INTEGER) / 1000000, CAST(round(t.cost_rub * 1e12) AS INTEGER) % 1000000,
        t.cost_usd IS NULL, t.execution_time_ms % 4294967296, t.execution_time_ms IS NOT NULL
      FROM token_usage_rollup_user AS j CROSS JOIN token_usage_rollup_part AS p CROSS JOIN token_usage AS t
        CROSS JOIN token_usage_rollup_size AS d
      WHERE j.user_id = +NEW.user_id AND j.job_rows = 64 AND p.dimension = 0 AND p.slot * j.job_step < j.job_size
        AND NOT EXISTS (
          SELECT 1 FROM token_usage_rollup
          WHERE user_id = +NEW.user_id AND size = j.job_size / 8 AND dimension = 0
            AND bucket = j.job_from + p.slot * j.job_step)
        AND t.user_id = NEW.user_id
        AND t.created_at >= strftime(p.form, (j.job_from + p.slot * j.job_step) * 3600, 'unixepoch')
        AND t.created_at < strftime(p.form, (j.job_from + p.slot * j.job_step + j.job_step) * 3600, 'unixepoch')
        AND (typeof(t.created_at) <> 'text' OR substr(t.created_at, 11, 1) = substr(p.form, 9, 1))
        AND t.id IS NOT NEW.id
        AND t.id NOT IN (SELECT id FROM token_usage_rollup_odd WHERE user_id = +NEW.user_id)
        AND d.size < 1536)
    GROUP BY dimension, key1, key2;
END;

-- What the trigger above does besides is seldom due, and stands apart: SQLite opens whatever a trigger
-- may need, temporary tables too, before it knows. The columns named here are written by that trigger
-- alone. The ledger is not named, since one that is dropped and made anew must not break a trigger of
-- another table.

-- Marks the buckets that are complete now.
CREATE TRIGGER IF NOT EXISTS token_usage_rollup_advance AFTER UPDATE OF rolled_from ON token_usage_rollup_user
WHEN NEW.rolled_from BETWEEN 1 AND NEW.rolled_until - 1
BEGIN
  INSERT INTO token_usage_rollup_late
    SELECT NEW.user_id, (NEW.rolled_from / size + 1) * size, size FROM token_usage_rollup_size
    WHERE (NEW.rolled_from / size + 1) * size <= NEW.rolled_until
    ON CONFLICT DO NOTHING;
END;

-- Clears the bucket that is about to be computed, and its mark.
CREATE TRIGGER IF NOT EXISTS token_usage_rollup_job AFTER UPDATE OF job_size ON token_usage_rollup_user
WHEN NEW.job_size IS NOT NULL
BEGIN
  DELETE FROM token_usage_rollup
    WHERE user_id = NEW.user_id AND size = NEW.job_size AND dimension IN (0, 1, 2) AND bucket = NEW.job_from;
  DELETE FROM token_usage_rollup_late
    WHERE user_id = NEW.user_id AND until = NEW.job_from + NEW.job_size AND size = NEW.job_size;
END;

COMMIT;
