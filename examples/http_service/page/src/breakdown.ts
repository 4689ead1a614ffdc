// Who spent it: by agent as a ring, by provider and model as bars, each with its table.
import type { AgentRow, ByAgent, ByModel, Measures, ModelRow, ProviderRow } from "./api";
import { barChart, dropCharts, PALETTE, ringChart } from "./charts";
import { el, numberCell, scroller } from "./dom";
import { MEASURES, valueOf, type Measure } from "./measure";
import { count, descending, duration, exactMoney, isZero, money, share, sum, type Currency } from "./numbers";
import { nonePriced } from "./summary";

const MOST_BARS = 10;

const COLUMNS = ["Share", "USD", "RUB", "Tokens", "Requests", "Mean time"];

function head(first: string): HTMLTableSectionElement {
  return el("thead", {}, el("tr", {}, el("th", { scope: "col" }, first),
    ...COLUMNS.map((name) => el("th", { scope: "col", class: "number" }, name))));
}

function cells(row: Measures, mean: string | null, part: string): HTMLTableCellElement[] {
  return [
    numberCell(part),
    costCell(row, "cost_usd", "USD"),
    costCell(row, "cost_rub", "RUB"),
    numberCell(count(row.total_tokens), undefined, row.total_tokens),
    requestsCell(row),
    // A mean over nothing is 0 in the body.
    numberCell(mean === null ? "" : mean === "0" ? "–" : duration(mean)),
  ];
}

function costCell(row: Measures, measure: "cost_usd" | "cost_rub", name: Currency): HTMLTableCellElement {
  const cell = numberCell(money(row[measure], name), exactMoney(row[measure], name), row[measure]);
  if (nonePriced(row)) {
    cell.replaceChildren(el("span", { class: "muted" }, "–"));
    cell.title = "No request here has a known price";
  }
  return cell;
}

/** How many, and how many of them have no known price. */
function requestsCell(row: Measures): HTMLTableCellElement {
  const cell = numberCell(count(row.requests_count), undefined, row.requests_count);
  cell.dataset.unpriced = row.unpriced_count;
  if (!isZero(row.unpriced_count)) {
    cell.append(el("small", { class: "unpriced" }, `${count(row.unpriced_count)} unpriced`));
  }
  return cell;
}

function swatch(part: number): HTMLElement {
  return el("span", { class: `swatch part-${part < PALETTE ? part + 1 : "other"}`, "aria-hidden": "true" });
}

/** Where all costs are zero or unknown there is nothing to draw, and a sentence says so. */
function nothingToDraw(measure: Measure): HTMLElement {
  return el("p", { class: "empty" }, `${MEASURES[measure].name} is 0 in this period: there is nothing to draw.`);
}

export function showAgents(content: HTMLElement, answer: ByAgent, measure: Measure): void {
  dropCharts(content);
  const words = MEASURES[measure];
  const rows = [...answer.agents].sort((a, b) => descending(valueOf(a, measure), valueOf(b, measure)));
  const total = sum(rows.map((row) => valueOf(row, measure)));
  // The ring has a colour for each of the first; the others are one part.
  const ringed = rows.length <= PALETTE + 1 ? rows : rows.slice(0, PALETTE);
  const others = rows.slice(ringed.length);
  const parts = ringed.map((row) => ({ name: row.agent_id, value: valueOf(row, measure) }));
  if (others.length > 0) {
    parts.push({ name: `${others.length} others`, value: sum(others.map((row) => valueOf(row, measure))) });
  }
  content.replaceChildren(
    isZero(total) ? nothingToDraw(measure) : ringChart(
      `${words.name} by agent: ${words.full(total)} in all. The table below has each agent.`,
      {
        labels: parts.map((part) => part.name),
        values: parts.map((part) => Number(part.value)),
        texts: parts.map((part) => `${words.full(part.value)} (${share(part.value, total)})`),
        axis: words.axis,
      },
      { value: words.short(total).length <= 11 ? words.short(total) : words.axis(Number(total)), caption: rows.length === 1 ? "1 agent" : `${rows.length} agents` }),
    scroller("Usage by agent", el("table", {}, head("Agent"),
      el("tbody", {}, ...rows.map((row, index) => agentRow(row, index, share(valueOf(row, measure), total)))))));
}

function agentRow(row: AgentRow, index: number, part: string): HTMLTableRowElement {
  return el("tr", { "data-agent": row.agent_id },
    el("th", { scope: "row", title: row.agent_id }, swatch(index), row.agent_id),
    ...cells(row, row.avg_execution_time_ms, part));
}

export function showModels(content: HTMLElement, answer: ByModel, measure: Measure): void {
  dropCharts(content);
  const words = MEASURES[measure];
  const rows = [...answer.by_model].sort((a, b) => descending(valueOf(a, measure), valueOf(b, measure)));
  const total = sum(rows.map((row) => valueOf(row, measure)));
  const providers = answer.by_provider
    .map((provider) => ({ provider, measures: providerMeasures(provider) }))
    .sort((a, b) => descending(valueOf(a.measures, measure), valueOf(b.measures, measure)));
  const colours = new Map(providers.map(({ provider }, index) => [provider.provider, index]));
  const bars = rows.slice(0, MOST_BARS);
  content.replaceChildren(
    isZero(total) ? nothingToDraw(measure) : barChart(
      `${words.name} by model: ${words.full(total)} in all. The table below has each provider and model.`,
      {
        labels: bars.map((row) => row.ai_model),
        values: bars.map((row) => Number(valueOf(row, measure))),
        texts: bars.map((row) => `${words.full(valueOf(row, measure))} · ${row.ai_provider}`),
        axis: words.axis,
      },
      bars.map((row) => colours.get(row.ai_provider) ?? PALETTE)),
    rows.length > bars.length ? el("p", { class: "muted" }, `The first ${bars.length} of ${rows.length} models are drawn; the table has all.`) : "",
    scroller("Usage by provider and model", el("table", {}, head("Provider and model"),
      ...providers.map(({ provider, measures }, index) => el("tbody", { "data-provider": provider.provider },
        el("tr", { class: "group" },
          el("th", { scope: "rowgroup" }, swatch(index), provider.provider),
          ...cells(measures, null, share(valueOf(measures, measure), total))),
        ...[...provider.models]
          .sort((a, b) => descending(valueOf(a, measure), valueOf(b, measure)))
          .map((model) => modelRow(model, share(valueOf(model, measure), total))))))));
}

function modelRow(row: ModelRow, part: string): HTMLTableRowElement {
  return el("tr", { "data-model": row.ai_model },
    el("th", { scope: "row", class: "inner", title: row.ai_model }, row.ai_model),
    ...cells(row, row.avg_execution_time_ms, part));
}

/** A provider's sums: those that the service gives, and the exact sums of its models for the rest. */
function providerMeasures(provider: ProviderRow): Measures {
  const of = (key: keyof Measures) => sum(provider.models.map((model) => model[key]));
  return {
    total_tokens: provider.total_tokens,
    cost_usd: provider.total_cost_usd,
    cost_rub: provider.total_cost_rub,
    requests_count: provider.total_requests,
    prompt_tokens: of("prompt_tokens"),
    completion_tokens: of("completion_tokens"),
    unpriced_count: of("unpriced_count"),
  };
}
