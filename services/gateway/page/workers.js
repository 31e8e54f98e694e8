/**
 * The table of workers: filtered, sorted, and a page at a time, so that a thousand of them cost no more than a screenful. Its
 * order changes only when nobody points at it, and rows stay the elements they are, so that nothing is clicked by mistake.
 */
import { arrange, element, find, say } from "./document.js";
import { count, milliseconds, NOTHING, percent, rate, some } from "./format.js";

/** @typedef {import("./mesh.js").Worker} Worker */

const ROWS_MAX = 25;
/** Values by which the table is sorted change every second; its order does not have to. */
const REORDER_MS = 3_000;

/** A part of its attempts that may fail without being worth a colour. */
const ERRORS_FAIR = 0.05;

/** The word for each state; theme and shapes are in workers.css. */
export const STATE_WORDS = {
  available: "up",
  busy: "busy",
  draining: "draining",
  unavailable: "down",
  lost: "lost",
};

/** What is wrong comes first. */
const STATE_RANKS = { unavailable: 0, lost: 0, draining: 1, busy: 2, available: 2 };

/** The states as one filters by them. */
const GROUPS = [
  { name: "all", word: "all", has: () => true },
  { name: "up", word: "up", has: (/** @type {Worker} */ { state }) => state === "available" },
  { name: "busy", word: "busy", has: (/** @type {Worker} */ { state }) => state === "busy" },
  { name: "draining", word: "draining", has: (/** @type {Worker} */ { state }) => state === "draining" },
  { name: "down", word: "down", has: (/** @type {Worker} */ { state }) => state === "unavailable" || state === "lost" },
];

/**
 * @typedef {object} Column
 * @property {string} title
 * @property {string} [hint]
 * @property {string} name of its class and for sorting
 * @property {(worker: Worker) => number | string} by what it sorts by
 * @property {boolean} [descending] the first click sorts so
 * @property {(cell: HTMLElement, worker: Worker, nodeNames: readonly string[]) => void} write
 */

/** @type {readonly Column[]} */
const COLUMNS = [
  {
    title: "State",
    name: "state",
    by: ({ state, breaker }) => STATE_RANKS[state] * 2 + (breaker === "closed" ? 1 : 0),
    write: (cell, { state }) => {
      const mark = cell.firstElementChild ?? cell.appendChild(element("span", { class: "mark", "aria-hidden": true }));
      const word = mark.nextElementSibling ?? cell.appendChild(element("span"));
      /** @type {HTMLElement} */ (mark).dataset["state"] = state;
      say(word, STATE_WORDS[state]);
    },
  },
  {
    title: "Worker",
    name: "name",
    by: ({ name }) => name,
    write: (cell, { name, provider, simulated, state, trouble }, nodeNames) => {
      const title = cell.firstElementChild ?? cell.appendChild(element("span", { class: "worker-name" }));
      const place = title.nextElementSibling ?? cell.appendChild(element("span", { class: "worker-place" }));
      const where = nodeNames.length > 1 ? some(nodeNames.length, "node") : (nodeNames[0] ?? "on no node");
      say(title, name);
      say(place, `${simulated ? `${provider}, simulated` : provider} · ${where}`);
      title.setAttribute("title", name);
      place.setAttribute("title", nodeNames.join(", "));
      const why = place.nextElementSibling ?? cell.appendChild(element("span", { class: "worker-trouble" }));
      // Why it is busy is nothing to act upon, and told to who points at it.
      say(why, state === "unavailable" || state === "lost" ? trouble : "");
      cell.title = trouble;
    },
  },
  {
    title: "Breaker",
    hint: "open: it gets no requests until a trial succeeds",
    name: "breaker",
    by: ({ breaker }) => ({ open: 0, half_open: 1 })[breaker] ?? 2,
    write: (cell, { breaker }) => {
      say(cell, breaker.replace("_", "-"));
      cell.dataset["breaker"] = breaker;
    },
  },
  {
    title: "In flight",
    hint: "requests that it serves now, of those it may",
    name: "load",
    by: ({ activeRequests }) => activeRequests,
    descending: true,
    write: (cell, { activeRequests, concurrentRequestsMax }) => {
      const number = cell.firstElementChild ?? cell.appendChild(element("span"));
      const meter =
        number.nextElementSibling ?? cell.appendChild(element("span", { class: "meter", "aria-hidden": true }));
      say(
        number,
        concurrentRequestsMax === 0
          ? count(activeRequests)
          : `${count(activeRequests)} / ${count(concurrentRequestsMax)}`,
      );
      const { style } = /** @type {HTMLElement} */ (meter);
      style.display = concurrentRequestsMax === 0 ? "none" : "";
      style.setProperty("--part", String(Math.min(activeRequests / Math.max(concurrentRequestsMax, 1), 1)));
    },
  },
  {
    title: "p95",
    hint: "duration of the last 5 minutes",
    name: "p95",
    by: ({ p95Ms }) => p95Ms,
    descending: true,
    write: (cell, { p95Ms }) => say(cell, p95Ms === 0 ? NOTHING : milliseconds(p95Ms)),
  },
  {
    title: "Tokens/s",
    hint: "of its streams, on average",
    name: "speed",
    by: ({ tokensPerSecond }) => tokensPerSecond,
    descending: true,
    write: (cell, { tokensPerSecond }) => say(cell, tokensPerSecond === 0 ? NOTHING : rate(tokensPerSecond)),
  },
  {
    title: "Errors",
    hint: "part of its attempts in the last 5 minutes",
    name: "errors",
    by: ({ errors, attempts }) => (attempts === 0 ? 0 : errors / attempts),
    descending: true,
    write: (cell, { errors, attempts }) => {
      say(cell, attempts === 0 ? NOTHING : percent(errors / attempts));
      cell.classList.toggle("is-bad", errors > attempts * ERRORS_FAIR);
      cell.title = attempts === 0 ? "" : `${count(errors)} of ${some(attempts, "attempt")}`;
    },
  },
  {
    title: "Score",
    hint: "100 serves well, 20 badly; of the last 5 minutes",
    name: "score",
    by: ({ score }) => score,
    write: (cell, { score, attempts }) => {
      say(cell, attempts === 0 ? NOTHING : String(score));
      cell.dataset["score"] = attempts === 0 ? "" : score >= 80 ? "good" : score >= 60 ? "fair" : "bad";
    },
  },
];

const BY_NAME = new Intl.Collator("en", { numeric: true });

/** What can be done with a worker. @typedef {"drain" | "undrain" | "remove"} WorkerAction */

/** The table and what is around it. */
export class WorkerTable {
  #body = /** @type {HTMLElement} */ (find("workers").querySelector("tbody"));
  /** @type {ReadonlyMap<string, Worker>} */
  #workers = new Map();
  /** What people call the nodes, by id. @type {ReadonlyMap<string, string>} */
  #nodeNames = new Map();
  /** @type {Map<string, { readonly row: HTMLTableRowElement, readonly cells: readonly HTMLElement[], readonly actions: HTMLElement }>} */
  #rows = new Map();
  /** The names that are wanted, in order. @type {string[]} */
  #order = [];
  #group = GROUPS[0];
  #text = "";
  #column = /** @type {Column} */ (COLUMNS[0]);
  #descending = false;
  #page = 0;
  #orderedAtMs = 0;
  #pointedAtMs = Number.NEGATIVE_INFINITY;
  #heads = COLUMNS.map((column) => this.#head(column));
  #chips = GROUPS.map((group) => this.#chip(group));

  /** @param {(action: WorkerAction, worker: Worker) => void} onAction */
  constructor(onAction) {
    find("workers")
      .querySelector("thead")
      ?.append(
        element(
          "tr",
          { role: "row" },
          ...this.#heads,
          element(
            "th",
            { role: "columnheader", scope: "col" },
            element("span", { class: "unseen" }, "What can be done"),
          ),
        ),
      );
    find("worker-states").append(...this.#chips.map(({ button }) => button));
    const filter = find("worker-filter", HTMLInputElement);
    filter.addEventListener("input", () => {
      this.#text = filter.value.trim().toLowerCase();
      this.#show();
    });
    for (const button of find("worker-pages").querySelectorAll("button")) {
      button.addEventListener("click", () => {
        this.#page += Number(button.dataset["step"]);
        this.#draw();
      });
    }
    this.#body.addEventListener("click", ({ target }) => {
      const button = target instanceof Element ? target.closest("button") : null;
      const worker = this.#workers.get(button?.closest("tr")?.dataset["worker"] ?? "");
      const action = /** @type {WorkerAction | undefined} */ (button?.dataset["action"]);
      if (worker !== undefined && action !== undefined) onAction(action, worker);
    });
    this.#body.addEventListener("pointermove", () => {
      this.#pointedAtMs = performance.now();
    });
  }

  /**
   * @param {ReadonlyMap<string, Worker>} workers
   * @param {readonly import("./mesh.js").MeshNode[]} nodes
   */
  update(workers, nodes) {
    this.#workers = workers;
    this.#nodeNames = new Map(nodes.map(({ id, name }) => [id, name]));
    for (const { group, number } of this.#chips) {
      let members = 0;
      for (const worker of workers.values()) if (group.has(worker)) members += 1;
      say(number, count(members));
    }
    const nowMs = performance.now();
    const used = nowMs - this.#pointedAtMs < REORDER_MS || this.#body.contains(document.activeElement);
    // What is wrong has to come to the top when it goes wrong, not when the pointer has moved.
    const mayMove =
      this.#column.name === "state"
        ? !used || this.#hidesWrongOnes()
        : !used && nowMs - this.#orderedAtMs >= REORDER_MS;
    if (mayMove) this.#sort();
    else this.#keepOrder();
    this.#draw();
  }

  /**
   * Shows one worker, or what else `text` finds.
   * @param {string} text
   */
  search(text) {
    find("worker-filter", HTMLInputElement).value = text;
    this.#text = text.toLowerCase();
    this.#show();
  }

  /** A choice has changed: from the first page. */
  #show() {
    this.#page = 0;
    this.#sort();
    this.#draw();
  }

  /** Whether a worker that is wrong is not where it is seen. */
  #hidesWrongOnes() {
    const wrong = [...this.#workers.values()].filter(
      (worker) => this.#isWanted(worker) && STATE_RANKS[worker.state] === 0,
    );
    const head = new Set(this.#order.slice(0, wrong.length));
    return wrong.some(({ name }) => !head.has(name));
  }

  /** Leaves everything where it is: those that are new come last. */
  #keepOrder() {
    const wanted = new Set(
      [...this.#workers.values()].filter((worker) => this.#isWanted(worker)).map(({ name }) => name),
    );
    const kept = this.#order.filter((name) => wanted.delete(name));
    this.#order = [...kept, ...wanted];
  }

  /** @param {Worker} worker */
  #isWanted(worker) {
    if (this.#group?.has(worker) !== true) return false;
    if (this.#text === "") return true;
    return [worker.name, worker.provider, ...this.#namesOf(worker)].some((word) =>
      word.toLowerCase().includes(this.#text),
    );
  }

  /** @param {Worker} worker */
  #namesOf({ nodes }) {
    return nodes.map((id) => this.#nodeNames.get(id) ?? id);
  }

  #sort() {
    const { by } = this.#column;
    const sign = this.#descending ? -1 : 1;
    const wanted = [...this.#workers.values()].filter((worker) => this.#isWanted(worker));
    wanted.sort((a, b) => {
      const [left, right] = [by(a), by(b)];
      if (typeof left === "number" && typeof right === "number" && left !== right) return (left - right) * sign;
      return BY_NAME.compare(a.name, b.name) * (typeof left === "string" ? sign : 1);
    });
    this.#order = wanted.map(({ name }) => name);
    this.#orderedAtMs = performance.now();
  }

  #draw() {
    const pages = Math.max(1, Math.ceil(this.#order.length / ROWS_MAX));
    this.#page = Math.max(0, Math.min(this.#page, pages - 1));
    const from = this.#page * ROWS_MAX;
    const names = this.#order.slice(from, from + ROWS_MAX);
    const shown = new Set(names);
    for (const name of this.#rows.keys()) if (!shown.has(name)) this.#rows.delete(name);
    const rows = names.map((name) => this.#row(/** @type {Worker} */ (this.#workers.get(name))));
    arrange(this.#body, rows);
    const empty = find("workers-empty");
    empty.hidden = rows.length > 0;
    say(empty, this.#workers.size === 0 ? "There are no workers yet: add one." : "No worker is like that.");
    find("worker-pages").hidden = pages === 1;
    say(find("worker-range"), `${count(from + 1)}–${count(from + names.length)} of ${count(this.#order.length)}`);
    const [back, on] = /** @type {HTMLButtonElement[]} */ ([...find("worker-pages").querySelectorAll("button")]);
    if (back !== undefined) back.disabled = this.#page === 0;
    if (on !== undefined) on.disabled = this.#page === pages - 1;
  }

  /** @param {Worker} worker */
  #row(worker) {
    let known = this.#rows.get(worker.name);
    if (known === undefined) {
      const cells = COLUMNS.map(({ name, title }) =>
        element("td", { role: "cell", class: `cell-${name}`, "data-title": title }),
      );
      const actions = element("td", { role: "cell", class: "cell-actions" });
      known = { row: element("tr", { role: "row", "data-worker": worker.name }, ...cells, actions), cells, actions };
      this.#rows.set(worker.name, known);
    }
    const { row, cells, actions } = known;
    row.dataset["state"] = worker.state;
    const nodeNames = this.#namesOf(worker);
    for (const [index, { write }] of COLUMNS.entries()) {
      write(/** @type {HTMLElement} */ (cells[index]), worker, nodeNames);
    }
    writeActions(actions, worker);
    return row;
  }

  /** @param {Column} column */
  #head(column) {
    const button = element("button", { type: "button", title: column.hint }, column.title);
    const head = element("th", { role: "columnheader", scope: "col", class: `cell-${column.name}` }, button);
    if (column === this.#column) head.setAttribute("aria-sort", "ascending");
    button.addEventListener("click", () => {
      this.#descending = this.#column === column ? !this.#descending : column.descending === true;
      this.#column = column;
      for (const other of this.#heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", this.#descending ? "descending" : "ascending");
      this.#show();
    });
    return head;
  }

  /** @param {typeof GROUPS[number]} group */
  #chip(group) {
    const number = element("span", { class: "chip-number" }, "0");
    const button = element(
      "button",
      { type: "button", class: "chip", "data-group": group.name, "aria-pressed": group === this.#group },
      number,
      ` ${group.word}`,
    );
    button.setAttribute("aria-pressed", String(group === this.#group));
    button.addEventListener("click", () => {
      this.#group = group;
      for (const other of this.#chips) other.button.setAttribute("aria-pressed", String(other.group === group));
      this.#show();
    });
    return { group, button, number };
  }
}

/**
 * @param {HTMLElement} cell
 * @param {Worker} worker
 */
function writeActions(cell, { name, state, added }) {
  /** @type {WorkerAction[]} */
  const wanted =
    state === "lost"
      ? []
      : [state === "draining" ? "undrain" : "drain", ...(added ? [/** @type {const} */ ("remove")] : [])];
  if (cell.dataset["actions"] === wanted.join()) return;
  cell.dataset["actions"] = wanted.join();
  const words = { drain: "Drain", undrain: "Undrain", remove: "Remove" };
  const buttons = wanted.map((action) => {
    const button = element("button", { type: "button", class: "quiet small", "data-action": action }, words[action]);
    button.setAttribute("aria-label", `${words[action]} ${name}`);
    return button;
  });
  const hadFocus = cell.contains(document.activeElement);
  cell.replaceChildren(...buttons);
  if (hadFocus) buttons[0]?.focus();
}
