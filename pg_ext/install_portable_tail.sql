
  -- What this run has made is marked, so that CREATE EXTENSION can take over from it; what an older version has left is dropped.
  FOR portable IN
    SELECT p.oid::regprocedure AS routine, d.description IS NOT NULL AS is_ours,
           p.xmin::text = (mod(pg_current_xact_id()::text::numeric, 4294967296))::text AS is_new
      FROM pg_proc AS p
      LEFT JOIN pg_description AS d ON d.objoid = p.oid AND d.classoid = 'pg_proc'::regclass
           AND left(d.description, 29) = 'token_usage, portable edition'
     WHERE p.pronamespace = home::regnamespace AND p.proname ~ '^_?token_usage_'
  LOOP
    IF portable.is_new THEN
      EXECUTE format('COMMENT ON ROUTINE %s IS %L', portable.routine, 'token_usage, portable edition @version@');
    ELSIF portable.is_ours THEN
      routines := concat_ws(', ', routines, portable.routine::text);
    END IF;
  END LOOP;
  IF routines IS NOT NULL THEN
    EXECUTE 'DROP ROUTINE ' || routines;
  END IF;

  -- For the other ledgers that had them; the one of the search path gets them from token_usage_migrate().
  EXECUTE format('SELECT %1$s._token_usage_keep(c.oid) FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.relname = ''token_usage'' AND c.relkind IN (''r'', ''p'') AND %1$s._token_usage_kept_name(''page'', n.nspname) = ANY ($1)', home)
    USING kept;

  PERFORM pg_catalog.set_config('search_path', path, true);
  EXECUTE pg_catalog.format('SELECT %s.token_usage_migrate()', home) INTO steps;
  RAISE NOTICE 'token_usage_migrate: %', steps;
END
$portable$;

COMMIT;
