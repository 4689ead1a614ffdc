#!/usr/bin/env bash
# Builds the usage page and installs what drives the browser, both from the npm registry by their lock
# files. Where that is done already, and nothing changed, it does nothing.
# usage: test/browser/prepare.sh
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
page=$root/examples/http_service/page
for folder in "$page" "$root/test/browser"; do
  cd "$folder"
  if [ ! -e node_modules/.package-lock.json ] || [ package-lock.json -nt node_modules/.package-lock.json ]; then
    npm ci --no-audit --no-fund
  fi
done
cd "$page"
newest=$(find src build.mjs package-lock.json tsconfig.json -type f -printf '%T@\n' | sort -n | tail -n 1)
built=$(stat -c %.Y dist/index.html 2>/dev/null || echo 0)
if ! awk "BEGIN { exit !($built > $newest) }"; then
  npm run build
fi
