-- The portable twin of pg_ext/kept_query.cpp: functions whose text is made for one ledger, so that PL/pgSQL keeps the plans of their
-- queries for the session. What reports run with EXECUTE is parsed and planned for each call, which takes longer than to run it.
--
-- token_usage_migrate() makes them beside the functions here and not beside the ledger, and a report calls one only where it belongs to
-- the owner of the functions here: reports run with the caller's rights, and who owns a ledger must not get his code run by others.
-- Their name tells the ledger's schema, and their comment the columns that the text was made for; both mean the same after a restore. A
-- report compares them at each call, so that no query reads a column whose type is another by now, which could call any function by a
-- cast. Where none fits, reports make their queries themselves, as they do where row security is active for the caller.

-- One for each kind and ledger: sums or page.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_kept_name(kind text, schema_name name)
RETURNS name LANGUAGE sql STABLE AS $function$
  SELECT pg_catalog.concat('_token_usage_kept_', kind, '_', pg_catalog."left"(pg_catalog.encode(pg_catalog.sha256(
    pg_catalog.convert_to(schema_name::pg_catalog.text, 'UTF8')), 'hex'), 32))::pg_catalog.name
$function$;

-- What the text of a function was made for. NULL where a column has a type or a collation that the server did not bring itself: only the
-- numbers of its own mean the same in every database, and nobody but a superuser can give those types other casts.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_kept_comment(ledger oid, schema_name name, persistence "char")
RETURNS text LANGUAGE plpgsql STABLE AS $function$
BEGIN
  RETURN (
    SELECT concat('token_usage, portable edition @version@, for ', schema_name, ' ', persistence, ': ',
                  string_agg(a.attname || CASE WHEN a.attnotnull THEN '! ' ELSE ' ' END || a.atttypid, ', ' ORDER BY a.attnum))
      FROM pg_attribute AS a
     WHERE a.attrelid = ledger AND a.attnum > 0 AND NOT a.attisdropped
       AND a.attname = ANY ('{id,user_id,agent_id,ai_provider,ai_model,prompt_tokens,completion_tokens,total_tokens,cost_usd,'
         'cost_rub,execution_time_ms,created_at,platform,content_type,task_type,content_id,workflow_id,request_id,endpoint}'::name[])
    HAVING max(a.atttypid) < 16384 AND max(a.attcollation) < 16384);
END
$function$;

-- The function that may be called in place of a query, as it is written in one; NULL where there is none.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_kept(ledger oid, kind text)
RETURNS text LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
  RETURN (
    SELECT '@extschema@.' || p.proname
      FROM pg_class AS c
      JOIN pg_namespace AS n ON n.oid = c.relnamespace
      JOIN pg_proc AS o ON o.oid = '@extschema@._token_usage_kept(oid, text)'::regprocedure
      JOIN pg_proc AS p ON p.proname = @extschema@._token_usage_kept_name(kind, n.nspname)
       AND p.pronamespace = o.pronamespace AND p.proowner = o.proowner
      JOIN pg_description AS d ON d.objoid = p.oid AND d.classoid = 'pg_proc'::regclass AND d.objsubid = 0
     WHERE c.oid = ledger AND has_function_privilege(p.oid, 'EXECUTE')
       AND d.description = @extschema@._token_usage_kept_comment(ledger, n.nspname, c.relpersistence)
     LIMIT 1);
END
$function$;

-- The body of the function that sums, as _token_usage_rollup_read_sql() tells it. $1 to $7 are the parameters of the queries there; of
-- them $4 to $7 are computed here.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_kept_sums(ledger oid)
RETURNS text LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
  body text;
  shape record;
BEGIN
  IF NOT @extschema@._token_usage_rollup_possible(ledger) THEN
    RETURN NULL;
  END IF;
  body := concat('
#variable_conflict use_column
DECLARE
  months timestamptz[];
  flags smallint[];
  few integer;
BEGIN
', @extschema@._token_usage_rollup_read_sql(ledger, 'state'::text, 'none'::text, false), ' INTO sealed_until, months, flags;
  IF sealed_until IS NULL THEN
', @extschema@._token_usage_rollup_read_sql(ledger, 'few'::text, 'none'::text, false), ' INTO few;
    IF few >= 500 THEN
      -- Nothing is rolled of a user with many rows: how they are read best depends on the bounds, and on the planner''s settings.
      PERFORM set_config(''enable_seqscan'', settings[1], true), set_config(''seq_page_cost'', settings[2], true),
              set_config(''random_page_cost'', settings[3], true);
      RETURN QUERY EXECUTE @extschema@._token_usage_sums_sql(ledger, dimension, agent IS NOT NULL) USING user_id, agent, bounds;
      RETURN;
    END IF;
    tiers := ARRAY[0];
    starts := bounds[1:1];
    ends := bounds[array_upper(bounds, 1):array_upper(bounds, 1)];
    sealed_until := ''-infinity'';
  ELSE
    SELECT array_agg(p.tier), array_agg(p.lo), array_agg(p.hi) INTO tiers, starts, ends
      FROM @extschema@._token_usage_rollup_pieces(bounds, sealed_until, months, flags, agent IS NOT NULL OR dimension <> ''none'') AS p;
  END IF;
');
  FOR shape IN SELECT * FROM (VALUES ('none', false), ('none', true), ('agent', false), ('agent', true), ('model', false))
                 AS v (dimension, by_agent) LOOP
    body := concat(body, format('  IF dimension = %L AND agent IS %s NULL THEN
    RETURN QUERY', shape.dimension, CASE WHEN shape.by_agent THEN 'NOT' END),
      @extschema@._token_usage_rollup_read_sql(ledger, 'both'::text, shape.dimension, shape.by_agent), ';
    RETURN;
  END IF;
');
  END LOOP;
  RETURN body || 'END';
END
$function$;

-- The body of the function that lists a page. $1 to $8 are the parameters of _token_usage_page_sql(); $3 and $4 are of no use here, since
-- how a page between two dates is read best depends on the dates.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_kept_page(ledger oid)
RETURNS text LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
  body text := '
#variable_conflict use_column
BEGIN
';
  shape record;
BEGIN
  FOR shape IN SELECT * FROM (VALUES (false, false), (false, true), (true, false), (true, true)) AS v (by_agent, by_cursor) LOOP
    body := concat(body, format('  IF agent IS %s NULL AND behind_at IS %s NULL THEN
    RETURN QUERY ', CASE WHEN shape.by_agent THEN 'NOT' END, CASE WHEN shape.by_cursor THEN 'NOT' END),
      @extschema@._token_usage_page_sql(ledger, shape.by_agent, false, false, shape.by_cursor), ';
    RETURN;
  END IF;
');
  END LOOP;
  RETURN body || 'END';
END
$function$;

-- Makes the functions of a ledger, and drops what is stale; part of token_usage_migrate(). Does nothing where the current role may not make
-- them in the name of the owner of the functions here.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_keep(ledger oid)
RETURNS void LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
  keeper oid := (SELECT o.proowner FROM pg_proc AS o WHERE o.oid = '@extschema@._token_usage_kept(oid, text)'::regprocedure);
  body text;
  part record;
  there record;
BEGIN
  IF NOT has_schema_privilege('@extschema@', 'CREATE')
     OR NOT EXISTS (SELECT FROM pg_roles AS r WHERE r.rolname = current_user AND (r.oid = keeper OR r.rolsuper)) THEN
    RETURN;
  END IF;
  FOR part IN
    SELECT v.kind, @extschema@._token_usage_kept_name(v.kind, n.nspname) AS name, v.arguments, pg_get_function_result(v.twin) AS result,
           @extschema@._token_usage_kept_comment(ledger, n.nspname, c.relpersistence) AS comment
      FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace CROSS JOIN (VALUES
        ('sums', 'user_id text, agent text, bounds timestamptz[], tiers integer[], starts timestamptz[], ends timestamptz[], '
          'sealed_until timestamptz, ledger oid, dimension text, settings text[]',
          '@extschema@._token_usage_sums(oid, text, text, timestamptz[], text)'::regprocedure),
        ('page', 'user_id text, agent text, start_date timestamptz, end_date timestamptz, behind_at timestamptz, behind_id text, '
          'row_limit bigint, row_offset bigint',
          '@extschema@._token_usage_page_rows(oid, text, text, timestamptz, timestamptz, timestamptz, text, bigint, bigint)'::regprocedure))
        AS v (kind, arguments, twin)
     WHERE c.oid = ledger
  LOOP
    body := NULL;
    IF part.comment IS NOT NULL THEN
      BEGIN
        body := CASE part.kind WHEN 'sums' THEN @extschema@._token_usage_kept_sums(ledger) ELSE @extschema@._token_usage_kept_page(ledger) END;
      EXCEPTION WHEN undefined_column OR datatype_mismatch THEN
        body := NULL;  -- no ledger that reports can read
      END;
    END IF;
    SELECT p.oid::regprocedure AS routine, p.proowner = keeper AS ours, p.prosrc = body AND d.description = part.comment AS is_right INTO there
      FROM pg_proc AS p LEFT JOIN pg_description AS d ON d.objoid = p.oid AND d.classoid = 'pg_proc'::regclass AND d.objsubid = 0
     WHERE p.proname = part.name AND p.pronamespace = '@extschema@'::regnamespace ORDER BY p.proowner = keeper LIMIT 1;
    -- What another role made under this name is never called.
    CONTINUE WHEN NOT there.ours OR there.is_right;
    IF there.ours THEN
      EXECUTE 'DROP FUNCTION ' || there.routine;
    END IF;
    IF body IS NOT NULL THEN
      -- Planned for any values, and by the number of rows alone: by the cost of pages the index on created_at may seem as good as one
      -- that picks the user too, since the planner does not know the bounds.
      EXECUTE format('CREATE FUNCTION @extschema@.%I(%s) RETURNS %s LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET jit = off '
        'SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET seq_page_cost = 0 SET random_page_cost = 0 AS %L',
        part.name, part.arguments, part.result, body);
      EXECUTE format('COMMENT ON FUNCTION @extschema@.%I IS %L', part.name, part.comment);
      EXECUTE format('ALTER FUNCTION @extschema@.%I OWNER TO %s', part.name, keeper::regrole);
    END IF;
  END LOOP;
  -- Those of ledgers that are gone.
  FOR there IN
    SELECT p.oid::regprocedure AS routine FROM pg_proc AS p
     WHERE p.pronamespace = '@extschema@'::regnamespace AND p.proowner = keeper AND p.proname ~ '^_token_usage_kept_(sums|page)_[0-9a-f]{32}$'
       AND NOT EXISTS (SELECT FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
                        WHERE c.relname = 'token_usage' AND c.relkind IN ('r', 'p')
                          AND p.proname = @extschema@._token_usage_kept_name(substr(p.proname, 19, 4), n.nspname))
  LOOP
    EXECUTE 'DROP FUNCTION ' || there.routine;
  END LOOP;
END
$function$;
