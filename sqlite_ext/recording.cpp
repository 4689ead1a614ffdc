// See recording.h.
#include "recording.h"

#include <chrono>

#include "../core/usage_rules.h"
#include "arguments.h"

namespace token_usage {

std::string qualified(const std::string &schema, const char *name) {
  return quote_identifier(schema) + ".\"" + name + "\"";
}

void require_table(sqlite3 *db, const std::string &schema, const char *table) {
  if (!has_table(db, schema, table)) {
    throw Error(ErrorKind::missing_ledger, std::string("token_usage: no ") + table +
                                               " table; run SELECT token_usage_migrate()");
  }
}

std::string_view required_text(std::string_view name, sqlite3_value *value) {
  if (value == nullptr || sqlite3_value_type(value) == SQLITE_NULL) {
    bad_argument(name, "given", "NULL");
  }
  return value_text(value);
}

Micros now_micros() {
  using std::chrono::duration_cast;
  using std::chrono::microseconds;
  return duration_cast<microseconds>(std::chrono::system_clock::now().time_since_epoch()).count();
}

std::string stored_timestamp(Micros time) {
  std::string out = format_timestamp(time);
  out[10] = ' ';
  out.pop_back();  // Z
  return out;
}

std::optional<Micros> read_instant(const Statement &row, int column) {
  switch (row.type(column)) {
    case SQLITE_INTEGER:
      return timestamp_from_integer(row.int64(column));
    case SQLITE_FLOAT:
      return timestamp_from_real(row.real(column));
    case SQLITE_TEXT:
      return parse_timestamp_argument(row.text(column));
    default:
      return std::nullopt;
  }
}

SqlitePriceTables::SqlitePriceTables(sqlite3 *db, std::string schema)
    : db_(db),
      schema_(std::move(schema)),
      there_(has_table(db_, schema_, "token_usage_price") &&
             has_table(db_, schema_, "token_usage_price_provider") &&
             has_table(db_, schema_, "token_usage_price_model")) {}

std::vector<std::string> SqlitePriceTables::sources() {
  std::vector<std::string> out;
  if (there_) {
    out.emplace_back("manual");
    Statement query(db_, "SELECT DISTINCT source FROM " +
                             qualified(schema_, "token_usage_price_provider") +
                             " WHERE source <> 'manual'");
    while (query.step()) {
      out.emplace_back(query.text(0));
    }
  }
  return out;
}

std::vector<PriceTables::Provider> SqlitePriceTables::providers(const std::string &source) {
  std::vector<Provider> out;
  Statement query(db_, "SELECT ai_provider, match, fallback FROM " +
                           qualified(schema_, "token_usage_price_provider") +
                           " WHERE source = ?1 ORDER BY position, ai_provider");
  query.bind(1, source);
  while (query.step()) {
    out.push_back(
        {std::string(query.text(0)), std::string(query.text(1)), std::string(query.text(2))});
  }
  return out;
}

std::vector<PriceTables::Model> SqlitePriceTables::models(const std::string &source,
                                                          const std::string &ai_provider) {
  std::vector<Model> out;
  Statement query(db_, "SELECT ai_model, match FROM " +
                           qualified(schema_, "token_usage_price_model") +
                           " WHERE source = ?1 AND ai_provider = ?2 ORDER BY position, ai_model");
  query.bind(1, source).bind(2, ai_provider);
  while (query.step()) {
    out.push_back({std::string(query.text(0)), std::string(query.text(1))});
  }
  return out;
}

std::vector<PriceRow> SqlitePriceTables::rows(const std::string &source,
                                              const std::string &ai_provider,
                                              const std::string &ai_model) {
  std::vector<PriceRow> out;
  Statement query(db_,
                  "SELECT id, token_class, tier_start, usd_per_million, valid_from, time_from, "
                  "time_to FROM " +
                      qualified(schema_, "token_usage_price") +
                      " WHERE source = ?1 AND ai_provider = ?2 AND ai_model = ?3 ORDER BY id");
  query.bind(1, source).bind(2, ai_provider).bind(3, ai_model);
  while (query.step()) {
    PriceRow row;
    const std::optional<PriceClass> price_class = price_class_from_name(query.text(1));
    const std::optional<Micros> valid_from = read_instant(query, 4);
    const std::optional<int> time_from = parse_time_of_day(query.text(5));
    const std::optional<int> time_to = parse_time_of_day(query.text(6));
    if (!query.is_null(3)) {
      row.usd_per_million = scaled_from_text(query.text(3), price_places);
    }
    if (!price_class || !valid_from || !time_from || !time_to ||
        (!query.is_null(3) && row.usd_per_million.value_or(-1) < 0)) {
      throw Error(ErrorKind::argument, "token_usage: row " + std::to_string(query.int64(0)) +
                                           " of token_usage_price is not a price");
    }
    row.id = query.int64(0);
    row.price_class = *price_class;
    row.tier_start = query.int64(2);
    row.valid_from = *valid_from;
    row.time_from = *time_from;
    row.time_to = *time_to;
    out.push_back(row);
  }
  return out;
}

std::vector<std::pair<std::string, std::string>> SqlitePriceTables::manual_models() {
  std::vector<std::pair<std::string, std::string>> out;
  Statement query(db_, "SELECT DISTINCT ai_provider, ai_model FROM " +
                           qualified(schema_, "token_usage_price") + " WHERE source = 'manual'");
  while (query.step()) {
    out.emplace_back(query.text(0), query.text(1));
  }
  return out;
}

std::string class_column_list() {
  std::string out;
  for (const Count kind : class_columns) {
    out += out.empty() ? "" : ", ";
    out += count_keys[static_cast<std::size_t>(kind)];
  }
  return out;
}

int register_recording(sqlite3 *db) {
  for (const auto step : {register_from_response, register_prices, register_exchange_rate,
                          register_record, register_reprice}) {
    if (const int code = step(db); code != SQLITE_OK) {
      return code;
    }
  }
  return SQLITE_OK;
}

}  // namespace token_usage
