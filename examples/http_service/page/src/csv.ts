// The detailed rows as CSV (RFC 4180), all pages by cursor, digits as the service sent them.
import type { Page, RequestRow } from "./api";

export const COLUMNS = [
  "id", "created_at", "agent_id", "ai_provider", "ai_model", "prompt_tokens", "completion_tokens", "total_tokens",
  "cost_usd", "cost_rub", "execution_time_ms", "platform", "content_type",
] as const satisfies readonly (keyof RequestRow)[];

const NUMBER = /^-?\d+(\.\d+)?([eE][+-]?\d+)?$/;

/**
 * One field. Text that a spreadsheet would run as a formula gets an apostrophe in front, which spreadsheets take as "this
 * is text"; a number may begin with a minus and stays as it is. Unknown is empty, which is not 0.
 */
export function field(value: string | null): string {
  if (value === null) {
    return "";
  }
  const safe = /^[=+\-@\t\r\n]/.test(value) && !NUMBER.test(value) ? `'${value}` : value;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

function line(values: string[]): string {
  return `${values.join(",")}\r\n`;
}

/** Fetches page after page and gives the file; `progress` hears how many rows there are so far. */
export async function csvOf(
  page: (after: string | null) => Promise<Page>, progress: (rows: number, total: string) => void,
): Promise<Blob> {
  // The mark at the start is how spreadsheets know UTF-8.
  const parts: string[] = ["\uFEFF", line([...COLUMNS])];
  let rows = 0;
  let after: string | null = null;
  do {
    const answer: Page = await page(after);
    parts.push(answer.items.map((row) => line(COLUMNS.map((column) => field(row[column])))).join(""));
    rows += answer.items.length;
    progress(rows, answer.total);
    after = answer.has_more ? answer.next_cursor : null;
  } while (after !== null);
  return new Blob(parts, { type: "text/csv;charset=utf-8" });
}

export function save(file: Blob, name: string): void {
  const url = URL.createObjectURL(file);
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  // The browser reads the file on its own time.
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}
