/** The charts of the last hour, from /api/metrics/history, drawn by uPlot (served beside this file as uplot.js). */
import { element, find, say } from "./document.js";
import { milliseconds, NOTHING, percent, rate } from "./format.js";
import { ask } from "./gateway.js";
import { latencyOf } from "./mesh.js";

/** As often as the finest step of the history can change what is seen. */
const REFRESH_MS = 5_000;
const POINTS = 120;
const HEIGHT = 150;
/** Values of the last step are rates of a time too short to mean anything until so much of it has passed. */
const STEP_PART_MIN_S = 2;

/**
 * @typedef {object} Step
 * @property {number} atS
 * @property {number} lengthS what of it has passed
 * @property {number} requests
 * @property {number} errors
 * @property {number} hits
 * @property {number} outputTokens
 * @property {import("./mesh.js").Latency} duration
 */

/**
 * @typedef {object} Line
 * @property {string} name
 * @property {string} color a variable of theme.css
 * @property {boolean} [filled]
 * @property {(step: Step) => number | null} read
 */

/** @type {readonly { readonly title: string, readonly write: (value: number) => string, readonly max?: number, readonly lines: readonly Line[] }[]} */
const CHARTS = [
  {
    title: "Requests/s",
    write: rate,
    lines: [
      { name: "requests", color: "--series-1", filled: true, read: ({ requests, lengthS }) => requests / lengthS },
      { name: "errors", color: "--series-2", filled: true, read: ({ errors, lengthS }) => errors / lengthS },
    ],
  },
  {
    title: "Tokens/s",
    write: rate,
    lines: [
      {
        name: "written",
        color: "--series-5",
        filled: true,
        read: ({ outputTokens, lengthS }) => outputTokens / lengthS,
      },
    ],
  },
  {
    title: "Duration",
    write: milliseconds,
    lines: [
      { name: "p95", color: "--series-4", read: ({ duration }) => (duration.count === 0 ? null : duration.p95Ms) },
      { name: "p50", color: "--series-1", read: ({ duration }) => (duration.count === 0 ? null : duration.p50Ms) },
    ],
  },
  {
    title: "Hit rate",
    write: percent,
    max: 1,
    lines: [
      {
        name: "from the cache",
        color: "--series-3",
        filled: true,
        read: ({ hits, requests }) => (requests === 0 ? null : hits / requests),
      },
    ],
  },
];

/** All charts, over the same time. */
export class Charts {
  #windowS = 3_600;
  /** @type {readonly Step[]} */
  #steps = [];
  #nowS = Date.now() / 1_000;
  /** By how much the mesh's clock is ahead of this machine's. */
  #aheadS = 0;
  #timer = 0;
  #stopped = true;
  #charts = CHARTS.map((chart) => new Chart(chart));

  constructor() {
    const windows = find("windows");
    windows.addEventListener("click", ({ target }) => {
      const button = target instanceof Element ? target.closest("button") : null;
      if (button === null) return;
      for (const other of windows.querySelectorAll("button"))
        other.setAttribute("aria-pressed", String(other === button));
      this.#windowS = Number(button.dataset["seconds"]);
      this.#draw();
      if (!this.#stopped) this.start();
    });
  }

  /** @param {number} atMs what the mesh's clock says now, by which the history is kept */
  setClock(atMs) {
    this.#aheadS = (atMs - Date.now()) / 1_000;
  }

  /** Reads the history now and then. */
  start() {
    this.stop();
    this.#stopped = false;
    void this.#refresh();
  }

  stop() {
    this.#stopped = true;
    clearTimeout(this.#timer);
  }

  /** The colours have changed. */
  repaint() {
    for (const chart of this.#charts) chart.repaint();
    this.#draw();
  }

  async #refresh() {
    clearTimeout(this.#timer);
    const windowS = this.#windowS;
    try {
      const response = await ask(`/api/metrics/history?window=${windowS}s&points=${POINTS}`);
      const { points = [] } = await response.json();
      if (windowS === this.#windowS) {
        this.#nowS = Date.now() / 1_000 + this.#aheadS;
        this.#steps = points.map((/** @type {any} */ point) => stepOf(point, this.#nowS));
        this.#draw();
      }
    } catch {
      // The feed tells when the gateway is away; what was drawn stays.
    }
    if (!this.#stopped) this.#timer = setTimeout(() => void this.#refresh(), REFRESH_MS);
  }

  #draw() {
    const steps = this.#steps.filter(({ lengthS }) => lengthS >= STEP_PART_MIN_S);
    for (const chart of this.#charts) chart.draw(steps, this.#nowS - this.#windowS, this.#nowS);
  }
}

/**
 * @param {any} point
 * @param {number} nowS
 * @returns {Step}
 */
function stepOf(point, nowS) {
  const atS = Number(point.atMs ?? 0) / 1_000;
  return {
    atS,
    lengthS: Math.min(Number(point.stepS ?? 0), Math.max(nowS - atS, 0)),
    requests: Number(point.requests ?? 0),
    errors: Number(point.errors ?? 0),
    hits: Number(point.cacheHits ?? 0),
    outputTokens: Number(point.outputTokens ?? 0),
    duration: latencyOf(point.duration),
  };
}

/** One of them. */
class Chart {
  /** @type {typeof CHARTS[number]} */
  #chart;
  #place = element("div", { class: "chart-place" });
  #nothing = element("p", { class: "empty" }, "Nothing in this time.");
  #values;
  #figure;
  /** @type {any} */
  #plot;
  /** @type {(readonly (number | null)[])[]} */
  #data;
  #from = 0;
  #to = 0;

  /** @param {typeof CHARTS[number]} chart */
  constructor(chart) {
    this.#chart = chart;
    this.#data = [[], ...chart.lines.map(() => [])];
    this.#values = chart.lines.map(() => element("span", { class: "chart-value" }, NOTHING));
    const legend = chart.lines.map(({ name, color }, index) => {
      const key = element("span", { class: "chart-key", "aria-hidden": true });
      key.style.background = `var(${color})`;
      return element("span", {}, key, ` ${name} `, /** @type {HTMLElement} */ (this.#values[index]));
    });
    this.#figure = element(
      "figure",
      { class: "chart" },
      element("figcaption", {}, element("span", { class: "chart-title" }, chart.title), ...legend),
      this.#place,
    );
    this.#place.setAttribute("role", "img");
    this.#place.append(this.#nothing);
    find("charts").append(this.#figure);
    new ResizeObserver(() => this.#fit()).observe(this.#place);
  }

  /** The next drawing is made with the colours of then. */
  repaint() {
    this.#plot?.destroy();
    this.#plot = undefined;
  }

  /**
   * @param {readonly Step[]} steps
   * @param {number} fromS
   * @param {number} toS
   */
  draw(steps, fromS, toS) {
    this.#from = fromS;
    this.#to = toS;
    this.#data = [steps.map(({ atS }) => atS), ...this.#chart.lines.map(({ read }) => steps.map(read))];
    if (this.#plot === undefined) this.#make();
    this.#plot?.setData(this.#data, false);
    this.#plot?.setScale("x", { min: fromS, max: toS });
    this.#tell(steps.length - 1);
    const something = this.#data.slice(1).some((line) => line.some((value) => value !== null && value !== 0));
    this.#nothing.hidden = something;
    this.#place.setAttribute("aria-label", this.#describe());
  }

  #make() {
    const width = this.#place.clientWidth;
    // Not shown: there is nothing to measure, and it is made when it is.
    if (width === 0) return;
    const { lines, write, max } = this.#chart;
    const colors = getComputedStyle(document.documentElement);
    const color = (/** @type {string} */ name) => colors.getPropertyValue(name).trim();
    const font = `11px ${color("--font")}`;
    const axis = {
      stroke: color("--muted"),
      font,
      ticks: { show: false },
      grid: { stroke: color("--border"), width: 1 },
    };
    const uPlot = /** @type {any} */ (globalThis)["uPlot"];
    this.#plot = new uPlot(
      {
        width,
        height: HEIGHT,
        padding: [8, 8, 0, 0],
        legend: { show: false },
        cursor: { sync: { key: "traffic" }, y: false, drag: { x: false, y: false }, points: { size: 6 } },
        scales: {
          x: { time: true },
          y: {
            range: (/** @type {unknown} */ _plot, /** @type {number} */ _min, /** @type {number | null} */ most) => [
              0,
              max ?? roomFor(most ?? 0),
            ],
          },
        },
        axes: [
          {
            ...axis,
            grid: { show: false },
            size: 24,
            space: 44,
            values: (/** @type {unknown} */ _plot, /** @type {number[]} */ at) => at.map(clockMinute),
          },
          {
            ...axis,
            size: 52,
            space: 24,
            values: (/** @type {unknown} */ _plot, /** @type {number[]} */ at) =>
              at.map((value) => (value === 0 ? "0" : write(value).replace(".0", ""))),
          },
        ],
        series: [
          {},
          ...lines.map(({ name, color: variable, filled }) => ({
            label: name,
            stroke: color(variable),
            width: 1.5,
            ...(filled === true ? { fill: `${color(variable)}26` } : {}),
            points: {
              show: (/** @type {any} */ _plot, /** @type {number} */ line) => isAlone(this.#data[line] ?? []),
              size: 4,
            },
          })),
        ],
        hooks: { setCursor: [(/** @type {any} */ plot) => this.#tell(plot.cursor.idx ?? this.#data[0]?.length ?? 0)] },
      },
      this.#data,
      this.#place,
    );
  }

  #fit() {
    if (this.#plot === undefined) {
      if (this.#to > 0) this.#make();
      this.#plot?.setScale("x", { min: this.#from, max: this.#to });
    } else if (this.#place.clientWidth > 0) {
      this.#plot.setSize({ width: this.#place.clientWidth, height: HEIGHT });
    }
  }

  /**
   * Writes the values of one step beside their names; of the last one when the pointer is elsewhere.
   * @param {number} index
   */
  #tell(index) {
    const last = (this.#data[0]?.length ?? 0) - 1;
    this.#values.forEach((shown, line) => {
      const value = this.#data[line + 1]?.[Math.min(index, last)] ?? null;
      say(shown, value === null ? NOTHING : this.#chart.write(value));
    });
  }

  #describe() {
    const { title, lines, write } = this.#chart;
    const told = lines.map(({ name }, line) => {
      const values = (this.#data[line + 1] ?? []).filter((value) => value !== null);
      if (values.length === 0) return `${name}: nothing`;
      return `${name}: now ${write(values.at(-1) ?? 0)}, at most ${write(Math.max(...values))}`;
    });
    return `${title}; ${told.join("; ")}`;
  }
}

/** @param {readonly (number | null)[]} values a line that has no second point beside the first is drawn as points */
function isAlone(values) {
  return values.filter((value) => value !== null).length < 3;
}

/**
 * Where the scale ends, so that the highest value does not touch it; something for 0 too.
 * @param {number} most
 */
function roomFor(most) {
  return most === 0 ? 4 : most * 1.15;
}

/** @param {number} atS */
function clockMinute(atS) {
  const at = new Date(atS * 1_000);
  return `${String(at.getHours()).padStart(2, "0")}:${String(at.getMinutes()).padStart(2, "0")}`;
}
