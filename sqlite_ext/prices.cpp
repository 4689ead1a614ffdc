// The price book (section 6 of the contract): token_usage_cost, and token_usage_import_prices for
// the two catalogues that people keep up to date.
#include <set>

#include "../core/catalogue.h"
#include "arguments.h"
#include "recording.h"

namespace token_usage {
namespace {

// token_usage_cost(ai_provider, ai_model, usage [, at [, schema]])
void cost(sqlite3_context *context, int count, sqlite3_value **values) {
  guard(context, [&] {
    sqlite3 *const db = sqlite3_context_db_handle(context);
    const std::string provider(required_text("ai_provider", values[0]));
    const std::string model(required_text("ai_model", values[1]));
    const JsonDocument document(required_text("usage", values[2]), "usage");
    const Usage usage = usage_from_json(document.root(), "usage");
    check_usage(usage, "usage");
    const Micros at = time_argument("at", count > 3 ? values[3] : nullptr).value_or(now_micros());
    const std::string schema = schema_argument(count > 4 ? values[4] : nullptr);
    check_schema(db, schema);
    SqlitePriceTables tables(db, schema);
    PriceBook book(tables);
    if (const std::optional<Decimal> price = book.cost(provider, model, usage, at)) {
      sqlite3_result_double(context, price->to_double());
    }
  });
}

struct ImportCounts {
  std::int64_t added = 0;
  std::int64_t changed = 0;
  std::int64_t removed = 0;
};

// Writes the changes of one model's prices.
class PriceWriter {
 public:
  PriceWriter(sqlite3 *db, const std::string &schema)
      : insert_(db, "INSERT INTO " + qualified(schema, "token_usage_price") +
                        " (source, ai_provider, ai_model, token_class, tier_start, "
                        "usd_per_million, valid_from, time_from, time_to)"
                        " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)"),
        update_(db, "UPDATE " + qualified(schema, "token_usage_price") +
                        " SET usd_per_million = ?2 WHERE id = ?1"),
        remove_(db, "DELETE FROM " + qualified(schema, "token_usage_price") + " WHERE id = ?1") {}

  void write(const std::string &source, const CatalogueModel &model, const PriceChange &change,
             ImportCounts &counts) {
    switch (change.action) {
      case PriceChange::Action::add:
        insert_.bind(1, source)
            .bind(2, model.ai_provider)
            .bind(3, model.ai_model)
            .bind(4, price_class_names[static_cast<std::size_t>(change.key.price_class)])
            .bind(5, change.key.tier_start);
        bind_price(insert_, 6, change);
        insert_.bind(7, stored_timestamp(change.valid_from))
            .bind(8, format_time_of_day(change.key.time_from))
            .bind(9, format_time_of_day(change.key.time_to));
        run(insert_, counts.added);
        break;
      case PriceChange::Action::change:
        update_.bind(1, change.id);
        bind_price(update_, 2, change);
        run(update_, counts.changed);
        break;
      case PriceChange::Action::remove:
        remove_.bind(1, change.id);
        run(remove_, counts.removed);
        break;
    }
  }

 private:
  static void bind_price(Statement &statement, int parameter, const PriceChange &change) {
    if (change.usd_per_million) {
      statement.bind(parameter, scaled_to_text(*change.usd_per_million, price_places));
    } else {
      statement.bind_null(parameter);
    }
  }
  static void run(Statement &statement, std::int64_t &counter) {
    statement.step();
    statement.reset();
    ++counter;
  }

  Statement insert_;
  Statement update_;
  Statement remove_;
};

void bind_text_or_null(Statement &statement, int parameter, const std::string &text) {
  if (text.empty()) {
    statement.bind_null(parameter);
  } else {
    statement.bind(parameter, text);
  }
}

void write_names(sqlite3 *db, const std::string &schema, const Catalogue &catalogue) {
  Statement provider(db,
                     "INSERT INTO " + qualified(schema, "token_usage_price_provider") +
                         " AS known (source, ai_provider, position, match, fallback)"
                         " VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (source, ai_provider) DO UPDATE"
                         " SET position = excluded.position, match = excluded.match, fallback ="
                         " excluded.fallback WHERE (known.position, known.match, known.fallback)"
                         " IS NOT (excluded.position, excluded.match, excluded.fallback)");
  for (const CatalogueProvider &item : catalogue.providers) {
    provider.bind(1, catalogue.source).bind(2, item.ai_provider).bind(3, item.position);
    bind_text_or_null(provider, 4, item.match);
    bind_text_or_null(provider, 5, item.fallback);
    provider.step();
    provider.reset();
  }
  Statement model(db, "INSERT INTO " + qualified(schema, "token_usage_price_model") +
                          " AS known (source, ai_provider, ai_model, position, match)"
                          " VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (source, ai_provider, ai_model)"
                          " DO UPDATE SET position = excluded.position, match = excluded.match"
                          " WHERE (known.position, known.match)"
                          " IS NOT (excluded.position, excluded.match)");
  for (const CatalogueModel &item : catalogue.models) {
    model.bind(1, catalogue.source)
        .bind(2, item.ai_provider)
        .bind(3, item.ai_model)
        .bind(4, item.position)
        .bind(5, item.match);
    model.step();
    model.reset();
  }
}

std::string import_result(const Catalogue &catalogue, const ImportCounts &counts) {
  std::string out = "{\"source\": \"" + catalogue.source + "\"";
  out += ", \"providers\": " + std::to_string(catalogue.providers.size());
  out += ", \"models\": " + std::to_string(catalogue.models.size());
  out += ", \"prices_added\": " + std::to_string(counts.added);
  out += ", \"prices_changed\": " + std::to_string(counts.changed);
  out += ", \"prices_removed\": " + std::to_string(counts.removed);
  out += ", \"ignored\": [";
  bool first = true;
  for (const std::string &key : catalogue.ignored) {
    out += first ? "" : ", ";
    append_json_string(out, key);
    first = false;
  }
  return out + "]}";
}

// token_usage_import_prices(catalogue [, schema])
void import_prices(sqlite3_context *context, int count, sqlite3_value **values) {
  guard(context, [&] {
    sqlite3 *const db = sqlite3_context_db_handle(context);
    const JsonDocument document(required_text("catalogue", values[0]), "catalogue");
    const std::string schema = schema_argument(count > 1 ? values[1] : nullptr);
    check_schema(db, schema);
    for (const char *table :
         {"token_usage_price", "token_usage_price_provider", "token_usage_price_model"}) {
      require_table(db, schema, table);
    }
    const Catalogue catalogue = read_catalogue(document.root());
    const Micros now = now_micros();
    const Micros day = now - now % kMicrosPerDay;
    ImportCounts counts;
    atomically(db, [&] {
      // A write before the first read: a transaction that begins by reading could not go on to
      // write while others do.
      Statement(db, "DELETE FROM " + qualified(schema, "token_usage_price") + " WHERE 0").step();
      write_names(db, schema, catalogue);
      SqlitePriceTables tables(db, schema);
      PriceWriter writer(db, schema);
      for (const CatalogueModel &model : catalogue.models) {
        const std::vector<PriceRow> existing =
            tables.rows(catalogue.source, model.ai_provider, model.ai_model);
        for (const PriceChange &change : plan_import(existing, model.segments, day)) {
          writer.write(catalogue.source, model, change, counts);
        }
      }
    });
    result_json(context, import_result(catalogue, counts));
  });
}

}  // namespace

int register_prices(sqlite3 *db) {
  int code = SQLITE_OK;
  for (int arguments = 3; code == SQLITE_OK && arguments <= 5; ++arguments) {
    code = sqlite3_create_function_v2(db, "token_usage_cost", arguments, SQLITE_UTF8, nullptr, cost,
                                      nullptr, nullptr, nullptr);
  }
  for (int arguments = 1; code == SQLITE_OK && arguments <= 2; ++arguments) {
    code = sqlite3_create_function_v2(db, "token_usage_import_prices", arguments,
                                      SQLITE_UTF8 | SQLITE_DIRECTONLY | kResultSubtype, nullptr,
                                      import_prices, nullptr, nullptr, nullptr);
  }
  return code;
}

}  // namespace token_usage
