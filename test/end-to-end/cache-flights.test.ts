/** Clients that ask the same at the same time share one call of the provider, live, and nobody's fate is another's. */
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { CacheServiceDefinition } from "../../libs/gen/cortex/cache/v1/cache.ts";
import { RouterServiceDefinition } from "../../libs/gen/cortex/router/v1/router.ts";
import { connect, type OwnedCall, startCall } from "../../libs/rpc/index.ts";
import { NO_TRACE } from "../../libs/telemetry/index.ts";
import { readChatRequest } from "../../services/gateway/openai-request.ts";
import { type Seen, see, seeSlowly } from "../asking.ts";
import { type Simulator, startOpenAiSimulator } from "../fakes/index.ts";
import { ask, SHAPES, type Shape, startMesh, type TestMesh } from "../mesh.ts";

const CLIENTS = 100;
const SAID = "one two three four five six seven eight nine ten";
const breaker = { failures: 1_000 };
const timeouts = { connectMs: 2_000, firstTokenMs: 3_000, stallMs: 3_000 };

let first: Simulator;
let second: Simulator;
let mesh: TestMesh;
let doors: string[];
/** What the simulators were asked by the tests before. */
let before = { first: 0, second: 0 };

async function start(shape: Shape): Promise<void> {
  [first, second] = await Promise.all([startOpenAiSimulator(), startOpenAiSimulator()]);
  const worker = (name: string, simulator: Simulator, priority: number) => ({
    ...{ name, provider: "openai", baseUrl: simulator.url, models: ["m"], priority, timeouts, breaker },
  });
  mesh = await startMesh(shape, {
    workers: [worker("first", first, 1), worker("second", second, 2)],
    settings: { cache: { enabled: true, l2: { timeoutMs: 2_000 } }, routing: { strategy: "local_first" } },
    replicas: { gateway: 2, router: 2, cache: 2 },
  });
  doors = mesh.nodes.flatMap(({ rest }) => rest ?? []);
}

async function stop(): Promise<void> {
  await mesh?.[Symbol.asyncDispose]();
  await Promise.all([first?.stop(), second?.stop()]);
}

beforeEach(() => {
  for (const simulator of [first, second]) simulator?.behave(undefined);
  before = { first: first?.generations.length ?? 0, second: second?.generations.length ?? 0 };
});

let questions = 0;

function question(): string {
  questions += 1;
  return `${SAID} ${questions}`;
}

function bodyOf(content: string, fields: object = {}): object {
  const usage = { stream_options: { include_usage: true } };
  return { model: "m", messages: [{ role: "user", content }], stream: true, ...usage, ...fields };
}

/** So many clients, in turn at each gateway. */
function crowd(content: string, count = CLIENTS, fields: object = {}): Promise<Seen>[] {
  const body = bodyOf(content, fields);
  return Array.from({ length: count }, (_, index) => see(doors[index % doors.length]!, body));
}

/** The whole answer of the simulated model, whatever part of it was sent by whom. */
function expectWhole(seen: readonly Seen[], text: string): void {
  for (const one of seen)
    expect(one, one.body).toMatchObject({ text, finishReason: "stop", error: undefined, done: true });
}

/** The same for texts that are too long to be shown. */
function expectAlike(seen: readonly Seen[], text: string): void {
  for (const one of seen) {
    expect({ error: one.error, done: one.done, characters: one.text.length }).toEqual({
      error: undefined,
      done: true,
      characters: text.length,
    });
    expect(one.text === text).toBe(true);
  }
}

const firstCalls = () => first.generations.slice(before.first);
const secondCalls = () => second.generations.slice(before.second);
const calls = () => firstCalls().length + secondCalls().length;
const statesOf = (seen: readonly Seen[]) => new Set(seen.map(({ headers }) => headers.get("x-cortex-cache")));

describe.each(SHAPES)("clients that ask the same at once, with %s", (shape) => {
  beforeAll(() => start(shape));
  afterAll(stop);

  it("cause one call and stream it from its first token", async () => {
    first.behave("firstTokenMs:200,tokenMs:150");
    const content = question();
    const seen = await Promise.all(crowd(content));
    expectWhole(seen, `You said: ${content}`);
    expect(calls()).toBe(1);
    expect(statesOf(seen)).toEqual(new Set(["miss", "shared"]));
    expect(new Set(seen.map(({ headers }) => headers.get("cache-status")))).toEqual(
      new Set(["cortex; fwd=miss", "cortex; fwd=miss; collapsed"]),
    );
    expect(new Set(seen.flatMap(({ ids }) => ids)).size).toBe(1);
    // Live: the last of them has its first token long before the answer ends.
    const firstTexts = seen.map(({ firstTextAtMs }) => firstTextAtMs);
    const endedAtMs = Math.min(...seen.map((one) => one.endedAtMs));
    const began = Math.min(...firstTexts);
    expect(Math.max(...firstTexts) - began).toBeLessThan((endedAtMs - began) / 2);
    for (const { texts } of seen) expect(texts).toBeGreaterThan(5);
  });

  it("cause one call when they want it whole, and when some of them stream", async () => {
    first.behave("firstTokenMs:500,tokenMs:20");
    const content = question();
    const streaming = crowd(content, 10);
    await first.generation(before.first);
    const whole = crowd(content, 10, { stream: false, stream_options: undefined });
    const seen = await Promise.all([...streaming, ...whole]);
    expectWhole(seen, `You said: ${content}`);
    expect(calls()).toBe(1);

    first.behave("headersMs:500");
    const other = question();
    expectWhole(
      await Promise.all(crowd(other, 20, { stream: false, stream_options: undefined })),
      `You said: ${other}`,
    );
    expect(calls()).toBe(2);
  });

  it("and come late have everything from the beginning", async () => {
    first.behave("tokenMs:150");
    const content = question();
    const early = crowd(content, 2);
    await expect.poll(() => firstCalls()[0]?.tokensSent ?? 0).toBeGreaterThan(5);
    const late = await Promise.all(crowd(content, 10));
    expectWhole([...late, ...(await Promise.all(early))], `You said: ${content}`);
    expect(calls()).toBe(1);
  });

  it("may leave without stopping the others, until the last one has left", async () => {
    first.behave("tokens:5000,tokenMs:10");
    const content = question();
    const clients = Array.from({ length: 6 }, (_, index) => {
      const leave = new AbortController();
      let texts = 0;
      const onText = () => {
        texts += 1;
      };
      const seen = see(doors[index % doors.length]!, bodyOf(content), { signal: leave.signal, onText });
      seen.catch(() => {});
      return { leave, seen, count: () => texts };
    });
    for (const client of clients) await expect.poll(client.count).toBeGreaterThan(0);
    expect(calls()).toBe(1);
    const generation = firstCalls()[0]!;
    // Who asked first leaves first: nobody is the owner of the call.
    for (const { leave, seen } of clients.slice(0, -1)) {
      leave.abort();
      await expect(seen).rejects.toThrow();
    }
    const last = clients.at(-1)!;
    const read = last.count();
    await expect.poll(last.count).toBeGreaterThan(read + 20);
    expect(generation.closedAtMs).toBeUndefined();
    last.leave.abort();
    expect((await generation.ended).how).toBe("client-closed");
    expect(generation.tokensSent).toBeLessThan(4_000);
  });

  it("are all served by the next worker when the first one refuses or dies before its first token", async () => {
    for (const behaviour of ["status:500", "stall:headers", "cut:headers"]) {
      first.behave(behaviour);
      const called = secondCalls().length;
      const content = question();
      const seen = await Promise.all(crowd(content, 20, { cortex: { hedging: false } }));
      expectWhole(seen, `You said: ${content}`);
      expect(secondCalls()).toHaveLength(called + 1);
    }
  });

  it("all go on with the next worker when the first one dies in the middle", async () => {
    first.behave("tokenMs:50,cut:6");
    const content = question();
    const seen = await Promise.all(crowd(content, 40));
    expectWhole(seen, `You said: ${content}`);
    for (const { body } of seen) expect(body).toContain(": continued by worker second");
    expect(firstCalls()).toHaveLength(1);
    expect(secondCalls()).toHaveLength(1);
  });

  it("all are told when nobody can answer", async () => {
    for (const simulator of [first, second]) simulator.behave("headersMs:200,status:400");
    const seen = await Promise.all(crowd(question(), 20));
    expect(new Set(seen.map(({ status }) => status))).toEqual(new Set([400]));
    expect(calls()).toBeLessThanOrEqual(2);
    // And it is over: who asks then is served.
    for (const simulator of [first, second]) simulator.behave(undefined);
    const content = question();
    expectWhole(await Promise.all(crowd(content, 1)), `You said: ${content}`);
  });

  describe("are not held up by one that does not read", () => {
    /** Words of 10,000 characters: more bytes than buffers on the way hold, few enough events to be read in time. */
    const textOf = (words: number) =>
      Array.from({ length: words }, (_, word) => `${word}`.padEnd(10_000, "x")).join(" ");

    it("and which has everything when it reads on", async () => {
      const text = textOf(700);
      first.behave({ text, tokenMs: 1 });
      const content = question();
      const readOn = await seeSlowly(doors[0]!, bodyOf(content));
      const others = await Promise.all(crowd(content, 4));
      expectAlike(others, text);
      expectAlike([await readOn()], text);
      expect(calls()).toBe(1);
    });

    it("and which is told so when it has missed more than is kept", async () => {
      const text = textOf(3_000);
      first.behave({ text, tokenMs: 1 });
      const content = question();
      const readOn = await seeSlowly(doors[0]!, bodyOf(content));
      const others = await Promise.all(crowd(content, 2));
      expectAlike(others, text);
      const slow = await readOn();
      expect(slow.error).toBe("STREAM_INTERRUPTED");
      expect(slow.done).toBe(false);
      expect(text.startsWith(slow.text)).toBe(true);
      expect(calls()).toBe(1);
    });
  });
});

describe("clients that share an answer, when a node is lost", () => {
  beforeEach(async () => {
    await start("many nodes");
    before = { first: 0, second: 0 };
  });
  afterEach(stop);

  /** A client that asks this router itself, so that it leads. */
  function lead(
    router: string,
    content: string,
  ): { readonly call: OwnedCall; readonly texts: Promise<number>; close(): void } {
    const channel = connect(router, {});
    const call = startCall({ tenant: "", requestId: "lead", trace: NO_TRACE });
    const { completion } = readChatRequest(bodyOf(content));
    const read = async () => {
      let texts = 0;
      for await (const { parts } of channel.client(RouterServiceDefinition).stream({ completion }, call)) {
        for (const { part } of parts) if (part?.$case === "text") texts += 1;
      }
      return texts;
    };
    const texts = read();
    texts.catch(() => {});
    return {
      call,
      texts,
      close() {
        call.cancel();
        channel.close();
      },
    };
  }

  /** Requests that have found somebody else's call, on all nodes. */
  async function sharedCalls(): Promise<number> {
    const { nodes } = await ask(mesh.node("cache").grpc, (channel, call) =>
      channel.client(CacheServiceDefinition).listStatistics({}, call),
    );
    return nodes.reduce((sum, node) => sum + node.sharedCalls, 0);
  }

  it("go on when the router that leads is killed", async () => {
    first.behave("firstTokenMs:300,tokenMs:150");
    const content = question();
    const leader = lead(mesh.node("router").grpc, content);
    await first.generation(before.first);
    const following = crowd(content, 40);
    await expect.poll(() => firstCalls()[0]?.tokensSent ?? 0).toBeGreaterThan(4);
    expect(calls()).toBe(1);
    mesh.node("router").kill("SIGKILL");
    expectWhole(await Promise.all(following), `You said: ${content}`);
    leader.close();
  });

  it("and want it whole have it once when the router that leads is killed", async () => {
    first.behave("firstTokenMs:300,tokenMs:150");
    const content = question();
    const leader = lead(mesh.node("router").grpc, content);
    await first.generation(before.first);
    const following = crowd(content, 20, { stream: false, stream_options: undefined });
    await expect.poll(sharedCalls).toBeGreaterThan(10);
    await expect.poll(() => firstCalls()[0]?.tokensSent ?? 0).toBeGreaterThan(4);
    mesh.node("router").kill("SIGKILL");
    expectWhole(await Promise.all(following), `You said: ${content}`);
    leader.close();
  });

  it("go on when the router that leads is killed before the first token", async () => {
    first.behave(["stall:headers"]);
    const content = question();
    const leader = lead(mesh.node("router").grpc, content);
    await first.generation(before.first);
    const following = crowd(content, 20);
    await expect.poll(sharedCalls).toBeGreaterThan(10);
    mesh.node("router").kill("SIGKILL");
    expectWhole(await Promise.all(following), `You said: ${content}`);
    leader.close();
  });

  it.each(["SIGKILL", "SIGSTOP"] as const)("do not see that a cache service gets a %s", async (signal) => {
    first.behave("firstTokenMs:200,tokenMs:100");
    const asked = Array.from({ length: 6 }, question);
    const running = asked.map((content) => ({ content, seen: Promise.all(crowd(content, 6)) }));
    await expect.poll(calls).toBe(asked.length);
    mesh.node("cache").kill(signal);
    const after = Array.from({ length: 6 }, question);
    running.push(...after.map((content) => ({ content, seen: Promise.all(crowd(content, 6)) })));
    for (const { content, seen } of running) expectWhole(await seen, `You said: ${content}`);
    expect(calls()).toBeLessThanOrEqual(asked.length + after.length * doors.length);
    // Those that another node owns are shared all the while.
    expect(calls()).toBeGreaterThanOrEqual(asked.length + after.length);
    mesh.node("cache").kill("SIGKILL");
  });

  it("are served without any cache service", async () => {
    first.behave("firstTokenMs:100,tokenMs:20");
    mesh.node("cache").kill("SIGKILL");
    mesh.node("cache-2").kill("SIGKILL");
    const content = question();
    expectWhole(await Promise.all(crowd(content, 20)), `You said: ${content}`);
    // Each router shares among its own.
    expect(calls()).toBeLessThanOrEqual(2);
  });
});
