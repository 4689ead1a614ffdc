-- Functions run with the caller's rights, under any search_path.
SET client_min_messages = warning;
SET timezone = 'UTC';
SET datestyle = 'ISO, YMD';
\set VERBOSITY terse
CREATE ROLE regress_token_usage_reader;
CREATE ROLE regress_token_usage_writer;
CREATE SCHEMA security_test;
CREATE SCHEMA security_evil;
GRANT USAGE ON SCHEMA security_test, security_evil TO regress_token_usage_reader, regress_token_usage_writer;
SET search_path = security_test, public;
SELECT jsonb_array_length(token_usage_migrate()) > 0 AS migrated;
INSERT INTO token_usage (user_id, agent_id, ai_provider, ai_model, prompt_tokens, total_tokens, cost_usd, created_at)
  SELECT 1 + g % 2, 'a', 'p', 'm', 1, 1, 0.1, '2025-10-20 12:00Z' FROM generate_series(1, 10) AS g;
GRANT SELECT ON token_usage TO regress_token_usage_reader;
GRANT INSERT ON token_usage TO regress_token_usage_writer;

-- Who may not read the ledger gets the database's own error.
SET ROLE regress_token_usage_writer;
INSERT INTO token_usage (user_id, agent_id, ai_provider, ai_model) VALUES (3, 'a', 'p', 'm');
SELECT * FROM token_usage_summary(1);
SELECT * FROM token_usage_detailed(1);
SELECT token_usage_detailed_count(1);
SELECT token_usage_by_model_json(1);
SELECT token_usage_setting('time_zone');
SELECT token_usage_set('time_zone', 'Europe/Moscow');
RESET ROLE;
SET ROLE regress_token_usage_reader;
SELECT requests_count, cost_usd FROM token_usage_totals(1, 'all');
DROP INDEX security_test.idx_token_usage_workflow;
RESET ROLE;

-- No function is a security definer but the ledger's own, which only its owner may call; and what users call sets nothing.
SELECT count(*) FILTER (WHERE prosecdef) AS definers,
  count(*) FILTER (WHERE proname ~ '^token_usage' AND prokind = 'f' AND proconfig IS NOT NULL) AS settings
  FROM pg_proc WHERE proname ~ '^_?token_usage' AND proname !~ '^token_usage_rollup_' AND pronamespace = 'public'::regnamespace;

-- Row-level security holds, also where the policy calls a function that looks up its tables on the path.
CREATE TABLE members (role_name name, user_id bigint);
INSERT INTO members VALUES ('regress_token_usage_reader', 2);
GRANT SELECT ON members TO regress_token_usage_reader;
CREATE FUNCTION security_test.may_see(who bigint) RETURNS boolean LANGUAGE plpgsql STABLE AS $$
BEGIN
  RETURN EXISTS (SELECT FROM members AS m WHERE m.role_name = current_user AND m.user_id = who);
END $$;
ALTER TABLE token_usage ENABLE ROW LEVEL SECURITY;
CREATE POLICY members_only ON token_usage FOR SELECT USING (security_test.may_see(user_id));
SET ROLE regress_token_usage_reader;
SELECT requests_count FROM token_usage_totals(1, 'all');
SELECT requests_count FROM token_usage_totals(2, 'all');
SELECT sum(requests_count) FROM token_usage_history(2, 1, NULL, NULL, '2025-10-20Z');
SELECT token_usage_detailed_count(1), token_usage_detailed_count(2), (SELECT count(*) FROM token_usage_detailed(1)) AS listed;
RESET ROLE;
SELECT requests_count FROM token_usage_totals(1, 'all');
ALTER TABLE token_usage DISABLE ROW LEVEL SECURITY;

-- Objects of someone else on the path, before pg_catalog, are not used.
CREATE FUNCTION security_evil.trap() RETURNS void LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'trapped'; END $$;
DO $$
DECLARE
  name text;
  kind text;
BEGIN
  FOREACH name IN ARRAY '{=,<,>,<=,>=,<>}'::text[] LOOP
    FOREACH kind IN ARRAY '{text,bigint,integer,numeric,timestamptz,name,boolean}'::text[] LOOP
      EXECUTE format('CREATE FUNCTION security_evil.compare_%s(%s, %s) RETURNS boolean LANGUAGE plpgsql AS ''BEGIN RAISE EXCEPTION ''''trapped by operator''''; END''',
        md5(name || kind), kind, kind);
      EXECUTE format('CREATE OPERATOR security_evil.%s (LEFTARG = %s, RIGHTARG = %s, FUNCTION = security_evil.compare_%s)', name, kind, kind, md5(name || kind));
    END LOOP;
  END LOOP;
  FOREACH name IN ARRAY '{current_schemas(boolean),length(text),coalesce_(text),count(bigint),sum(bigint),trim_scale(numeric),scale(numeric),timezone(text\,timestamptz),concat(text\,text),lower(text)}'::text[] LOOP
    EXECUTE format('CREATE FUNCTION security_evil.%s RETURNS text LANGUAGE plpgsql AS ''BEGIN RAISE EXCEPTION ''''trapped by function''''; END''', name);
  END LOOP;
END $$;
CREATE FUNCTION security_evil.concatenate(text, text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'trapped by operator'; END $$;
CREATE OPERATOR security_evil.|| (LEFTARG = text, RIGHTARG = text, FUNCTION = security_evil.concatenate);
CREATE FUNCTION security_evil.plus(numeric, numeric) RETURNS numeric LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'trapped by operator'; END $$;
CREATE OPERATOR security_evil.+ (LEFTARG = numeric, RIGHTARG = numeric, FUNCTION = security_evil.plus);
CREATE OPERATOR security_evil.- (LEFTARG = numeric, RIGHTARG = numeric, FUNCTION = security_evil.plus);
CREATE OPERATOR security_evil.* (LEFTARG = numeric, RIGHTARG = numeric, FUNCTION = security_evil.plus);
CREATE DOMAIN security_evil.text AS pg_catalog.text CHECK (false);
CREATE DOMAIN security_evil.numeric AS pg_catalog.numeric CHECK (false);
CREATE TABLE security_evil.pg_class (oid oid);
CREATE TABLE security_evil.token_usage_settings (name pg_catalog.text, value pg_catalog.text);
SET ROLE regress_token_usage_reader;
SET search_path = security_evil, security_test, public, pg_catalog;
SELECT requests_count, cost_usd FROM token_usage_totals(1, 'all', 'a', 'Europe/Moscow');
SELECT requests_count FROM token_usage_summary(1, NULL, '2025-10-20 18:00Z');
SELECT requests_count FROM token_usage_history(1, 1, 'a', 'America/Sao_Paulo', '2025-10-20 18:00Z');
SELECT requests_count FROM token_usage_by_agent(1, 30, NULL, '2025-10-20 18:00Z');
SELECT requests_count FROM token_usage_by_model(1, 30, NULL, '2025-10-20 18:00Z');
SELECT requests_count FROM token_usage_by_provider(1, 30, NULL, '2025-10-20 18:00Z');
SELECT id, cursor FROM token_usage_detailed(1, 1, 0, 'a', '2025-01-01', '2026-01-01', '317c313736303936313630303030303030307c34');
SELECT token_usage_detailed_count(1, 'a', '2025-01-01', '2026-01-01');
SELECT token_usage_summary_json(1, NULL, '2025-10-20 18:00Z') -> 'success';
SELECT token_usage_history_json(1, 1, NULL, NULL, '2025-10-20 18:00Z') -> 'success';
SELECT token_usage_by_agent_json(1) -> 'success';
SELECT token_usage_by_model_json(1) -> 'success';
SELECT token_usage_detailed_json(1, 1) -> 'success';
SELECT token_usage_totals_json(1, 'all') -> 'total_requests';
SELECT token_usage_setting('time_zone');
SELECT token_usage_version() IS NOT NULL;
SELECT token_usage_stats(1, 2, 3, 0.1::pg_catalog.numeric, 0.25::float8, 7::bigint), token_usage_decimal_sum(0.1::real) FROM generate_series(1, 2);
SELECT token_usage_decimal_sum(0.0000000000005::pg_catalog.numeric);
RESET ROLE;
SET search_path = security_evil, security_test, public, pg_catalog;
SELECT token_usage_set('time_zone', 'CET'), token_usage_set('time_zone', NULL);
SELECT jsonb_array_length(token_usage_migrate());
SET search_path = public;
DROP SCHEMA security_evil, security_test CASCADE;
DROP ROLE regress_token_usage_reader, regress_token_usage_writer;
