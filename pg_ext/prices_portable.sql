-- The arithmetic of a price in PL/pgSQL, for servers that take no C++. Section 6 of the contract. core/price.cpp is the
-- twin. Counts are an array in the order prompt, completion, total, cache_read, cache_write, cache_write_5m,
-- cache_write_1h, cache_read_audio, cache_read_image, reasoning, input_audio, output_audio, input_image, output_image,
-- tool_use_prompt, web_search_requests; NULL is not reported.

-- The prices of each model found that are in force at an instant, for a request of so many prompt tokens, as one
-- JSON object of price by class for each, in order. A context tier that is crossed prices the whole request; a
-- price for this time of day goes before one for the whole day.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_prices_in_force(rows jsonb, at timestamptz, prompt bigint)
RETURNS jsonb[]
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $function$
  WITH newest AS (
    SELECT DISTINCT ON (r.hit, r.class, r.tier, r."from", r."to")
           r.hit, r.class, r.tier, r.price, r.since, r."from", r."to", r.id,
           r."from" <> '00:00' OR r."to" <> '24:00' AS windowed
      FROM jsonb_to_recordset(rows) AS r (hit integer, class text, tier bigint, price numeric, since timestamptz,
                                          "from" time, "to" time, id bigint)
     WHERE r.since <= at
       AND CASE WHEN r."from" <= r."to"
                THEN (at AT TIME ZONE 'UTC')::time >= r."from" AND (at AT TIME ZONE 'UTC')::time < r."to"
                ELSE (at AT TIME ZONE 'UTC')::time >= r."from" OR (at AT TIME ZONE 'UTC')::time < r."to" END
     ORDER BY r.hit, r.class, r.tier, r."from", r."to", r.since DESC, r.id DESC),
  -- Of the windows that hold, the newest; none of them: the whole day.
  window_of AS (
    SELECT DISTINCT ON (hit, class) hit, class, "from", "to"
      FROM newest WHERE price IS NOT NULL ORDER BY hit, class, windowed DESC, since DESC, id DESC),
  chosen AS (
    SELECT DISTINCT ON (n.hit, n.class) n.hit, n.class, n.price
      FROM newest n JOIN window_of w USING (hit, class, "from", "to")
     WHERE n.price IS NOT NULL AND (n.tier = 0 OR prompt > n.tier)
     ORDER BY n.hit, n.class, n.tier DESC)
  SELECT coalesce(array_agg(s.prices ORDER BY s.hit), '{}')
    FROM (SELECT hit, jsonb_object_agg(class, price) AS prices FROM chosen GROUP BY hit) s
$function$;

-- What counts cost by one set of prices, in USD at full length; NULL where the set does not price it. Kinds
-- (cached, written to cache) and modalities (audio, image) are two axes; a token on both is counted once, as cached.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_cost_by(prices jsonb, counts bigint[]) RETURNS numeric
LANGUAGE plpgsql IMMUTABLE AS $function$
DECLARE
  n numeric := coalesce(counts[1]::numeric, 0);
  c numeric := coalesce(counts[2]::numeric, 0);
  r numeric := CASE WHEN prices ? 'cache_read' THEN coalesce(counts[4]::numeric, 0) ELSE 0 END;
  w1 numeric := CASE WHEN prices ? 'cache_write_1h'
                     THEN coalesce(counts[7]::numeric, 0) ELSE 0 END;
  w numeric := CASE WHEN prices ? 'cache_write' THEN coalesce(counts[5]::numeric, 0) ELSE w1 END;
  a numeric := CASE WHEN prices ? 'input_audio' THEN least(coalesce(counts[11]::numeric, 0), n)
                    ELSE 0 END;
  i numeric := CASE WHEN prices ? 'input_image'
                    THEN least(coalesce(counts[13]::numeric, 0), n - a) ELSE 0 END;
  ao numeric := CASE WHEN prices ? 'output_audio'
                     THEN least(coalesce(counts[12]::numeric, 0), c) ELSE 0 END;
  io numeric := CASE WHEN prices ? 'output_image'
                     THEN least(coalesce(counts[14]::numeric, 0), c - ao) ELSE 0 END;
  q numeric := CASE WHEN prices ? 'reasoning'
                    THEN least(coalesce(counts[10]::numeric, 0), c - ao - io) ELSE 0 END;
  ra numeric := 0;
  ri numeric := 0;
  e numeric;
  x numeric;
  total numeric;
BEGIN
  IF NOT (prices ?| '{input,output,request}'::text[]) OR (n > 0 AND NOT prices ? 'input')
     OR (c > 0 AND NOT prices ? 'output') THEN
    RETURN NULL;
  END IF;
  w1 := least(w1, w);
  IF r > 0 AND a > 0 THEN
    ra := least(coalesce(counts[8]::numeric, 0), r, a);
  END IF;
  IF r > 0 AND i > 0 THEN
    ri := least(coalesce(counts[9]::numeric, 0), r - ra, i);
  END IF;
  -- What lies on both axes without being reported shows as more parts than there are tokens.
  e := r + w + a + i - ra - ri - n;
  IF e > 0 THEN
    x := least(e, a - ra, r - ra - ri);
    ra := ra + x;
    e := e - x;
    x := least(e, i - ri, r - ra - ri);
    ri := ri + x;
    e := e - x;
    x := least(e, a - ra);
    a := a - x;
    e := e - x;
    x := least(e, i - ri);
    i := i - x;
    e := e - x;
  END IF;
  total := greatest(-e, 0) * coalesce((prices -> 'input')::numeric, 0)
    + (c - q - ao - io) * coalesce((prices -> 'output')::numeric, 0)
    + coalesce(counts[16]::numeric, 0) * coalesce((prices -> 'web_search')::numeric, 0)
    + coalesce((prices -> 'request')::numeric, 0);
  IF r + w + a + i > 0 THEN
    total := total + (r - ra - ri) * coalesce((prices -> 'cache_read')::numeric, 0)
      + ra * coalesce((prices -> 'cache_read_audio')::numeric, (prices -> 'cache_read')::numeric, 0)
      + ri * coalesce((prices -> 'cache_read_image')::numeric, (prices -> 'cache_read')::numeric, 0)
      + (w - w1) * coalesce((prices -> 'cache_write')::numeric, 0)
      + w1 * coalesce((prices -> 'cache_write_1h')::numeric, 0)
      + (a - ra) * coalesce((prices -> 'input_audio')::numeric, 0)
      + (i - ri) * coalesce((prices -> 'input_image')::numeric, 0);
  END IF;
  IF q + ao + io > 0 THEN
    total := total + q * coalesce((prices -> 'reasoning')::numeric, 0)
      + ao * coalesce((prices -> 'output_audio')::numeric, 0) + io * coalesce((prices -> 'output_image')::numeric, 0);
  END IF;
  IF total > 1e20 THEN
    RAISE EXCEPTION USING ERRCODE = 'numeric_value_out_of_range',
      MESSAGE = 'token_usage: the cost is past 100000000000000';
  END IF;
  RETURN total * 0.000001;
END
$function$;

-- The cost by the first of the models that `rows` has prices of and that prices the counts, rounded to money.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_cost_of(rows jsonb, counts bigint[], at timestamptz) RETURNS numeric
LANGUAGE plpgsql STABLE AS $function$
DECLARE
  sets jsonb[] := @extschema@._token_usage_prices_in_force(rows, at, coalesce(counts[1], 0));
  cost numeric;
BEGIN
  FOR i IN 1 .. pg_catalog.cardinality(sets) LOOP
    cost := @extschema@._token_usage_cost_by(sets[i], counts);
    IF cost IS NOT NULL THEN
      RETURN @extschema@._token_usage_half_even(cost, 12);
    END IF;
  END LOOP;
  RETURN NULL;
END
$function$;
