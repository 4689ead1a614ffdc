-- token_usage_detailed: pages by offset and by cursor, ties, filters, and that a page by cursor reads one page of the index.
SET client_min_messages = warning;
SET timezone = 'UTC';
SET datestyle = 'ISO, YMD';
CREATE SCHEMA detailed_test;
SET search_path = detailed_test, public;
SELECT jsonb_array_length(token_usage_migrate()) > 0 AS migrated;
INSERT INTO token_usage (user_id, agent_id, ai_provider, ai_model, prompt_tokens, completion_tokens, total_tokens, cost_usd,
    cost_rub, execution_time_ms, platform, content_type, task_type, content_id, workflow_id, request_id, endpoint, created_at)
  SELECT 1, 'a' || g % 2, 'p', 'm', g, 1, g + 1, CASE WHEN g <> 3 THEN g * 0.10 END, 1.50, g * 10, 'web', 'article', 'draft', 'c' || g,
         'w', 'r' || g, '/v1', timestamptz '2025-10-20 14:30:25Z' + g / 4 * interval '0.25 seconds'
    FROM generate_series(1, 10) AS g;
\x on
SELECT * FROM token_usage_detailed(1, 1);
\x off
SELECT id, created_at, cost_usd, cost_rub FROM token_usage_detailed(1, 4);
SELECT id FROM token_usage_detailed(1, 3, 4);
SELECT id FROM token_usage_detailed(1, 3, 100);
SELECT id FROM token_usage_detailed(1, 100, 0, 'a1');
-- Both ends are inclusive; what has no zone is UTC, whatever the session's zone.
SET timezone = 'Asia/Tokyo';
SELECT array_agg(id) FROM token_usage_detailed(1, 100, 0, NULL, '2025-10-20 14:30:25.25', '2025-10-20T14:30:25.25Z');
SELECT array_agg(id) FROM token_usage_detailed(1, 100, 0, NULL, timestamp '2025-10-20 14:30:25.25', timestamp '2025-10-20 14:30:25.25');
SELECT array_agg(id) FROM token_usage_detailed(1, 100, 0, NULL, timestamptz '2025-10-20 14:30:25.25Z', timestamptz '2025-10-20 14:30:25.25Z');
SELECT array_agg(id) FROM token_usage_detailed(1, 100, 0, NULL, date '2025-10-20', date '2025-10-21');
SELECT array_agg(id) FROM token_usage_detailed(1, 100, 0, NULL, NULL, timestamptz '2025-10-20 14:30:25Z');
SELECT array_agg(id) FROM token_usage_detailed(1, start_date => '2025-10-20T17:30:25.5+03:00');
SET timezone = 'UTC';
SELECT token_usage_detailed_count(1), token_usage_detailed_count(1, 'a1'), token_usage_detailed_count(1, NULL, '2025-10-20 14:30:25.25'),
  token_usage_detailed_count(1, NULL, timestamptz '2025-10-20 14:30:25.25Z', NULL), token_usage_detailed_count(2),
  token_usage_detailed_count('1', end_date => '2025-10-20');

-- Pages by cursor neither skip nor repeat on ties, also when rows come in between.
CREATE FUNCTION walk(size bigint, agent text = NULL) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  seen bigint[] := '{}';
  here text;
  page record;
BEGIN
  LOOP
    SELECT array_agg(d.id) AS ids, (array_agg(d.cursor))[count(*)] AS last, count(*) AS n INTO page
      FROM token_usage_detailed(1, size, 0, agent, NULL, NULL, here) AS d;
    EXIT WHEN page.n = 0;
    seen := seen || page.ids;
    here := page.last;
  END LOOP;
  RETURN array_to_string(seen, ' ');
END $$;
SELECT size, walk(size) FROM unnest('{1,2,3,4,7,500}'::bigint[]) AS size;
SELECT walk(1, 'a0');
SELECT id, cursor FROM token_usage_detailed(1, 2);
INSERT INTO token_usage (id, user_id, agent_id, ai_provider, ai_model, created_at) VALUES (1000000, 1, 'a0', 'p', 'm', '2026-01-01Z');
SELECT id FROM token_usage_detailed(1, 2, 0, NULL, NULL, NULL, '317c313736303937303632353530303030307c39');
SELECT id FROM token_usage_detailed(1, 2, 3, NULL, NULL, NULL, '317c313736303937303632353530303030307c39');

-- The whole body.
SELECT jsonb_pretty(token_usage_detailed_json(1, 1, 1));
SELECT d -> 'total' AS total, d -> 'has_more' AS has_more, d -> 'next_cursor' AS next_cursor, d -> 'items' AS items
  FROM (SELECT token_usage_detailed_json(2) -> 'data' AS d) AS b;
SELECT d -> 'total' AS total, d -> 'has_more' AS has_more, d -> 'next_cursor' AS next_cursor, jsonb_array_length(d -> 'items') AS items
  FROM (SELECT token_usage_detailed_json(1, 2, 0, NULL, NULL, NULL, '317c313736303937303632353030303030307c33') -> 'data' AS d) AS b;

-- Text and uuid keys: by their bytes.
CREATE SCHEMA detailed_text;
SET search_path = detailed_text, public;
CREATE TABLE detailed_text.token_usage (id text PRIMARY KEY, user_id uuid);
SELECT jsonb_array_length(token_usage_migrate()) > 0 AS migrated;
INSERT INTO token_usage (id, user_id, agent_id, created_at)
  SELECT id, '00000000-0000-0000-0000-00000000002a', 'a', '2025-01-01Z' FROM unnest('{a,B,é,z,Z,10,9}'::text[]) AS id;
SELECT array_agg(id) FROM token_usage_detailed_text('00000000-0000-0000-0000-00000000002A');
SELECT array_agg(id) FROM token_usage_detailed_text('{00000000000000000000-00000000002a}', 10, 0, NULL, NULL, NULL,
  (SELECT cursor FROM token_usage_detailed_text('00000000-0000-0000-0000-00000000002a'::uuid, 1, 3)));
SELECT i ->> 'id' AS id, jsonb_typeof(i -> 'id') AS type
  FROM jsonb_array_elements(token_usage_detailed_json('00000000-0000-0000-0000-00000000002a', 2) -> 'data' -> 'items') AS i;
\set VERBOSITY terse
SELECT * FROM token_usage_detailed('00000000-0000-0000-0000-00000000002a'::uuid);
SELECT * FROM token_usage_detailed_text('42');
\set VERBOSITY default
CREATE SCHEMA detailed_uuid;
SET search_path = detailed_uuid, public;
CREATE TABLE detailed_uuid.token_usage (id uuid PRIMARY KEY, user_id text, created_at timestamp);
SELECT jsonb_array_length(token_usage_migrate()) > 0 AS migrated;
INSERT INTO token_usage (id, user_id, created_at) SELECT ('00000000-0000-0000-0000-00000000000' || g)::uuid, 'u', '2025-01-01' FROM generate_series(1, 5) AS g;
SELECT right(id, 2) AS id, created_at FROM token_usage_detailed_text('u', 2, 0, NULL, NULL, NULL,
  (SELECT cursor FROM token_usage_detailed_text('u', 1, 1)));

-- Plans: with many rows, a page by cursor and the sums of a period come from the indexes, and nothing is sorted.
SET search_path = detailed_test, public;
INSERT INTO token_usage (user_id, agent_id, ai_provider, ai_model, created_at)
  SELECT CASE WHEN g % 5 = 0 THEN 1 ELSE g % 1000 END, 'a' || g % 7, 'p', 'm', timestamptz '2025-01-01Z' + g * interval '10 minutes'
    FROM generate_series(1, 50000) AS g;
ANALYZE token_usage;
CREATE FUNCTION last_plan(query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  line text;
  plan text := '';
BEGIN
  FOR line IN EXECUTE 'EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) ' || query LOOP
    plan := plan || line || chr(10);
  END LOOP;
  RETURN plan;
END $$;
CREATE FUNCTION plan_of_page(agent text, cursor_time timestamptz) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  parts record;
BEGIN
  SET LOCAL search_path = pg_catalog, pg_temp;
  SELECT * INTO parts FROM public._token_usage_layout('detailed_test.token_usage'::regclass::oid);
  RETURN detailed_test.last_plan(format('SELECT t.* FROM detailed_test.token_usage AS t WHERE %s%s AND (t.created_at, %s) < (%L::timestamptz, 1::int8)
    ORDER BY t.created_at DESC, %s DESC LIMIT 101', replace(parts.of_user, '$1', '''1'''),
    CASE WHEN agent IS NULL THEN '' ELSE ' AND ' || replace(parts.of_agent, '$2', quote_literal(agent)) END, parts.id, cursor_time, parts.id));
END $$;
SELECT p ~ 'Index Scan using idx_token_usage_user_date' AS by_index, p ~ 'Sort' AS sorted, p ~ 'Rows Removed' AS removed
  FROM plan_of_page(NULL, '2025-02-01Z') AS p;
SELECT p ~ 'Index Scan using idx_token_usage_detailed' AS by_index, p ~ 'Sort' AS sorted, p ~ 'Rows Removed' AS removed
  FROM plan_of_page('a1', '2025-02-01Z') AS p;
SELECT p ~ 'idx_token_usage_(user_date|detailed)' AS by_index, p ~ 'Seq Scan on token_usage t' AS scanned
  FROM (SELECT last_plan(replace(replace(replace(_token_usage_sums_sql('detailed_test.token_usage'::regclass::oid, 'none'::text, false), '$1', '''17'''::text),
    '$3[1]', '(''{2025-02-01Z,2025-03-01Z}''::timestamptz[])[1]'), '$3', '(''{2025-02-01Z,2025-03-01Z}''::timestamptz[])')) AS p) AS q;
DROP SCHEMA detailed_test, detailed_text, detailed_uuid CASCADE;
