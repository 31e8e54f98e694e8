/**
 * All workers at a glance, where there are more than the table shows: a small field for each, in the order of their names. It is
 * for those who see; what it says stands in the numbers above it and in the table, too.
 */
import { element, find } from "./document.js";
import { STATE_WORDS } from "./workers.js";

/** @typedef {import("./mesh.js").Worker} Worker */

const CELL_PX = 9;
const STEP_PX = 12;
/** Fewer are seen in the table, and more would fill the page. */
const WORKERS_MIN = 26;
const WORKERS_MAX = 3_000;
/** A worker without a limit that serves so many is drawn as one that has much to do. */
const MUCH = 16;

const BY_NAME = new Intl.Collator("en", { numeric: true });

/** The map. */
export class WorkerMap {
  #place = find("worker-map");
  #canvas = element("canvas");
  #tip = element("span", { class: "map-tip", hidden: true });
  /** @type {readonly Worker[]} */
  #workers = [];
  /** The names, to see when there are others. */
  #names = "";
  /** @type {readonly string[]} */
  #order = [];
  #columns = 1;

  /** @param {(name: string) => void} onChoose told which worker was clicked */
  constructor(onChoose) {
    this.#place.append(this.#canvas, this.#tip);
    new ResizeObserver(() => this.#draw()).observe(this.#place);
    this.#canvas.addEventListener("pointermove", (event) => this.#point(event));
    this.#canvas.addEventListener("pointerleave", () => {
      this.#tip.hidden = true;
    });
    this.#canvas.addEventListener("click", (event) => {
      const worker = this.#at(event);
      if (worker !== undefined) onChoose(worker.name);
    });
  }

  /** @param {ReadonlyMap<string, Worker>} workers */
  update(workers) {
    const names = [...workers.keys()].join();
    if (names !== this.#names) {
      this.#names = names;
      this.#order = [...workers.keys()].sort(BY_NAME.compare).slice(0, WORKERS_MAX);
    }
    this.#workers = this.#order.map((name) => /** @type {Worker} */ (workers.get(name)));
    this.#place.hidden = this.#workers.length < WORKERS_MIN;
    this.#draw();
  }

  /** The colours have changed. */
  repaint() {
    this.#draw();
  }

  #draw() {
    const widthPx = this.#place.clientWidth;
    const pen = this.#canvas.getContext("2d");
    if (this.#place.hidden || widthPx === 0 || pen === null) return;
    this.#columns = Math.max(1, Math.floor((widthPx + STEP_PX - CELL_PX) / STEP_PX));
    const heightPx = Math.ceil(this.#workers.length / this.#columns) * STEP_PX;
    const { style } = this.#canvas;
    if (style.width !== `${widthPx}px` || style.height !== `${heightPx}px`) {
      style.width = `${widthPx}px`;
      style.height = `${heightPx}px`;
    }
    // Setting the size clears it.
    this.#canvas.width = widthPx * devicePixelRatio;
    this.#canvas.height = heightPx * devicePixelRatio;
    pen.scale(devicePixelRatio, devicePixelRatio);
    const styles = getComputedStyle(document.documentElement);
    const color = (/** @type {string} */ name) => styles.getPropertyValue(name).trim();
    const colors = { good: color("--good"), busy: color("--busy"), bad: color("--bad"), accent: color("--accent") };
    for (const [index, worker] of this.#workers.entries()) {
      pen.save();
      pen.translate((index % this.#columns) * STEP_PX, Math.floor(index / this.#columns) * STEP_PX);
      drawWorker(pen, worker, colors);
      pen.restore();
    }
  }

  /** @param {PointerEvent} event */
  #point(event) {
    const worker = this.#at(event);
    this.#tip.hidden = worker === undefined;
    if (worker === undefined) return;
    this.#tip.textContent = `${worker.name} · ${STATE_WORDS[worker.state]} · ${worker.activeRequests} in flight`;
    const room = this.#place.clientWidth - this.#tip.offsetWidth;
    this.#tip.style.transform = `translate(${Math.max(0, Math.min(event.offsetX, room))}px, ${event.offsetY + 16}px)`;
  }

  /** @param {MouseEvent} event */
  #at({ offsetX, offsetY }) {
    const column = Math.floor(offsetX / STEP_PX);
    return column < this.#columns ? this.#workers[Math.floor(offsetY / STEP_PX) * this.#columns + column] : undefined;
  }
}

/**
 * Up is a full field, the brighter the more it serves; busy a diamond, draining a frame, down a cross.
 * @param {CanvasRenderingContext2D} pen
 * @param {Worker} worker
 * @param {{ readonly good: string, readonly busy: string, readonly bad: string, readonly accent: string }} colors
 */
function drawWorker(pen, { state, activeRequests, concurrentRequestsMax }, { good, busy, bad, accent }) {
  const middle = CELL_PX / 2;
  if (state === "available") {
    const part = Math.min(activeRequests / (concurrentRequestsMax || MUCH), 1);
    pen.globalAlpha = 0.35 + 0.65 * part;
    pen.fillStyle = good;
    pen.fillRect(0, 0, CELL_PX, CELL_PX);
  } else if (state === "busy") {
    pen.translate(middle, middle);
    pen.rotate(Math.PI / 4);
    pen.fillStyle = busy;
    pen.fillRect(-3.5, -3.5, 7, 7);
  } else if (state === "draining") {
    pen.strokeStyle = accent;
    pen.lineWidth = 1.5;
    pen.strokeRect(1, 1, CELL_PX - 2, CELL_PX - 2);
  } else {
    pen.strokeStyle = bad;
    pen.lineWidth = 2.5;
    pen.beginPath();
    pen.moveTo(1, 1);
    pen.lineTo(CELL_PX - 1, CELL_PX - 1);
    pen.moveTo(CELL_PX - 1, 1);
    pen.lineTo(1, CELL_PX - 1);
    pen.stroke();
  }
}
