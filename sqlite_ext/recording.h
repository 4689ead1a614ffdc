// What the recording functions share on SQLite: the price book and the exchange rates as they stand
// in the tables of one schema, read for the length of one call.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "../core/decimal.h"
#include "../core/event.h"
#include "../core/price.h"
#include "../core/timestamp.h"
#include "ledger.h"
#include "sqlite.h"

namespace token_usage {

// `"schema"."name"`.
std::string qualified(const std::string &schema, const char *name);

// Throws `token_usage: no <table> table; run SELECT token_usage_migrate()`.
void require_table(sqlite3 *db, const std::string &schema, const char *table);

// The value as UTF-8 text that must be given: throws `<name> must be given, got NULL`.
std::string_view required_text(std::string_view name, sqlite3_value *value);

// The current time.
Micros now_micros();

// `YYYY-MM-DD HH:MM:SS[.ffffff]`, the form of CURRENT_TIMESTAMP.
std::string stored_timestamp(Micros time);

// The instant that a stored value means; nothing where it is none.
std::optional<Micros> read_instant(const Statement &row, int column);

// The price book's tables. Without them (a ledger that was not migrated since) nothing has a price.
class SqlitePriceTables : public PriceTables {
 public:
  SqlitePriceTables(sqlite3 *db, std::string schema);

  std::vector<std::string> sources() override;
  std::vector<Provider> providers(const std::string &source) override;
  std::vector<Model> models(const std::string &source, const std::string &ai_provider) override;
  std::vector<PriceRow> rows(const std::string &source, const std::string &ai_provider,
                             const std::string &ai_model) override;
  std::vector<std::pair<std::string, std::string>> manual_models() override;

 private:
  sqlite3 *db_;
  std::string schema_;
  bool there_;
};

// The rates of one currency, newest first.
class ExchangeRates {
 public:
  ExchangeRates(sqlite3 *db, const std::string &schema, std::string_view currency);

  // The rate in force at `at`; nothing before the first one.
  [[nodiscard]] std::optional<Decimal> at(Micros at) const;
  // `usd` in the currency, by the rate in force.
  [[nodiscard]] std::optional<Decimal> convert(std::optional<Decimal> usd, Micros at) const;

 private:
  std::vector<std::pair<Micros, Decimal>> rates_;
};

// The columns of class_columns in the ledger, in order, comma-separated: `cache_read_tokens, ...`.
std::string class_column_list();

// token_usage_from_response, token_usage_cost, token_usage_import_prices, token_usage_set_rate,
// token_usage_record, token_usage_record_batch, token_usage_reprice and
// token_usage_reprice_preview.
int register_from_response(sqlite3 *db);
int register_prices(sqlite3 *db);
int register_exchange_rate(sqlite3 *db);
int register_record(sqlite3 *db);
int register_reprice(sqlite3 *db);
int register_recording(sqlite3 *db);

}  // namespace token_usage
