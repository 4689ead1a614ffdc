-- The text of a page of token_usage_detailed. It depends on the ledger's column types and is made here for both editions: the native
-- one keeps its plan (page.cpp), the portable one has it in a function or runs it with EXECUTE (page_portable.sql).

-- The condition of a list of requests. Parameters: $1 text, the user; $2 text, the agent; $3 and $4 timestamptz, first and last instant.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_list_condition(
  of_user text, of_agent text, bound text, by_agent boolean, by_start boolean, by_end boolean)
RETURNS text LANGUAGE plpgsql IMMUTABLE AS $function$
BEGIN
  RETURN concat(of_user,
    ' AND t.created_at OPERATOR(pg_catalog.>) ''-infinity'' AND t.created_at OPERATOR(pg_catalog.<) ''infinity''',
    CASE WHEN by_agent THEN ' AND ' || of_agent END,
    CASE WHEN by_start THEN ' AND t.created_at OPERATOR(pg_catalog.>=) ' || format(bound, '$3') END,
    CASE WHEN by_end THEN ' AND t.created_at OPERATOR(pg_catalog.<=) ' || format(bound, '$4') END);
END
$function$;

-- The query of a page. Further parameters: $5 timestamptz and $6 text, the row behind which it starts (where by_cursor); $7 and $8 bigint,
-- limit and offset. A page by cursor is one stretch of an index, however deep it is. The outer query computes what only the rows of the
-- page need.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_page_sql(
  ledger oid, by_agent boolean, by_start boolean, by_end boolean, by_cursor boolean)
RETURNS text LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
  l record := @extschema@._token_usage_layout(ledger);
BEGIN
  RETURN format(
    'SELECT p.id, p.at, p.agent, p.provider, p.model, p.prompt::pg_catalog.int8, p.completion::pg_catalog.int8,
            p.total::pg_catalog.int8, pg_catalog.trim_scale(p.usd), pg_catalog.trim_scale(p.rub),
            pg_catalog.trim_scale(p.execution), p.platform, p.content_type, p.task_type, p.content_id, p.workflow_id,
            p.request_id, p.endpoint, @extschema@._token_usage_cursor(p.at, p.id)
       FROM (SELECT t.id::pg_catalog.text AS id, %s AS at, t.agent_id::pg_catalog.text AS agent,
                    t.ai_provider::pg_catalog.text AS provider, t.ai_model::pg_catalog.text AS model, %s AS prompt,
                    %s AS completion, %s AS total, %s AS usd, %s AS rub, %s AS execution,
                    t.platform::pg_catalog.text AS platform, t.content_type::pg_catalog.text AS content_type,
                    t.task_type::pg_catalog.text AS task_type, t.content_id::pg_catalog.text AS content_id,
                    t.workflow_id::pg_catalog.text AS workflow_id, t.request_id::pg_catalog.text AS request_id,
                    t.endpoint::pg_catalog.text AS endpoint
               FROM %s AS t
              WHERE %s%s
              ORDER BY t.created_at DESC, %s DESC
              LIMIT $7 OFFSET $8) AS p',
    l.created, l.prompt, l.completion, l.total, l.cost_usd, l.cost_rub, l.execution,
    @extschema@._token_usage_table(ledger, 'token_usage'::text),
    @extschema@._token_usage_list_condition(l.of_user, l.of_agent, l.bound, by_agent, by_start, by_end),
    CASE WHEN by_cursor THEN
      format(' AND (t.created_at, %s) OPERATOR(pg_catalog.<) (%s, $6::%s)', l.id, format(l.bound, '$5'), l.id_type) END,
    l.id);
END
$function$;
