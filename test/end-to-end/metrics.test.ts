/** What a running mesh knows of its last hour: from every replica, after crashes and outages, and what is shown of it live. */
import { jetstreamManager } from "@nats-io/jetstream";
import { connect as connectNats } from "@nats-io/transport-node";
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import {
  Dimension,
  type Figures,
  MetricsServiceDefinition,
  type SummarizeResponse,
  type WatchResponse,
} from "../../libs/gen/cortex/metrics/v1/metrics.ts";
import { type Channel, connect, startCall } from "../../libs/rpc/index.ts";
import { NO_TRACE } from "../../libs/telemetry/index.ts";
import { see } from "../asking.ts";
import { type Simulator, startOpenAiSimulator } from "../fakes/index.ts";
import { ask, startMesh, type TestMesh, type TestNode } from "../mesh.ts";

/** What clients have seen. */
class Counts {
  requests = 0;
  errors = 0;
  hits = 0;
  outputTokens = 0;
  readonly byModel: Record<string, number> = {};
}

const summaryOf = (node: TestNode): Promise<SummarizeResponse> =>
  ask(node.grpc, (channel, call) =>
    channel.client(MetricsServiceDefinition).summarize({ windowS: 3_600, dimensions: [] }, call),
  );

/** What is the same whenever it is asked. */
function lasting({ total, groups, eventsLost }: SummarizeResponse) {
  return { total, groups, eventsLost };
}

function groupsOf({ groups }: SummarizeResponse, dimension: Dimension): Record<string, Figures> {
  return Object.fromEntries(
    groups.filter((group) => group.dimension === dimension).map(({ name, figures }) => [name, figures!]),
  );
}

describe("the last hour, with two replicas of the metrics service", () => {
  let main: Simulator;
  let spare: Simulator;
  let mesh: TestMesh;
  let replicas: TestNode[];
  const counts = new Counts();
  let questions = 0;

  beforeAll(async () => {
    [main, spare] = await Promise.all([startOpenAiSimulator(), startOpenAiSimulator()]);
    const worker = (name: string, simulator: Simulator, priority: number) => ({
      ...{ name, provider: "openai", baseUrl: simulator.url, models: ["m", "n"], priority },
      breaker: { failures: 1_000 },
    });
    mesh = await startMesh("many nodes", {
      workers: [worker("main", main, 1), worker("spare", spare, 2)],
      settings: { cache: { enabled: true, l2: { timeoutMs: 2_000 } } },
    });
    replicas = [await mesh.runAs("replica", "metrics"), await mesh.runAs("replica", "metrics")];
  });

  afterAll(async () => {
    await mesh?.[Symbol.asyncDispose]();
    await Promise.all([main?.stop(), spare?.stop()]);
  });

  beforeEach(() => {
    for (const simulator of [main, spare]) simulator.behave(undefined);
  });

  async function request(model: string, content = `one two three four ${questions++}`): Promise<void> {
    const answer = await see(mesh.rest, {
      model,
      stream: true,
      stream_options: { include_usage: true },
      messages: [{ role: "user", content }],
    });
    counts.requests++;
    counts.byModel[model] = (counts.byModel[model] ?? 0) + 1;
    if (!answer.done) counts.errors++;
    else if (answer.headers.get("x-cortex-cache")?.startsWith("hit") === true) counts.hits++;
    else counts.outputTokens += answer.usage!.completion_tokens;
  }

  const known = () => ({
    requests: counts.requests,
    errors: counts.errors,
    cacheHits: counts.hits,
    outputTokens: counts.outputTokens,
  });

  async function expectAllToKnow(nodes: readonly TestNode[]): Promise<void> {
    for (const node of nodes) await expect.poll(async () => (await summaryOf(node)).total).toMatchObject(known());
    const [first, ...others] = await Promise.all(nodes.map(async (node) => lasting(await summaryOf(node))));
    for (const other of others) expect(other).toEqual(first);
  }

  it("is told by both alike, and agrees with what clients have seen", async () => {
    await Promise.all(Array.from({ length: 60 }, (_, index) => request(index % 3 === 0 ? "n" : "m")));
    for (let index = 0; index < 5; index++) await request("m", "the same again and again");
    main.behave("status:500");
    await Promise.all(Array.from({ length: 10 }, () => request("m")));
    spare.behave("status:400");
    await request("m");
    expect(counts).toMatchObject({ requests: 76, errors: 1, hits: 4 });
    await expectAllToKnow(replicas);
    const summary = await summaryOf(replicas[0]!);
    expect(summary.total).toMatchObject({ failovers: 11, errorsByReason: { INVALID_REQUEST: 1 } });
    expect(groupsOf(summary, Dimension.MODEL)).toMatchObject({ m: { requests: 56 }, n: { requests: 20 } });
    expect(groupsOf(summary, Dimension.WORKER)).toMatchObject({
      main: { requests: 72, errors: 11, errorsByReason: { PROVIDER_ERROR: 11 } },
      spare: { requests: 11, errors: 1 },
    });
    expect(Object.keys(groupsOf(summary, Dimension.PROVIDER))).toEqual(["openai"]);
    expect(Object.keys(groupsOf(summary, Dimension.TENANT))).toEqual(["default"]);
    const { workers } = await ask(replicas[1]!.grpc, (channel, call) =>
      channel.client(MetricsServiceDefinition).getHealthScores({ windowS: 0 }, call),
    );
    // 61 of 72; the request that was wrong says nothing about who refused it.
    expect(workers.map(({ name, score, attempts }) => [name, score, attempts])).toEqual([
      ["main", 60, 72],
      ["spare", 100, 10],
    ]);
  });

  it("comes back after a crash and after a restart", async () => {
    replicas[1]!.kill("SIGKILL");
    await replicas[1]!.exited;
    await request("m");
    replicas[1] = await mesh.runAs("replica", "metrics");
    await expectAllToKnow(replicas);
    expect((await summaryOf(replicas[0]!)).eventsLost).toBe(0);
    // All of them end, and what they knew has been kept.
    for (const replica of replicas) replica.kill("SIGTERM");
    await Promise.all(replicas.map(({ exited }) => exited));
    await forgetEvents(mesh);
    await request("m");
    replicas = [await mesh.runAs("replica", "metrics"), await mesh.runAs("replica", "metrics")];
    await expectAllToKnow(replicas);
  });

  it("goes on after NATS was away, with what happened meanwhile", async () => {
    await mesh.nats.stop();
    await Promise.all(Array.from({ length: 20 }, () => request("n")));
    // What is known is told all the same.
    expect((await summaryOf(replicas[0]!)).total!.requests).toBe(counts.requests - 20);
    await mesh.reviveNats();
    await expectAllToKnow(replicas);
    await request("n");
    await expectAllToKnow(replicas);
  });

  it("shows a worker whose node was killed as unavailable, whoever is asked", async () => {
    const adapter = mesh.node("adapter-openai");
    const seen = replicas.map((replica) => new Watched(replica));
    try {
      for (const watched of seen) await expect.poll(() => watched.states.get("main")).toBe("available");
      adapter.kill("SIGKILL");
      for (const watched of seen) await expect.poll(() => watched.states.get("main")).toBe("unavailable");
      for (const watched of seen) {
        expect(watched.sentences.join("\n")).toMatch(/Node .* was lost, and with it workers main, spare/);
      }
      await mesh.run("adapter-openai");
      for (const watched of seen) await expect.poll(() => watched.states.get("main")).toBe("available");
    } finally {
      for (const watched of seen) watched.stop();
    }
  });

  it("does not hold a node that is to end, whoever watches", async () => {
    const watched = new Watched(replicas[0]!);
    await expect.poll(() => watched.states.size).toBe(2);
    replicas[0]!.kill("SIGTERM");
    expect(await replicas[0]!.exited).toBe(0);
    await expect.poll(() => watched.ended).toMatch(/NODE_/);
  });
});

/** Takes all events out of the log, as if an hour had passed. */
async function forgetEvents({ nats }: TestMesh): Promise<void> {
  const connection = await connectNats({ servers: nats.url });
  const { streams } = await jetstreamManager(connection);
  await streams.purge("cortex_events");
  await connection.close();
}

/** Somebody who watches a node. */
class Watched {
  readonly states = new Map<string, string>();
  readonly sentences: string[] = [];
  ended = "";
  readonly #channel: Channel;
  readonly #call = startCall({ tenant: "", requestId: "watching", trace: NO_TRACE });

  constructor({ grpc }: TestNode) {
    this.#channel = connect(grpc, {});
    void this.#follow();
  }

  async #follow(): Promise<void> {
    try {
      const messages = this.#channel.client(MetricsServiceDefinition).watch({ intervalMs: 250 }, this.#call);
      for await (const message of messages) this.#take(message);
    } catch (error) {
      this.ended = (error as { reason: string }).reason;
    }
  }

  #take({ workers, gone, happenings }: WatchResponse): void {
    for (const { name, state } of workers) this.states.set(name, state);
    for (const name of gone) this.states.delete(name);
    this.sentences.push(...happenings.map(({ sentence }) => sentence));
  }

  stop(): void {
    this.#call.cancel();
    this.#call.finish();
    this.#channel.close();
  }
}
