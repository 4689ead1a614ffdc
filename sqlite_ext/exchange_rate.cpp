// Exchange rates (section 6 of the contract): dated rates per currency, in units of it for one US
// dollar.
#include <algorithm>

#include "arguments.h"
#include "recording.h"

namespace token_usage {
namespace {

std::string currency_argument(sqlite3_value *value) {
  std::string code(value_text(value));
  for (char &c : code) {
    c = c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c;
  }
  const bool letters =
      std::all_of(code.begin(), code.end(), [](char c) { return c >= 'A' && c <= 'Z'; });
  if (code.size() != 3 || !letters) {
    bad_argument("currency", "a currency code such as RUB", value_shown(value));
  }
  return code;
}

Decimal rate_argument(sqlite3_value *value) {
  std::optional<Decimal> rate;
  switch (sqlite3_value_type(value)) {
    case SQLITE_FLOAT:
      rate = Decimal::from_double(sqlite3_value_double(value));
      break;
    case SQLITE_INTEGER:
    case SQLITE_TEXT:
      rate = Decimal::from_text(value_text(value));
      break;
    default:
      break;
  }
  if (!rate || *rate <= Decimal()) {
    bad_argument("rate", "a number above 0", value_shown(value));
  }
  return *rate;
}

// token_usage_set_rate(currency, rate [, from_instant [, schema]]): returns the rate.
void set_rate(sqlite3_context *context, int count, sqlite3_value **values) {
  guard(context, [&] {
    sqlite3 *const db = sqlite3_context_db_handle(context);
    const std::string currency = currency_argument(values[0]);
    const Decimal rate = rate_argument(values[1]);
    const Micros from =
        time_argument("from_instant", count > 2 ? values[2] : nullptr).value_or(now_micros());
    const std::string schema = schema_argument(count > 3 ? values[3] : nullptr);
    check_schema(db, schema);
    require_table(db, schema, "token_usage_exchange_rate");
    // The same instant may stand in the table in another of the forms that are read.
    const std::string table = qualified(schema, "token_usage_exchange_rate");
    atomically(db, [&] {
      std::vector<std::int64_t> same;
      {
        Statement query(db, "SELECT valid_from, rowid FROM " + table + " WHERE currency = ?1");
        query.bind(1, currency);
        while (query.step()) {
          if (read_instant(query, 0) == from) {
            same.push_back(query.int64(1));
          }
        }
      }
      for (const std::int64_t rowid : same) {
        Statement(db, "DELETE FROM " + table + " WHERE rowid = ?1").bind(1, rowid).step();
      }
      Statement(db, "INSERT INTO " + table + " (currency, rate, valid_from) VALUES (?1, ?2, ?3)")
          .bind(1, currency)
          .bind(2, rate.to_string())
          .bind(3, stored_timestamp(from))
          .step();
    });
    sqlite3_result_double(context, rate.to_double());
  });
}

}  // namespace

ExchangeRates::ExchangeRates(sqlite3 *db, const std::string &schema, std::string_view currency) {
  if (!has_table(db, schema, "token_usage_exchange_rate")) {
    return;
  }
  Statement query(db, "SELECT valid_from, rate FROM " +
                          qualified(schema, "token_usage_exchange_rate") + " WHERE currency = ?1");
  query.bind(1, currency);
  while (query.step()) {
    const std::optional<Micros> from = read_instant(query, 0);
    const std::optional<Decimal> rate = query.type(1) == SQLITE_FLOAT
                                            ? Decimal::from_double(query.real(1))
                                            : Decimal::from_text(query.text(1));
    if (!from || !rate || *rate <= Decimal()) {
      throw Error(ErrorKind::argument, "token_usage: token_usage_exchange_rate holds no rate at " +
                                           std::string(query.text(0)));
    }
    rates_.emplace_back(*from, *rate);
  }
  std::sort(rates_.begin(), rates_.end(),
            [](const auto &a, const auto &b) { return a.first > b.first; });
}

std::optional<Decimal> ExchangeRates::at(Micros at) const {
  const auto found = std::lower_bound(
      rates_.begin(), rates_.end(), at,
      [](const std::pair<Micros, Decimal> &rate, Micros time) { return rate.first > time; });
  return found == rates_.end() ? std::nullopt : std::optional<Decimal>(found->second);
}

std::optional<Decimal> ExchangeRates::convert(std::optional<Decimal> usd, Micros at) const {
  const std::optional<Decimal> rate = usd ? this->at(at) : std::nullopt;
  return rate ? std::optional<Decimal>(converted(*usd, *rate)) : std::nullopt;
}

int register_exchange_rate(sqlite3 *db) {
  int code = SQLITE_OK;
  for (int arguments = 2; code == SQLITE_OK && arguments <= 4; ++arguments) {
    code = sqlite3_create_function_v2(db, "token_usage_set_rate", arguments,
                                      SQLITE_UTF8 | SQLITE_DIRECTONLY, nullptr, set_rate, nullptr,
                                      nullptr, nullptr);
  }
  return code;
}

}  // namespace token_usage
