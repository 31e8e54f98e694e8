/** The figures of this second, each with its last minute as a line. */
import { element, find, say } from "./document.js";
import { count, milliseconds, NOTHING, percent, rate } from "./format.js";

/** @typedef {import("./mesh.js").Mesh} Mesh */

const MOMENTS_MAX = 60;
const LINE_WIDTH = 120;
const LINE_HEIGHT = 28;

/**
 * @typedef {object} Tile
 * @property {string} title
 * @property {string} [hint] what exactly it is
 * @property {(mesh: Mesh) => number | undefined} read undefined when nothing was measured
 * @property {(value: number) => string} write
 * @property {(mesh: Mesh) => string} [unit] what follows the value, smaller
 * @property {string} [tone] the colour of its line
 * @property {(value: number) => boolean} [isBad]
 */

/** @type {readonly Tile[]} */
const TILES = [
  { title: "Requests/s", read: ({ rates }) => rates.requestsPerSecond, write: rate },
  {
    title: "Errors/s",
    read: ({ rates }) => rates.errorsPerSecond,
    write: rate,
    tone: "bad",
    isBad: (value) => value > 0,
  },
  { title: "Tokens/s", hint: "written by the models", read: ({ rates }) => rates.outputTokensPerSecond, write: rate },
  {
    title: "Running",
    hint: "requests and streams that are open now",
    read: ({ rates }) => rates.activeRequests,
    write: count,
  },
  {
    title: "First token",
    hint: "p95 of the last minute",
    read: ({
      rates: {
        timeToFirstToken: { count: measured, p95Ms },
      },
    }) => (measured === 0 ? undefined : p95Ms),
    write: milliseconds,
  },
  {
    title: "Duration p95",
    hint: "of the last minute",
    read: ({
      rates: {
        duration: { count: measured, p95Ms },
      },
    }) => (measured === 0 ? undefined : p95Ms),
    write: milliseconds,
  },
  {
    title: "Hit rate",
    hint: "requests answered from the cache",
    read: ({ rates }) => rates.hitRate,
    write: percent,
    tone: "good",
  },
  {
    title: "Workers up",
    read: ({ workers }) =>
      [...workers.values()].filter(({ state }) => state === "available" || state === "busy").length,
    write: count,
    unit: ({ workers }) => ` of ${count(workers.size)}`,
    tone: "good",
  },
];

/** The row of tiles. */
export class Tiles {
  #shown = TILES.map((tile) => {
    const value = element("span", {}, NOTHING);
    const unit = element("span", { class: "tile-unit" });
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("viewBox", `0 0 ${LINE_WIDTH} ${LINE_HEIGHT}`);
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("aria-hidden", "true");
    const line = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
    svg.append(line);
    const box = element(
      "div",
      { class: "tile", "data-tone": tile.tone, title: tile.hint },
      element("dt", {}, tile.title),
      element("dd", { class: "tile-value" }, value, unit),
    );
    box.append(svg);
    find("tiles").append(box);
    return { tile, box, value, unit, line, moments: /** @type {number[]} */ ([]) };
  });

  /** @param {Mesh} mesh */
  update(mesh) {
    for (const { tile, box, value, unit, line, moments } of this.#shown) {
      const now = tile.read(mesh);
      moments.push(now ?? 0);
      if (moments.length > MOMENTS_MAX) moments.shift();
      say(value, now === undefined ? NOTHING : tile.write(now));
      say(unit, tile.unit?.(mesh) ?? "");
      box.classList.toggle("is-bad", now !== undefined && tile.isBad?.(now) === true);
      line.setAttribute("points", pointsOf(moments));
    }
  }
}

/** @param {readonly number[]} moments newest last, which stands at the right */
function pointsOf(moments) {
  const most = Math.max(...moments, Number.MIN_VALUE) * 1.2;
  const step = LINE_WIDTH / (MOMENTS_MAX - 1);
  const from = MOMENTS_MAX - moments.length;
  return moments
    .map((value, index) => {
      const y = LINE_HEIGHT - 2 - (value / most) * (LINE_HEIGHT - 4);
      return `${((from + index) * step).toFixed(1)},${y.toFixed(1)}`;
    })
    .join(" ");
}
