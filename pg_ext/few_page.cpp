// A page of token_usage_detailed, the first one or one by cursor, PostgreSQL native edition, read
// straight from the ledger (few_rows.h) for any user: rows come by their time, the newest first, so
// that no more than a page of them is read. Pages by agent are handed on to detailed.sql.
#include <algorithm>
#include <charconv>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>

#include "cursor.h"
#include "few_call.h"
#include "money.h"
#include "page.h"

namespace token_usage {

namespace {

constexpr std::int64_t kMostRows = 500;  // of a page, and before it
constexpr int kMostOfOneTime = 2000;

// Where a page by cursor starts: behind that row.
struct Start {
  TimestampTz at;
  std::int64_t id;
};

// The first rows, and those of the same time as the last of them.
struct Page {
  FewRow *rows;
  int count;
  int room;
  int wanted;
  std::optional<Start> start;
  int passed;  // rows of the cursor's time that stand on pages before
};

// Copies the texts of a row, all into one piece of memory.
void keep_texts(FewRow *row) {
  FewText *const texts[] = {&row->agent,
                            &row->provider,
                            &row->model,
                            &row->others[kPlatform],
                            &row->others[kContentType],
                            &row->others[kTaskType],
                            &row->others[kContentId],
                            &row->others[kWorkflow],
                            &row->others[kRequest],
                            &row->others[kEndpoint]};
  Size size = 0;
  for (const FewText *const value : texts) {
    size += value->value == nullptr ? 0 : INTALIGN(VARSIZE_ANY(value->value));
  }
  auto *memory = static_cast<char *>(palloc(size));
  for (FewText *const value : texts) {
    if (value->value != nullptr) {
      const Size one = VARSIZE_ANY(value->value);
      value->value = static_cast<text *>(std::memcpy(memory, value->value, one));
      memory += INTALIGN(one);
    }
  }
}

FewTaken add_row(void *context, const FewRow &row) {
  auto *const page = static_cast<Page *>(context);
  if (page->start && row.at == page->start->at && row.id >= page->start->id) {
    return ++page->passed > kMostOfOneTime ? FewTaken::give_up : FewTaken::more;
  }
  if (page->count >= page->wanted && page->rows[page->count - 1].at != row.at) {
    return FewTaken::enough;
  }
  if (page->count == page->room) {
    if (page->count > kMostOfOneTime) {
      return FewTaken::give_up;
    }
    page->room = 2 * page->room + 16;
    auto *const rows = few_room<FewRow>(page->room);
    std::copy_n(page->rows, page->count, rows);
    page->rows = rows;
  }
  FewRow &kept = page->rows[page->count++];
  kept = row;
  keep_texts(&kept);
  return FewTaken::more;
}

void cost_cell(const std::optional<Decimal> &cost, FewResult *result) {
  if (cost) {
    result->cell(decimal_to_numeric(*cost));
  } else {
    result->null_cell();
  }
}

void put_row(const FewRow &row, FewResult *result) {
  result->cell(Int64GetDatum(row.id));
  result->cell(TimestampTzGetDatum(row.at));
  result->text_cell(row.agent);
  result->text_cell(row.provider);
  result->text_cell(row.model);
  result->cell(Int64GetDatum(row.request.prompt_tokens));
  result->cell(Int64GetDatum(row.request.completion_tokens));
  result->cell(Int64GetDatum(row.request.total_tokens));
  cost_cell(row.request.cost_usd, result);
  cost_cell(row.request.cost_rub, result);
  if (row.request.execution_time_ms) {
    // A whole number, since pages are read here of such ledgers only.
    result->cell(Int64GetDatum(static_cast<std::int64_t>(row.request.execution_time_ms->units() /
                                                         Decimal::from_int(1).units())));
  } else {
    result->null_cell();
  }
  for (const FewOther other :
       {kPlatform, kContentType, kTaskType, kContentId, kWorkflow, kRequest, kEndpoint}) {
    result->text_cell(row.others[other]);
  }
  char id[21];
  pg_lltoa(row.id, id);
  result->cell(PointerGetDatum(cursor_text(row.at, id)));
  result->end_row();
}

// What a cursor says. False where it is none, or one of another kind of key or of a time that
// PostgreSQL does not have: detailed.sql tells the error.
bool read_start(text *after, Start *start) {
  const std::string_view hex(VARDATA_ANY(after),
                             static_cast<std::size_t>(VARSIZE_ANY_EXHDR(after)));
  Micros micros = 0;
  bool good = false;
  const bool read = attempt([&] {
    const Cursor cursor = decode_cursor(hex);
    micros = cursor.created_at;
    const char *const end = cursor.id.data() + cursor.id.size();
    good = std::from_chars(cursor.id.data(), end, start->id).ec == std::errc() &&
           cursor.id == std::to_string(start->id);
  });
  return read && good && !__builtin_sub_overflow(micros, kUnixEpoch, &start->at) &&
         IS_VALID_TIMESTAMP(start->at);
}

bool detailed(FunctionCallInfo fcinfo, FewResult *result) {
  FewQuestion question;
  const auto between = [fcinfo](int at, std::int64_t least) {
    return !PG_ARGISNULL(at) && PG_GETARG_INT64(at) >= least && PG_GETARG_INT64(at) <= kMostRows;
  };
  Start start = {};
  if (!between(2, 1) || !between(3, 0) || !PG_ARGISNULL(4) ||
      (!PG_ARGISNULL(7) && !read_start(PG_GETARG_TEXT_PP(7), &start)) ||
      !open_scope(fcinfo, &question)) {
    return false;
  }
  question.kind = FewKind::page;
  question.from = PG_ARGISNULL(5) ? DT_NOBEGIN : PG_GETARG_TIMESTAMPTZ(5);
  question.until = DT_NOEND;
  if (!PG_ARGISNULL(6) && PG_GETARG_TIMESTAMPTZ(6) < DT_NOEND) {
    question.until = PG_GETARG_TIMESTAMPTZ(6) + 1;  // itself is in the list
  }
  const int offset = static_cast<int>(PG_GETARG_INT64(3));
  Page page = {nullptr, 0, 0, offset + static_cast<int>(PG_GETARG_INT64(2)), std::nullopt, 0};
  if (!PG_ARGISNULL(7)) {
    page.start = start;
    question.until = std::min(question.until, start.at + 1);
  }
  if (!read_few_rows(question, add_row, &page)) {
    return false;
  }
  std::sort(page.rows, page.rows + page.count, [](const FewRow &a, const FewRow &b) {
    return a.at != b.at ? a.at > b.at : a.id > b.id;
  });
  for (int i = offset; i < std::min(page.count, page.wanted); ++i) {
    put_row(page.rows[i], result);
  }
  return true;
}

}  // namespace

extern "C" {

// _token_usage_detailed(path name[], user_id text, page_limit bigint, page_offset bigint, agent
// text, start_date timestamptz, end_date timestamptz, after text)
PG_FUNCTION_INFO_V1(token_usage_few_detailed);
PGDLLEXPORT Datum token_usage_few_detailed(PG_FUNCTION_ARGS) {
  return few_report(fcinfo, detailed);
}

}  // extern "C"

}  // namespace token_usage
