-- The portable twin of pg_ext/kept_query.cpp: functions whose text is made for one ledger, so that PL/pgSQL keeps the plans of their
-- queries for the session. What reports run with EXECUTE is parsed and planned for each call, which takes longer than to run it.
--
-- token_usage_migrate() makes them beside the functions here and not beside the ledger, and a report calls one only where it belongs to
-- the owner of the functions here: reports run with the caller's rights, and who owns a ledger must not get his code run by others.
-- Those of a ledger that stands in the schema of the functions here have names that are known, and are there from the installation on, so
-- that nobody else can have made them and they are called like any other. The names of the others tell the ledger's schema. Their comment
-- tells the columns that the text was made for, and they compare it themselves, so that no query reads a column whose type is another by
-- now, which could call any function by a cast. Names and comments mean the same after a restore. Where none fits, reports make their
-- queries themselves, as they do where row security is active for the caller.

-- One for each kind and ledger: sums or page.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_kept_name(kind text, schema_name name)
RETURNS name LANGUAGE sql STABLE AS $function$
  SELECT pg_catalog.concat('_token_usage_kept_', kind, '_', CASE
    WHEN pg_catalog.quote_ident(schema_name::pg_catalog.text) OPERATOR(pg_catalog.=) '@extschema@' THEN 'home'
    ELSE pg_catalog."left"(pg_catalog.encode(pg_catalog.sha256(
      pg_catalog.convert_to(schema_name::pg_catalog.text, 'UTF8')), 'hex'), 32) END)::pg_catalog.name
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

-- Whether the ledger's columns are those that a function was made for. Immutable as _token_usage_plain_tables() is.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_kept_fits(ledger regclass, comment text)
RETURNS boolean LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
  -- This is asked once in a session. glibc gives the end of the heap back to the system whenever more than 128 kB of it are free, in some
  -- sessions after each report, and takes it again for the next, page fault by page fault; until a larger block is freed, from when on
  -- twice the size of that stays.
  PERFORM length(repeat(' ', 524288));
  RETURN comment = (SELECT @extschema@._token_usage_kept_comment(c.oid, n.nspname, c.relpersistence)
                      FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE c.oid = ledger)
     AND @extschema@._token_usage_as_now(ledger);
END
$function$;

-- Whether the planner knows by now that the ledger has rows. Immutable as _token_usage_plain_tables() is: after each VACUUM and ANALYZE of the
-- ledger it is asked again, and the queries are planned anew.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_kept_counted(ledger regclass)
RETURNS boolean LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
  RETURN (SELECT c.reltuples >= 1000 FROM pg_class AS c WHERE c.oid = ledger);
END
$function$;

-- The function that may be called in place of a query on a ledger in another schema, as it is written in one; NULL where there is none.
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
     WHERE c.oid = ledger AND has_function_privilege(p.oid, 'EXECUTE') LIMIT 1);
END
$function$;

-- How the body of such a function begins: where it does not fit it goes back to the caller's settings and makes its query `anew`.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_kept_head(ledger oid, anew text)
RETURNS text LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
  RETURN (
    SELECT format('BEGIN
  IF (@extschema@._token_usage_kept_fits(%L::regclass, %L)) IS NOT TRUE THEN
    PERFORM @extschema@._token_usage_kept_settings(settings);
    RETURN QUERY SELECT a.* FROM @extschema@._token_usage_%s AS a;
    RETURN;
  END IF;
', @extschema@._token_usage_table(ledger, 'token_usage'::text), @extschema@._token_usage_kept_comment(c.oid, s.nspname, c.relpersistence), anew)
      FROM pg_class AS c JOIN pg_namespace AS s ON s.oid = c.relnamespace WHERE c.oid = ledger);
END
$function$;

-- What goes back to the caller's settings, for a query that is to be planned as any other.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_kept_settings(settings text[])
RETURNS void LANGUAGE plpgsql STABLE AS $function$
BEGIN
  -- PostgreSQL 13 plans what RETURN QUERY EXECUTE runs by plan_cache_mode too, and without the bounds an index is its choice.
  PERFORM set_config('enable_seqscan', settings[1], true), set_config('seq_page_cost', settings[2], true),
          set_config('random_page_cost', settings[3], true), set_config('plan_cache_mode', 'auto', true);
END
$function$;

-- The body of the function that sums, as _token_usage_rollup_read_sql() tells it. $1 to $7 are the parameters of the queries there; of
-- them $4 to $7 are computed here.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_kept_sums(ledger oid, anew text)
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
  few integer := 64;
', @extschema@._token_usage_kept_head(ledger, anew), format('  -- Most users have few rows, which are read by the index as fast as it is told what is rolled of them. Not in a ledger that seems to be
  -- empty: its plan could be one that reads the rows of everybody between the bounds, and would stay while the ledger grows.
  IF @extschema@._token_usage_kept_counted(%L::regclass) THEN
', @extschema@._token_usage_table(ledger, 'token_usage'::text)), @extschema@._token_usage_rollup_read_sql(ledger, 'fewest'::text, 'none'::text, false), ' INTO few;
  END IF;
  IF few >= 64 THEN
    IF NOT @extschema@._token_usage_rollup_readable(ledger) THEN
      PERFORM @extschema@._token_usage_kept_settings(settings);
      RETURN QUERY SELECT a.* FROM @extschema@._token_usage_', anew, ' AS a;
      RETURN;
    END IF;
', @extschema@._token_usage_rollup_read_sql(ledger, 'state'::text, 'none'::text, false), ' INTO sealed_until, months, flags;
    IF sealed_until IS NOT NULL THEN
      SELECT array_agg(p.tier), array_agg(p.lo), array_agg(p.hi) INTO tiers, starts, ends
        FROM @extschema@._token_usage_rollup_pieces(bounds, sealed_until, months, flags, agent IS NOT NULL OR dimension <> ''none'') AS p;
    ELSE
', @extschema@._token_usage_rollup_read_sql(ledger, 'few'::text, 'none'::text, false), ' INTO few;
      IF few >= 500 THEN
        -- Nothing is rolled of a user with many rows: how they are read best depends on the bounds, and on the planner''s settings.
        PERFORM @extschema@._token_usage_kept_settings(settings);
        RETURN QUERY EXECUTE @extschema@._token_usage_sums_sql(ledger, dimension, agent IS NOT NULL) USING user_id, agent, bounds;
        RETURN;
      END IF;
    END IF;
  END IF;
');
  FOR shape IN SELECT * FROM (VALUES ('none', false), ('none', true), ('agent', false), ('agent', true), ('model', false))
                 AS v (dimension, by_agent) LOOP
    body := concat(body, format('  IF dimension = %L AND agent IS %s NULL THEN
    IF tiers IS NULL THEN
      RETURN QUERY %s;
    ELSE
      RETURN QUERY %s;
    END IF;
    RETURN;
  END IF;
', shape.dimension, CASE WHEN shape.by_agent THEN 'NOT' END, @extschema@._token_usage_sums_sql(ledger, shape.dimension, shape.by_agent),
      @extschema@._token_usage_rollup_read_sql(ledger, 'both'::text, shape.dimension, shape.by_agent)));
  END LOOP;
  RETURN body || 'END';
END
$function$;

-- The body of the function that lists a page. $1 to $8 are the parameters of _token_usage_page_sql(); $3 and $4 are of no use here, since
-- how a page between two dates is read best depends on the dates.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_kept_page(ledger oid, anew text)
RETURNS text LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
  body text := concat('
#variable_conflict use_column
', @extschema@._token_usage_kept_head(ledger, anew));
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

-- What there is of a kind: how it is called, what it returns, and what does the same for any ledger.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_kept_kinds(OUT kind text, OUT arguments text, OUT result text, OUT anew text)
RETURNS SETOF record LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
  RETURN QUERY
    SELECT v.kind, v.arguments || ', ledger oid, settings text[]', pg_get_function_result(v.twin), v.anew
      FROM (VALUES
        ('sums', 'user_id text, agent text, bounds timestamptz[], tiers integer[], starts timestamptz[], ends timestamptz[], sealed_until timestamptz, '
           'dimension text',
         '@extschema@._token_usage_sums(oid, text, text, timestamptz[], text)'::regprocedure,
         'sums_anew(ledger, user_id, agent, bounds, dimension)'),
        ('page', 'user_id text, agent text, start_date timestamptz, end_date timestamptz, behind_at timestamptz, behind_id text, '
           'row_limit bigint, row_offset bigint',
         '@extschema@._token_usage_page_rows(oid, text, text, timestamptz, timestamptz, timestamptz, text, bigint, bigint)'::regprocedure,
         'page_anew(ledger, user_id, agent, start_date, end_date, behind_at, behind_id, row_limit, row_offset)'))
        AS v (kind, arguments, twin, anew);
END
$function$;

-- The body of a function that is not made for a ledger yet.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_kept_stub(anew text)
RETURNS text LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $function$
  SELECT format('BEGIN RETURN QUERY SELECT a.* FROM @extschema@._token_usage_%s AS a; END', anew)
$function$;

-- Planned for any values, and by the number of rows alone: by the cost of pages the index on created_at may seem as good as one that picks
-- the user too, since the planner does not know the bounds.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_kept_make(name name, arguments text, result text, body text, comment text)
RETURNS void LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
  EXECUTE format('CREATE OR REPLACE FUNCTION @extschema@.%I(%s) RETURNS %s LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET jit = off '
    'SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET seq_page_cost = 0 SET random_page_cost = 0 AS %L',
    name, arguments, result, body);
  EXECUTE format('COMMENT ON FUNCTION @extschema@.%I IS %L', name, comment);
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
    SELECT k.*, @extschema@._token_usage_kept_name(k.kind, n.nspname) AS name,
           @extschema@._token_usage_kept_comment(ledger, n.nspname, c.relpersistence) AS comment
      FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace CROSS JOIN @extschema@._token_usage_kept_kinds() AS k
     WHERE c.oid = ledger
  LOOP
    body := NULL;
    IF part.comment IS NOT NULL THEN
      BEGIN
        body := CASE part.kind WHEN 'sums' THEN @extschema@._token_usage_kept_sums(ledger, part.anew)
                               ELSE @extschema@._token_usage_kept_page(ledger, part.anew) END;
      EXCEPTION WHEN undefined_column OR datatype_mismatch THEN
        body := NULL;  -- no ledger that reports can read
      END;
    END IF;
    IF body IS NULL AND part.name = concat('_token_usage_kept_', part.kind, '_home') THEN
      body := @extschema@._token_usage_kept_stub(part.anew);
      part.comment := 'token_usage, portable edition @version@';
    END IF;
    SELECT p.oid::regprocedure AS routine, p.proowner = keeper AS ours, p.prosrc = body AND d.description = part.comment AS is_right INTO there
      FROM pg_proc AS p LEFT JOIN pg_description AS d ON d.objoid = p.oid AND d.classoid = 'pg_proc'::regclass AND d.objsubid = 0
     WHERE p.proname = part.name AND p.pronamespace = '@extschema@'::regnamespace ORDER BY p.proowner = keeper LIMIT 1;
    -- What another role made under this name is never called.
    CONTINUE WHEN NOT there.ours OR there.is_right;
    IF body IS NOT NULL THEN
      PERFORM @extschema@._token_usage_kept_make(part.name, part.arguments, part.result, body, part.comment);
      EXECUTE format('ALTER FUNCTION @extschema@.%I OWNER TO %s', part.name, keeper::regrole);
    ELSIF there.ours THEN
      EXECUTE 'DROP FUNCTION ' || there.routine;
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

-- Those of the ledger that stands here, if there ever is one, which nobody else can make any more.
DO $home$
BEGIN
  PERFORM @extschema@._token_usage_kept_make(pg_catalog.concat('_token_usage_kept_', k.kind, '_home')::pg_catalog.name, k.arguments, k.result,
    @extschema@._token_usage_kept_stub(k.anew),
                                             'token_usage, portable edition @version@'::text)
     FROM @extschema@._token_usage_kept_kinds() AS k;
END
$home$;
