-- The one place where reports get their sums: the ledger rows of one user, assigned to consecutive stretches of time and grouped
-- by a dimension. Here they come from the ledger itself; rollup.sql has the statements that read them through the rollups. The text of
-- the query depends on the ledger's column types; it is made here for both editions. The native edition keeps its plan (sums.cpp), the
-- portable one runs it with EXECUTE (sums_portable.sql).

-- The SELECT that _token_usage_sums runs. Parameters: $1 text, the user; $2 text, the agent (where has_agent); $3 timestamptz[],
-- the bounds, ascending, at least two. dimension is none, agent or model. Rows are assigned by their instants, never by a local
-- date, so that every report of a period adds up the same rows (rule 1); -infinity is no time.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_sums_sql(ledger oid, dimension text, has_agent boolean)
RETURNS text LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
  l record := @extschema@._token_usage_layout(ledger);
BEGIN
  RETURN format(
    'SELECT pg_catalog.width_bucket(%s, $3), %s, %s, pg_catalog.count(*),
            pg_catalog.sum(%s)::pg_catalog.numeric, pg_catalog.sum(%s)::pg_catalog.numeric,
            pg_catalog.sum(%s)::pg_catalog.numeric, coalesce(pg_catalog.sum(%s), 0), coalesce(pg_catalog.sum(%s), 0),
            pg_catalog.count(*) OPERATOR(pg_catalog.-) pg_catalog.count(%s), coalesce(pg_catalog.sum(%s), 0),
            pg_catalog.count(%s)
       FROM %s AS t
      WHERE %s%s AND t.created_at OPERATOR(pg_catalog.>) ''-infinity''
        AND t.created_at OPERATOR(pg_catalog.>=) %s AND t.created_at OPERATOR(pg_catalog.<) %s
      GROUP BY 1, 2, 3',
    l.created,
    CASE dimension WHEN 'agent' THEN l.agent WHEN 'model' THEN l.provider ELSE 'NULL::pg_catalog.text' END,
    CASE dimension WHEN 'model' THEN l.model ELSE 'NULL::pg_catalog.text' END,
    l.prompt, l.completion, l.total, l.cost_usd, l.cost_rub, l.cost_usd, l.execution, l.execution,
    @extschema@._token_usage_table(ledger, 'token_usage'::text), l.of_user,
    CASE WHEN has_agent THEN ' AND ' || l.of_agent ELSE '' END,
    format(l.bound, '$3[1]'), format(l.bound, '$3[pg_catalog.array_upper($3, 1)]'));
END
$function$;

-- Goes back to the caller's search path, until the function ends that calls this and that sets search_path in its declaration. Row-level
-- security policies of the ledger may call functions that expect it, as they would in any query of the caller.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_caller_path(path name[])
RETURNS void LANGUAGE plpgsql STABLE AS $function$
BEGIN
  PERFORM set_config('search_path', coalesce(
    (SELECT string_agg(quote_ident(p.nspname), ', ' ORDER BY p.place)
       FROM unnest(path) WITH ORDINALITY AS p (nspname, place)), ''), true);
END
$function$;
