// The form of an IANA zone name. PostgreSQL takes far more for a zone than IANA names:
// abbreviations (`MSK`), POSIX strings
// (`Foo/Bar5`). Both databases must take the same, so this rule stands before any look-up.
// pg_ext/calendar.sql has the same rule as a regular expression; the conformance suite compares the
// two.
#include <algorithm>
#include <array>

#include "calendar.h"

namespace token_usage {

namespace {

// Every name without a slash in the zone database's main and backward files, in lower case.
constexpr std::array<std::string_view, 38> kSingleNames = {
    "cet",      "cst6cdt",  "cuba",    "eet",    "est",       "est5edt", "egypt",     "eire",
    "gb",       "gb-eire",  "gmt",     "gmt+0",  "gmt-0",     "gmt0",    "greenwich", "hst",
    "hongkong", "iceland",  "iran",    "israel", "jamaica",   "japan",   "kwajalein", "libya",
    "met",      "mst",      "mst7mdt", "nz",     "nz-chat",   "navajo",  "prc",       "pst8pdt",
    "poland",   "portugal", "roc",     "rok",    "singapore", "turkey"};
constexpr std::array<std::string_view, 6> kMoreSingleNames = {"uct",  "utc", "universal",
                                                              "w-su", "wet", "zulu"};

bool letter(char c) {
  return c >= 'a' && c <= 'z';
}
bool digit(char c) {
  return c >= '0' && c <= '9';
}

// Etc/GMT0, Etc/GMT+0 to +12, Etc/GMT-0 to -14.
bool is_etc_gmt(std::string_view name) {
  constexpr std::string_view prefix = "etc/gmt";
  if (!name.starts_with(prefix)) {
    return false;
  }
  name.remove_prefix(prefix.size());
  if (name.empty() || name == "0") {
    return true;
  }
  const bool west = name.front() == '+';
  if (!west && name.front() != '-') {
    return false;
  }
  name.remove_prefix(1);
  if (name.empty() || name.size() > 2 || !std::all_of(name.begin(), name.end(), digit)) {
    return false;
  }
  const int hours = name.size() == 1 ? name[0] - '0' : (name[0] - '0') * 10 + name[1] - '0';
  return (name.size() == 1 || name[0] != '0') && hours <= (west ? 12 : 14);
}

}  // namespace

bool is_zone_name(std::string_view name) {
  if (name.empty() || name.size() > 64) {
    return false;
  }
  std::string lower(name);
  for (char &c : lower) {
    c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  }
  if (lower.find('/') == std::string::npos) {
    return std::find(kSingleNames.begin(), kSingleNames.end(), lower) != kSingleNames.end() ||
           std::find(kMoreSingleNames.begin(), kMoreSingleNames.end(), lower) !=
               kMoreSingleNames.end();
  }
  if (is_etc_gmt(lower)) {
    return true;
  }
  // Parts of letters, `_`, `-`, `+`, each starting with a letter, two or three of them.
  std::size_t parts = 1;
  bool start = true;
  for (const char c : lower) {
    if (c == '/') {
      if (start) {
        return false;
      }
      ++parts;
      start = true;
    } else if (letter(c) || (!start && (c == '_' || c == '-'))) {
      start = false;
    } else {
      return false;
    }
  }
  return !start && parts <= 3 && !lower.starts_with("posix/") && !lower.starts_with("right/") &&
         !lower.starts_with("systemv/");
}

}  // namespace token_usage
