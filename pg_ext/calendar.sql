-- Whole local calendar days (rules 1 to 3 of the contract) on PostgreSQL's own time zones. core/calendar.cpp is the twin for
-- SQLite; the conformance suite compares the two.
--
-- Local times are computed by casts under the setting TimeZone and not with AT TIME ZONE, because that takes some names of
-- zones (CET, EST) for abbreviations, which have no daylight-saving time. A function that sets TimeZone says so in its declaration,
-- which gives the caller his own back.

-- Raises the argument error where `zone` is no IANA name or the server does not know it. PostgreSQL would also take
-- abbreviations (MSK) and POSIX strings (Foo/Bar5); the form is that of core/zone_name.cpp. Returns the zone.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_zone(zone text, argument text)
RETURNS text LANGUAGE plpgsql STABLE AS $function$
DECLARE
  low text := lower(zone COLLATE "C");
BEGIN
  IF low = 'utc' THEN
    RETURN 'UTC';
  END IF;
  IF length(zone) > 64 OR NOT (
       low ~ ('^(cet|cst6cdt|cuba|eet|est|est5edt|egypt|eire|gb|gb-eire|gmt|gmt[+]0|gmt-0|gmt0|greenwich|hst|'
              'hongkong|iceland|iran|israel|jamaica|japan|kwajalein|libya|met|mst|mst7mdt|nz|nz-chat|navajo|prc|'
              'pst8pdt|poland|portugal|roc|rok|singapore|turkey|uct|universal|w-su|wet|zulu)$')
       OR low ~ '^etc/gmt(0|[+]([0-9]|1[0-2])|-([0-9]|1[0-4]))?$'
       OR (low ~ '^[a-z][a-z_-]*(/[a-z][a-z_-]*){1,2}$' AND low !~ '^(posix|right|systemv)/'))
     OR NOT @extschema@._token_usage_zone_known(zone) THEN
    PERFORM @extschema@._token_usage_bad_argument(argument, 'an IANA time zone'::text, zone);
  END IF;
  RETURN zone;
END
$function$;

-- The first instant whose local time, by the setting TimeZone, is at or past `midnight`, where that is not simply the cast: a
-- midnight that is skipped gives the transition itself, and of two midnights the first is taken.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_odd_midnight(midnight timestamp)
RETURNS timestamptz LANGUAGE plpgsql STABLE AS $function$
DECLARE
  start timestamptz := midnight;
  before timestamptz;
  middle timestamptz;
BEGIN
  IF start::timestamp = midnight THEN
    -- Read with the offset of the day before it may come earlier, and then there are two.
    before := start - interval '24 hours';
    before := start - (before::timestamp + interval '24 hours' - midnight);
    RETURN CASE WHEN before < start AND before::timestamp = midnight THEN before ELSE start END;
  END IF;
  -- No such local time. The clock is short of it at one end and past it at the other; transitions are at whole seconds.
  before := start - interval '26 hours';
  start := start + interval '26 hours';
  WHILE start - before > interval '1 second' LOOP
    middle := before + make_interval(secs => floor(extract(epoch FROM start - before) / 2));
    IF middle::timestamp >= midnight THEN
      start := middle;
    ELSE
      before := middle;
    END IF;
  END LOOP;
  RETURN start;
END
$function$;

-- The starts of these days, in their order.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_local_starts(days date[], zone text)
RETURNS timestamptz[] LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' AS $function$
BEGIN
  PERFORM set_config('TimeZone', zone, true);
  RETURN ARRAY(
    SELECT CASE
        -- A midnight that exists, and whose clock has gone evenly for a day, is the only one of its date.
        WHEN m.midnight::timestamptz::timestamp = m.midnight
         AND (m.midnight::timestamptz - interval '24 hours')::timestamp = m.midnight - interval '24 hours'
          THEN m.midnight::timestamptz
        ELSE @extschema@._token_usage_odd_midnight(m.midnight)
      END
      FROM (SELECT d.day::timestamp AS midnight, d.place
              FROM unnest(days) WITH ORDINALITY AS d (day, place)) AS m
     ORDER BY m.place);
END
$function$;

CREATE OR REPLACE FUNCTION @extschema@._token_usage_starts(days date[], zone text)
RETURNS timestamptz[] LANGUAGE plpgsql STABLE AS $function$
DECLARE
  day date;
  starts timestamptz[] := '{}';
BEGIN
  IF zone = 'UTC' THEN
    FOREACH day IN ARRAY days LOOP
      starts := array_append(starts, timezone('UTC', day::timestamp));
    END LOOP;
    RETURN starts;
  END IF;
  RETURN @extschema@._token_usage_local_starts(days, zone);
END
$function$;

-- The starts of the days from `first` to `last`, and of the day after it.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_day_bounds(first date, last date, zone text)
RETURNS timestamptz[] LANGUAGE plpgsql STABLE AS $function$
DECLARE
  days date[];
BEGIN
  FOR i IN 0 .. last + 1 - first LOOP
    days := array_append(days, first + i);
  END LOOP;
  RETURN @extschema@._token_usage_starts(days, zone);
END
$function$;

CREATE OR REPLACE FUNCTION @extschema@._token_usage_local_day(as_of timestamptz, zone text)
RETURNS date LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' AS $function$
DECLARE
  day date;
BEGIN
  PERFORM set_config('TimeZone', zone, true);
  day := as_of::timestamp::date;
  -- Where the clock goes back across midnight, the local date is for a while the one before the day that has begun.
  WHILE @extschema@._token_usage_odd_midnight((day + 1)::timestamp) <= as_of LOOP
    day := day + 1;
  END LOOP;
  RETURN day;
END
$function$;

-- The local day that holds `as_of`; NULL is now. Raises where as_of is outside the years 1000 to 9999.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_day_of(as_of timestamptz, zone text)
RETURNS date LANGUAGE plpgsql STABLE AS $function$
BEGIN
  IF as_of IS NULL THEN
    as_of := now();
  ELSIF as_of < '1000-01-01 00:00:00+00' OR as_of >= '10000-01-01 00:00:00+00' THEN
    PERFORM @extschema@._token_usage_bad_argument('as_of'::text, 'a time from year 1000 to 9999'::text,
      @extschema@._token_usage_time_text(as_of));
  END IF;
  IF zone = 'UTC' THEN
    RETURN timezone('UTC', as_of)::date;
  END IF;
  RETURN @extschema@._token_usage_local_day(as_of, zone);
END
$function$;

-- The first day of the period that `day`, `week` (from Monday), `month` or `year` names.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_first_day(period text, last_day date)
RETURNS date LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $function$
  SELECT pg_catalog.date_trunc(period, last_day::timestamp without time zone)::date
$function$;
