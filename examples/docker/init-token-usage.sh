#!/bin/sh
# Run once by the image of PostgreSQL, in a new database: installs the extension, and makes the role
# `app`, which owns the ledger and is no superuser.
set -eu
psql -v ON_ERROR_STOP=1 -v app_password="$APP_PASSWORD" -U "$POSTGRES_USER" -d "$POSTGRES_DB" <<'SQL'
CREATE EXTENSION token_usage;
CREATE ROLE app LOGIN PASSWORD :'app_password';
GRANT USAGE, CREATE ON SCHEMA public TO app;
SET ROLE app;
SELECT token_usage_migrate();
SQL
