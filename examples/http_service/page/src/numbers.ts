// Numbers as the service sends them: decimal text, since a sum of tokens may pass 2^53 and a cost may
// have more digits than a binary float keeps. Only what is drawn in a chart becomes a JavaScript
// number.
import Big from "big.js";

/** A JSON number as it stood in the body. */
export type Digits = string;

export type Currency = "USD" | "RUB";

// Intl takes decimal text and keeps all of its digits; its type wants a literal.
type Numeric = Intl.StringNumericLiteral;

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const compact = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 2 });
const percent = new Intl.NumberFormat("en", { style: "percent", maximumFractionDigits: 1 });
const rounded: Record<Currency, Intl.NumberFormat> = { USD: currency("USD", 2), RUB: currency("RUB", 2) };
const exact: Record<Currency, Intl.NumberFormat> = { USD: currency("USD", 20), RUB: currency("RUB", 20) };
const axis: Record<Currency, Intl.NumberFormat> = { USD: axisOf("USD"), RUB: axisOf("RUB") };

function currency(name: Currency, digits: number): Intl.NumberFormat {
  return new Intl.NumberFormat("en", {
    style: "currency",
    currency: name,
    currencyDisplay: "narrowSymbol",
    minimumFractionDigits: 2,
    maximumFractionDigits: digits,
  });
}

function axisOf(name: Currency): Intl.NumberFormat {
  return new Intl.NumberFormat("en", {
    style: "currency",
    currency: name,
    currencyDisplay: "narrowSymbol",
    notation: "compact",
    maximumFractionDigits: 1,
  });
}

/** 1234567 as 1,234,567. */
export function count(digits: Digits): string {
  return whole.format(digits as Numeric);
}

/** Up to six digits as they are, more as 12.34M: for places with little room. */
export function shortCount(digits: Digits): string {
  return digits.length <= 6 ? count(digits) : compact.format(digits as Numeric);
}

/** Two decimals; an amount that would round to nothing says so. */
export function money(digits: Digits, name: Currency): string {
  const value = new Big(digits);
  if (!value.eq(0) && value.abs().lt("0.005")) {
    return value.gt(0) ? `<${rounded[name].format(0.01)}` : `>${rounded[name].format(-0.01)}`;
  }
  return rounded[name].format(digits as Numeric);
}

/** All digits. */
export function exactMoney(digits: Digits, name: Currency): string {
  return exact[name].format(digits as Numeric);
}

export function axisMoney(value: number, name: Currency): string {
  const small = Math.abs(value) < 100 && !Number.isInteger(value);
  return small ? exactMoney(String(Number(value.toPrecision(6))), name) : axis[name].format(value);
}

export function axisCount(value: number): string {
  return compact.format(value);
}

/** The exact sum. */
export function sum(values: Iterable<Digits>): Digits {
  let total = new Big(0);
  for (const value of values) {
    total = total.plus(value);
  }
  return total.toFixed();
}

export function isZero(digits: Digits): boolean {
  return new Big(digits).eq(0);
}

/** Orders two numbers, the greater first. */
export function descending(a: Digits, b: Digits): number {
  return new Big(b).cmp(a);
}

/** The share of a part in a whole, "12.5%"; nothing of nothing is "–". */
export function share(part: Digits, total: Digits): string {
  const all = Number(total);
  return all > 0 ? percent.format(Number(part) / all) : "–";
}

/** 2380 milliseconds as "2.4 s". */
export function duration(milliseconds: Digits): string {
  const value = Number(milliseconds);
  if (value < 1000) {
    return `${value} ms`;
  }
  return value < 60_000 ? `${(value / 1000).toFixed(1)} s` : `${count(String(Math.round(value / 1000)))} s`;
}

export function plural(digits: Digits, one: string, many: string): string {
  return `${count(digits)} ${digits === "1" ? one : many}`;
}
