-- How the native edition rebuilds in bulk: rollup_bulk.cpp in place of the statement that the ledger carries itself. The ledger's own
-- token_usage_rollup_again() (rollup_rebuild.sql) looks for this function by its name and the types below.

-- The rollup rows that are missing; what is stored and is not to be stays no longer. memory: bytes. statements:
--   1 a query for the ledger's (user, created_at, agent, provider, model, prompt, completion, total, usd, rub, ms), with $1 until
--   2 a query for the numbers and flags of what is to be rolled, with $1 the rows of months of users, $2 their groups, $3 the number of the
--     month before, where its flags count, or 0
--   3 takes note of what is rolled: $1 users, $2 months, $3 flags
--   4 a query for what is stored of user $1: the columns of the result, and ctid; by kind, bucket, keys and nulls
--   5 removes what is stored at $1
--   6 removes what is stored of users $1
CREATE FUNCTION @extschema@._token_usage_rollup_bulk(statements text[], until timestamptz, memory bigint)
  RETURNS SETOF record
  LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE ROWS 100000
  AS 'MODULE_PATHNAME', 'token_usage_rollup_bulk';
