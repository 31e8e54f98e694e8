/**
 * What every carrier promises, run over each of them: a service and its caller must not be able to tell which one lies
 * between them. A new carrier is one more entry in CARRIERS.
 */
import { readFileSync } from "node:fs";
import { afterEach, describe, expect, it, vi } from "vitest";
import { FinishReason, type Part } from "../gen/cortex/llm/v1/llm.ts";
import { RouterServiceDefinition, type StreamResponse } from "../gen/cortex/router/v1/router.ts";
import { createLogger, NO_TRACE, type Span, silentTracer, type TraceContext, type Tracer } from "../telemetry/index.ts";
import { bind, type Call, type Caller, connect, createGrpcServer, RpcError, type Service, startCall } from "./index.ts";

type Router = Service<typeof RouterServiceDefinition>;

const TRACE: TraceContext = {
  traceId: "0af7651916cd43dd8448eb211c80319c",
  spanId: "b7ad6b7169203331",
  sampled: true,
  state: "a=1",
};
const logged: string[] = [];
const log = createLogger({
  level: "warn",
  readable: false,
  node: "test",
  destination: { write: (line) => logged.push(line) },
});
const cleanups: (() => unknown)[] = [];

afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
  logged.length = 0;
});

/** A tracer that keeps what it saw. */
function recordingTracer(): Tracer & {
  spans: { name: string; parent: string | undefined; failed?: string; ended: number }[];
} {
  const spans: { name: string; parent: string | undefined; failed?: string; ended: number }[] = [];
  return {
    spans,
    startSpan(name, parent): Span {
      const record: (typeof spans)[number] = { name, parent: parent?.spanId, ended: 0 };
      spans.push(record);
      return {
        context: { ...(parent ?? TRACE), spanId: String(spans.length).padStart(16, "0") },
        recording: true,
        set: () => {},
        event: () => {},
        fail: (type) => {
          record.failed = type;
        },
        keep: () => {},
        end: () => {
          record.ended++;
        },
      };
    },
    newTrace: () => TRACE,
    shutdown: async () => {},
  };
}

const CARRIERS: Record<string, (implementation: Router, tracer: Tracer) => Promise<Router>> = {
  "in process": async (implementation, tracer) =>
    bind(RouterServiceDefinition, implementation, "in_process", { tracer, log }),
  "plain gRPC": (implementation, tracer) =>
    reachOverGrpc(implementation, tracer, { trusted: true, tenant: "nobody", admin: false }),
};

async function reachOverGrpc(implementation: Router, tracer: Tracer, caller: Caller): Promise<Router> {
  const server = createGrpcServer({
    tracer,
    log,
    authenticate: () => caller,
    descriptors: readFileSync(new URL("../gen/descriptors.binpb", import.meta.url)),
    interfaces: [RouterServiceDefinition.fullName],
  });
  server.add(RouterServiceDefinition, implementation);
  const port = await server.listen("127.0.0.1", 0);
  const channel = connect(`127.0.0.1:${port}`, { meshSecret: () => "secret" });
  cleanups.push(() => server.close(0));
  cleanups.push(() => channel.close());
  return channel.client(RouterServiceDefinition);
}

const REFUSING: Router = {
  complete: () => Promise.reject(new RpcError("UNIMPLEMENTED", "not in this test")),
  embed: () => Promise.reject(new RpcError("UNIMPLEMENTED", "not in this test")),
  listModels: () => Promise.reject(new RpcError("UNIMPLEMENTED", "not in this test")),
  explain: () => Promise.reject(new RpcError("UNIMPLEMENTED", "not in this test")),
  join: () => {
    throw new RpcError("UNIMPLEMENTED", "not in this test");
  },
  stream: () => {
    throw new RpcError("UNIMPLEMENTED", "not in this test");
  },
};

const text = (value: string): Part => ({ part: { $case: "text", value: { text: value, choice: 0, logprobs: [] } } });
const chunk = (value: string): StreamResponse => ({ parts: [text(value)], attempts: 0 });
const textOf = (response: StreamResponse): string =>
  response.parts.map(({ part }) => (part?.$case === "text" ? part.value.text : "")).join("");

function call(options: { deadlineMs?: number; trace?: TraceContext; admin?: boolean } = {}) {
  const owned = startCall({
    tenant: "team-a",
    admin: options.admin ?? false,
    requestId: "request-1",
    trace: options.trace ?? TRACE,
    ...(options.deadlineMs === undefined ? {} : { deadlineAtMs: Date.now() + options.deadlineMs }),
  });
  cleanups.push(() => owned.finish());
  return owned;
}

async function failureOf(promise: Promise<unknown>): Promise<RpcError> {
  const error = await promise.then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  expect(error).toBeInstanceOf(RpcError);
  return error as RpcError;
}

async function read(stream: AsyncIterable<StreamResponse>): Promise<string[]> {
  const texts: string[] = [];
  for await (const response of stream) texts.push(textOf(response));
  return texts;
}

const untilAborted = (signal: AbortSignal) =>
  new Promise<void>((resolve) => {
    if (signal.aborted) resolve();
    signal.addEventListener("abort", () => resolve(), { once: true });
  });

describe.each(Object.entries(CARRIERS))("a service reached %s", (_name, reach) => {
  it("answers a unary call and hears who calls, for which tenant, until when and in which trace", async () => {
    let heard: Call | undefined;
    const router = await reach(
      {
        ...REFUSING,
        listModels: async (_request, heardCall) => {
          heard = heardCall;
          return { models: [{ id: "m", workers: ["w"], createdAtS: 1, ownedBy: "o" }] };
        },
      },
      silentTracer,
    );
    const made = call({ deadlineMs: 5_000 });
    expect(await router.listModels({}, made)).toEqual({
      models: [{ id: "m", workers: ["w"], createdAtS: 1, ownedBy: "o" }],
    });
    expect(heard?.tenant).toBe("team-a");
    expect(heard?.admin).toBe(false);
    expect(heard?.requestId).toBe("request-1");
    expect(heard?.trace).toMatchObject({ traceId: TRACE.traceId, spanId: TRACE.spanId, sampled: true, state: "a=1" });
    expect(Math.abs(heard!.deadlineAtMs - made.deadlineAtMs)).toBeLessThan(1_000);
  });

  it("hears that an administrator calls", async () => {
    let heard: Call | undefined;
    const listModels: Router["listModels"] = async (_request, heardCall) => {
      heard = heardCall;
      return { models: [] };
    };
    const router = await reach({ ...REFUSING, listModels }, silentTracer);
    await router.listModels({}, call({ admin: true }));
    expect(heard?.admin).toBe(true);
  });

  it("streams messages in order, to the end", async () => {
    const router = await reach(
      {
        ...REFUSING,
        stream: async function* () {
          for (let index = 0; index < 500; index++) yield chunk(String(index));
          yield {
            parts: [{ part: { $case: "finish", value: { choice: 0, reason: FinishReason.STOP } } }],
            attempts: 0,
          };
        },
      },
      silentTracer,
    );
    const texts = await read(router.stream({}, call()));
    expect(texts).toEqual([...Array(500).keys()].map(String).concat(""));
  });

  it("does nothing until a stream is read", async () => {
    const stream = vi.fn(async function* () {
      yield chunk("a");
    });
    const router = await reach({ ...REFUSING, stream }, silentTracer);
    const answer = router.stream({}, call());
    expect(stream).not.toHaveBeenCalled();
    expect(await read(answer)).toEqual(["a"]);
  });

  it("tells the service when the reader leaves early", async () => {
    const left = vi.fn();
    const router = await reach(
      {
        ...REFUSING,
        stream: async function* (_request, heard) {
          try {
            for (;;) {
              yield chunk("x");
              await new Promise((resolve) => setImmediate(resolve));
              if (heard.signal.aborted) return;
            }
          } finally {
            left();
          }
        },
      },
      silentTracer,
    );
    for await (const _ of router.stream({}, call())) break;
    await vi.waitFor(() => expect(left).toHaveBeenCalledOnce());
  });

  it("holds a fast sender back when the reader is slow", async () => {
    let sent = 0;
    const big = "x".repeat(64 * 1024);
    const router = await reach(
      {
        ...REFUSING,
        stream: async function* () {
          for (;;) {
            sent++;
            yield chunk(big);
          }
        },
      },
      silentTracer,
    );
    const iterator = router.stream({}, call())[Symbol.asyncIterator]();
    await iterator.next();
    // The sender comes to rest by itself: the count stays the same over many turns of the event loop.
    let before = -1;
    await vi.waitFor(
      () => {
        const rests = sent === before;
        before = sent;
        expect(rests).toBe(true);
      },
      { interval: 100 },
    );
    expect(sent * big.length).toBeLessThan(16 * 1024 * 1024);
    for (let index = 0; index < 200; index++) await iterator.next();
    expect(sent).toBeGreaterThan(200);
    await iterator.return?.();
  });

  it("brings a known error across with its reason, message, field, wait, attempts, key and what logs may say", async () => {
    const attempts = [{ worker: "w1", reason: "PROVIDER_ERROR", message: "answered 500" }] as const;
    const thrown = new RpcError("NO_WORKERS_AVAILABLE", "no workers available", {
      field: "model",
      retryAfterMs: 1_500,
      attempts,
      key: "8254c329",
      forLog: "nobody at 10.0.0.1:80",
      cause: new Error("secret detail"),
    });
    const router = await reach(
      {
        ...REFUSING,
        complete: () => Promise.reject(thrown),
        stream: async function* () {
          yield chunk("a");
          throw thrown;
        },
      },
      silentTracer,
    );
    const unary = await failureOf(router.complete({}, call()));
    const texts: string[] = [];
    const streamed = await failureOf(
      (async () => {
        for await (const response of router.stream({}, call())) texts.push(textOf(response));
      })(),
    );
    for (const error of [unary, streamed]) {
      expect(error.reason).toBe("NO_WORKERS_AVAILABLE");
      expect(error.message).toBe("no workers available");
      expect(error.field).toBe("model");
      expect(error.retryAfterMs).toBe(1_500);
      expect(error.attempts).toEqual(attempts);
      expect(error.key).toBe("8254c329");
      expect(error.forLog).toBe("nobody at 10.0.0.1:80");
    }
    expect(texts).toEqual(["a"]);
  });

  it("says nothing of an unexpected exception to the caller and everything to the log", async () => {
    const router = await reach(
      {
        ...REFUSING,
        complete: async () => {
          throw new TypeError("the password is hunter2");
        },
        stream: () => {
          throw new TypeError("the password is hunter3");
        },
      },
      silentTracer,
    );
    for (const error of [
      await failureOf(router.complete({}, call())),
      await failureOf(read(router.stream({}, call()))),
    ]) {
      expect(error.reason).toBe("INTERNAL");
      expect(error.message).toBe("internal error");
    }
    await vi.waitFor(() => expect(logged.join("")).toMatch(/hunter2[\s\S]*hunter3/));
    expect(logged.join("")).toContain(TRACE.traceId);
  });

  it("ends a call at its deadline, even if the service does not listen", async () => {
    let heard: AbortSignal | undefined;
    const router = await reach(
      {
        ...REFUSING,
        complete: (_request, { signal }) => {
          heard = signal;
          return new Promise(() => {});
        },
        stream: () => ({ [Symbol.asyncIterator]: () => ({ next: () => new Promise(() => {}) }) }),
      },
      silentTracer,
    );
    expect((await failureOf(router.complete({}, call({ deadlineMs: 50 })))).reason).toBe("DEADLINE_EXCEEDED");
    await vi.waitFor(() => expect(heard?.aborted).toBe(true));
    expect((await failureOf(read(router.stream({}, call({ deadlineMs: 50 }))))).reason).toBe("DEADLINE_EXCEEDED");
  });

  it("ends a call when the caller gives it up, and tells the service", async () => {
    const told: string[] = [];
    const router = await reach(
      {
        ...REFUSING,
        complete: async (_request, { signal }) => {
          await untilAborted(signal);
          told.push("complete");
          return { attempts: 0 };
        },
        stream: async function* (_request, { signal }) {
          yield chunk("a");
          await untilAborted(signal);
          told.push("stream");
        },
      },
      silentTracer,
    );
    const unary = call();
    const answer = failureOf(router.complete({}, unary));
    setImmediate(() => unary.cancel());
    expect((await answer).reason).toBe("CANCELLED");

    const streaming = call();
    const iterator = router.stream({}, streaming)[Symbol.asyncIterator]();
    await iterator.next();
    const rest = failureOf(iterator.next());
    streaming.cancel();
    expect((await rest).reason).toBe("CANCELLED");
    expect(await iterator.next()).toEqual({ done: true, value: undefined });
    await vi.waitFor(() => expect(told).toContain("stream"));
  });

  it("does not start a call that was given up before", async () => {
    const complete = vi.fn();
    const router = await reach({ ...REFUSING, complete }, silentTracer);
    const made = call();
    made.cancel();
    expect((await failureOf(router.complete({}, made))).reason).toBe("CANCELLED");
    expect((await failureOf(read(router.stream({}, made)))).reason).toBe("CANCELLED");
    expect(complete).not.toHaveBeenCalled();
  });

  it("carries a message of 20 MB both ways", async () => {
    const large = "y".repeat(20 * 1024 * 1024);
    const router = await reach(
      {
        ...REFUSING,
        complete: async (request) => ({
          attempts: request.completion?.model.length ?? 0,
          completion: { choices: [], warnings: [{ code: "A", message: request.completion!.model, parameter: "" }] },
        }),
      },
      silentTracer,
    );
    const request = { messages: [], tools: [], logprobs: false, user: "", extraJson: {}, model: large };
    const response = await router.complete({ completion: request }, call());
    expect(response.attempts).toBe(large.length);
    expect(response.completion?.warnings[0]?.message).toHaveLength(large.length);
  });

  it("makes one span for each call, under the caller's, ended once and marked when it failed", async () => {
    const tracer = recordingTracer();
    const router = await reach(
      {
        ...REFUSING,
        listModels: async () => ({ models: [] }),
        stream: async function* () {
          yield chunk("a");
          yield chunk("b");
        },
      },
      tracer,
    );
    await router.listModels({}, call());
    await read(router.stream({}, call()));
    for await (const _ of router.stream({}, call())) break;
    await failureOf(router.complete({}, call()));
    const name = (method: string) => `cortex.router.v1.RouterService/${method}`;
    await vi.waitFor(() =>
      expect(tracer.spans).toMatchObject([
        { name: name("ListModels"), parent: TRACE.spanId, ended: 1 },
        { name: name("Stream"), parent: TRACE.spanId, ended: 1 },
        { name: name("Stream"), parent: TRACE.spanId, ended: 1 },
        { name: name("Complete"), parent: TRACE.spanId, ended: 1, failed: "UNIMPLEMENTED" },
      ]),
    );
    expect(tracer.spans[0]).not.toHaveProperty("failed");
    expect(NO_TRACE.sampled).toBe(false);
  });
});

describe("a client that is no node of the mesh", () => {
  it.each([true, false])("is an administrator by its key alone: %s", async (admin) => {
    let heard: Call | undefined;
    const listModels: Router["listModels"] = async (_request, heardCall) => {
      heard = heardCall;
      return { models: [] };
    };
    const caller = { trusted: false, tenant: "team-b", admin };
    const router = await reachOverGrpc({ ...REFUSING, listModels }, silentTracer, caller);
    await router.listModels({}, call({ admin: true }));
    expect(heard).toMatchObject({ tenant: "team-b", admin });
    expect(heard?.requestId).not.toBe("request-1");
  });
});
