/**
 * The carrier between services of one node: a function call that behaves like one over a socket. The deadline and the
 * caller's leaving end it even if the service does not listen, only RpcErrors come out, and it has its span.
 */
import { ATTRIBUTE, type Logger, type Span, type Tracer, traceFields } from "../telemetry/index.ts";
import { abortReason, withTrace } from "./call.ts";
import { CATALOGUE, RpcError } from "./errors.ts";
import type { Call, MethodDefinition, Service, ServiceDefinition } from "./service.ts";

/** What a carrier needs of its node. */
export interface CarrierDependencies {
  readonly tracer: Tracer;
  readonly log: Logger;
}

type Unary = (request: unknown, call: Call) => Promise<unknown>;
type Streaming = (request: unknown, call: Call) => AsyncIterable<unknown>;

/** How one method is to be traced. */
interface MethodTrace {
  readonly name: string;
  readonly attributes: Readonly<Record<string, string>>;
}

/**
 * Gives an implementation the behaviour of a called service. The gRPC server binds what it serves too, so that both
 * carriers share this code and the server adds only bytes.
 */
export function bind<D extends ServiceDefinition>(
  definition: D,
  implementation: Service<D>,
  carrier: "in_process" | "grpc",
  dependencies: CarrierDependencies,
): Service<D> {
  const bound: Record<string, Unary | Streaming> = {};
  for (const [key, method] of Object.entries<MethodDefinition>(definition.methods)) {
    const trace: MethodTrace = {
      name: `${definition.fullName}/${method.name}`,
      attributes: {
        [ATTRIBUTE.rpcSystem]: "grpc",
        [ATTRIBUTE.rpcService]: definition.fullName,
        [ATTRIBUTE.rpcMethod]: method.name,
        [ATTRIBUTE.carrier]: carrier,
      },
    };
    const implemented = (implementation as Record<string, Unary | Streaming>)[key]!.bind(implementation);
    bound[key] = method.responseStream
      ? (request, call) => ({
          [Symbol.asyncIterator]: () => new BoundStream(implemented as Streaming, request, call, trace, dependencies),
        })
      : (request, call) => callUnary(implemented as Unary, request, call, trace, dependencies);
  }
  return bound as Service<D>;
}

async function callUnary(
  implemented: Unary,
  request: unknown,
  call: Call,
  trace: MethodTrace,
  dependencies: CarrierDependencies,
): Promise<unknown> {
  if (call.signal.aborted) throw abortReason(call.signal);
  const span = dependencies.tracer.startSpan(trace.name, call.trace, "server", trace.attributes);
  let onAbort: (() => void) | undefined;
  try {
    return await new Promise((resolve, reject) => {
      onAbort = () => reject(abortReason(call.signal));
      call.signal.addEventListener("abort", onAbort, { once: true });
      implemented(request, withTrace(call, span.context)).then(resolve, reject);
    });
  } catch (thrown) {
    throw toRpcError(thrown, call, span, trace, dependencies);
  } finally {
    call.signal.removeEventListener("abort", onAbort!);
    span.end();
  }
}

/** One run of a streaming method. Written by hand, as a token must not pay for a chain of generators. */
class BoundStream implements AsyncIterator<unknown> {
  readonly #inner: AsyncIterator<unknown>;
  readonly #call: Call;
  readonly #span: Span;
  readonly #trace: MethodTrace;
  readonly #dependencies: CarrierDependencies;
  readonly #onAbort = () => this.#abort();
  #resolvePending: ((result: IteratorResult<unknown>) => void) | undefined;
  #rejectPending: ((error: RpcError) => void) | undefined;
  #failure: RpcError | undefined;
  #ended = false;

  constructor(
    implemented: Streaming,
    request: unknown,
    call: Call,
    trace: MethodTrace,
    dependencies: CarrierDependencies,
  ) {
    this.#call = call;
    this.#trace = trace;
    this.#dependencies = dependencies;
    this.#span = dependencies.tracer.startSpan(trace.name, call.trace, "server", trace.attributes);
    let inner: AsyncIterator<unknown>;
    try {
      inner = implemented(request, withTrace(call, this.#span.context))[Symbol.asyncIterator]();
    } catch (thrown) {
      inner = { next: () => Promise.reject(thrown) };
    }
    this.#inner = inner;
    call.signal.addEventListener("abort", this.#onAbort, { once: true });
    if (call.signal.aborted) this.#abort();
  }

  next(): Promise<IteratorResult<unknown>> {
    if (this.#failure !== undefined) {
      const failure = this.#failure;
      this.#failure = undefined;
      return Promise.reject(failure);
    }
    if (this.#ended) return Promise.resolve({ done: true, value: undefined });
    return new Promise(this.#ask);
  }

  // Made once for a stream, not for each message of it.
  readonly #ask = (resolve: (result: IteratorResult<unknown>) => void, reject: (error: RpcError) => void): void => {
    this.#resolvePending = resolve;
    this.#rejectPending = reject;
    try {
      this.#inner.next().then(this.#onResult, this.#onThrown);
    } catch (thrown) {
      this.#onThrown(thrown);
    }
  };

  readonly #onResult = (result: IteratorResult<unknown>): void => {
    const resolve = this.#resolvePending;
    // Given up meanwhile: the caller has been told already.
    if (resolve === undefined) return;
    this.#resolvePending = undefined;
    this.#rejectPending = undefined;
    if (result.done === true) this.#end();
    resolve(result);
  };

  readonly #onThrown = (thrown: unknown): void => {
    const reject = this.#rejectPending;
    if (reject === undefined) return;
    this.#resolvePending = undefined;
    this.#rejectPending = undefined;
    const error = toRpcError(thrown, this.#call, this.#span, this.#trace, this.#dependencies);
    this.#end();
    reject(error);
  };

  async return(): Promise<IteratorResult<unknown>> {
    if (!this.#ended) {
      this.#end();
      await this.#release();
    }
    return { done: true, value: undefined };
  }

  #abort(): void {
    if (this.#ended) return;
    const error = toRpcError(abortReason(this.#call.signal), this.#call, this.#span, this.#trace, this.#dependencies);
    const rejectPending = this.#rejectPending;
    this.#resolvePending = undefined;
    this.#rejectPending = undefined;
    this.#end();
    void this.#release();
    if (rejectPending === undefined) this.#failure = error;
    else rejectPending(error);
  }

  async #release(): Promise<void> {
    try {
      await this.#inner.return?.();
    } catch (thrown) {
      // The caller has left, so nobody but the log can hear of it.
      this.#dependencies.log.warn(
        { err: thrown, rpc: this.#trace.name, ...traceFields(this.#call.trace) },
        "a stream failed while it was being given up",
      );
    }
  }

  #end(): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#call.signal.removeEventListener("abort", this.#onAbort);
    this.#span.end();
  }
}

function toRpcError(
  thrown: unknown,
  call: Call,
  span: Span,
  trace: MethodTrace,
  { log }: CarrierDependencies,
): RpcError {
  const error = call.signal.aborted ? abortReason(call.signal) : RpcError.from(thrown);
  if (error.reason === "INTERNAL" && error.cause !== undefined) {
    log.error({ err: error.cause, rpc: trace.name, ...traceFields(call.trace) }, "a service threw an unexpected error");
  }
  // The message may quote a provider that quotes the prompt: spans tell the reason and what it means.
  span.fail(error.reason, CATALOGUE[error.reason].meaning);
  return error;
}
