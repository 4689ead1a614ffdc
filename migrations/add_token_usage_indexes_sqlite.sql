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

COMMIT;
