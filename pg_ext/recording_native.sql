-- What the native edition does in C++ of recording: event_portable.sql, from_response_portable.sql and prices_portable.sql
-- have the same functions in PL/pgSQL.

CREATE FUNCTION @extschema@._token_usage_normalise(
  ai_provider text, response jsonb, argument text, OUT usage jsonb, OUT raw jsonb)
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
  AS 'MODULE_PATHNAME', 'token_usage_normalise';

CREATE FUNCTION @extschema@._token_usage_provider(ai_provider text, OUT name text, OUT flavour text, OUT id text)
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
  AS 'MODULE_PATHNAME', 'token_usage_provider';

CREATE FUNCTION @extschema@._token_usage_read_events(events jsonb, batch boolean)
  RETURNS TABLE (place integer, argument text, user_id text, agent_id text, ai_provider text, ai_model text,
    counts bigint[], content_id text, workflow_id text, request_id text, endpoint text, platform text,
    content_type text, task_type text, execution_time_ms bigint, request_metadata jsonb, response_metadata jsonb,
    created_at timestamptz, stated_usd numeric, stated_rub numeric, cost_source text, ask_book boolean,
    warnings text[])
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
  AS 'MODULE_PATHNAME', 'token_usage_read_events';

CREATE FUNCTION @extschema@._token_usage_cost_of(rows jsonb, counts bigint[], at timestamptz) RETURNS numeric
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
  AS 'MODULE_PATHNAME', 'token_usage_cost_of';
