-- Rollups: the derived tables beside a ledger, the triggers that keep them exact, and how reports read them.
-- Rules 4, 7 and 10 and section 4 of the contract; docs/rollups.md tells a DBA how it works.
--
-- The one invariant, true in every snapshot: for each user and each month that is rolled,
--   rollup rows + visible deltas before sealed_until = ledger rows before sealed_until.
-- From sealed_until on, and in months that are not rolled, the ledger's own rows are the truth.
--
-- A row older than the guard leaves a signed delta in the writer's transaction. The guard is a sequence, read
-- without a snapshot, so that every isolation level sees its newest value. A newer row leaves nothing: the
-- trigger's WHEN clause says so before any function is called. Sealing goes no further than a guard that every
-- open transaction has seen; a transaction id taken after the guard was raised tells when that is so.

-- How a ledger's column is read, as an expression over row `alias` in the types of the derived tables. It names
-- nothing but pg_catalog, so that it may stand in functions that outlive the extension. NULL: not to be rolled.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_rollup_expression(ledger oid, column_name text, alias text)
RETURNS text LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $rollup$
DECLARE
  kind oid;
  digits integer;
  here text := alias || '.' || quote_ident(column_name);
BEGIN
  SELECT CASE WHEN y.typtype = 'd' THEN y.typbasetype ELSE y.oid END,
         CASE WHEN y.oid = 'numeric'::regtype AND a.atttypmod >= 0 THEN (a.atttypmod - 4) & 2047 END
    INTO kind, digits
    FROM pg_attribute a JOIN pg_type y ON y.oid = a.atttypid
   WHERE a.attrelid = ledger AND a.attname = column_name AND NOT a.attisdropped;
  IF NOT FOUND THEN
    RETURN NULL;
  END IF;
  IF column_name = 'created_at' THEN
    RETURN CASE kind WHEN 'timestamp'::regtype THEN 'timezone(''UTC'', ' || here || ')'
                     WHEN 'timestamptz'::regtype THEN here END;
  ELSIF column_name IN ('agent_id', 'ai_provider', 'ai_model') THEN
    RETURN '(' || here || '::text COLLATE "C")';
  ELSIF kind IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype) THEN
    RETURN here || CASE WHEN column_name LIKE 'cost%' THEN '::numeric' ELSE '::int8' END;
  ELSIF column_name LIKE 'cost%' AND kind IN ('numeric'::regtype, 'float8'::regtype) THEN
    -- The casts also keep the triggers going where a column's type is changed under them. Infinity has no numeric before 14.
    here := CASE kind WHEN 'float8'::regtype
                      THEN format('(CASE WHEN %1$s > ''-Infinity'' AND %1$s < ''Infinity'' THEN %1$s::numeric END)', here)
                      ELSE here || '::numeric' END;
    -- scale() is NULL for NaN and the infinities: unpriced. round() is half away from zero; rule 4 is half-even.
    RETURN replace('(CASE WHEN scale({x}) <= 12 THEN {x} WHEN scale({x}) > 12 THEN round({x}, 12) - CASE WHEN'
                   ' abs({x} - trunc({x}, 12)) = 0.0000000000005 AND mod(trunc({x}, 12), 0.000000000002) = 0'
                   ' THEN sign({x}) * 0.000000000001 ELSE 0 END END)', '{x}', here);
  END IF;
  RETURN NULL;
END
$rollup$;

-- The signed measures of a row, for sums: one list for ledger rows, deltas and rollup rows alike.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_rollup_row(ledger oid, alias text)
RETURNS text LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $rollup$
  SELECT CASE WHEN e IS NOT NULL THEN format('%s AS created_at, %s AS agent, %s AS provider, %s AS model, coalesce(%s, 0) AS prompt, coalesce(%s, 0) AS completion, '
                'coalesce(%s, %s + %s, 0) AS total, %s AS usd, %s AS rub, %s AS ms',
                e.created_at, e.agent, e.provider, e.model, e.prompt, e.completion, e.total,
                'coalesce(' || e.prompt || ', 0)', 'coalesce(' || e.completion || ', 0)', e.usd, e.rub, e.ms) END
    FROM (SELECT @extschema@._token_usage_rollup_expression(ledger, 'created_at', alias) AS created_at,
                 @extschema@._token_usage_rollup_expression(ledger, 'agent_id', alias) AS agent,
                 @extschema@._token_usage_rollup_expression(ledger, 'ai_provider', alias) AS provider,
                 @extschema@._token_usage_rollup_expression(ledger, 'ai_model', alias) AS model,
                 @extschema@._token_usage_rollup_expression(ledger, 'prompt_tokens', alias) AS prompt,
                 @extschema@._token_usage_rollup_expression(ledger, 'completion_tokens', alias) AS completion,
                 @extschema@._token_usage_rollup_expression(ledger, 'total_tokens', alias) AS total,
                 @extschema@._token_usage_rollup_expression(ledger, 'cost_usd', alias) AS usd,
                 @extschema@._token_usage_rollup_expression(ledger, 'cost_rub', alias) AS rub,
                 @extschema@._token_usage_rollup_expression(ledger, 'execution_time_ms', alias) AS ms) e
$rollup$;

-- A range of a report's bounds, cut into pieces: tier 3 whole months, 2 whole days, 1 whole hours (half-hours
-- where the report has no groups, for zones of :30) from the rollup, 0 from the ledger. Bounds and results are instants; buckets are UTC. A rolled bucket that sealed_until
-- cuts holds what lies before it, so it may serve a piece that reaches sealed_until.
-- months: the rolled months in order; flags: what is rolled of each (see _token_usage_rollup_flags).
CREATE OR REPLACE FUNCTION @extschema@._token_usage_rollup_pieces(
  bounds timestamptz[], sealed_until timestamptz, months timestamptz[], flags smallint[], groups boolean,
  OUT tier integer, OUT lo timestamptz, OUT hi timestamptz)
RETURNS SETOF record LANGUAGE plpgsql IMMUTABLE ROWS 4 SET search_path = pg_catalog, pg_temp AS $rollup$
DECLARE
  month_bit integer := CASE WHEN groups THEN 2 ELSE 1 END;
  day_bit integer := CASE WHEN groups THEN 8 ELSE 4 END;
  hour_bit integer := CASE WHEN groups THEN 32 ELSE 16 END;
  n integer := cardinality(bounds);
  last timestamp;
  sealed timestamp;
  pos timestamp;
  stop timestamp;
  bound timestamp;
  month timestamp;
  month_end timestamp;
  piece integer;
  have integer;
  have_lo timestamp;
  unit_start timestamp;
  unit_end timestamp;
  half_hour constant interval := '30 minutes';
  f integer;
  i integer := 2;
  m integer := 1;
BEGIN
  IF sealed_until IS NULL OR months IS NULL OR bounds[1] >= sealed_until OR bounds[n] <= months[1] THEN
    tier := 0;
    lo := bounds[1];
    hi := bounds[n];
    RETURN NEXT;
    RETURN;
  END IF;
  last := timezone('UTC', bounds[n]);
  sealed := timezone('UTC', sealed_until);
  pos := timezone('UTC', bounds[1]);
  have_lo := pos;
  bound := timezone('UTC', bounds[2]);
  month := timezone('UTC', months[1]);
  month_end := month + interval '1 month';
  f := flags[1];
  WHILE pos < last LOOP
    WHILE bound <= pos LOOP
      i := i + 1;
      bound := timezone('UTC', bounds[i]);
    END LOOP;
    WHILE month IS NOT NULL AND month_end <= pos LOOP
      m := m + 1;
      month := timezone('UTC', months[m]);
      month_end := month + interval '1 month';
      f := flags[m];
    END LOOP;
    piece := 0;
    IF month IS NULL OR pos >= sealed THEN
      stop := last;
    ELSIF pos < month THEN
      stop := least(month, last);
    ELSE
      -- What lies before sealed_until is the whole of its bucket.
      stop := CASE WHEN bound >= sealed THEN sealed ELSE bound END;
      IF f & month_bit <> 0 AND pos = month AND (stop >= month_end OR stop = sealed) THEN
        piece := 3;
        stop := least(month_end, stop);
      ELSE
        stop := least(month_end, stop);
        IF f & day_bit <> 0 AND pos = date_trunc('day', pos)
           AND (stop = sealed OR date_trunc('day', stop) > pos) THEN
          piece := 2;
          IF stop <> sealed THEN
            stop := date_trunc('day', stop);
          END IF;
        ELSE
          IF f & day_bit <> 0 THEN
            stop := least(stop, date_trunc('day', pos) + interval '1 day');
          END IF;
          IF f & hour_bit <> 0 THEN
            unit_start := date_trunc('hour', pos);
            IF NOT groups AND pos >= unit_start + half_hour THEN
              unit_start := unit_start + half_hour;
            END IF;
            unit_end := date_trunc('hour', stop);
            IF NOT groups AND stop >= unit_end + half_hour THEN
              unit_end := unit_end + half_hour;
            END IF;
            IF pos = unit_start AND (stop = sealed OR unit_end > pos) THEN
              piece := 1;
              IF stop <> sealed THEN
                stop := unit_end;
              END IF;
            ELSE
              stop := least(stop, unit_start + CASE WHEN groups THEN interval '1 hour' ELSE half_hour END);
            END IF;
          END IF;
        END IF;
      END IF;
    END IF;
    IF piece IS DISTINCT FROM have THEN
      IF have IS NOT NULL THEN
        tier := have;
        lo := timezone('UTC', have_lo);
        hi := timezone('UTC', pos);
        RETURN NEXT;
      END IF;
      have := piece;
      have_lo := pos;
    END IF;
    pos := stop;
  END LOOP;
  tier := have;
  lo := timezone('UTC', have_lo);
  hi := bounds[n];
  RETURN NEXT;
END
$rollup$;

-- What of a month is rolled, by its rows and its groups (agents plus models): a sum of 1 month, 2 month by
-- group, 4 day, 8 day by group, 16 half-hour, 32 hour by group. Chosen so that the rollup stays well under a
-- fifth of the ledger with its indexes; a month too thin for that is read through idx_token_usage_user_date.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_rollup_flags() RETURNS text LANGUAGE sql IMMUTABLE AS $rollup$
  SELECT '(CASE WHEN c < 64 THEN 0 ELSE 1 + CASE WHEN c >= 5 * g THEN 2 ELSE 0 END + CASE WHEN c >= 250 THEN 4 ELSE 0 END'
         ' + CASE WHEN c >= 2000 AND c >= 200 * g THEN 8 ELSE 0 END + CASE WHEN c >= 7000 THEN 16 ELSE 0 END'
         ' + CASE WHEN c >= 20000 AND c >= 2600 * g THEN 32 ELSE 0 END END)::int2'::text
$rollup$;

-- The common tail of every statement that writes or checks rollup rows: from CTE src(user_id, created_at, agent,
-- provider, model, prompt, completion, total, usd, rub, ms, sign, flags) to CTE rolled, one row per
-- (user_id, kind, bucket, key1, key2, nulls). kind = tier * 10 + dimension (0 all, 1 agent, 2 model).
CREATE OR REPLACE FUNCTION @extschema@._token_usage_rollup_ctes() RETURNS text LANGUAGE sql IMMUTABLE AS $rollup$
  SELECT $sql$
fine AS (
  SELECT user_id, flags, CASE grouping(nb, agent, model) WHEN 3 THEN 0 WHEN 5 THEN 1 ELSE 2 END AS dim,
         CASE grouping(nb) WHEN 0 THEN nb ELSE gb END AS bucket,
         CASE WHEN grouping(agent) = 0 THEN agent WHEN grouping(model) = 0 THEN provider END AS key1,
         CASE WHEN grouping(model) = 0 THEN model END AS key2,
         sum(sign) AS requests, sum(sign * prompt) AS prompt, sum(sign * completion) AS completion, sum(sign * total) AS total,
         coalesce(sum(sign * usd), 0) AS usd, coalesce(sum(sign * rub), 0) AS rub,
         sum(CASE WHEN usd IS NULL THEN sign ELSE 0 END) AS unpriced,
         coalesce(sum(sign * ms), 0) AS ms_sum, sum(CASE WHEN ms IS NULL THEN 0 ELSE sign END) AS ms_count
    FROM (SELECT *, timezone('UTC', CASE WHEN flags & 16 <> 0
                        THEN date_trunc('hour', at) + CASE WHEN extract(minute FROM at) >= 30 THEN interval '30 minutes' ELSE interval '0' END
                        ELSE date_trunc(CASE WHEN flags & 4 <> 0 THEN 'day' ELSE 'month' END, at) END) AS nb,
                 timezone('UTC', date_trunc(CASE WHEN flags & 32 <> 0 THEN 'hour' WHEN flags & 8 <> 0 THEN 'day' ELSE 'month' END, at)) AS gb
            FROM (SELECT *, timezone('UTC', created_at) AS at FROM src) z) x
   GROUP BY GROUPING SETS ((user_id, flags, nb), (user_id, flags, gb, agent), (user_id, flags, gb, provider, model))
), rolled AS (
  SELECT f.user_id, (t.tier * 10 + f.dim)::int2 AS kind,
         CASE t.tier WHEN 1 THEN f.bucket ELSE timezone('UTC', date_trunc(t.unit, timezone('UTC', f.bucket))) END AS bucket,
         coalesce(f.key1, '') AS key1, coalesce(f.key2, '') AS key2,
         (CASE WHEN f.dim > 0 AND f.key1 IS NULL THEN 1 ELSE 0 END + CASE WHEN f.dim = 2 AND f.key2 IS NULL THEN 2 ELSE 0 END)::int2 AS nulls,
         sum(f.requests) AS requests, sum(f.prompt) AS prompt, sum(f.completion) AS completion, sum(f.total) AS total,
         sum(f.usd) AS usd, sum(f.rub) AS rub, sum(f.unpriced) AS unpriced, sum(f.ms_sum) AS ms_sum, sum(f.ms_count) AS ms_count
    FROM fine f
    JOIN (VALUES (3, 'month', 1, 2), (2, 'day', 4, 8), (1, 'hour', 16, 32)) t (tier, unit, bit, group_bit)
      ON f.flags & CASE WHEN f.dim = 0 THEN t.bit ELSE t.group_bit END <> 0
   GROUP BY 1, 2, 3, 4, 5, 6
)$sql$::text
$rollup$;

-- Whether the caller may read a ledger through its rollups: the derived tables are there, no row security is
-- active for the caller, and the caller may SELECT them all. If not, reports read the ledger itself.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_rollup_readable(ledger oid)
RETURNS boolean LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $rollup$
DECLARE
  space text := quote_ident((SELECT n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = ledger));
  part text;
  parts text[] := '{token_usage_rollup,token_usage_rollup_month,token_usage_rollup_user,token_usage_rollup_epoch,token_usage_delta}';
BEGIN
  IF row_security_active(ledger) OR NOT has_table_privilege(ledger, 'SELECT') THEN
    RETURN false;
  END IF;
  FOREACH part IN ARRAY parts LOOP
    IF has_table_privilege(to_regclass(space || '.' || part)::oid, 'SELECT') IS NOT TRUE THEN
      RETURN false;
    END IF;
  END LOOP;
  RETURN true;
END
$rollup$;

-- The statement that reads sums through the rollups. Parameters as those of _token_usage_sums:
-- $1 user_id text, $2 agent text (by_agent tells whether it is given), $3 bounds timestamptz[].
-- Result: bucket (from 1), key1, key2, requests_count, prompt_tokens, completion_tokens, total_tokens, cost_usd,
-- cost_rub, unpriced_count, execution_ms_sum, execution_ms_count.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_rollup_read_sql(ledger oid, dimension text, by_agent boolean)
RETURNS text LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $rollup$
DECLARE
  dim integer := CASE WHEN by_agent OR dimension = 'agent' THEN 1 WHEN dimension = 'none' THEN 0 ELSE 2 END;
  rollup_keys text;
  row_keys text;
  created text;
BEGIN
  IF by_agent AND dimension NOT IN ('none', 'agent') OR NOT @extschema@._token_usage_rollup_possible(ledger) THEN
    RETURN NULL;  -- no rollup holds agent and model together, or one of a type that is not rolled
  END IF;
  SELECT CASE dimension WHEN 'none' THEN 'NULL::text AS key1, NULL::text AS key2'
                        WHEN 'agent' THEN 'CASE WHEN r.nulls & 1 = 0 THEN r.key1 END AS key1, NULL::text AS key2'
                        WHEN 'provider' THEN 'CASE WHEN r.nulls & 1 = 0 THEN r.key1 END AS key1, NULL::text AS key2'
                        ELSE 'CASE WHEN r.nulls & 1 = 0 THEN r.key1 END AS key1, CASE WHEN r.nulls & 2 = 0 THEN r.key2 END AS key2' END,
         CASE dimension WHEN 'none' THEN 'NULL::text AS key1, NULL::text AS key2'
                        WHEN 'agent' THEN 'x.agent AS key1, NULL::text AS key2'
                        WHEN 'provider' THEN 'x.provider AS key1, NULL::text AS key2'
                        ELSE 'x.provider AS key1, x.model AS key2' END
    INTO rollup_keys, row_keys;
  created := @extschema@._token_usage_rollup_expression(ledger, 'created_at', 't');
  RETURN @extschema@._token_usage_rollup_text(ledger, replace(replace(replace(replace(replace(replace($sql$
WITH state AS MATERIALIZED (
  SELECT u.sealed_until, m.months, m.flags
    FROM {s}.token_usage_rollup_user u
   CROSS JOIN LATERAL (SELECT array_agg(q.month) AS months, array_agg(q.flags) AS flags
                         FROM (SELECT o.month, o.flags FROM {s}.token_usage_rollup_month o WHERE o.user_id = u.user_id ORDER BY o.month) q) m
   WHERE u.user_id = $1::{user_type} AND u.epoch = {epoch}
), piece AS MATERIALIZED (
  SELECT p.tier, p.lo, p.hi FROM (SELECT 1) one LEFT JOIN state ON true
   CROSS JOIN LATERAL @extschema@._token_usage_rollup_pieces($3, state.sealed_until, state.months, state.flags, {groups}) p
)
SELECT y.bucket, y.key1, y.key2, sum(y.requests)::int8, sum(y.prompt)::numeric, sum(y.completion)::numeric, sum(y.total)::numeric,
       sum(y.usd), sum(y.rub), sum(y.unpriced)::int8, sum(y.ms_sum)::numeric, sum(y.ms_count)::int8
  FROM (SELECT width_bucket(r.bucket, $3) AS bucket, {rollup_keys}, r.requests, r.prompt, r.completion, r.total,
               r.usd, r.rub, r.unpriced, r.ms_sum, r.ms_count
          FROM piece p JOIN {s}.token_usage_rollup r
            ON r.user_id = $1::{user_type} AND r.kind = (p.tier * 10 + {dim})::int2 AND r.bucket >= p.lo AND r.bucket < p.hi
         WHERE p.tier > 0 {rollup_agent}
        UNION ALL
        SELECT width_bucket(x.created_at, $3), {row_keys}, x.sign, x.sign * x.prompt, x.sign * x.completion, x.sign * x.total,
               x.sign * coalesce(x.usd, 0), x.sign * coalesce(x.rub, 0), CASE WHEN x.usd IS NULL THEN x.sign ELSE 0 END,
               x.sign * coalesce(x.ms, 0), CASE WHEN x.ms IS NULL THEN 0 ELSE x.sign END
          FROM state s CROSS JOIN piece p JOIN {s}.token_usage_delta x
            ON x.user_id = $1::{user_type} AND x.created_at >= p.lo AND x.created_at < least(p.hi, s.sealed_until)
         WHERE p.tier > 0 {row_agent}
        UNION ALL
        SELECT width_bucket(x.created_at, $3), {row_keys}, 1, x.prompt, x.completion, x.total,
               coalesce(x.usd, 0), coalesce(x.rub, 0), CASE WHEN x.usd IS NULL THEN 1 ELSE 0 END,
               coalesce(x.ms, 0), CASE WHEN x.ms IS NULL THEN 0 ELSE 1 END
          FROM piece p CROSS JOIN LATERAL (SELECT {row} FROM {ledger} t WHERE t.user_id = $1::{user_type}
                 AND t.created_at >= {p.lo} AND t.created_at < {p.hi} AND t.created_at > '-infinity') x
         WHERE p.tier = 0 {row_agent}) y
 GROUP BY 1, 2, 3 HAVING sum(y.requests) <> 0$sql$,
    '{rollup_keys}', rollup_keys), '{row_keys}', row_keys), '{dim}', dim::text), '{groups}', (dim > 0)::text),
    '{rollup_agent}', CASE WHEN by_agent THEN 'AND r.key1 = $2 AND r.nulls = 0' ELSE '' END),
    '{row_agent}', CASE WHEN by_agent THEN 'AND x.agent = $2' ELSE '' END));
END
$rollup$;

-- Fills a template about one ledger in: {s} its schema, {ledger} its name, {l} the name as a literal, {user_type},
-- {epoch} the epoch in force or NULL, {row} and {new} and {old} the measures of row t, NEW, OLD, {at} and its
-- like the instants, {x.lo} an instant compared with the ledger's own created_at, {flags}, {ctes}.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_rollup_text(ledger oid, template text)
RETURNS text LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $rollup$
DECLARE
  space text;
  name text;
  user_type text;
  plain boolean;
  filled text := template;
  word text;
BEGIN
  SELECT quote_ident(n.nspname), quote_ident(n.nspname) || '.' || quote_ident(c.relname)
    INTO space, name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = ledger;
  SELECT format_type(CASE WHEN y.typtype = 'd' THEN y.typbasetype ELSE a.atttypid END, NULL)
    INTO user_type FROM pg_attribute a JOIN pg_type y ON y.oid = a.atttypid
   WHERE a.attrelid = ledger AND a.attname = 'user_id' AND NOT a.attisdropped;
  SELECT a.atttypid = 'timestamp'::regtype INTO plain FROM pg_attribute a
   WHERE a.attrelid = ledger AND a.attname = 'created_at' AND NOT a.attisdropped;
  filled := replace(filled, '{ctes}', @extschema@._token_usage_rollup_ctes());
  -- Where every row counts once: the same without the multiplications.
  filled := replace(filled, '{unsigned_ctes}', replace(replace(replace(replace(@extschema@._token_usage_rollup_ctes(),
    'sign * ', ''), 'sum(sign)', 'count(*)'), 'sum(CASE WHEN usd IS NULL THEN sign ELSE 0 END)', 'count(*) - count(usd)'),
    'sum(CASE WHEN ms IS NULL THEN 0 ELSE sign END)', 'count(ms)'));
  filled := replace(filled, '{flags}', @extschema@._token_usage_rollup_flags());
  filled := replace(filled, '{epoch}', '(SELECT e.epoch FROM {s}.token_usage_rollup_epoch e WHERE e.ledger = {l}::regclass'
    ' AND e.filenode = coalesce(pg_relation_filenode({l}::regclass), 0) AND e.stamp = e.xmin::text'
    ' AND NOT EXISTS (SELECT FROM {s}.token_usage_rollup_epoch o WHERE o.ctid <> e.ctid))');
  filled := replace(filled, '{row}', @extschema@._token_usage_rollup_row(ledger, 't'));
  filled := replace(filled, '{new}', @extschema@._token_usage_rollup_row(ledger, 'NEW'));
  filled := replace(filled, '{old}', @extschema@._token_usage_rollup_row(ledger, 'OLD'));
  filled := replace(filled, '{at}', @extschema@._token_usage_rollup_expression(ledger, 'created_at', 't'));
  filled := replace(filled, '{new_at}', @extschema@._token_usage_rollup_expression(ledger, 'created_at', 'NEW'));
  filled := replace(filled, '{old_at}', @extschema@._token_usage_rollup_expression(ledger, 'created_at', 'OLD'));
  FOREACH word IN ARRAY '{p.lo,p.hi,from_at,to_at,month_at,month_end,sealed}'::text[] LOOP
    filled := replace(filled, '{' || word || '}', CASE WHEN plain THEN 'timezone(''UTC'', ' || word || ')' ELSE word END);
  END LOOP;
  filled := replace(filled, '{guard}', 'to_timestamp(pg_sequence_last_value(''{s}.token_usage_rollup_guard''::regclass)::float8)');
  FOREACH word IN ARRAY '{guard,turn}'::text[] LOOP
    filled := replace(filled, '''{s}.token_usage_rollup_' || word || '''', quote_literal(space || '.token_usage_rollup_' || word));
  END LOOP;
  -- The widest of its family, so that the ledger's own column may be widened under us.
  user_type := CASE WHEN user_type IN ('smallint', 'integer', 'bigint') THEN 'bigint' WHEN user_type = 'uuid' THEN 'uuid' ELSE 'text' END;
  filled := replace(filled, '{user_type}', user_type);
  filled := replace(filled, '{ledger}', name);
  filled := replace(filled, '{l}', quote_literal(name));
  RETURN replace(filled, '{s}', space);
END
$rollup$;

-- Whether a ledger's columns are of types that rollups can add exactly; if not, reports read the ledger.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_rollup_possible(ledger oid)
RETURNS boolean LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $rollup$
  SELECT @extschema@._token_usage_rollup_row(ledger, 't') IS NOT NULL
     AND (SELECT count(*) = 3 FROM pg_attribute a
           WHERE a.attrelid = ledger AND a.attname IN ('id', 'user_id', 'created_at') AND NOT a.attisdropped)
$rollup$;

-- Makes what is missing of a ledger's derived tables, functions and triggers; part of token_usage_migrate().
-- All of it belongs to the ledger's owner and names nothing of the extension, so that it goes on working, and
-- the rollups stay exact, after DROP EXTENSION. Returns steps as migrate does. Run by the ledger's owner.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_rollup_migrate(ledger oid)
RETURNS jsonb LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $rollup$
DECLARE
  space text;
  space_oid oid;
  owner oid;
  user_type text;
  id_type oid;
  id_hash text;
  steps jsonb := '[]';
  fresh boolean := false;
  part record;
  code record;
BEGIN
  SELECT quote_ident(n.nspname), n.oid, c.relowner INTO space, space_oid, owner
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = ledger;
  IF NOT @extschema@._token_usage_rollup_possible(ledger) THEN
    RETURN steps;
  END IF;
  -- Left beside a ledger of another type of user, which is gone: nothing of it is worth keeping.
  user_type := @extschema@._token_usage_rollup_text(ledger, '{user_type}');
  IF EXISTS (SELECT FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
              WHERE c.relnamespace = space_oid AND c.relname = 'token_usage_delta' AND a.attname = 'user_id'
                AND a.atttypid <> user_type::regtype) THEN
    EXECUTE format('DROP TABLE %1$s.token_usage_rollup_user, %1$s.token_usage_rollup_month, %1$s.token_usage_rollup,'
                   ' %1$s.token_usage_delta', space);
    FOR code IN SELECT f.oid::regprocedure AS signature FROM pg_proc f WHERE f.pronamespace = space_oid
        AND f.proname IN ('token_usage_rollup_visit', 'token_usage_rollup_fold', 'token_usage_rollup_again') LOOP
      EXECUTE format('DROP FUNCTION %s', code.signature);
    END LOOP;
  END IF;
  FOR part IN SELECT * FROM (VALUES
      ('token_usage_rollup_epoch', 'epoch uuid NOT NULL, ledger oid NOT NULL, filenode oid NOT NULL, stamp text NOT NULL'),
      ('token_usage_rollup_state', 'epoch uuid NOT NULL PRIMARY KEY, confirmed timestamptz, pending timestamptz, horizon bigint'),
      ('token_usage_rollup_user', 'user_id {user_type} NOT NULL PRIMARY KEY, epoch uuid NOT NULL, sealed_until timestamptz NOT NULL'),
      ('token_usage_rollup_month', 'user_id {user_type} NOT NULL, month timestamptz NOT NULL, flags smallint NOT NULL, PRIMARY KEY (user_id, month)'),
      ('token_usage_rollup', 'user_id {user_type} NOT NULL, bucket timestamptz NOT NULL, requests bigint NOT NULL, prompt bigint NOT NULL,'
       ' completion bigint NOT NULL, total bigint NOT NULL, unpriced bigint NOT NULL, ms_sum bigint NOT NULL, ms_count bigint NOT NULL,'
       ' kind smallint NOT NULL, nulls smallint NOT NULL, key1 text COLLATE "C" NOT NULL, key2 text COLLATE "C" NOT NULL,'
       ' usd numeric NOT NULL, rub numeric NOT NULL, PRIMARY KEY (user_id, kind, bucket, key1, key2, nulls)'),
      ('token_usage_delta', 'user_id {user_type}, created_at timestamptz, prompt bigint, completion bigint, total bigint, ms bigint,'
       ' turn bigint, sign smallint NOT NULL, agent text COLLATE "C", provider text COLLATE "C", model text COLLATE "C", usd numeric, rub numeric'))
      p (name, columns) LOOP
    IF EXISTS (SELECT FROM pg_class c WHERE c.relname = part.name AND c.relnamespace = space_oid) THEN
      IF NOT EXISTS (SELECT FROM pg_class c WHERE c.relname = part.name AND c.relnamespace = space_oid
                        AND c.relkind = 'r' AND c.relowner = owner) THEN
        RAISE EXCEPTION 'token_usage: % is not a table of the owner of %', space || '.' || part.name, ledger::regclass
          USING ERRCODE = '42501';
      END IF;
      steps := steps || jsonb_build_object('step', 'table ' || part.name, 'action', 'kept');
    ELSE
      EXECUTE @extschema@._token_usage_rollup_text(ledger, format('CREATE TABLE {s}.%I (%s)', part.name, part.columns));
      EXECUTE format('ALTER TABLE %s.%I OWNER TO %s', space, part.name, owner::regrole);
      steps := steps || jsonb_build_object('step', 'table ' || part.name, 'action', 'created');
      fresh := true;
    END IF;
  END LOOP;
  IF fresh THEN
    EXECUTE format('CREATE INDEX IF NOT EXISTS idx_token_usage_delta ON %s.token_usage_delta (user_id, created_at)', space);
    EXECUTE format('ALTER TABLE %s.token_usage_delta SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000,'
                   ' autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 1000000)', space);
    EXECUTE format('ALTER TABLE %s.token_usage_rollup SET (fillfactor = 90, autovacuum_vacuum_scale_factor = 0.05)', space);
    EXECUTE format('ALTER TABLE %s.token_usage_rollup_user SET (fillfactor = 50)', space);
  END IF;
  IF to_regclass(space || '.token_usage_rollup_guard') IS NULL THEN
    EXECUTE format('CREATE SEQUENCE %s.token_usage_rollup_guard MINVALUE -9223372036854775807', space);
    EXECUTE format('ALTER SEQUENCE %s.token_usage_rollup_guard OWNER TO %s', space, owner::regrole);
    EXECUTE format('CREATE SEQUENCE %s.token_usage_rollup_turn CYCLE', space);
    EXECUTE format('ALTER SEQUENCE %s.token_usage_rollup_turn OWNER TO %s', space, owner::regrole);
  END IF;
  -- Every writer's trigger reads the guard. It tells an instant and nothing else.
  EXECUTE format('GRANT SELECT ON SEQUENCE %s.token_usage_rollup_guard TO PUBLIC', space);

  FOR code IN SELECT * FROM @extschema@._token_usage_rollup_functions() LOOP
    EXECUTE @extschema@._token_usage_rollup_text(ledger, code.definition);
    EXECUTE @extschema@._token_usage_rollup_text(ledger, 'ALTER FUNCTION ' || code.signature || ' OWNER TO ' || owner::regrole);
    EXECUTE @extschema@._token_usage_rollup_text(ledger, 'REVOKE ALL ON FUNCTION ' || code.signature || ' FROM PUBLIC');
  END LOOP;

  SELECT CASE WHEN y.typtype = 'd' THEN y.typbasetype ELSE y.oid END INTO id_type
    FROM pg_attribute a JOIN pg_type y ON y.oid = a.atttypid
   WHERE a.attrelid = ledger AND a.attname = 'id' AND NOT a.attisdropped;
  id_hash := CASE WHEN id_type IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype) THEN 'hashint8(NEW.id::int8)'
                  WHEN id_type = 'uuid'::regtype THEN 'uuid_hash(NEW.id::uuid)' ELSE 'hashtext(NEW.id::text)' END;
  FOR part IN SELECT * FROM (VALUES
      ('token_usage_rollup_insert', 'INSERT', 'FOR EACH ROW WHEN ({new_at} < {guard} OR ' || id_hash || ' & 127 = 0)'),
      ('token_usage_rollup_update', 'UPDATE', 'FOR EACH ROW WHEN ({old_at} < {guard} OR {new_at} < {guard})'),
      ('token_usage_rollup_delete', 'DELETE', 'FOR EACH ROW WHEN ({old_at} < {guard})'),
      ('token_usage_rollup_truncate', 'TRUNCATE', 'FOR EACH STATEMENT')) p (name, event, clause) LOOP
    IF NOT EXISTS (SELECT FROM pg_trigger t JOIN pg_proc f ON f.oid = t.tgfoid
                    WHERE t.tgrelid = ledger AND t.tgname = part.name AND t.tgenabled = 'A'
                      AND f.pronamespace = space_oid AND f.proname = 'token_usage_rollup_write') THEN
      EXECUTE format('DROP TRIGGER IF EXISTS %I ON %s', part.name, ledger::regclass);
      EXECUTE @extschema@._token_usage_rollup_text(ledger, format('CREATE TRIGGER %I AFTER %s ON {ledger} %s EXECUTE FUNCTION {s}.token_usage_rollup_write()',
        part.name, part.event, part.clause));
      EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER %I', ledger::regclass, part.name);
      fresh := true;
    END IF;
  END LOOP;
  IF NOT EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = to_regclass(space || '.token_usage_delta') AND t.tgname = 'token_usage_rollup_at_commit') THEN
    EXECUTE format('CREATE CONSTRAINT TRIGGER token_usage_rollup_at_commit AFTER INSERT ON %1$s.token_usage_delta DEFERRABLE INITIALLY DEFERRED'
                   ' FOR EACH ROW WHEN (NEW.turn & 127 = 0) EXECUTE FUNCTION %1$s.token_usage_rollup_at_commit()', space);
    EXECUTE format('ALTER TABLE %s.token_usage_delta ENABLE ALWAYS TRIGGER token_usage_rollup_at_commit', space);
  END IF;
  -- Writes may have passed while a trigger was missing: whatever was rolled is void.
  IF fresh THEN
    EXECUTE format('DELETE FROM %s.token_usage_rollup_epoch', space);
  END IF;
  RETURN steps;
END
$rollup$;

-- The functions that a ledger carries: as templates, one row each.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_rollup_functions(OUT signature text, OUT definition text)
RETURNS SETOF record LANGUAGE sql IMMUTABLE AS $rollup$
VALUES ('{s}.token_usage_rollup_write()', $sql$
CREATE OR REPLACE FUNCTION {s}.token_usage_rollup_write() RETURNS trigger
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $code$
-- Made by token_usage_migrate(): keeps the rollups of {ledger} exact. See docs/rollups.md.
DECLARE
  guard timestamptz;
  before boolean := false;
  after boolean := false;
BEGIN
  IF TG_OP = 'TRUNCATE' THEN
    DELETE FROM {s}.token_usage_rollup_epoch;
    RETURN NULL;
  END IF;
  guard := {guard};
  IF TG_OP <> 'INSERT' THEN
    before := {old_at} < guard;
  END IF;
  IF TG_OP <> 'DELETE' THEN
    after := {new_at} < guard;
  END IF;
  IF TG_OP = 'UPDATE' AND before AND after
     AND NEW.user_id IS NOT DISTINCT FROM OLD.user_id
     AND (SELECT n FROM (SELECT {new}) n) IS NOT DISTINCT FROM (SELECT o FROM (SELECT {old}) o) THEN
    RETURN NULL;
  END IF;
  IF before THEN
    INSERT INTO {s}.token_usage_delta (user_id, sign, turn, created_at, agent, provider, model, prompt, completion, total, usd, rub, ms)
    SELECT OLD.user_id, -1, nextval('{s}.token_usage_rollup_turn'::regclass), {old};
  END IF;
  IF after THEN
    INSERT INTO {s}.token_usage_delta (user_id, sign, turn, created_at, agent, provider, model, prompt, completion, total, usd, rub, ms)
    SELECT NEW.user_id, 1, nextval('{s}.token_usage_rollup_turn'::regclass), {new};
  ELSIF TG_OP = 'INSERT' AND NEW.user_id IS NOT NULL AND current_setting('transaction_isolation') = 'read committed' THEN
    -- It is this user's turn: a row that counts for nothing asks for a visit when the transaction commits.
    INSERT INTO {s}.token_usage_delta (user_id, sign, turn) VALUES (NEW.user_id, 0, nextval('{s}.token_usage_rollup_turn'::regclass) * 128);
  END IF;
  RETURN NULL;
END
$code$;
$sql$), ('{s}.token_usage_rollup_at_commit()', $sql$
CREATE OR REPLACE FUNCTION {s}.token_usage_rollup_at_commit() RETURNS trigger
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $code$
-- Maintains, for one delta in 128. Deferred: while a statement runs, rows that it wrote are there whose deltas are
-- not yet, so nothing may be sealed; and locks that are taken at commit are held for no longer than that.
BEGIN
  IF NEW.sign = 0 THEN
    DELETE FROM {s}.token_usage_delta d WHERE d.user_id = NEW.user_id AND d.turn = NEW.turn AND d.sign = 0;
  END IF;
  IF current_setting('transaction_isolation') = 'read committed' THEN
    IF NEW.sign <> 0 THEN
      PERFORM {s}.token_usage_rollup_sweep();
    END IF;
    PERFORM {s}.token_usage_rollup_visit(NEW.user_id, 4096, 0);
  END IF;
  RETURN NULL;
END
$code$;
$sql$), ('{s}.token_usage_rollup_passed(bigint)', $sql$
CREATE OR REPLACE FUNCTION {s}.token_usage_rollup_passed(horizon bigint) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $code$
-- Whether every transaction older than horizon that wrote to the ledger has ended. One that is open but holds no
-- writer's lock on the ledger has not written to it, and will read the new guard if it does.
DECLARE
  snap pg_snapshot := pg_current_snapshot();
  old text[];
BEGIN
  IF pg_snapshot_xmax(snap)::text::bigint <= horizon THEN
    RETURN false;
  END IF;
  SELECT array_agg((x::text::bigint % 4294967296)::text) INTO old FROM pg_snapshot_xip(snap) x WHERE x::text::bigint < horizon;
  RETURN old IS NULL OR NOT EXISTS (
    SELECT FROM pg_locks a JOIN pg_locks b ON b.virtualtransaction = a.virtualtransaction
     WHERE a.locktype = 'transactionid' AND a.granted AND a.transactionid::text = ANY (old)
       AND b.locktype = 'relation' AND b.granted AND b.mode NOT IN ('AccessShareLock', 'RowShareLock')
       AND b.relation IN (SELECT {l}::regclass UNION ALL SELECT relid FROM pg_partition_tree({l}::regclass)));
END
$code$;
$sql$), ('{s}.token_usage_rollup_guard_up()', $sql$
CREATE OR REPLACE FUNCTION {s}.token_usage_rollup_guard_up() RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $code$
-- Raises the guard, or confirms the one raised before when every transaction that may have missed it has ended.
-- Holds the row lock of the state; a second caller passes by.
DECLARE
  st record;
  top bigint;
  mine bigint;
BEGIN
  SELECT * INTO st FROM {s}.token_usage_rollup_state WHERE epoch = {epoch} FOR UPDATE SKIP LOCKED;
  IF NOT FOUND THEN
    RETURN;
  END IF;
  IF st.horizon IS NOT NULL THEN
    IF {s}.token_usage_rollup_passed(st.horizon) THEN
      st.confirmed := st.pending;
      UPDATE {s}.token_usage_rollup_state SET confirmed = pending, horizon = NULL WHERE epoch = st.epoch;
    ELSE
      RETURN;
    END IF;
  END IF;
  IF st.confirmed IS NULL OR st.confirmed < now() - interval '1 second' THEN
    -- The sequence first, then the transaction id: a transaction that read the old guard has an older id.
    PERFORM setval('{s}.token_usage_rollup_guard'::regclass,
                   greatest(ceil(extract(epoch FROM now()))::bigint, pg_sequence_last_value('{s}.token_usage_rollup_guard'::regclass)));
    BEGIN
      UPDATE {s}.token_usage_rollup_state SET pending = now() WHERE epoch = st.epoch;
    EXCEPTION WHEN division_by_zero THEN
      NULL;  -- never: the block is here for the transaction id of its own
    END;
    SELECT t.xmin::text::bigint INTO mine FROM {s}.token_usage_rollup_state t WHERE t.epoch = st.epoch;
    top := pg_snapshot_xmax(pg_current_snapshot())::text::bigint;
    mine := top + ((mine - top) % 4294967296 + 4294967296 + 2147483648) % 4294967296 - 2147483648;
    UPDATE {s}.token_usage_rollup_state SET horizon = mine WHERE epoch = st.epoch;
  END IF;
END
$code$;
$sql$), ('{s}.token_usage_rollup_visit({user_type}, integer, integer)', $sql$
CREATE OR REPLACE FUNCTION {s}.token_usage_rollup_visit(usr {user_type}, max_rows integer, zeal integer) RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $code$
-- Seals and folds what waits for one user, at most about max_rows rows; returns how many rows it folded. Never
-- waits for a lock. zeal 0: only when enough waits to pay; 1: deltas however few; 2: everything, at any cost.
DECLARE
  now_epoch uuid;
  u record;
  sealed timestamptz;
  until timestamptz;
  till timestamptz;
  waiting bigint;
  late bigint;
  work bigint := 0;
  months timestamptz[];
  incoming bigint[];
  month_at timestamptz;
  month_end timestamptz;
  from_at timestamptz;
  to_at timestamptz;
  old_flags integer;
  new_flags integer;
  c bigint;
  g bigint;
  have bigint;
  i integer;
BEGIN
  IF usr IS NULL OR current_setting('transaction_isolation') <> 'read committed' OR row_security_active({l}::regclass) THEN
    RETURN 0;
  END IF;
  now_epoch := {epoch};
  IF now_epoch IS NULL THEN
    PERFORM {s}.token_usage_rollup_begin();
    RETURN 0;
  END IF;
  PERFORM {s}.token_usage_rollup_guard_up();
  SELECT * INTO u FROM {s}.token_usage_rollup_user r WHERE r.user_id = usr FOR UPDATE SKIP LOCKED;
  IF NOT FOUND THEN
    SELECT count(*) INTO waiting FROM (SELECT FROM {ledger} t WHERE t.user_id = usr LIMIT 256) x;
    IF waiting >= 256 AND NOT EXISTS (SELECT FROM {s}.token_usage_rollup_user r WHERE r.user_id = usr)
       AND pg_try_advisory_xact_lock(hashtextextended('token_usage_rollup_user', {l}::regclass::oid::bigint)) THEN
      INSERT INTO {s}.token_usage_rollup_user VALUES (usr, now_epoch, '-infinity') ON CONFLICT DO NOTHING;
    END IF;
    RETURN 0;
  END IF;
  IF u.epoch <> now_epoch THEN
    -- Left by an epoch that is over: clear it away, some at a time; readers do not look at it.
    DELETE FROM {s}.token_usage_rollup r WHERE r.user_id = usr
       AND r.ctid = ANY (ARRAY(SELECT o.ctid FROM {s}.token_usage_rollup o WHERE o.user_id = usr LIMIT greatest(max_rows, 1)));
    GET DIAGNOSTICS work = ROW_COUNT;
    IF work < greatest(max_rows, 1) THEN
      DELETE FROM {s}.token_usage_rollup_month o WHERE o.user_id = usr;
      UPDATE {s}.token_usage_rollup_user SET epoch = now_epoch, sealed_until = '-infinity' WHERE user_id = usr;
    END IF;
    RETURN work;
  END IF;

  sealed := u.sealed_until;
  SELECT greatest(s.confirmed, sealed) INTO until FROM {s}.token_usage_rollup_state s WHERE s.epoch = now_epoch;
  to_at := until;
  SELECT count(*), max(x.at) INTO waiting, till
    FROM (SELECT {at} AS at FROM {ledger} t WHERE t.user_id = usr AND t.created_at >= {sealed} AND t.created_at < {to_at}
             AND t.created_at > '-infinity' ORDER BY t.created_at LIMIT max_rows + 1) x;
  SELECT count(*) INTO late FROM (SELECT FROM {s}.token_usage_delta d WHERE d.user_id = usr LIMIT 64) x;
  IF waiting > max_rows THEN
    until := greatest(till, sealed + interval '1 microsecond');
  ELSIF zeal < 2 AND waiting < 256 THEN
    IF late = 0 OR zeal < 1 AND late < 64 THEN
      RETURN 0;
    END IF;
    until := sealed;
  ELSIF until = sealed AND late = 0 THEN
    RETURN 0;
  END IF;
  to_at := until;

  BEGIN
    SELECT array_agg(y.month_of ORDER BY y.month_of), array_agg(y.n ORDER BY y.month_of) INTO months, incoming
      FROM (SELECT x.month_of, sum(x.n)::bigint AS n
              FROM (SELECT timezone('UTC', date_trunc('month', timezone('UTC', {at}))) AS month_of, count(*) AS n
                      FROM {ledger} t WHERE t.user_id = usr AND t.created_at >= {sealed} AND t.created_at < {to_at}
                       AND t.created_at > '-infinity' GROUP BY 1
                    UNION ALL
                    SELECT timezone('UTC', date_trunc('month', timezone('UTC', d.created_at))), sum(d.sign)
                      FROM {s}.token_usage_delta d WHERE d.user_id = usr AND d.created_at < sealed AND isfinite(d.created_at) GROUP BY 1) x
             GROUP BY 1) y;
    FOR i IN 1 .. coalesce(cardinality(months), 0) LOOP
      month_at := months[i];
      month_end := timezone('UTC', timezone('UTC', month_at) + interval '1 month');
      from_at := least(greatest(sealed, month_at), month_end);
      to_at := least(until, month_end);
      SELECT o.flags INTO old_flags FROM {s}.token_usage_rollup_month o WHERE o.user_id = usr AND o.month = month_at;
      old_flags := coalesce(old_flags, 0);
      IF old_flags & 1 <> 0 THEN
        SELECT coalesce(sum(r.requests), 0) INTO have FROM {s}.token_usage_rollup r WHERE r.user_id = usr AND r.kind = 30::int2 AND r.bucket = month_at;
        SELECT count(*) INTO g FROM {s}.token_usage_rollup r WHERE r.user_id = usr AND r.kind IN (31::int2, 32::int2) AND r.bucket = month_at;
      ELSE
        SELECT count(*) INTO have FROM {ledger} t WHERE t.user_id = usr AND t.created_at >= {month_at} AND t.created_at < {from_at};
      END IF;
      c := have + incoming[i];
      IF old_flags & 2 = 0 THEN
        SELECT count(DISTINCT x.agent) + count(DISTINCT (x.provider, x.model)) INTO g
          FROM (SELECT {row} FROM {ledger} t WHERE t.user_id = usr AND t.created_at >= {month_at}
                   AND t.created_at < {to_at} LIMIT 8192) x;
      END IF;
      new_flags := old_flags | {flags};
      IF old_flags = 0 AND from_at = month_at THEN
        -- A month begins as the one before it was, lest it be read again at each step up.
        new_flags := new_flags | coalesce((SELECT o.flags FROM {s}.token_usage_rollup_month o
          WHERE o.user_id = usr AND o.month = timezone('UTC', timezone('UTC', month_at) - interval '1 month')), 0);
      END IF;
      IF new_flags <> old_flags AND (have <= 8192 OR zeal = 2) THEN
        DELETE FROM {s}.token_usage_rollup r WHERE r.user_id = usr AND r.bucket >= month_at AND r.bucket < month_end;
        PERFORM {s}.token_usage_rollup_fold(usr, month_at, month_at, greatest(from_at, to_at), new_flags::int2);
        INSERT INTO {s}.token_usage_rollup_month VALUES (usr, month_at, new_flags)
            ON CONFLICT (user_id, month) DO UPDATE SET flags = excluded.flags;
      ELSE
        PERFORM {s}.token_usage_rollup_fold(usr, month_at, from_at, greatest(from_at, to_at), old_flags::int2);
      END IF;
      work := work + abs(incoming[i]);
    END LOOP;
    -- From the seal on the ledger speaks for itself.
    DELETE FROM {s}.token_usage_delta d WHERE d.user_id = usr AND (d.created_at >= until OR NOT isfinite(d.created_at));
    UPDATE {s}.token_usage_rollup_user SET sealed_until = until WHERE user_id = usr;
  EXCEPTION WHEN numeric_value_out_of_range THEN
    RETURN 0;  -- a sum past bigint: the user stays as it was, and the report says so from what it reads
  END;
  RETURN work;
END
$code$;
$sql$), ('{s}.token_usage_rollup_sweep()', $sql$
CREATE OR REPLACE FUNCTION {s}.token_usage_rollup_sweep() RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $code$
-- Sees to it that no delta waits for ever: drops those of users of whom nothing is rolled (nobody can begin
-- to roll one while we hold the lock), and folds those of the user whose delta lies first.
BEGIN
  IF pg_try_advisory_xact_lock(hashtextextended('token_usage_rollup_user', {l}::regclass::oid::bigint)) THEN
    DELETE FROM {s}.token_usage_delta WHERE ctid = ANY (ARRAY(
      SELECT d.ctid FROM (SELECT x.ctid, x.user_id FROM {s}.token_usage_delta x LIMIT 4096) d
       WHERE NOT EXISTS (SELECT FROM {s}.token_usage_rollup_user r WHERE r.user_id = d.user_id)));
  END IF;
  PERFORM {s}.token_usage_rollup_visit(d.user_id, 4096, 1)
     FROM (SELECT x.user_id FROM {s}.token_usage_delta x LIMIT 1) d;
END
$code$;
$sql$), ('{s}.token_usage_rollup_fold({user_type}, timestamptz, timestamptz, timestamptz, smallint)', $sql$
CREATE OR REPLACE FUNCTION {s}.token_usage_rollup_fold(usr {user_type}, month_at timestamptz, from_at timestamptz, to_at timestamptz, month_flags smallint)
RETURNS void LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $code$
-- Folds the ledger's rows of [from_at, to_at) and the deltas of [month_at, to_at), all of one month, in one snapshot.
BEGIN
  IF month_flags = 0 THEN
    DELETE FROM {s}.token_usage_delta d WHERE d.user_id = usr AND d.created_at >= month_at AND d.created_at < to_at;
    RETURN;
  END IF;
  WITH gone AS (
    DELETE FROM {s}.token_usage_delta d WHERE d.user_id = usr AND d.created_at >= month_at AND d.created_at < to_at RETURNING d.*
  ), src AS (
    SELECT usr AS user_id, {row}, 1 AS sign, month_flags AS flags
      FROM {ledger} t WHERE t.user_id = usr AND t.created_at >= {from_at} AND t.created_at < {to_at}
    UNION ALL
    SELECT usr, d.created_at, d.agent, d.provider, d.model, d.prompt, d.completion, d.total, d.usd, d.rub, d.ms, d.sign, month_flags
      FROM gone d WHERE d.created_at < from_at AND d.sign <> 0
  ), {ctes}
  INSERT INTO {s}.token_usage_rollup AS r (user_id, kind, bucket, key1, key2, nulls, requests, prompt, completion, total, usd, rub, unpriced, ms_sum, ms_count)
  SELECT * FROM rolled
      ON CONFLICT (user_id, kind, bucket, key1, key2, nulls) DO UPDATE
     SET requests = r.requests + excluded.requests, prompt = r.prompt + excluded.prompt, completion = r.completion + excluded.completion,
         total = r.total + excluded.total, usd = r.usd + excluded.usd, rub = r.rub + excluded.rub, unpriced = r.unpriced + excluded.unpriced,
         ms_sum = r.ms_sum + excluded.ms_sum, ms_count = r.ms_count + excluded.ms_count;
END
$code$;
$sql$), ('{s}.token_usage_rollup_begin()', $sql$
CREATE OR REPLACE FUNCTION {s}.token_usage_rollup_begin() RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $code$
-- Begins an epoch when none is in force: what older ones rolled is void. The stamp is the row's own transaction
-- id, which a copy of the row in another database, or one restored into this one, does not have.
BEGIN
  IF NOT pg_try_advisory_xact_lock(hashtextextended('token_usage_rollup_epoch', {l}::regclass::oid::bigint)) THEN
    RETURN false;
  END IF;
  IF {epoch} IS NULL THEN
    DELETE FROM {s}.token_usage_rollup_state;
    DELETE FROM {s}.token_usage_rollup_epoch;
    INSERT INTO {s}.token_usage_rollup_epoch
    VALUES (gen_random_uuid(), {l}::regclass, coalesce(pg_relation_filenode({l}::regclass), 0), '');
    UPDATE {s}.token_usage_rollup_epoch e SET stamp = e.xmin::text;
    INSERT INTO {s}.token_usage_rollup_state SELECT e.epoch FROM {s}.token_usage_rollup_epoch e;
  END IF;
  RETURN true;
END
$code$;
$sql$), ('{s}.token_usage_rollup_again({user_type})', $sql$
CREATE OR REPLACE FUNCTION {s}.token_usage_rollup_again(usr {user_type}) RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_sort = off SET enable_nestloop = off SET work_mem = '1GB' SET jit = off AS $code$
-- Rebuilds the rollups of one user, or of all when usr is NULL, in bulk. Writers go on; visits pass by.
DECLARE
  wrote bigint := 0;
  n bigint;
  st record;
  mine bigint;
  top bigint;
  until timestamptz;
  month_at timestamptz;
  month_end timestamptz;
  from_at timestamptz;
  to_at timestamptz;
  began timestamptz := clock_timestamp();
BEGIN
  IF current_setting('transaction_isolation') <> 'read committed' THEN
    RAISE EXCEPTION 'token_usage: token_usage_rebuild must be run at READ COMMITTED' USING ERRCODE = '25001';
  END IF;
  IF pg_trigger_depth() > 0 THEN
    RAISE EXCEPTION 'token_usage: token_usage_rebuild must not be called by a trigger' USING ERRCODE = '0A000';
  END IF;
  IF row_security_active({l}::regclass) THEN
    RAISE EXCEPTION 'token_usage: token_usage_rebuild must see every row, and row security is active for the owner of {ledger}'
      USING ERRCODE = '42501';
  END IF;
  LOCK TABLE {ledger} IN ACCESS SHARE MODE;
  PERFORM pg_advisory_xact_lock(hashtextextended('token_usage_rollup_epoch', {l}::regclass::oid::bigint));
  PERFORM pg_advisory_xact_lock(hashtextextended('token_usage_rollup_user', {l}::regclass::oid::bigint));
  PERFORM {s}.token_usage_rollup_begin();
  SELECT * INTO st FROM {s}.token_usage_rollup_state s WHERE s.epoch = {epoch} FOR UPDATE;
  PERFORM FROM {s}.token_usage_rollup_user r WHERE usr IS NULL OR r.user_id = usr ORDER BY r.user_id FOR UPDATE;

  -- Raise the guard, and wait for whoever may have missed it; if that takes too long, stay below the old one.
  until := clock_timestamp();
  PERFORM setval('{s}.token_usage_rollup_guard'::regclass,
                 greatest(ceil(extract(epoch FROM until))::bigint, pg_sequence_last_value('{s}.token_usage_rollup_guard'::regclass)));
  BEGIN
    UPDATE {s}.token_usage_rollup_state s SET pending = until WHERE s.epoch = st.epoch;
  EXCEPTION WHEN division_by_zero THEN
    NULL;
  END;
  SELECT t.xmin::text::bigint INTO mine FROM {s}.token_usage_rollup_state t WHERE t.epoch = st.epoch;
  top := pg_snapshot_xmax(pg_current_snapshot())::text::bigint;
  mine := top + ((mine - top) % 4294967296 + 4294967296 + 2147483648) % 4294967296 - 2147483648;
  UPDATE {s}.token_usage_rollup_state s SET horizon = mine WHERE s.epoch = st.epoch;
  LOOP
    -- An aborted subtransaction ends an id later than `mine`, so that snapshots reach past it.
    BEGIN
      UPDATE {s}.token_usage_rollup_state s SET horizon = mine WHERE s.epoch = st.epoch;
      RAISE division_by_zero;
    EXCEPTION WHEN division_by_zero THEN
      NULL;
    END;
    IF {s}.token_usage_rollup_passed(mine) THEN
      UPDATE {s}.token_usage_rollup_state s SET confirmed = until, pending = until, horizon = NULL WHERE s.epoch = st.epoch;
      EXIT;
    END IF;
    IF clock_timestamp() > began + interval '10 seconds' THEN
      until := coalesce(st.confirmed, '-infinity');
      RAISE WARNING 'token_usage: an open transaction keeps rollups from going past %', until;
      EXIT;
    END IF;
    PERFORM pg_sleep(0.02);
  END LOOP;

  DELETE FROM {s}.token_usage_rollup r WHERE usr IS NULL OR r.user_id = usr;
  DELETE FROM {s}.token_usage_rollup_month o WHERE usr IS NULL OR o.user_id = usr;
  DELETE FROM {s}.token_usage_rollup_user r WHERE usr IS NULL OR r.user_id = usr;
  -- No plan made for one statistic of an empty table must serve them all.
  month_at := '-infinity';
  LOOP
    IF usr IS NULL THEN
      SELECT min({at}) INTO month_at FROM {ledger} t WHERE t.created_at >= {month_at} AND t.created_at > '-infinity';
    ELSE
      SELECT min({at}) INTO month_at FROM {ledger} t WHERE t.user_id = usr AND t.created_at >= {month_at} AND t.created_at > '-infinity';
    END IF;
    EXIT WHEN month_at IS NULL OR month_at >= until;
    month_at := timezone('UTC', date_trunc('month', timezone('UTC', month_at)));
    month_end := timezone('UTC', timezone('UTC', month_at) + interval '1 month');
    from_at := month_at;
    to_at := least(month_end, until);
    EXECUTE format($bulk$
WITH groups AS (
  SELECT x.user_id, sum(x.n) FILTER (WHERE x.dim = 1) AS c, count(*) AS g
    FROM (SELECT q.user_id, grouping(q.model) AS dim, count(*) AS n
            FROM (SELECT t.user_id, {row} FROM {ledger} t WHERE t.created_at >= $1 AND t.created_at < $2 AND %1$s) q
           GROUP BY GROUPING SETS ((q.user_id, q.agent), (q.user_id, q.provider, q.model))) x
   GROUP BY 1
), chosen AS MATERIALIZED (
  SELECT k.user_id, k.flags FROM (SELECT user_id, {flags} | coalesce(b.flags, 0)::int2 AS flags FROM groups LEFT JOIN (
         SELECT o.user_id AS before_id, o.flags FROM {s}.token_usage_rollup_month o WHERE $3 AND o.month = $4) b ON b.before_id = user_id) k WHERE k.flags <> 0
), gone AS (
  DELETE FROM {s}.token_usage_delta d WHERE d.created_at >= $5 AND d.created_at < $6 AND %2$s
), src AS (
  SELECT t.user_id, {row}, k.flags FROM {ledger} t JOIN chosen k ON k.user_id = t.user_id
   WHERE t.created_at >= $1 AND t.created_at < $2 AND %1$s
), {unsigned_ctes}, marked AS (
  INSERT INTO {s}.token_usage_rollup_month (user_id, month, flags) SELECT k.user_id, $5, k.flags FROM chosen k
)
INSERT INTO {s}.token_usage_rollup (user_id, kind, bucket, key1, key2, nulls, requests, prompt, completion, total, usd, rub, unpriced, ms_sum, ms_count)
SELECT * FROM rolled ORDER BY 1, 2, 3, 4, 5, 6
$bulk$, CASE WHEN usr IS NULL THEN 'true' ELSE format('t.user_id = %L::{user_type}', usr) END,
        CASE WHEN usr IS NULL THEN 'true' ELSE format('d.user_id = %L::{user_type}', usr) END)
      USING {from_at}, {to_at}, to_at < month_end,
            timezone('UTC', timezone('UTC', month_at) - interval '1 month'), month_at, to_at;
    GET DIAGNOSTICS n = ROW_COUNT;
    wrote := wrote + n;
    EXIT WHEN month_end >= until;
    month_at := month_end;
  END LOOP;
  INSERT INTO {s}.token_usage_rollup_user (user_id, epoch, sealed_until)
  SELECT DISTINCT o.user_id, st.epoch, until FROM {s}.token_usage_rollup_month o WHERE usr IS NULL OR o.user_id = usr;
  RETURN wrote;
END
$code$;
$sql$)
$rollup$;

-- The ledger's own function of that name, checked: it must run with the rights of the ledger's owner, whoever
-- calls it, so that nobody is led to run another's code with rights of their own.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_rollup_own(ledger oid, function_name text)
RETURNS text LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $rollup$
  SELECT format('%I.%I', n.nspname, f.proname)
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_proc f ON f.pronamespace = n.oid
   WHERE c.oid = ledger AND f.proname = function_name AND f.proowner = c.relowner AND f.prosecdef
     AND f.proconfig[1] = 'search_path=pg_catalog, pg_temp'
$rollup$;

-- Rebuilds the rollups of one user or (NULL) of everyone; how many rollup rows were written.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_rollup_rebuild(ledger oid, user_id text)
RETURNS bigint LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $rollup$
DECLARE
  again text := @extschema@._token_usage_rollup_own(ledger, 'token_usage_rollup_again');
  wrote bigint;
BEGIN
  IF again IS NULL THEN
    RETURN 0;  -- a ledger without rollups
  END IF;
  EXECUTE @extschema@._token_usage_rollup_text(ledger, format('SELECT %s($1::{user_type})', again)) INTO wrote USING user_id;
  RETURN wrote;
END
$rollup$;

-- Folds what waits to be folded, for every user, until about max_rows rows are folded (NULL: all).
CREATE OR REPLACE FUNCTION @extschema@._token_usage_rollup_compact(ledger oid, max_rows bigint)
RETURNS bigint LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $rollup$
DECLARE
  space text := (SELECT quote_ident(n.nspname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = ledger);
  visit text := @extschema@._token_usage_rollup_own(ledger, 'token_usage_rollup_visit');
  sweep text := @extschema@._token_usage_rollup_own(ledger, 'token_usage_rollup_sweep');
  folded bigint := 0;
  n bigint;
  usr text;
BEGIN
  -- Not from within a trigger: the statement under way has written rows whose deltas are not there yet.
  IF visit IS NULL OR sweep IS NULL OR pg_trigger_depth() > 0 OR current_setting('transaction_isolation') <> 'read committed' THEN
    RETURN 0;
  END IF;
  EXECUTE format('LOCK TABLE %s IN ACCESS SHARE MODE', ledger::regclass);
  EXECUTE format('SELECT %s()', sweep);
  FOR usr IN EXECUTE @extschema@._token_usage_rollup_text(ledger, $sql$
    WITH RECURSIVE person AS (
      (SELECT t.user_id FROM {ledger} t ORDER BY t.user_id LIMIT 1)
      UNION ALL
      SELECT (SELECT t.user_id FROM {ledger} t WHERE t.user_id > p.user_id ORDER BY t.user_id LIMIT 1) FROM person p WHERE p.user_id IS NOT NULL
    ) SELECT p.user_id::text FROM person p WHERE p.user_id IS NOT NULL$sql$) LOOP
    LOOP
      EXECUTE @extschema@._token_usage_rollup_text(ledger, format('SELECT %s($1::{user_type}, $2, 2)', visit))
         INTO n USING usr, least(coalesce(max_rows - folded, 1000000), 1000000)::integer;
      folded := folded + n;
      EXIT WHEN n = 0 OR folded >= max_rows;
    END LOOP;
    EXIT WHEN folded >= max_rows;
  END LOOP;
  RETURN folded;
END
$rollup$;

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

-- What users call: verify, rebuild and compact, in the words of section 4 of the contract.
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

CREATE OR REPLACE FUNCTION @extschema@._token_usage_rebuild(path name[], only_user text)
RETURNS bigint LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $rollup$
DECLARE
  ledger_oid oid := @extschema@._token_usage_ledger(path);
BEGIN
  IF only_user IS NOT NULL THEN
    only_user := @extschema@._token_usage_user(ledger_oid, only_user);
  END IF;
  RETURN @extschema@._token_usage_rollup_rebuild(ledger_oid, only_user);
END
$rollup$;

CREATE OR REPLACE FUNCTION @extschema@._token_usage_compact(path name[], max_rows bigint)
RETURNS bigint LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $rollup$
BEGIN
  IF max_rows IS NOT NULL THEN
    PERFORM @extschema@._token_usage_check_range('max_rows', max_rows, 1, 9223372036854775807);
  END IF;
  RETURN @extschema@._token_usage_rollup_compact(@extschema@._token_usage_ledger(path), max_rows);
END
$rollup$;

-- Folds what waits to be folded, all of it or about max_rows rows; returns how many. Right answers never need it.
CREATE OR REPLACE FUNCTION @extschema@.token_usage_compact(max_rows bigint DEFAULT NULL)
RETURNS bigint LANGUAGE sql VOLATILE AS $rollup$
  SELECT @extschema@._token_usage_compact(pg_catalog.current_schemas(false), max_rows)
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
