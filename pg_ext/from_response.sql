-- token_usage_from_response, and how recording reads numbers and times from JSON. Section 5 of the contract. The
-- normaliser itself is C++ in the native edition (from_response.cpp) and from_response_portable.sql in the portable one.

-- A value rounded half-even to `places`, without trailing zeros. round() is half away from zero. It is inlined where it
-- is given a column and no long expression; STRICT would keep it from that.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_half_even(value numeric, places integer) RETURNS numeric
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $function$
  SELECT pg_catalog.trim_scale(CASE
    WHEN pg_catalog.scale(value) <= places THEN value
    WHEN pg_catalog.abs(value - pg_catalog.trunc(value, places)) = ('5e-' || (places + 1)::text)::numeric
         AND pg_catalog.trunc(value, places) % ('2e-' || places::text)::numeric = 0
      THEN pg_catalog.trunc(value, places)
    ELSE pg_catalog.round(value, places) END)
$function$;

-- The count in a JSON number: whole, from 0 to 2^63-1 (12.0 is 12); another value is an error that names `path`.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_count(value jsonb, path text) RETURNS bigint
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $function$
DECLARE
  number numeric;
BEGIN
  IF pg_catalog.jsonb_typeof(value) = 'number' THEN
    number := value::numeric;
    IF number >= 0 AND number <= 9223372036854775807 AND number = pg_catalog.trunc(number) THEN
      RETURN number;
    END IF;
  END IF;
  PERFORM @extschema@._token_usage_bad_argument(path, 'a whole number from 0 to 9223372036854775807', value::text);
END
$function$;

-- The instant in a JSON value: text in a form of section 2 of the contract (a date alone is its midnight in UTC), or
-- a number of Unix seconds (milliseconds from 10^11 on). NULL where it is none of these. Time is kept to the
-- microsecond; further digits are cut off.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_json_instant(value jsonb) RETURNS timestamptz
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
  part text[];
  number numeric;
  year integer;
  month integer;
  day integer;
  seconds numeric;
  instant timestamptz;
BEGIN
  IF jsonb_typeof(value) = 'number' THEN
    number := value::numeric;
    IF number = trunc(number) AND number >= 100000000000 THEN
      number := number / 1000;
    END IF;
    IF number < -62135596800 OR number >= 253402300800 THEN
      RETURN NULL;
    END IF;
    number := floor(number * 1000000);
    RETURN '1970-01-01T00:00:00Z'::timestamptz + div(number, 1000000)::bigint * interval '1 second'
           + mod(number, 1000000)::bigint * interval '1 microsecond';
  ELSIF jsonb_typeof(value) IS DISTINCT FROM 'string' THEN
    RETURN NULL;
  END IF;
  part := regexp_match(value #>> '{}',
    '^([0-9]{4})-([0-9]{2})-([0-9]{2})(?:[ T]([0-9]{2}):([0-9]{2})(?::([0-9]{2})(?:[.]([0-9]+))?)?'
    '(?: ?(Z|[+-][0-9]{2}:[0-9]{2}))?)?$');
  IF part IS NULL THEN
    RETURN NULL;
  END IF;
  year := part[1]::integer;
  month := part[2]::integer;
  day := part[3]::integer;
  IF year < 1 OR month NOT BETWEEN 1 AND 12 THEN
    RETURN NULL;
  ELSIF day < 1 OR day > date_part('day', make_date(year, month, 1) + interval '1 month - 1 day')
     OR coalesce(part[4], '0')::integer > 23 OR coalesce(part[5], '0')::integer > 59
     OR coalesce(part[6], '0')::integer > 59
     OR (part[8] <> 'Z' AND ("substring"(part[8], 2, 2)::integer > 23 OR "substring"(part[8], 5, 2)::integer > 59)) THEN
    RETURN NULL;
  END IF;
  instant := make_timestamptz(year, month, day, coalesce(part[4], '0')::integer, coalesce(part[5], '0')::integer,
                              coalesce(part[6], '0')::integer, 'UTC')
             + rpad("left"(coalesce(part[7], '0'), 6), 6, '0')::integer * interval '1 microsecond';
  IF part[8] <> 'Z' THEN
    instant := instant - ("left"(part[8], 1) || '1')::integer
      * ("substring"(part[8], 2, 2)::integer * 60 + "substring"(part[8], 5, 2)::integer) * interval '1 minute';
  END IF;
  IF instant < '0001-01-01T00:00:00Z'::timestamptz OR instant >= '10000-01-01T00:00:00Z'::timestamptz THEN
    RETURN NULL;
  END IF;
  RETURN instant;
END
$function$;

-- token_usage_from_response(ai_provider, response): the normalised usage object of a provider's response, of its
-- bare usage object or of the events of a stream (an array). Errors: 22023, naming the path of a bad count.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_from_response(ai_provider text, response jsonb) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
  result record;
BEGIN
  IF ai_provider IS NULL THEN
    PERFORM @extschema@._token_usage_bad_argument('ai_provider', 'given', NULL);
  ELSIF response IS NULL THEN
    PERFORM @extschema@._token_usage_bad_argument('response', 'given', NULL);
  END IF;
  result := @extschema@._token_usage_normalise(ai_provider, response, 'response');
  RETURN result.usage;
END
$function$;

CREATE OR REPLACE FUNCTION @extschema@.token_usage_from_response(ai_provider text, response jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $function$
  SELECT @extschema@._token_usage_from_response(ai_provider, response)
$function$;
