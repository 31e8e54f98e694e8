/** What a router tells of each request: once, however it ended, with all that was used for it. */
import { afterEach, describe, expect, it, vi } from "vitest";
import {
  type AttemptFinished,
  AttemptKind,
  AttemptOutcome,
  type RequestFinished,
  RequestOutcome,
  UsageSource,
} from "../../libs/gen/cortex/events/v1/events.ts";
import type { CompletionRequest, EmbeddingRequest } from "../../libs/gen/cortex/llm/v1/llm.ts";
import {
  type CacheOptions,
  CacheOptions_Mode as Mode,
  type Resume,
  type RouterServiceDefinition,
} from "../../libs/gen/cortex/router/v1/router.ts";
import { type OwnedCall, RpcError, type Service, startCall } from "../../libs/rpc/index.ts";
import { attempt as attemptFinished } from "../../libs/tally/test-events.ts";
import { RequestAccount } from "./request-account.ts";
import type { Telling } from "./telling.ts";
import {
  type Behaviour,
  chunk,
  FakeMesh,
  failing,
  failureOf,
  finish,
  overloaded,
  read,
  request,
  saying,
  served,
  text,
  usage,
} from "./test-mesh.ts";

type RouterService = Service<typeof RouterServiceDefinition>;

const { SERVED, FAILED, CANCELLED } = RequestOutcome;
const TRACE = { traceId: "4bf92f3577b34da6a3ce929d0e0e4736", spanId: "00f067aa0ba902b7", sampled: false, state: "" };
const calls: OwnedCall[] = [];
const meshes: FakeMesh[] = [];

function callOf(deadlineMs?: number): OwnedCall {
  const deadline = deadlineMs === undefined ? {} : { deadlineAtMs: Date.now() + deadlineMs };
  const call = startCall({ tenant: "team-a", requestId: `r${calls.length}`, trace: TRACE, ...deadline });
  calls.push(call);
  return call;
}

function meshOf(workers: Record<string, Behaviour>): FakeMesh {
  const mesh = new FakeMesh(workers);
  meshes.push(mesh);
  return mesh;
}

/** A mesh whose router keeps answers. */
function keeping(workers: Record<string, Behaviour>): { mesh: FakeMesh; router: RouterService } {
  const mesh = meshOf(workers);
  mesh.cacheEnabled = true;
  return { mesh, router: mesh.router() };
}

afterEach(() => {
  for (const call of calls.splice(0)) call.finish();
  for (const mesh of meshes.splice(0)) mesh.stop();
});

const complete = (router: RouterService, call = callOf(), completion: CompletionRequest | undefined = request) =>
  router.complete({ completion }, call);

interface Streaming {
  readonly call?: OwnedCall;
  readonly completion?: CompletionRequest;
  readonly cache?: Partial<CacheOptions>;
  readonly resume?: Resume;
}

function open(router: RouterService, { call = callOf(), completion = request, cache, resume }: Streaming = {}) {
  const options = cache === undefined ? undefined : { mode: Mode.UNSPECIFIED, ...cache };
  return router.stream({ completion, cache: options, resume }, call);
}

const stream = (router: RouterService, options: Streaming = {}) => read(open(router, options));

/** A reader that has read the first chunk. */
async function begun(router: RouterService, options: Streaming = {}) {
  const iterator = open(router, options)[Symbol.asyncIterator]();
  await iterator.next();
  return iterator;
}

/** Reads what is left. */
async function rest(iterator: AsyncIterator<unknown>): Promise<void> {
  while ((await iterator.next()).done !== true);
}

const embedding: EmbeddingRequest = { model: "m", inputs: ["one"], user: "", extraJson: {} } as never;

/** The only request that was told of. */
function only(mesh: FakeMesh): RequestFinished {
  expect(mesh.ended).toHaveLength(1);
  return mesh.ended[0]!;
}

/** Goes on with what another one has begun. */
const prefilling: Behaviour = { ...saying(" and", " on"), info: { capabilities: ["prefill"] } };

/** Begins, and ends when it is told to, or its caller leaves. */
class Held implements Behaviour {
  readonly #released = Promise.withResolvers<void>();
  cancelled = 0;

  async #wait(signal: AbortSignal): Promise<void> {
    const left = new Promise<never>((_resolve, reject) => {
      signal.addEventListener("abort", () => {
        this.cancelled++;
        reject(signal.reason);
      });
    });
    await Promise.race([this.#released.promise, left]);
  }

  async *stream(_request: CompletionRequest, { signal }: { readonly signal: AbortSignal }) {
    const ending = this.#wait(signal);
    ending.catch(() => {});
    yield chunk(served("held"), text("one"));
    await ending;
    yield chunk(text(" two"), finish, usage({ inputTokens: 1, outputTokens: 2 }));
  }

  async complete(_request: CompletionRequest, { signal }: { readonly signal: AbortSignal }) {
    await this.#wait(signal);
    return { inputTokens: 1, outputTokens: 2 };
  }

  release(): void {
    this.#released.resolve();
  }
}

/** Says two words and fails. */
const breaking: Behaviour = {
  async *stream() {
    yield chunk(served("breaking"), text("four char"));
    yield chunk(text("acters"));
    throw overloaded;
  },
};
const hanging: Behaviour = {
  stream: (_request, { signal }) => ({
    [Symbol.asyncIterator]: () => ({
      next: () =>
        new Promise((_resolve, reject) =>
          signal.addEventListener("abort", () => reject(signal.reason), { once: true }),
        ),
      return: () => Promise.resolve({ done: true, value: undefined }),
    }),
  }),
  complete: (_request, { signal }) =>
    new Promise((_resolve, reject) => signal.addEventListener("abort", () => reject(signal.reason), { once: true })),
};
const prices = { capabilities: [], inputCostUsdPerMillion: 1_000_000, outputCostUsdPerMillion: 2_000_000 };
const priced = (behaviour: Behaviour): Behaviour => ({
  ...behaviour,
  info: { ...behaviour.info, modelProperties: { m: prices } },
});

describe("a request that a worker serves", () => {
  it("is told with who served, what it took and what it cost", async () => {
    const mesh = meshOf({ a: priced(saying("hi", " there")) });
    const router = mesh.router();
    await complete(router);
    expect(only(mesh)).toEqual({
      ...{ requestId: "r0", tenant: "team-a", operation: "chat", requestedModel: "m", model: "m" },
      ...{ worker: "a", provider: "p", strategy: "local_first", outcome: SERVED, reason: "", attempts: 1 },
      ...{ cache: "", stream: false, timeToFirstTokenMs: 0, durationMs: expect.any(Number) },
      ...{ usage: { inputTokens: 3, outputTokens: 2 }, usageSource: UsageSource.REPORTED, costUsd: 7 },
      ...{ routerNode: "here", traceId: TRACE.traceId },
    });
    await stream(router);
    expect(mesh.ended[1]).toMatchObject({ requestId: "r1", stream: true, outcome: SERVED, worker: "a", costUsd: 7 });
    const { timeToFirstTokenMs, durationMs } = mesh.ended[1]!;
    expect(timeToFirstTokenMs).toBeGreaterThan(0);
    expect(durationMs).toBeGreaterThanOrEqual(timeToFirstTokenMs);
    await router.embed({ embedding }, callOf());
    expect(mesh.ended[2]).toMatchObject({ operation: "embeddings", worker: "a", stream: false, outcome: SERVED });
    expect(mesh.ended).toHaveLength(3);
    expect(mesh.events).toHaveLength(3);
  });

  it("is one request, however many workers were tried, and has what they used together", async () => {
    const mesh = meshOf({
      bad: priced(failing(overloaded)),
      breaking: priced(breaking),
      good: priced(prefilling),
    });
    await stream(mesh.router());
    expect(mesh.events.map(({ worker }) => worker)).toEqual(["bad", "breaking", "good"]);
    const [, cut, good] = mesh.events;
    expect(cut!.usage!.outputTokens).toBe(4);
    expect(only(mesh)).toMatchObject({
      ...{ worker: "good", attempts: 3, outcome: SERVED, usageSource: UsageSource.ESTIMATED },
      usage: { inputTokens: cut!.usage!.inputTokens! + 3, outputTokens: 4 + 2 },
      costUsd: cut!.costUsd! + good!.costUsd!,
    });
  });

  it("has no cost where the price of anything that was used is not known", async () => {
    const mesh = meshOf({ breaking, good: priced(prefilling) });
    await stream(mesh.router());
    expect(only(mesh)).toMatchObject({ outcome: SERVED, costUsd: undefined });
    expect(mesh.events[1]!.costUsd).toBe(7);
  });

  it("has the attempt that was given up for a faster one", async () => {
    let times = 0;
    const late: Behaviour = {
      stream: (...asked) => (times++ < 20 ? saying("first") : hanging).stream!(...asked),
    };
    const mesh = meshOf({ late, rival: saying("rival") });
    mesh.timePasses = true;
    const router = mesh.router({ hedging: { enabled: true, ratio: 0.5 } });
    for (let index = 0; index < 20; index++) await stream(router);
    mesh.ended.length = 0;
    await stream(router);
    expect(only(mesh)).toMatchObject({ worker: "rival", attempts: 2, outcome: SERVED });
  });

  it("is the rest of one whose router was lost", async () => {
    const mesh = meshOf({ a: prefilling });
    await stream(mesh.router(), { resume: { text: "one", worker: "gone", attempts: 2 } });
    expect(only(mesh)).toMatchObject({ outcome: SERVED, worker: "a", attempts: 1, cache: "" });
    expect(mesh.events[0]!.attempt).toBe(3);
  });

  it("is not told for one that was only to be explained", async () => {
    const mesh = meshOf({ a: saying("hi") });
    await mesh.router().explain({ completion: request }, callOf());
    expect(mesh.ended).toEqual([]);
  });
});

describe("a request that fails", () => {
  const noWorker = { outcome: FAILED, worker: "", provider: "", model: "", usage: undefined, costUsd: undefined };

  it("is told with the reason that its client gets, whether anybody was asked or not", async () => {
    const mesh = meshOf({ a: failing(new RpcError("PROVIDER_ERROR", "broken")), b: failing(overloaded) });
    const router = mesh.router();
    const unknown = { ...request, model: "unknown" };
    const silent = { ...request, messages: [] };
    await failureOf(complete(router));
    await failureOf(stream(router));
    await failureOf(complete(router, callOf(), unknown));
    await failureOf(stream(router, { completion: unknown }));
    await failureOf(complete(router, callOf(), silent));
    await failureOf(stream(router, { completion: silent }));
    await failureOf(stream(router, { completion: { ...request, model: "" } }));
    await failureOf(router.complete({}, callOf()));
    await failureOf(router.embed({ embedding: { ...embedding, inputs: [] } }, callOf()));
    const failed = { ...noWorker, usageSource: UsageSource.UNKNOWN };
    const refused = { ...failed, attempts: 0, strategy: "" };
    expect(mesh.ended).toMatchObject([
      { ...failed, reason: "NO_WORKERS_AVAILABLE", attempts: 2, strategy: "local_first", stream: false },
      { ...failed, reason: "NO_WORKERS_AVAILABLE", attempts: 2, strategy: "local_first", stream: true },
      { ...refused, reason: "MODEL_NOT_FOUND", requestedModel: "unknown", stream: false },
      { ...refused, reason: "MODEL_NOT_FOUND", requestedModel: "unknown", stream: true },
      { ...refused, reason: "INVALID_REQUEST" },
      { ...refused, reason: "INVALID_REQUEST" },
      { ...refused, reason: "INVALID_REQUEST" },
      { ...refused, reason: "INVALID_REQUEST", requestedModel: "" },
      { ...refused, reason: "INVALID_REQUEST", operation: "embeddings" },
    ]);
  });

  it("in the middle of its stream has used what had come", async () => {
    const mesh = meshOf({ breaking: priced(breaking) });
    await failureOf(stream(mesh.router()));
    expect(only(mesh)).toMatchObject({
      ...{ outcome: FAILED, reason: "STREAM_INTERRUPTED", worker: "", attempts: 1 },
      ...{ usage: { outputTokens: 4 }, usageSource: UsageSource.ESTIMATED },
    });
    expect(mesh.ended[0]!.costUsd).toBe(mesh.events[0]!.costUsd);
    expect(mesh.ended[0]!.timeToFirstTokenMs).toBeGreaterThan(0);
  });

  it("because the queue is full, or its time was over", async () => {
    const held = new Held();
    const mesh = meshOf({ held: Object.assign(held, { info: { concurrentRequestsMax: 1 } }) });
    const router = mesh.router({ queue: { size: 0, waitMaxMs: 10_000 } });
    const first = complete(router);
    expect((await failureOf(complete(router))).reason).toBe("OVERLOADED");
    expect(only(mesh)).toMatchObject({ ...noWorker, reason: "OVERLOADED", attempts: 0 });
    held.release();
    await first;
    const slow = meshOf({ hanging });
    await failureOf(complete(slow.router(), callOf(30)));
    await failureOf(stream(slow.router(), { call: callOf(30) }));
    await vi.waitFor(() => expect(slow.ended).toHaveLength(2));
    for (const ended of slow.ended) {
      expect(ended).toMatchObject({ ...noWorker, reason: "DEADLINE_EXCEEDED", attempts: 1 });
    }
  });
});

describe("a request whose client leaves", () => {
  it("is told as cancelled, wherever it was", async () => {
    const mesh = meshOf({ hanging });
    const router = mesh.router();
    const left = [callOf(), callOf()];
    const answers = [failureOf(complete(router, left[0])), failureOf(stream(router, { call: left[1]! }))];
    await vi.waitFor(() => expect(mesh.asked).toHaveLength(2));
    for (const call of left) call.cancel();
    await Promise.all(answers);
    mesh.workers = { a: saying("one", " two", " three") };
    mesh.change();
    // Before its first chunk, and in the middle.
    await open(router)[Symbol.asyncIterator]().return?.();
    await (await begun(router)).return?.();
    const cancelled = { outcome: CANCELLED, reason: "CANCELLED", worker: "", cache: "" };
    await vi.waitFor(() => expect(mesh.ended).toHaveLength(4));
    expect(mesh.ended).toMatchObject([
      { ...cancelled, attempts: 1, timeToFirstTokenMs: 0 },
      { ...cancelled, attempts: 1, timeToFirstTokenMs: 0 },
      { ...cancelled, attempts: 0, timeToFirstTokenMs: 0 },
      { ...cancelled, attempts: 1, usageSource: UsageSource.ESTIMATED },
    ]);
    expect(mesh.ended[3]!.timeToFirstTokenMs).toBeGreaterThan(0);
  });

  it("is told once, whether it waits for a worker that is gone or for one that is full", async () => {
    const held = new Held();
    const mesh = meshOf({ held: Object.assign(held, { info: { concurrentRequestsMax: 1 } }) });
    mesh.alive.add("here");
    const router = mesh.router({ waitMaxMs: 10_000 });
    const first = begun(router);
    await first;
    const waiting = callOf();
    const full = failureOf(stream(router, { call: waiting }));
    await new Promise((resolve) => setImmediate(resolve));
    waiting.cancel();
    await full;
    expect(only(mesh)).toMatchObject({ outcome: CANCELLED, attempts: 0 });
    // One that leaves without a word, while it waits.
    const silent = open(router)[Symbol.asyncIterator]();
    void silent.next().catch(() => {});
    await new Promise((resolve) => setImmediate(resolve));
    await silent.return?.();
    expect(mesh.ended).toHaveLength(2);
    await (await first).return?.();
    await vi.waitFor(() => expect(mesh.events).toHaveLength(2));
    expect(mesh.asked).toEqual(["held@here"]);
    // Its only worker is lost with its node, so whoever asks for it waits.
    mesh.workers = {};
    mesh.alive.clear();
    mesh.change();
    const iterator = open(router)[Symbol.asyncIterator]();
    void iterator.next().catch(() => {});
    await iterator.return?.();
    await vi.waitFor(() => expect(mesh.ended).toHaveLength(4));
    expect(mesh.ended[3]).toMatchObject({ outcome: CANCELLED, attempts: 0, requestedModel: "m" });
  });
});

describe("an answer from the cache", () => {
  it("is told with its level and what a call would have used, and costs nothing", async () => {
    const { mesh, router } = keeping({ a: priced(saying("hi", " there")) });
    await stream(router);
    await stream(router);
    await complete(router);
    await router.embed({ embedding }, callOf());
    await router.embed({ embedding }, callOf());
    const kept = { outcome: SERVED, cache: "l1", worker: "", model: "", attempts: 0, strategy: "", costUsd: undefined };
    const known = { usage: { inputTokens: 3, outputTokens: 2 }, usageSource: UsageSource.REPORTED };
    expect(mesh.ended).toMatchObject([
      { outcome: SERVED, cache: "", worker: "a", attempts: 1, costUsd: 7, ...known },
      { ...kept, ...known, stream: true },
      { ...kept, ...known, stream: false, timeToFirstTokenMs: 0 },
      { outcome: SERVED, cache: "", worker: "a", attempts: 1, operation: "embeddings" },
      { ...kept, operation: "embeddings", usage: { inputTokens: 3 } },
    ]);
    expect(mesh.ended[1]!.timeToFirstTokenMs).toBeGreaterThan(0);
    expect(mesh.ended).toHaveLength(5);
  });

  it("that is replayed at a pace may be left in the middle", async () => {
    const { mesh, router } = keeping({ a: saying("one", " two", " three", " four") });
    await stream(router);
    const paced = { cache: { tokensPerSecond: 20 } };
    const call = callOf();
    await begun(router, { ...paced, call });
    call.cancel();
    await (await begun(router, paced)).return?.();
    await stream(router, { cache: { tokensPerSecond: 1_000 } });
    await vi.waitFor(() => expect(mesh.ended).toHaveLength(4));
    const outcomes = mesh.ended.slice(1).map(({ cache, outcome }) => [cache, outcome]);
    expect(outcomes).toEqual([
      ["l1", CANCELLED],
      ["l1", CANCELLED],
      ["l1", SERVED],
    ]);
  });

  it("that is not there has failed when nothing else was wanted", async () => {
    const { mesh, router } = keeping({ a: saying("hi") });
    const wanted = { cache: { mode: Mode.ONLY_IF_CACHED } };
    await failureOf(stream(router, wanted));
    const hot = { ...request, sampling: { temperature: 1.5, stop: [], logitBias: {} } };
    await failureOf(stream(router, { ...wanted, completion: hot }));
    await open(router)[Symbol.asyncIterator]().return?.();
    expect(mesh.ended).toMatchObject([
      { outcome: FAILED, reason: "CACHE_MISS", attempts: 0, cache: "" },
      { outcome: FAILED, reason: "CACHE_MISS", attempts: 0, cache: "" },
      { outcome: CANCELLED, attempts: 0, cache: "" },
    ]);
  });

  it("is told of as any other when the cache is not asked, or its answer is got anew", async () => {
    const { mesh, router } = keeping({ a: saying("hi") });
    await stream(router, { cache: { mode: Mode.OFF } });
    await stream(router, { cache: { mode: Mode.REFRESH } });
    await failureOf(stream(router, { completion: { ...request, model: "unknown" } }));
    expect(mesh.ended).toMatchObject([
      { outcome: SERVED, cache: "", attempts: 1, worker: "a" },
      { outcome: SERVED, cache: "", attempts: 1, worker: "a" },
      { outcome: FAILED, cache: "", attempts: 0, reason: "MODEL_NOT_FOUND" },
    ]);
  });
});

describe("an answer that several share", () => {
  it("is told for each of them, and its usage as spent for one only", async () => {
    const held = new Held();
    const { mesh, router } = keeping({ held: Object.assign(held, { info: { modelProperties: { m: prices } } }) });
    const readers = [await begun(router), await begun(router)];
    const whole = complete(router);
    await new Promise((resolve) => setImmediate(resolve));
    held.release();
    await Promise.all([...readers.map(rest), whole]);
    expect(mesh.ended).toHaveLength(3);
    const known = { outcome: SERVED, usage: { inputTokens: 1, outputTokens: 2 }, usageSource: UsageSource.REPORTED };
    const shared = { ...known, cache: "shared", attempts: 0, worker: "", costUsd: undefined };
    expect(mesh.ended.toSorted((one, other) => one.requestId.localeCompare(other.requestId))).toMatchObject([
      { ...known, requestId: "r0", cache: "", attempts: 1, worker: "held", costUsd: 5 },
      { ...shared, requestId: "r1", stream: true },
      { ...shared, requestId: "r2", stream: false, timeToFirstTokenMs: 0 },
    ]);
    expect(mesh.events).toHaveLength(1);
  });

  it("is told to the end of the call for the one that has asked first and left, as cancelled", async () => {
    const held = new Held();
    const { mesh, router } = keeping({ held });
    const call = callOf();
    await begun(router, { call });
    const other = await begun(router);
    call.cancel();
    await new Promise((resolve) => setImmediate(resolve));
    expect(mesh.ended).toEqual([]);
    held.release();
    await rest(other);
    expect(mesh.ended).toHaveLength(2);
    expect(mesh.ended).toEqual(
      expect.arrayContaining([
        expect.objectContaining({ requestId: "r0", outcome: CANCELLED, attempts: 1, cache: "", worker: "held" }),
        expect.objectContaining({ requestId: "r1", outcome: SERVED, attempts: 0, cache: "shared" }),
      ]),
    );
  });

  it("ends for each when it has read it, or leaves, however long the answer has been there", async () => {
    const held = new Held();
    const { mesh, router } = keeping({ held });
    const first = await begun(router);
    const slow = await begun(router);
    const fast = await begun(router);
    held.release();
    await rest(fast);
    expect(only(mesh)).toMatchObject({ requestId: "r2", outcome: SERVED, cache: "shared" });
    await first.return?.();
    await rest(slow);
    expect(mesh.ended.slice(1)).toMatchObject([
      { requestId: "r0", outcome: CANCELLED, cache: "", attempts: 1, worker: "held" },
      { requestId: "r1", outcome: SERVED, cache: "shared", usage: { outputTokens: 2 } },
    ]);
  });

  it("is the own one of whoever has to go on with it, as the call it came from was lost", async () => {
    const mesh = meshOf({ a: priced(saying("hi")) });
    await complete(mesh.router());
    const [attempt] = mesh.events;
    const told: RequestFinished[] = [];
    const telling = { requestBegins: () => {}, tellRequest: (ended: RequestFinished) => told.push(ended) };
    const account = new RequestAccount(
      { operation: "chat", model: "m", stream: true, call: callOf() },
      { nodeId: "here", now: () => 0, telling: telling as unknown as Telling },
    );
    account.fromCache("shared");
    account.callBegins();
    account.add(attempt!);
    account.callEnds();
    account.end(undefined, { inputTokens: 100 });
    expect(told).toMatchObject([{ cache: "", attempts: 1, worker: "a", usage: { inputTokens: 3 }, costUsd: 5 }]);
  });

  it.each([
    [AttemptKind.FAILOVER, [["a", "c", false]]],
    [AttemptKind.CONTINUATION, [["a", "c", true]]],
    [AttemptKind.HEDGE, []],
    [AttemptKind.FIRST, []],
  ])(
    "tells that another worker took over, from the first that had failed, only if it was asked for that: kind %i",
    (kind, expected) => {
      const told: unknown[] = [];
      const telling = {
        requestBegins: () => {},
        tellTakeover: (failed: AttemptFinished, served: AttemptFinished, inTheMiddle: boolean) =>
          told.push([failed.worker, served.worker, inTheMiddle]),
      };
      const account = new RequestAccount(
        { operation: "chat", model: "m", stream: true, call: callOf() },
        { nodeId: "here", now: () => 0, telling: telling as unknown as Telling },
      );
      account.add(attemptFinished({ worker: "a", outcome: AttemptOutcome.FAILED }));
      account.add(attemptFinished({ worker: "b", outcome: AttemptOutcome.INTERRUPTED }));
      account.add(attemptFinished({ worker: "c", kind }));
      account.add(attemptFinished({ worker: "d", kind: AttemptKind.FAILOVER, outcome: AttemptOutcome.SUPERSEDED }));
      expect(told).toEqual(expected);
    },
  );

  it("ends for all when all have left, whole or streamed", async () => {
    const held = new Held();
    const { mesh, router } = keeping({ held });
    const left = [callOf(), callOf(), callOf()];
    await begun(router, { call: left[0]! });
    await begun(router, { call: left[1]! });
    const whole = failureOf(complete(router, left[2]));
    await new Promise((resolve) => setImmediate(resolve));
    for (const call of left) call.cancel();
    await whole;
    await vi.waitFor(() => expect(mesh.ended).toHaveLength(3));
    expect(held.cancelled).toBe(1);
    const bySharing = mesh.ended.map(({ outcome, cache, attempts }) => [outcome, cache, attempts]);
    expect(bySharing).toEqual(
      expect.arrayContaining([
        [CANCELLED, "", 1],
        [CANCELLED, "shared", 0],
        [CANCELLED, "shared", 0],
      ]),
    );
  });

  it("closes the provider's call when the only one who wanted it whole has left", async () => {
    const held = new Held();
    const { mesh, router } = keeping({ held });
    const call = callOf();
    const answer = failureOf(complete(router, call));
    await vi.waitFor(() => expect(mesh.asked).toHaveLength(1));
    call.cancel();
    await answer;
    await vi.waitFor(() => expect(held.cancelled).toBe(1));
    await vi.waitFor(() => expect(only(mesh)).toMatchObject({ outcome: CANCELLED, attempts: 1, stream: false }));
  });

  it("fails for all of them, and they are told apart from the one whose call it was", async () => {
    const mesh = meshOf({ breaking });
    mesh.cacheEnabled = true;
    const router = mesh.router();
    const answers = [1, 2, 3].map(() => failureOf(stream(router)));
    await Promise.all(answers);
    const failed = { outcome: FAILED, reason: "STREAM_INTERRUPTED" };
    expect(mesh.events).toHaveLength(1);
    expect(mesh.ended).toHaveLength(3);
    expect(mesh.ended.toSorted((one, other) => one.requestId.localeCompare(other.requestId))).toMatchObject([
      { ...failed, cache: "", attempts: 1, usageSource: UsageSource.ESTIMATED },
      { ...failed, cache: "shared", attempts: 0, usage: undefined },
      { ...failed, cache: "shared", attempts: 0, usage: undefined },
    ]);
  });
});
