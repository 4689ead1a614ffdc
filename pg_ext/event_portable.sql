-- Events: the JSON objects that token_usage_record takes. Section 5 of the contract. core/event.cpp is the twin.
-- Reading one gives the event itself, with what is derived from a response in place of the response: its counts, and
-- warnings, provider_cost_usd and not_tokens, as token_usage_from_response gives them.

-- The keys of an event.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_event_keys() RETURNS text[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $function$
  SELECT '{user_id,agent_id,ai_provider,ai_model,prompt_tokens,completion_tokens,total_tokens,response,content_id,
    workflow_id,request_id,endpoint,platform,content_type,task_type,cost_usd,cost_rub,execution_time_ms,
    request_metadata,response_metadata,created_at,cache_read_tokens,cache_write_tokens,cache_write_1h_tokens,
    cache_read_audio_tokens,cache_read_image_tokens,reasoning_tokens,input_audio_tokens,output_audio_tokens,
    input_image_tokens,output_image_tokens,web_search_requests}'::text[]
$function$;

-- True for an event that needs nothing read, as most do: plain counts, every value of its type. A false says nothing;
-- _token_usage_read_event() then finds what is wrong, if anything is.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_event_is_plain(e jsonb) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $function$
  SELECT jsonb_typeof(e) = 'object'
     AND NOT e ?| '{response,total_tokens,cache_read_tokens,cache_write_tokens,cache_write_1h_tokens,reasoning_tokens,
       cache_read_audio_tokens,cache_read_image_tokens,input_audio_tokens,output_audio_tokens,input_image_tokens,
       output_image_tokens,web_search_requests,cost_rub}'::text[]
     AND e - '{user_id,agent_id,ai_provider,ai_model,prompt_tokens,completion_tokens,workflow_id,request_id,cost_usd,
       execution_time_ms,request_metadata,response_metadata,created_at,content_id,endpoint,platform,content_type,
       task_type}'::text[] = '{}'
     AND e ->> 'user_id' ~ '^(0|-?[1-9][0-9]{0,17})$'
     AND jsonb_typeof(e -> 'agent_id') = 'string' AND e -> 'agent_id' <> '""'
     AND jsonb_typeof(e -> 'ai_provider') = 'string' AND e -> 'ai_provider' <> '""'
     AND jsonb_typeof(e -> 'ai_model') = 'string' AND e -> 'ai_model' <> '""'
     AND jsonb_typeof(e -> 'prompt_tokens') = 'number' AND e ->> 'prompt_tokens' ~ '^[0-9]{1,18}$'
     AND jsonb_typeof(e -> 'completion_tokens') = 'number' AND e ->> 'completion_tokens' ~ '^[0-9]{1,18}$'
     AND coalesce(jsonb_typeof(e -> 'content_id') = 'string', true)
     AND coalesce(jsonb_typeof(e -> 'workflow_id') = 'string', true)
     AND coalesce(jsonb_typeof(e -> 'endpoint') = 'string', true)
     AND coalesce(jsonb_typeof(e -> 'platform') = 'string', true)
     AND coalesce(jsonb_typeof(e -> 'content_type') = 'string', true)
     AND coalesce(jsonb_typeof(e -> 'task_type') = 'string', true)
     AND coalesce(jsonb_typeof(e -> 'request_id') = 'string' AND e -> 'request_id' <> '""', true)
     AND coalesce(jsonb_typeof(e -> 'cost_usd') = 'number' AND length(e ->> 'cost_usd') < 25, true)
     AND coalesce(jsonb_typeof(e -> 'execution_time_ms') = 'number' AND e ->> 'execution_time_ms' ~ '^[0-9]{1,18}$', true)
     AND coalesce(jsonb_typeof(e -> 'request_metadata') <> 'null', true)
     AND coalesce(jsonb_typeof(e -> 'response_metadata') <> 'null', true)
     AND coalesce(e ->> 'created_at' ~ ('^[12][0-9]{3}-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])[ T]([01][0-9]|2[0-3])'
                                        ':[0-5][0-9]:[0-5][0-9]([.][0-9]{1,6})?(Z|[+]00:00)?$'), NOT e ? 'created_at')
$function$;

-- A text of the event: NULL where absent; `filled`: not empty.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_event_text(e jsonb, key text, argument text, filled boolean)
RETURNS text LANGUAGE plpgsql IMMUTABLE AS $function$
BEGIN
  IF e -> key <> 'null' AND (jsonb_typeof(e -> key) <> 'string' OR (filled AND e -> key = '""')) THEN
    PERFORM @extschema@._token_usage_bad_argument(
      concat(argument, '.', key), CASE WHEN filled THEN 'non-empty text' ELSE 'text' END, (e -> key)::text);
  END IF;
  RETURN e ->> key;
END
$function$;

-- Reads an event; `argument` names it in errors (`event`, `events[17]`). An unknown key, a missing or ill-typed value,
-- and counts that contradict each other are errors.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_read_event(event jsonb, argument text) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE AS $function$
DECLARE
  e jsonb;
  key text;
  found record;
  total numeric;
  at timestamptz;
  classes constant text[] := '{cache_read_tokens,cache_write_tokens,cache_write_1h_tokens,cache_read_audio_tokens,
    cache_read_image_tokens,reasoning_tokens,input_audio_tokens,output_audio_tokens,input_image_tokens,
    output_image_tokens,web_search_requests}';
BEGIN
  IF jsonb_typeof(event) IS DISTINCT FROM 'object' THEN
    PERFORM @extschema@._token_usage_bad_argument(argument, 'an object', event::text);
  END IF;
  IF event - @extschema@._token_usage_event_keys() <> '{}' THEN
    SELECT k.key INTO key FROM jsonb_each(event - @extschema@._token_usage_event_keys()) k LIMIT 1;
    PERFORM @extschema@._token_usage_bad_argument(concat(argument, '.', key), 'a known key', (event -> key)::text);
  END IF;
  -- A null says what an absent key says.
  e := (SELECT coalesce(jsonb_object_agg(k.key, k.value), '{}') FROM jsonb_each(event) k WHERE k.value <> 'null');

  IF NOT e ? 'user_id' THEN
    PERFORM @extschema@._token_usage_bad_argument(argument || '.user_id', 'given', NULL);
  ELSIF NOT (CASE jsonb_typeof(e -> 'user_id') WHEN 'string' THEN e -> 'user_id' <> '""'
                                               WHEN 'number' THEN e ->> 'user_id' ~ '^-?[0-9]+$' ELSE false END) THEN
    PERFORM @extschema@._token_usage_bad_argument(
      argument || '.user_id', 'a whole number or text', (e -> 'user_id')::text);
  END IF;
  FOREACH key IN ARRAY '{agent_id,ai_provider,ai_model}'::text[] LOOP
    IF NOT e ? key THEN
      PERFORM @extschema@._token_usage_bad_argument(concat(argument, '.', key), 'given', NULL);
    END IF;
    PERFORM @extschema@._token_usage_event_text(e, key, argument, true);
  END LOOP;

  IF e ? 'response' THEN
    IF e ?| '{prompt_tokens,completion_tokens}' THEN
      PERFORM @extschema@._token_usage_bad_argument(
        argument || '.response', 'left out where counts are given', 'both');
    END IF;
    FOREACH key IN ARRAY 'total_tokens'::text || classes LOOP
      IF e ? key THEN
        PERFORM @extschema@._token_usage_bad_argument(
          concat(argument, '.', key), 'left out where response is given', (e -> key)::text);
      END IF;
    END LOOP;
    found := @extschema@._token_usage_normalise(e ->> 'ai_provider', e -> 'response', argument || '.response');
    IF jsonb_typeof(e -> 'response_metadata') <> 'object' THEN
      PERFORM @extschema@._token_usage_bad_argument(
        argument || '.response_metadata', 'an object where response is given', (e -> 'response_metadata')::text);
    END IF;
    e := e - 'response'
      || (found.usage - '{model,unattributed_tokens,cache_write_5m_tokens,tool_use_prompt_tokens,total_tokens}'::text[])
      || jsonb_build_object('response_metadata', coalesce(e -> 'response_metadata', '{}')
                                                 || jsonb_build_object('provider_usage', found.raw));
  ELSIF NOT e ?| '{prompt_tokens,completion_tokens}' THEN
    PERFORM @extschema@._token_usage_bad_argument(argument, 'counts or a response', 'neither');
  ELSE
    FOREACH key IN ARRAY '{prompt_tokens,completion_tokens}'::text[] LOOP
      IF NOT e ? key THEN
        PERFORM @extschema@._token_usage_bad_argument(concat(argument, '.', key), 'given', NULL);
      END IF;
      PERFORM @extschema@._token_usage_count(e -> key, concat(argument, '.', key));
    END LOOP;
    total := (e -> 'prompt_tokens')::numeric + (e -> 'completion_tokens')::numeric;
    IF e ? 'total_tokens'
       AND @extschema@._token_usage_count(e -> 'total_tokens', argument || '.total_tokens') <> total THEN
      PERFORM @extschema@._token_usage_bad_argument(
        argument || '.total_tokens', 'prompt_tokens + completion_tokens', (e -> 'total_tokens')::bigint::text);
    ELSIF total > 9223372036854775807 THEN
      PERFORM @extschema@._token_usage_sum_refused(argument);
    END IF;
    FOREACH key IN ARRAY classes LOOP
      IF e ? key THEN
        PERFORM @extschema@._token_usage_count(e -> key, concat(argument, '.', key));
      END IF;
    END LOOP;
    PERFORM @extschema@._token_usage_check_usage(e, argument);
  END IF;

  FOREACH key IN ARRAY '{content_id,workflow_id,request_id,endpoint,platform,content_type,task_type}'::text[] LOOP
    PERFORM @extschema@._token_usage_event_text(e, key, argument, key = 'request_id');
  END LOOP;
  FOREACH key IN ARRAY '{cost_usd,cost_rub}'::text[] LOOP
    IF jsonb_typeof(e -> key) <> 'number' OR abs((e -> key)::numeric) >= 170141183460469231731687303 THEN
      PERFORM @extschema@._token_usage_bad_argument(concat(argument, '.', key), 'a number', (e -> key)::text);
    END IF;
  END LOOP;
  IF e ? 'execution_time_ms' THEN
    PERFORM @extschema@._token_usage_count(e -> 'execution_time_ms', argument || '.execution_time_ms');
  END IF;
  IF e ? 'created_at' THEN
    at := @extschema@._token_usage_json_instant(e -> 'created_at');
    IF at IS NULL THEN
      PERFORM @extschema@._token_usage_bad_argument(
        argument || '.created_at', 'a time such as 2025-10-20T14:30:25Z', (e -> 'created_at')::text);
    END IF;
    e := jsonb_set(e, '{created_at}', to_jsonb(at));
  END IF;
  RETURN e;
END
$function$;

-- Reads all events, in order: the one that is `events` itself where `batch` is false. counts as in prices_portable.sql;
-- stated_usd: what the event or else the provider says; ask_book: the price book is to say it.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_read_events(events jsonb, batch boolean)
RETURNS TABLE (place integer, argument text, user_id text, agent_id text, ai_provider text, ai_model text,
  counts bigint[], content_id text, workflow_id text, request_id text, endpoint text, platform text, content_type text,
  task_type text, execution_time_ms bigint, request_metadata jsonb, response_metadata jsonb, created_at timestamptz,
  stated_usd numeric, stated_rub numeric, cost_source text, ask_book boolean, warnings text[])
LANGUAGE plpgsql STABLE ROWS 1000 SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' AS $function$
#variable_conflict use_column
DECLARE
  read jsonb;
BEGIN
  IF NOT batch THEN
    events := jsonb_build_array(events);
  ELSIF jsonb_typeof(events) <> 'array' THEN
    PERFORM @extschema@._token_usage_bad_argument('events'::text, 'an array'::text, events::text);
  END IF;
  read := (SELECT coalesce(jsonb_agg(
             CASE WHEN @extschema@._token_usage_event_is_plain(e.value) THEN e.value
                  ELSE @extschema@._token_usage_read_event(
                         e.value, CASE WHEN batch THEN format('events[%s]', e.ordinality - 1) ELSE 'event' END) END), '[]')
             FROM jsonb_array_elements(events) WITH ORDINALITY e);
  RETURN QUERY
    SELECT (r.n - 1)::integer, CASE WHEN batch THEN format('events[%s]', r.n - 1) ELSE 'event' END, r.user_id, r.agent_id,
           r.ai_provider, r.ai_model,
           ARRAY[r.prompt_tokens::bigint, r.completion_tokens::bigint, (r.prompt_tokens + r.completion_tokens)::bigint,
                 r.cache_read_tokens::bigint, r.cache_write_tokens::bigint, NULL, r.cache_write_1h_tokens::bigint,
                 r.cache_read_audio_tokens::bigint, r.cache_read_image_tokens::bigint, r.reasoning_tokens::bigint,
                 r.input_audio_tokens::bigint, r.output_audio_tokens::bigint, r.input_image_tokens::bigint,
                 r.output_image_tokens::bigint, NULL, r.web_search_requests::bigint],
           r.content_id, r.workflow_id, r.request_id, r.endpoint, r.platform, r.content_type, r.task_type,
           r.execution_time_ms::bigint, r.request_metadata, r.response_metadata, r.created_at,
           coalesce(r.cost_usd, @extschema@._token_usage_half_even(r.provider_cost_usd, 12)), r.cost_rub,
           CASE WHEN r.cost_usd IS NOT NULL OR r.cost_rub IS NOT NULL THEN 'event'
                WHEN r.provider_cost_usd IS NOT NULL THEN 'provider' WHEN r.not_tokens THEN 'other' END,
           r.cost_usd IS NULL AND r.provider_cost_usd IS NULL AND r.not_tokens IS NOT TRUE,
           CASE WHEN r.warnings IS NULL THEN '{}' ELSE ARRAY(SELECT jsonb_array_elements_text(r.warnings)) END
      FROM ROWS FROM (jsonb_to_recordset(read) AS (
             user_id text, agent_id text, ai_provider text, ai_model text, prompt_tokens numeric,
             completion_tokens numeric, cache_read_tokens numeric, cache_write_tokens numeric,
             cache_write_1h_tokens numeric, cache_read_audio_tokens numeric, cache_read_image_tokens numeric,
             reasoning_tokens numeric, input_audio_tokens numeric, output_audio_tokens numeric,
             input_image_tokens numeric, output_image_tokens numeric, web_search_requests numeric, content_id text,
             workflow_id text, request_id text, endpoint text, platform text, content_type text, task_type text,
             execution_time_ms numeric, request_metadata jsonb, response_metadata jsonb, created_at timestamptz,
             cost_usd numeric, cost_rub numeric, provider_cost_usd numeric, not_tokens boolean, warnings jsonb))
           WITH ORDINALITY AS r (user_id, agent_id, ai_provider, ai_model, prompt_tokens, completion_tokens,
             cache_read_tokens, cache_write_tokens, cache_write_1h_tokens, cache_read_audio_tokens,
             cache_read_image_tokens, reasoning_tokens, input_audio_tokens, output_audio_tokens, input_image_tokens,
             output_image_tokens, web_search_requests, content_id, workflow_id, request_id, endpoint, platform,
             content_type, task_type, execution_time_ms, request_metadata, response_metadata, created_at, cost_usd,
             cost_rub, provider_cost_usd, not_tokens, warnings, n)
     ORDER BY r.n;
END
$function$;
