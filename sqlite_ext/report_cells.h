// What the reports hand to SQLite as table-valued functions: rows of cells, and the columns of
// lines of measures and of pages, which are made when they are asked for.
#pragma once

#include <array>
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

void result_cell(sqlite3_context *context, const Cell &cell);

// Measures, and what they are of: a day, a period, a group.
struct Line {
  std::array<std::optional<std::string>, 2> keys;
  Measures measures;
};

// Throws where a sum is past 64 bits, whether or not its column is asked for.
Line line_of(std::optional<std::string> key, const Measures &measures);

// The column of that index of a report whose lines have so many keys: keys, measures, average.
void result_line(sqlite3_context *context, const Line &line, int keys, int index);

// The column of token_usage_detailed of that index.
void result_detailed(sqlite3_context *context, const PageRows &page, const DetailedRow &row,
                     int index);

}  // namespace token_usage
