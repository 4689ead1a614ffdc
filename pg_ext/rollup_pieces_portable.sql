-- The portable twin of pg_ext/rollup_pieces.cpp.

-- A range of a report's bounds, cut into pieces: tier 3 whole months, 2 whole days, 1 whole hours (half-hours
-- where the report has no groups, for zones of :30) from the rollup, 0 from the ledger. Bounds and results are instants;
-- buckets are UTC. A rolled bucket that sealed_until cuts holds what lies before it, so it may serve a piece that reaches sealed_until.
-- months: the rolled months in order; flags: what is rolled of each (see _token_usage_rollup_flags).
CREATE OR REPLACE FUNCTION @extschema@._token_usage_rollup_pieces(
  bounds timestamptz[], sealed_until timestamptz, months timestamptz[], flags smallint[], groups boolean,
  OUT tier integer, OUT lo timestamptz, OUT hi timestamptz)
RETURNS SETOF record LANGUAGE plpgsql IMMUTABLE ROWS 4 SET search_path = pg_catalog, pg_temp AS $rollup$
DECLARE
  month_bit integer := CASE WHEN groups THEN 2 ELSE 1 END;
  day_bit integer := CASE WHEN groups THEN 8 ELSE 4 END;
  hour_bit integer := CASE WHEN groups THEN 32 ELSE 16 END;
  n integer := cardinality(bounds);
  last timestamp;
  sealed timestamp;
  pos timestamp;
  stop timestamp;
  bound timestamp;
  limit_ timestamp;
  month timestamp;
  month_end timestamp;
  piece integer;
  have integer;
  have_lo timestamp;
  unit_start timestamp;
  unit_end timestamp;
  half_hour constant interval := '30 minutes';
  f integer;
  i integer := 2;
  m integer;
BEGIN
  IF sealed_until IS NULL OR coalesce(cardinality(months), 0) = 0 OR bounds[1] >= sealed_until OR bounds[n] <= months[1] THEN
    tier := 0;
    lo := bounds[1];
    hi := bounds[n];
    RETURN NEXT;
    RETURN;
  END IF;
  last := timezone('UTC', bounds[n]);
  sealed := timezone('UTC', sealed_until);
  pos := timezone('UTC', bounds[1]);
  have_lo := pos;
  bound := timezone('UTC', bounds[2]);
  m := greatest(width_bucket(bounds[1], months), 1);
  month := timezone('UTC', months[m]);
  month_end := month + interval '1 month';
  f := flags[m];
  WHILE pos < last LOOP
    WHILE bound <= pos LOOP
      i := i + 1;
      bound := timezone('UTC', bounds[i]);
    END LOOP;
    WHILE month IS NOT NULL AND month_end <= pos LOOP
      m := m + 1;
      month := timezone('UTC', months[m]);
      month_end := month + interval '1 month';
      f := flags[m];
    END LOOP;
    piece := 0;
    IF month IS NULL OR pos >= sealed THEN
      stop := last;
    ELSIF pos < month THEN
      stop := least(month, last);
    ELSE
      -- What lies before sealed_until is the whole of its bucket.
      stop := CASE WHEN bound >= sealed THEN sealed ELSE bound END;
      IF f & month_bit <> 0 AND pos = month AND (stop >= month_end OR stop = sealed) THEN
        piece := 3;
        limit_ := stop;
        stop := least(month_end, stop);
        -- Here and below: what follows and is as whole is gone through without looking at everything again.
        WHILE stop = month_end AND stop < limit_ AND flags[m + 1] & month_bit <> 0 AND timezone('UTC', months[m + 1]) = month_end
              AND (limit_ >= month_end + interval '1 month' OR limit_ = sealed) LOOP
          m := m + 1;
          month := month_end;
          month_end := month_end + interval '1 month';
          f := flags[m];
          stop := least(month_end, limit_);
        END LOOP;
      ELSE
        stop := least(month_end, stop);
        IF f & day_bit <> 0 AND pos = date_trunc('day', pos)
           AND (stop = sealed OR date_trunc('day', stop) > pos) THEN
          piece := 2;
          IF stop <> sealed THEN
            stop := date_trunc('day', stop);
          END IF;
          limit_ := least(month_end, sealed, last);
          WHILE stop = bound AND stop < limit_ LOOP
            i := i + 1;
            bound := timezone('UTC', bounds[i]);
            EXIT WHEN date_trunc('day', least(bound, limit_)) <= stop;
            stop := CASE WHEN bound >= limit_ AND limit_ = sealed THEN sealed ELSE date_trunc('day', least(bound, limit_)) END;
          END LOOP;
        ELSE
          IF f & day_bit <> 0 THEN
            stop := least(stop, date_trunc('day', pos) + interval '1 day');
          END IF;
          IF f & hour_bit <> 0 THEN
            unit_start := date_trunc('hour', pos);
            IF NOT groups AND pos >= unit_start + half_hour THEN
              unit_start := unit_start + half_hour;
            END IF;
            unit_end := date_trunc('hour', stop);
            IF NOT groups AND stop >= unit_end + half_hour THEN
              unit_end := unit_end + half_hour;
            END IF;
            IF pos = unit_start AND (stop = sealed OR unit_end > pos) THEN
              piece := 1;
              IF stop <> sealed THEN
                stop := unit_end;
              END IF;
            ELSE
              stop := least(stop, unit_start + CASE WHEN groups THEN interval '1 hour' ELSE half_hour END);
            END IF;
          END IF;
        END IF;
      END IF;
    END IF;
    IF piece IS DISTINCT FROM have THEN
      IF have IS NOT NULL THEN
        tier := have;
        lo := timezone('UTC', have_lo);
        hi := timezone('UTC', pos);
        RETURN NEXT;
      END IF;
      have := piece;
      have_lo := pos;
    END IF;
    pos := stop;
  END LOOP;
  tier := have;
  lo := timezone('UTC', have_lo);
  hi := bounds[n];
  RETURN NEXT;
END
$rollup$;
