-- How the native edition folds: rollup_fold.cpp in place of the statement that the ledger carries itself. The ledger's own
-- token_usage_rollup_fold() (rollup_maintain.sql) looks for the function below by its name and types. Its rights are the caller's.

-- The statements that it runs: deltas takes those of user $1 in [$2, $3) and returns them; rows returns the ledger's rows in [$2, $3); merge
-- adds rollup rows of user $1, given by columns, to those stored; plain is the month of the range [$2, $3) and what of it is rolled, where to
-- add up its rows, $4 at most, is all that there is to do: no delta, and no other rollups because of them.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_rollup_fold_sql(ledger oid, part text)
RETURNS text LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $rollup$
  SELECT @extschema@._token_usage_rollup_text(ledger, CASE part WHEN 'deltas' THEN $sql$
DELETE FROM {s}.token_usage_delta d WHERE d.user_id = $1::{user_type} AND d.created_at >= $2 AND d.created_at < $3
RETURNING d.created_at, d.agent, d.provider, d.model, d.prompt, d.completion, d.total, d.usd, d.rub, d.ms, d.sign$sql$ WHEN 'rows' THEN $sql$
SELECT {bulk_row} FROM {ledger} t WHERE t.user_id = $1::{user_type} AND t.created_at >= {$2} AND t.created_at < {$3}$sql$ WHEN 'plain' THEN $sql$
SELECT h.month, h.flags
  FROM (SELECT o.month, o.flags, sum(r.requests) FILTER (WHERE r.kind = 30) AS have, count(*) FILTER (WHERE r.kind <> 30) AS g
          FROM {s}.token_usage_rollup_month o
          JOIN {s}.token_usage_rollup r ON r.user_id = o.user_id AND r.kind IN (30::int2, 31::int2, 32::int2) AND r.bucket = o.month
         WHERE o.user_id = $1::{user_type} AND o.month = timezone('UTC', date_trunc('month', timezone('UTC', $2))) GROUP BY o.month, o.flags) h
 WHERE h.flags & 2 <> 0 AND $3 <= timezone('UTC', timezone('UTC', h.month) + interval '1 month')
   AND (h.have > {again} OR (SELECT h.flags | {flags} FROM (SELECT h.have + $4 AS c, h.g) x) = h.flags)
   AND NOT EXISTS (SELECT FROM {s}.token_usage_delta d WHERE d.user_id = $1::{user_type} AND d.sign <> 0)$sql$ ELSE $sql$
INSERT INTO {s}.token_usage_rollup AS r ({rollup_columns})
SELECT $1::{user_type}, m.* FROM unnest($2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15) m
{merge}$sql$ END)
$rollup$;

CREATE FUNCTION @extschema@._token_usage_rollup_fold(ledger oid, user_id text, month timestamptz, from_at timestamptz, to_at timestamptz, flags smallint)
  RETURNS void
  LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
  AS 'MODULE_PATHNAME', 'token_usage_rollup_fold';

-- A visit at commit in its most frequent cases (rollup_visit.cpp).
CREATE FUNCTION @extschema@._token_usage_rollup_visit(ledger oid, user_id text, max_rows integer, rows_that_pay integer, late_rows_that_pay integer,
    rows_of_user integer, raise_guard_before timestamptz)
  RETURNS bigint
  LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
  AS 'MODULE_PATHNAME', 'token_usage_rollup_visit';
