/** What this page knows of the mesh, put together from the messages of /api/live: the contract's WatchResponse as JSON. */

/**
 * Where a worker stands. `lost`: unavailable, as the nodes that ran it are gone.
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
 * @property {readonly string[]} nodes their ids
 * @property {boolean} simulated
 * @property {boolean} added it can be removed
 * @property {number} score
 * @property {number} attempts
 * @property {number} errors
 * @property {number} p95Ms
 * @property {number} tokensPerSecond
 * @property {number} models
 * @property {string} trouble why it can't serve, or has no room; empty while it serves
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
 * @property {string} version
 * @property {string} zone
 * @property {number} eventLoopDelayMs
 * @property {number} eventLoopUtilization from 0 to 1
 * @property {number} rssBytes
 * @property {readonly string[]} problems
 */

/** @typedef {{ readonly atMs: number, readonly kind: string, readonly tone: string, readonly sentence: string, readonly traceId: string }} Happening */

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

  /**
   * Takes in one message; returns what has happened. A message may be whole: what it does not name is gone.
   * @param {any} message
   * @returns {{ readonly happenings: readonly Happening[], readonly whole: boolean }}
   */
  apply(message) {
    const whole = message.whole === true;
    this.atMs = number(message.atMs);
    this.eventsLost = number(message.eventsLost);
    this.rates = ratesOf(message.rates);
    const workers = (message.workers ?? []).map(workerOf);
    if (whole) this.workers.clear();
    for (const name of message.gone ?? []) this.workers.delete(name);
    for (const worker of workers) this.workers.set(worker.name, worker);
    if (whole || (message.nodes ?? []).length > 0) this.nodes = (message.nodes ?? []).map(nodeOf);
    this.mostUsed = (message.mostUsed ?? []).map((/** @type {any} */ { name, figures }) => ({
      name: String(name ?? ""),
      requests: number(figures?.requests),
    }));
    return { happenings: (message.happenings ?? []).map(happeningOf), whole };
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
  const nodes = worker.nodes ?? [];
  const state = worker.state ?? "unavailable";
  return {
    name: String(worker.name ?? ""),
    provider: String(worker.provider ?? ""),
    state: state === "unavailable" && nodes.length === 0 ? "lost" : state,
    breaker: worker.breaker ?? "closed",
    activeRequests: number(worker.activeRequests),
    concurrentRequestsMax: number(worker.concurrentRequestsMax),
    priority: number(worker.priority),
    nodes,
    simulated: worker.simulated === true,
    added: worker.added === true,
    score: number(worker.score),
    attempts: number(worker.attempts),
    errors: number(worker.errors),
    p95Ms: number(worker.p95Ms),
    tokensPerSecond: number(worker.tokensPerSecond),
    models: number(worker.models),
    trouble: [worker.reason, worker.message].filter(Boolean).join(": "),
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
    version: String(node.version ?? ""),
    zone: String(node.zone ?? ""),
    eventLoopDelayMs: number(node.eventLoopDelayMs),
    eventLoopUtilization: number(node.eventLoopUtilization),
    rssBytes: number(node.rssBytes),
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
