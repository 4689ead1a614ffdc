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
RETURNS text LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $rollup$
DECLARE
  e text[] := ARRAY(SELECT @extschema@._token_usage_rollup_expression(ledger, c.name, alias)
    FROM unnest('{created_at,agent_id,ai_provider,ai_model,prompt_tokens,completion_tokens,total_tokens,cost_usd,cost_rub,execution_time_ms}'::text[])
      WITH ORDINALITY c (name, place) ORDER BY c.place);
BEGIN
  IF array_position(e, NULL) IS NOT NULL THEN
    RETURN NULL;
  END IF;
  RETURN format('%s AS created_at, %s AS agent, %s AS provider, %s AS model, coalesce(%s, 0) AS prompt, coalesce(%s, 0) AS completion, '
    'coalesce(%s, coalesce(%s, 0) + coalesce(%s, 0), 0) AS total, %s AS usd, %s AS rub, %s AS ms',
    e[1], e[2], e[3], e[4], e[5], e[6], e[7], e[5], e[6], e[8], e[9], e[10]);
END
$rollup$;

-- The same of row t for who does in C what costs time in SQL (rollup_bulk.cpp): NULLs stay, and times and numeric costs are as they are.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_rollup_bulk_row(ledger oid)
RETURNS text LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $rollup$
  SELECT string_agg(CASE WHEN a.attname = 'created_at' THEN 't.created_at'
                         WHEN a.attname LIKE 'cost%' AND a.atttypid = 'numeric'::regtype THEN 't.' || a.attname || '::numeric'
                         ELSE @extschema@._token_usage_rollup_expression(ledger, a.attname, 't') END, ', ' ORDER BY w.place)
    FROM unnest('{created_at,agent_id,ai_provider,ai_model,prompt_tokens,completion_tokens,total_tokens,cost_usd,cost_rub,execution_time_ms}'::name[])
           WITH ORDINALITY w (name, place)
    JOIN pg_attribute a ON a.attrelid = ledger AND a.attname = w.name AND NOT a.attisdropped
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

-- How computed rollup rows are added to those stored: the end of an INSERT INTO {s}.token_usage_rollup AS r.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_rollup_merge() RETURNS text LANGUAGE sql IMMUTABLE AS $rollup$
  SELECT $sql$    ON CONFLICT (user_id, kind, bucket, key1, key2, nulls) DO UPDATE
     SET requests = r.requests + excluded.requests, prompt = r.prompt + excluded.prompt, completion = r.completion + excluded.completion,
         total = r.total + excluded.total, usd = r.usd + excluded.usd, rub = r.rub + excluded.rub, unpriced = r.unpriced + excluded.unpriced,
         ms_sum = r.ms_sum + excluded.ms_sum, ms_count = r.ms_count + excluded.ms_count$sql$::text
$rollup$;

-- Whether the caller may read a ledger through its rollups: the derived tables are there, no row security is
-- active for the caller, and the caller may SELECT them all. If not, reports read the ledger itself.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_rollup_readable(ledger oid)
RETURNS boolean LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $rollup$
BEGIN
  -- Within a trigger the statement under way may have written rows whose deltas are not there yet.
  IF row_security_active(ledger) OR NOT has_table_privilege(ledger, 'SELECT') OR pg_trigger_depth() > 0 THEN
    RETURN false;
  END IF;
  IF ledger = to_regclass('@extschema@.token_usage') THEN
    IF num_nulls(to_regclass('@extschema@.token_usage_rollup'), to_regclass('@extschema@.token_usage_rollup_month'), to_regclass('@extschema@.token_usage_rollup_user'),
                 to_regclass('@extschema@.token_usage_rollup_epoch'), to_regclass('@extschema@.token_usage_delta')) > 0 THEN
      RETURN false;
    END IF;
    RETURN has_table_privilege('@extschema@.token_usage_rollup'::regclass, 'SELECT') AND has_table_privilege('@extschema@.token_usage_rollup_month'::regclass, 'SELECT')
       AND has_table_privilege('@extschema@.token_usage_rollup_user'::regclass, 'SELECT') AND has_table_privilege('@extschema@.token_usage_rollup_epoch'::regclass, 'SELECT')
       AND has_table_privilege('@extschema@.token_usage_delta'::regclass, 'SELECT') AND @extschema@._token_usage_plain_tables(ARRAY[
             '@extschema@.token_usage_rollup'::regclass, '@extschema@.token_usage_rollup_month'::regclass, '@extschema@.token_usage_rollup_user'::regclass,
             '@extschema@.token_usage_rollup_epoch'::regclass, '@extschema@.token_usage_delta'::regclass]);
  END IF;
  RETURN (SELECT count(*) = 5 AND bool_and(has_table_privilege(c.oid, 'SELECT')) AND @extschema@._token_usage_plain_tables(array_agg(c.oid::regclass))
            FROM pg_class c
           WHERE c.relnamespace = (SELECT l.relnamespace FROM pg_class l WHERE l.oid = ledger)
             AND c.relname = ANY ('{token_usage_rollup,token_usage_rollup_month,token_usage_rollup_user,token_usage_rollup_epoch,token_usage_delta}'::name[]));
END
$rollup$;

-- The statements that read sums through the rollups; all run in the reader's one snapshot. NULL where nothing of the kind is rolled;
-- which of them is asked for first is state, and the others only where that is not NULL.
--   state: of user $1: sealed_until, and the months between the bounds $3 that are rolled and their flags, ascending; no row where nothing is rolled
--   few: how many rows user $1 has between the bounds $3, up to 500; fewest: up to 64
--   rollup, ledger, both: the sums of _token_usage_sums, in its columns and by its parameters ($1 user, $2 agent where by_agent,
--     $3 bounds), from what is named; the pieces are $4 their tiers, $5 and $6 their ends, and $7 is sealed_until.
-- Every index is picked for any value of the parameters, and OFFSET 0 keeps each piece a range of an index.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_rollup_read_sql(ledger oid, part text, dimension text, by_agent boolean)
RETURNS text LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $rollup$
DECLARE
  dim integer := CASE WHEN by_agent OR dimension = 'agent' THEN 1 WHEN dimension = 'none' THEN 0 ELSE 2 END;
  rollup_keys text;
  row_keys text;
BEGIN
  IF part = 'state' THEN
    IF NOT @extschema@._token_usage_rollup_possible(ledger) THEN
      RETURN NULL;
    END IF;
    -- No month has more than 744 hours. What lies before the first instant that has 744 hours before it is read from the ledger.
    RETURN @extschema@._token_usage_rollup_text(ledger, replace($sql$
SELECT u.sealed_until::timestamptz, ARRAY(SELECT o.month::timestamptz {months}), ARRAY(SELECT coalesce(o.flags, 0)::int2 {months})
  FROM {s}.token_usage_rollup_user u WHERE u.user_id = $1::{user_type} AND u.epoch = {epoch}$sql$, '{months}',
      $sql$FROM {s}.token_usage_rollup_month o WHERE o.user_id = u.user_id AND o.month < $3[array_upper($3, 1)]
         AND o.month > greatest($3[1], '4713-01-01 00:00:00+00 BC'::timestamptz) - interval '744 hours' ORDER BY o.month$sql$));
  ELSIF part IN ('few', 'fewest') THEN
    RETURN @extschema@._token_usage_rollup_text(ledger, replace($sql$
SELECT count(*)::int4 FROM (SELECT FROM {ledger} t WHERE t.user_id = $1::{user_type} AND t.created_at >= {$3[1]}
  AND t.created_at < {$3[array_upper($3, 1)]} LIMIT {most}) x$sql$, '{most}', CASE part WHEN 'few' THEN '500' ELSE '64' END));
  ELSIF by_agent AND dimension NOT IN ('none', 'agent') THEN
    RETURN NULL;  -- no rollup holds agent and model together
  END IF;
  SELECT CASE dimension WHEN 'none' THEN 'NULL::text AS key1, NULL::text AS key2'
                        WHEN 'agent' THEN 'CASE WHEN r.nulls & 1 = 0 THEN r.key1 END AS key1, NULL::text AS key2'
                        ELSE 'CASE WHEN r.nulls & 1 = 0 THEN r.key1 END AS key1, CASE WHEN r.nulls & 2 = 0 THEN r.key2 END AS key2' END,
         CASE dimension WHEN 'none' THEN 'NULL::text AS key1, NULL::text AS key2'
                        WHEN 'agent' THEN 'x.agent AS key1, NULL::text AS key2'
                        ELSE 'x.provider AS key1, x.model AS key2' END
    INTO rollup_keys, row_keys;
  RETURN @extschema@._token_usage_rollup_text(ledger, replace(replace(replace(replace(replace($sql$
SELECT y.bucket, y.key1, y.key2, sum(y.requests)::int8, sum(y.prompt)::numeric, sum(y.completion)::numeric, sum(y.total)::numeric,
       sum(y.usd), sum(y.rub), sum(y.unpriced)::int8, sum(y.ms_sum)::numeric, sum(y.ms_count)::int8
  FROM ($sql$ || concat_ws(' UNION ALL ', CASE WHEN part <> 'ledger' THEN $sql$
        SELECT width_bucket(r.bucket, $3) AS bucket, {rollup_keys}, r.requests, r.prompt, r.completion, r.total,
               r.usd, r.rub, r.unpriced, r.ms_sum, r.ms_count
          FROM unnest($4::int4[], $5::timestamptz[], $6::timestamptz[]) p (tier, lo, hi)
         CROSS JOIN LATERAL (SELECT * FROM {s}.token_usage_rollup o WHERE o.user_id = $1::{user_type}
                 AND o.kind = (p.tier * 10 + {dim})::int2 AND o.bucket >= p.lo AND o.bucket < p.hi OFFSET 0) r
         WHERE p.tier > 0 {rollup_agent}
        UNION ALL
        SELECT width_bucket(x.created_at, $3), {row_keys}, x.sign, x.sign * x.prompt, x.sign * x.completion, x.sign * x.total,
               x.sign * coalesce(x.usd, 0), x.sign * coalesce(x.rub, 0), CASE WHEN x.usd IS NULL THEN x.sign ELSE 0 END,
               x.sign * coalesce(x.ms, 0), CASE WHEN x.ms IS NULL THEN 0 ELSE x.sign END
          FROM unnest($4::int4[], $5::timestamptz[], $6::timestamptz[]) p (tier, lo, hi)
         CROSS JOIN LATERAL (SELECT * FROM {s}.token_usage_delta d WHERE d.user_id = $1::{user_type}
                 AND d.created_at >= p.lo AND d.created_at < least(p.hi, $7::timestamptz) OFFSET 0) x
         WHERE p.tier > 0 {row_agent}$sql$ END, CASE WHEN part <> 'rollup' THEN $sql$
        SELECT width_bucket(x.created_at, $3) AS bucket, {row_keys}, 1 AS requests, x.prompt, x.completion, x.total,
               coalesce(x.usd, 0) AS usd, coalesce(x.rub, 0) AS rub, CASE WHEN x.usd IS NULL THEN 1 ELSE 0 END AS unpriced,
               coalesce(x.ms, 0) AS ms_sum, CASE WHEN x.ms IS NULL THEN 0 ELSE 1 END AS ms_count
          FROM unnest($4::int4[], $5::timestamptz[], $6::timestamptz[]) p (tier, lo, hi)
         CROSS JOIN LATERAL (SELECT {row} FROM {ledger} t WHERE t.user_id = $1::{user_type}
                 AND t.created_at >= {p.lo} AND t.created_at < {p.hi} AND t.created_at > '-infinity' OFFSET 0) x
         WHERE p.tier = 0 {row_agent}$sql$ END) || $sql$) y
 GROUP BY 1, 2, 3 HAVING sum(y.requests) <> 0$sql$,
    '{rollup_keys}', rollup_keys), '{row_keys}', row_keys), '{dim}', dim::text),
    '{rollup_agent}', CASE WHEN by_agent THEN 'AND r.key1 = $2 AND r.nulls = 0' ELSE '' END),
    '{row_agent}', CASE WHEN by_agent THEN 'AND x.agent = $2' ELSE '' END));
END
$rollup$;

-- Fills a template about one ledger in: {s} its schema, {ledger} its name, {l} the name as a literal, {user_type},
-- {epoch} the epoch in force or NULL, {rollup_columns} and {merge} for INSERT, {row} and {new} and {old} the measures of row t, NEW, OLD, {bulk_row}, {at} and its
-- like the instants, {x.lo} an instant compared with the ledger's own created_at, {flags}, {again} the rows up to which a month is read
-- again, {user_lock} of user usr and {state_lock}, {ctes}.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_rollup_text(ledger oid, template text)
RETURNS text LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $rollup$
DECLARE
  space text;
  name text;
  user_type text;
  plain boolean;
  filled text := template;
  word text;
  alias text;
BEGIN
  SELECT quote_ident(n.nspname), quote_ident(n.nspname) || '.' || quote_ident(c.relname)
    INTO space, name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = ledger;
  SELECT format_type(CASE WHEN y.typtype = 'd' THEN y.typbasetype ELSE a.atttypid END, NULL)
    INTO user_type FROM pg_attribute a JOIN pg_type y ON y.oid = a.atttypid
   WHERE a.attrelid = ledger AND a.attname = 'user_id' AND NOT a.attisdropped;
  SELECT a.atttypid = 'timestamp'::regtype INTO plain FROM pg_attribute a
   WHERE a.attrelid = ledger AND a.attname = 'created_at' AND NOT a.attisdropped;
  -- What takes its time is made only where it is asked for: the portable edition makes its texts anew for each report.
  IF strpos(filled, 'ctes}') > 0 THEN
    filled := replace(filled, '{ctes}', @extschema@._token_usage_rollup_ctes());
    -- Where every row counts once: the same without the multiplications.
    filled := replace(filled, '{unsigned_ctes}', replace(replace(replace(replace(@extschema@._token_usage_rollup_ctes(),
      'sign * ', ''), 'sum(sign)', 'count(*)'), 'sum(CASE WHEN usd IS NULL THEN sign ELSE 0 END)', 'count(*) - count(usd)'),
      'sum(CASE WHEN ms IS NULL THEN 0 ELSE sign END)', 'count(ms)'));
  END IF;
  filled := replace(filled, '{again}', '4096');
  -- The parts of the users, 64 of them, and the state: who works on them holds these to the end of his transaction.
  filled := replace(filled, '{user_lock}', 'hashtextextended(''token_usage_rollup_part'', {l}::regclass::oid::bigint) # (hashtextextended(usr::text, 0) & 63)');
  filled := replace(filled, '{state_lock}', 'hashtextextended(''token_usage_rollup_state'', {l}::regclass::oid::bigint)');
  filled := replace(filled, '{flags}', @extschema@._token_usage_rollup_flags());
  filled := replace(filled, '{merge}', @extschema@._token_usage_rollup_merge());
  filled := replace(filled, '{rollup_columns}', 'user_id, kind, bucket, key1, key2, nulls, requests, prompt, completion, total, usd, rub, unpriced, ms_sum, ms_count');
  filled := replace(filled, '{epoch}', '(SELECT e.epoch FROM {s}.token_usage_rollup_epoch e WHERE e.ledger = {l}::regclass'
    ' AND e.filenode = coalesce(pg_relation_filenode({l}::regclass), 0) AND e.stamp = e.xmin::text'
    ' AND NOT EXISTS (SELECT FROM {s}.token_usage_rollup_epoch o WHERE o.ctid <> e.ctid))');
  FOR word, alias IN SELECT * FROM (VALUES ('row', 't'), ('new', 'NEW'), ('old', 'OLD')) v LOOP
    IF strpos(filled, '{' || word || '}') > 0 THEN
      filled := replace(filled, '{' || word || '}', @extschema@._token_usage_rollup_row(ledger, alias));
    END IF;
  END LOOP;
  IF strpos(filled, '{bulk_row}') > 0 THEN
    filled := replace(filled, '{bulk_row}', @extschema@._token_usage_rollup_bulk_row(ledger));
  END IF;
  FOR word, alias IN SELECT * FROM (VALUES ('at', 't'), ('new_at', 'NEW'), ('old_at', 'OLD')) v LOOP
    IF strpos(filled, '{' || word || '}') > 0 THEN
      filled := replace(filled, '{' || word || '}', @extschema@._token_usage_rollup_expression(ledger, 'created_at', alias));
    END IF;
  END LOOP;
  FOREACH word IN ARRAY ARRAY['p.lo', 'p.hi', '$3[1]', '$3[array_upper($3, 1)]', 'from_at', 'to_at', 'month_at', 'month_end', 'sealed', 'until', '$1', '$2', '$3'] LOOP
    filled := replace(filled, '{' || word || '}', CASE WHEN plain THEN 'timezone(''UTC'', ' || word || ')' ELSE word END);
  END LOOP;
  -- The factor as a float8: of another type it would be one more node of the WHEN clauses, which the server parses and plans for each statement.
  filled := replace(filled, '{guard}', 'to_timestamp(pg_sequence_last_value(''{s}.token_usage_rollup_guard''::regclass)::float8 * ''0.000001''::float8)');
  -- Raised to an instant, or left where it is higher; in microseconds, and two more for what a float8 cuts off.
  filled := regexp_replace(filled, '\{raise_guard (\w+)(\(\))?\}', 'setval(''{s}.token_usage_rollup_guard''::regclass,'
    ' greatest(ceil(extract(epoch FROM \1\2) * 1000000)::bigint + 2, pg_sequence_last_value(''{s}.token_usage_rollup_guard''::regclass)))', 'g');
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
RETURNS boolean LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $rollup$
BEGIN
  RETURN @extschema@._token_usage_rollup_row(ledger, 't') IS NOT NULL
     -- A crash empties an unlogged table, and nothing else.
     AND (SELECT c.relpersistence = 'p' FROM pg_class c WHERE c.oid = ledger)
     AND (SELECT count(*) = 2 FROM pg_attribute a
           WHERE a.attrelid = ledger AND a.attname IN ('user_id', 'created_at') AND NOT a.attisdropped)
     AND @extschema@._token_usage_as_now(ledger::regclass);
END
$rollup$;
