// The history as an area chart by day, with its sums above it and its table below.
import type { HistoryDay } from "./api";
import { areaChart, dropCharts } from "./charts";
import { el, numberCell, scroller } from "./dom";
import { MEASURES, valueOf, type Measure } from "./measure";
import { count, exactMoney, isZero, money, plural, sum } from "./numbers";
import { unpriced } from "./summary";
import { longDay, shortDay } from "./zone";

export function showHistory(content: HTMLElement, days: HistoryDay[], measure: Measure): void {
  const open = content.querySelector("details")?.open ?? false;
  dropCharts(content);
  const words = MEASURES[measure];
  const values = days.map((day) => valueOf(day, measure));
  const usd = sum(days.map((day) => day.cost_usd));
  const rub = sum(days.map((day) => day.cost_rub));
  const tokens = sum(days.map((day) => day.total_tokens));
  const requests = sum(days.map((day) => day.requests_count));
  const without = sum(days.map((day) => day.unpriced_count));
  const first = days[0]?.date ?? "";
  const last = days.at(-1)?.date ?? "";
  const total = measure === "cost_usd" ? usd : measure === "cost_rub" ? rub : measure === "total_tokens" ? tokens : requests;

  content.replaceChildren(
    el("p", { class: "totals" },
      el("data", { "data-total": "cost_usd", value: usd, title: exactMoney(usd, "USD") }, money(usd, "USD")),
      el("data", { "data-total": "cost_rub", value: rub, title: exactMoney(rub, "RUB") }, money(rub, "RUB")),
      el("data", { "data-total": "total_tokens", value: tokens }, plural(tokens, "token", "tokens")),
      el("data", { "data-total": "requests_count", value: requests }, plural(requests, "request", "requests")),
      !isZero(without) && unpriced(without)),
    areaChart(
      `${words.name} by day, ${longDay(first)} to ${longDay(last)}: ${words.full(total)} in all. The table below has each day.`,
      {
        labels: days.map((day) => shortDay(day.date)),
        titles: days.map((day) => longDay(day.date)),
        values: values.map(Number),
        texts: days.map((day, index) => words.full(values[index]!)
          + (isZero(day.unpriced_count) ? "" : ` (+ ${count(day.unpriced_count)} unpriced)`)),
        axis: words.axis,
      }),
    el("details", { open }, el("summary", {}, "Table by day"), scroller("Usage by day", table(days))));
}

function table(days: HistoryDay[]): HTMLTableElement {
  return el("table", {},
    el("thead", {}, el("tr", {},
      el("th", { scope: "col" }, "Day"),
      ...["USD", "RUB", "Tokens", "Prompt", "Completion", "Requests", "Unpriced"].map((name) =>
        el("th", { scope: "col", class: "number" }, name)))),
    el("tbody", {}, ...days.toReversed().map((day) => el("tr", { "data-date": day.date },
      el("th", { scope: "row" }, el("time", { datetime: day.date }, longDay(day.date))),
      numberCell(exactMoney(day.cost_usd, "USD"), undefined, day.cost_usd),
      numberCell(exactMoney(day.cost_rub, "RUB"), undefined, day.cost_rub),
      numberCell(count(day.total_tokens), undefined, day.total_tokens),
      numberCell(count(day.prompt_tokens), undefined, day.prompt_tokens),
      numberCell(count(day.completion_tokens), undefined, day.completion_tokens),
      numberCell(count(day.requests_count), undefined, day.requests_count),
      numberCell(count(day.unpriced_count), undefined, day.unpriced_count)))));
}
