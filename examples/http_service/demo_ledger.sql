-- A ledger to look at, for examples/http_service/demo: some 2,500 made-up requests of user 42 and
-- 250 of user 7 in the 90 days up to now, more on working days, some of them without a known price. The
-- same figures on every run; only the days move. For SQLite, after token_usage_migrate().
WITH RECURSIVE
draw(n, x) AS (
  -- A linear congruential generator; the high bits are the good ones.
  SELECT 1, 20251020
  UNION ALL
  SELECT n + 1, (x * 1103515245 + 12345) % 2147483648 FROM draw WHERE n < 16500
),
parts AS (
  SELECT n / 5 AS request,
         max(CASE n % 5 WHEN 0 THEN x / 65536 END) AS a, max(CASE n % 5 WHEN 1 THEN x / 65536 END) AS b,
         max(CASE n % 5 WHEN 2 THEN x / 65536 END) AS c, max(CASE n % 5 WHEN 3 THEN x / 65536 END) AS d,
         max(CASE n % 5 WHEN 4 THEN x / 65536 END) AS e
    FROM draw WHERE n >= 5 GROUP BY n / 5
),
model(pick, ai_provider, ai_model, usd_in, usd_out) AS (VALUES
  (0, 'openai', 'gpt-4o', 2.5, 10.0), (1, 'openai', 'gpt-4o-mini', 0.15, 0.6),
  (2, 'anthropic', 'claude-sonnet-4-5', 3.0, 15.0), (3, 'anthropic', 'claude-haiku-4-5', 1.0, 5.0),
  (4, 'google', 'gemini-2.5-flash', 0.3, 2.5), (5, 'own', 'llama-3.3-70b', NULL, NULL)),
agent(pick, agent_id, task_type, platform) AS (VALUES
  (0, 'writer', 'draft', 'web'), (1, 'writer', 'edit', 'telegram'), (2, 'researcher', 'research', 'web'),
  (3, 'translator', 'translate', 'api'), (4, 'support-bot', 'answer', 'telegram')),
request AS (
  SELECT p.request, 40 + p.a % 6000 AS prompt, 10 + p.b % 1500 AS completion, p.c, p.d, p.e,
         CASE WHEN p.request % 11 = 0 THEN 7 ELSE 42 END AS user_id,
         -- More of them towards today.
         CAST(strftime('%s', 'now') AS INTEGER) - CAST(p.d / 32768.0 * (0.4 + 0.6 * p.d / 32768.0) * 90 * 86400 AS INTEGER) AS at
    FROM parts AS p WHERE p.a IS NOT NULL AND p.b IS NOT NULL AND p.c IS NOT NULL AND p.d IS NOT NULL AND p.e IS NOT NULL
)
INSERT INTO token_usage (user_id, agent_id, request_id, endpoint, ai_provider, ai_model, prompt_tokens, completion_tokens,
                         total_tokens, cost_usd, cost_rub, platform, content_type, task_type, execution_time_ms, created_at)
SELECT r.user_id, a.agent_id, printf('demo-%05d', r.request), '/v1/chat/completions', m.ai_provider, m.ai_model,
       r.prompt, r.completion, r.prompt + r.completion,
       round((r.prompt * m.usd_in + r.completion * m.usd_out) / 1000000, 8),
       round((r.prompt * m.usd_in + r.completion * m.usd_out) / 1000000 * 95, 6),
       a.platform, CASE a.task_type WHEN 'draft' THEN 'article' END, a.task_type,
       200 + r.completion * 12 + r.c % 900, strftime('%Y-%m-%dT%H:%M:%SZ', r.at, 'unixepoch')
  FROM request AS r JOIN model AS m ON m.pick = r.e % 13 % 6 JOIN agent AS a ON a.pick = r.c % 5
 -- Fewer at the weekend.
 WHERE strftime('%w', r.at, 'unixepoch') NOT IN ('0', '6') OR r.e % 3 = 0
 ORDER BY r.at;
