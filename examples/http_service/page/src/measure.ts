// What the charts show: a cost, tokens or requests.
import type { Measures } from "./api";
import { axisCount, axisMoney, count, exactMoney, money, shortCount, type Digits } from "./numbers";

export type Measure = "cost_usd" | "cost_rub" | "total_tokens" | "requests_count";

interface Words {
  name: string;
  short(value: Digits): string;
  full(value: Digits): string;
  axis(value: number): string;
}

export const MEASURES: Record<Measure, Words> = {
  cost_usd: {
    name: "Cost in USD", short: (v) => money(v, "USD"), full: (v) => exactMoney(v, "USD"), axis: (v) => axisMoney(v, "USD"),
  },
  cost_rub: {
    name: "Cost in RUB", short: (v) => money(v, "RUB"), full: (v) => exactMoney(v, "RUB"), axis: (v) => axisMoney(v, "RUB"),
  },
  total_tokens: { name: "Tokens", short: shortCount, full: count, axis: axisCount },
  requests_count: { name: "Requests", short: shortCount, full: count, axis: axisCount },
};

export function isMeasure(name: string): name is Measure {
  return Object.hasOwn(MEASURES, name);
}

export function valueOf(row: Measures, measure: Measure): Digits {
  return row[measure];
}
