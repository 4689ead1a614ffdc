// The service's routes. Bodies are read without losing a digit: every JSON number becomes the text
// that stood there.
import { parse } from "lossless-json";
import type { Digits } from "./numbers";

export interface Measures {
  total_tokens: Digits;
  prompt_tokens: Digits;
  completion_tokens: Digits;
  cost_usd: Digits;
  cost_rub: Digits;
  requests_count: Digits;
  unpriced_count: Digits;
}

export interface Summary { today: Measures; this_month: Measures; all_time: Measures }
export interface HistoryDay extends Measures { date: string }
export interface AgentRow extends Measures { agent_id: string; avg_execution_time_ms: Digits }
export interface ByAgent { agents: AgentRow[] }
export interface ModelRow extends Measures { ai_provider: string; ai_model: string; avg_execution_time_ms: Digits }
export interface ProviderRow {
  provider: string;
  total_tokens: Digits;
  total_cost_usd: Digits;
  total_cost_rub: Digits;
  total_requests: Digits;
  models: ModelRow[];
}
export interface ByModel { by_model: ModelRow[]; by_provider: ProviderRow[] }
export interface RequestRow {
  id: Digits;
  created_at: string;
  agent_id: string;
  ai_provider: string;
  ai_model: string;
  prompt_tokens: Digits;
  completion_tokens: Digits;
  total_tokens: Digits;
  cost_usd: Digits | null;
  cost_rub: Digits | null;
  execution_time_ms: Digits | null;
  platform: string | null;
  content_type: string | null;
}
export interface Page { items: RequestRow[]; total: Digits; has_more: boolean; next_cursor: string | null }

/** The service said no, or could not be asked: `status` is 0 then. */
export class ServiceError extends Error {
  constructor(readonly status: number, message: string) {
    super(message);
  }
}

const KEY = "token_usage.token";
const PATIENCE = 30_000;

export function token(): string | null {
  return sessionStorage.getItem(KEY);
}

export function setToken(value: string | null): void {
  if (value === null) {
    sessionStorage.removeItem(KEY);
  } else {
    sessionStorage.setItem(KEY, value);
  }
}

/** Whom the token is for, to be shown only; the service decides by the signature. */
export function subject(): string | null {
  try {
    const payload = (token() ?? "").split(".")[1] ?? "";
    const bytes = Uint8Array.from(atob(payload.replace(/-/g, "+").replace(/_/g, "/")), (c) => c.charCodeAt(0));
    const claims = parse(new TextDecoder().decode(bytes), undefined, String) as { sub?: unknown };
    return typeof claims.sub === "string" ? claims.sub : null;
  } catch {
    return null;
  }
}

const WORDS: Record<number, string> = {
  401: "The access token is not valid or has expired.",
  403: "This token may not read these figures.",
  404: "The service does not know this address.",
  503: "The database cannot be reached at the moment.",
};

/** GETs a route below /api/v1/billing/usage/tokens/. Parameters without a value are left out. */
export async function get<T>(route: string, parameters: Record<string, string | null>, signal: AbortSignal): Promise<T> {
  const url = new URL(`api/v1/billing/usage/tokens/${route}`, document.baseURI);
  for (const [name, value] of Object.entries(parameters)) {
    if (value) {
      url.searchParams.set(name, value);
    }
  }
  let status = 0;
  let text: string;
  try {
    const response = await fetch(url, {
      headers: { Accept: "application/json", Authorization: `Bearer ${token() ?? ""}` },
      cache: "no-store",
      signal: AbortSignal.any([signal, AbortSignal.timeout(PATIENCE)]),
    });
    status = response.status;
    text = await response.text();
  } catch (error) {
    signal.throwIfAborted();
    const late = error instanceof DOMException && error.name === "TimeoutError";
    throw new ServiceError(0, late ? "The service did not answer in time." : "The service cannot be reached.");
  }
  const body = bodyOf(text);
  if (status !== 200 || body?.success !== true || body.data === undefined) {
    const said = typeof body?.error === "string" && body.error !== "" ? sentence(body.error) : null;
    throw new ServiceError(status, said ?? WORDS[status] ?? `The service answered with status ${status}.`);
  }
  return body.data as T;
}

/** The service's words begin small; names of ours stay as they are. */
function sentence(text: string): string {
  return text.startsWith("token_usage") ? text : text.charAt(0).toUpperCase() + text.slice(1);
}

/** A proxy in between may answer with a page of its own; the status says enough then. */
function bodyOf(text: string): { success?: boolean; data?: unknown; error?: unknown } | null {
  try {
    return parse(text, undefined, String) as { success?: boolean; data?: unknown; error?: unknown } | null;
  } catch {
    return null;
  }
}
