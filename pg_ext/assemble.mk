# Puts together what is installed from pg_ext/*.sql, in the order in which the parts need each other: the script of the extension, and the
# portable edition, which is committed, since those who use it have no make.
token_usage_parts = ledger settings calendar sums rollup rollup_migrate rollup_write rollup_maintain rollup_rebuild rollup_verify page
token_usage_recording_parts = from_response exchange_rate prices import_prices record reprice
token_usage_native_parts = arguments money native rollup_bulk $(token_usage_parts) rollup_fold reports detailed few json migrate recording_native \
	$(token_usage_recording_parts)
token_usage_portable_parts = arguments money money_portable ledger_portable $(token_usage_parts) page_portable version_portable zone_portable rollup_pieces_portable sums_portable kept_portable \
	decimal_sum_portable stats_portable reports detailed json migrate from_response_portable event_portable prices_portable \
	$(token_usage_recording_parts)

# The extraction rules stand once, in core/usage_rules.json.
token_usage_put_rules = sed -e '/^@usage_rules@$$/{ r core/usage_rules.json' -e 'd' -e '}'

token_usage_native_sql = $(patsubst %,pg_ext/%.sql,install_native $(token_usage_native_parts))
token_usage_portable_sql = $(patsubst %,pg_ext/%.sql,\
	install_portable_head $(token_usage_portable_parts) install_portable_tail)

pg_ext/token_usage--$(token_usage_version).sql: $(token_usage_native_sql) pg_ext/assemble.mk core/usage_rules.json CMakeLists.txt
	cat $(token_usage_native_sql) | $(token_usage_put_rules) > $@
EXTRA_CLEAN += pg_ext/token_usage--$(token_usage_version).sql

# Each part is executed by itself, so that an error shows one part and not the whole text.
migrations/add_token_usage_indexes.sql: $(token_usage_portable_sql) pg_ext/assemble.mk core/usage_rules.json CMakeLists.txt
	( cat pg_ext/install_portable_head.sql; \
	  for part in $(token_usage_portable_parts); do \
	    printf '\n  EXECUTE replace($$token_usage$$\n'; \
	    cat pg_ext/$$part.sql; \
	    printf "\$$token_usage\$$, '@extschema@', home);\n"; \
	  done; \
	  cat pg_ext/install_portable_tail.sql ) | sed 's/@version@/$(token_usage_version)/g' \
	| $(token_usage_put_rules) > $@.new
	mv $@.new $@

all: migrations/add_token_usage_indexes.sql
