/**
 * Hands on what the metrics service tells of the mesh to all pages that are open: one watch for all of them, and each message put
 * into words once. A new page is told everything at once; one that is slow skips messages, and is told everything when it has
 * room again. Nothing waits for it here.
 */

import type { ServerResponse } from "node:http";
import { setTimeout as pause } from "node:timers/promises";
import type {
  Happening,
  MetricsServiceDefinition,
  WatchedNode,
  WatchedWorker,
  WatchResponse,
} from "../../libs/gen/cortex/metrics/v1/metrics.ts";
import { RpcError, type Service, startCall } from "../../libs/rpc/index.ts";
import { type Logger, NO_TRACE } from "../../libs/telemetry/index.ts";

const INTERVAL_MS = 1_000;
/** How many pages may be open at once. */
const PAGES_MAX = 200;
/** How long a page that is opened first may have to wait for the first message. */
const FIRST_MESSAGE_MS = 3_000;
const RETRY_MIN_MS = 200;
const RETRY_MAX_MS = 5_000;
/** After the last page has been closed the watch goes on for a while: a page that is loaded anew needs it again. */
const LINGER_MS = 5_000;
const HAPPENINGS_MAX = 50;

interface LiveOptions {
  readonly metrics: () => Service<typeof MetricsServiceDefinition>;
  readonly log: Logger;
}

interface Page {
  readonly response: ServerResponse;
  /** It has missed messages, or not had any. */
  behind: boolean;
  readonly end: () => void;
}

/** The pages that are open, and what they are told. */
export class LiveRelay {
  readonly #options: LiveOptions;
  readonly #pages = new Set<Page>();
  /** Those that wait for the first message. */
  readonly #waiting = new Set<{ readonly told: () => void; readonly failed: (error: RpcError) => void }>();
  readonly #workers = new Map<string, WatchedWorker>();
  #nodes: readonly WatchedNode[] = [];
  #happenings: readonly Happening[] = [];
  /** The newest message; undefined while nothing is known. */
  #last: WatchResponse | undefined;
  #watching: AbortController | undefined;
  #lingering: NodeJS.Timeout | undefined;
  #closed = false;

  constructor(options: LiveOptions) {
    this.#options = options;
  }

  /**
   * Tells a page what there is, and what comes, until it or the gateway goes. Rejects, before anything was written, when nobody
   * can tell anything.
   */
  async serve(response: ServerResponse, signal: AbortSignal): Promise<void> {
    if (this.#closed) throw new RpcError("NODE_DRAINING", "the gateway is about to stop");
    if (this.#pages.size + this.#waiting.size >= PAGES_MAX) {
      throw new RpcError("OVERLOADED", `${PAGES_MAX} pages are open already`, { retryAfterMs: 10_000 });
    }
    clearTimeout(this.#lingering);
    this.#watch();
    try {
      if (this.#last === undefined) await this.#firstMessage(signal);
      if (signal.aborted || this.#closed) return;
      await new Promise<void>((resolve) => {
        const page: Page = { response, behind: true, end: resolve };
        this.#pages.add(page);
        const leave = (): void => {
          this.#pages.delete(page);
          resolve();
        };
        signal.addEventListener("abort", leave, { once: true });
        response.writeHead(200, {
          "content-type": "text/event-stream; charset=utf-8",
          "cache-control": "no-store",
          "x-accel-buffering": "no",
        });
        this.#tell(page, "");
      });
      if (!response.destroyed) response.end();
    } finally {
      if (this.#pages.size + this.#waiting.size === 0) {
        this.#lingering = setTimeout(() => this.#unwatch(), LINGER_MS).unref();
      }
    }
  }

  /** The gateway stops: the pages go elsewhere, or wait for another one. */
  close(): void {
    this.#closed = true;
    clearTimeout(this.#lingering);
    this.#unwatch();
    for (const waiter of [...this.#waiting])
      waiter.failed(new RpcError("NODE_DRAINING", "the gateway is about to stop"));
    for (const page of [...this.#pages]) {
      this.#pages.delete(page);
      page.end();
    }
  }

  #firstMessage(signal: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      const settle = (): void => {
        clearTimeout(timer);
        this.#waiting.delete(waiter);
        signal.removeEventListener("abort", waiter.told);
      };
      const waiter = {
        told: () => {
          settle();
          resolve();
        },
        failed: (error: RpcError) => {
          settle();
          reject(error);
        },
      };
      const timer = setTimeout(() => {
        waiter.failed(new RpcError("NODE_UNREACHABLE", "the metrics service tells nothing now"));
      }, FIRST_MESSAGE_MS);
      this.#waiting.add(waiter);
      signal.addEventListener("abort", waiter.told, { once: true });
    });
  }

  #watch(): void {
    if (this.#watching !== undefined) return;
    const watching = new AbortController();
    this.#watching = watching;
    void this.#follow(watching.signal);
  }

  #unwatch(): void {
    this.#watching?.abort();
    this.#watching = undefined;
    this.#last = undefined;
  }

  async #follow(signal: AbortSignal): Promise<void> {
    let retryMs = RETRY_MIN_MS;
    while (!signal.aborted) {
      const call = startCall({ tenant: "", admin: true, requestId: "live page", trace: NO_TRACE });
      const cancel = (): void => call.cancel();
      signal.addEventListener("abort", cancel, { once: true });
      try {
        for await (const message of this.#options.metrics().watch({ intervalMs: INTERVAL_MS }, call)) {
          if (signal.aborted) return;
          retryMs = RETRY_MIN_MS;
          this.#take(message);
        }
      } catch (thrown) {
        if (signal.aborted) return;
        const error = RpcError.from(thrown);
        this.#options.log.debug({ err: error }, "the metrics service can't be watched; trying again");
        // Whoever has been told something waits for more; whoever has not need not wait in vain.
        for (const waiter of [...this.#waiting]) waiter.failed(error);
      } finally {
        signal.removeEventListener("abort", cancel);
        call.cancel();
        call.finish();
      }
      // What it said is old, and no page is begun with it.
      this.#last = undefined;
      await pause(retryMs, undefined, { signal }).catch(() => {});
      retryMs = Math.min(retryMs * 2, RETRY_MAX_MS);
    }
  }

  #take(message: WatchResponse): void {
    if (message.whole) {
      this.#workers.clear();
      this.#nodes = [];
      this.#happenings = [];
    }
    for (const name of message.gone) this.#workers.delete(name);
    for (const worker of message.workers) this.#workers.set(worker.name, worker);
    if (message.nodes.length > 0) this.#nodes = message.nodes;
    this.#happenings = [...this.#happenings, ...message.happenings].slice(-HAPPENINGS_MAX);
    this.#last = message;
    const text = eventOf(message);
    for (const page of this.#pages) this.#tell(page, text);
    for (const waiter of [...this.#waiting]) waiter.told();
  }

  /** Tells a page what is new, or everything, if it has room for anything. */
  #tell(page: Page, news: string): void {
    const { response } = page;
    if (response.writableNeedDrain) {
      page.behind = true;
      return;
    }
    if (page.behind && this.#last === undefined) return;
    response.write(page.behind ? this.#everything() : news);
    page.behind = false;
  }

  #everything(): string {
    const state = { workers: [...this.#workers.values()], nodes: this.#nodes, happenings: this.#happenings };
    return eventOf({ ...this.#last!, ...state, gone: [], whole: true });
  }
}

function eventOf({ mostUsed, ...message }: WatchResponse): string {
  // All of them are models.
  const models = mostUsed.map(({ name, figures }) => ({ name, figures }));
  return `event: state\ndata: ${JSON.stringify({ ...message, mostUsed: models })}\n\n`;
}
