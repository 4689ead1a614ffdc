-- How the native edition folds: rollup_fold.cpp in place of the statement that the ledger carries itself. The ledger's own
-- token_usage_rollup_fold() (rollup_maintain.sql) looks for the function below by its name and types. Its rights are the caller's.

-- The statements that it runs: deltas takes those of user $1 in [$2, $3) and returns them; rows returns the ledger's rows in [$2, $3); merge
-- adds rollup rows of user $1, given by columns, to those stored.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_rollup_fold_sql(ledger oid, part text)
RETURNS text LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $rollup$
  SELECT @extschema@._token_usage_rollup_text(ledger, CASE part WHEN 'deltas' THEN $sql$
DELETE FROM {s}.token_usage_delta d WHERE d.user_id = $1::{user_type} AND d.created_at >= $2 AND d.created_at < $3
RETURNING d.created_at, d.agent, d.provider, d.model, d.prompt, d.completion, d.total, d.usd, d.rub, d.ms, d.sign$sql$ WHEN 'rows' THEN $sql$
SELECT {bulk_row} FROM {ledger} t WHERE t.user_id = $1::{user_type} AND t.created_at >= {$2} AND t.created_at < {$3}$sql$ ELSE $sql$
INSERT INTO {s}.token_usage_rollup AS r ({rollup_columns})
SELECT $1::{user_type}, m.* FROM unnest($2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15) m
{merge}$sql$ END)
$rollup$;

CREATE FUNCTION @extschema@._token_usage_rollup_fold(ledger oid, user_id text, month timestamptz, from_at timestamptz, to_at timestamptz, flags smallint)
  RETURNS void
  LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
  AS 'MODULE_PATHNAME', 'token_usage_rollup_fold';
