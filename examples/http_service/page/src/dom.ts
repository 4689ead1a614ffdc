// A few helpers over the DOM. Text always goes in as text, never as HTML.

type Child = Node | string | null | undefined | false;
type Attributes = Record<string, string | number | boolean | null | undefined | ((event: Event) => void)>;

/** An element with attributes (functions are listeners) and children. */
export function el<K extends keyof HTMLElementTagNameMap>(
  tag: K, attributes: Attributes = {}, ...children: Child[]
): HTMLElementTagNameMap[K] {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") {
      made.addEventListener(name, value);
    } else if (value === true) {
      made.setAttribute(name, "");
    } else if (value !== null && value !== undefined && value !== false) {
      made.setAttribute(name, String(value));
    }
  }
  made.append(...children.filter((child): child is Node | string => child !== null && child !== undefined && child !== false));
  return made;
}

/** The element of an id; its absence is a mistake in index.html. */
export function byId<T extends HTMLElement>(id: string): T {
  const found = document.getElementById(id);
  if (!found) {
    throw new Error(`index.html has no #${id}`);
  }
  return found as T;
}

/** The checked value of a group of radio buttons. */
export function checked(group: string): string {
  return byId(group).querySelector<HTMLInputElement>("input:checked")?.value ?? "";
}

export function check(group: string, value: string): void {
  const input = byId(group).querySelector<HTMLInputElement>(`input[value="${CSS.escape(value)}"]`);
  if (input) {
    input.checked = true;
  }
}

/** Tells those who hear the page. */
export function announce(text: string): void {
  byId("announcer").textContent = text;
}

/** A cell for a number: its text, and what stands in it exactly. */
export function numberCell(text: string, title?: string, value?: string): HTMLTableCellElement {
  return el("td", { class: "number", title: title === text ? null : title, "data-value": value }, text);
}

/** A table that scrolls sideways inside its card where it is too wide. */
export function scroller(label: string, table: HTMLTableElement): HTMLElement {
  return el("div", { class: "scroller", role: "region", "aria-label": label, tabindex: 0 }, table);
}
