// The three charts, drawn by Chart.js in the colours of the page. Each chart is a picture to those who
// hear the page, with a label that sums it up; the same figures stand in a table beside it.
import {
  ArcElement, BarController, BarElement, CategoryScale, Chart, DoughnutController, Filler, LinearScale, LineController,
  LineElement, PointElement, Tooltip, type ChartConfiguration, type ChartType, type TooltipOptions,
} from "chart.js";
import { el } from "./dom";

Chart.register(ArcElement, BarController, BarElement, CategoryScale, DoughnutController, Filler, LinearScale,
  LineController, LineElement, PointElement, Tooltip);

/** What a chart draws: `values` to draw, `texts` to tell, one of each per label. */
export interface Series {
  labels: string[];
  values: number[];
  texts: string[];
  axis(value: number): string;
}

export const PALETTE = 8;

const probe = el("span", { hidden: true });

/** A colour of app.css as Chart.js can use it: light-dark() and color-mix() resolved. */
function colour(name: string): string {
  if (!probe.isConnected) {
    document.body.append(probe);
  }
  probe.style.color = `var(--${name})`;
  return getComputedStyle(probe).color;
}

/** The colour of the nth part; parts beyond the palette share one. */
export function partColour(index: number): string {
  return colour(index < PALETTE ? `part-${index + 1}` : "part-other");
}

const drawn = new Map<HTMLElement, { chart: Chart; again: () => void }>();

/** Removes the charts inside an element, before its content goes. */
export function dropCharts(inside: HTMLElement): void {
  for (const [canvas, { chart }] of drawn) {
    if (inside.contains(canvas)) {
      chart.destroy();
      drawn.delete(canvas);
    }
  }
}

/** Draws everything anew, for a change of colours. */
export function redrawCharts(): void {
  for (const { again } of [...drawn.values()]) {
    again();
  }
}

function draw<T extends ChartType>(canvas: HTMLCanvasElement, make: () => ChartConfiguration<T, number[], string>): void {
  drawn.get(canvas)?.chart.destroy();
  const chart = new Chart(canvas, make()) as unknown as Chart;
  drawn.set(canvas, { chart, again: () => draw(canvas, make) });
}

function canvas(label: string): HTMLCanvasElement {
  return el("canvas", { role: "img", "aria-label": label });
}

function tooltip<T extends ChartType>(series: Series): Partial<TooltipOptions<T>> {
  return {
    displayColors: false,
    backgroundColor: colour("tip"),
    titleColor: colour("tip-text"),
    bodyColor: colour("tip-text"),
    padding: 10,
    cornerRadius: 8,
    caretSize: 5,
    titleFont: { family: font(), size: 12, weight: 500 },
    bodyFont: { family: font(), size: 13, weight: 600 },
    callbacks: {
      label: (item: { dataIndex: number }) => series.texts[item.dataIndex] ?? "",
    },
  } as unknown as Partial<TooltipOptions<T>>;
}

function font(): string {
  return getComputedStyle(document.body).fontFamily;
}

function ticks() {
  return { color: colour("muted"), font: { family: font(), size: 12 } };
}

/** A day's name on the axis, and more of it in the tooltip. */
export function areaChart(label: string, series: Series & { titles: string[] }): HTMLElement {
  const picture = canvas(label);
  const box = el("div", { class: "chart area" }, picture);
  queueMicrotask(() => draw<"line">(picture, () => ({
    type: "line",
    data: {
      labels: series.labels,
      datasets: [{
        data: series.values,
        fill: "origin",
        cubicInterpolationMode: "monotone",
        borderColor: colour("accent-line"),
        borderWidth: 2,
        pointRadius: series.values.length === 1 ? 4 : 0,
        pointHoverRadius: 5,
        pointBackgroundColor: colour("accent-line"),
        pointHoverBorderColor: colour("surface"),
        pointHoverBorderWidth: 2,
        backgroundColor: ({ chart }) => {
          if (!chart.chartArea) {
            return "transparent";
          }
          const { top, bottom } = chart.chartArea;
          const gradient = chart.ctx.createLinearGradient(0, top, 0, bottom);
          gradient.addColorStop(0, colour("area-top"));
          gradient.addColorStop(1, colour("area-bottom"));
          return gradient;
        },
      }],
    },
    options: {
      animation: false,
      responsive: true,
      maintainAspectRatio: false,
      interaction: { mode: "index", intersect: false },
      layout: { padding: { top: 6, right: 6 } },
      scales: {
        x: {
          grid: { display: false },
          border: { color: colour("line") },
          ticks: { ...ticks(), maxRotation: 0, autoSkipPadding: 24 },
        },
        y: {
          beginAtZero: true,
          border: { display: false },
          grid: { color: colour("line") },
          ticks: { ...ticks(), maxTicksLimit: 5, padding: 8, callback: (value) => series.axis(Number(value)) },
        },
      },
      plugins: {
        tooltip: {
          ...tooltip<"line">(series),
          callbacks: {
            title: (items) => series.titles[items[0]?.dataIndex ?? 0] ?? "",
            label: (item) => series.texts[item.dataIndex] ?? "",
          },
        },
      },
    },
  })));
  return box;
}

export function ringChart(label: string, series: Series, centre: { value: string; caption: string }): HTMLElement {
  const picture = canvas(label);
  const box = el("div", { class: "chart ring" }, picture,
    el("div", { class: "ring-centre", "aria-hidden": "true" },
      el("strong", {}, centre.value), el("span", {}, centre.caption)));
  queueMicrotask(() => draw<"doughnut">(picture, () => ({
    type: "doughnut",
    data: {
      labels: series.labels,
      datasets: [{
        data: series.values,
        backgroundColor: series.values.map((_, index) => partColour(index)),
        borderColor: colour("surface"),
        borderWidth: 2,
        hoverBorderColor: colour("surface"),
        hoverOffset: 4,
      }],
    },
    options: {
      animation: false, responsive: true, maintainAspectRatio: false, cutout: "72%", layout: { padding: 4 },
      plugins: { tooltip: tooltip<"doughnut">(series) },
    },
  })));
  return box;
}

export function barChart(label: string, series: Series, parts: number[]): HTMLElement {
  const picture = canvas(label);
  const box = el("div", { class: "chart bars" }, picture);
  box.style.height = `${series.values.length * 30 + 34}px`;
  queueMicrotask(() => draw<"bar">(picture, () => ({
    type: "bar",
    data: {
      labels: series.labels,
      datasets: [{
        // A bar has a length to be seen; nothing has none.
        data: series.values.map((value) => value === 0 ? NaN : value),
        backgroundColor: parts.map(partColour),
        borderRadius: 5,
        borderSkipped: "start",
        maxBarThickness: 16,
        minBarLength: 2,
      }],
    },
    options: {
      animation: false,
      responsive: true,
      maintainAspectRatio: false,
      indexAxis: "y",
      interaction: { mode: "index", axis: "y", intersect: false },
      scales: {
        x: {
          beginAtZero: true,
          border: { display: false },
          grid: { color: colour("line") },
          ticks: { ...ticks(), maxTicksLimit: 5, maxRotation: 0, callback: (value) => series.axis(Number(value)) },
        },
        y: {
          border: { display: false },
          grid: { display: false },
          ticks: {
            ...ticks(),
            autoSkip: false,
            color: colour("text"),
            callback: (_, index) => shortened(series.labels[index] ?? "", picture.clientWidth < 420 ? 16 : 26),
          },
        },
      },
      plugins: { tooltip: tooltip<"bar">(series) },
    },
  })));
  return box;
}

function shortened(text: string, most: number): string {
  const letters = [...text];
  return letters.length <= most ? text : `${letters.slice(0, most - 1).join("")}…`;
}
