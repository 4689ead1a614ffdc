// Finds the ledger and reads its settings, PostgreSQL native edition: what every report begins
// with, by the server's catalog caches. ledger_portable.sql is the twin. Carries rules 3 and 9 of
// the contract.
#include <cstring>

#include "find_ledger.h"
#include "guard.h"
#include "kept_query.h"
#include "plain_table.h"

namespace token_usage {

namespace {

constexpr char kLedger[] = "token_usage";
constexpr char kSettings[] = "token_usage_settings";

constexpr char kOneShape = 0;  // there is one query

SPIPlanPtr prepare_setting(const KeptKey &key) {
  char *const schema = get_namespace_name(get_rel_namespace(key.ledger));
  Oid types[] = {TEXTOID};
  return prepare_text(psprintf("SELECT s.value FROM %s AS s WHERE s.name OPERATOR(pg_catalog.=) $1",
                               quote_qualified_identifier(schema, kSettings)),
                      1, types, CURSOR_OPT_GENERIC_PLAN);
}

bool is_ledger(Oid relation) {
  const char kind = get_rel_relkind(relation);
  return (kind == RELKIND_RELATION || kind == RELKIND_PARTITIONED_TABLE) &&
         get_rel_persistence(relation) != RELPERSISTENCE_TEMP;
}

}  // namespace

Oid find_ledger(ArrayType *path) {
  Datum *names = nullptr;
  bool *nulls = nullptr;
  int count = 0;
  deconstruct_array(path, NAMEOID, NAMEDATALEN, false, 'c', &names, &nulls, &count);
  for (int i = 0; i < count; ++i) {
    Oid const schema =
        nulls[i] ? InvalidOid : get_namespace_oid(NameStr(*DatumGetName(names[i])), true);
    Oid const relation = OidIsValid(schema) ? get_relname_relid(kLedger, schema) : InvalidOid;
    if (OidIsValid(relation) && is_ledger(relation)) {
      return relation;
    }
  }
  return InvalidOid;
}

extern "C" {

// _token_usage_ledger(path name[])
PG_FUNCTION_INFO_V1(token_usage_ledger);
PGDLLEXPORT Datum token_usage_ledger(PG_FUNCTION_ARGS) {
  Oid const ledger = PG_ARGISNULL(0) ? InvalidOid : find_ledger(PG_GETARG_ARRAYTYPE_P(0));
  if (!OidIsValid(ledger)) {
    ereport(ERROR, (errcode(ERRCODE_UNDEFINED_TABLE),
                    errmsg("token_usage: no token_usage table; run SELECT token_usage_migrate()"),
                    errhint("The table is looked for in the schemas of search_path.")));
  }
  PG_RETURN_OID(ledger);
}

// _token_usage_read_setting(ledger oid, name text)
PG_FUNCTION_INFO_V1(token_usage_read_setting);
PGDLLEXPORT Datum token_usage_read_setting(PG_FUNCTION_ARGS) {
  if (PG_ARGISNULL(0) || PG_ARGISNULL(1)) {
    PG_RETURN_NULL();
  }
  Oid const ledger = PG_GETARG_OID(0);
  const char *value = nullptr;
  MemoryContext const outer = CurrentMemoryContext;
  Oid const schema = get_rel_namespace(ledger);
  Oid const settings = get_relname_relid(kSettings, schema);
  if (OidIsValid(settings)) {
    if (!is_plain_table(settings, kSettings, schema)) {
      ereport(ERROR, (errcode(ERRCODE_WRONG_OBJECT_TYPE),
                      errmsg("token_usage: %s is not the table that token_usage_migrate() makes",
                             kSettings)));
    }
    if (SPI_connect() != SPI_OK_CONNECT) {
      elog(ERROR, "token_usage: SPI_connect failed");
    }
    Datum const name = PG_GETARG_DATUM(1);
    run_kept(kept_key(fcinfo, ledger, kOneShape), prepare_setting, &name, " ", false);
    if (SPI_processed > 0) {
      const char *const found = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
      value = found == nullptr ? nullptr : MemoryContextStrdup(outer, found);
    }
    SPI_finish();
  }
  PG_RETURN_TEXT_P(cstring_to_text(value == nullptr ? "UTC" : value));
}

}  // extern "C"

}  // namespace token_usage
