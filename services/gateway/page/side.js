/** What stands beside the workers: what happens, which models are used, the nodes, and where requests go at the moment. */
import { arrange, copyButton, element, find, say } from "./document.js";
import { bytes, clock, count, milliseconds, percent, some } from "./format.js";
import { STATE_WORDS } from "./workers.js";

/** @typedef {import("./mesh.js").Mesh} Mesh */
/** @typedef {import("./mesh.js").Worker} Worker */

const HAPPENINGS_MAX = 80;
const USED_MAX = 8;
const NODES_MAX = 40;
const MOVING_MAX = 12;

/**
 * Puts what has happened on top of what has happened before.
 * @param {readonly import("./mesh.js").Happening[]} happenings oldest first
 * @param {boolean} whole nothing that was told before holds: these are all
 */
export function tellHappenings(happenings, whole) {
  if (happenings.length === 0) return;
  const list = find("happenings");
  // What has long happened is not read out.
  list.setAttribute("aria-live", whole ? "off" : "polite");
  if (whole) list.replaceChildren();
  const made = happenings.slice(-HAPPENINGS_MAX).map(({ atMs, kind, tone, sentence, traceId }) => {
    const line = element(
      "li",
      { "data-tone": tone, "data-kind": kind },
      element("time", { datetime: new Date(atMs).toISOString() }, clock(atMs)),
      element("span", { class: "tone", "aria-hidden": true }),
      element("span", { class: "sentence" }, sentence),
    );
    if (traceId !== "") line.append(copyButton(`trace ${traceId.slice(0, 8)}`, traceId, "the trace id"));
    return line;
  });
  list.prepend(...made.reverse());
  while (list.children.length > HAPPENINGS_MAX) list.lastElementChild?.remove();
  find("happenings-empty").hidden = true;
}

/** Lines that stay the elements they are, one for each name. */
class Lines {
  /** @type {Map<string, HTMLElement>} */
  #lines = new Map();
  #list;

  /** @param {string} id */
  constructor(id) {
    this.#list = find(id);
  }

  /**
   * @template T
   * @param {readonly T[]} things
   * @param {(thing: T) => string} nameOf
   * @param {() => HTMLElement} make
   * @param {(line: HTMLElement, thing: T) => void} write
   */
  show(things, nameOf, make, write) {
    const names = new Set(things.map(nameOf));
    for (const name of this.#lines.keys()) if (!names.has(name)) this.#lines.delete(name);
    arrange(
      this.#list,
      things.map((thing) => {
        const line = this.#lines.get(nameOf(thing)) ?? make();
        this.#lines.set(nameOf(thing), line);
        write(line, thing);
        return line;
      }),
    );
  }
}

/**
 * @param {HTMLElement} line
 * @param {string} name
 */
function part(line, name) {
  return /** @type {HTMLElement} */ (line.querySelector(`.${name}`));
}

/** Most used models, nodes, and where requests go. */
export class Side {
  #used = new Lines("used");
  #nodes = new Lines("nodes");
  #moving = new Lines("moving");

  /** @param {Mesh} mesh */
  update({ mostUsed, nodes, workers }) {
    const used = mostUsed.slice(0, USED_MAX);
    const most = Math.max(...used.map(({ requests }) => requests), 1);
    this.#used.show(
      used,
      ({ name }) => name,
      () =>
        element(
          "li",
          {},
          element("span", { class: "bar-name" }),
          element("span", { class: "bar-number" }),
          element("span", { class: "meter", "aria-hidden": true }),
        ),
      (line, { name, requests }) => {
        say(part(line, "bar-name"), name);
        say(part(line, "bar-number"), count(requests));
        part(line, "meter").style.setProperty("--part", String(requests / most));
      },
    );
    find("used-empty").hidden = used.length > 0;
    this.#nodes.show(nodes.slice(0, NODES_MAX), ({ id }) => id, makeNode, writeNode);
    say(find("nodes-title"), nodes.length === 0 ? "Nodes" : `Nodes · ${count(nodes.length)}`);
    this.#showMoving(workers);
  }

  /**
   * The workers that serve now, and those that could.
   * @param {ReadonlyMap<string, Worker>} workers
   */
  #showMoving(workers) {
    const first = [...workers.values()].sort(
      (a, b) => b.activeRequests - a.activeRequests || b.attempts - a.attempts || (a.name < b.name ? -1 : 1),
    );
    const shown = first.slice(0, MOVING_MAX).sort((a, b) => (a.name < b.name ? -1 : 1));
    this.#moving.show(
      shown,
      ({ name }) => name,
      () =>
        element(
          "li",
          {},
          element("span", { class: "mark", "aria-hidden": true }),
          element("span", { class: "moving-name" }),
          element("span", { class: "moving-word" }),
          element("span", { class: "moving-number" }),
        ),
      (line, { name, state, activeRequests }) => {
        line.dataset["state"] = state;
        line.dataset["moving"] = name;
        line.classList.toggle("is-serving", activeRequests > 0);
        part(line, "mark").dataset["state"] = state;
        say(part(line, "moving-name"), name);
        say(part(line, "moving-word"), STATE_WORDS[state]);
        say(part(line, "moving-number"), activeRequests === 0 ? "" : count(activeRequests));
      },
    );
  }

  /**
   * Marks the worker that has served last.
   * @param {string} name
   */
  markServed(name) {
    for (const line of find("moving").children)
      line.classList.toggle("has-served", /** @type {HTMLElement} */ (line).dataset["moving"] === name);
  }
}

function makeNode() {
  return element(
    "li",
    {},
    element("span", { class: "mark", "aria-hidden": true }),
    element("span", { class: "node-name" }),
    element("span", { class: "node-load" }),
    element("span", { class: "node-services" }),
    element("span", { class: "node-problems" }),
  );
}

/**
 * @param {HTMLElement} line
 * @param {import("./mesh.js").MeshNode} node
 */
function writeNode(line, node) {
  const { id, name, services, draining, problems } = node;
  line.title = [id, node.version, node.zone].filter((word) => word !== "").join(" · ");
  part(line, "mark").dataset["state"] = draining ? "draining" : problems.length > 0 ? "busy" : "available";
  say(part(line, "node-name"), draining ? `${name} (draining)` : name);
  const load = [
    some(node.callsInFlight, "call"),
    `CPU ${percent(node.eventLoopUtilization)}`,
    `delay ${milliseconds(node.eventLoopDelayMs)}`,
    ...(node.rssBytes === 0 ? [] : [bytes(node.rssBytes)]),
  ];
  say(part(line, "node-load"), load.join(" · "));
  say(part(line, "node-services"), services.join(", "));
  say(part(line, "node-problems"), problems.join("; "));
}
