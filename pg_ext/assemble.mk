# Puts the extension's script together from its parts, in the order in which they need each other.
token_usage_sql = $(wildcard pg_ext/native.sql)

pg_ext/token_usage--$(token_usage_version).sql: $(token_usage_sql) pg_ext/assemble.mk
	cat $(token_usage_sql) > $@
EXTRA_CLEAN += pg_ext/token_usage--$(token_usage_version).sql
