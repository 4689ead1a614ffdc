-- Exchange rates: token_usage_set_rate, and the rate in force at an instant. Section 6 of the contract.

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
