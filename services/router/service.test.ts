/** How a request finds the worker that serves it: over the real in-process carrier, with workers that do as they are told. */
import { beforeEach, describe, expect, it, vi } from "vitest";
import { AttemptOutcome, UsageSource } from "../../libs/gen/cortex/events/v1/events.ts";
import type { Part } from "../../libs/gen/cortex/llm/v1/llm.ts";
import type { RouterServiceDefinition, StreamResponse } from "../../libs/gen/cortex/router/v1/router.ts";
import { RpcError, type Service, startCall } from "../../libs/rpc/index.ts";
import { NO_TRACE } from "../../libs/telemetry/index.ts";
import {
  type Behaviour,
  chunk,
  FakeMesh,
  failing,
  failureOf,
  finish,
  HERE,
  overloaded,
  read,
  request,
  saying,
  served,
  text,
  textOf,
  usage,
  warning,
} from "./test-mesh.ts";

let call: ReturnType<typeof startCall>;

beforeEach(() => {
  call = startCall({ tenant: "team-a", requestId: "request-1", trace: NO_TRACE });
});

const { SERVED, FAILED, INTERRUPTED, CANCELLED } = AttemptOutcome;

/** The same request, whole and streamed: what failover promises holds for both. */
const WAYS: Record<string, (router: Service<typeof RouterServiceDefinition>, model?: string) => Promise<number>> = {
  whole: async (router, model = "m") => (await router.complete({ completion: { ...request, model } }, call)).attempts,
  streamed: async (router, model = "m") => {
    const responses = await read(router.stream({ completion: { ...request, model } }, call));
    expect(responses.at(-1)?.parts.at(0)?.part?.$case).toBe("finish");
    return responses[0]!.attempts;
  },
  "for vectors": async (router, model = "m") => {
    const embedding = { model, inputs: ["a"], user: "", extraJson: {} };
    return (await router.embed({ embedding }, call)).attempts;
  },
};

describe.each(Object.entries(WAYS))("a request, %s", (way, ask) => {
  it("goes to the first worker, under that worker's own name of the model", async () => {
    const mesh = new FakeMesh({ a: { ...saying("hi"), models: ["m:latest"] }, b: saying("no") });
    expect(await ask(mesh.router())).toBe(1);
    expect(mesh.asked).toEqual(["a@here"]);
    if (way !== "for vectors") expect(mesh.requests).toEqual([{ ...request, model: "m:latest" }]);
  });

  it("goes to the next worker as long as one fails, whatever the failure", async () => {
    const mesh = new FakeMesh({
      a: failing(overloaded),
      b: failing(new RpcError("PROVIDER_REFUSED_KEY", "wrong key")),
      c: failing(new TypeError("a defect, with a secret in it")),
      d: failing(new RpcError("PROVIDER_UNREACHABLE", "gone")),
      e: saying("hi"),
    });
    expect(await ask(mesh.router())).toBe(5);
    expect(mesh.asked).toEqual(["a@here", "b@here", "c@here", "d@here", "e@here"]);
    expect(mesh.outcomes()).toEqual([
      ["a", FAILED, "PROVIDER_OVERLOADED"],
      ["b", FAILED, "PROVIDER_REFUSED_KEY"],
      ["c", FAILED, "INTERNAL"],
      ["d", FAILED, "PROVIDER_UNREACHABLE"],
      ["e", SERVED, ""],
    ]);
    expect(mesh.events.map(({ attempt }) => attempt)).toEqual([1, 2, 3, 4, 5]);
  });

  it("is tried no more often than it may be", async () => {
    const mesh = new FakeMesh({ a: failing(overloaded), b: failing(overloaded), c: saying("too late") });
    const error = await failureOf(ask(mesh.router({ attemptsMax: 2 })));
    expect(error.reason).toBe("NO_WORKERS_AVAILABLE");
    expect(mesh.asked).toEqual(["a@here", "b@here"]);
  });

  it("that is itself at fault is not tried elsewhere", async () => {
    const mesh = new FakeMesh({
      a: failing(new RpcError("CONTEXT_LENGTH_EXCEEDED", "too long", { field: "messages" })),
      b: saying("hi"),
    });
    const error = await failureOf(ask(mesh.router()));
    expect(error).toMatchObject({ reason: "CONTEXT_LENGTH_EXCEEDED", message: "too long", field: "messages" });
    expect(mesh.asked).toEqual(["a@here"]);
    expect(mesh.outcomes()).toEqual([["a", FAILED, "CONTEXT_LENGTH_EXCEEDED"]]);
  });

  it("that nobody can serve is answered with every reason and the shortest wait", async () => {
    const mesh = new FakeMesh({
      a: failing(new RpcError("PROVIDER_RATE_LIMITED", "slow down", { retryAfterMs: 9_000 })),
      b: failing(new RpcError("PROVIDER_RATE_LIMITED", "slower", { retryAfterMs: 2_500 })),
      c: failing(new TypeError("a defect, with a secret in it")),
    });
    const error = await failureOf(ask(mesh.router()));
    expect(error.reason).toBe("NO_WORKERS_AVAILABLE");
    // What has passed since the worker said so is taken off.
    expect(error.retryAfterMs).toBeGreaterThan(2_400);
    expect(error.retryAfterMs).toBeLessThan(2_500);
    expect(error.attempts).toMatchObject([
      { worker: "a", reason: "PROVIDER_RATE_LIMITED", message: "slow down" },
      { worker: "b", reason: "PROVIDER_RATE_LIMITED", message: "slower" },
      { worker: "c", reason: "INTERNAL" },
    ]);
    expect(error.message).toMatch(
      /a: PROVIDER_RATE_LIMITED \(slow down\); b: .*; c: INTERNAL.*\. Try again; operators: /,
    );
    expect(error.message).not.toContain("secret");
    expect(mesh.logged.some((line) => line.includes("no workers available"))).toBe(true);
  });

  it("is in the log once, with what is for the log alone and without a stack, and with none of that for the client", async () => {
    const forLog = "no answer from 10.1.2.3:80";
    const away = new RpcError("PROVIDER_UNREACHABLE", "no answer", { forLog, cause: new Error("ECONNREFUSED") });
    const long = new RpcError("CONTEXT_LENGTH_EXCEEDED", "too long", { forLog });
    const mesh = new FakeMesh({ a: failing(away), b: failing(long) });
    const error = await failureOf(ask(mesh.router()));
    expect(error).toMatchObject({ reason: "CONTEXT_LENGTH_EXCEEDED", message: "too long" });
    expect(error.forLog).toBeUndefined();
    const lines = mesh.logged.map((line) => JSON.parse(line) as { worker: string; level: number; message: string });
    expect(lines.map(({ worker, level, message }) => [worker, level, message])).toEqual([
      ["a", 40, `attempt failed: ${forLog}`],
      ["b", 40, `attempt failed: ${forLog}`],
    ]);
    expect(mesh.logged.join()).not.toMatch(/stack|\bat /);
    const alone = await failureOf(ask(new FakeMesh({ a: failing(away) }).router()));
    expect(JSON.stringify([alone.message, alone.attempts])).not.toContain("10.1.2.3");
    expect(alone.forLog).toBeUndefined();
  });

  it("that every worker refuses for the same parameter names that parameter", async () => {
    const refusing = failing(new RpcError("UNSUPPORTED_PARAMETER", "n: one at a time", { field: "n" }));
    const error = await failureOf(ask(new FakeMesh({ a: refusing, b: refusing }).router()));
    expect(error).toMatchObject({ reason: "UNSUPPORTED_PARAMETER", message: "n: one at a time", field: "n" });
    const mixed = await failureOf(ask(new FakeMesh({ a: refusing, b: failing(overloaded) }).router()));
    expect(mixed.reason).toBe("NO_WORKERS_AVAILABLE");
  });

  it("for a model that no provider has after all is not found", async () => {
    const without = failing(new RpcError("PROVIDER_MODEL_NOT_FOUND", "no such model"));
    const error = await failureOf(ask(new FakeMesh({ a: without, b: without }).router()));
    expect(error).toMatchObject({ reason: "MODEL_NOT_FOUND", field: "model" });
    expect(error.message).toContain('"m"');
    expect(await ask(new FakeMesh({ a: without, b: saying("hi") }).router())).toBe(2);
  });

  it("goes to the same worker on another node when a node is lost, and to the next worker when none is left", async () => {
    const lost = new RpcError("NODE_UNREACHABLE", "lost");
    const leaving = new RpcError("NODE_DRAINING", "leaving");
    const failures: Record<string, Error> = { n1: lost, n2: leaving, n3: lost };
    const on = (nodes: string[], survivors: string[]): Behaviour => {
      const good = saying("hi");
      return {
        nodes,
        stream: (completion, heard, node) =>
          (survivors.includes(node) ? good : failing(failures[node]!)).stream!(completion, heard, node),
        complete: (completion, heard, node) =>
          (survivors.includes(node) ? good : failing(failures[node]!)).complete!(completion, heard, node),
      };
    };
    const mesh = new FakeMesh({ a: on(["n1", "n2", "n3"], ["n3"]), b: saying("no") });
    expect(await ask(mesh.router())).toBe(3);
    expect(mesh.asked).toEqual(["a@n1", "a@n2", "a@n3"]);
    expect(mesh.events.map(({ node }) => node)).toEqual(["n1", "n2", "n3"]);

    const gone = new FakeMesh({ a: on(["n1", "n2"], []), b: saying("hi") });
    expect(await ask(gone.router())).toBe(3);
    expect(gone.asked).toEqual(["a@n1", "a@n2", "b@here"]);
  });

  it("does not go to another node of a worker whose provider failed", async () => {
    const mesh = new FakeMesh({ a: { ...failing(overloaded), nodes: ["n1", "n2"] }, b: saying("hi") });
    await ask(mesh.router());
    expect(mesh.asked).toEqual(["a@n1", "b@here"]);
  });

  it("is given up, without another attempt, when its caller goes away", async () => {
    const mesh = new FakeMesh({
      a: {
        stream: (_request, heard) => ({
          [Symbol.asyncIterator]: () => ({ next: () => untilAborted(heard.signal) }),
        }),
        complete: (_request, heard) => untilAborted(heard.signal),
      },
      b: saying("no"),
    });
    const failure = failureOf(ask(mesh.router()));
    await vi.waitFor(() => expect(mesh.asked).toEqual(["a@here"]));
    call.cancel();
    expect((await failure).reason).toBe("CANCELLED");
    await vi.waitFor(() => expect(mesh.events).toHaveLength(1));
    // Whatever else was on its way has arrived after a turn.
    await new Promise((resolve) => setImmediate(resolve));
    expect(mesh.outcomes()).toEqual([["a", CANCELLED, "CANCELLED"]]);
    expect(mesh.asked).toEqual(["a@here"]);
  });

  it("ends at its deadline, and the attempt is told why", async () => {
    const mesh = new FakeMesh({
      a: {
        stream: () => ({ [Symbol.asyncIterator]: () => ({ next: () => new Promise(() => {}) }) }),
        complete: () => new Promise(() => {}),
      },
      b: saying("no"),
    });
    call = startCall({ tenant: "team-a", requestId: "r", trace: NO_TRACE, deadlineAtMs: Date.now() + 30 });
    expect((await failureOf(ask(mesh.router()))).reason).toBe("DEADLINE_EXCEEDED");
    await vi.waitFor(() => expect(mesh.events).toHaveLength(1));
    expect(mesh.events[0]!.outcome).not.toBe(SERVED);
    expect(mesh.asked).toEqual(["a@here"]);
  });

  it("is accounted for, attempt by attempt", async () => {
    const mesh = new FakeMesh({ a: failing(overloaded), b: saying("hi", "there") });
    await ask(mesh.router({ routes: { fast: ["m"] } }), "fast");
    const common = {
      requestId: "request-1",
      tenant: "team-a",
      requestedModel: "fast",
      model: "m",
      provider: "p",
      node: HERE,
      stream: way === "streamed",
    };
    expect(mesh.events).toMatchObject([
      { ...common, attempt: 1, worker: "a", outcome: FAILED, usageSource: UsageSource.UNKNOWN, timeToFirstTokenMs: 0 },
      {
        ...common,
        attempt: 2,
        worker: "b",
        outcome: SERVED,
        reason: "",
        usage: { inputTokens: 3, outputTokens: 2 },
        usageSource: UsageSource.REPORTED,
      },
    ]);
    expect(mesh.events[0]!.usage).toBeUndefined();
    expect(mesh.events[1]!.durationMs).toBeGreaterThan(0);
    if (way === "streamed") expect(mesh.events[1]!.timeToFirstTokenMs).toBeGreaterThan(0);
  });

  it("for a model that does not exist reaches nobody", async () => {
    const mesh = new FakeMesh({ a: saying("hi") });
    expect((await failureOf(ask(mesh.router(), "other"))).reason).toBe("MODEL_NOT_FOUND");
    expect(await failureOf(ask(mesh.router(), ""))).toMatchObject({ reason: "INVALID_REQUEST", field: "model" });
    expect(mesh.asked).toEqual([]);
    expect(mesh.events).toEqual([]);
  });
});

function untilAborted(signal: AbortSignal): Promise<never> {
  return new Promise((_, reject) => {
    if (signal.aborted) reject(signal.reason as Error);
    signal.addEventListener("abort", () => reject(signal.reason as Error), { once: true });
  });
}

describe("a streamed answer", () => {
  it("holds back what comes before the first content, and delivers it once, of the worker that serves", async () => {
    const mesh = new FakeMesh({
      a: {
        async *stream() {
          yield chunk(served("a"), warning("FROM_A"));
          yield chunk(text(""));
          throw overloaded;
        },
      },
      b: {
        async *stream() {
          yield chunk(served("b"));
          yield chunk(warning("FROM_B"), text(""));
          yield chunk(text("hi"));
          yield chunk(text(" there"));
          yield chunk(finish);
        },
      },
    });
    expect(await read(mesh.router().stream({ completion: request }, call))).toEqual([
      { parts: [served("b"), warning("FROM_B"), text(""), text("hi")], attempts: 2 },
      { parts: [text(" there")], attempts: 0 },
      { parts: [finish], attempts: 0 },
    ]);
  });

  const value = { text: "x", choice: 0, logprobs: [] };
  const toolCall = { choice: 0, index: 0, id: "c", name: "f", argumentsJson: "", signature: "" };
  it.each<[string, Part]>([
    ["reasoning", { part: { $case: "reasoning", value } }],
    ["a refusal", { part: { $case: "refusal", value } }],
    ["a tool call", { part: { $case: "toolCall", value: toolCall } }],
  ])("has begun with %s, after which no other worker is tried", async (_name, part) => {
    const mesh = new FakeMesh({
      a: {
        async *stream() {
          yield chunk(served("a"), part);
          throw overloaded;
        },
      },
      b: saying("no"),
    });
    const seen: StreamResponse[] = [];
    const error = await failureOf(
      (async () => {
        for await (const response of mesh.router().stream({ completion: request }, call)) seen.push(response);
      })(),
    );
    expect(seen).toEqual([{ parts: [served("a"), part], attempts: 1 }]);
    expect(error.reason).toBe("STREAM_INTERRUPTED");
    expect(error.attempts).toMatchObject([{ worker: "a", reason: "PROVIDER_OVERLOADED" }]);
    expect(mesh.asked).toEqual(["a@here"]);
    expect(mesh.outcomes()).toEqual([["a", INTERRUPTED, "PROVIDER_OVERLOADED"]]);
  });

  it("is whole once it has its end, whatever becomes of the worker after that", async () => {
    const mesh = new FakeMesh({
      a: {
        async *stream() {
          yield chunk(served("a"), text("x"), finish);
          throw overloaded;
        },
      },
    });
    expect(await read(mesh.router().stream({ completion: request }, call))).toEqual([
      { parts: [served("a"), text("x"), finish], attempts: 1 },
    ]);
    expect(mesh.outcomes()).toEqual([["a", SERVED, ""]]);
  });

  it("keeps the account of a stream that broke, with the usage that was reported until then", async () => {
    const mesh = new FakeMesh({
      a: {
        async *stream() {
          yield chunk(served("a"), text("x"), usage({ outputTokens: 1 }));
          throw overloaded;
        },
      },
    });
    await failureOf(read(mesh.router().stream({ completion: request }, call)));
    expect(mesh.events).toMatchObject([{ outcome: INTERRUPTED, usage: { outputTokens: 1 } }]);
  });

  it("that ends without any content is a failure of its worker", async () => {
    const mesh = new FakeMesh({
      a: {
        async *stream() {
          yield chunk(served("a"));
        },
      },
      b: saying("hi"),
    });
    expect(textOf(await read(mesh.router().stream({ completion: request }, call)))).toBe("hi");
    expect(mesh.outcomes()).toEqual([
      ["a", FAILED, "PROVIDER_STREAM_CUT"],
      ["b", SERVED, ""],
    ]);
  });

  it("is not held back without bound", async () => {
    let sent = 0;
    const mesh = new FakeMesh({
      a: {
        async *stream() {
          for (;;) {
            sent++;
            yield chunk(warning("AGAIN"));
          }
        },
      },
    });
    const iterator = mesh.router().stream({ completion: request }, call)[Symbol.asyncIterator]();
    const { value: first } = await iterator.next();
    expect((first as StreamResponse).parts.length).toBe(sent);
    expect(sent).toBeLessThan(100);
    await iterator.return?.();
  });

  it("closes the provider's stream when its reader leaves, before or after the first content", async () => {
    const closed = vi.fn();
    const endless: Behaviour = {
      stream: (_request, heard) => ({
        [Symbol.asyncIterator]: () => {
          let words = 0;
          return {
            next: async () =>
              words++ < 2 ? { done: false, value: chunk(text("x")) } : await untilAborted(heard.signal),
            return: async () => {
              closed();
              return { done: true, value: undefined };
            },
          };
        },
      }),
    };
    const mesh = new FakeMesh({ a: endless });
    for await (const _ of mesh.router().stream({ completion: request }, call)) break;
    expect(closed).toHaveBeenCalledTimes(1);
    expect(mesh.outcomes()).toEqual([["a", CANCELLED, "CANCELLED"]]);
    expect(mesh.events[0]!.timeToFirstTokenMs).toBeGreaterThan(0);

    // While the next word is waited for, the caller's signal does it.
    const iterator = mesh.router().stream({ completion: request }, call)[Symbol.asyncIterator]();
    await iterator.next();
    await iterator.next();
    const rest = failureOf(iterator.next());
    call.cancel();
    expect((await rest).reason).toBe("CANCELLED");
    await vi.waitFor(() => expect(closed).toHaveBeenCalledTimes(2));
    expect(mesh.events).toHaveLength(2);
  });

  it("reads no faster than it is read", async () => {
    let sent = 0;
    const mesh = new FakeMesh({
      a: {
        async *stream() {
          for (;;) {
            sent++;
            yield chunk(text("x"));
          }
        },
      },
    });
    const iterator = mesh.router().stream({ completion: request }, call)[Symbol.asyncIterator]();
    for (let word = 1; word <= 3; word++) {
      await iterator.next();
      expect(sent).toBe(word);
    }
    await iterator.return?.();
  });

  it("costs nothing until it is read", async () => {
    const mesh = new FakeMesh({ a: saying("hi") });
    const stream = mesh.router().stream({ completion: request }, call);
    expect(mesh.asked).toEqual([]);
    expect(textOf(await read(stream))).toBe("hi");
  });
});

describe("the node that serves a worker", () => {
  it("is this one where it can be", async () => {
    const mesh = new FakeMesh({ a: { ...saying("hi"), nodes: ["n1", HERE, "n2"] } });
    mesh.callsInFlight[HERE] = 1_000;
    await WAYS["whole"]!(mesh.router());
    expect(mesh.asked).toEqual(["a@here"]);
  });

  it("is else the less busy of two random ones", async () => {
    const mesh = new FakeMesh({ a: { ...saying("hi"), nodes: ["n1", "n2", "n3"] } });
    Object.assign(mesh.callsInFlight, { n1: 5, n2: 1, n3: 0 });
    mesh.randoms = [0, 0.5];
    await WAYS["whole"]!(mesh.router());
    mesh.randoms = [0.99, 0];
    await WAYS["whole"]!(mesh.router());
    expect(mesh.asked).toEqual(["a@n2", "a@n3"]);
  });

  it("is one that drains only if there is no other", async () => {
    const mesh = new FakeMesh({ a: { ...saying("hi"), nodes: ["n1", "n2"] } });
    mesh.callsInFlight["n2"] = 50;
    mesh.draining.add("n1");
    await WAYS["whole"]!(mesh.router());
    mesh.draining.add("n2");
    await WAYS["whole"]!(mesh.router());
    expect(mesh.asked).toEqual(["a@n2", "a@n1"]);
  });
});

describe("what the router knows of the mesh", () => {
  it("is read again only when the directory has changed", async () => {
    const mesh = new FakeMesh({ a: saying("hi") });
    const router = mesh.router();
    for (let index = 0; index < 5; index++) await WAYS["whole"]!(router);
    expect(mesh.reads).toBe(1);
    mesh.workers = { b: saying("hi") };
    mesh.generation++;
    await WAYS["whole"]!(router);
    expect(mesh.reads).toBe(2);
    expect(mesh.asked.at(-1)).toBe("b@here");
  });

  it("is told as models: by name, by worker, by route, and auto", async () => {
    const mesh = new FakeMesh({ a: { models: ["m", "n"] }, b: { models: ["m"] } });
    const { models } = await mesh.router({ routes: { fast: ["b/m", "n"] } }).listModels({}, call);
    expect(models.map(({ id, workers }) => [id, workers])).toEqual([
      ["a/m", ["a"]],
      ["a/n", ["a"]],
      ["auto", ["a", "b"]],
      ["b/m", ["b"]],
      ["fast", ["b/m", "n"]],
      ["m", ["a", "b"]],
      ["n", ["a"]],
    ]);
    expect(models.find(({ id }) => id === "m")?.ownedBy).toBe("p");
    expect((await new FakeMesh({}).router().listModels({}, call)).models).toEqual([]);
  });
});

describe("a request that says too little", () => {
  const router = new FakeMesh({ a: saying("hi") }).router();
  it.each<[string, () => Promise<unknown>]>([
    ["completion", () => router.complete({}, call)],
    ["completion", () => read(router.stream({}, call))],
    ["messages", () => router.complete({ completion: { ...request, messages: [] } }, call)],
    ["embedding", () => router.embed({}, call)],
    ["input", () => router.embed({ embedding: { model: "m", inputs: [], user: "", extraJson: {} } }, call)],
  ])("is refused by the field %s", async (field, ask) => {
    expect(await failureOf(ask())).toMatchObject({ reason: "INVALID_REQUEST", field });
  });
});
