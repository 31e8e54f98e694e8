/**
 * A worker's connections to its provider, and the exchange of one request and one answer over one of them.
 *
 * Of undici this uses Pool.dispatch, not Pool.request: with the body as a Readable a token costs half as much again, a
 * request that waits for a connection can't be given up before it gets one, and nobody tells when it got it. The queue for
 * connections is therefore ours: undici is never given more requests than it may open connections.
 */

import type { IncomingHttpHeaders } from "node:http";
import { type Dispatcher, Pool } from "undici";
import { TransientSet } from "../collections/index.ts";
import type { PoolStatistics } from "../gen/cortex/provider/v1/provider.ts";
import type { RpcError } from "../rpc/index.ts";
import type { Timeouts } from "./dialect.ts";
import { failure, fromConnectionError } from "./failures.ts";
import { type Limit, TimeLimit } from "./time-limit.ts";

/** How many requests may wait for a connection. */
export const WAITING_MAX = 1_000;

/** How long the body of an error may take once its head has come. */
const ERROR_BODY_MS = 5_000;

/** How long a connection may stay open after a complete message before the message counts as ended all the same. */
const LINGER_MS = 1_000;

/** What is sent. */
export interface HttpRequest {
  readonly method: "GET" | "POST";
  readonly path: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body?: string | undefined;
}

/** Takes what comes back. After `onEnd` or `onError`, one of which comes once, nothing comes any more. */
export interface Receiver {
  onHead(status: number, headers: IncomingHttpHeaders): void;
  onData(bytes: Buffer): void;
  /** The body is whole. */
  onEnd(): void;
  onError(error: RpcError): void;
}

interface PoolOptions {
  readonly baseUrl: URL;
  readonly connections: number;
  readonly keepAliveMs: number;
  readonly timeouts: Timeouts;
}

export class ConnectionPool {
  readonly options: PoolOptions;
  /** Host and port, for the log. */
  readonly authority: string;
  readonly #undici: Pool;
  readonly #waiting = new TransientSet<Exchange>();
  #taken = 0;

  constructor(options: PoolOptions) {
    this.options = options;
    const { hostname, port, protocol } = options.baseUrl;
    this.authority = `${hostname}:${port || (protocol === "https:" ? 443 : 80)}`;
    this.#undici = new Pool(options.baseUrl.origin, {
      // With HTTP/2 a pool would be one connection, and one stalled connection would stall every stream.
      allowH2: false,
      connections: options.connections,
      pipelining: 1,
      keepAliveTimeout: options.keepAliveMs,
      connectTimeout: options.timeouts.connectMs,
      // Exchange has its own, which tell the first token from the next and name the limit.
      headersTimeout: 0,
      bodyTimeout: 0,
    });
  }

  /** Every connection serves a request. */
  get exhausted(): boolean {
    return this.#taken >= this.options.connections;
  }

  /** Sends a request as soon as a connection is free. */
  send(request: HttpRequest, receiver: Receiver, timeouts: Timeouts = this.options.timeouts): Exchange {
    const exchange = new Exchange(this, request, receiver, timeouts);
    if (!this.exhausted) {
      this.#taken += 1;
      exchange.dispatch(this.#undici);
    } else if (this.#waiting.size < WAITING_MAX) {
      this.#waiting.add(exchange);
      exchange.wait();
    } else {
      const message = `${WAITING_MAX} requests wait for a connection already`;
      // Not before the caller has the exchange.
      queueMicrotask(() => exchange.abort(failure("WORKER_BUSY", message)));
    }
    return exchange;
  }

  statistics(): PoolStatistics {
    const { connected, free, running, pending, queued } = this.#undici.stats;
    return {
      size: this.options.connections,
      connected,
      free,
      running,
      // undici counts the queued among the pending.
      pending: pending - queued,
      queued: queued + this.#waiting.size,
    };
  }

  /** Closes every connection. The exchanges have ended before. */
  close(): Promise<void> {
    return this.#undici.destroy();
  }

  /** Takes an exchange out of the queue. For exchanges only. */
  leave(exchange: Exchange): boolean {
    return this.#waiting.delete(exchange);
  }

  /** A connection is free again. For exchanges only. */
  give(): void {
    const [next] = this.#waiting;
    if (next === undefined) {
      this.#taken -= 1;
      return;
    }
    this.#waiting.delete(next);
    next.dispatch(this.#undici);
  }
}

/** One request and its answer. Ends by itself within its time-outs, or by `abort` or `finish`. */
export class Exchange implements Dispatcher.DispatchHandler {
  readonly #pool: ConnectionPool;
  readonly #request: HttpRequest;
  readonly #receiver: Receiver;
  readonly #timeouts: Timeouts;
  readonly #limit: TimeLimit;
  #controller: Dispatcher.DispatchController | undefined;
  #begun = false;
  #ended = false;
  #released = false;
  #paused = false;

  constructor(pool: ConnectionPool, request: HttpRequest, receiver: Receiver, timeouts: Timeouts) {
    this.#pool = pool;
    this.#request = request;
    this.#receiver = receiver;
    this.#timeouts = timeouts;
    this.#limit = new TimeLimit(timeouts.totalMs, (limit, limitMs) => this.#passed(limit, limitMs));
  }

  /** For the pool, when it has no connection for it yet. */
  wait(): void {
    this.#limit.enter("pool", this.#timeouts.poolMs);
  }

  /** For the pool, when it has a connection for it. */
  dispatch(undici: Pool): void {
    this.#limit.enter("connect", this.#timeouts.connectMs);
    undici.dispatch({ ...this.#request, body: this.#request.body ?? null }, this);
  }

  /** The first content has come: from now on the stall time-out counts. */
  contentBegan(): void {
    if (!this.#ended) this.#limit.enter("stall", this.#timeouts.stallMs);
  }

  /** Something has come. */
  touch(): void {
    if (!this.#ended) this.#limit.touch();
  }

  /** The message is complete, so the body has to end soon. */
  messageComplete(): void {
    if (!this.#ended) this.#limit.enter("linger", LINGER_MS);
  }

  /** The answer is an error: its body is not worth waiting long for. */
  expectErrorBody(): void {
    if (!this.#ended) this.#limit.enter("errorBody", ERROR_BODY_MS);
  }

  pause(): void {
    if (this.#ended || this.#paused) return;
    this.#paused = true;
    this.#limit.hold();
    this.#controller?.pause();
  }

  resume(): void {
    if (this.#ended || !this.#paused) return;
    this.#paused = false;
    this.#limit.release();
    this.#controller?.resume();
  }

  /** Gives up: closes the connection at once and tells the receiver `error`. */
  abort(error: RpcError): void {
    if (this.#ended) return;
    this.#close(error);
    this.#receiver.onError(error);
  }

  /** The receiver has what it wants: closes the connection at once, and tells it nothing. */
  finish(): void {
    if (!this.#ended) this.#close(new Error("finished"));
  }

  onRequestStart(controller: Dispatcher.DispatchController): void {
    // Given up while it connected. undici takes what is thrown for the request's failure and keeps the connection.
    if (this.#ended) throw new Error("given up");
    this.#controller = controller;
    this.#limit.enter("firstToken", this.#timeouts.firstTokenMs);
  }

  onResponseStart(_controller: Dispatcher.DispatchController, status: number, headers: IncomingHttpHeaders): void {
    if (this.#ended || status < 200) return;
    this.#begun = true;
    this.#receiver.onHead(status, headers);
  }

  onResponseData(_controller: Dispatcher.DispatchController, bytes: Buffer): void {
    if (this.#ended) return;
    this.#receiver.onData(bytes);
  }

  onResponseEnd(): void {
    this.#release();
    if (this.#ended) return;
    this.#end();
    this.#receiver.onEnd();
  }

  onResponseError(_controller: Dispatcher.DispatchController | null, error: Error): void {
    this.#release();
    if (this.#ended) return;
    this.#end();
    const { authority } = this.#pool;
    this.#receiver.onError(fromConnectionError(error, { authority, begun: this.#begun }));
  }

  /** undici has done with it, so the connection is free or gone. */
  #release(): void {
    if (this.#released) return;
    this.#released = true;
    this.#pool.give();
  }

  #end(): void {
    this.#ended = true;
    this.#limit.clear();
  }

  #close(reason: Error): void {
    this.#end();
    // Waiting: undici doesn't know it yet. Connecting: onRequestStart refuses. Else the connection is closed.
    if (!this.#pool.leave(this)) this.#controller?.abort(reason);
  }

  #passed(limit: Limit, limitMs: number): void {
    this.abort(this.#timeout(limit, limitMs));
  }

  #timeout(limit: Limit, limitMs: number): RpcError {
    if (limit === "total" && this.#paused) {
      return failure("DEADLINE_EXCEEDED", `the answer was not taken within ${limitMs} ms (timeouts.totalMs)`);
    }
    const unconnected = (who: string) => `no connection to ${who} within ${limitMs} ms (timeouts.connectMs)`;
    switch (limit) {
      case "pool":
        return failure("WORKER_BUSY", `no connection became free within ${limitMs} ms (timeouts.poolMs)`);
      case "connect":
        return failure("PROVIDER_TIMEOUT", unconnected("the provider"), { forLog: unconnected(this.#pool.authority) });
      case "firstToken":
        return failure("PROVIDER_TIMEOUT", `no content within ${limitMs} ms (timeouts.firstTokenMs)`);
      case "total":
        return failure("PROVIDER_TIMEOUT", `not finished within ${limitMs} ms (timeouts.totalMs)`);
      case "stall":
        return failure("PROVIDER_TIMEOUT", `nothing came for ${limitMs} ms (timeouts.stallMs)`);
      case "errorBody":
      case "linger":
        return failure("PROVIDER_TIMEOUT", `the body did not end within ${limitMs} ms`);
    }
  }
}
