/** The cache service: its nodes share the keys, a Redis stands behind them, and none of it has to be there. */
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import {
  CacheServiceDefinition,
  type LevelStatistics,
  type ListStatisticsResponse,
} from "../../libs/gen/cortex/cache/v1/cache.ts";
import { HealthServiceDefinition } from "../../libs/gen/cortex/health/v1/health.ts";
import { see } from "../asking.ts";
import { redisKinds, type Simulator, startOpenAiSimulator, startRedis, type TestRedis } from "../fakes/index.ts";
import { ask, startMesh, type TestMesh, type TestNode, type TestWorker } from "../mesh.ts";

const QUESTIONS = 40;

// The kind that is there: what differs between them, the tests of the service show.
const kind = redisKinds().at(-1)!;

describe(`the cache service, with a ${kind} Redis behind it`, () => {
  let simulator: Simulator;
  let redis: TestRedis;
  let mesh: TestMesh;
  let settings: object;
  let workers: TestWorker[];
  let round = 0;

  beforeAll(async () => {
    [simulator, redis] = await Promise.all([startOpenAiSimulator(), startRedis(kind)]);
    workers = [{ name: "w", provider: "openai", baseUrl: simulator.url, models: ["m"] }];
    const l3 = { url: redis.url, timeoutMs: 1_000 };
    // Without a first level, every look-up goes to the owner of its key. This machine may be busy with other tests.
    settings = { cache: { enabled: true, l1: { entries: 0 }, l2: { timeoutMs: 2_000 }, l3 } };
    mesh = await startMesh("many nodes", {
      workers,
      settings: { ...settings },
      replicas: { cache: 2 },
    });
    await mesh.run("health");
  });

  afterEach(() => simulator.behave(undefined));

  afterAll(async () => {
    await mesh?.[Symbol.asyncDispose]();
    await redis?.[Symbol.asyncDispose]();
    await simulator?.stop();
  });

  const health = (): TestNode => mesh.nodes.find(({ name }) => name === "health")!;

  /** Questions that nobody has asked before. */
  function newQuestions(): string[] {
    round += 1;
    return Array.from({ length: QUESTIONS }, (_, index) => `round ${round}, question ${index}`);
  }

  /** Asks them all; returns the levels that the answers came from, and how often each. */
  async function askAll(questions: readonly string[]): Promise<Record<string, number>> {
    const counts: Record<string, number> = {};
    await Promise.all(
      questions.map(async (content) => {
        const answer = await see(mesh.rest, { model: "m", messages: [{ role: "user", content }] });
        expect(answer).toMatchObject({ status: 200, text: `You said: ${content}` });
        const told = answer.headers.get("x-cortex-cache")!;
        const level = /level=(l\d)/.exec(told)?.[1] ?? told.split(";")[0]!;
        counts[level] = (counts[level] ?? 0) + 1;
      }),
    );
    return counts;
  }

  const statistics = (): Promise<ListStatisticsResponse> =>
    ask(mesh.grpc, (channel, call) => channel.client(CacheServiceDefinition).listStatistics({}, call));

  async function levels(name: string): Promise<LevelStatistics[]> {
    const { nodes } = await statistics();
    return nodes.flatMap((node) => node.levels).filter(({ level }) => level === name);
  }

  const entries = async (): Promise<number> => (await levels("l2")).reduce((sum, level) => sum + level.entries, 0);

  const problems = async (): Promise<string[]> => {
    const told = await ask(health().grpc, (channel, call) => channel.client(HealthServiceDefinition).check({}, call));
    return told.problems.filter((problem) => problem.includes("third level"));
  };

  const clear = (): Promise<number> =>
    ask(mesh.node("cache").grpc, async (channel, call) => {
      const nothing = { key: "", tenant: "", model: "" };
      return (await channel.client(CacheServiceDefinition).invalidate(nothing, call)).entries;
    });

  it("shares the keys among its nodes, each with one of them, and writes them to Redis", async () => {
    const questions = newQuestions();
    expect(await askAll(questions)).toEqual({ miss: QUESTIONS });
    await expect.poll(entries).toBe(QUESTIONS);
    const shares = (await levels("l2")).map((level) => level.entries);
    expect(shares).toHaveLength(2);
    for (const share of shares) expect(share).toBeGreaterThan(QUESTIONS / 10);
    await expect.poll(() => redis.size()).toBe(QUESTIONS);
    expect(await askAll(questions)).toEqual({ l2: QUESTIONS });
    expect((await statistics()).nodes.map(({ levels: all }) => all.map(({ level }) => level).join())).toEqual(
      expect.arrayContaining(["l1", "l2,l3", "l2,l3"]),
    );
  });

  it("takes everything out of both levels, on all nodes", async () => {
    await askAll(newQuestions());
    await expect.poll(entries).toBeGreaterThanOrEqual(QUESTIONS);
    await expect.poll(() => redis.size()).toBeGreaterThanOrEqual(QUESTIONS);
    expect(await clear()).toBeGreaterThan(0);
    await expect.poll(entries).toBe(0);
    expect(await redis.size()).toBe(0);
  });

  it("goes on when one of its nodes is killed, with what Redis has of that one's keys", async () => {
    const questions = newQuestions();
    await askAll(questions);
    await expect.poll(entries).toBe(QUESTIONS);
    await expect.poll(() => redis.size()).toBe(QUESTIONS);
    const victim = mesh.node("cache-2");
    const lost = (await statistics()).nodes.find(({ node }) => node === victim.id)!.levels[0]!.entries;
    victim.kill("SIGKILL");
    // In the middle of it, nobody sees more than a miss.
    await askAll(newQuestions());
    await victim.exited;
    await expect.poll(() => askAll(questions)).toEqual({ l2: QUESTIONS });
    expect((await levels("l3")).reduce((sum, { hits }) => sum + hits, 0)).toBeGreaterThanOrEqual(lost);
  });

  it("hands keys over to a node that comes, and nobody notices", async () => {
    const questions = newQuestions();
    await askAll(questions);
    await expect.poll(() => redis.size()).toBeGreaterThanOrEqual(QUESTIONS);
    const called = simulator.generations.length;
    const newcomer = await mesh.run("cache");
    await expect.poll(async () => (await statistics()).nodes.some(({ node }) => node === newcomer.id)).toBe(true);
    const told = await askAll(questions);
    expect(Object.keys(told).filter((level) => !["l2", "l3"].includes(level))).toEqual([]);
    expect(told["l3"]).toBeGreaterThan(0);
    expect(simulator.generations.length).toBe(called);
  });

  it("is there without Redis: nobody sees more than a miss, and health tells it", async () => {
    const questions = newQuestions();
    await askAll(questions);
    await expect.poll(async () => (await askAll(questions))["l2"]).toBe(QUESTIONS);
    await redis.kill();
    expect(await askAll(questions)).toEqual({ l2: QUESTIONS });
    expect(await askAll(newQuestions())).toEqual({ miss: QUESTIONS });
    // It is told with a node's heartbeat.
    await expect.poll(async () => (await problems()).length, { timeout: 10_000 }).toBe(1);
    expect((await levels("l3")).reduce((sum, { failures }) => sum + failures, 0)).toBeGreaterThan(0);
    // What lies there could not be taken out.
    await expect(clear()).rejects.toMatchObject({ reason: "CACHE_STORE_UNREACHABLE" });
    expect(await entries()).toBe(0);

    await redis.revive();
    await expect.poll(problems, { timeout: 15_000 }).toEqual([]);
    await askAll(newQuestions());
    await expect.poll(() => redis.size()).toBeGreaterThan(0);
  });

  it("takes another Redis, or none, while it runs, and other bounds", async () => {
    const { cache } = settings as { cache: object };
    const changed = { workers, cache: { ...cache, l2: { entries: 3, timeoutMs: 2_000 }, l3: undefined } };
    await writeFile(join(mesh.folder, "cortex.yaml"), JSON.stringify(changed));
    await expect.poll(async () => (await levels("l3")).length, { timeout: 10_000 }).toBe(0);
    await askAll(newQuestions());
    await expect
      .poll(async () => (await levels("l2")).every((level) => level.entries <= 3 && level.entriesMax === 3))
      .toBe(true);
    expect((await levels("l2")).reduce((sum, { evictions }) => sum + evictions, 0)).toBeGreaterThan(0);
  });
});
