/** The keys of a worker against a server that limits and refuses each key on its own. */
import type { IncomingMessage, ServerResponse } from "node:http";
import { describe, expect, it } from "vitest";
import { BreakerState, Health, KeyState } from "../gen/cortex/provider/v1/provider.ts";
import { type Reason, RpcError } from "../rpc/index.ts";
import type { Dialect } from "./dialect.ts";
import {
  collect,
  createTestDialect,
  createTestWorker,
  GOOD,
  kinds,
  REQUEST,
  serveHttp,
  startSse,
  startTestCall,
  type TestWorker,
  until,
  wire,
} from "./test-provider.ts";
import type { WorkerChange } from "./worker.ts";

const { AVAILABLE, RESTING, OUT } = KeyState;

/** As the errors of the test dialect, with the reasons that are about keys and the wait that the header names. */
const KEYED: Partial<Dialect> = {
  error: (status, headers, body) => {
    const reasons: Record<number, Reason> = {
      401: "PROVIDER_REFUSED_KEY",
      402: "PROVIDER_QUOTA_EXHAUSTED",
      429: "PROVIDER_RATE_LIMITED",
      500: "PROVIDER_ERROR",
    };
    const wait = Number(headers["retry-after-ms"]);
    const retryAfterMs = Number.isFinite(wait) ? wait : undefined;
    return new RpcError(reasons[status] ?? "INVALID_REQUEST", `${status}: ${body}`, { retryAfterMs });
  },
};

interface Answer {
  readonly status: number;
  readonly retryAfterMs?: number;
  readonly headers?: Readonly<Record<string, string>>;
}

/** What each key gets, and with which key each request came. */
async function serveKeys(answer: (key: string, path: string) => Answer) {
  const seen: string[] = [];
  const handler = (request: IncomingMessage, response: ServerResponse) => {
    let body = "";
    request.on("data", (piece: Buffer) => (body += piece.toString()));
    request.on("end", () => {
      const key = request.headers.authorization?.replace("Bearer ", "") ?? "";
      const path = request.url ?? "";
      if (path === "/chat") seen.push(key);
      const { status, retryAfterMs, headers = {} } = answer(key, path);
      for (const [name, value] of Object.entries(headers)) response.setHeader(name, value);
      if (status !== 200) {
        if (retryAfterMs !== undefined) response.setHeader("retry-after-ms", String(retryAfterMs));
        response.writeHead(status).end(`no, ${key}`);
      } else if (path !== "/chat") response.end("[]");
      else if (body.includes('"stream":true')) startSse(response).end(GOOD);
      else response.writeHead(200, { "content-type": "application/json" }).end('{"text":"Hello"}');
    });
  };
  return Object.assign(await serveHttp(handler), { seen });
}

function createWorker(
  url: string,
  keys: readonly string[],
  more: Partial<Parameters<typeof createTestWorker>[2]> = {},
) {
  const changes: WorkerChange[] = [];
  const worker = createTestWorker(
    url,
    { keys, pool: { connections: 20 } },
    { dialect: createTestDialect("sse", KEYED), recording: true, ...more },
  );
  worker.onChange((change) => changes.push(change));
  const keyStates = () => changes.flatMap((change) => (typeof change === "object" ? [change.state] : []));
  return Object.assign(worker, { changes, keyStates });
}

function states(worker: TestWorker): KeyState[] {
  return worker.info().keys.map(({ state }) => state);
}

/** One request, whole or streamed: the error, if there was one. */
async function ask(worker: TestWorker, stream: boolean): Promise<RpcError | undefined> {
  if (!stream)
    return worker.complete(REQUEST, startTestCall()).then(
      () => undefined,
      (error: RpcError) => error,
    );
  const { error, parts } = await collect(worker.stream(REQUEST, startTestCall()));
  if (error === undefined) expect(kinds(parts)).toEqual(["served", "text", "text", "finish", "usage"]);
  return error;
}

describe.each([
  ["streamed", true],
  ["whole", false],
])("the keys of a worker, answers %s", (_name, stream) => {
  it("are used in turn", async () => {
    await using server = await serveKeys(() => ({ status: 200 }));
    await using worker = createWorker(server.url, ["k1", "k2"]);
    for (let count = 0; count < 3; count += 1) expect(await ask(worker, stream)).toBeUndefined();
    expect(server.seen).toEqual(["k1", "k2", "k1"]);
    expect(worker.info().keys).toMatchObject([
      { state: AVAILABLE, requests: 2, inFlight: 0 },
      { state: AVAILABLE, requests: 1, inFlight: 0 },
    ]);
  });

  it("are named by their fingerprints: the one that answered, or failed", async () => {
    const statuses: Record<string, number> = { k1: 429, k2: 200 };
    await using server = await serveKeys((key) => ({ status: statuses[key] ?? 200, retryAfterMs: 60_000 }));
    await using worker = createWorker(server.url, ["k1", "k2"]);
    const [first, second] = worker.info().keys.map(({ fingerprint }) => fingerprint);
    if (stream) {
      const { keys } = await collect(worker.stream(REQUEST, startTestCall()));
      // The first chunk alone says it.
      expect(keys.filter((key) => key !== "")).toEqual([second]);
      expect(keys[0]).toBe(second);
    } else expect(await worker.complete(REQUEST, startTestCall())).toMatchObject({ key: second });
    statuses["k2"] = 500;
    expect(await ask(worker, stream)).toMatchObject({ reason: "PROVIDER_ERROR", key: second });
    statuses["k2"] = 401;
    expect(await ask(worker, stream)).toMatchObject({ reason: "PROVIDER_REFUSED_KEY", key: second });
    // Nothing was sent.
    const refused = await ask(worker, stream);
    expect(refused?.reason).toBe("PROVIDER_RATE_LIMITED");
    expect(refused?.key).toBeUndefined();
    expect(first).toMatch(/^[0-9a-f]{8}$/);
    await using keyless = createWorker(server.url, []);
    if (stream) expect(new Set((await collect(keyless.stream(REQUEST, startTestCall()))).keys)).toEqual(new Set([""]));
    else expect(await keyless.complete(REQUEST, startTestCall())).toMatchObject({ key: "" });
  });

  it("hide their limits from clients while one of them has room", async () => {
    const left = new Map([
      ["k1", 5],
      ["k2", 10],
      ["k3", 60],
    ]);
    await using server = await serveKeys((key) => {
      const remaining = left.get(key)! - 1;
      left.set(key, remaining);
      return remaining < 0 ? { status: 429, retryAfterMs: 60_000 } : { status: 200 };
    });
    await using worker = createWorker(server.url, ["k1", "k2", "k3"]);
    for (let round = 0; round < 15; round += 1) {
      const errors = await Promise.all(Array.from({ length: 5 }, () => ask(worker, stream)));
      expect(errors.filter(Boolean)).toEqual([]);
    }
    expect(states(worker)).toEqual([RESTING, RESTING, AVAILABLE]);
    // Nothing more was sent with a key once its answer had come: five are on their way at once.
    for (const key of ["k1", "k2"]) expect(left.get(key)!).toBeGreaterThanOrEqual(-5);
    expect(worker.info()).toMatchObject({ health: Health.AVAILABLE, breaker: BreakerState.CLOSED, activeRequests: 0 });
    expect(worker.info().keys.map(({ inFlight }) => inFlight)).toEqual([0, 0, 0]);

    left.set("k3", 0);
    const error = await ask(worker, stream);
    expect(error).toMatchObject({ reason: "PROVIDER_RATE_LIMITED", retryAfterMs: expect.any(Number) });
    expect(error?.retryAfterMs).toBeGreaterThan(50_000);
    expect(error?.retryAfterMs).toBeLessThanOrEqual(60_000);
  });

  it("are each tried once by a request, each in a span of its own", async () => {
    await using server = await serveKeys((key) => ({ status: key === "k3" ? 200 : key === "k1" ? 429 : 401 }));
    await using worker = createWorker(server.url, ["k1", "k2", "k3"]);
    expect(await ask(worker, stream)).toBeUndefined();
    expect(server.seen).toEqual(["k1", "k2", "k3"]);
    const prints = worker.info().keys.map(({ fingerprint }) => fingerprint);
    expect(worker.spans.map(({ name, ends }) => [name, ends])).toEqual([
      ["chat m", 1],
      ["chat m", 1],
      ["chat m", 1],
    ]);
    expect(worker.spans.map(({ attributes }) => attributes["cortex.key"])).toEqual(prints);
    expect(worker.spans.map(({ failure }) => failure?.type)).toEqual([
      "PROVIDER_RATE_LIMITED",
      "PROVIDER_REFUSED_KEY",
      undefined,
    ]);
    expect(worker.spans.map(({ attributes }) => attributes["http.response.status_code"])).toEqual([429, 401, 200]);
  });

  it("go out when they are refused, with a line in the log, and the others serve", async () => {
    await using server = await serveKeys((key) => ({ status: key === "k1" ? 401 : 200 }));
    await using worker = createWorker(server.url, ["k1", "k2", "k3"]);
    for (let count = 0; count < 6; count += 1) expect(await ask(worker, stream)).toBeUndefined();
    expect(server.seen.filter((key) => key === "k1")).toHaveLength(1);
    expect(states(worker)).toEqual([OUT, AVAILABLE, AVAILABLE]);
    expect(worker.keyStates()).toEqual([OUT]);
    const { fingerprint } = worker.info().keys[0]!;
    const lines = worker.lines.map((line) => JSON.parse(line));
    const line = { level: 50, worker: "w", key: fingerprint, reason: "PROVIDER_REFUSED_KEY" };
    expect(lines).toContainEqual(expect.objectContaining(line));
    expect(worker.info().health).toBe(Health.AVAILABLE);
    // Others serve, so a health check leaves it alone for a long while.
    expect(await worker.checkHealth(startTestCall())).toMatchObject({ health: Health.AVAILABLE });
    expect(states(worker)).toEqual([OUT, AVAILABLE, AVAILABLE]);
  });

  it("rest all, say when the first is back, send nothing until then, and come back by themselves", async () => {
    let full = true;
    const waits = new Map([
      ["k1", 1_600],
      ["k2", 1_000],
      ["k3", 1_300],
    ]);
    await using server = await serveKeys((key) =>
      full ? { status: 429, retryAfterMs: waits.get(key)! } : { status: 200 },
    );
    await using worker = createWorker(server.url, ["k1", "k2", "k3"]);
    const startedAtMs = Date.now();
    const first = await ask(worker, stream);
    expect(first).toMatchObject({ reason: "PROVIDER_RATE_LIMITED", message: expect.stringContaining("429") });
    const told = first!.retryAfterMs!;
    expect(told).toBeLessThanOrEqual(1_000);
    expect(told).toBeGreaterThan(1_000 - (Date.now() - startedAtMs) - 1);
    expect(server.seen).toEqual(["k1", "k2", "k3"]);
    expect(worker.info()).toMatchObject({ health: Health.BUSY, breaker: BreakerState.CLOSED, activeRequests: 0 });

    const second = await ask(worker, stream);
    expect(second).toMatchObject({ reason: "PROVIDER_RATE_LIMITED" });
    expect(second!.retryAfterMs).toBeLessThanOrEqual(told);
    const health = await worker.checkHealth(startTestCall());
    expect(health).toMatchObject({ health: Health.BUSY, message: expect.stringContaining("Retry-After") });
    expect(server.seen).toHaveLength(3);

    full = false;
    // Timers and the clock are rounded each in its own way, and may differ by a millisecond.
    await new Promise((resolve) => setTimeout(resolve, second!.retryAfterMs! + 10));
    expect(await ask(worker, stream)).toBeUndefined();
    expect(server.seen).toEqual(["k1", "k2", "k3", "k2"]);
    await until(() => states(worker).every((state) => state === AVAILABLE));
    await until(() => worker.keyStates().length === 6);
    expect(worker.keyStates()).toEqual([RESTING, RESTING, RESTING, AVAILABLE, AVAILABLE, AVAILABLE]);
    expect(worker.info().health).toBe(Health.AVAILABLE);
  });

  it("tell of several errors the one that waiting helps against, and any other error as it is", async () => {
    const answers: Record<string, Answer> = {
      k1: { status: 429, retryAfterMs: 60_000 },
      k2: { status: 402 },
      k3: { status: 401 },
    };
    await using server = await serveKeys((key) => answers[key]!);
    await using limited = createWorker(server.url, ["k1", "k2", "k3"]);
    const error = await ask(limited, stream);
    expect(error).toMatchObject({ reason: "PROVIDER_RATE_LIMITED", message: "429: no, …" });
    expect(error?.retryAfterMs).toBeGreaterThan(50_000);
    expect(states(limited)).toEqual([RESTING, RESTING, OUT]);

    await using refused = createWorker(server.url, ["k3"]);
    expect(await ask(refused, stream)).toMatchObject({ reason: "PROVIDER_REFUSED_KEY", retryAfterMs: undefined });
    expect(await ask(refused, stream)).toMatchObject({ reason: "PROVIDER_REFUSED_KEY" });
    expect(refused.info().health).toBe(Health.UNAVAILABLE);

    answers["k2"] = { status: 500 };
    await using failing = createWorker(server.url, ["k1", "k2", "k3"]);
    expect(await ask(failing, stream)).toMatchObject({ reason: "PROVIDER_ERROR" });
    expect(states(failing)).toEqual([RESTING, AVAILABLE, AVAILABLE]);
    expect(failing.info().breakerStatistics).toMatchObject({ failures: 1 });

    answers["k2"] = { status: 400 };
    await using wrong = createWorker(server.url, ["k2", "k1"]);
    expect(await ask(wrong, stream)).toMatchObject({ reason: "INVALID_REQUEST" });
    expect(wrong.info().keys[1]).toMatchObject({ requests: 0 });
  });

  it("count for limits and breaker as one request, however many are tried", async () => {
    const active: number[] = [];
    await using server = await serveKeys((key) => {
      active.push(worker.info().activeRequests);
      return { status: key === "k3" ? 200 : 429 };
    });
    await using worker = createTestWorker(
      server.url,
      { keys: ["k1", "k2", "k3"], limits: { concurrent: 1 } },
      { dialect: createTestDialect("sse", KEYED) },
    );
    expect(await ask(worker, stream)).toBeUndefined();
    expect(active).toEqual([1, 1, 1]);
    expect(worker.info().breakerStatistics).toMatchObject({ successes: 1, failures: 0 });
  });

  it("are chosen by what the headers say is left", async () => {
    await using server = await serveKeys((key) => ({
      status: 200,
      headers: { "x-ratelimit-remaining-requests": key === "k1" ? "0" : "50", "x-ratelimit-reset-requests": "1m0s" },
    }));
    await using worker = createWorker(server.url, ["k1", "k2"]);
    for (let count = 0; count < 4; count += 1) await ask(worker, stream);
    expect(server.seen).toEqual(["k1", "k2", "k2", "k2"]);
    expect(worker.info().keys).toMatchObject([{ remainingRequests: 0 }, { remainingRequests: 50 }]);
  });
});

describe("a request that moves to the next key", () => {
  it("does so for an error inside a 200, but not once something was handed out", async () => {
    let beginning = "";
    const seen: (string | undefined)[] = [];
    await using server = await serveHttp((request, response) => {
      request.resume();
      seen.push(request.headers.authorization);
      if (request.headers.authorization === "Bearer k1") {
        startSse(response).end(beginning + wire("sse", { error: "limited" }));
      } else startSse(response).end(GOOD);
    });
    const base = createTestDialect("sse");
    const dialect: Dialect = {
      ...base,
      chatEvents(context) {
        const reader = base.chatEvents(context);
        return {
          complete: () => reader.complete(),
          read(event, parts) {
            if (event.data.includes("error")) throw new RpcError("PROVIDER_RATE_LIMITED", "slow down");
            reader.read(event, parts);
          },
        };
      },
    };
    await using worker = createTestWorker(server.url, { keys: ["k1", "k2"] }, { dialect });
    const moved = await collect(worker.stream(REQUEST, startTestCall()));
    expect([moved.error, moved.text]).toEqual([undefined, "Hello"]);
    expect(seen).toEqual(["Bearer k1", "Bearer k2"]);

    beginning = wire("sse", { id: "a-1" });
    await using other = createTestWorker(server.url, { keys: ["k1", "k2"] }, { dialect });
    const begun = await collect(other.stream(REQUEST, startTestCall()));
    expect(begun.error?.reason).toBe("PROVIDER_RATE_LIMITED");
    expect(kinds(begun.parts)).toEqual(["served"]);
    expect(states(other)).toEqual([RESTING, AVAILABLE]);
  });

  it("is given up with its call, and slows its provider down, as any other", async () => {
    let held = 0;
    await using server = await serveHttp((request, response) => {
      request.resume();
      if (request.headers.authorization === "Bearer k1") response.writeHead(429).end("no");
      else {
        held += 1;
        startSse(response, wire("sse", { text: "first" }));
      }
    });
    await using worker = createWorker(server.url, ["k1", "k2"]);
    const call = startTestCall();
    const streamed = collect(worker.stream(REQUEST, call));
    await until(() => held === 1);
    call.abort();
    expect((await streamed).error?.reason).toBe("CANCELLED");
    const iterator = worker.stream(REQUEST, startTestCall())[Symbol.asyncIterator]();
    expect((await iterator.next()).done).toBe(false);
    await iterator.return?.();
    await until(() => worker.info().pool?.running === 0);
    expect(worker.info()).toMatchObject({ activeRequests: 0, breaker: BreakerState.CLOSED });
    expect(worker.info().keys.map(({ inFlight }) => inFlight)).toEqual([0, 0]);
  });

  it("has no more time for all keys than for one", async () => {
    await using server = await serveHttp((request, response) => {
      request.resume();
      const refused = request.headers.authorization === "Bearer k1";
      if (refused) setTimeout(() => response.writeHead(429).end("no"), 600);
    });
    await using worker = createTestWorker(
      server.url,
      { keys: ["k1", "k2"], timeouts: { totalMs: 1_000 } },
      { dialect: createTestDialect("sse", KEYED) },
    );
    const startedAtMs = performance.now();
    expect(await ask(worker, false)).toMatchObject({ reason: "PROVIDER_TIMEOUT" });
    const tookMs = performance.now() - startedAtMs;
    expect(tookMs).toBeGreaterThan(990);
    expect(tookMs).toBeLessThan(1_550);
  });

  it("does so while its worker is being closed", async () => {
    let arrived = false;
    await using server = await serveHttp((request, response) => {
      request.resume();
      arrived = true;
      if (request.headers.authorization === "Bearer k1") setTimeout(() => response.writeHead(429).end("no"), 50);
      else response.end('{"text":"Hello"}');
    });
    await using worker = createWorker(server.url, ["k1", "k2"], { dependencies: { closeWaitMs: 5_000 } });
    const asked = ask(worker, false);
    await until(() => arrived);
    await worker.close();
    expect(await asked).toBeUndefined();
  });
});

describe("a refused key", () => {
  it("is taken back by the next health check when there is no other, and the worker with it", async () => {
    let good: string[] = [];
    await using server = await serveKeys((key) => ({ status: good.includes(key) ? 200 : 401 }));
    await using worker = createWorker(server.url, ["k1", "k2"]);
    expect(await ask(worker, true)).toMatchObject({ reason: "PROVIDER_REFUSED_KEY" });
    expect(server.seen).toEqual(["k1", "k2"]);
    expect(worker.info().health).toBe(Health.UNAVAILABLE);
    expect(await ask(worker, true)).toMatchObject({ reason: "PROVIDER_REFUSED_KEY" });
    expect(server.seen).toHaveLength(2);
    good = ["k2"];
    expect(await worker.checkHealth(startTestCall())).toMatchObject({ health: Health.AVAILABLE, message: "" });
    expect(states(worker)).toEqual([OUT, AVAILABLE]);
    expect(worker.keyStates()).toEqual([OUT, OUT, AVAILABLE]);
    expect(worker.info().health).toBe(Health.AVAILABLE);
    expect(await ask(worker, true)).toBeUndefined();
  });

  it("is found by a health check before any request", async () => {
    await using server = await serveKeys((key) => ({ status: key === "k1" ? 401 : 200 }));
    await using worker = createWorker(server.url, ["k1", "k2"]);
    expect(await worker.checkHealth(startTestCall())).toMatchObject({ health: Health.AVAILABLE });
    expect(states(worker)).toEqual([OUT, AVAILABLE]);
    expect(await ask(worker, false)).toBeUndefined();
    expect(server.seen).toEqual(["k2"]);

    await using other = createWorker(server.url, ["k1"]);
    const health = await other.checkHealth(startTestCall());
    expect(health).toMatchObject({ health: Health.UNAVAILABLE, message: expect.stringContaining("replace the key") });
    expect(await other.checkHealth(startTestCall())).toMatchObject({ health: Health.UNAVAILABLE });
  });

  it("is tried again by a health check after a long while, and a health check is about the others", async () => {
    let nowMs = 1_000_000;
    let good = false;
    const paths: string[] = [];
    await using server = await serveKeys((key, path) => {
      paths.push(`${key} ${path}`);
      return { status: key === "k2" || good ? 200 : 401 };
    });
    await using worker = createWorker(server.url, ["k1", "k2"], { dependencies: { clock: () => nowMs } });
    await ask(worker, false);
    nowMs += 600_000;
    expect(await worker.checkHealth(startTestCall())).toMatchObject({ health: Health.AVAILABLE });
    expect(paths.splice(0)).toEqual(["k1 /chat", "k2 /chat", "k1 /health", "k2 /health"]);
    expect(states(worker)).toEqual([OUT, AVAILABLE]);
    good = true;
    nowMs += 1_200_000;
    expect(await worker.checkHealth(startTestCall())).toMatchObject({ health: Health.AVAILABLE });
    expect(paths).toEqual(["k1 /health"]);
    expect(states(worker)).toEqual([AVAILABLE, AVAILABLE]);
  });
});

describe("a worker without keys", () => {
  it("neither rests nor goes out", async () => {
    let status = 429;
    await using server = await serveKeys(() => ({ status }));
    await using worker = createWorker(server.url, []);
    expect(await ask(worker, true)).toMatchObject({ reason: "PROVIDER_RATE_LIMITED", retryAfterMs: undefined });
    expect(await ask(worker, true)).toMatchObject({ reason: "PROVIDER_RATE_LIMITED" });
    status = 401;
    expect(await ask(worker, true)).toMatchObject({ reason: "PROVIDER_REFUSED_KEY" });
    expect(worker.info().health).toBe(Health.UNAVAILABLE);
    status = 200;
    expect(await ask(worker, true)).toBeUndefined();
    expect(server.seen).toEqual(["", "", "", ""]);
  });
});

describe("a dialect that can't read the limits", () => {
  it("harms no request", async () => {
    await using server = await serveKeys(() => ({ status: 200 }));
    const dialect = createTestDialect("sse", {
      limits() {
        throw new Error("canary-header");
      },
    });
    await using worker = createWorker(server.url, ["k1"], { dialect });
    expect(await ask(worker, true)).toBeUndefined();
    expect(worker.lines.join()).toContain("could not read the limits");
    expect(worker.lines.join()).not.toContain("canary");
  });
});

describe("a secret of a worker", () => {
  it.each([true, false])(
    "appears, like prompts and answers, nowhere, even when the provider echoes it (streamed: %s)",
    async (stream) => {
      const canaries = ["canary-key-1", "canary-key-2", "canary-prompt", "canary-answer"];
      const answers = [
        () => ({ status: 400, body: "you said canary-prompt" }),
        () => ({ status: 500, body: "I said canary-answer" }),
        () => ({ status: 200, body: '{"error":"canary-answer to canary-prompt with canary-key-1 and canary-key-2"}' }),
        () => ({ status: 200, body: "data: {canary-answer" }),
        () => ({ status: 200, body: '{"text":"canary-answer"}' }),
        (authorization: string) => ({ status: 429, body: `not so fast, ${authorization}` }),
        (authorization: string) => ({ status: 429, body: `not so fast, ${authorization}` }),
        () => ({ status: 0, body: "" }),
        (authorization: string) => ({ status: 401, body: `bad ${authorization}` }),
        (authorization: string) => ({ status: 401, body: `bad ${authorization}` }),
      ];
      let count = 0;
      let nowMs = 1_000_000;
      await using server = await serveHttp((request, response) => {
        request.resume();
        const { status, body } = answers[count % answers.length]!(request.headers.authorization ?? "");
        count += 1;
        if (status === 0) response.destroy();
        else response.writeHead(status, { "content-type": "application/json" }).end(body);
      });
      const changes: WorkerChange[] = [];
      await using worker = createTestWorker(
        server.url,
        { keys: ["canary-key-1", "canary-key-2"], breaker: { failures: 100 } },
        { recording: true, dialect: createTestDialect("sse", KEYED), dependencies: { clock: () => nowMs } },
      );
      worker.onChange((change) => changes.push(change));
      const errors: RpcError[] = [];
      for (let request = 0; request < 8; request += 1) {
        const error = stream
          ? (await collect(worker.stream(REQUEST, startTestCall()))).error
          : await ask(worker, false);
        if (error !== undefined) errors.push(error);
        // The keys that were limited are back.
        if (error?.reason === "PROVIDER_RATE_LIMITED") nowMs += 60_000;
      }
      const health = await worker.checkHealth(startTestCall());
      expect(errors.map(({ reason }) => reason)).toEqual([
        "INVALID_REQUEST",
        "PROVIDER_ERROR",
        "PROVIDER_OVERLOADED",
        "PROVIDER_INVALID_ANSWER",
        "PROVIDER_RATE_LIMITED",
        "PROVIDER_UNREACHABLE",
        "PROVIDER_REFUSED_KEY",
      ]);
      expect(count).toBeGreaterThanOrEqual(answers.length);
      expect(new Set(changes.flatMap((change) => (typeof change === "object" ? [change.state] : [])))).toEqual(
        new Set([RESTING, OUT]),
      );
      // What the provider said is the client's own to read; the keys are nobody's.
      const said = errors.map((error) => `${error.message} ${error.stack} ${error.cause}`).join();
      for (const key of canaries.slice(0, 2)) expect(said + health.message).not.toContain(key);
      const told = JSON.stringify([worker.lines, worker.spans, worker.info(), changes]);
      for (const canary of canaries) expect(told).not.toContain(canary);
      expect(told).toContain(worker.info().keys[0]!.fingerprint);
    },
  );
});
