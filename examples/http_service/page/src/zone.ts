// Time zones and their days. The service cuts the days of its reports itself; here they are cut once
// more for the detailed list, whose bounds are instants.

const MINUTE = 60_000;
const DAY = 86_400_000;

/** A local calendar day, YYYY-MM-DD. */
export type Day = string;

// Browsers keep the name that a zone had when they first learned of it. People look for the present
// name, and systems that leave out old names know no other.
const RENAMED: Record<string, string> = {
  "Africa/Asmera": "Africa/Asmara",
  "America/Buenos_Aires": "America/Argentina/Buenos_Aires",
  "America/Catamarca": "America/Argentina/Catamarca",
  "America/Coral_Harbour": "America/Atikokan",
  "America/Cordoba": "America/Argentina/Cordoba",
  "America/Godthab": "America/Nuuk",
  "America/Indianapolis": "America/Indiana/Indianapolis",
  "America/Jujuy": "America/Argentina/Jujuy",
  "America/Louisville": "America/Kentucky/Louisville",
  "America/Mendoza": "America/Argentina/Mendoza",
  "Asia/Calcutta": "Asia/Kolkata",
  "Asia/Katmandu": "Asia/Kathmandu",
  "Asia/Rangoon": "Asia/Yangon",
  "Asia/Saigon": "Asia/Ho_Chi_Minh",
  "Atlantic/Faeroe": "Atlantic/Faroe",
  "Europe/Kiev": "Europe/Kyiv",
  "Pacific/Enderbury": "Pacific/Kanton",
  "Pacific/Ponape": "Pacific/Pohnpei",
  "Pacific/Truk": "Pacific/Chuuk",
};

function presentName(zone: string): string {
  const name = RENAMED[zone];
  return name !== undefined && isZone(name) ? name : zone;
}

export function browserZone(): string {
  return presentName(Intl.DateTimeFormat().resolvedOptions().timeZone || "UTC");
}

/** Every zone that the browser knows, in groups by continent; UTC and the browser's own are always there. */
export function zones(): Map<string, string[]> {
  const names = new Set([...Intl.supportedValuesOf("timeZone").map(presentName), "UTC", browserZone()]);
  const groups = new Map<string, string[]>();
  for (const name of [...names].sort()) {
    const slash = name.indexOf("/");
    const group = slash < 0 ? "Universal" : name.slice(0, slash);
    groups.set(group, [...(groups.get(group) ?? []), name]);
  }
  return groups;
}

export function isZone(name: string): boolean {
  try {
    new Intl.DateTimeFormat("en", { timeZone: name });
    return true;
  } catch {
    return false;
  }
}

const formatters = new Map<string, Intl.DateTimeFormat>();

function partsOf(zone: string): Intl.DateTimeFormat {
  let made = formatters.get(zone);
  if (!made) {
    made = new Intl.DateTimeFormat("en", {
      timeZone: zone, calendar: "iso8601", numberingSystem: "latn", hourCycle: "h23",
      year: "numeric", month: "2-digit", day: "2-digit", hour: "2-digit", minute: "2-digit", second: "2-digit",
    });
    formatters.set(zone, made);
  }
  return made;
}

/** The wall clock of a zone at an instant, as if it were UTC. */
function wallClock(instant: number, zone: string): number {
  const field: Record<string, number> = {};
  for (const part of partsOf(zone).formatToParts(instant)) {
    field[part.type] = Number(part.value);
  }
  const seconds = Math.floor(instant / 1000) * 1000;
  return Date.UTC(field.year!, field.month! - 1, field.day!, field.hour!, field.minute!, field.second!) + (instant - seconds);
}

/** The first instant of a day. Where clocks jump over midnight, that is the instant after the jump; where midnight comes twice, the first. */
export function startOfDay(day: Day, zone: string): number {
  const midnight = Date.parse(`${day}T00:00:00Z`);
  const before = midnight - 18 * 3_600_000;
  const after = midnight + 18 * 3_600_000;
  const candidates = [before, after]
    .map((near) => midnight - (wallClock(near, zone) - near))
    .filter((instant) => wallClock(instant, zone) === midnight);
  if (candidates.length > 0) {
    return Math.min(...candidates);
  }
  let low = before;
  let high = after;
  while (high - low > 1) {
    const middle = Math.floor((low + high) / 2);
    if (wallClock(middle, zone) < midnight) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return high;
}

/** The last microsecond of a day, the finest that a ledger keeps. */
export function endOfDay(day: Day, zone: string): string {
  return new Date(startOfDay(addDays(day, 1), zone) - 1).toISOString().replace(/Z$/, "999Z");
}

export function addDays(day: Day, days: number): Day {
  return new Date(Date.parse(`${day}T00:00:00Z`) + days * DAY).toISOString().slice(0, 10);
}

export function today(zone: string): Day {
  return new Date(wallClock(Date.now(), zone)).toISOString().slice(0, 10);
}

/** "UTC+03:00" for now. */
export function offset(zone: string): string {
  const now = Math.floor(Date.now() / MINUTE) * MINUTE;
  const minutes = Math.round((wallClock(now, zone) - now) / MINUTE);
  const two = (n: number) => String(n).padStart(2, "0");
  return `UTC${minutes < 0 ? "-" : "+"}${two(Math.floor(Math.abs(minutes) / 60))}:${two(Math.abs(minutes) % 60)}`;
}

const dayNames = new Intl.DateTimeFormat("en", { timeZone: "UTC", weekday: "short", day: "numeric", month: "short", year: "numeric" });
const shortNames = new Intl.DateTimeFormat("en", { timeZone: "UTC", day: "numeric", month: "short" });
const monthNames = new Intl.DateTimeFormat("en", { timeZone: "UTC", month: "long", year: "numeric" });

function utc(day: Day): number {
  return Date.parse(`${day}T00:00:00Z`);
}

export function longDay(day: Day): string {
  return dayNames.format(utc(day));
}

export function shortDay(day: Day): string {
  return shortNames.format(utc(day));
}

export function monthOf(day: Day): string {
  return monthNames.format(utc(day));
}

/** An instant of the service as date and time of day in a zone: ["2025-10-20", "17:30:25"]. */
export function dateAndTime(instant: string, zone: string): [string, string] {
  const wall = new Date(wallClock(Date.parse(instant), zone)).toISOString();
  return [wall.slice(0, 10), wall.slice(11, 19)];
}
