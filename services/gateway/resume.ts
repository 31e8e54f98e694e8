/**
 * A stream that survives the router that serves it: when that one is lost in the middle, another one is told what the client
 * has seen, and goes on from there. What the other one sends is already joined.
 */
import { setTimeout as timer } from "node:timers/promises";
import { AnswerSoFar } from "../../libs/continuation/index.ts";
import type { CompletionRequest } from "../../libs/gen/cortex/llm/v1/llm.ts";
import type {
  CacheOptions,
  Resume,
  RouterServiceDefinition,
  RoutingOptions,
  StreamResponse,
} from "../../libs/gen/cortex/router/v1/router.ts";
import { type Call, RpcError, type Service } from "../../libs/rpc/index.ts";

/** Routers that may be lost under one stream. */
const RESUMES_MAX = 3;
/** How long a stream waits for a router while none can be reached: they are started again within seconds. */
const WAIT_MS_MAX = 10_000;
/** Before the first new try; twice as long before each other, up to the second. */
const PAUSE_MS = 50;
const PAUSE_MS_MAX = 1_000;

/** What a stream is asked for with. */
export interface ResumableRequest {
  readonly completion: CompletionRequest;
  readonly routing: RoutingOptions | undefined;
  readonly cache: CacheOptions | undefined;
}

/** What resuming needs besides the request. */
export interface ResumeDependencies {
  /** Asked anew each time: it chooses among the routers that can be reached. */
  router(): Service<typeof RouterServiceDefinition>;
  /** For tests; resolves after so many milliseconds, or rejects when the signal is aborted. */
  readonly wait?: (ms: number, signal: AbortSignal) => Promise<unknown>;
}

const DONE: IteratorResult<StreamResponse> = { done: true, value: undefined };

/** RouterService.Stream, going on at another router when one is lost. */
export function resumableStream(
  request: ResumableRequest,
  call: Call,
  dependencies: ResumeDependencies,
): AsyncIterable<StreamResponse> {
  return { [Symbol.asyncIterator]: () => new ResumableStream(request, call, dependencies) };
}

/** Written by hand, as a token must not pay for a chain of generators. */
class ResumableStream implements AsyncIterator<StreamResponse> {
  readonly #request: ResumableRequest;
  readonly #call: Call;
  readonly #dependencies: ResumeDependencies;
  readonly #answer: AnswerSoFar;
  #inner: AsyncIterator<StreamResponse>;
  /** Who serves now. */
  #worker = "";
  #attempts = 0;
  #resumes = 0;
  #begun = false;
  #ended = false;

  constructor(request: ResumableRequest, call: Call, dependencies: ResumeDependencies) {
    this.#request = request;
    this.#call = call;
    this.#dependencies = dependencies;
    this.#answer = new AnswerSoFar(request.completion);
    this.#inner = this.#ask(undefined);
  }

  next(): Promise<IteratorResult<StreamResponse>> {
    if (this.#ended) return Promise.resolve(DONE);
    return this.#inner.next().then(this.#onResult, this.#onFailure);
  }

  async return(): Promise<IteratorResult<StreamResponse>> {
    this.#ended = true;
    await this.#inner.return?.();
    return DONE;
  }

  #ask(resume: Resume | undefined): AsyncIterator<StreamResponse> {
    return this.#dependencies
      .router()
      .stream({ ...this.#request, resume }, this.#call)
      [Symbol.asyncIterator]();
  }

  readonly #onResult = (result: IteratorResult<StreamResponse>): IteratorResult<StreamResponse> => {
    if (result.done === true) {
      this.#ended = true;
      return result;
    }
    const { parts, attempts } = result.value;
    if (attempts > 0) this.#attempts = attempts;
    this.#begun = true;
    this.#answer.add(parts);
    for (const { part } of parts) {
      if (part?.$case === "served" || part?.$case === "continued") this.#worker = part.value.worker;
    }
    return result;
  };

  readonly #onFailure = async (thrown: unknown): Promise<IteratorResult<StreamResponse>> => {
    const error = RpcError.from(thrown);
    // Before anything has come, the mesh itself asks another node.
    if (!this.#begun || !isLost(error) || this.#call.signal.aborted) return this.#fail(error);
    if (this.#answer.finished) {
      // The client has everything: what is missing is the router's good-bye.
      this.#ended = true;
      return DONE;
    }
    const obstacle = this.#obstacle();
    if (obstacle !== undefined) return this.#fail(this.#interrupted(error, obstacle));
    this.#resumes++;
    return this.#goOn(error);
  };

  #obstacle(): string | undefined {
    if (this.#request.routing?.continuation === false) return "continuation is switched off";
    if (this.#resumes >= RESUMES_MAX) return `${RESUMES_MAX} others were lost before`;
    return this.#answer.obstacle();
  }

  /** The first chunk of another router, as soon as there is one. */
  async #goOn(lost: RpcError): Promise<IteratorResult<StreamResponse>> {
    const wait = this.#dependencies.wait ?? ((ms, signal) => timer(ms, undefined, { signal }));
    const resume = { text: this.#answer.text, worker: this.#worker, attempts: this.#attempts };
    let waitedMs = 0;
    for (let pauseMs = PAUSE_MS; ; pauseMs = Math.min(2 * pauseMs, PAUSE_MS_MAX)) {
      let error: RpcError;
      try {
        this.#inner = this.#ask(resume);
        return this.#onResult(await this.#inner.next());
      } catch (thrown) {
        error = RpcError.from(thrown);
      }
      if (this.#call.signal.aborted) return this.#fail(error);
      if (!isLost(error))
        return this.#fail(error.reason === "STREAM_INTERRUPTED" ? error : this.#interrupted(lost, error.message));
      if (waitedMs >= WAIT_MS_MAX) return this.#fail(this.#interrupted(lost, error.message));
      // When the client leaves meanwhile, the next try is told so.
      await wait(pauseMs, this.#call.signal).catch(() => {});
      waitedMs += pauseMs;
    }
  }

  #fail(error: RpcError): never {
    this.#ended = true;
    throw error;
  }

  #interrupted(lost: RpcError, why: string): RpcError {
    const message = `the router was lost after the answer had begun, and no other could go on: ${why}`;
    const { reason } = lost;
    return new RpcError("STREAM_INTERRUPTED", message, {
      attempts: [{ worker: this.#worker, reason, message: lost.message }],
      cause: lost,
    });
  }
}

function isLost({ reason }: RpcError): boolean {
  return reason === "NODE_UNREACHABLE" || reason === "NODE_DRAINING";
}
