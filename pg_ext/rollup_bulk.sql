-- How the native edition rebuilds in bulk: rollup_bulk.cpp in place of the statement that the ledger carries itself. The ledger's own
-- token_usage_rollup_again() (rollup_rebuild.sql) looks for this function by its name and the types below.

-- The rollup rows of one month. rows: a query for (user, created_at, agent, provider, model, prompt, completion, total, usd, rub, ms) with $1
-- from_at and $2 to_at. flags: a query for (number, flags) with $1 users, $2 their rows, $3 their groups, $4 before. memory: bytes.
CREATE FUNCTION @extschema@._token_usage_rollup_bulk(rows text, flags text, from_at timestamptz, to_at timestamptz, month timestamptz,
    before timestamptz, memory bigint)
  RETURNS SETOF record
  LANGUAGE c STABLE PARALLEL UNSAFE ROWS 100000
  AS 'MODULE_PATHNAME', 'token_usage_rollup_bulk';

