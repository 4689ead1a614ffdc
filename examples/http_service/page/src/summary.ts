// The cards: today, this month, all time.
import type { Measures, Summary } from "./api";
import { el } from "./dom";
import { count, exactMoney, isZero, money, plural, shortCount, type Currency, type Digits } from "./numbers";
import { longDay, monthOf, today } from "./zone";

/** Requests without a known price, told as such: they are in no cost. */
export function unpriced(number: Digits): HTMLElement {
  return el("span", {
    class: "badge",
    title: "The price of these requests is not known. They are counted, and are in no cost.",
  }, `${count(number)} unpriced`);
}

/** An amount in two decimals; all of its digits on hover, on focus and for screen readers. */
function amount(digits: Digits, name: Currency, className: string): HTMLElement {
  const exact = exactMoney(digits, name);
  const shown = money(digits, name);
  return el("data", { class: `exact ${className}`, value: digits, tabindex: 0, "data-exact": exact },
    shown, shown !== exact && el("span", { class: "sr-only" }, ` (exactly ${exact})`));
}

/** Whether there are requests and none has a price: a cost of 0 would be a wrong answer then. */
export function nonePriced(measures: Measures): boolean {
  return isZero(measures.cost_usd) && isZero(measures.cost_rub) && !isZero(measures.requests_count)
    && measures.unpriced_count === measures.requests_count;
}

function cost(measures: Measures): HTMLElement {
  if (nonePriced(measures)) {
    return el("div", { class: "amounts" }, el("span", { class: "big muted" }, "Unpriced"));
  }
  return el("div", { class: "amounts" }, amount(measures.cost_usd, "USD", "big"), amount(measures.cost_rub, "RUB", "second"));
}

function figure(name: string, digits: Digits, note: string | null): HTMLElement {
  return el("div", {},
    el("dt", {}, name),
    el("dd", {}, el("data", { value: digits, title: count(digits) }, shortCount(digits)), note && el("small", {}, note)));
}

function card(period: keyof Summary, title: string, when: string, measures: Measures): HTMLElement {
  return el("article", { class: "card summary-card", "data-period": period, "aria-label": title },
    el("header", {}, el("h3", {}, title), el("span", { class: "muted" }, when)),
    cost(measures),
    el("dl", { class: "figures" },
      figure("Tokens", measures.total_tokens,
        `${shortCount(measures.prompt_tokens)} in, ${shortCount(measures.completion_tokens)} out`),
      figure("Requests", measures.requests_count, null)),
    el("p", { class: "card-foot" }, isZero(measures.unpriced_count)
      ? el("span", { class: "muted" }, isZero(measures.requests_count) ? "No requests" : "All requests are priced")
      : unpriced(measures.unpriced_count)));
}

export function showSummary(content: HTMLElement, summary: Summary, zone: string): string {
  const day = today(zone);
  content.replaceChildren(
    card("today", "Today", longDay(day), summary.today),
    card("this_month", "This month", monthOf(day), summary.this_month),
    card("all_time", "All time", "up to now", summary.all_time));
  return `Today ${plural(summary.today.requests_count, "request", "requests")}, ${money(summary.today.cost_usd, "USD")}.`;
}
