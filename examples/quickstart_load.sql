-- Turns the table `requests` (at, prompt, completion: a time and two token counts per request) into ledger rows.
-- The rest is not in that data, so it is made up from the row's number n, the same on every run:
--   user     42 for two requests of five, else one of 1 to 20
--   agent    by n modulo 11: assistant (5), coder (3), researcher (3)
--   model    by n modulo 7, see the table `model`; prices are per million tokens in USD
--   cost     tokens times price, in billionths of a dollar so that it is exact; roubles at 95
--   time     200 ms and 12 ms per generated token; unknown for one request of 50
-- The model that we run ourselves has no price: its cost is NULL, which the reports show as unpriced.
CREATE TEMP TABLE model (n, provider, name, prompt_price, completion_price);
INSERT INTO model VALUES
  (0, 'openai', 'gpt-4o', 2500, 10000), (1, 'openai', 'gpt-4o-mini', 150, 600),
  (2, 'openai', 'gpt-4o-mini', 150, 600), (3, 'anthropic', 'claude-sonnet', 3000, 15000),
  (4, 'anthropic', 'claude-haiku', 800, 4000), (5, 'openai', 'gpt-4o', 2500, 10000),
  (6, 'self-hosted', 'llama-3.3-70b', NULL, NULL);

INSERT INTO token_usage
  (user_id, agent_id, request_id, endpoint, ai_provider, ai_model, prompt_tokens,
   completion_tokens, total_tokens, cost_usd, cost_rub, platform, execution_time_ms, created_at)
SELECT
  CASE WHEN r.n % 5 < 2 THEN 42 ELSE 1 + r.n / 5 % 20 END,
  CASE WHEN r.n % 11 < 5 THEN 'assistant' WHEN r.n % 11 < 8 THEN 'coder' ELSE 'researcher' END,
  'req-' || r.n,
  '/v1/chat/completions',
  m.provider,
  m.name,
  r.prompt,
  r.completion,
  r.prompt + r.completion,
  (r.prompt * m.prompt_price + r.completion * m.completion_price) / 1e9,
  (r.prompt * m.prompt_price + r.completion * m.completion_price) * 95 / 1e9,
  'web',
  CASE WHEN r.n % 50 <> 0 THEN 200 + 12 * r.completion END,
  r.at
FROM (SELECT rowid AS n, at, CAST(prompt AS INTEGER) AS prompt,
             CAST(completion AS INTEGER) AS completion FROM requests) r
JOIN model m ON m.n = r.n % 7;
