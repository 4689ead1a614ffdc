// What every part of the page has in common: it loads, shows, is empty or fails, and a newer load
// overtakes an older one.
import { announce, byId, el } from "./dom";
import { ServiceError } from "./api";

let signedOut: (message: string) => void = () => {};

/** What happens when the service does not take the token any more. */
export function onSignedOut(handler: (message: string) => void): void {
  signedOut = handler;
}

export class Panel {
  readonly root: HTMLElement;
  readonly content: HTMLElement;
  private readonly state: HTMLElement;
  private running: AbortController | null = null;

  constructor(id: string) {
    this.root = byId(id);
    this.state = this.root.querySelector<HTMLElement>(":scope > .state")!;
    this.content = this.root.querySelector<HTMLElement>(":scope > .content")!;
  }

  /** Asks, then shows. While it asks, what was there stays, dimmed; at first there is a placeholder. */
  async load<T>(ask: (signal: AbortSignal) => Promise<T>, show: (answer: T) => void): Promise<void> {
    this.running?.abort();
    const mine = new AbortController();
    this.running = mine;
    this.root.setAttribute("aria-busy", "true");
    this.root.dataset.state = "loading";
    this.state.replaceChildren(...(this.content.hasChildNodes() ? [] : [el("p", { class: "placeholder" }, "Loading …")]));
    try {
      const answer = await ask(mine.signal);
      if (mine.signal.aborted) {
        return;
      }
      this.state.replaceChildren();
      this.root.dataset.state = "ready";
      show(answer);
    } catch (error) {
      if (!mine.signal.aborted) {
        this.fail(error, () => void this.load(ask, show));
      }
    } finally {
      if (this.running === mine) {
        this.running = null;
        this.root.removeAttribute("aria-busy");
      }
    }
  }

  /** Nothing to show, which is no error. */
  empty(message: string): void {
    this.root.dataset.state = "empty";
    this.content.replaceChildren();
    this.state.replaceChildren(el("p", { class: "empty" }, message));
  }

  clear(): void {
    this.running?.abort();
    this.running = null;
    this.root.removeAttribute("aria-busy");
    delete this.root.dataset.state;
    this.state.replaceChildren();
    this.content.replaceChildren();
  }

  private fail(error: unknown, again: () => void): void {
    if (!(error instanceof ServiceError)) {
      throw error;
    }
    if (error.status === 401) {
      signedOut(error.message);
      return;
    }
    this.root.dataset.state = "error";
    this.content.replaceChildren();
    this.state.replaceChildren(el("div", { class: "notice error", role: "alert" },
      el("p", {}, error.message),
      el("button", { type: "button", click: () => { announce("Trying again"); again(); } }, "Try again")));
  }
}
