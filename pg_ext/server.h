// PostgreSQL's headers for C++, in the one order that works. Every file of pg_ext/ includes this
// header after the standard library's and core's, because postgres.h redefines names such as
// snprintf.
#pragma once

#include <pg_config.h>

// The library is built with hidden visibility. Up to PostgreSQL 15 this macro is empty unless it is
// defined first, and the server would then find neither the magic block nor a function.
#if PG_VERSION_NUM < 160000
#define PGDLLEXPORT __attribute__((visibility("default")))
#endif

extern "C" {
#include <postgres.h>

#include <catalog/namespace.h>
#include <catalog/pg_class.h>
#include <catalog/pg_type.h>
#include <common/shortest_dec.h>
#include <executor/spi.h>
#include <fmgr.h>
#include <funcapi.h>
#include <mb/pg_wchar.h>
#include <miscadmin.h>
#include <pgtime.h>
#include <utils/acl.h>
#include <utils/array.h>
#include <utils/builtins.h>
#include <utils/datetime.h>
#include <utils/fmgrprotos.h>
#include <utils/guc.h>
#include <utils/hsearch.h>
#include <utils/inval.h>
#include <utils/lsyscache.h>
#include <utils/memutils.h>
#include <utils/numeric.h>
#include <utils/rls.h>
#include <utils/syscache.h>
#include <utils/timestamp.h>
#include <utils/tuplestore.h>
}
