-- token_usage_migrate: a new ledger, one that is there, tables that applications have, and what it refuses.
SET client_min_messages = warning;
SET timezone = 'UTC';
SET datestyle = 'ISO, YMD';
\set VERBOSITY terse
CREATE FUNCTION steps(VARIADIC arguments text[] = '{bigint}') RETURNS TABLE (step text, action text) LANGUAGE sql AS $$
  SELECT s ->> 'step', s ->> 'action' FROM jsonb_array_elements(token_usage_migrate(arguments[1])) WITH ORDINALITY AS e (s, n) ORDER BY n
$$;
-- A new ledger: columns, indexes, constraints. Again: all is kept.
CREATE SCHEMA migrate_new;
SET search_path = migrate_new, public;
SELECT * FROM public.steps();
SELECT a.attname, format_type(a.atttypid, a.atttypmod) AS type, a.attnotnull, a.attidentity <> '' AS identity, pg_get_expr(d.adbin, d.adrelid) AS default
  FROM pg_attribute AS a LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
 WHERE a.attrelid = 'token_usage'::regclass AND a.attnum > 0 ORDER BY a.attnum;
SELECT indexdef FROM pg_indexes WHERE schemaname = 'migrate_new' AND tablename = 'token_usage' ORDER BY indexname COLLATE "C";
SELECT conname, contype, pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = 'token_usage'::regclass AND contype <> 'n' ORDER BY conname COLLATE "C";
SELECT * FROM public.steps();
SELECT has_table_privilege('public', 'token_usage_settings', 'SELECT') AS settings, has_table_privilege('public', 'token_usage', 'SELECT') AS ledger;
INSERT INTO token_usage (user_id, agent_id, ai_provider, ai_model, prompt_tokens, total_tokens) VALUES (1, 'a', 'p', 'm', -1, -1);
INSERT INTO token_usage (user_id, agent_id, ai_provider, ai_model, prompt_tokens, total_tokens) VALUES (1, 'a', 'p', 'm', 1, 2);
-- What was lost comes back.
DROP INDEX idx_token_usage_workflow;
ALTER TABLE token_usage DROP COLUMN endpoint;
DROP TABLE token_usage_settings;
SELECT * FROM public.steps() WHERE action <> 'kept';

-- Foreign keys where the parents are there with a key that can be compared.
CREATE SCHEMA migrate_keys;
SET search_path = migrate_keys, public;
CREATE TABLE users (id serial PRIMARY KEY);
CREATE TABLE content_pieces (id varchar(36) UNIQUE);
SELECT action FROM public.steps() WHERE step = 'table token_usage';
SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = 'token_usage'::regclass AND contype = 'f' ORDER BY 1;
INSERT INTO users DEFAULT VALUES;
INSERT INTO content_pieces VALUES ('c');
INSERT INTO token_usage (user_id, content_id, agent_id, ai_provider, ai_model) VALUES (1, 'c', 'a', 'p', 'm');
DELETE FROM content_pieces;
SELECT content_id IS NULL AS set_null FROM token_usage;
DELETE FROM users;
SELECT count(*) FROM token_usage;
DROP TABLE token_usage, content_pieces;
CREATE TABLE content_pieces (id text, CONSTRAINT no_key CHECK (true));
SELECT action FROM public.steps('uuid') WHERE step = 'table token_usage';
SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = 'token_usage'::regclass AND contype = 'f';
SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = 'token_usage'::regclass AND attname = 'user_id';

-- Adoption (a): integers, VARCHAR(n), DECIMAL, TIMESTAMP, a materialised view over it. Nothing of it changes.
CREATE SCHEMA migrate_adopt;
SET search_path = migrate_adopt, public;
CREATE TABLE users (id serial PRIMARY KEY);
CREATE TABLE content_pieces (id varchar(36) PRIMARY KEY);
CREATE TABLE token_usage (
  id serial PRIMARY KEY, user_id integer NOT NULL REFERENCES users (id) ON DELETE CASCADE,
  content_id varchar(36) REFERENCES content_pieces (id) ON DELETE SET NULL, workflow_id varchar(36), agent_id varchar(50) NOT NULL,
  request_id varchar(100), endpoint varchar(200), ai_provider varchar(50) NOT NULL, ai_model varchar(100) NOT NULL,
  prompt_tokens integer NOT NULL DEFAULT 0, completion_tokens integer NOT NULL DEFAULT 0, total_tokens integer NOT NULL DEFAULT 0,
  cost_usd decimal(10,4) NOT NULL DEFAULT 0.0, cost_rub decimal(10,2) NOT NULL DEFAULT 0.0, platform varchar(50),
  content_type varchar(50), task_type varchar(50), execution_time_ms integer, request_metadata jsonb, response_metadata jsonb,
  created_at timestamp DEFAULT CURRENT_TIMESTAMP, note text,
  CONSTRAINT check_tokens_positive CHECK (prompt_tokens >= 0), CONSTRAINT check_total_tokens_sum CHECK (total_tokens = prompt_tokens + completion_tokens));
CREATE INDEX own_index ON token_usage (created_at);
CREATE INDEX idx_token_usage_workflow ON token_usage (note);
CREATE MATERIALIZED VIEW daily AS SELECT created_at::date AS day, sum(cost_usd) AS usd FROM token_usage GROUP BY 1;
INSERT INTO users DEFAULT VALUES;
INSERT INTO token_usage (user_id, agent_id, ai_provider, ai_model, prompt_tokens, total_tokens, cost_usd, cost_rub, created_at, note)
  VALUES (1, 'writer', 'openai', 'gpt-4o', 10, 10, 0.1, 9.5, '2025-10-20 23:59:59.999999', 'mine'), (1, 'writer', 'openai', 'gpt-4o', 1, 1, 0.2, 19, NULL, NULL);
CREATE TABLE before AS SELECT attname, format_type(atttypid, atttypmod) AS type, attnotnull, attnum FROM pg_attribute WHERE attrelid = 'token_usage'::regclass;
CREATE TABLE rows_before AS TABLE token_usage;
SELECT * FROM public.steps();
SELECT count(*) AS changed FROM (TABLE before EXCEPT SELECT attname, format_type(atttypid, atttypmod), attnotnull, attnum
  FROM pg_attribute WHERE attrelid = 'token_usage'::regclass) AS c;
SELECT count(*) AS changed FROM (SELECT to_jsonb(b) FROM rows_before AS b EXCEPT ALL
  SELECT to_jsonb(t) - ARRAY(SELECT attname::text FROM pg_attribute WHERE attrelid = 'token_usage'::regclass
    AND attname NOT IN (SELECT attname FROM before)) FROM token_usage AS t) AS c;
SELECT count(*) AS constraints FROM pg_constraint WHERE conrelid = 'token_usage'::regclass AND contype <> 'n';
SELECT indexdef FROM pg_indexes WHERE schemaname = 'migrate_adopt' AND tablename = 'token_usage' AND indexname ~ 'workflow|request|own' ORDER BY indexname COLLATE "C";
REFRESH MATERIALIZED VIEW daily;
SELECT * FROM token_usage_totals(1, 'day', NULL, NULL, '2025-10-20Z');
SELECT id, created_at, cost_usd FROM token_usage_detailed(1);
SELECT DISTINCT action FROM public.steps();

-- A table with two columns, with rows: what is added, and what the old rows then say.
CREATE SCHEMA migrate_small;
SET search_path = migrate_small, public;
CREATE DOMAIN person AS text CHECK (value <> '');
CREATE TABLE token_usage (user_id person, created_at timestamptz);
INSERT INTO token_usage VALUES ('u', '2025-01-01Z'), ('u', '2025-01-02Z');
SELECT * FROM public.steps() WHERE step ~ 'column|table';
INSERT INTO token_usage (user_id, agent_id, prompt_tokens, created_at) VALUES ('u', 'a', 5, '2025-01-02Z');
SELECT id, prompt_tokens, total_tokens, cost_usd FROM token_usage_detailed('u');
SELECT requests_count, total_tokens, cost_usd, unpriced_count FROM token_usage_totals('u', 'all');
SELECT agent_id, requests_count FROM token_usage_by_agent('u', 3, NULL, '2025-01-02Z');

-- request_id: unique where the rows allow it, plain beside a unique key or repeated values.
CREATE SCHEMA migrate_unique;
SET search_path = migrate_unique, public;
CREATE TABLE token_usage (id integer, user_id integer, request_id text);
SELECT count(*) > 0 FROM public.steps();
SELECT indexdef FROM pg_indexes WHERE schemaname = 'migrate_unique' AND indexname = 'idx_token_usage_request_id';
DROP TABLE token_usage;
CREATE TABLE token_usage (id integer, user_id integer, request_id text UNIQUE);
SELECT count(*) > 0 FROM public.steps();
SELECT indexdef FROM pg_indexes WHERE schemaname = 'migrate_unique' AND indexname = 'idx_token_usage_request_id';
DROP TABLE token_usage;
CREATE TABLE token_usage (id integer, user_id integer, request_id text);
INSERT INTO token_usage VALUES (1, 1, 'same'), (2, 1, 'same');
SELECT count(*) > 0 FROM public.steps();
SELECT indexdef FROM pg_indexes WHERE schemaname = 'migrate_unique' AND indexname = 'idx_token_usage_request_id';

-- A partitioned ledger.
CREATE SCHEMA migrate_parts;
SET search_path = migrate_parts, public;
CREATE TABLE token_usage (LIKE migrate_new.token_usage INCLUDING DEFAULTS) PARTITION BY RANGE (created_at);
CREATE TABLE p2025 PARTITION OF token_usage FOR VALUES FROM ('2025-01-01Z') TO ('2026-01-01Z');
CREATE TABLE p2026 PARTITION OF token_usage FOR VALUES FROM ('2026-01-01Z') TO ('2027-01-01Z');
SELECT action, count(*) FROM public.steps() GROUP BY 1 ORDER BY 1;
INSERT INTO token_usage (id, user_id, agent_id, ai_provider, ai_model, created_at)
  SELECT g, 1, 'a', 'p', 'm', timestamptz '2025-12-31 23:59:58Z' + g * interval '1 second' FROM generate_series(1, 3) AS g;
SELECT date, requests_count FROM token_usage_history(1, 2, NULL, NULL, '2026-01-01Z');
SELECT array_agg(id) FROM token_usage_detailed(1);
SELECT DISTINCT action FROM public.steps();

-- Refusals name the column and the type, and leave nothing behind.
CREATE SCHEMA migrate_no;
SET search_path = migrate_no, public;
CREATE TABLE token_usage (id bigint);
SELECT token_usage_migrate();
ALTER TABLE token_usage ADD user_id box;
SELECT token_usage_migrate();
ALTER TABLE token_usage ALTER user_id TYPE text USING NULL, ADD cost_usd money;
SELECT token_usage_migrate();
ALTER TABLE token_usage DROP cost_usd, ADD created_at text;
SELECT token_usage_migrate();
ALTER TABLE token_usage DROP created_at, ADD agent_id varchar(20)[];
SELECT token_usage_migrate();
ALTER TABLE token_usage DROP agent_id;
CREATE TABLE other (x integer);
CREATE INDEX idx_token_usage_user_agent ON other (x);
SELECT token_usage_migrate();
DROP TABLE other;
CREATE SEQUENCE idx_token_usage_user_agent;
SELECT token_usage_migrate();
SELECT count(*) AS columns FROM pg_attribute WHERE attrelid = 'token_usage'::regclass AND attnum > 0 AND NOT attisdropped;
SELECT to_regclass('token_usage_settings') AS settings;
DROP SEQUENCE idx_token_usage_user_agent;
DROP TABLE token_usage;
CREATE VIEW token_usage AS SELECT 1 AS id;
SELECT token_usage_migrate();
SET search_path = pg_catalog;
SELECT public.token_usage_migrate();

-- Which ledger: the first schema of the path that has one; a temporary table is none.
SET search_path = migrate_no, migrate_small, migrate_new, public;
CREATE TEMPORARY TABLE token_usage (id bigint, user_id bigint);
SELECT requests_count FROM token_usage_totals('u', 'all');
SET search_path = pg_temp, migrate_small, public;
SELECT requests_count FROM token_usage_totals('u', 'all');
DROP TABLE pg_temp.token_usage;
SET search_path = public;
DROP SCHEMA migrate_new, migrate_keys, migrate_adopt, migrate_small, migrate_unique, migrate_parts, migrate_no CASCADE;
DROP FUNCTION public.steps(text[]);
