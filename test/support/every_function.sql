-- Every function of the SQLite edition once or more, with answers and with errors: what the leak
-- detector watches. Errors are expected here and change nothing.
SELECT token_usage_migrate();
SELECT token_usage_migrate('text');
.read examples/sample_ledger.sql
SELECT token_usage_migrate('nothing');
SELECT token_usage_version(), token_usage_setting('time_zone'), token_usage_set('time_zone', 'Asia/Kathmandu');
SELECT token_usage_set('time_zone', 'Nowhere/Land');
SELECT token_usage_setting('colour');
SELECT * FROM token_usage_summary(42, 'Europe/Moscow', '2025-10-20');
SELECT * FROM token_usage_history(42, 400, 'writer', 'America/New_York', '2025-10-20');
SELECT * FROM token_usage_by_agent(42, 30, NULL, '2025-10-20');
SELECT * FROM token_usage_by_model(42, 30, NULL, '2025-10-20');
SELECT * FROM token_usage_by_provider(42, 30, NULL, '2025-10-20');
SELECT * FROM token_usage_totals(42, 'year', NULL, NULL, '2025-10-20');
SELECT * FROM token_usage_detailed(42, 5);
SELECT * FROM token_usage_detailed(42, 5) LIMIT 1;
SELECT * FROM token_usage_detailed(42, 5, 0, NULL, NULL, NULL, (SELECT cursor FROM token_usage_detailed(42, 1)));
SELECT token_usage_detailed_count(42, 'writer', '2025-10-01', '2025-10-31');
SELECT token_usage_summary_json(42), token_usage_history_json(42, 3), token_usage_by_agent_json(42);
SELECT token_usage_by_model_json(42, 400), token_usage_detailed_json(42, 3), token_usage_totals_json(42, 'all');
SELECT agent_id, token_usage_stats(prompt_tokens, completion_tokens, total_tokens, cost_usd, cost_rub, execution_time_ms),
       token_usage_decimal_sum(cost_usd) FROM token_usage GROUP BY agent_id;
SELECT token_usage_stats(prompt_tokens, completion_tokens, total_tokens, cost_usd, cost_rub, execution_time_ms) OVER w,
       token_usage_decimal_sum(cost_usd) OVER w
  FROM token_usage WINDOW w AS (PARTITION BY user_id ORDER BY id ROWS BETWEEN 2 PRECEDING AND 1 FOLLOWING);
SELECT token_usage_stats(9223372036854775807, 0, 9223372036854775807, 1, 1, 1) FROM token_usage;
SELECT token_usage_decimal_sum('9e30') FROM token_usage;
SELECT token_usage_rebuild(), token_usage_rebuild(42), token_usage_compact(), token_usage_compact(5);
SELECT count(*) FROM token_usage_verify();
SELECT * FROM token_usage_summary(NULL);
SELECT * FROM token_usage_history(42, 0);
SELECT * FROM token_usage_history(42, 3, NULL, 'Mars/Olympus');
SELECT * FROM token_usage_detailed(42, 1, 0, NULL, 'soon');
SELECT * FROM token_usage_detailed(42, 1, 0, NULL, NULL, NULL, 'zz');
SELECT token_usage_totals_json(42, 'decade');
ATTACH ':memory:' AS other;
SELECT token_usage_migrate('bigint', 'other');
SELECT * FROM token_usage_summary(42) WHERE schema = 'other';
DROP TABLE token_usage;
SELECT * FROM token_usage_summary(42);
CREATE TABLE token_usage (id INTEGER PRIMARY KEY, created_at);
SELECT token_usage_migrate();
SELECT 'every function ran';
