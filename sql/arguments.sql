-- The error of each argument: text, SQLSTATE, and no report that looks like an answer.
SET client_min_messages = warning;
SET timezone = 'UTC';
SET datestyle = 'ISO, YMD';
CREATE SCHEMA arguments_test;
SET search_path = arguments_test, public;
CREATE FUNCTION error_of(query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  state text; message text; hint text;
BEGIN
  EXECUTE query;
  RETURN 'no error';
EXCEPTION WHEN OTHERS THEN
  GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT, hint = PG_EXCEPTION_HINT;
  RETURN concat_ws(' | ', state, replace(message, chr(10), ' '), nullif(hint, ''));
END $$;
CREATE FUNCTION errors_of(VARIADIC queries text[]) RETURNS TABLE (query text, error text) LANGUAGE sql AS $$
  SELECT left(q, 60), error_of('SELECT ' || q) FROM unnest(queries) WITH ORDINALITY AS u (q, n) ORDER BY n
$$;
\pset format unaligned
\pset tuples_only on

-- Without a ledger.
SELECT * FROM errors_of('token_usage_summary(1)', 'token_usage_history(1)', 'token_usage_by_agent(1)',
  'token_usage_by_model(1)', 'token_usage_by_provider(1)', 'token_usage_totals(1)', 'token_usage_detailed(1)',
  'token_usage_detailed_text(1)', 'token_usage_detailed_count(1)', 'token_usage_summary_json(1)',
  'token_usage_history_json(1)', 'token_usage_by_agent_json(1)', 'token_usage_by_model_json(1)',
  'token_usage_totals_json(1)', 'token_usage_detailed_json(1)', $$token_usage_setting('time_zone')$$,
  $$token_usage_set('time_zone', 'UTC')$$);

SELECT jsonb_array_length(token_usage_migrate()) > 0;

-- user_id
SELECT * FROM errors_of('token_usage_summary(NULL)', 'token_usage_summary(NULL::bigint)', 'token_usage_history(NULL::uuid)',
  'token_usage_by_agent(NULL)', 'token_usage_by_model(NULL)', 'token_usage_by_provider(NULL)', 'token_usage_totals(NULL)',
  'token_usage_detailed(NULL)', 'token_usage_detailed_count(NULL)', 'token_usage_summary_json(NULL)',
  'token_usage_history_json(NULL)', 'token_usage_by_agent_json(NULL)', 'token_usage_by_model_json(NULL)',
  'token_usage_totals_json(NULL)', 'token_usage_detailed_json(NULL)',
  $$token_usage_summary('abc')$$, $$token_usage_summary('')$$, $$token_usage_summary('9223372036854775808')$$,
  $$token_usage_summary('-9223372036854775808')$$, $$token_usage_summary(' 42 ')$$, $$token_usage_summary('4 2')$$,
  $$token_usage_summary('0x2A')$$, $$token_usage_summary('1e3')$$,
  $$token_usage_summary('00000000-0000-0000-0000-00000000002a'::uuid)$$);

-- Whole numbers.
SELECT * FROM errors_of('token_usage_history(1, 0)', 'token_usage_history(1, 36601)', 'token_usage_history(1, NULL)',
  'token_usage_history(1, -9223372036854775808)', 'token_usage_history(1, 36600)', 'token_usage_history_json(1, 0)',
  'token_usage_by_agent(1, 0)', 'token_usage_by_agent(1, NULL)', 'token_usage_by_model(1, 36601)',
  'token_usage_by_provider(1, -1)', 'token_usage_by_agent_json(1, 0)', 'token_usage_by_model_json(1, NULL)',
  'token_usage_detailed(1, 0)', 'token_usage_detailed(1, 501)', 'token_usage_detailed(1, NULL)',
  'token_usage_detailed(1, 500, -1)', 'token_usage_detailed(1, 500, NULL)',
  'token_usage_detailed(1, 500, 9223372036854775807)', 'token_usage_detailed_json(1, 0)',
  'token_usage_detailed_json(1, 1, -1)');

-- Names of periods, zones and settings.
SELECT * FROM errors_of($$token_usage_totals(1, 'hour')$$, 'token_usage_totals(1, NULL)', $$token_usage_totals(1, 'Month')$$,
  $$token_usage_totals_json(1, '')$$,
  $$token_usage_summary(1, 'Mars/Base')$$, $$token_usage_summary(1, '')$$, $$token_usage_summary(1, 'MSK')$$,
  $$token_usage_summary(1, 'UTC+3')$$, $$token_usage_summary(1, '+03:00')$$, $$token_usage_summary(1, 'Foo/Bar5')$$,
  $$token_usage_summary(1, 'posix/Europe/Berlin')$$, $$token_usage_summary(1, 'Etc/GMT+13')$$,
  $$token_usage_summary(1, 'Etc/GMT-14')$$, $$token_usage_summary(1, 'europe/moscow')$$, $$token_usage_summary(1, 'utc')$$,
  $$token_usage_summary(1, 'CET')$$, $$token_usage_summary(1, 'localtime')$$, $$token_usage_summary(1, repeat('x', 300))$$,
  $$token_usage_setting('zone')$$, 'token_usage_setting(NULL)', $$token_usage_set('zone', 'UTC')$$,
  $$token_usage_set('time_zone', 'MSK')$$, $$token_usage_migrate('int')$$, 'token_usage_migrate(NULL)');

-- Times.
SELECT * FROM errors_of($$token_usage_summary(1, NULL, 'abc')$$, $$token_usage_summary(1, NULL, 'infinity')$$,
  $$token_usage_summary(1, NULL, '-infinity')$$, $$token_usage_summary(1, NULL, '0999-12-31 23:59:59.999999Z')$$,
  $$token_usage_summary(1, NULL, '1000-01-01Z')$$, $$token_usage_summary(1, 'Pacific/Kiritimati', '9999-12-31 23:59:59Z')$$,
  $$token_usage_summary(1, NULL, '10000-01-01Z')$$,
  $$token_usage_detailed(1, 1, 0, NULL, 'now')$$, $$token_usage_detailed(1, 1, 0, NULL, NULL, 'infinity')$$,
  $$token_usage_detailed(1, 1, 0, NULL, '2025-02-29')$$, $$token_usage_detailed(1, 1, 0, NULL, '2024-02-29')$$,
  $$token_usage_detailed(1, 1, 0, NULL, '2025-10-20T24:00:00Z')$$, $$token_usage_detailed(1, 1, 0, NULL, '2025-10-20T14:30:60Z')$$,
  $$token_usage_detailed(1, 1, 0, NULL, '2025-10-20T14:30Z')$$, $$token_usage_detailed(1, 1, 0, NULL, '2025-10-20 14:30:25.5 +03:00')$$,
  $$token_usage_detailed(1, 1, 0, NULL, '2025-10-20T14:30:25+24:00')$$, $$token_usage_detailed(1, 1, 0, NULL, '2025-10-20T14:30:25z')$$,
  $$token_usage_detailed(1, 1, 0, NULL, '20.10.2025')$$, $$token_usage_detailed(1, 1, 0, NULL, '1760970625')$$,
  $$token_usage_detailed(1, 1, 0, NULL, '')$$, $$token_usage_detailed(1, 1, 0, NULL, '0000-01-01')$$,
  $$token_usage_detailed(1, 1, 0, NULL, '0001-01-01T00:00:00+00:01')$$,
  $$token_usage_detailed_count(1, NULL, 'x')$$, $$token_usage_detailed_count(1, NULL, NULL, '2025-13-01')$$,
  $$token_usage_detailed_json(1, 1, 0, NULL, NULL, 'soon')$$);

-- Cursors: only what token_usage_detailed has given out. 1|0|1 is 317c307c31.
SELECT * FROM errors_of($$token_usage_detailed(1, 1, 0, NULL, NULL, NULL, '317c307c31')$$,
  $$token_usage_detailed(1, 1, 0, NULL, NULL, NULL, '')$$, $$token_usage_detailed(1, 1, 0, NULL, NULL, NULL, 'zz')$$,
  $$token_usage_detailed(1, 1, 0, NULL, NULL, NULL, '317C307C31')$$, $$token_usage_detailed(1, 1, 0, NULL, NULL, NULL, '317c307c3')$$,
  $$token_usage_detailed(1, 1, 0, NULL, NULL, NULL, '327c307c31')$$, $$token_usage_detailed(1, 1, 0, NULL, NULL, NULL, '317c30307c31')$$,
  $$token_usage_detailed(1, 1, 0, NULL, NULL, NULL, '317c307c61')$$, $$token_usage_detailed(1, 1, 0, NULL, NULL, NULL, '00')$$,
  $$token_usage_detailed(1, 1, 0, NULL, NULL, NULL, 'ff')$$, $$token_usage_detailed_json(1, 1, 0, NULL, NULL, NULL, 'x')$$,
  $$token_usage_detailed(1, 1, 0, NULL, NULL, NULL, encode('1|9223372036854775807|9223372036854775807', 'hex'))$$,
  $$token_usage_detailed(1, 1, 0, NULL, NULL, NULL, encode('1|-9223372036854775808|1', 'hex'))$$,
  $$token_usage_detailed(1, 1, 0, NULL, NULL, NULL, encode('1|9223372036854775808|1', 'hex'))$$,
  $$token_usage_detailed(1, 1, 0, NULL, NULL, NULL, repeat('31', 500000))$$);

-- A literal of a backslash means what it says, whatever the session's setting.
SET standard_conforming_strings = off;
SET escape_string_warning = off;
SELECT error_of('SELECT token_usage_detailed_json(1, 1, 0, NULL, NULL, NULL, ''317c307c31'')');
RESET standard_conforming_strings;

-- Token sums past 64 bits.
INSERT INTO token_usage (user_id, agent_id, ai_provider, ai_model, prompt_tokens, total_tokens, created_at)
  VALUES (1, 'a', 'p', 'm', 9223372036854775807, 9223372036854775807, '2025-01-01Z'), (1, 'b', 'p', 'm', 1, 1, '2025-01-02Z');
SELECT * FROM errors_of('token_usage_summary(1)', $$token_usage_by_agent(1, 2, NULL, '2025-01-02Z')$$,
  $$token_usage_by_agent_json(1, 2, NULL, '2025-01-02Z')$$, $$token_usage_by_provider(1, 2, NULL, '2025-01-02Z')$$,
  $$token_usage_totals(1, 'all')$$, $$token_usage_totals_json(1, 'all')$$, $$token_usage_history(1, 2, NULL, NULL, '2025-01-02Z')$$);

-- A table that was never migrated says so.
CREATE SCHEMA arguments_other;
SET search_path = arguments_other, arguments_test, public;
CREATE TABLE arguments_other.token_usage (id bigint, user_id bigint);
SELECT * FROM errors_of('token_usage_summary(1)', 'token_usage_detailed(1)');
DROP TABLE arguments_other.token_usage;
CREATE TABLE arguments_other.token_usage AS TABLE arguments_test.token_usage;
ALTER TABLE arguments_other.token_usage ALTER created_at TYPE text;
SELECT * FROM errors_of('token_usage_summary(1)');
DROP SCHEMA arguments_test, arguments_other CASCADE;
