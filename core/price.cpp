// See price.h. The arithmetic of a price.
#include "price.h"

#include <algorithm>
#include <limits>

#include "arguments.h"

namespace token_usage {
namespace {

constexpr int128 kMicrosToSeconds = kMicrosPerSecond;

int second_of_day(Micros at) {
  const auto seconds =
      static_cast<std::int64_t>(at / kMicrosToSeconds) - (at % kMicrosPerSecond < 0 ? 1 : 0);
  const std::int64_t rest = seconds % seconds_per_day;
  return static_cast<int>(rest < 0 ? rest + seconds_per_day : rest);
}

bool in_window(const PriceRow &row, int second) {
  return row.time_from <= row.time_to ? row.time_from <= second && second < row.time_to
                                      : row.time_from <= second || second < row.time_to;
}

[[noreturn]] void cost_overflow() {
  throw Error(ErrorKind::overflow, "token_usage: the cost is past 100000000000000");
}

// Adds `count` * `price` to `sum`.
void add_cost(int128 &sum, std::int64_t count, const std::optional<int128> &price) {
  int128 product = 0;
  if (count != 0 &&
      (__builtin_mul_overflow(static_cast<int128>(count), price.value_or(0), &product) ||
       __builtin_add_overflow(sum, product, &sum))) {
    cost_overflow();
  }
}

const std::optional<int128> &price_of(const PriceSet &prices, PriceClass price_class) {
  return prices[static_cast<std::size_t>(price_class)];
}

// The cost of the input: kinds (cached, written to cache) and modalities (audio, image) are two
// axes; a token that lies on both is counted once, as cached.
void add_input(int128 &sum, const PriceSet &prices, const Usage &usage) {
  const auto priced = [&](PriceClass price_class, Count kind) {
    return price_of(prices, price_class) ? usage.get(kind) : 0;
  };
  const std::int64_t all = usage.get(Count::prompt);
  const std::int64_t read = priced(PriceClass::cache_read, Count::cache_read);
  std::int64_t write_1h = priced(PriceClass::cache_write_1h, Count::cache_write_1h);
  const std::int64_t write =
      price_of(prices, PriceClass::cache_write) ? usage.get(Count::cache_write) : write_1h;
  write_1h = std::min(write_1h, write);
  std::int64_t audio = std::min(priced(PriceClass::input_audio, Count::input_audio), all);
  std::int64_t image = std::min(priced(PriceClass::input_image, Count::input_image), all - audio);
  std::int64_t read_audio =
      read > 0 && audio > 0 ? std::min({usage.get(Count::cache_read_audio), read, audio}) : 0;
  std::int64_t read_image =
      read > 0 && image > 0
          ? std::min({usage.get(Count::cache_read_image), read - read_audio, image})
          : 0;
  // What lies on both axes without being reported shows as more parts than there are tokens.
  int128 excess = static_cast<int128>(read) + write + audio + image - read_audio - read_image - all;
  const auto take = [&](std::int64_t limit) {
    const auto taken =
        static_cast<std::int64_t>(std::max<int128>(0, std::min<int128>(excess, limit)));
    excess -= taken;
    return taken;
  };
  read_audio += take(std::min(audio - read_audio, read - read_audio - read_image));
  read_image += take(std::min(image - read_image, read - read_audio - read_image));
  audio -= take(audio - read_audio);
  image -= take(image - read_image);
  const auto plain = static_cast<std::int64_t>(std::max<int128>(0, -excess));

  const auto or_read = [&](PriceClass price_class) {
    const std::optional<int128> &own = price_of(prices, price_class);
    return own ? own : price_of(prices, PriceClass::cache_read);
  };
  add_cost(sum, plain, price_of(prices, PriceClass::input));
  add_cost(sum, read - read_audio - read_image, price_of(prices, PriceClass::cache_read));
  add_cost(sum, read_audio, or_read(PriceClass::cache_read_audio));
  add_cost(sum, read_image, or_read(PriceClass::cache_read_image));
  add_cost(sum, write - write_1h, price_of(prices, PriceClass::cache_write));
  add_cost(sum, write_1h, price_of(prices, PriceClass::cache_write_1h));
  add_cost(sum, audio - read_audio, price_of(prices, PriceClass::input_audio));
  add_cost(sum, image - read_image, price_of(prices, PriceClass::input_image));
}

void add_output(int128 &sum, const PriceSet &prices, const Usage &usage) {
  const auto priced = [&](PriceClass price_class, Count kind, std::int64_t limit) {
    return price_of(prices, price_class) ? std::min(usage.get(kind), limit) : 0;
  };
  const std::int64_t all = usage.get(Count::completion);
  const std::int64_t audio = priced(PriceClass::output_audio, Count::output_audio, all);
  const std::int64_t image = priced(PriceClass::output_image, Count::output_image, all - audio);
  const std::int64_t reasoning =
      priced(PriceClass::reasoning, Count::reasoning, all - audio - image);
  add_cost(sum, all - audio - image - reasoning, price_of(prices, PriceClass::output));
  add_cost(sum, reasoning, price_of(prices, PriceClass::reasoning));
  add_cost(sum, audio, price_of(prices, PriceClass::output_audio));
  add_cost(sum, image, price_of(prices, PriceClass::output_image));
}

}  // namespace

std::optional<PriceClass> price_class_from_name(std::string_view name) {
  const auto *at = std::find(price_class_names.begin(), price_class_names.end(), name);
  if (at == price_class_names.end()) {
    return std::nullopt;
  }
  return static_cast<PriceClass>(at - price_class_names.begin());
}

std::optional<int> parse_time_of_day(std::string_view text) {
  if (text.size() != 5 && text.size() != 8) {
    return std::nullopt;
  }
  int parts[3] = {0, 0, 0};
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (i % 3 == 2 ? c != ':' : c < '0' || c > '9') {
      return std::nullopt;
    }
    if (i % 3 != 2) {
      parts[i / 3] = parts[i / 3] * 10 + (c - '0');
    }
  }
  const int seconds = parts[0] * 3600 + parts[1] * 60 + parts[2];
  if (parts[1] > 59 || parts[2] > 59 || seconds > seconds_per_day) {
    return std::nullopt;
  }
  return seconds;
}

std::string format_time_of_day(int seconds) {
  std::string out;
  for (const int part : {seconds / 3600, seconds / 60 % 60, seconds % 60}) {
    out += out.empty() ? "" : ":";
    out += static_cast<char>('0' + part / 10);
    out += static_cast<char>('0' + part % 10);
  }
  return out;
}

PriceSet prices_in_force(const std::vector<PriceRow> &rows, Micros at, std::int64_t prompt_tokens) {
  const int second = second_of_day(at);
  // Per class, tier and window the newest price that has begun; a price of none ends the older
  // ones.
  std::vector<const PriceRow *> newest;
  for (const PriceRow &row : rows) {
    if (row.valid_from > at || !in_window(row, second)) {
      continue;
    }
    const auto same = std::find_if(newest.begin(), newest.end(), [&](const PriceRow *other) {
      return other->price_class == row.price_class && other->tier_start == row.tier_start &&
             other->time_from == row.time_from && other->time_to == row.time_to;
    });
    if (same == newest.end()) {
      newest.push_back(&row);
    } else if (std::tie(row.valid_from, row.id) > std::tie((*same)->valid_from, (*same)->id)) {
      *same = &row;
    }
  }
  newest.erase(std::remove_if(newest.begin(), newest.end(),
                              [](const PriceRow *row) { return !row->usd_per_million; }),
               newest.end());
  PriceSet out;
  for (std::size_t i = 0; i < price_classes; ++i) {
    const auto price_class = static_cast<PriceClass>(i);
    // A price for this time of day goes before one for the whole day.
    const PriceRow *window = nullptr;
    for (const PriceRow *row : newest) {
      if (row->price_class == price_class && row->windowed() &&
          (window == nullptr ||
           std::tie(row->valid_from, row->id) > std::tie(window->valid_from, window->id))) {
        window = row;
      }
    }
    const PriceRow *best = nullptr;
    for (const PriceRow *row : newest) {
      if (row->price_class != price_class ||
          (window == nullptr
               ? row->windowed()
               : row->time_from != window->time_from || row->time_to != window->time_to) ||
          (row->tier_start != 0 && prompt_tokens <= row->tier_start)) {
        continue;
      }
      if (best == nullptr || row->tier_start > best->tier_start) {
        best = row;
      }
    }
    if (best != nullptr) {
      out[i] = best->usd_per_million;
    }
  }
  return out;
}

std::optional<int128> wide_cost(const PriceSet &prices, const Usage &usage) {
  if (usage.not_tokens || (usage.get(Count::prompt) > 0 && !price_of(prices, PriceClass::input)) ||
      (usage.get(Count::completion) > 0 && !price_of(prices, PriceClass::output))) {
    return std::nullopt;
  }
  int128 sum = 0;
  add_input(sum, prices, usage);
  add_output(sum, prices, usage);
  add_cost(sum, usage.get(Count::web_search_requests), price_of(prices, PriceClass::web_search));
  add_cost(sum, 1, price_of(prices, PriceClass::request));
  return sum;
}

std::optional<Decimal> cost_in_order(const std::vector<std::vector<PriceRow>> &sources,
                                     const Usage &usage, Micros at) {
  for (const std::vector<PriceRow> &rows : sources) {
    const PriceSet prices = prices_in_force(rows, at, usage.get(Count::prompt));
    if (!price_of(prices, PriceClass::input) && !price_of(prices, PriceClass::output) &&
        !price_of(prices, PriceClass::request)) {
      continue;
    }
    if (const std::optional<int128> cost = wide_cost(prices, usage)) {
      return Decimal::from_units(rescale_half_even(*cost, wide_places, Decimal::places));
    }
  }
  return std::nullopt;
}

Decimal converted(Decimal usd, Decimal rate) {
  int128 product = 0;
  if (!__builtin_mul_overflow(usd.units(), rate.units(), &product)) {
    return Decimal::from_units(rescale_half_even(product, 2 * Decimal::places, Decimal::places));
  }
  // Whole and fraction of the larger apart: exact again where the result fits.
  const int128 scale = 1'000'000'000'000;
  const int128 whole = usd.units() / scale;
  const int128 fraction = usd.units() % scale;
  int128 high = 0;
  int128 low = 0;
  if (__builtin_mul_overflow(whole, rate.units(), &high) ||
      __builtin_mul_overflow(fraction, rate.units(), &low) ||
      __builtin_add_overflow(high, rescale_half_even(low, 2 * Decimal::places, Decimal::places),
                             &high)) {
    cost_overflow();
  }
  return Decimal::from_units(high);
}

}  // namespace token_usage
