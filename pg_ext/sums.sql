-- The one place where reports get their sums: the ledger rows of one user, assigned to consecutive stretches of time and grouped
-- by a dimension. The text of the query depends on the ledger's column types; it is made here for both editions. The portable edition
-- runs it with EXECUTE (sums_portable.sql), the native one keeps its plan (sums.cpp).

-- `value` with more than 12 places, rounded half-even to 12 (rule 4 of the contract). round() takes ties away from zero; where
-- that was a tie, and gave an odd last digit, the even neighbour is one step nearer to zero.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_half_even(value numeric)
RETURNS numeric LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $function$
  SELECT CASE
    WHEN abs(value - trunc(value, 12)) = 0.0000000000005
     AND mod(trunc(abs(value), 12) * 1000000000000, 2) = 0 THEN trunc(value, 12)
    ELSE round(value, 12)
  END
$function$;

-- A real as the shortest decimal that gives the same real back; at most 9 digits do. NULL for NaN and infinities.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_shortest(value real)
RETURNS numeric LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $function$
DECLARE
  exact numeric;
  rounded numeric;
BEGIN
  IF value IS NULL OR NOT (value > '-Infinity' AND value < 'Infinity') THEN
    RETURN NULL;
  ELSIF value = 0 THEN
    RETURN 0;
  END IF;
  exact := value::double precision::numeric;
  FOR digits IN 6..9 LOOP
    rounded := round(exact, digits - 1 - floor(log(abs(exact)))::integer);
    EXIT WHEN rounded::real = value;
  END LOOP;
  RETURN rounded;
END
$function$;

-- An expression that gives the decimal value of a cost, NULL where it is no number.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_money_sql(expression text, family text, modifier integer)
RETURNS text LANGUAGE plpgsql IMMUTABLE AS $function$
DECLARE
  -- scale() of NaN and of infinities is NULL, so that they fall through.
  rounded constant text := 'CASE WHEN scale(%1$s) <= 12 THEN %1$s WHEN scale(%1$s) > 12 THEN @extschema@._token_usage_half_even(%1$s) END';
BEGIN
  CASE family
    WHEN 'integer' THEN
      RETURN expression || '::numeric';
    WHEN 'numeric' THEN
      -- numeric(p, s) carries s in the lower half of its modifier; such a column holds NaN but no infinity.
      IF modifier >= 4 AND ((modifier - 4) & 2047) <= 12 THEN
        RETURN format('nullif(%s, ''NaN'')', expression);
      END IF;
      RETURN format(rounded, expression);
    WHEN 'double' THEN
      -- The cast gives 15 significant digits. It comes only behind the test, since infinity has no numeric before PostgreSQL 14.
      RETURN format('CASE WHEN %1$s > ''-Infinity'' AND %1$s < ''Infinity'' THEN %2$s END',
                    expression, format(rounded, expression || '::numeric'));
    WHEN 'real' THEN
      RETURN format(rounded, format('@extschema@._token_usage_shortest(%s)', expression));
  END CASE;
END
$function$;

-- An expression that gives a whole token count as numeric or bigint; NULL stays NULL.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_count_sql(column_name text, family text)
RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $function$
  SELECT CASE family WHEN 'integer' THEN column_name || '::bigint'
    ELSE 'trunc(' || column_name || '::numeric)' END
$function$;

-- Expressions over the ledger's columns, as reports and pages read them: the time as timestamptz, the counts, the costs, the execution time.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_expressions(
  ledger oid, OUT created text, OUT bound text, OUT prompt text, OUT completion text, OUT total text,
  OUT cost_usd text, OUT cost_rub text, OUT execution text)
LANGUAGE plpgsql STABLE AS $function$
DECLARE
  col record;
BEGIN
  -- A column without time zone holds UTC. The bound is converted and not the column, so that its index serves.
  col := @extschema@._token_usage_column(ledger, 'created_at');
  created := CASE col.family WHEN 'timestamp' THEN '(created_at AT TIME ZONE ''UTC'')' ELSE 'created_at' END;
  bound := CASE col.family WHEN 'timestamp' THEN '(%s AT TIME ZONE ''UTC'')' ELSE '%s' END;

  col := @extschema@._token_usage_column(ledger, 'prompt_tokens');
  prompt := @extschema@._token_usage_count_sql('prompt_tokens', col.family);
  prompt := CASE WHEN col.not_null THEN prompt ELSE format('coalesce(%s, 0)', prompt) END;
  col := @extschema@._token_usage_column(ledger, 'completion_tokens');
  completion := @extschema@._token_usage_count_sql('completion_tokens', col.family);
  completion := CASE WHEN col.not_null THEN completion ELSE format('coalesce(%s, 0)', completion) END;
  -- A total that is not there is the sum of its parts.
  col := @extschema@._token_usage_column(ledger, 'total_tokens');
  total := @extschema@._token_usage_count_sql('total_tokens', col.family);
  total := CASE WHEN col.not_null THEN total ELSE format('coalesce(%s, %s + %s)', total, prompt, completion) END;

  col := @extschema@._token_usage_column(ledger, 'cost_usd');
  cost_usd := @extschema@._token_usage_money_sql('cost_usd', col.family, col.modifier);
  col := @extschema@._token_usage_column(ledger, 'cost_rub');
  cost_rub := @extschema@._token_usage_money_sql('cost_rub', col.family, col.modifier);
  col := @extschema@._token_usage_column(ledger, 'execution_time_ms');
  execution := @extschema@._token_usage_money_sql('execution_time_ms', col.family, col.modifier);
END
$function$;

-- The condition that picks the rows of the user in $1, and of the agent in $2 where there is one.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_whose_sql(ledger oid, has_agent boolean)
RETURNS text LANGUAGE sql STABLE AS $function$
  SELECT format('user_id = $1::%s', @extschema@._token_usage_key_type(c.family)) ||
         CASE WHEN has_agent THEN @extschema@._token_usage_agent_condition(ledger, '$2') ELSE '' END
    FROM @extschema@._token_usage_column(ledger, 'user_id') AS c
$function$;

-- The SELECT that _token_usage_sums runs. Parameters: $1 text, the user; $2 text, the agent (where has_agent); $3 timestamptz[], the bounds,
-- ascending, at least two. dimension is none, agent or model.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_sums_sql(ledger oid, dimension text, has_agent boolean)
RETURNS text LANGUAGE plpgsql STABLE AS $function$
DECLARE
  e record := @extschema@._token_usage_expressions(ledger);
  key1 text := CASE dimension WHEN 'agent' THEN 'agent_id::text COLLATE "C"'
                              WHEN 'model' THEN 'ai_provider::text COLLATE "C"' ELSE 'NULL::text' END;
  key2 text := CASE dimension WHEN 'model' THEN 'ai_model::text COLLATE "C"' ELSE 'NULL::text' END;
BEGIN
  RETURN format(
    'SELECT width_bucket(%1$s, $3), %2$s, %3$s, count(*), sum(%4$s)::numeric, sum(%5$s)::numeric, sum(%6$s)::numeric,
            coalesce(sum(%7$s), 0), coalesce(sum(%8$s), 0), count(*) - count(%7$s), coalesce(sum(%9$s), 0), count(%9$s)
       FROM %10$s
      WHERE %11$s AND created_at > ''-infinity'' AND created_at >= %12$s AND created_at < %13$s
      GROUP BY 1, 2, 3',
    e.created, key1, key2, e.prompt, e.completion, e.total, e.cost_usd, e.cost_rub, e.execution,
    @extschema@._token_usage_table(ledger), @extschema@._token_usage_whose_sql(ledger, has_agent),
    format(e.bound, '$3[1]'), format(e.bound, '$3[array_upper($3, 1)]'));
END
$function$;
