-- Money is decimal (rule 4 of the contract): what a stored cost counts as. core/decimal.cpp is the twin. Aggregates call
-- these functions under any search_path, so that all names and operators are qualified. money.cpp and money_portable.sql hold the rest.

-- `value` with more than 12 places, rounded half-even to 12; NULL for NaN and infinities, whose scale() is NULL. round() takes ties
-- away from zero; where that was a tie and the digit before it is even, it is to stay.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_half_even(value numeric)
RETURNS numeric LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $function$
BEGIN
  RETURN CASE
    WHEN pg_catalog.scale(value) IS NULL THEN NULL
    WHEN pg_catalog.abs(value OPERATOR(pg_catalog.-) pg_catalog.trunc(value, 12)) OPERATOR(pg_catalog.=) 0.0000000000005
     AND pg_catalog.mod(pg_catalog.trunc(value, 12), 0.000000000002) OPERATOR(pg_catalog.=) 0.0
      THEN pg_catalog.trunc(value, 12)
    ELSE pg_catalog.round(value, 12)
  END;
END
$function$;

-- The text of an expression that gives the decimal of a column of that family (rule 4); NULL for one that is no number. For numeric it is
-- written out, since to inline a function of SQL takes longer than to read a user's few rows.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_decimal_sql(column_name text, family text)
RETURNS text LANGUAGE plpgsql IMMUTABLE AS $function$
BEGIN
  RETURN CASE family
    WHEN 'integer' THEN column_name || '::pg_catalog.numeric'
    WHEN 'numeric' THEN
      format('CASE WHEN pg_catalog.scale(%s) OPERATOR(pg_catalog.<=) 12 THEN %s ELSE @extschema@._token_usage_half_even(%s) END',
             column_name, column_name, column_name)
    WHEN 'double' THEN format('@extschema@._token_usage_decimal(%s::pg_catalog.float8)', column_name)
    WHEN 'real' THEN format('@extschema@._token_usage_decimal(%s::pg_catalog.float4)', column_name)
  END;
END
$function$;

-- The mean of `n` numbers whose sum is `total`, half away from zero to a whole number; NULL over none. div() is exact where `/`
-- would have rounded once before.
CREATE OR REPLACE FUNCTION @extschema@._token_usage_mean(total numeric, n numeric)
RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $function$
  SELECT CASE WHEN n OPERATOR(pg_catalog.>) 0.0 THEN
    (pg_catalog.sign(total) OPERATOR(pg_catalog.*)
     pg_catalog.div(2.0 OPERATOR(pg_catalog.*) pg_catalog.abs(total) OPERATOR(pg_catalog.+) n,
                    2.0 OPERATOR(pg_catalog.*) n))::pg_catalog.int8
  END
$function$;
