-- Whole local calendar days: where they start, which one holds an instant, and what the reports make of it.
SET client_min_messages = warning;
SET timezone = 'UTC';
SET datestyle = 'ISO, YMD';
CREATE SCHEMA calendar_test;
SET search_path = calendar_test, public;
SELECT jsonb_array_length(token_usage_migrate()) > 0 AS migrated;
CREATE FUNCTION starts(zone text, first date, last date) RETURNS TABLE (day date, starts timestamptz, hours numeric)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  bounds timestamptz[] := public._token_usage_day_bounds(first, last, zone);
BEGIN
  RETURN QUERY SELECT first + i - 1, bounds[i], trim_scale(extract(epoch FROM bounds[i + 1] - bounds[i])::numeric / 3600)
    FROM generate_series(1, cardinality(bounds) - 1) AS i;
END $$;

-- Days of 23 and 25 hours, of 23.5 and 24.5.
SELECT * FROM starts('America/New_York', '2025-03-08', '2025-03-10');
SELECT * FROM starts('Europe/Berlin', '2025-10-25', '2025-10-27');
SELECT * FROM starts('Australia/Lord_Howe', '2025-10-04', '2025-10-06');
SELECT * FROM starts('Australia/Lord_Howe', '2025-04-05', '2025-04-07');
-- A midnight that does not exist, one that comes twice, a date that was skipped.
SELECT * FROM starts('America/Sao_Paulo', '2018-11-03', '2018-11-05');
SELECT * FROM starts('America/Havana', '2024-11-02', '2024-11-04');
SELECT * FROM starts('Pacific/Apia', '2011-12-29', '2011-12-31');
-- Zones of :30 and :45; UTC+14; a zone whose name PostgreSQL also knows as an abbreviation without daylight-saving time.
SELECT * FROM starts('Asia/Kolkata', '2025-01-01', '2025-01-01');
SELECT * FROM starts('asia/kathmandu', '2025-01-01', '2025-01-01');
SELECT * FROM starts('Pacific/Kiritimati', '2025-01-01', '2025-01-01');
SELECT * FROM starts('CET', '2025-03-29', '2025-03-31');
SELECT * FROM starts('UTC', '2024-02-28', '2024-03-01');

-- The day that holds an instant. Where the clock goes back across midnight the day has begun for good.
CREATE FUNCTION day_of(zone text, as_of timestamptz) RETURNS date LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
  SELECT public._token_usage_day_of(as_of, zone)
$$;
SELECT day_of('America/Sao_Paulo', '2018-11-04 02:59:59.999999Z') AS before, day_of('America/Sao_Paulo', '2018-11-04 03:00Z') AS after;
SELECT day_of('America/Havana', '2024-11-03 03:59:59.999999Z') AS before, day_of('America/Havana', '2024-11-03 04:00Z') AS first_midnight,
  day_of('America/Havana', '2024-11-03 05:00Z') AS second_midnight;
SELECT day_of('Pacific/Kiritimati', '2025-01-01 09:59:59.999999Z') AS before, day_of('Pacific/Kiritimati', '2025-01-01 10:00Z') AS after;
SELECT day_of('UTC', '2025-01-01 23:59:59.999999Z') AS last, day_of('UTC', '2025-01-02Z') AS first;

-- The reports: first and last microsecond of a local day, and the periods that hold them.
INSERT INTO token_usage (user_id, agent_id, ai_provider, ai_model, prompt_tokens, total_tokens, created_at) VALUES
  (1, 'a', 'p', 'm', 1, 1, '2025-09-30 20:59:59.999999Z'), (1, 'a', 'p', 'm', 10, 10, '2025-09-30 21:00Z'),
  (1, 'a', 'p', 'm', 100, 100, '2025-10-19 20:59:59.999999Z'), (1, 'a', 'p', 'm', 1000, 1000, '2025-10-19 21:00Z'),
  (1, 'a', 'p', 'm', 10000, 10000, '2025-10-20 20:59:59.999999Z'), (1, 'a', 'p', 'm', 100000, 100000, '2025-10-20 21:00Z');
SELECT period, requests_count, total_tokens FROM token_usage_summary(1, 'Europe/Moscow', '2025-10-20 12:00Z');
SELECT period, requests_count, total_tokens FROM token_usage_summary(1, NULL, '2025-10-20 12:00Z');
SELECT date, total_tokens FROM token_usage_history(1, 3, NULL, 'Europe/Moscow', '2025-10-20 20:59:59.999999Z');
SELECT date, total_tokens FROM token_usage_history(1, 3, NULL, 'Europe/Moscow', '2025-10-20 21:00Z');
SELECT period, total_tokens FROM unnest('{day,week,month,year,all}'::text[]) AS p (name),
  token_usage_totals(1, p.name, NULL, 'Europe/Moscow', '2025-10-20 12:00Z');
-- The setting of the ledger, and an argument that overrides it.
SELECT token_usage_setting('time_zone');
SELECT token_usage_set('time_zone', 'Europe/Moscow');
SELECT token_usage_setting('time_zone');
SELECT total_tokens FROM token_usage_totals(1, 'day', NULL, NULL, '2025-10-20 12:00Z');
SELECT total_tokens FROM token_usage_totals(1, 'day', NULL, 'UTC', '2025-10-20 12:00Z');
SELECT token_usage_set('time_zone', NULL) AS reset;
-- The session's own zone changes nothing, and is given back.
SET timezone = 'Asia/Tokyo';
SELECT period, requests_count, total_tokens FROM token_usage_summary(1, 'Europe/Moscow', '2025-10-20 12:00Z');
SHOW timezone;
-- Times that are no times are in no report.
INSERT INTO token_usage (user_id, agent_id, ai_provider, ai_model, created_at)
  VALUES (2, 'a', 'p', 'm', '-infinity'), (2, 'a', 'p', 'm', 'infinity');
SELECT requests_count FROM token_usage_totals(2, 'all');
SELECT token_usage_detailed_count(2), (SELECT count(*) FROM token_usage_detailed(2)) AS listed;
DROP SCHEMA calendar_test CASCADE;
