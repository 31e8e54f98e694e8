/** The connection to /api/live: read over fetch, which can carry a key, and taken up again whenever it is lost. */
import { ask, GatewayError, readEvents } from "./gateway.js";

const RETRY_FIRST_MS = 500;
const RETRY_MAX_MS = 8_000;
const RETRY_ENDED_MS = 100;
/** Something comes every second; a connection that says nothing for so long is dead, whatever the network believes. */
const SILENCE_MAX_MS = 6_000;

/**
 * `refused`: the gateway wants a key, or another one; the feed waits for {@link Feed.restart}.
 * @typedef {"waiting" | "live" | "lost" | "refused"} Connection
 */

/**
 * @typedef {object} Listener
 * @property {(message: any) => void} onState told each message
 * @property {(connection: Connection, error?: GatewayError) => void} onConnection
 */

/** One page's connection. */
export class Feed {
  /** @type {Listener} */
  #listener;
  #retryMs = RETRY_FIRST_MS;
  #connection = new AbortController();
  #timer = 0;

  /** @param {Listener} listener */
  constructor(listener) {
    this.#listener = listener;
  }

  /** Connects anew, and at once. */
  restart() {
    clearTimeout(this.#timer);
    this.#connection.abort();
    this.#connection = new AbortController();
    this.#retryMs = RETRY_FIRST_MS;
    void this.#connect(this.#connection);
  }

  /** Lets go of the connection until {@link Feed.restart}. */
  pause() {
    clearTimeout(this.#timer);
    this.#connection.abort();
    this.#connection = new AbortController();
    this.#listener.onConnection("waiting");
  }

  /** @param {AbortController} connection */
  async #connect(connection) {
    const { signal } = connection;
    let silence = 0;
    const heard = () => {
      clearTimeout(silence);
      silence = setTimeout(() => connection.abort(), SILENCE_MAX_MS);
    };
    /** @type {GatewayError | undefined} */
    let failure;
    let first = true;
    let ended = false;
    try {
      heard();
      const response = await ask("/api/live", { headers: { accept: "text/event-stream" }, signal });
      for await (const { event, data } of readEvents(response)) {
        heard();
        if (signal.aborted) break;
        if (event !== "state") continue;
        this.#retryMs = RETRY_FIRST_MS;
        if (first) this.#listener.onConnection("live");
        this.#listener.onState(JSON.parse(data));
        first = false;
      }
      ended = !first;
    } catch (thrown) {
      if (thrown instanceof GatewayError) failure = thrown;
    } finally {
      clearTimeout(silence);
    }
    // It was restarted meanwhile: somebody else connects.
    if (connection !== this.#connection) return;
    if (failure?.status === 401 || failure?.status === 403) {
      this.#listener.onConnection("refused", failure);
      return;
    }
    this.#connection = new AbortController();
    const next = this.#connection;
    // The gateway ends what has been open for long, or stops: if there is another one, nobody has to notice.
    if (ended) {
      this.#timer = setTimeout(() => void this.#connect(next), RETRY_ENDED_MS);
      return;
    }
    this.#listener.onConnection("lost", failure);
    // Pages that were cut off together do not come back together.
    this.#timer = setTimeout(() => void this.#connect(next), this.#retryMs * (0.75 + Math.random() / 2));
    this.#retryMs = Math.min(this.#retryMs * 2, RETRY_MAX_MS);
  }
}
