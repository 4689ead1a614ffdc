// Want of memory, everywhere: loads the SQLite edition into a program of its own, in which the n-th
// allocation fails, for n = 1, 2, 3 ... until a statement gets by without meeting the failure. Both
// kinds of allocation count: SQLite's, through SQLITE_CONFIG_MALLOC, and operator new, which this
// program replaces for the extension too. Each statement is run in two ways: only the n-th
// allocation fails, and all from the n-th on fail. Reports are also run where the connection has
// answered the same one before, and has kept its statements.
//
// What must hold each time: the statement gives the rows that it gives in peace, or SQLITE_NOMEM;
// it leaves no transaction open and no half of a migration behind; and when the connection is
// closed, all memory of either kind has been given back.
//
//   sqlite_oom build/token_usage.so
//
// Prints one line for each statement, and exits with 1 where something did not hold.

#include <sqlite3.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <new>
#include <string>
#include <vector>

namespace {

// The allocation that fails counts down to 0; nothing fails while it is not armed.
struct Faults {
  bool armed = false;
  bool for_ever = false;
  std::int64_t countdown = 0;
  bool met = false;
  std::int64_t live_blocks = 0;  // of operator new
};

Faults faults;

bool fails() {
  if (!faults.armed) {
    return false;
  }
  --faults.countdown;
  const bool now = faults.for_ever ? faults.countdown <= 0 : faults.countdown == 0;
  faults.met = faults.met || now;
  return now;
}

// Neither is inlined: GCC would see malloc and free behind new and delete and take it for a
// mistake.
[[gnu::noinline]] void *allocate(std::size_t size) noexcept {
  if (fails()) {
    return nullptr;
  }
  void *const block = std::malloc(size == 0 ? 1 : size);
  if (block != nullptr) {
    ++faults.live_blocks;
  }
  return block;
}

[[gnu::noinline]] void give_back(void *block) noexcept {
  if (block != nullptr) {
    --faults.live_blocks;
    std::free(block);
  }
}

sqlite3_mem_methods sqlite_memory;

void *sqlite_malloc(int size) {
  return fails() ? nullptr : sqlite_memory.xMalloc(size);
}

void *sqlite_realloc(void *block, int size) {
  return fails() ? nullptr : sqlite_memory.xRealloc(block, size);
}

}  // namespace

void *operator new(std::size_t size) {
  void *const block = allocate(size);
  if (block == nullptr) {
    throw std::bad_alloc();
  }
  return block;
}
void *operator new[](std::size_t size) {
  return operator new(size);
}
void *operator new(std::size_t size, const std::nothrow_t &) noexcept {
  return allocate(size);
}
void *operator new[](std::size_t size, const std::nothrow_t &) noexcept {
  return allocate(size);
}
void operator delete(void *block) noexcept {
  give_back(block);
}
void operator delete[](void *block) noexcept {
  give_back(block);
}
void operator delete(void *block, std::size_t) noexcept {
  give_back(block);
}
void operator delete[](void *block, std::size_t) noexcept {
  give_back(block);
}

namespace {

const char *library = nullptr;
int failures = 0;

void complain(const std::string &statement, std::int64_t n, const std::string &what) {
  ++failures;
  std::printf("FAILED at allocation %lld: %s: %s\n", static_cast<long long>(n), what.c_str(),
              statement.c_str());
}

// Runs SQL that must work, without faults.
void run(sqlite3 *db, const std::string &sql) {
  char *message = nullptr;
  if (sqlite3_exec(db, sql.c_str(), nullptr, nullptr, &message) != SQLITE_OK) {
    std::printf("cannot run: %s: %s\n", message == nullptr ? "?" : message, sql.c_str());
    std::exit(1);
  }
}

int load(sqlite3 *db) {
  sqlite3_db_config(db, SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 1, nullptr);
  return sqlite3_load_extension(db, library, nullptr, nullptr);
}

// The rows of a statement as text, one column after the other, and what it ended with.
struct Outcome {
  int code = SQLITE_OK;
  std::string rows;
  std::string message;
  std::string schema_after;
};

// Faults are armed only while SQLite works, not while the rows are taken down.
Outcome outcome(sqlite3 *db, const char *sql, std::int64_t fail_at, bool for_ever) {
  Outcome out;
  const auto arm = [&](bool on) { faults.armed = on && fail_at > 0; };
  faults.countdown = fail_at;
  faults.for_ever = for_ever;
  faults.met = false;
  sqlite3_stmt *statement = nullptr;
  arm(true);
  out.code = sqlite3_prepare_v2(db, sql, -1, &statement, nullptr);
  while (out.code == SQLITE_OK || out.code == SQLITE_ROW) {
    arm(true);
    out.code = sqlite3_step(statement);
    arm(false);
    for (int i = 0; out.code == SQLITE_ROW && i < sqlite3_column_count(statement); ++i) {
      const auto *const text = reinterpret_cast<const char *>(sqlite3_column_text(statement, i));
      out.rows += text == nullptr ? "NULL" : text;
      out.rows += '|';
    }
  }
  arm(false);
  out.code = out.code == SQLITE_DONE ? SQLITE_OK : out.code;
  if (out.code != SQLITE_OK) {
    const char *const message = sqlite3_errmsg(db);
    out.message = message == nullptr ? "" : message;
  }
  sqlite3_finalize(statement);
  return out;
}

bool is_nomem(int code) {
  return (code & 0xFF) == SQLITE_NOMEM || code == SQLITE_IOERR_NOMEM;
}

// One value that changes with every table, index and row.
std::string state(sqlite3 *db) {
  return outcome(db, "SELECT count(*), group_concat(name || coalesce(sql, '')) FROM sqlite_master",
                 0, false)
      .rows;
}

struct Case {
  const char *before;  // run without faults, in a new database
  const char *statement;
};

constexpr const char *kLedger =
    "SELECT token_usage_migrate();"
    "INSERT INTO token_usage(user_id, agent_id, ai_provider, ai_model, prompt_tokens,"
    "  completion_tokens, total_tokens, cost_usd, cost_rub, execution_time_ms, created_at)"
    " WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 120)"
    " SELECT 42, 'an agent with a name past any short string ' || i % 4, 'provider' || i % 2,"
    "  'model' || i % 3, i, 2, i + 2, i * 0.1, NULL, i,"
    "  CASE i % 5 WHEN 0 THEN 1760000000 + i * 7000"
    "   WHEN 1 THEN strftime('%Y-%m-%dT%H:%M:%S+03:00', 1760000000 + i * 7000, 'unixepoch')"
    "   WHEN 2 THEN '2025-10-12 10:00:00' WHEN 3 THEN 1760000000123 + i * 7000000"
    "   ELSE datetime(1760000000 + i * 7000, 'unixepoch') END FROM n";

// An adopted table: keys of text, costs of text, and none of the optional columns.
constexpr const char *kOldTable =
    "CREATE TABLE token_usage(id TEXT PRIMARY KEY, user_id TEXT, created_at DATETIME, cost_usd "
    "TEXT)"
    " WITHOUT ROWID;"
    "INSERT INTO token_usage VALUES('a', '42', '2025-10-12 10:00:00', '0.1'),"
    " ('b', '42', '2025-10-12 10:00:00', '0.2')";
constexpr const char *kAdopted =
    "CREATE TABLE token_usage(id BLOB PRIMARY KEY, user_id TEXT, created_at DATETIME, cost_usd "
    "TEXT);"
    "INSERT INTO token_usage VALUES(x'0011', '42', '2025-10-12 10:00:00', '0.1'),"
    " (x'0022', '42', '2025-10-12 10:00:00', '0.2');"
    "SELECT token_usage_migrate()";

const std::string kPricedText =
    std::string(kLedger) +
    "; INSERT INTO token_usage_price (ai_provider, ai_model, token_class, usd_per_million)"
    " VALUES ('p', 'm', 'input', 2.5), ('p', 'm', 'output', 10);"
    " INSERT INTO token_usage (user_id, agent_id, ai_provider, ai_model, prompt_tokens, "
    "total_tokens, cost_usd)"
    " VALUES (42, 'a', 'p', 'm', 7, 7, NULL)";
const char *const kPriced = kPricedText.c_str();

// One user with rolled hours and a day, and a late write that waits.
constexpr const char *kRolled =
    "SELECT token_usage_migrate();"
    "WITH RECURSIVE n(i) AS (VALUES(0) UNION ALL SELECT i + 1 FROM n WHERE i < 599)"
    " INSERT INTO token_usage(user_id, agent_id, ai_provider, ai_model, cost_usd, created_at)"
    " SELECT 1, 'agent', 'provider', 'model', 0.25, 1735689600 + i * 300 FROM n;"
    "SELECT token_usage_rebuild();"
    "UPDATE token_usage SET cost_usd = NULL WHERE id = 100";

const Case kCases[] = {
    {"", "SELECT token_usage_version()"},
    {"", "SELECT token_usage_migrate()"},
    {"", "SELECT token_usage_migrate('text')"},
    {"CREATE TABLE users(id INTEGER PRIMARY KEY); CREATE TABLE content_pieces(id TEXT UNIQUE)",
     "SELECT token_usage_migrate()"},
    {kOldTable, "SELECT token_usage_migrate()"},
    {kLedger, "SELECT token_usage_migrate()"},
    {kLedger, "SELECT token_usage_set('time_zone', 'europe/berlin')"},
    {kLedger, "SELECT token_usage_setting('time_zone')"},
    {kLedger, "SELECT * FROM token_usage_summary(42, 'Asia/Kolkata', '2025-10-20T10:00:00Z')"},
    {kLedger, "SELECT * FROM token_usage_history(42, 9, NULL, 'UTC', '2025-10-20T10:00:00Z')"},
    {kLedger, "SELECT * FROM token_usage_by_agent(42, 30, 'UTC', '2025-10-20T10:00:00Z')"},
    {kLedger, "SELECT * FROM token_usage_by_model(42, 30, 'UTC', '2025-10-20T10:00:00Z')"},
    {kLedger, "SELECT * FROM token_usage_by_provider(42, 30, 'UTC', '2025-10-20T10:00:00Z')"},
    {kLedger, "SELECT * FROM token_usage_totals(42, 'year', NULL, 'UTC', '2025-10-20T10:00:00Z')"},
    {kLedger, "SELECT * FROM token_usage_detailed(42, 20, 5)"},
    {kLedger,
     "SELECT * FROM token_usage_detailed(42, 3, 0, 'an agent with a name past any short string 2',"
     " '2025-01-01', '2025-12-31')"},
    {kLedger,
     "SELECT id FROM token_usage_detailed(42, 5, 0, NULL, NULL, NULL, "
     "'317c313736303236333230303030303030307c3630')"},
    {kAdopted, "SELECT * FROM token_usage_detailed('42')"},
    {kLedger, "SELECT token_usage_detailed_count(42)"},
    {kLedger, "SELECT token_usage_rebuild()"},
    {kLedger, "SELECT token_usage_compact()"},
    {kLedger, "SELECT * FROM token_usage_verify()"},
    {kRolled, "SELECT * FROM token_usage_verify()"},
    {kRolled, "SELECT token_usage_compact()"},
    {kRolled, "SELECT * FROM token_usage_by_model(1, 30, 'UTC', '2025-01-20T10:00:00Z')"},
    {kRolled, "SELECT * FROM token_usage_summary(1, 'UTC', '2025-01-20T10:00:00Z')"},
    {kLedger, "SELECT token_usage_summary_json(42, 'UTC', '2025-10-20T10:00:00Z')"},
    {kLedger, "SELECT token_usage_history_json(42, 9, NULL, 'UTC', '2025-10-20T10:00:00Z')"},
    {kLedger, "SELECT token_usage_by_agent_json(42, 30, 'UTC', '2025-10-20T10:00:00Z')"},
    {kLedger, "SELECT token_usage_by_model_json(42, 30, 'UTC', '2025-10-20T10:00:00Z')"},
    {kLedger, "SELECT token_usage_detailed_json(42, 10)"},
    {kLedger, "SELECT token_usage_totals_json(42, 'all', NULL, 'UTC', '2025-10-20T10:00:00Z')"},
    {kLedger,
     "SELECT token_usage_stats(prompt_tokens, completion_tokens, total_tokens, cost_usd,"
     " cost_rub, execution_time_ms) FROM token_usage GROUP BY agent_id"},
    {kLedger,
     "SELECT token_usage_stats(prompt_tokens, completion_tokens, total_tokens, cost_usd,"
     " cost_rub, execution_time_ms) OVER (ORDER BY id ROWS 2 PRECEDING)"
     " FROM token_usage WHERE id < 20"},
    {kLedger, "SELECT token_usage_decimal_sum(cost_usd) FROM token_usage"},
    {kLedger,
     "SELECT token_usage_decimal_sum(cost_usd) OVER (ORDER BY id ROWS 2 PRECEDING)"
     " FROM token_usage WHERE id < 20"},
    // Errors are made of memory too.
    {kLedger, "SELECT * FROM token_usage_history(42, 0)"},
    {kLedger, "SELECT * FROM token_usage_detailed(42, 10, 0, NULL, NULL, NULL, 'no cursor')"},
    {kLedger, "SELECT token_usage_totals_json(42, 'decade of a long and winding name')"},
    {"", "SELECT token_usage_summary_json(42)"},
    {"",
     "SELECT token_usage_from_response('anthropic', '{\"usage\": {\"input_tokens\": 1, "
     "\"cache_read_input_tokens\": 2, \"output_tokens\": 3}}')"},
    {kLedger,
     "SELECT token_usage_import_prices('[{\"id\": \"p\", \"models\": [{\"id\": \"m\", \"match\": "
     "{\"equals\": \"m\"}, \"prices\": {\"input_mtok\": 1, \"output_mtok\": 2}}]}]')"},
    {kLedger, "SELECT token_usage_set_rate('RUB', 95.5, '2025-01-01')"},
    {kPriced, "SELECT token_usage_cost('p', 'm', '{\"prompt_tokens\": 5}')"},
    {kPriced,
     "SELECT token_usage_record('{\"user_id\": 42, \"agent_id\": \"a\", \"ai_provider\": \"p\", "
     "\"ai_model\": \"m\", \"prompt_tokens\": 5, \"completion_tokens\": 1, \"request_id\": "
     "\"new\"}')"},
    {kPriced,
     "SELECT token_usage_record_batch('[{\"user_id\": 42, \"agent_id\": \"a\", \"ai_provider\": "
     "\"p\", "
     "\"ai_model\": \"m\", \"prompt_tokens\": 5, \"completion_tokens\": 1}]')"},
    {kPriced, "SELECT * FROM token_usage_reprice_preview(NULL)"},
    {kPriced, "SELECT token_usage_reprice()"},
};

struct Connection {
  Connection() {
    if (sqlite3_open(":memory:", &db) != SQLITE_OK) {
      std::printf("cannot open a database\n");
      std::exit(1);
    }
  }
  // A database of its own with what `model` holds, and the library loaded.
  explicit Connection(const Connection *model) : Connection() {
    if (load(db) != SQLITE_OK) {
      std::printf("cannot load %s: %s\n", library, sqlite3_errmsg(db));
      std::exit(1);
    }
    if (model != nullptr) {
      sqlite3_backup *const copy = sqlite3_backup_init(db, "main", model->db, "main");
      if (sqlite3_backup_step(copy, -1) != SQLITE_DONE ||
          sqlite3_backup_finish(copy) != SQLITE_OK) {
        std::printf("cannot copy a database\n");
        std::exit(1);
      }
    }
  }
  ~Connection() {
    if (sqlite3_close(db) != SQLITE_OK) {
      std::printf("FAILED: a statement outlives its call\n");
      ++failures;
    }
  }
  Connection(const Connection &) = delete;
  Connection &operator=(const Connection &) = delete;
  sqlite3 *db = nullptr;
};

bool is_report(const std::string &statement) {
  return statement.starts_with("SELECT * FROM token_usage_") ||
         statement.find("_json(") != std::string::npos ||
         statement.find("detailed") != std::string::npos;
}

// True where the failure was met, so that a later one is to be tried.
bool attempt(const Case &each, const Connection &model, std::int64_t n, bool for_ever, bool again,
             const Outcome &in_peace) {
  const sqlite3_int64 used = sqlite3_memory_used();
  const std::int64_t live = faults.live_blocks;
  bool met = false;
  {
    const Connection connection(&model);
    const std::string before = state(connection.db);
    if (again) {
      outcome(connection.db, each.statement, 0, false);
    }
    const Outcome got = outcome(connection.db, each.statement, n, for_ever);
    met = faults.met;
    // Where SQLite has no room for an error's text, it gives the error without it.
    const bool same = got.code == in_peace.code && got.rows == in_peace.rows &&
                      (got.message == in_peace.message || got.message == sqlite3_errstr(got.code));
    if (!same && !is_nomem(got.code)) {
      complain(each.statement, n, "neither the answer nor NOMEM, but " + got.message + got.rows);
    }
    if (sqlite3_get_autocommit(connection.db) == 0) {
      complain(each.statement, n, "a transaction is left open");
    }
    // A migration that is whole may still fail to say so.
    const std::string after = state(connection.db);
    if (after != before && after != in_peace.schema_after) {
      complain(each.statement, n, "half of a migration is left behind");
    }
  }
  if (sqlite3_memory_used() != used) {
    complain(each.statement, n, "SQLite's memory is not given back");
  }
  if (faults.live_blocks != live) {
    complain(each.statement, n, "an object is not given back");
  }
  return met;
}

void try_case(const Case &each) {
  // The first run also makes what lives as long as the process, such as zone data.
  const Connection model(nullptr);
  run(model.db, each.before);
  const auto in_peace = [&] {
    const Connection connection(&model);
    Outcome out = outcome(connection.db, each.statement, 0, false);
    out.schema_after = state(connection.db);
    return out;
  }();
  std::int64_t points = 0;
  for (const bool again : {false, true}) {
    if (again && !is_report(each.statement)) {
      break;
    }
    for (const bool for_ever : {false, true}) {
      std::int64_t n = 1;
      while (attempt(each, model, n, for_ever, again, in_peace)) {
        ++points;
        // Statements with thousands of allocations repeat themselves: further on, some are enough.
        n += 1 + n / 200;
      }
    }
  }
  std::printf("ok %6lld failures survived: %.90s\n", static_cast<long long>(points),
              each.statement);
}

void try_loading() {
  std::int64_t n = 1;
  for (bool met = true; met; ++n) {
    const sqlite3_int64 used = sqlite3_memory_used();
    const std::int64_t live = faults.live_blocks;
    {
      const Connection connection;
      faults.countdown = n;
      faults.for_ever = false;
      faults.met = false;
      faults.armed = true;
      const int code = load(connection.db);
      faults.armed = false;
      met = faults.met;
      // sqlite3_load_extension gives SQLITE_ERROR for whatever went wrong in it.
      if (code != SQLITE_OK && !met) {
        complain("load", n, "an error without a failure");
      }
    }
    if (sqlite3_memory_used() != used || faults.live_blocks != live) {
      complain("load", n, "memory is not given back");
    }
  }
  std::printf("ok %6lld failures survived: loading the library\n", static_cast<long long>(n - 2));
}

}  // namespace

int main(int count, char **arguments) {
  if (count != 2) {
    std::printf("usage: sqlite_oom <path of token_usage.so>\n");
    return 2;
  }
  library = arguments[1];
  setvbuf(stdout, nullptr, _IOLBF, 0);
  sqlite3_config(SQLITE_CONFIG_GETMALLOC, &sqlite_memory);
  sqlite3_mem_methods with_faults = sqlite_memory;
  with_faults.xMalloc = sqlite_malloc;
  with_faults.xRealloc = sqlite_realloc;
  sqlite3_config(SQLITE_CONFIG_MALLOC, &with_faults);
  // Without a lookaside buffer, every allocation can fail.
  sqlite3_config(SQLITE_CONFIG_LOOKASIDE, 0, 0);
  sqlite3_initialize();
  {
    const Connection first(nullptr);
    run(first.db, kLedger);
  }
  try_loading();
  for (const Case &each : kCases) {
    try_case(each);
  }
  std::printf(failures == 0 ? "all held\n" : "%d did not hold\n", failures);
  return failures == 0 ? 0 : 1;
}
