// What the reports hand to SQLite as table-valued functions: rows of cells, and the columns of a
// page.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "detailed.h"

namespace token_usage {

// An id of an adopted ledger that is a blob.
struct Blob {
  std::string bytes;
};

using Cell = std::variant<std::monostate, std::int64_t, double, std::string, Blob>;
using Row = std::vector<Cell>;

// What an argument is; nothing for a null pointer.
Cell value_cell(sqlite3_value *value);

Cell text_cell(const std::optional<std::string> &text);
Cell average_cell(const Measures &measures);

// A row of measures that begins with this cell, and the measures themselves.
Row row_of(Cell first);
void append_measures(Row &row, const Measures &measures);

void result_cell(sqlite3_context *context, const Cell &cell);

// The column of token_usage_detailed of that index.
void result_detailed(sqlite3_context *context, const DetailedRow &row, int index);

}  // namespace token_usage
