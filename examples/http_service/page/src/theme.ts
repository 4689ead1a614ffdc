// Light, dark, or what the system says. app.css has both sets of colours in light-dark(); the choice
// only sets the colour scheme.
import { redrawCharts } from "./charts";
import { byId, check } from "./dom";

const KEY = "token_usage.theme";

export function startTheme(): void {
  const kept = localStorage.getItem(KEY) ?? "auto";
  check("theme", kept);
  apply(kept);
  byId("theme").addEventListener("change", (event) => {
    const chosen = (event.target as HTMLInputElement).value;
    localStorage.setItem(KEY, chosen);
    apply(chosen);
    redrawCharts();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redrawCharts);
}

function apply(theme: string): void {
  document.documentElement.dataset.theme = theme;
}
