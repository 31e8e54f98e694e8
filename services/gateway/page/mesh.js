/** What this page knows of the mesh, put together from the messages of /api/live: the contract's WatchResponse as JSON. */

/**
 * Where a worker stands. `lost`: the nodes that ran it are gone.
 * @typedef {"available" | "busy" | "draining" | "unavailable" | "lost"} WorkerState
 */

/**
 * @typedef {object} Worker
 * @property {string} name
 * @property {string} provider
 * @property {WorkerState} state
 * @property {string} breaker
 * @property {number} activeRequests
 * @property {number} concurrentRequestsMax 0 without a limit
 * @property {number} priority
 * @property {readonly string[]} nodes
 * @property {boolean} simulated
 * @property {boolean} added it can be removed
 * @property {number} score
 * @property {number} attempts
 * @property {number} errors
 * @property {number} p95Ms
 * @property {number} tokensPerSecond
 * @property {number} models
 */

/**
 * @typedef {object} Latency
 * @property {number} count
 * @property {number} p50Ms
 * @property {number} p95Ms
 */

/**
 * @typedef {object} Rates
 * @property {number} requestsPerSecond
 * @property {number} errorsPerSecond
 * @property {number} outputTokensPerSecond
 * @property {number} hitRate
 * @property {number} activeRequests
 * @property {Latency} duration
 * @property {Latency} timeToFirstToken
 */

/**
 * @typedef {object} MeshNode
 * @property {string} id
 * @property {string} name
 * @property {readonly string[]} services
 * @property {boolean} draining
 * @property {number} callsInFlight
 * @property {number} eventLoopDelayMs
 * @property {readonly string[]} problems
 */

/** @typedef {{ readonly atMs: number, readonly kind: string, readonly tone: string, readonly sentence: string, readonly traceId: string }} Happening */

/** How long a worker is shown after it has gone, so that somebody who looks away does not miss it. */
const LOST_MS = 60_000;

/** The mesh as it is now. */
export class Mesh {
  /** @type {Map<string, Worker>} */
  workers = new Map();
  /** @type {readonly MeshNode[]} */
  nodes = [];
  /** @type {Rates} */
  rates = ratesOf(undefined);
  /** The models asked for most, with how often. @type {readonly { readonly name: string, readonly requests: number }[]} */
  mostUsed = [];
  /** The mesh's clock at the last message. */
  atMs = 0;
  eventsLost = 0;
  /** When each worker that is gone was seen to be. @type {Map<string, number>} */
  #lostAtMs = new Map();
  /** Workers that were removed here, and so are not lost. @type {Set<string>} */
  #removed = new Set();

  /**
   * Takes in one message; returns what has happened. The first one of a connection names all workers: those that it does not
   * name are gone.
   * @param {any} message
   * @param {boolean} first
   * @returns {readonly Happening[]}
   */
  apply(message, first) {
    this.atMs = number(message.atMs);
    this.eventsLost = number(message.eventsLost);
    this.rates = ratesOf(message.rates);
    const workers = (message.workers ?? []).map(workerOf);
    const named = new Set(workers.map((/** @type {Worker} */ { name }) => name));
    const gone = first ? [...this.workers.keys()].filter((name) => !named.has(name)) : (message.gone ?? []);
    for (const name of gone) this.#lose(name);
    for (const worker of workers) {
      this.workers.set(worker.name, worker);
      this.#lostAtMs.delete(worker.name);
      this.#removed.delete(worker.name);
    }
    this.#forget();
    if (first || (message.nodes ?? []).length > 0) this.nodes = (message.nodes ?? []).map(nodeOf);
    this.mostUsed = (message.mostUsed ?? []).map((/** @type {any} */ { name, figures }) => ({
      name: String(name ?? ""),
      requests: number(figures?.requests),
    }));
    return (message.happenings ?? []).map(happeningOf);
  }

  /**
   * Says that somebody takes this worker away here.
   * @param {string} name
   */
  expectRemoval(name) {
    this.#removed.add(name);
  }

  /** @param {string} name */
  #lose(name) {
    const worker = this.workers.get(name);
    if (worker === undefined || worker.state === "lost") return;
    if (this.#removed.delete(name)) {
      this.workers.delete(name);
      return;
    }
    this.workers.set(name, { ...worker, state: "lost", activeRequests: 0, nodes: [] });
    this.#lostAtMs.set(name, performance.now());
  }

  #forget() {
    for (const [name, lostAtMs] of this.#lostAtMs) {
      if (performance.now() - lostAtMs < LOST_MS) continue;
      this.#lostAtMs.delete(name);
      this.workers.delete(name);
    }
  }
}

// JSON of the contracts leaves out what is 0, empty or false, and writes large whole numbers as text.

/** @param {any} value */
function number(value) {
  return Number(value ?? 0);
}

/**
 * @param {any} latency
 * @returns {Latency}
 */
export function latencyOf(latency) {
  return { count: number(latency?.count), p50Ms: number(latency?.p50Ms), p95Ms: number(latency?.p95Ms) };
}

/**
 * @param {any} rates
 * @returns {Rates}
 */
function ratesOf(rates) {
  return {
    requestsPerSecond: number(rates?.requestsPerSecond),
    errorsPerSecond: number(rates?.errorsPerSecond),
    outputTokensPerSecond: number(rates?.outputTokensPerSecond),
    hitRate: number(rates?.hitRate),
    activeRequests: number(rates?.activeRequests),
    duration: latencyOf(rates?.duration),
    timeToFirstToken: latencyOf(rates?.timeToFirstToken),
  };
}

/**
 * @param {any} worker
 * @returns {Worker}
 */
function workerOf(worker) {
  return {
    name: String(worker.name ?? ""),
    provider: String(worker.provider ?? ""),
    state: worker.state ?? "unavailable",
    breaker: worker.breaker ?? "closed",
    activeRequests: number(worker.activeRequests),
    concurrentRequestsMax: number(worker.concurrentRequestsMax),
    priority: number(worker.priority),
    nodes: worker.nodes ?? [],
    simulated: worker.simulated === true,
    added: worker.added === true,
    score: number(worker.score),
    attempts: number(worker.attempts),
    errors: number(worker.errors),
    p95Ms: number(worker.p95Ms),
    tokensPerSecond: number(worker.tokensPerSecond),
    models: number(worker.models),
  };
}

/**
 * @param {any} node
 * @returns {MeshNode}
 */
function nodeOf(node) {
  return {
    id: String(node.id ?? ""),
    name: String(node.name || node.id || ""),
    services: node.services ?? [],
    draining: node.draining === true,
    callsInFlight: number(node.callsInFlight),
    eventLoopDelayMs: number(node.eventLoopDelayMs),
    problems: node.problems ?? [],
  };
}

/**
 * @param {any} happening
 * @returns {Happening}
 */
function happeningOf(happening) {
  return {
    atMs: number(happening.atMs),
    kind: String(happening.kind ?? ""),
    tone: happening.tone === "good" || happening.tone === "bad" ? happening.tone : "plain",
    sentence: String(happening.sentence ?? ""),
    traceId: String(happening.traceId ?? ""),
  };
}
