-- _token_usage_decimal: what a stored cost counts as (rule 4). The native edition reads and writes numeric as it is stored, so
-- each answer is compared with what the server's own functions make of the same value.
SELECT _token_usage_decimal(x) FROM (VALUES (NULL::numeric), ('NaN'), (0), (0.10), (-1.250000), (123456789.123456),
  (0.0000000000005), (0.0000000000015), (0.0000000000025), (-0.0000000000025), (0.00000000000250000001),
  (99999999.9999999999995), (1e25 + 0.1234567890125), (1e30), (1e30 + 0.12345678901251)) AS v (x);
SELECT _token_usage_decimal(x) FROM (VALUES (NULL::float8), ('NaN'), ('Infinity'), ('-Infinity'), (0), ('-0'), (0.1), (1e-12), (1e-13),
  (5e-13), (0.000028), (999999.99), (123456789.123456), (9007199254740993), (1e26), (1e30), (-1e40)) AS v (x);
SELECT _token_usage_decimal(x) FROM (VALUES (NULL::real), ('NaN'), ('Infinity'), ('-Infinity'), (0), (0.1), (1e-12), (1e-14), (0.000028),
  (1234.567), (16777216), (3e30), (-1e38)) AS v (x);
SELECT _token_usage_decimal(9223372036854775807), _token_usage_decimal((-9223372036854775807 - 1)::bigint), _token_usage_decimal(42);

-- In any setting of the session.
SET extra_float_digits = -10;
SELECT _token_usage_decimal(0.1::real) AS r, _token_usage_decimal(123456789.123456::float8) AS d;
RESET extra_float_digits;

-- Random values of every size: the answer, its text and its binary form are what the server makes of that number itself.
SELECT setseed(0.5);
CREATE TABLE money_values AS
  SELECT round(m, s) AS n, (m / 3)::float8 AS d, (m / 7)::real AS r
  FROM (SELECT (random() - 0.5)::numeric * 10::numeric ^ (random() * 34 - 12)::integer AS m, (random() * 12)::integer AS s
        FROM generate_series(1, 20000)) AS v;
SELECT count(*) FILTER (WHERE _token_usage_decimal(n) IS DISTINCT FROM n) AS numeric,
  count(*) FILTER (WHERE _token_usage_decimal(d) IS DISTINCT FROM CASE
    WHEN abs(d::numeric - trunc(d::numeric, 12)) = 0.0000000000005 AND mod(trunc(d::numeric, 12), 0.000000000002) = 0
    THEN trunc(d::numeric, 12) ELSE round(d::numeric, 12) END) AS float8,
  count(*) FILTER (WHERE abs(_token_usage_decimal(r) - r::text::numeric) > 0.0000000000005) AS float4
FROM money_values;
SELECT count(*) AS differ FROM (SELECT _token_usage_decimal(d) AS x FROM money_values
  UNION ALL SELECT _token_usage_decimal(r) FROM money_values
  UNION ALL SELECT _token_usage_decimal(n + 0.00000000000001) FROM money_values) AS v
WHERE numeric_send(x) <> numeric_send(x::text::numeric) OR x <> x::text::numeric OR x - x::text::numeric <> 0
  OR x::text <> trim_scale(x)::text OR hash_numeric(x) <> hash_numeric(x::text::numeric);
DROP TABLE money_values;
