/** Streams of an answer that are made of something else: of a promise, of a whole answer, of a stream and a word; and one made whole. */
import type { Completion, Part } from "../../../libs/gen/cortex/llm/v1/llm.ts";
import type { CacheStatus, CompleteResponse, StreamResponse } from "../../../libs/gen/cortex/router/v1/router.ts";
import { type Call, RpcError } from "../../../libs/rpc/index.ts";
import type { RequestAccount } from "../request-account.ts";
import { toCompletion, toParts } from "./parts.ts";

/** All of a stream, as one answer. It is left when the call ends before. */
export async function collect(stream: AsyncIterator<StreamResponse>, { signal }: Call): Promise<CompleteResponse> {
  const leave = (): void => void stream.return?.();
  signal.addEventListener("abort", leave, { once: true });
  if (signal.aborted) leave();
  const parts: Part[] = [];
  let attempts = 0;
  let cache: CacheStatus | undefined;
  try {
    for (let result = await stream.next(); result.done !== true; result = await stream.next()) {
      parts.push(...result.value.parts);
      attempts += result.value.attempts;
      cache ??= result.value.cache;
    }
  } finally {
    signal.removeEventListener("abort", leave);
    await stream.return?.();
  }
  const completion: Completion = toCompletion(parts);
  return { completion, attempts, cache };
}

/** A stream whose maker takes a moment. */
export class Deferred<T> implements AsyncIterator<T> {
  readonly #make: () => Promise<AsyncIterator<T>>;
  readonly #account: RequestAccount | undefined;
  #making: Promise<AsyncIterator<T>> | undefined;
  #made: AsyncIterator<T> | undefined;
  #left = false;

  /** `account` is told when it could not be made, or has been left before. */
  constructor(make: () => Promise<AsyncIterator<T>>, account?: RequestAccount) {
    this.#make = make;
    this.#account = account;
  }

  next(): Promise<IteratorResult<T>> {
    return this.#made === undefined ? this.#first() : this.#made.next();
  }

  async #first(): Promise<IteratorResult<T>> {
    this.#making ??= this.#make();
    const made = await this.#making.catch(this.#failed);
    this.#made = made;
    if (this.#left) {
      await made.return?.();
      return { done: true, value: undefined };
    }
    return made.next();
  }

  async return(): Promise<IteratorResult<T>> {
    this.#left = true;
    this.#making?.catch(() => {});
    if (this.#made === undefined) this.#account?.left();
    await this.#made?.return?.();
    return { done: true, value: undefined };
  }

  readonly #failed = (thrown: unknown): never => {
    this.#account?.end(RpcError.from(thrown));
    throw thrown;
  };
}

/** A whole answer as a stream of one chunk. */
export class OneChunk implements AsyncIterator<StreamResponse> {
  #get: (() => Promise<CompleteResponse>) | undefined;

  constructor(get: () => Promise<CompleteResponse>) {
    this.#get = get;
  }

  async next(): Promise<IteratorResult<StreamResponse>> {
    const get = this.#get;
    this.#get = undefined;
    if (get === undefined) return { done: true, value: undefined };
    const { completion, attempts } = await get();
    return {
      done: false,
      value: { parts: completion === undefined ? [] : toParts(completion), attempts, cache: undefined },
    };
  }
}

/** A stream with a word about the cache in its first chunk. */
export class FirstChunk implements AsyncIterator<StreamResponse> {
  readonly #inner: AsyncIterator<StreamResponse>;
  #told: CacheStatus | undefined;

  constructor(inner: AsyncIterator<StreamResponse>, told: CacheStatus) {
    this.#inner = inner;
    this.#told = told;
  }

  next(): Promise<IteratorResult<StreamResponse>> {
    const told = this.#told;
    if (told === undefined) return this.#inner.next();
    this.#told = undefined;
    return this.#inner
      .next()
      .then((result) => (result.done === true ? result : { done: false, value: { ...result.value, cache: told } }));
  }

  return(): Promise<IteratorResult<StreamResponse>> {
    return this.#inner.return?.() ?? Promise.resolve({ done: true, value: undefined });
  }
}
