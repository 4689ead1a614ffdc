-- The reports as whole HTTP response bodies.
SET client_min_messages = warning;
SET timezone = 'UTC';
SET datestyle = 'ISO, YMD';
CREATE SCHEMA json_test;
SET search_path = json_test, public;
SELECT jsonb_array_length(token_usage_migrate()) > 0 AS migrated;
INSERT INTO token_usage (user_id, agent_id, ai_provider, ai_model, prompt_tokens, completion_tokens, total_tokens,
    cost_usd, cost_rub, execution_time_ms, created_at) VALUES
  (42, 'writer', 'openai', 'gpt-4o', 100, 50, 150, 0.10, 9.50, 1000, '2025-10-18 10:00Z'),
  (42, 'writer', 'openai', 'gpt-4o', 101, 50, 151, 0.20, 19, 1001, '2025-10-20 10:00Z'),
  (42, E'quo"te\\\n\u00e9', 'openai', 'mini', 200, 100, 300, 0.000028, 100.000000000001, NULL, '2025-10-20 11:00Z'),
  (42, 'editor', 'anthropic', 'claude', 300, 0, 300, NULL, NULL, 500, '2025-10-20 12:00Z');
SELECT jsonb_pretty(token_usage_summary_json(42, NULL, '2025-10-20 18:00Z'));
SELECT jsonb_pretty(token_usage_history_json(42, 2, 'writer', NULL, '2025-10-20 18:00Z'));
SELECT jsonb_pretty(token_usage_by_agent_json(42, 3, NULL, '2025-10-20 18:00Z'));
SELECT jsonb_pretty(token_usage_by_model_json(42, 3, NULL, '2025-10-20 18:00Z'));
SELECT jsonb_pretty(token_usage_totals_json(42, 'month', NULL, NULL, '2025-10-20 18:00Z'));
SELECT token_usage_totals_json(42, p, 'writer', NULL, '2025-10-20 18:00Z') -> 'period' AS period,
  token_usage_totals_json(42, p, 'writer', NULL, '2025-10-20 18:00Z') -> 'total_tokens' AS tokens
  FROM unnest('{day,week,month,year,all}'::text[]) AS p;
-- A user without rows.
SELECT token_usage_summary_json(1) -> 'data' -> 'today' AS today;
SELECT token_usage_history_json(1, 1, NULL, NULL, '2025-10-20 18:00Z');
SELECT token_usage_by_agent_json(1);
SELECT token_usage_by_model_json(1);
SELECT token_usage_totals_json(1);
DROP SCHEMA json_test CASCADE;
