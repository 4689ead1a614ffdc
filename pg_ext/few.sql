-- Puts what serves users with few rows (few_reports.cpp) before the reports of reports.sql and detailed.sql, under whose names it is called:
-- what it does not serve it hands on to them, who have _any behind their names from here on. The portable edition has none of this.
DO $few$
DECLARE
  report record;
BEGIN
  FOR report IN
    SELECT p.oid::pg_catalog.regprocedure AS routine, p.proname, pg_catalog.pg_get_function_arguments(p.oid) AS arguments,
           pg_catalog.pg_get_function_result(p.oid) AS result, v.c_name
      FROM (VALUES ('_token_usage_summary', 'summary'), ('_token_usage_history', 'history'), ('_token_usage_by_agent', 'by_agent'),
                   ('_token_usage_by_model', 'by_model'), ('_token_usage_by_provider', 'by_provider'), ('_token_usage_totals', 'totals'),
                   ('_token_usage_detailed_count', 'count'), ('_token_usage_detailed', 'detailed')) AS v (name, c_name)
      JOIN pg_catalog.pg_proc AS p ON p.proname OPERATOR(pg_catalog.=) v.name::pg_catalog.name
       AND p.pronamespace OPERATOR(pg_catalog.=) '@extschema@'::pg_catalog.regnamespace::pg_catalog.oid
  LOOP
    EXECUTE pg_catalog.format('ALTER FUNCTION %s RENAME TO %I', report.routine, pg_catalog.concat(report.proname, '_any'));
    EXECUTE pg_catalog.format('CREATE FUNCTION @extschema@.%I(%s) RETURNS %s LANGUAGE c STABLE AS ''MODULE_PATHNAME'', %L',
      report.proname, report.arguments, report.result, pg_catalog.concat('token_usage_few_', report.c_name));
  END LOOP;
END
$few$;
