// The usage page of token-usage-http: signs in, loads what the choices ask for, and shows it.
import "@fontsource-variable/inter/wght.css";
import "./app.css";
import { get, setToken, subject, token, type ByAgent, type ByModel, type HistoryDay, type Summary } from "./api";
import { showAgents, showModels } from "./breakdown";
import { dropCharts } from "./charts";
import { keepChoices, readChoices, takeTokenFromAddress } from "./choices";
import { announce, byId, check, checked, el } from "./dom";
import { showHistory } from "./history";
import type { Measure } from "./measure";
import { isZero } from "./numbers";
import { onSignedOut, Panel } from "./panel";
import { Requests } from "./requests";
import { showSummary } from "./summary";
import { startTheme } from "./theme";
import { offset, zones } from "./zone";

// Every request that an agent list needs: all that the ledger holds.
const ALL_DAYS = "36600";

const choices = readChoices();
const summary = new Panel("summary");
const history = new Panel("history");
const agents = new Panel("agents");
const models = new Panel("models");
const requests = new Requests(() => choices.zone, signOut);
const historyAgent = byId<HTMLSelectElement>("history-agent");
const requestsAgent = byId<HTMLSelectElement>("requests-agent");

// The last answers, so that another measure is drawn without asking again.
let days: HistoryDay[] | null = null;
let byAgent: ByAgent | null = null;
let byModel: ByModel | null = null;
let listing: AbortController | null = null;

const NONE = "No requests in this period.";

function some(rows: { requests_count: string }[]): boolean {
  return rows.some((row) => !isZero(row.requests_count));
}

function drawHistory(): void {
  if (days && some(days)) {
    showHistory(history.content, days, choices.measure);
  } else if (days) {
    dropCharts(history.content);
    history.empty(NONE);
  }
}

function drawAgents(): void {
  if (byAgent && byAgent.agents.length > 0) {
    showAgents(agents.content, byAgent, choices.measure);
  } else if (byAgent) {
    dropCharts(agents.content);
    agents.empty(NONE);
  }
}

function drawModels(): void {
  if (byModel && byModel.by_model.length > 0) {
    showModels(models.content, byModel, choices.measure);
  } else if (byModel) {
    dropCharts(models.content);
    models.empty(NONE);
  }
}

function loadSummary(): void {
  void summary.load((signal) => get<Summary>("summary", { time_zone: choices.zone }, signal), (answer) => {
    const told = showSummary(summary.content, answer, choices.zone);
    byId("foot").textContent = `Days are calendar days in ${choices.zone.replaceAll("_", " ")} (${offset(choices.zone)}). `
      + `Read at ${new Date().toLocaleTimeString("en", { timeZone: choices.zone, hourCycle: "h23" })}.`;
    announce(`Figures loaded. ${told}`);
  });
}

function loadHistory(): void {
  void history.load(
    (signal) => get<HistoryDay[]>("history", { days: choices.days, agent_id: historyAgent.value, time_zone: choices.zone }, signal),
    (answer) => { days = answer; drawHistory(); });
}

function loadBreakdown(): void {
  const parameters = { period_days: choices.days, time_zone: choices.zone };
  void agents.load((signal) => get<ByAgent>("by-agent", parameters, signal), (answer) => { byAgent = answer; drawAgents(); });
  void models.load((signal) => get<ByModel>("by-model", parameters, signal), (answer) => { byModel = answer; drawModels(); });
}

/** The agents to filter by. Where they cannot be had, the filters offer what they have. */
async function loadAgentList(): Promise<void> {
  listing?.abort();
  listing = new AbortController();
  try {
    const answer = await get<ByAgent>("by-agent", { period_days: ALL_DAYS, time_zone: choices.zone }, listing.signal);
    const names = answer.agents.map((row) => row.agent_id).sort();
    for (const select of [historyAgent, requestsAgent]) {
      const chosen = select.value;
      const offered = chosen && !names.includes(chosen) ? [...names, chosen] : names;
      select.replaceChildren(el("option", { value: "" }, "All agents"), ...offered.map((name) => el("option", { value: name }, name)));
      select.value = chosen;
    }
  } catch {
    // The panels tell of the failure.
  }
}

function loadAll(): void {
  loadSummary();
  loadHistory();
  loadBreakdown();
  requests.first();
  void loadAgentList();
}

function showDashboard(): void {
  byId("sign-in").hidden = true;
  byId("dashboard").hidden = false;
  for (const id of ["zone-field", "refresh", "sign-out"]) {
    byId(id).hidden = false;
  }
  const user = subject();
  byId("who").textContent = user === null ? "" : `User ${user}`;
  loadAll();
}

function signOut(message = ""): void {
  setToken(null);
  days = byAgent = byModel = null;
  listing?.abort();
  for (const panel of [summary, history, agents, models]) {
    dropCharts(panel.content);
    panel.clear();
  }
  requests.clear();
  for (const select of [historyAgent, requestsAgent]) {
    select.replaceChildren(el("option", { value: "" }, "All agents"));
  }
  byId("dashboard").hidden = true;
  for (const id of ["zone-field", "refresh", "sign-out"]) {
    byId(id).hidden = true;
  }
  byId("who").textContent = "";
  byId("foot").textContent = "";
  const note = byId("sign-in-message");
  note.hidden = message === "";
  note.textContent = message;
  byId("sign-in").hidden = false;
  byId("token").focus();
}

function start(): void {
  startTheme();
  const zone = byId<HTMLSelectElement>("zone");
  zone.replaceChildren(...[...zones()].map(([group, names]) => el("optgroup", { label: group.replaceAll("_", " ") },
    ...names.map((name) => el("option", { value: name }, name.replaceAll("_", " "))))));
  if (![...zone.options].some((option) => option.value === choices.zone)) {
    zone.prepend(el("option", { value: choices.zone }, choices.zone.replaceAll("_", " ")));
  }
  zone.value = choices.zone;
  check("days", choices.days);
  check("measure", choices.measure);
  onSignedOut(signOut);

  zone.addEventListener("change", () => {
    choices.zone = zone.value;
    keepChoices(choices);
    loadAll();
  });
  byId("days").addEventListener("change", () => {
    choices.days = checked("days");
    keepChoices(choices);
    loadHistory();
    loadBreakdown();
  });
  byId("measure").addEventListener("change", () => {
    choices.measure = checked("measure") as Measure;
    keepChoices(choices);
    drawHistory();
    drawAgents();
    drawModels();
  });
  historyAgent.addEventListener("change", loadHistory);
  byId("refresh").addEventListener("click", loadAll);
  byId("sign-out").addEventListener("click", () => signOut());
  byId<HTMLFormElement>("sign-in-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const field = byId<HTMLInputElement>("token");
    const given = field.value.trim();
    field.value = "";
    if (given) {
      setToken(given);
      showDashboard();
      byId("main").focus();
    }
  });

  // A token in the address also when the page is already open: the link of an e-mail, say.
  const arrive = () => {
    const given = takeTokenFromAddress();
    if (given) {
      setToken(given);
    }
    return given !== null;
  };
  window.addEventListener("hashchange", () => {
    if (arrive()) {
      showDashboard();
    }
  });
  arrive();
  if (token()) {
    showDashboard();
  } else {
    signOut();
  }
}

start();
