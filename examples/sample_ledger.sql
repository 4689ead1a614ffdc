-- A small ledger for the examples of the README and the docs: the same text loads into SQLite and
-- PostgreSQL after SELECT token_usage_migrate(). Two users; user 42 has three agents, three
-- providers, one request whose price is unknown (NULL) and one near midnight in Moscow.
-- The examples read it with as_of = '2025-10-20T18:00:00Z'.
INSERT INTO token_usage
  (user_id, agent_id, workflow_id, request_id, endpoint, ai_provider, ai_model,
   prompt_tokens, completion_tokens, total_tokens, cost_usd, cost_rub,
   platform, content_type, task_type, execution_time_ms, created_at)
VALUES
  (42, 'writer',     NULL,   'req-0001', '/v1/chat/completions', 'openai',      'gpt-4o-mini',        1200,  300,  1500, 0.00036,  0.0342,   'web',      'article', 'draft',     1850, '2025-09-28T10:00:00Z'),
  (42, 'researcher', 'wf-1', 'req-0002', '/v1/messages',         'anthropic',   'claude-sonnet-4-5',  5200,  900,  6100, 0.0291,   2.7645,   'web',      'article', 'research',  4200, '2025-09-30T20:59:59Z'),
  (42, 'writer',     'wf-1', 'req-0003', '/v1/chat/completions', 'openai',      'gpt-4o',             2500, 1100,  3600, 0.01725,  1.63875,  'web',      'article', 'draft',     3100, '2025-09-30T21:00:00Z'),
  (42, 'writer',     NULL,   'req-0004', '/v1/chat/completions', 'openai',      'gpt-4o-mini',         800,  200,  1000, 0.00024,  0.0228,   'telegram', 'post',    'draft',     1200, '2025-10-03T07:15:00Z'),
  (42, 'editor',     NULL,   'req-0005', '/v1/messages',         'anthropic',   'claude-haiku-4-5',   1500,  500,  2000, 0.004,    0.38,     'telegram', 'post',    'edit',       950, '2025-10-12T16:40:00Z'),
  (42, 'researcher', 'wf-2', 'req-0006', '/v1/messages',         'anthropic',   'claude-sonnet-4-5',  8000, 1500,  9500, 0.0465,   4.4175,   'web',      'article', 'research',  5600, '2025-10-18T08:05:30Z'),
  (42, 'writer',     'wf-2', 'req-0007', '/v1/chat/completions', 'openai',      'gpt-4o',             3000, 1400,  4400, 0.0215,   2.0425,   'web',      'article', 'draft',     3300, '2025-10-19T09:30:00Z'),
  (42, 'editor',     'wf-2', 'req-0008', '/v1/messages',         'anthropic',   'claude-haiku-4-5',   2100,  700,  2800, 0.0056,   0.532,    'web',      'article', 'edit',      1100, '2025-10-19T21:30:00Z'),
  (42, 'writer',     NULL,   'req-0009', '/v1/chat/completions', 'openai',      'gpt-4o-mini',         900,  250,  1150, 0.000285, 0.027075, 'telegram', 'post',    'draft',     NULL, '2025-10-20T06:10:00Z'),
  (42, 'researcher', NULL,   'req-0010', '/models/generate',     'huggingface', 'llama-3.3-70b',      4000,  600,  4600, NULL,     NULL,     'web',      'article', 'research',  7400, '2025-10-20T12:00:00.25Z'),
  (42, 'writer',     NULL,   'req-0011', '/v1/chat/completions', 'openai',      'gpt-4o',             1800,  900,  2700, 0.0135,   1.2825,   'web',      'post',    'draft',     2450, '2025-10-20T14:30:25Z'),
  (42, 'writer',     NULL,   'req-0012', '/v1/chat/completions', 'openai',      'gpt-4o',              600,  300,   900, 0.0045,   0.4275,   'web',      'post',    'draft',     1500, '2025-10-20T22:15:00Z'),
  (7,  'assistant',  NULL,   'req-0013', '/v1/chat/completions', 'openai',      'gpt-4o-mini',         500,  100,   600, 0.000135, 0.012825, 'web',      'chat',    'answer',     700, '2025-10-20T09:00:00Z'),
  (7,  'assistant',  NULL,   'req-0014', '/v1/chat/completions', 'openai',      'gpt-4o-mini',         700,  150,   850, 0.000195, 0.018525, 'web',      'chat',    'answer',     820, '2025-10-20T09:05:00Z');
