/**
 * The stream of chunks that a worker hands out. Parts are pushed in as they are read from the provider; whatever has come
 * between two calls of `next` travels as one chunk. Written by hand rather than as a generator, because every token
 * passes through it.
 */
import type { Part } from "../gen/cortex/llm/v1/llm.ts";
import type { StreamResponse } from "../gen/cortex/provider/v1/provider.ts";
import { RpcError } from "../rpc/index.ts";

/** How much of the provider's bytes may wait for a slow consumer before its connection is paused. */
const WAITING_BYTES_MAX = 256 * 1024;

/** Where the parts come from. */
export interface PartSource {
  /** The consumer is slow: read no more for now. Bytes that are already on their way may still come. */
  pause(): void;
  resume(): void;
  /** The consumer wants no more. The stream has ended already. */
  cancel(): void;
}

type Result = IteratorResult<StreamResponse, undefined>;
const DONE: Result = { done: true, value: undefined };

export class PartStream implements AsyncIterableIterator<StreamResponse, undefined> {
  /** The next chunk. The source appends to it and then calls `flush`. */
  waiting: Part[] = [];
  /** The fingerprint of the key that was asked with: set before the first `flush`, said in the first chunk. */
  key = "";
  readonly #start: (stream: PartStream) => PartSource;
  #source: PartSource | undefined;
  #bytes = 0;
  #paused = false;
  /** Nothing more is taken in. */
  #ended = false;
  /** Nothing more is handed out. */
  #left = false;
  #failure: RpcError | undefined;
  #resolve: ((result: Result) => void) | undefined;
  #reject: ((error: RpcError) => void) | undefined;
  #pending: Promise<Result> | undefined;

  /** `start` is called for the first chunk, and not at all if nobody asks for one. What it throws fails the stream. */
  constructor(start: (stream: PartStream) => PartSource) {
    this.#start = start;
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  next(): Promise<Result> {
    if (this.#left) return Promise.resolve(DONE);
    if (this.#pending !== undefined) return this.#afterPending(this.#pending);
    if (this.waiting.length > 0) return Promise.resolve(this.#take());
    if (this.#failure !== undefined) {
      const failure = this.#failure;
      this.#failure = undefined;
      return Promise.reject(failure);
    }
    if (this.#ended) return Promise.resolve(DONE);
    const pending = new Promise<Result>((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    this.#pending = pending;
    if (this.#source === undefined) this.#begin();
    return pending;
  }

  return(): Promise<Result> {
    if (!this.#ended) {
      this.#ended = true;
      this.#settle()?.resolve(DONE);
      this.#source?.cancel();
    }
    this.#left = true;
    this.waiting = [];
    return Promise.resolve(DONE);
  }

  /** The parts in `waiting` may go. `bytes` is what the provider sent for those since the last flush. */
  flush(bytes: number): void {
    if (this.#ended || this.waiting.length === 0) return;
    if (this.#pending !== undefined) {
      this.#settle()?.resolve(this.#take());
      return;
    }
    this.#bytes += bytes;
    if (this.#bytes > WAITING_BYTES_MAX && !this.#paused) {
      this.#paused = true;
      this.#source?.pause();
    }
  }

  /** All has been said. What waits is still handed out. */
  end(): void {
    if (this.#ended) return;
    this.flush(0);
    this.#ended = true;
    this.#settle()?.resolve(DONE);
  }

  /** It went wrong. What waits is handed out before the error. */
  fail(error: RpcError): void {
    if (this.#ended) return;
    this.flush(0);
    this.#ended = true;
    const pending = this.#settle();
    if (pending === undefined) this.#failure = error;
    else pending.reject(error);
  }

  #begin(): void {
    try {
      const source = this.#start(this);
      this.#source = source;
      // Ended or left while it began.
      if (this.#ended) source.cancel();
    } catch (thrown) {
      this.fail(RpcError.from(thrown));
    }
  }

  #take(): Result {
    const value: StreamResponse = { parts: this.waiting, key: this.key };
    this.waiting = [];
    this.key = "";
    this.#bytes = 0;
    if (this.#paused) {
      this.#paused = false;
      if (!this.#ended) this.#source?.resume();
    }
    return { done: false, value };
  }

  #settle(): { resolve: (result: Result) => void; reject: (error: RpcError) => void } | undefined {
    const resolve = this.#resolve;
    const reject = this.#reject;
    this.#pending = undefined;
    this.#resolve = undefined;
    this.#reject = undefined;
    return resolve === undefined || reject === undefined ? undefined : { resolve, reject };
  }

  /** A consumer that asks twice at once is served in turn. */
  async #afterPending(pending: Promise<Result>): Promise<Result> {
    await pending;
    return this.next();
  }
}
