-- The portable twin of pg_ext/sums.cpp.

-- Runs a query of _token_usage_rollup_read_sql. Planned by the number of rows alone: by the cost of pages, an index on created_at alone
-- may seem as good as one that picks the user too, since the planner does not know the bounds.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_rollup_sums(
  query text, user_id text, agent text, bounds timestamptz[], tiers integer[], starts timestamptz[], ends timestamptz[],
  sealed_until timestamptz)
RETURNS TABLE (bucket integer, key1 text, key2 text, requests_count bigint, prompt_tokens numeric,
  completion_tokens numeric, total_tokens numeric, cost_usd numeric, cost_rub numeric, unpriced_count bigint,
  execution_ms_sum numeric, execution_ms_count bigint)
LANGUAGE plpgsql STABLE SET seq_page_cost = 0 SET random_page_cost = 0 AS $function$
BEGIN
  RETURN QUERY EXECUTE query USING user_id, agent, bounds, tiers, starts, ends, sealed_until;
END
$function$;

-- _token_usage_sums where no function is kept for the ledger, or where it does not fit any more.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_sums_anew(
  ledger oid, user_id text, agent text, bounds timestamptz[], dimension text)
RETURNS TABLE (bucket integer, key1 text, key2 text, requests_count bigint, prompt_tokens numeric,
  completion_tokens numeric, total_tokens numeric, cost_usd numeric, cost_rub numeric, unpriced_count bigint,
  execution_ms_sum numeric, execution_ms_count bigint)
LANGUAGE plpgsql STABLE SET jit = off AS $function$
DECLARE
  query text;
  sealed_until timestamptz;
  months timestamptz[];
  flags smallint[];
  tiers integer[];
  starts timestamptz[];
  ends timestamptz[];
BEGIN
  IF (agent IS NULL OR dimension IN ('none', 'agent')) AND @extschema@._token_usage_rollup_readable(ledger) THEN
    query := @extschema@._token_usage_rollup_read_sql(ledger, 'state'::text, dimension, agent IS NOT NULL);
    IF query IS NOT NULL THEN
      EXECUTE query INTO sealed_until, months, flags USING user_id, agent, bounds;
    END IF;
    IF sealed_until IS NOT NULL THEN
      SELECT array_agg(p.tier), array_agg(p.lo), array_agg(p.hi) INTO tiers, starts, ends
        FROM @extschema@._token_usage_rollup_pieces(bounds, sealed_until, months, flags, agent IS NOT NULL OR dimension <> 'none') AS p;
      RETURN QUERY SELECT s.* FROM @extschema@._token_usage_rollup_sums(@extschema@._token_usage_rollup_read_sql(ledger,
        CASE WHEN 0 < ALL (tiers) THEN 'rollup' WHEN 0 = ALL (tiers) THEN 'ledger' ELSE 'both' END, dimension, agent IS NOT NULL),
        user_id, agent, bounds, tiers, starts, ends, sealed_until) AS s;
      RETURN;
    END IF;
  END IF;
  RETURN QUERY EXECUTE @extschema@._token_usage_sums_sql(ledger, dimension, agent IS NOT NULL)
    USING user_id, agent, bounds;
END
$function$;

-- The same where row security is active for the caller: under his search path, from the ledger alone.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_sums_policed(
  path name[], ledger oid, user_id text, agent text, bounds timestamptz[], dimension text)
RETURNS TABLE (bucket integer, key1 text, key2 text, requests_count bigint, prompt_tokens numeric,
  completion_tokens numeric, total_tokens numeric, cost_usd numeric, cost_rub numeric, unpriced_count bigint,
  execution_ms_sum numeric, execution_ms_count bigint)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
  query text := @extschema@._token_usage_sums_sql(ledger, dimension, agent IS NOT NULL);
BEGIN
  -- Nothing but the query runs under that path.
  PERFORM @extschema@._token_usage_caller_path(path);
  RETURN QUERY EXECUTE query USING user_id, agent, bounds;
END
$function$;

-- The sums of the ledger rows of `user_id` (as _token_usage_user gives it), and of `agent` where it is not NULL: one row for each
-- stretch bounds[bucket] <= created_at < bounds[bucket + 1] and group that has rows. dimension is none, agent or model. It is what
-- reports call, under the path that their declarations set.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_ledger_sums(
  path name[], ledger oid, user_id text, agent text, bounds timestamptz[], dimension text)
RETURNS TABLE (bucket integer, key1 text, key2 text, requests_count bigint, prompt_tokens numeric,
  completion_tokens numeric, total_tokens numeric, cost_usd numeric, cost_rub numeric, unpriced_count bigint,
  execution_ms_sum numeric, execution_ms_count bigint)
LANGUAGE plpgsql STABLE ROWS 100 AS $function$
DECLARE
  kept text;
BEGIN
  IF row_security_active(ledger) THEN
    RETURN QUERY SELECT s.* FROM @extschema@._token_usage_sums_policed(path, ledger, user_id, agent, bounds, dimension) AS s;
    RETURN;
  END IF;
  IF agent IS NULL OR dimension IN ('none', 'agent') THEN
    -- Written out, since what EXECUTE runs is planned for each call.
    IF ledger = to_regclass('@extschema@.token_usage') AND has_function_privilege('@extschema@._token_usage_kept_sums_home(text, text, timestamptz[], integer[], '
      'timestamptz[], timestamptz[], timestamptz, text, oid, text[])'::regprocedure, 'EXECUTE') THEN
      RETURN QUERY SELECT s.* FROM @extschema@._token_usage_kept_sums_home(user_id, agent, bounds, NULL::integer[], NULL::timestamptz[],
        NULL::timestamptz[], NULL::timestamptz, dimension, ledger,
        ARRAY[current_setting('enable_seqscan'), current_setting('seq_page_cost'), current_setting('random_page_cost')]) AS s;
      RETURN;
    END IF;
    kept := @extschema@._token_usage_kept(ledger, 'sums'::text);
    IF kept IS NOT NULL THEN
      RETURN QUERY EXECUTE concat('SELECT s.* FROM ', kept, '($1, $2, $3, NULL::pg_catalog.int4[], NULL::pg_catalog.timestamptz[], '
        'NULL::pg_catalog.timestamptz[], NULL::pg_catalog.timestamptz, $4, $5, $6) AS s')
        USING user_id, agent, bounds, dimension, ledger,
              ARRAY[current_setting('enable_seqscan'), current_setting('seq_page_cost'), current_setting('random_page_cost')];
      RETURN;
    END IF;
  END IF;
  RETURN QUERY SELECT s.* FROM @extschema@._token_usage_sums_anew(ledger, user_id, agent, bounds, dimension) AS s;
END
$function$;

-- The same for who asks without a path of a caller.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_sums(
  ledger oid, user_id text, agent text, bounds timestamptz[], dimension text)
RETURNS TABLE (bucket integer, key1 text, key2 text, requests_count bigint, prompt_tokens numeric,
  completion_tokens numeric, total_tokens numeric, cost_usd numeric, cost_rub numeric, unpriced_count bigint,
  execution_ms_sum numeric, execution_ms_count bigint)
LANGUAGE sql STABLE ROWS 100 AS $function$
  SELECT s.* FROM @extschema@._token_usage_ledger_sums(pg_catalog.current_schemas(false), ledger, user_id, agent, bounds, dimension) AS s
$function$;
