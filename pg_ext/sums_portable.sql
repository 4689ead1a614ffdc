-- The portable twin of pg_ext/sums.cpp.

-- The sums of the ledger rows of `user_id` (as _token_usage_user gives it), and of `agent` where it is not NULL: one row for each
-- stretch bounds[bucket] <= created_at < bounds[bucket + 1] and group that has rows. dimension is none, agent or model.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_sums(
  ledger oid, user_id text, agent text, bounds timestamptz[], dimension text)
RETURNS TABLE (bucket integer, key1 text, key2 text, requests_count bigint, prompt_tokens numeric,
  completion_tokens numeric, total_tokens numeric, cost_usd numeric, cost_rub numeric, unpriced_count bigint,
  execution_ms_sum numeric, execution_ms_count bigint)
LANGUAGE plpgsql STABLE AS $function$
BEGIN
  RETURN QUERY EXECUTE @extschema@._token_usage_sums_sql(ledger, dimension, agent IS NOT NULL)
    USING user_id, agent, bounds;
END
$function$;
