/** An answer that another router is getting. When that router is lost, the answer is gone on with here. */
import { AnswerSoFar } from "../../../libs/continuation/index.ts";
import type { CompletionRequest, Part } from "../../../libs/gen/cortex/llm/v1/llm.ts";
import type { JoinResponse, Resume, StreamResponse } from "../../../libs/gen/cortex/router/v1/router.ts";
import { type Reason, RpcError } from "../../../libs/rpc/index.ts";

/** The other router is not there, or is not getting the answer any more: nothing is said about the answer itself. */
const LOST: ReadonlySet<Reason> = new Set(["NODE_UNREACHABLE", "NODE_DRAINING", "CACHE_MISS", "UNIMPLEMENTED"]);

/** Hands on what the other router says as it comes. */
export class FollowedAnswer implements AsyncIterator<StreamResponse> {
  readonly #seen: AnswerSoFar;
  readonly #goOn: (resume: Resume | undefined) => AsyncIterator<StreamResponse>;
  #inner: AsyncIterator<JoinResponse | StreamResponse>;
  #following = true;
  #begun = false;
  #worker = "";
  #attempts = 0;

  /** `goOn` gets the answer here: from its beginning, or from where it was lost. */
  constructor(
    request: CompletionRequest,
    followed: AsyncIterator<JoinResponse>,
    goOn: (resume: Resume | undefined) => AsyncIterator<StreamResponse>,
  ) {
    this.#seen = new AnswerSoFar(request);
    this.#inner = followed;
    this.#goOn = goOn;
  }

  async next(): Promise<IteratorResult<StreamResponse>> {
    try {
      const result = await this.#inner.next();
      if (result.done === true) return { done: true, value: undefined };
      if (this.#following) this.#note(result.value);
      return { done: false, value: result.value };
    } catch (thrown) {
      const error = RpcError.from(thrown);
      if (!this.#following || !LOST.has(error.reason)) throw error;
      return this.#alone(error);
    }
  }

  async return(): Promise<IteratorResult<StreamResponse>> {
    await this.#inner.return?.();
    return { done: true, value: undefined };
  }

  #note({ parts, attempts }: JoinResponse | StreamResponse): void {
    this.#begun = true;
    if (attempts > 0) this.#attempts = attempts;
    this.#seen.add(parts);
    for (const { part } of parts as readonly Part[]) {
      if (part?.$case === "served" || part?.$case === "continued") this.#worker = part.value.worker;
    }
  }

  #alone(error: RpcError): Promise<IteratorResult<StreamResponse>> {
    this.#following = false;
    if (!this.#begun) this.#inner = this.#goOn(undefined);
    else if (this.#seen.finished) return Promise.resolve({ done: true, value: undefined });
    else {
      const obstacle = this.#seen.obstacle();
      if (obstacle !== undefined) {
        const message = `the router that was getting the answer was lost, and it could not be gone on with: ${obstacle}`;
        throw new RpcError("STREAM_INTERRUPTED", message, { cause: error });
      }
      this.#inner = this.#goOn({ text: this.#seen.text, worker: this.#worker, attempts: this.#attempts });
    }
    return this.next();
  }
}

/**
 * The same for who wants the answer whole: it comes in one piece, so that nothing of it has been seen when the other router is
 * lost, and it is got anew.
 */
export class FollowedWhole implements AsyncIterator<StreamResponse> {
  readonly #followed: AsyncIterator<JoinResponse>;
  readonly #getAnew: () => AsyncIterator<StreamResponse>;
  /** Set once the other router has been lost. */
  #anew: AsyncIterator<StreamResponse> | undefined;
  #given = false;

  constructor(followed: AsyncIterator<JoinResponse>, getAnew: () => AsyncIterator<StreamResponse>) {
    this.#followed = followed;
    this.#getAnew = getAnew;
  }

  async next(): Promise<IteratorResult<StreamResponse>> {
    if (this.#anew !== undefined) return this.#anew.next();
    if (this.#given) return { done: true, value: undefined };
    const parts: Part[] = [];
    let attempts = 0;
    try {
      for (let result = await this.#followed.next(); result.done !== true; result = await this.#followed.next()) {
        parts.push(...result.value.parts);
        attempts += result.value.attempts;
      }
    } catch (thrown) {
      const error = RpcError.from(thrown);
      if (!LOST.has(error.reason)) throw error;
      this.#anew = this.#getAnew();
      return this.#anew.next();
    }
    this.#given = true;
    return { done: false, value: { parts, attempts, cache: undefined } };
  }

  async return(): Promise<IteratorResult<StreamResponse>> {
    await (this.#anew ?? this.#followed).return?.();
    return { done: true, value: undefined };
  }
}
