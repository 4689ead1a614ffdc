// What the user chose. The address keeps it, so that a reload or a bookmark shows the same; never the
// token.
import { isMeasure, type Measure } from "./measure";
import { browserZone, isZone } from "./zone";

export const PERIODS = ["7", "30", "90", "365"];

export interface Choices {
  zone: string;
  days: string;
  measure: Measure;
}

export function readChoices(): Choices {
  const query = new URLSearchParams(location.search);
  const zone = query.get("time_zone") ?? "";
  const days = query.get("days") ?? "";
  const measure = query.get("show") ?? "";
  return {
    zone: zone && isZone(zone) ? zone : browserZone(),
    days: PERIODS.includes(days) ? days : "30",
    measure: isMeasure(measure) ? measure : "cost_usd",
  };
}

export function keepChoices(choices: Choices): void {
  const query = new URLSearchParams();
  if (choices.zone !== browserZone()) {
    query.set("time_zone", choices.zone);
  }
  if (choices.days !== "30") {
    query.set("days", choices.days);
  }
  if (choices.measure !== "cost_usd") {
    query.set("show", choices.measure);
  }
  const search = query.size > 0 ? `?${query}` : "";
  history.replaceState(null, "", `${location.pathname}${search}`);
}

/** The token of `#token=...`, gone from the address bar and the history at once. */
export function takeTokenFromAddress(): string | null {
  if (location.hash.length < 2) {
    return null;
  }
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  if (token !== null) {
    history.replaceState(null, "", `${location.pathname}${location.search}`);
  }
  return token?.trim() || null;
}
