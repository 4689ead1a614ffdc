\set SHOW_CONTEXT never
-- token_usage_stats and token_usage_decimal_sum: rules 4 to 6 of the contract, in plain, grouped, filtered,
-- windowed and parallel use, and what direct calls with made-up states get.
SET extra_float_digits = 0;

-- Over no rows, over one, over NULLs.
SELECT token_usage_stats(1, 2, 3, 0.1, 0.2, 5) FROM generate_series(1, 0);
SELECT token_usage_stats(1, 2, 3, 0.10, 9.50, 5);
SELECT token_usage_stats(NULL::bigint, NULL, NULL, NULL::numeric, NULL::numeric, NULL::bigint);
SELECT token_usage_stats(1, 2, NULL, NULL::numeric, 1.0, NULL::bigint);
SELECT token_usage_decimal_sum(x) FROM (VALUES (NULL::numeric)) AS v (x);
SELECT token_usage_decimal_sum(x) FROM (VALUES (NULL::numeric), (0)) AS v (x);

-- Every type of cost; a tenth is a tenth in each.
SELECT token_usage_stats(1, 1, 2, 0.1::numeric, 0.2::numeric, 1::bigint) -> 'cost_usd' AS n,
  token_usage_stats(1, 1, 2, 0.1::float8, 0.2::float8, 1.5::numeric) -> 'cost_usd' AS d,
  token_usage_stats(1, 1, 2, 0.1::real, 0.2::real, 1.5::float8) -> 'cost_usd' AS r,
  token_usage_stats(1, 1, 2, 0.1::numeric, 0.2::float8, 1) -> 'cost_rub' AS nd,
  token_usage_stats(1, 1, 2, 0.1::float8, 0.2::numeric, 1) -> 'cost_rub' AS dn
FROM generate_series(1, 3);
SELECT token_usage_decimal_sum(x::float8) AS d, token_usage_decimal_sum(x::real) AS r, token_usage_decimal_sum(x) AS n
FROM (VALUES (0.1), (0.2), (1234.567)) AS v (x);
SELECT token_usage_decimal_sum(x::integer) AS i, token_usage_decimal_sum(x) AS b
FROM (VALUES (2147483647::bigint), (1)) AS v (x);
SELECT token_usage_decimal_sum(x) FROM (VALUES ('NaN'::numeric), (1.50)) AS v (x);
SELECT token_usage_decimal_sum(x) FROM (VALUES ('NaN'::float8), ('Infinity'), ('-Infinity')) AS v (x);
SELECT token_usage_stats(1, 1, 2, 'NaN'::float8, 'Infinity'::float8, 1);

-- Half-even at the thirteenth place, each cost by itself.
SELECT x, token_usage_decimal_sum(x)
FROM (VALUES (0.0000000000005), (0.0000000000015), (0.0000000000025), (0.00000000000250001), (-0.0000000000035),
  (9.9999999999995), (4e-14), (1e-30)) AS v (x)
GROUP BY x ORDER BY x;

-- numeric is read as it is stored; its text must say the same. Random numbers of every length and scale.
SELECT setseed(0.25);
WITH numbers AS (
  SELECT (CASE WHEN random() < 0.5 THEN -1 ELSE 1 END)
    * round(random()::numeric * 10::numeric ^ (random() * 20)::integer, (random() * 12)::integer) AS x
  FROM generate_series(1, 20000)
), sums AS (
  SELECT token_usage_decimal_sum(x) AS ours, sum(x) AS theirs, count(*) AS rows FROM numbers
)
SELECT ours = theirs AS equal, rows FROM sums;
SELECT count(*) AS unequal FROM (
  SELECT token_usage_decimal_sum(x) AS ours, x
  FROM (SELECT DISTINCT (m * 10::numeric ^ e) AS x FROM generate_series(-11, 18) AS e,
    unnest(ARRAY[1, -1, 9999, 10000, 10001, 12345678, 99999999]) AS m) AS v (x) GROUP BY x) AS s
WHERE ours <> trim_scale(x) AND scale(trim_scale(x)) <= 12;

-- A billion small costs are not lost beside a large one.
SELECT token_usage_decimal_sum(x) FROM (
  SELECT 999999999999999::numeric AS x UNION ALL SELECT 0.000000000001 FROM generate_series(1, 1000)) AS v;

-- Past the range: an error, never a wrapped number.
SELECT token_usage_stats(x, 0, x, 0.0, 0.0, 1) FROM (VALUES (9223372036854775807), (1)) AS v (x);
SELECT token_usage_stats(x, 0, x, 0.0, 0.0, 1) -> 'total_tokens'
FROM (VALUES (9223372036854775807), (1), (-1)) AS v (x);
SELECT token_usage_stats(9223372036854775807, 1, NULL, 0.0, 0.0, 1);

-- Grouping, FILTER, DISTINCT, windows whose start moves.
SELECT g % 2 AS k, token_usage_stats(g, g, 2 * g, g * 0.1, g * 0.2, g) FILTER (WHERE g <= 4),
  token_usage_decimal_sum(DISTINCT (g % 4) * 0.1)
FROM generate_series(1, 8) AS g GROUP BY 1 ORDER BY 1;
SELECT g, token_usage_stats(g, g, 2 * g, CASE WHEN g <> 3 THEN g * 0.1 END, g * 0.2, NULLIF(g, 4)) OVER w AS stats,
  token_usage_decimal_sum(CASE WHEN g <> 3 THEN g * 0.1 END) OVER w AS sum
FROM generate_series(1, 6) AS g
WINDOW w AS (ORDER BY g ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) ORDER BY g;
SELECT token_usage_decimal_sum(CASE WHEN g = 2 THEN 0.5 END)
  OVER (ORDER BY g ROWS BETWEEN CURRENT ROW AND CURRENT ROW) AS sum
FROM generate_series(1, 3) AS g ORDER BY g;

-- Parallel plans give what one process gives.
CREATE TABLE aggregate_rows AS
  SELECT g AS n, g % 97 AS k, (g % 1000) * 0.000028 AS usd, (g % 1000) * 0.01::float8 AS rub
  FROM generate_series(1, 50000) AS g;
ANALYZE aggregate_rows;
CREATE FUNCTION plan_has(query text, pattern text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE line text;
BEGIN
  FOR line IN EXECUTE 'EXPLAIN (COSTS OFF) ' || query LOOP
    IF line ~ pattern THEN RETURN true; END IF;
  END LOOP;
  RETURN false;
END $$;
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
SELECT plan_has('SELECT token_usage_stats(n, k, n + k, usd, rub, k), token_usage_decimal_sum(usd) FROM aggregate_rows',
  'Partial Aggregate') AS parallel;
CREATE TABLE parallel_result AS
  SELECT token_usage_stats(n, k, n + k, usd, rub, k) AS s, token_usage_decimal_sum(usd) AS d FROM aggregate_rows;
CREATE TABLE parallel_groups AS
  SELECT k, token_usage_stats(n, k, n + k, usd, rub, k) AS s, token_usage_decimal_sum(rub) AS d
  FROM aggregate_rows GROUP BY k;
SET max_parallel_workers_per_gather = 0;
SELECT p.s = a.s AND p.d = a.d AS equal, p.d, a.s
FROM parallel_result AS p,
  (SELECT token_usage_stats(n, k, n + k, usd, rub, k) AS s, token_usage_decimal_sum(usd) AS d FROM aggregate_rows) AS a;
SET work_mem = '64kB';
SELECT count(*) AS groups, bool_and(p.s = a.s AND p.d = a.d) AS equal
FROM parallel_groups AS p JOIN
  (SELECT k, token_usage_stats(n, k, n + k, usd, rub, k) AS s, token_usage_decimal_sum(rub) AS d
   FROM aggregate_rows GROUP BY k) AS a USING (k);
RESET ALL;
DROP TABLE aggregate_rows, parallel_result, parallel_groups;
DROP FUNCTION plan_has(text, text);
