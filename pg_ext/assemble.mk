# Puts together what is installed from pg_ext/*.sql, in the order in which the parts need each other: the script of the extension, and the
# portable edition, which is committed, since those who use it have no make.
token_usage_parts = ledger settings calendar sums rollup
token_usage_native_parts = arguments money native $(token_usage_parts) reports detailed json migrate
token_usage_portable_parts = arguments money money_portable $(token_usage_parts) version_portable zone_portable sums_portable decimal_sum_portable \
	stats_portable reports detailed json migrate

token_usage_native_sql = $(patsubst %,pg_ext/%.sql,install_native $(token_usage_native_parts))
token_usage_portable_sql = $(patsubst %,pg_ext/%.sql,\
	install_portable_head $(token_usage_portable_parts) install_portable_tail)

pg_ext/token_usage--$(token_usage_version).sql: $(token_usage_native_sql) pg_ext/assemble.mk CMakeLists.txt
	cat $(token_usage_native_sql) > $@
EXTRA_CLEAN += pg_ext/token_usage--$(token_usage_version).sql

# Each part is executed by itself, so that an error shows one part and not the whole text.
migrations/add_token_usage_indexes.sql: $(token_usage_portable_sql) pg_ext/assemble.mk CMakeLists.txt
	( cat pg_ext/install_portable_head.sql; \
	  for part in $(token_usage_portable_parts); do \
	    printf '\n  EXECUTE replace($$token_usage$$\n'; \
	    cat pg_ext/$$part.sql; \
	    printf "\$$token_usage\$$, '@extschema@', home);\n"; \
	  done; \
	  cat pg_ext/install_portable_tail.sql ) | sed 's/@version@/$(token_usage_version)/g' > $@.new
	mv $@.new $@

all: migrations/add_token_usage_indexes.sql
