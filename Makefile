# Builds and installs the PostgreSQL native edition with PGXS, against the server that PG_CONFIG names:
#   make && sudo make install && make installcheck
# The SQLite edition has CMakeLists.txt. The version stands there once, for both. (PGXS has a VERSION of its own.)

token_usage_version := $(shell sed -n 's/^project.token_usage VERSION \([0-9.]*\).*/\1/p' CMakeLists.txt)

MODULE_big = token_usage
# No part of core/ that needs a library which a server does not have: zones and JSON are the server's own.
OBJS = \
	core/arguments.o \
	core/cursor.o \
	core/decimal.o \
	core/event.o \
	core/float_text.o \
	core/hex.o \
	core/json_reader.o \
	core/measures.o \
	core/price.o \
	core/stats_json.o \
	core/timestamp.o \
	core/usage.o \
	core/usage_rules.o \
	pg_ext/decimal_sum.o \
	pg_ext/few_call.o \
	pg_ext/few_layout.o \
	pg_ext/few_page.o \
	pg_ext/few_reports.o \
	pg_ext/few_rows.o \
	pg_ext/few_sums.o \
	pg_ext/from_response.o \
	pg_ext/kept_query.o \
	pg_ext/ledger.o \
	pg_ext/library.o \
	pg_ext/money.o \
	pg_ext/page.o \
	pg_ext/prices.o \
	pg_ext/record.o \
	pg_ext/rollup_bulk.o \
	pg_ext/rollup_bulk_read.o \
	pg_ext/rollup_fold.o \
	pg_ext/rollup_pieces.o \
	pg_ext/rollup_visit.o \
	pg_ext/stats.o \
	pg_ext/sums.o \
	pg_ext/user_scan.o \
	pg_ext/zone.o

EXTENSION = pg_ext/token_usage
DATA_built = pg_ext/token_usage--$(token_usage_version).sql

REGRESS = $(patsubst sql/%.sql,%,$(sort $(wildcard sql/*.sql)))
REGRESS_OPTS = --load-extension=token_usage

PG_CONFIG ?= pg_config
# The server's headers are not ours to keep free of warnings, so they count as system headers.
PG_CPPFLAGS = -isystem $(shell $(PG_CONFIG) --includedir-server) -Icore -DTOKEN_USAGE_VERSION='"$(token_usage_version)"'
token_usage_cxxflags = -std=c++20 -fvisibility=hidden -fvisibility-inlines-hidden -Wall -Wextra -Wpedantic -Wshadow
PG_CXXFLAGS = $(token_usage_cxxflags)
SHLIB_LINK += -lstdc++

PGXS := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)

# The server's own flags may be another compiler's, and its macros hold statements in expressions.
token_usage_clangflags = -Wno-unknown-warning-option -Wno-gnu-statement-expression
# PGXS gives the bitcode for the server's JIT neither of these.
COMPILE.cxx.bc += $(token_usage_cxxflags) $(token_usage_clangflags)
ifneq (,$(findstring clang,$(CXX)))
override CXXFLAGS += $(token_usage_clangflags)
endif

# The extraction rules stand once, as JSON; the library holds their text.
core/usage_rules.inc: core/usage_rules.json
	(printf 'R"json('; cat $<; printf ')json"\n') > $@
core/usage_rules.o core/usage_rules.bc: core/usage_rules.inc
EXTRA_CLEAN += core/usage_rules.inc

# PGXS tracks no headers.
$(OBJS) $(OBJS:.o=.bc): $(wildcard core/*.h pg_ext/*.h)
$(OBJS): CMakeLists.txt Makefile

include pg_ext/assemble.mk
