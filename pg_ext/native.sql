-- What the native edition does in C++: the functions and aggregates of the library. pg_ext/assemble.mk puts
-- this file into the extension's script; the portable edition has money_portable.sql, sums_portable.sql,
-- stats_portable.sql, decimal_sum_portable.sql and zone_portable.sql for it.

CREATE FUNCTION @extschema@.token_usage_version() RETURNS text
  LANGUAGE c IMMUTABLE PARALLEL SAFE
  AS 'MODULE_PATHNAME', 'token_usage_version';

CREATE FUNCTION @extschema@._token_usage_zone_known(name text) RETURNS boolean
  LANGUAGE c STABLE STRICT PARALLEL SAFE
  AS 'MODULE_PATHNAME', 'token_usage_zone_known';

-- The decimal that a number counts as; NULL for NaN and infinities.
CREATE FUNCTION @extschema@._token_usage_decimal(value numeric) RETURNS numeric
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'token_usage_decimal_numeric';
CREATE FUNCTION @extschema@._token_usage_decimal(value double precision) RETURNS numeric
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'token_usage_decimal_float8';
CREATE FUNCTION @extschema@._token_usage_decimal(value real) RETURNS numeric
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'token_usage_decimal_float4';
CREATE FUNCTION @extschema@._token_usage_decimal(value bigint) RETURNS numeric
  LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE AS 'int8_numeric';
CREATE FUNCTION @extschema@._token_usage_decimal(value integer) RETURNS numeric
  LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE AS 'int4_numeric';

-- It is called inside functions that set search_path, and so sets none itself.
CREATE FUNCTION @extschema@._token_usage_sums(ledger oid, user_id text, agent text, bounds timestamptz[], dimension text)
  RETURNS TABLE (bucket integer, key1 text, key2 text, requests_count bigint, prompt_tokens numeric,
    completion_tokens numeric, total_tokens numeric, cost_usd numeric, cost_rub numeric, unpriced_count bigint,
    execution_ms_sum numeric, execution_ms_count bigint)
  LANGUAGE c STABLE PARALLEL UNSAFE ROWS 100
  AS 'MODULE_PATHNAME', 'token_usage_sums';

-- The same under the caller's search path; it is what reports call.
CREATE FUNCTION @extschema@._token_usage_ledger_sums(
  path name[], ledger oid, user_id text, agent text, bounds timestamptz[], dimension text)
  RETURNS TABLE (bucket integer, key1 text, key2 text, requests_count bigint, prompt_tokens numeric,
    completion_tokens numeric, total_tokens numeric, cost_usd numeric, cost_rub numeric, unpriced_count bigint,
    execution_ms_sum numeric, execution_ms_count bigint)
  LANGUAGE c STABLE PARALLEL UNSAFE ROWS 100
  AS 'MODULE_PATHNAME', 'token_usage_ledger_sums';

-- token_usage_stats, for each combination of cost types that ledgers have and each type of time. The state is
-- a bytea; pg_ext/state.h says what is in it.
CREATE FUNCTION @extschema@._token_usage_stats_combine(bytea, bytea) RETURNS bytea
  LANGUAGE c IMMUTABLE PARALLEL SAFE
  AS 'MODULE_PATHNAME', 'token_usage_stats_combine';

CREATE FUNCTION @extschema@._token_usage_stats_final(bytea) RETURNS jsonb
  LANGUAGE c IMMUTABLE PARALLEL SAFE
  AS 'MODULE_PATHNAME', 'token_usage_stats_final';

DO $native$
DECLARE
  costs text;
  time_type text;
  arguments text;
BEGIN
  FOREACH costs IN ARRAY ARRAY[
    'pg_catalog.numeric, pg_catalog.numeric',
    'pg_catalog.float8, pg_catalog.float8',
    'pg_catalog.float4, pg_catalog.float4',
    'pg_catalog.numeric, pg_catalog.float8',
    'pg_catalog.float8, pg_catalog.numeric']
  LOOP
    FOREACH time_type IN ARRAY ARRAY['pg_catalog.int8', 'pg_catalog.numeric', 'pg_catalog.float8'] LOOP
      arguments := 'pg_catalog.int8, pg_catalog.int8, pg_catalog.int8, ' || costs || ', ' || time_type;
      EXECUTE pg_catalog.format($sql$
        CREATE FUNCTION @extschema@._token_usage_stats_add(bytea, %1$s) RETURNS bytea
          LANGUAGE c IMMUTABLE PARALLEL SAFE
          AS 'MODULE_PATHNAME', 'token_usage_stats_add';
        CREATE FUNCTION @extschema@._token_usage_stats_subtract(bytea, %1$s) RETURNS bytea
          LANGUAGE c IMMUTABLE PARALLEL SAFE
          AS 'MODULE_PATHNAME', 'token_usage_stats_subtract';
        CREATE AGGREGATE @extschema@.token_usage_stats(%1$s) (
          sfunc = @extschema@._token_usage_stats_add,
          stype = bytea,
          sspace = 160,
          finalfunc = @extschema@._token_usage_stats_final,
          combinefunc = @extschema@._token_usage_stats_combine,
          msfunc = @extschema@._token_usage_stats_add,
          minvfunc = @extschema@._token_usage_stats_subtract,
          mstype = bytea,
          msspace = 160,
          mfinalfunc = @extschema@._token_usage_stats_final,
          parallel = safe)$sql$, arguments);
    END LOOP;
  END LOOP;
END
$native$;

-- token_usage_decimal_sum, for each type of number.
CREATE FUNCTION @extschema@._token_usage_decimal_sum_combine(bytea, bytea) RETURNS bytea
  LANGUAGE c IMMUTABLE PARALLEL SAFE
  AS 'MODULE_PATHNAME', 'token_usage_decimal_sum_combine';

CREATE FUNCTION @extschema@._token_usage_decimal_sum_final(bytea) RETURNS numeric
  LANGUAGE c IMMUTABLE PARALLEL SAFE
  AS 'MODULE_PATHNAME', 'token_usage_decimal_sum_final';

DO $native$
DECLARE
  argument text;
BEGIN
  FOREACH argument IN ARRAY ARRAY['pg_catalog.numeric', 'pg_catalog.float8', 'pg_catalog.float4',
    'pg_catalog.int8', 'pg_catalog.int4']
  LOOP
    EXECUTE pg_catalog.format($sql$
      CREATE FUNCTION @extschema@._token_usage_decimal_sum_add(bytea, %1$s) RETURNS bytea
        LANGUAGE c IMMUTABLE PARALLEL SAFE
        AS 'MODULE_PATHNAME', 'token_usage_decimal_sum_add';
      CREATE FUNCTION @extschema@._token_usage_decimal_sum_subtract(bytea, %1$s) RETURNS bytea
        LANGUAGE c IMMUTABLE PARALLEL SAFE
        AS 'MODULE_PATHNAME', 'token_usage_decimal_sum_subtract';
      CREATE AGGREGATE @extschema@.token_usage_decimal_sum(%1$s) (
        sfunc = @extschema@._token_usage_decimal_sum_add,
        stype = bytea,
        sspace = 64,
        finalfunc = @extschema@._token_usage_decimal_sum_final,
        combinefunc = @extschema@._token_usage_decimal_sum_combine,
        msfunc = @extschema@._token_usage_decimal_sum_add,
        minvfunc = @extschema@._token_usage_decimal_sum_subtract,
        mstype = bytea,
        msspace = 64,
        mfinalfunc = @extschema@._token_usage_decimal_sum_final,
        parallel = safe)$sql$, argument);
  END LOOP;
END
$native$;

-- The ledger: the first schema of the path, the temporary one excluded, that has a table token_usage. Raises the contract's error
-- (42P01) where there is none.
CREATE FUNCTION @extschema@._token_usage_ledger(path name[]) RETURNS oid
  LANGUAGE c STABLE
  AS 'MODULE_PATHNAME', 'token_usage_ledger';

-- The value of a setting, or its default where none was set.
CREATE FUNCTION @extschema@._token_usage_read_setting(ledger oid, name text) RETURNS text
  LANGUAGE c STABLE
  AS 'MODULE_PATHNAME', 'token_usage_read_setting';

-- The rows of a page, at most row_limit, as _token_usage_page_sql() selects them; and what it computes for each.
CREATE FUNCTION @extschema@._token_usage_page_rows(
  ledger oid, user_id text, agent text, start_date timestamptz, end_date timestamptz, behind_at timestamptz, behind_id text,
  row_limit bigint, row_offset bigint)
RETURNS TABLE (id text, created_at timestamptz, agent_id text, ai_provider text, ai_model text, prompt_tokens bigint,
  completion_tokens bigint, total_tokens bigint, cost_usd numeric, cost_rub numeric, execution_time_ms numeric,
  platform text, content_type text, task_type text, content_id text, workflow_id text, request_id text, endpoint text,
  cursor text)
LANGUAGE c STABLE ROWS 100
  AS 'MODULE_PATHNAME', 'token_usage_page_rows';

CREATE FUNCTION @extschema@._token_usage_cursor(created_at timestamptz, id text) RETURNS text
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
  AS 'MODULE_PATHNAME', 'token_usage_cursor';

CREATE FUNCTION @extschema@._token_usage_time_text(value timestamptz) RETURNS text
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
  AS 'MODULE_PATHNAME', 'token_usage_time_text';

-- What the portable edition makes for each ledger (kept_portable.sql) is kept in the session here (kept_query.cpp).
CREATE FUNCTION @extschema@._token_usage_keep(ledger oid) RETURNS void LANGUAGE sql IMMUTABLE AS '';
