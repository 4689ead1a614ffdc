-- Direct calls of what the aggregates of the library are made of: a state is checked, and never changed in place.
SELECT _token_usage_stats_final(NULL);
SELECT _token_usage_stats_final('');
SELECT _token_usage_stats_final('\x00');
SELECT _token_usage_stats_final(decode(repeat('00', 132), 'hex'));
SELECT _token_usage_decimal_sum_final(decode(repeat('ff', 132), 'hex'));
SELECT _token_usage_decimal_sum_final(_token_usage_decimal_sum_add(s, 0.25)) AS once,
  _token_usage_decimal_sum_final(_token_usage_decimal_sum_combine(s, s)) AS twice,
  _token_usage_decimal_sum_final(_token_usage_decimal_sum_subtract(s, 0.25)) AS none,
  _token_usage_decimal_sum_final(s) AS unchanged
FROM _token_usage_decimal_sum_add(NULL, 0.25) AS s;
SELECT _token_usage_stats_final(_token_usage_stats_combine(s, s)), _token_usage_stats_final(s)
FROM _token_usage_stats_add(NULL, 1, 2, 3, 0.1, 0.2, 4::bigint) AS s;

-- _token_usage_sums: only the agent may be NULL.
SELECT _token_usage_sums(NULL, '1', NULL, ARRAY['2025-01-01', '2025-01-02']::timestamptz[], 'none');
SELECT count(*) FROM _token_usage_sums('pg_class'::regclass, '1', NULL, NULL, 'none');
SELECT count(*) FROM _token_usage_sums('pg_class'::regclass, '1', NULL, '{}', 'none');
SELECT count(*) FROM _token_usage_sums('pg_class'::regclass, '1', NULL, '{2025-01-01}', 'none');
SELECT count(*) FROM _token_usage_sums('pg_class'::regclass, '1', NULL, '{2025-01-01,NULL}', 'none');
SELECT count(*) FROM _token_usage_sums('pg_class'::regclass, '1', NULL, '{{2025-01-01,2025-01-02}}', 'none');

-- The library's decimals end at 10^26; the portable edition's do not end.
SELECT token_usage_decimal_sum(1e27);
SELECT token_usage_decimal_sum(1e26) FROM generate_series(1, 2);
SELECT token_usage_stats(1, 1, 2, 1e40::float8, 0.0::float8, 1);
