-- token_usage_verify (section 4 of the contract), and what users call of it and of rebuild, once for each type that a user_id may have.

-- Compares what rollups and deltas say with a fresh aggregation of the ledger, for one user or (NULL) for all:
-- one row per difference. The deltas are taken off the fresh side, so that the stored side is what is on disk.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_rollup_verify(ledger oid, only_user text)
RETURNS TABLE (user_id text, bucket text, dimension text, measure text, ledger_value text, rollup_value text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $rollup$
BEGIN
  IF NOT @extschema@._token_usage_rollup_readable(ledger) OR NOT @extschema@._token_usage_rollup_possible(ledger) THEN
    RETURN;  -- reports read the ledger itself
  END IF;
  RETURN QUERY EXECUTE @extschema@._token_usage_rollup_text(ledger, $sql$
WITH person AS MATERIALIZED (
  SELECT u.user_id, u.sealed_until FROM {s}.token_usage_rollup_user u WHERE u.epoch = {epoch} AND ($1 IS NULL OR u.user_id = $1::{user_type})
), src AS (
  SELECT x.user_id, x.created_at, x.agent, x.provider, x.model, x.prompt, x.completion, x.total, x.usd, x.rub, x.ms, x.sign, o.flags
    FROM (SELECT t.user_id::{user_type} AS user_id, {row}, 1 AS sign FROM {ledger} t WHERE $1 IS NULL OR t.user_id = $1::{user_type}
          UNION ALL
          SELECT d.user_id, d.created_at, d.agent, d.provider, d.model, d.prompt, d.completion, d.total, d.usd, d.rub, d.ms, -d.sign
            FROM {s}.token_usage_delta d WHERE $1 IS NULL OR d.user_id = $1::{user_type}) x
    JOIN person p ON p.user_id = x.user_id AND x.created_at < p.sealed_until AND isfinite(x.created_at)
    JOIN {s}.token_usage_rollup_month o ON o.user_id = x.user_id AND o.month = timezone('UTC', date_trunc('month', timezone('UTC', x.created_at)))
), {ctes}, stored AS (
  SELECT r.* FROM {s}.token_usage_rollup r JOIN person p ON p.user_id = r.user_id
    JOIN {s}.token_usage_rollup_month o ON o.user_id = r.user_id AND o.month = timezone('UTC', date_trunc('month', timezone('UTC', r.bucket)))
   WHERE o.flags & (CASE r.kind / 10 WHEN 3 THEN 1 WHEN 2 THEN 4 ELSE 16 END * CASE r.kind % 10 WHEN 0 THEN 1 ELSE 2 END) <> 0
     AND ($1 IS NULL OR r.user_id = $1::{user_type})
)
SELECT coalesce(a.user_id, b.user_id)::text,
       to_char(timezone('UTC', coalesce(a.bucket, b.bucket)), CASE coalesce(a.kind, b.kind) / 10 WHEN 3 THEN 'YYYY-MM' WHEN 2 THEN 'YYYY-MM-DD' ELSE 'YYYY-MM-DD"T"HH24:MI' END),
       CASE coalesce(a.kind, b.kind) % 10 WHEN 0 THEN 'none' WHEN 1 THEN 'agent ' ELSE 'model ' END
         || CASE WHEN coalesce(a.kind, b.kind) % 10 > 0 THEN coalesce(a.key1, b.key1) ELSE '' END
         || CASE WHEN coalesce(a.kind, b.kind) % 10 = 2 THEN ' ' || coalesce(a.key2, b.key2) ELSE '' END,
       m.measure, m.ledger_value::text, m.rollup_value::text
  FROM (SELECT * FROM rolled WHERE requests <> 0 OR prompt <> 0 OR completion <> 0 OR total <> 0 OR usd <> 0 OR rub <> 0
                                OR unpriced <> 0 OR ms_sum <> 0 OR ms_count <> 0) a
  FULL JOIN (SELECT * FROM stored WHERE requests <> 0 OR prompt <> 0 OR completion <> 0 OR total <> 0 OR usd <> 0 OR rub <> 0
                                OR unpriced <> 0 OR ms_sum <> 0 OR ms_count <> 0) b
    ON a.user_id = b.user_id AND a.kind = b.kind AND a.bucket = b.bucket AND a.key1 = b.key1 AND a.key2 = b.key2 AND a.nulls = b.nulls
 CROSS JOIN LATERAL (VALUES ('requests_count', coalesce(a.requests, 0)::numeric, coalesce(b.requests, 0)::numeric),
   ('prompt_tokens', coalesce(a.prompt, 0), coalesce(b.prompt, 0)), ('completion_tokens', coalesce(a.completion, 0), coalesce(b.completion, 0)),
   ('total_tokens', coalesce(a.total, 0), coalesce(b.total, 0)), ('cost_usd', coalesce(a.usd, 0), coalesce(b.usd, 0)),
   ('cost_rub', coalesce(a.rub, 0), coalesce(b.rub, 0)), ('unpriced_count', coalesce(a.unpriced, 0), coalesce(b.unpriced, 0)),
   ('execution_time_ms', coalesce(a.ms_sum, 0), coalesce(b.ms_sum, 0)), ('execution_time_count', coalesce(a.ms_count, 0), coalesce(b.ms_count, 0)))
   m (measure, ledger_value, rollup_value)
 WHERE m.ledger_value <> m.rollup_value
 ORDER BY 1, 2, 3, 4$sql$) USING only_user;
END
$rollup$;

CREATE OR REPLACE FUNCTION @extschema@._token_usage_verify(path name[], only_user text)
RETURNS TABLE (user_id text, bucket text, dimension text, measure text, ledger text, rollup text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $rollup$
DECLARE
  ledger_oid oid := @extschema@._token_usage_ledger(path);
BEGIN
  IF only_user IS NOT NULL THEN
    only_user := @extschema@._token_usage_user(ledger_oid, only_user);
  END IF;
  RETURN QUERY SELECT * FROM @extschema@._token_usage_rollup_verify(ledger_oid, only_user);
END
$rollup$;

DO $overloads$
DECLARE
  user_type text;
BEGIN
  FOREACH user_type IN ARRAY ARRAY['bigint', 'text', 'uuid'] LOOP
    EXECUTE pg_catalog.format($statement$
      CREATE OR REPLACE FUNCTION @extschema@.token_usage_verify(only_user %1$s%2$s)
      RETURNS TABLE (user_id text, bucket text, dimension text, measure text, ledger text, rollup text) LANGUAGE sql STABLE AS $function$
        SELECT * FROM @extschema@._token_usage_verify(pg_catalog.current_schemas(false), $1::pg_catalog.text)
      $function$;
      CREATE OR REPLACE FUNCTION @extschema@.token_usage_rebuild(user_id %1$s%2$s)
      RETURNS bigint LANGUAGE sql VOLATILE AS $function$
        SELECT @extschema@._token_usage_rebuild(pg_catalog.current_schemas(false), $1::pg_catalog.text)
      $function$;
    $statement$, user_type, CASE user_type WHEN 'text' THEN ' DEFAULT NULL' ELSE '' END);
  END LOOP;
END
$overloads$;
