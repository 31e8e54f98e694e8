/** The cache as the router's clients meet it: one router, whose own memory is the only level. */
import { afterEach, describe, expect, it, vi } from "vitest";
import { type CompletionRequest, EmbeddingRequest } from "../../../libs/gen/cortex/llm/v1/llm.ts";
import {
  type CacheOptions,
  CacheOptions_Mode as Mode,
  type RouterServiceDefinition,
  CacheStatus_State as State,
  type StreamResponse,
} from "../../../libs/gen/cortex/router/v1/router.ts";
import { type OwnedCall, RpcError, type Service, startCall } from "../../../libs/rpc/index.ts";
import { NO_TRACE } from "../../../libs/telemetry/index.ts";
import {
  type Behaviour,
  chunk,
  FakeMesh,
  failing,
  failureOf,
  finish,
  HERE,
  overloaded,
  request,
  saying,
  served,
  text,
  textOf,
  usage,
} from "../test-mesh.ts";
import { CacheLevels } from "./levels.ts";

type RouterService = Service<typeof RouterServiceDefinition>;

const calls: OwnedCall[] = [];
const stops: (() => void)[] = [];

function callOf(tenant = "team-a"): OwnedCall {
  const call = startCall({ tenant, requestId: `r${calls.length}`, trace: NO_TRACE, deadlineAtMs: Date.now() + 20_000 });
  calls.push(call);
  return call;
}

afterEach(() => {
  for (const call of calls.splice(0)) call.finish();
  for (const stop of stops.splice(0)) stop();
});

function routerOf(mesh: FakeMesh): RouterService {
  mesh.cacheEnabled = true;
  const router = mesh.router();
  stops.push(() => mesh.stop());
  return router;
}

interface Answer {
  readonly text: string;
  readonly state: State | undefined;
  readonly responses: readonly StreamResponse[];
}

async function stream(
  router: RouterService,
  options?: { completion?: CompletionRequest; cache?: Partial<CacheOptions>; call?: OwnedCall },
): Promise<Answer> {
  const responses: StreamResponse[] = [];
  const cache = options?.cache === undefined ? undefined : { mode: Mode.UNSPECIFIED, ...options.cache };
  const completion = options?.completion ?? request;
  for await (const response of router.stream({ completion, cache }, options?.call ?? callOf()))
    responses.push(response);
  return { text: textOf(responses), state: responses[0]?.cache?.state, responses };
}

const whole = (router: RouterService, call = callOf()) => router.complete({ completion: request }, call);

/** Says its words when it is told to, and counts those who ask. */
class Held implements Behaviour {
  #release: () => void = () => {};
  readonly #released = new Promise<void>((resolve) => {
    this.#release = resolve;
  });
  cancelled = 0;

  async *stream(_request: CompletionRequest, made: { readonly signal: AbortSignal }) {
    made.signal.addEventListener("abort", () => {
      this.cancelled++;
    });
    yield chunk(served("held"), text("one"));
    await Promise.race([this.#released, new Promise((resolve) => made.signal.addEventListener("abort", resolve))]);
    yield chunk(text(" two"));
    yield chunk(finish, usage({ inputTokens: 1, outputTokens: 2 }));
  }

  release(): void {
    this.#release();
  }
}

describe("an answer", () => {
  it("is got once and then comes from the cache, streamed and whole, with its usage, and is marked", async () => {
    const mesh = new FakeMesh({ a: saying("hello", " there") });
    const router = routerOf(mesh);
    const first = await stream(router);
    expect(first).toMatchObject({ text: "hello there", state: State.MISS });
    const second = await stream(router);
    expect(second).toMatchObject({ text: "hello there", state: State.HIT });
    expect(second.responses[0]!.attempts).toBe(0);
    expect(second.responses[0]!.cache).toMatchObject({ detail: "l1", key: first.responses[0]!.cache!.key });
    const parts = second.responses.flatMap((response) => response.parts);
    expect(parts.map(({ part }) => part?.$case)).toEqual(["served", "text", "finish", "usage"]);
    const answer = await whole(router);
    expect(answer.cache?.state).toBe(State.HIT);
    expect(answer.completion?.choices[0]?.message?.content[0]?.part?.value).toBe("hello there");
    expect(answer.completion?.usage).toMatchObject({ inputTokens: 3, outputTokens: 2 });
    expect(mesh.asked).toEqual(["a@here"]);
  });

  it("is got for each tenant, and for everything that is asked differently", async () => {
    const mesh = new FakeMesh({ a: saying("hello") });
    const router = routerOf(mesh);
    await stream(router);
    expect((await stream(router, { call: callOf("team-b") })).state).toBe(State.MISS);
    expect((await stream(router, { completion: { ...request, user: "u" } })).state).toBe(State.MISS);
    expect((await stream(router, { completion: { ...request, extraJson: { x: "1" } } })).state).toBe(State.MISS);
    expect(mesh.asked).toHaveLength(4);
  });

  it("is not kept when it failed, broke, or was continued; the next one gets it anew", async () => {
    const breaking: Behaviour = {
      async *stream() {
        yield chunk(served("a"), text("half"));
        throw overloaded;
      },
    };
    const mesh = new FakeMesh({ a: failing(overloaded) });
    const router = routerOf(mesh);
    await failureOf(stream(router));
    mesh.workers = { a: breaking };
    mesh.change();
    await failureOf(stream(router));
    mesh.workers = { a: saying("whole") };
    mesh.change();
    expect(await stream(router)).toMatchObject({ text: "whole", state: State.MISS });
    expect(await stream(router)).toMatchObject({ text: "whole", state: State.HIT });
  });

  it("is not looked for when the request or the temperature says so, which is told", async () => {
    const mesh = new FakeMesh({ a: saying("hello") });
    const router = routerOf(mesh);
    await stream(router);
    const off = await stream(router, { cache: { mode: Mode.OFF } });
    expect(off.responses[0]!.cache).toMatchObject({ state: State.BYPASS, detail: "no_cache" });
    const hot = { ...request, sampling: { temperature: 1.2, stop: [], logitBias: {} } };
    expect((await stream(router, { completion: hot })).responses[0]!.cache?.detail).toBe("temperature");
    const fresh = await stream(router, { cache: { mode: Mode.REFRESH } });
    expect(fresh.state).toBe(State.MISS);
    expect(mesh.asked).toHaveLength(4);
    expect((await stream(router)).state).toBe(State.HIT);
  });

  it("is refused when only a kept one was wanted and there is none, or it is too old", async () => {
    const mesh = new FakeMesh({ a: saying("hello") });
    const router = routerOf(mesh);
    const only = { cache: { mode: Mode.ONLY_IF_CACHED } };
    expect((await failureOf(stream(router, only))).reason).toBe("CACHE_MISS");
    await stream(router, { cache: { ttlS: 1 } });
    expect((await stream(router, only)).state).toBe(State.HIT);
    expect((await failureOf(stream(router, { cache: { ...only.cache, maxAgeS: 0 } }))).reason).toBe("CACHE_MISS");
    vi.setSystemTime(Date.now() + 2_000);
    try {
      const late = startCall({ tenant: "team-a", requestId: "late", trace: NO_TRACE });
      calls.push(late);
      expect((await failureOf(stream(router, { ...only, call: late }))).reason).toBe("CACHE_MISS");
    } finally {
      vi.useRealTimers();
    }
  });
});

describe("the same question, asked by many at once", () => {
  it("is one call, which all of them hear live, whole or streamed", async () => {
    const held = new Held();
    const mesh = new FakeMesh({ held });
    const router = routerOf(mesh);
    const firsts: number[] = [];
    const answers = Array.from({ length: 50 }, async () => {
      const iterator = router.stream({ completion: request }, callOf())[Symbol.asyncIterator]();
      const first = await iterator.next();
      firsts.push(1);
      let all = textOf([first.value]);
      for (let result = await iterator.next(); result.done !== true; result = await iterator.next()) {
        all += textOf([result.value]);
      }
      return all;
    });
    const asWhole = whole(router);
    // Each has heard the beginning while the provider is still at it.
    await vi.waitFor(() => expect(firsts).toHaveLength(50));
    held.release();
    expect(new Set(await Promise.all(answers))).toEqual(new Set(["one two"]));
    expect((await asWhole).cache?.state).toBe(State.SHARED);
    expect(mesh.asked).toEqual(["held@here"]);
    expect((await stream(router)).state).toBe(State.HIT);
  });

  it("goes on for the others when one leaves, whoever asked first, and ends when all have left", async () => {
    const held = new Held();
    const mesh = new FakeMesh({ held });
    const router = routerOf(mesh);
    const [first, second] = [callOf(), callOf()];
    const one = router.stream({ completion: request }, first)[Symbol.asyncIterator]();
    await one.next();
    const other = router.stream({ completion: request }, second)[Symbol.asyncIterator]();
    await other.next();
    first.cancel();
    await new Promise((resolve) => setImmediate(resolve));
    expect(held.cancelled).toBe(0);
    held.release();
    expect(textOf([(await other.next()).value])).toBe(" two");

    const left = new Held();
    mesh.workers = { left };
    mesh.change();
    const both = [callOf(), callOf()];
    const readers = both.map((call) =>
      router.stream({ completion: { ...request, user: "x" } }, call)[Symbol.asyncIterator](),
    );
    await Promise.all(readers.map((reader) => reader.next()));
    both[0]!.cancel();
    await new Promise((resolve) => setImmediate(resolve));
    expect(left.cancelled).toBe(0);
    both[1]!.cancel();
    await vi.waitFor(() => expect(left.cancelled).toBe(1));
  });

  it("is not kept, nor joined any more, when answers like it are taken out meanwhile", async () => {
    const held = new Held();
    const mesh = new FakeMesh({ held });
    const router = routerOf(mesh);
    const first = stream(router);
    await vi.waitFor(() => expect(mesh.asked).toHaveLength(1));
    mesh.invalidate();
    const second = stream(router);
    await vi.waitFor(() => expect(mesh.asked).toHaveLength(2));
    held.release();
    expect((await first).text).toBe("one two");
    expect((await second).state).toBe(State.MISS);
    expect((await stream(router)).state).toBe(State.HIT);
  });

  it("that is to renew the kept one is not kept either, when answers like it are taken out meanwhile", async () => {
    const held = new Held();
    const mesh = new FakeMesh({ held });
    const router = routerOf(mesh);
    const fresh = stream(router, { cache: { mode: Mode.REFRESH } });
    await vi.waitFor(() => expect(mesh.asked).toHaveLength(1));
    mesh.invalidate();
    held.release();
    expect((await fresh).text).toBe("one two");
    expect((await stream(router)).state).toBe(State.MISS);
  });

  it("is failed over for all of them", async () => {
    const mesh = new FakeMesh({ bad: failing(new RpcError("PROVIDER_ERROR", "broken")), good: saying("hello") });
    const router = routerOf(mesh);
    const answers = await Promise.all(Array.from({ length: 10 }, () => stream(router)));
    expect(answers.map(({ text: said }) => said)).toEqual(Array.from({ length: 10 }, () => "hello"));
    expect(mesh.asked).toEqual(["bad@here", "good@here"]);
  });

  it("is not shared between tenants", async () => {
    const held = new Held();
    const mesh = new FakeMesh({ held });
    const router = routerOf(mesh);
    const mine = stream(router, { call: callOf("team-a") });
    const theirs = stream(router, { call: callOf("team-b") });
    await vi.waitFor(() => expect(mesh.asked).toHaveLength(2));
    held.release();
    await Promise.all([mine, theirs]);
  });
});

describe("a router that leads", () => {
  afterEach(() => {
    vi.useRealTimers();
  });

  function leading(worker: Behaviour) {
    const mesh = new FakeMesh({ worker });
    const owner = {
      acquire: vi.fn(async () => ({ outcome: { $case: "lead" as const, value: true }, level: "" })),
      put: vi.fn(async () => ({})),
      release: vi.fn(async () => ({})),
    };
    mesh.owner = owner;
    return { mesh, owner };
  }

  it("brings the owner the answer, which ends its lead", async () => {
    const { mesh, owner } = leading(saying("hi"));
    await stream(routerOf(mesh));
    expect(owner.put.mock.calls).toEqual([[expect.objectContaining({ node: HERE }), expect.anything()]]);
    expect(owner.release).not.toHaveBeenCalled();
  });

  it("ends its lead when no answer comes that may be kept", async () => {
    const { mesh, owner } = leading({
      async *stream() {
        yield chunk(text("never finished"));
      },
      complete: failing(overloaded).complete!,
    });
    const router = routerOf(mesh);
    await stream(router);
    await failureOf(whole(router));
    mesh.workers = {};
    mesh.change();
    await failureOf(stream(router));
    expect(owner.release).toHaveBeenCalledTimes(2);
    expect(owner.put).not.toHaveBeenCalled();
  });

  it("says again and again that it is at it, as long as it is", async () => {
    vi.useFakeTimers({ toFake: ["setInterval", "clearInterval"] });
    const held = new Held();
    const { mesh, owner } = leading(held);
    const answer = stream(routerOf(mesh));
    await vi.waitFor(() => expect(mesh.asked).toHaveLength(1));
    for (let times = 1; times <= 3; times++) {
      vi.advanceTimersByTime(20_000);
      expect(owner.acquire).toHaveBeenCalledTimes(1 + times);
    }
    held.release();
    await answer;
    vi.advanceTimersByTime(60_000);
    expect(owner.acquire).toHaveBeenCalledTimes(4);
  });
});

describe("vectors that several ask for at once", () => {
  const embedding = EmbeddingRequest.fromPartial({ model: "m", inputs: ["text"] });

  /** Says the vectors when it is told to. */
  function holding(): { readonly mesh: FakeMesh; release(): void } {
    let release = () => {};
    const released = new Promise<void>((resolve) => {
      release = resolve;
    });
    const held: Behaviour = { complete: () => released.then(() => ({ inputTokens: 1 })) };
    return { mesh: new FakeMesh({ held }), release };
  }

  it("are stored once", async () => {
    const { mesh, release } = holding();
    const router = routerOf(mesh);
    const stored = vi.spyOn(CacheLevels.prototype, "storeMany");
    const answers = Array.from({ length: 5 }, () => router.embed({ embedding }, callOf()));
    await vi.waitFor(() => expect(mesh.asked).toHaveLength(1));
    release();
    const states = (await Promise.all(answers)).map(({ cache }) => cache?.state);
    expect(states.sort()).toEqual([State.MISS, ...Array.from({ length: 4 }, () => State.SHARED)]);
    expect(stored).toHaveBeenCalledTimes(1);
    stored.mockRestore();
    expect((await router.embed({ embedding }, callOf())).cache?.state).toBe(State.HIT);
  });

  it("are not kept, nor shared any more, when they are taken out meanwhile", async () => {
    const { mesh, release } = holding();
    const router = routerOf(mesh);
    const first = router.embed({ embedding }, callOf());
    await vi.waitFor(() => expect(mesh.asked).toHaveLength(1));
    mesh.invalidate();
    const second = router.embed({ embedding }, callOf());
    await vi.waitFor(() => expect(mesh.asked).toHaveLength(2));
    mesh.invalidate();
    release();
    await Promise.all([first, second]);
    expect((await router.embed({ embedding }, callOf())).cache?.state).toBe(State.MISS);
  });
});

describe("an answer that another router is getting, which is lost", () => {
  const lost = new RpcError("NODE_UNREACHABLE", "the node is lost");

  function losing(...before: string[]): FakeMesh {
    const mesh = new FakeMesh({ good: saying("one", " two", " three") });
    mesh.owner = {
      acquire: async () => ({ outcome: { $case: "follow", value: "other" }, level: "" }),
      put: async () => ({}),
    };
    mesh.joined = async function* () {
      for (const word of before) yield { parts: [text(word)], attempts: 1, cache: undefined };
      throw lost;
    };
    return mesh;
  }

  it.each([[["one", " two"]], [[]]])("is got anew for who wants it whole, after %j", async (before) => {
    const mesh = losing(...before);
    const router = routerOf(mesh);
    const { completion } = await whole(router);
    // The worker's whole answers are empty here: a text would be what is left of the lost one.
    expect(completion?.choices).toEqual([]);
    expect(mesh.asked).toEqual(["good@here"]);
  });

  it("is got here when nobody can be joined any more", async () => {
    const mesh = losing();
    mesh.joined = () => {
      throw lost;
    };
    const router = routerOf(mesh);
    expect((await stream(router)).text).toBe("one two three");
    await whole(router, callOf("team-b"));
    expect(mesh.asked).toEqual(["good@here", "good@here"]);
  });
});

describe("another router", () => {
  it("may join an answer that this one is getting, as the same tenant, and nobody else may", async () => {
    const held = new Held();
    const mesh = new FakeMesh({ held });
    const router = routerOf(mesh);
    const iterator = router.stream({ completion: request }, callOf())[Symbol.asyncIterator]();
    const { value } = await iterator.next();
    const key: string = value.cache.key;
    const join = async (joined: string, call: OwnedCall) => {
      let all = "";
      for await (const { parts } of router.join({ key: joined, whole: false }, call)) {
        for (const { part } of parts) if (part?.$case === "text") all += part.value.text;
      }
      return all;
    };
    const joined = join(key, callOf());
    expect((await failureOf(join(key, callOf("team-b")))).reason).toBe("CACHE_MISS");
    expect((await failureOf(join("no.such.key", callOf()))).reason).toBe("CACHE_MISS");
    held.release();
    expect(await joined).toBe("one two");
    // It has just ended, and who was on its way to it is not sent away.
    expect(await join(key, callOf())).toBe("one two");
    expect((await failureOf(join(key, callOf("team-b")))).reason).toBe("CACHE_MISS");
    await iterator.return?.();
  });
});
