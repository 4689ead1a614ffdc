-- _token_usage_sums keeps its query for the session. What it keeps must never show: not after the ledger changed, not
-- to another role, not past an error, and not as a plan that reads other users' rows.
SET client_min_messages = warning;
CREATE SCHEMA sums_test;
SET search_path = sums_test, public;
SELECT jsonb_array_length(token_usage_migrate()) > 0 AS migrated;
INSERT INTO token_usage (user_id, agent_id, ai_provider, ai_model, prompt_tokens, total_tokens, cost_usd, created_at)
  SELECT 1 + g % 10, 'a' || g % 3, 'p', 'm', g % 7, g % 7, 0.000001, timestamptz '2025-01-01 00:00Z' + g * interval '1 minute'
  FROM generate_series(1, 50000) AS g;
ANALYZE token_usage;
-- What is rolled already needs no row.
DELETE FROM token_usage_rollup_epoch;
CREATE FUNCTION report(who text, agent text = NULL, dimension text = 'none')
RETURNS TABLE (bucket integer, key1 text, requests bigint, total_tokens numeric, cost_usd numeric)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT s.bucket, s.key1, s.requests_count, s.total_tokens, s.cost_usd
  FROM public._token_usage_sums(to_regclass('sums_test.token_usage'), who, agent,
    ARRAY['2025-01-02 00:00Z', '2025-01-03 00:00Z', '2025-01-05 00:00Z']::timestamptz[], dimension) AS s ORDER BY 1, 2
$$;
SELECT * FROM report('1');
SELECT * FROM report('1', NULL, 'agent');
SELECT * FROM report('1', 'a2');

-- A user without rows costs none (a row or two of an index, to plan by), also after a user with many has been asked for
-- so often that the server would keep a plan for any user.
CREATE FUNCTION rows_read() RETURNS bigint LANGUAGE sql VOLATILE AS $$
  SELECT coalesce(pg_stat_get_xact_tuples_returned(t), 0) + coalesce(pg_stat_get_xact_tuples_fetched(t), 0)
    + coalesce((SELECT sum(pg_stat_get_xact_tuples_returned(indexrelid)) FROM pg_index WHERE indrelid = t), 0)::bigint
  FROM to_regclass('sums_test.token_usage') AS t
$$;
BEGIN;
SELECT count(*) FROM generate_series(1, 8) AS g, LATERAL report((1 + g % 2)::text) AS r;
SELECT rows_read() AS before \gset
SELECT count(*) FROM generate_series(1, 8) AS g, LATERAL report((1000 + g)::text) AS r;
SELECT rows_read() - :before < 100 AS few;
SELECT count(*) FROM report('1');
SELECT rows_read() - :before > 0 AS counted;
COMMIT;

-- The reading transaction's own rows.
BEGIN;
INSERT INTO token_usage (user_id, agent_id, ai_provider, ai_model, total_tokens, prompt_tokens, created_at)
  VALUES (1, 'a', 'p', 'm', 1000000, 1000000, '2025-01-02 00:00Z');
SELECT * FROM report('1');
ROLLBACK;
SELECT * FROM report('1');

-- Another type of column: the query is made anew. The triggers that keep the rollups name created_at.
DROP TRIGGER token_usage_rollup_insert ON token_usage;
DROP TRIGGER token_usage_rollup_update ON token_usage;
DROP TRIGGER token_usage_rollup_delete ON token_usage;
ALTER TABLE token_usage ALTER created_at TYPE timestamp USING created_at AT TIME ZONE 'UTC';
ALTER TABLE token_usage ALTER cost_usd TYPE double precision;
SET TimeZone = 'Asia/Tokyo';
SELECT * FROM report('1');
RESET TimeZone;

-- An error inside leaves nothing behind.
\set VERBOSITY terse
SELECT * FROM report('x');
\set VERBOSITY default
SELECT * FROM report('1');
BEGIN;
SAVEPOINT s;
\set VERBOSITY terse
SELECT * FROM report('x');
\set VERBOSITY default
ROLLBACK TO s;
SELECT * FROM report('1');
COMMIT;

-- Roles: grants and row-level security hold for each.
CREATE ROLE regress_tu_reader;
CREATE ROLE regress_tu_stranger;
GRANT USAGE ON SCHEMA sums_test TO regress_tu_reader, regress_tu_stranger;
GRANT SELECT ON token_usage TO regress_tu_reader;
ALTER TABLE token_usage ENABLE ROW LEVEL SECURITY;
CREATE POLICY only_a1 ON token_usage TO regress_tu_reader USING (agent_id = 'a1');
SET ROLE regress_tu_reader;
SELECT * FROM report('1', NULL, 'agent');
SET ROLE regress_tu_stranger;
\set VERBOSITY terse
SELECT * FROM report('1', NULL, 'agent');
\set VERBOSITY default
RESET ROLE;
SELECT * FROM report('1', NULL, 'agent');
SET ROLE regress_tu_reader;
SELECT * FROM report('1', NULL, 'agent');
RESET ROLE;

-- Another table of that name.
DROP TABLE token_usage;
SELECT jsonb_array_length(token_usage_migrate()) > 0 AS migrated;
SELECT * FROM report('1');

DROP SCHEMA sums_test CASCADE;
DROP ROLE regress_tu_reader, regress_tu_stranger;
