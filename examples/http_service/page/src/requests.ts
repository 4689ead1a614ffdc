// The detailed list: filters, pages by cursor, CSV.
import { get, ServiceError, type Page, type RequestRow } from "./api";
import { csvOf, save } from "./csv";
import { announce, byId, el, numberCell, scroller } from "./dom";
import { count, duration, exactMoney, type Currency, type Digits } from "./numbers";
import { Panel } from "./panel";
import { dateAndTime, endOfDay, startOfDay, today } from "./zone";

const CSV_PAGE = "500";

export class Requests {
  private readonly panel = new Panel("requests");
  private readonly agent = byId<HTMLSelectElement>("requests-agent");
  private readonly from = byId<HTMLInputElement>("from");
  private readonly to = byId<HTMLInputElement>("to");
  private readonly limit = byId<HTMLSelectElement>("limit");
  private readonly previous = byId<HTMLButtonElement>("previous");
  private readonly next = byId<HTMLButtonElement>("next");
  private readonly csv = byId<HTMLButtonElement>("csv");
  private readonly stop = byId<HTMLButtonElement>("csv-stop");
  private readonly rows = byId("rows");
  private readonly message = byId("filters-message");
  /** The cursors of the pages up to this one; the first page has none. */
  private trail: (string | null)[] = [null];
  /** Rows before this page, which its numbers begin after. */
  private before = 0;
  private page: Page | null = null;
  private saving: AbortController | null = null;

  constructor(private readonly zone: () => string, private readonly signedOut: (message: string) => void) {
    const filters = byId<HTMLFormElement>("filters");
    filters.addEventListener("submit", (event) => event.preventDefault());
    filters.addEventListener("change", () => this.first());
    // The fields have their old values until the event has run.
    filters.addEventListener("reset", () => setTimeout(() => this.first()));
    this.next.addEventListener("click", () => this.forward());
    this.previous.addEventListener("click", () => this.back());
    this.csv.addEventListener("click", () => void this.download());
    this.stop.addEventListener("click", () => this.saving?.abort());
  }

  /** Back to the first page, with the filters as they are. */
  first(): void {
    this.trail = [null];
    this.before = 0;
    this.load();
  }

  clear(): void {
    this.saving?.abort();
    // Not by reset(), whose event would load again.
    this.agent.value = this.from.value = this.to.value = "";
    this.trail = [null];
    this.before = 0;
    this.panel.clear();
    this.page = null;
    this.pages();
  }

  private forward(): void {
    if (this.page?.next_cursor) {
      this.before += this.page.items.length;
      this.trail.push(this.page.next_cursor);
      this.load(true);
    }
  }

  private back(): void {
    if (this.trail.length > 1) {
      this.trail.pop();
      this.before = Math.max(0, this.before - Number(this.limit.value));
      this.load(true);
    }
  }

  /** What the service is asked for, or null where the dates make no sense. */
  private parameters(): Record<string, string | null> | null {
    const zone = this.zone();
    const from = this.from.value;
    const to = this.to.value;
    const wrong = !this.from.validity.valid || !this.to.validity.valid ? "Please give a whole date from 1970 on."
      : from && to && from > to ? "“From” must not be later than “To”." : null;
    this.message.hidden = wrong === null;
    this.message.textContent = wrong ?? "";
    for (const field of [this.from, this.to]) {
      field.setAttribute("aria-invalid", String(wrong !== null));
    }
    return wrong !== null ? null : {
      agent_id: this.agent.value,
      start_date: from ? new Date(startOfDay(from, zone)).toISOString() : null,
      end_date: to ? endOfDay(to, zone) : null,
      time_zone: zone,
    };
  }

  private load(moved = false): void {
    const parameters = this.parameters();
    if (parameters === null) {
      return;
    }
    const ask = (signal: AbortSignal) => get<Page>("detailed",
      { ...parameters, limit: this.limit.value, after: this.trail.at(-1) ?? null }, signal);
    const pressed = document.activeElement;
    this.previous.disabled = this.next.disabled = true;
    void this.panel.load(ask, (page) => {
      this.page = page;
      if (page.items.length === 0) {
        this.panel.empty(this.filtered() ? "No request fits these filters." : "No requests yet. They show here as soon as your application records one.");
      } else {
        this.panel.content.replaceChildren(scroller("List of requests", table(page.items, this.zone())));
      }
      this.pages();
      if (moved) {
        // The button that was pressed lost the focus while it was disabled.
        (this.next.disabled || (pressed === this.previous && !this.previous.disabled) ? this.previous : this.next)
          .focus({ preventScroll: true });
        announce(this.rows.textContent ?? "");
      }
    }).finally(() => {
      if (this.panel.root.dataset.state === "error") {
        this.page = null;
        this.pages();
      }
    });
  }

  private filtered(): boolean {
    return this.agent.value !== "" || this.from.value !== "" || this.to.value !== "";
  }

  private pages(): void {
    const page = this.page;
    const some = page !== null && page.items.length > 0;
    this.rows.textContent = some
      ? `${count(String(this.before + 1))}–${count(String(this.before + page.items.length))} of ${count(page.total)}` : "";
    this.previous.disabled = this.trail.length < 2;
    this.next.disabled = !(page?.has_more && page.next_cursor);
    this.csv.disabled = !some || this.saving !== null;
  }

  private async download(): Promise<void> {
    const parameters = this.parameters();
    if (parameters === null) {
      return;
    }
    const stop = new AbortController();
    this.saving = stop;
    this.csv.disabled = true;
    this.stop.hidden = false;
    this.stop.focus();
    try {
      const file = await csvOf(
        (after) => get<Page>("detailed", { ...parameters, limit: CSV_PAGE, after }, stop.signal),
        (rows, total) => { this.csv.textContent = `${count(String(rows))} of ${count(total)} …`; });
      save(file, `token-usage-${today(this.zone())}.csv`);
      announce("The CSV file is ready.");
    } catch (error) {
      if (stop.signal.aborted) {
        announce("The download was stopped.");
      } else if (error instanceof ServiceError && error.status === 401) {
        this.signedOut(error.message);
      } else {
        this.message.hidden = false;
        this.message.textContent = `The CSV file could not be made: ${error instanceof Error ? error.message : String(error)}`;
      }
    } finally {
      this.saving = null;
      this.csv.textContent = "Download CSV";
      this.csv.disabled = this.page === null;
      const focused = document.activeElement === this.stop;
      this.stop.hidden = true;
      if (focused) {
        this.csv.focus();
      }
    }
  }
}

function table(rows: RequestRow[], zone: string): HTMLTableElement {
  const column = (name: string, className: string | null = null) => el("th", { scope: "col", class: className }, name);
  return el("table", { class: "requests" },
    el("thead", {}, el("tr", {},
      el("th", { scope: "col" }, "Time", el("span", { class: "wide" }, ` (${zone.replaceAll("_", " ")})`)), column("Agent"), column("Provider and model", "wide"),
      column("Tokens", "number"), column("Prompt", "number wide"), column("Completion", "number wide"),
      column("USD", "number"), column("RUB", "number wide"), column("Took", "number wide"),
      column("Platform", "wide"), column("Content", "wide"))),
    el("tbody", {}, ...rows.map((row) => requestRow(row, zone))));
}

function requestRow(row: RequestRow, zone: string): HTMLTableRowElement {
  const [date, time] = dateAndTime(row.created_at, zone);
  const wide = (cell: HTMLTableCellElement) => { cell.classList.add("wide"); return cell; };
  return el("tr", { "data-id": row.id },
    el("td", {}, el("time", { datetime: row.created_at, title: row.created_at }, el("span", {}, date), " ", el("span", { class: "muted" }, time))),
    el("td", { class: "who", title: row.agent_id }, row.agent_id, el("small", { class: "narrow" }, row.ai_model)),
    el("td", { class: "wide" }, el("span", { class: "muted" }, `${row.ai_provider} / `), row.ai_model),
    numberCell(count(row.total_tokens), undefined, row.total_tokens),
    wide(numberCell(count(row.prompt_tokens), undefined, row.prompt_tokens)),
    wide(numberCell(count(row.completion_tokens), undefined, row.completion_tokens)),
    cost(row.cost_usd, "USD"),
    wide(cost(row.cost_rub, "RUB")),
    wide(numberCell(row.execution_time_ms === null ? "–" : duration(row.execution_time_ms), undefined, row.execution_time_ms ?? "")),
    el("td", { class: "wide" }, row.platform ?? "–"),
    el("td", { class: "wide" }, row.content_type ?? "–"));
}

function cost(digits: Digits | null, name: Currency): HTMLTableCellElement {
  return digits === null
    ? el("td", { class: "number", "data-value": "" }, el("span", { class: "badge", title: "The price of this request is not known." }, "unpriced"))
    : numberCell(exactMoney(digits, name), undefined, digits);
}
