-- Exchange rates: token_usage_set_rate, and the rate in force at an instant. Section 6 of the contract.
-- Also here: how a time is read from JSON or text, which rates, events and catalogues share.

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

-- A cost in USD in another currency by the rate in force at an instant, half-even to 12 places; NULL without a rate.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_convert(
  ledger oid, wanted_currency text, usd numeric, at timestamptz) RETURNS numeric
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
  rates text := @extschema@._token_usage_beside(ledger, 'token_usage_exchange_rate');
  rate numeric;
BEGIN
  IF rates IS NULL OR usd IS NULL THEN
    RETURN NULL;
  END IF;
  EXECUTE format('SELECT rate FROM %s WHERE currency = $1 AND valid_from <= $2 ORDER BY valid_from DESC LIMIT 1', rates)
    INTO rate USING wanted_currency, at;
  RETURN @extschema@._token_usage_half_even(usd * @extschema@._token_usage_half_even(rate, 12), 12);
END
$function$;

CREATE OR REPLACE FUNCTION @extschema@._token_usage_set_rate(
  path name[], wanted_currency text, rate numeric, from_instant timestamptz) RETURNS numeric
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
  rates text := @extschema@._token_usage_require_beside(
    @extschema@._token_usage_ledger(path), 'token_usage_exchange_rate');
  code text := upper(btrim(wanted_currency) COLLATE "C");
BEGIN
  IF code IS NULL OR code !~ '^[A-Z]{3}$' THEN
    PERFORM @extschema@._token_usage_bad_argument('currency', 'a currency code such as RUB', wanted_currency);
  ELSIF rate IS NULL OR rate = 'NaN' OR rate <= 0 OR rate::text = 'Infinity' THEN
    PERFORM @extschema@._token_usage_bad_argument('rate', 'a number above 0', rate::text);
  ELSIF NOT isfinite(from_instant) OR from_instant NOT BETWEEN '0001-01-01T00:00:00Z' AND '9999-12-31T23:59:59.999999Z' THEN
    PERFORM @extschema@._token_usage_bad_argument('from_instant', 'a time such as 2025-10-20T14:30:25Z', from_instant::text);
  END IF;
  EXECUTE format('INSERT INTO %s (currency, rate, valid_from) VALUES ($1, $2, $3)'
                 ' ON CONFLICT (currency, valid_from) DO UPDATE SET rate = EXCLUDED.rate', rates)
    USING code, rate, coalesce(from_instant, now());
  RETURN trim_scale(rate);
END
$function$;

-- token_usage_set_rate(currency, rate, from_instant): units of a currency per USD from an instant on (NULL: now).
-- Setting the same instant again replaces its rate. Returns the rate.
CREATE OR REPLACE FUNCTION @extschema@.token_usage_set_rate(
  currency text, rate numeric, from_instant timestamptz DEFAULT NULL) RETURNS numeric
LANGUAGE sql AS $function$
  SELECT @extschema@._token_usage_set_rate(pg_catalog.current_schemas(false), currency, rate, from_instant)
$function$;
