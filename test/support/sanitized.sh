#!/usr/bin/env bash
# The SQLite library and core under AddressSanitizer and UBSan.
# usage: test/support/sanitized.sh FOLDER   (a build with -DTOKEN_USAGE_SANITIZE=address,undefined)
#
# Three runs: the unit tests; the conformance suite's SQLite edition in Python with libasan preloaded
# (any report ends the process and so fails the suite); and every function once in the sqlite3
# shell with leak detection on.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 1
folder=$(realpath "$1")
library=$folder/token_usage.so
preload=$(g++ -print-file-name=libasan.so):$(g++ -print-file-name=libubsan.so):$(g++ -print-file-name=libstdc++.so)
export UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
code=0

echo "-- unit tests"
(cd "$folder" && ASAN_OPTIONS=detect_leaks=1 ctest --no-tests=error --output-on-failure | grep -v 'Passed\|Start') || code=1

echo "-- conformance, SQLite"
# Python itself leaks by design at exit, so leaks are looked for in the shell below.
(cd test && TOKEN_USAGE_EDITIONS=sqlite TOKEN_USAGE_LEDGERS=${TOKEN_USAGE_LEDGERS:-4} \
  TOKEN_USAGE_SQLITE_LIBRARY=$library LD_PRELOAD=$preload ASAN_OPTIONS=detect_leaks=0 \
  /usr/bin/python3 -m pytest -q --tb=short -p no:faulthandler -k 'not pg and not postgres' conformance) || code=1

echo "-- every function in the shell, with leaks"
# The shell itself ends with 1, since some of the calls are to fail; a sanitizer ends it with 99.
out=$(LD_PRELOAD=$preload ASAN_OPTIONS=detect_leaks=1:exitcode=99 sqlite3 :memory: 2>&1 <<SQL
.load $library
$(cat test/support/every_function.sql)
SQL
)
shell=$?
if [ $shell -le 1 ] && ! grep -q 'ERROR: \|runtime error' <<<"$out" && grep -q 'every function ran' <<<"$out"; then
  echo "1 passed, 0 failed"
else
  echo "$out" | tail -n 60
  echo "0 passed, 1 failed"
  code=1
fi
exit $code
