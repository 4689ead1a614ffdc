-- The reports: sums, zeros, order, NULLs, and every way to write a call.
SET client_min_messages = warning;
SET timezone = 'UTC';
SET datestyle = 'ISO, YMD';
CREATE SCHEMA reports_test;
SET search_path = reports_test, public;
SELECT jsonb_array_length(token_usage_migrate()) > 0 AS migrated;
INSERT INTO token_usage (user_id, agent_id, ai_provider, ai_model, prompt_tokens, completion_tokens, total_tokens,
    cost_usd, cost_rub, execution_time_ms, created_at) VALUES
  (42, 'writer', 'openai', 'gpt-4o', 100, 50, 150, 0.1, 9.5, 1000, '2025-10-18 10:00Z'),
  (42, 'writer', 'openai', 'gpt-4o', 100, 50, 150, 0.2, 19, 1001, '2025-10-20 10:00Z'),
  (42, 'editor', 'openai', 'gpt-4o-mini', 200, 100, 300, 0.000028, 0.00266, NULL, '2025-10-20 11:00Z'),
  (42, 'Editor', 'anthropic', 'claude', 300, 0, 300, NULL, NULL, 500, '2025-10-20 12:00Z'),
  (42, 'éditeur', 'anthropic', 'Claude', 300, 0, 300, 123456789.123456, 0.000000000001, 2500, '2025-10-01 00:00Z'),
  (42, 'old', 'mistral', 'large', 7, 0, 7, 1, 1, 1, '2024-02-29 23:59:59.999999Z'),
  (42, 'late', 'mistral', 'large', 9, 0, 9, 1, 1, 1, '2025-10-21 00:00Z'),
  (7, 'other', 'openai', 'gpt-4o', 1, 1, 2, 1, 1, 1, '2025-10-20 10:00Z');

SELECT * FROM token_usage_summary(42, NULL, '2025-10-20 18:00Z');
SELECT * FROM token_usage_history(42, 4, NULL, NULL, '2025-10-20 18:00Z');
SELECT * FROM token_usage_history(42, 3, 'writer', NULL, '2025-10-20 18:00Z');
-- By total_tokens, then the bytes of the name: upper case before lower case before accents.
SELECT * FROM token_usage_by_agent(42, 30, NULL, '2025-10-20 18:00Z');
SELECT * FROM token_usage_by_model(42, 30, NULL, '2025-10-20 18:00Z');
SELECT * FROM token_usage_by_provider(42, 30, NULL, '2025-10-20 18:00Z');
SELECT * FROM token_usage_totals(42, 'all', NULL, NULL, '2025-10-20 18:00Z');
SELECT * FROM token_usage_totals(42, 'day', 'writer', NULL, '2025-10-20 18:00Z');

-- A user without rows.
SELECT * FROM token_usage_summary(1);
SELECT count(*), sum(requests_count), min(cost_usd), max(unpriced_count) FROM token_usage_history(1);
SELECT * FROM token_usage_by_agent(1);
SELECT * FROM token_usage_totals(1);

-- Each report of a period adds up the same rows.
SELECT (SELECT (sum(requests_count), sum(total_tokens), sum(cost_usd), sum(cost_rub)) FROM token_usage_history(42, 20, NULL, z, '2025-10-20 18:00Z'))
     = ALL (ARRAY[
       (SELECT (sum(requests_count), sum(total_tokens), sum(cost_usd), sum(cost_rub)) FROM token_usage_by_agent(42, 20, z, '2025-10-20 18:00Z')),
       (SELECT (sum(requests_count), sum(total_tokens), sum(cost_usd), sum(cost_rub)) FROM token_usage_by_model(42, 20, z, '2025-10-20 18:00Z')),
       (SELECT (sum(requests_count), sum(total_tokens), sum(cost_usd), sum(cost_rub)) FROM token_usage_by_provider(42, 20, z, '2025-10-20 18:00Z'))]) AS equal, z
  FROM unnest('{UTC,America/New_York,Asia/Kathmandu,Pacific/Kiritimati}'::text[]) AS z;

-- Every way to write a call.
CREATE FUNCTION same(query text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE n bigint;
BEGIN
  EXECUTE 'SELECT sum(requests_count) FROM ' || query INTO n;
  RETURN n;
END $$;
SELECT q, same(q) FROM unnest(ARRAY[
  $$token_usage_totals(42, 'all')$$, $$token_usage_totals('42', 'all')$$, $$token_usage_totals(42::smallint, 'all')$$,
  $$token_usage_totals(42::bigint, 'all')$$, $$token_usage_totals('42'::text, 'all')$$, $$token_usage_totals('42'::varchar(5), 'all'::varchar)$$,
  $$token_usage_totals(42, 'all', NULL, NULL, NULL)$$, $$token_usage_totals(42, 'all', NULL, NULL, '2025-10-20 18:00Z')$$,
  $$token_usage_totals(42, 'all', NULL, NULL, timestamptz '2025-10-20 18:00Z')$$,
  $$token_usage_totals(42, 'all', NULL, NULL, timestamp '2025-10-20 18:00')$$, $$token_usage_totals(42, 'all', NULL, NULL, date '2025-10-20')$$,
  $$token_usage_totals(user_id => 42, time_zone => 'UTC', period_name => 'all')$$,
  $$token_usage_history(42, days => 30, as_of => '2025-10-20Z')$$, $$token_usage_history(42, 30::smallint, 'writer', NULL, '2025-10-20Z')$$,
  $$token_usage_summary(as_of => '2025-10-20Z', user_id => 42)$$, $$token_usage_by_agent(42, as_of => now() - interval '1000 years')$$
  ]) AS u (q);
PREPARE untyped AS SELECT requests_count FROM token_usage_totals($1, $2, $3, $4, $5);
EXECUTE untyped('42', 'all', NULL, NULL, '2025-10-20 18:00Z');
PREPARE json_untyped AS SELECT token_usage_totals_json($1, $2) -> 'total_requests' AS requests;
EXECUTE json_untyped('42', 'all');
PREPARE typed(bigint, text) AS SELECT requests_count FROM token_usage_totals($1, $2);
EXECUTE typed(42, 'all');
SELECT u.id, t.requests_count FROM (VALUES (42), (7), (1)) AS u (id), LATERAL token_usage_totals(u.id, 'all') AS t;

-- What the transaction sees, and nothing else.
BEGIN;
INSERT INTO token_usage (user_id, agent_id, ai_provider, ai_model) VALUES (42, 'x', 'p', 'm');
SELECT requests_count FROM token_usage_totals(42, 'day');
SAVEPOINT s;
DELETE FROM token_usage WHERE user_id = 42;
SELECT requests_count FROM token_usage_totals(42, 'all');
ROLLBACK TO s;
UPDATE token_usage SET user_id = 43 WHERE agent_id = 'x';
SELECT requests_count FROM token_usage_totals(43, 'day');
ROLLBACK;
SELECT requests_count FROM token_usage_totals(43, 'day');
DROP SCHEMA reports_test CASCADE;
