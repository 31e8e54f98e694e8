/** The regular checks of workers: who makes them, when, and what becomes of those that hang. */
import { afterEach, describe, expect, it, vi } from "vitest";
import { createProviderService, type ProviderService } from "../../libs/adapter/index.ts";
import { createTestWorker, serveHttp } from "../../libs/adapter/test-provider.ts";
import { NodeRecord, RunningWorker } from "../../libs/gen/cortex/mesh/v1/mesh.ts";
import { type CheckHealthRequest, Health } from "../../libs/gen/cortex/provider/v1/provider.ts";
import { Ownership } from "../../libs/mesh/ownership.ts";
import { type Call, RpcError, type Service, type ServiceDefinition } from "../../libs/rpc/index.ts";
import { createLogger } from "../../libs/telemetry/index.ts";
import { WorkerChecks, type WorkerChecksOptions } from "./worker-checks.ts";

const INTERVAL_MS = 30_000;
const log = createLogger({ level: "silent", readable: false, node: "test" });
const ends: (() => Promise<unknown>)[] = [];

afterEach(async () => {
  for (const end of ends.splice(0).reverse()) await end();
});

type CheckHealth = (request: CheckHealthRequest, call: Call) => Promise<unknown>;

/** The checks of the node `nodeId` in a mesh of the health nodes `replicas`, whose workers answer as `checkHealth` does. */
function createChecks(
  workers: readonly (readonly [node: string, worker: string])[],
  checkHealth: (node: string) => CheckHealth,
  { nodeId = "health-1", replicas = [nodeId], ...options }: Partial<WorkerChecksOptions> & { replicas?: string[] } = {},
) {
  const problems: (string | undefined)[] = [];
  const nodes = replicas.map((id) => NodeRecord.fromPartial({ id }));
  const directory = {
    generation: 1,
    workers: () => workers.map(([node, name]) => RunningWorker.fromPartial({ node, info: { name } })),
    nodesServing: () => nodes,
  };
  const ownership = new Ownership(directory);
  const clients = {
    at: <D extends ServiceDefinition>(_: D, node: string) =>
      ({ checkHealth: checkHealth(node) }) as unknown as Service<D>,
    ownerOf: ({ fullName }: ServiceDefinition, key: string) => ownership.ownerOf(fullName, key),
  };
  const checks = new WorkerChecks({
    nodeId,
    directory,
    clients,
    intervalMs: () => INTERVAL_MS,
    nowMs: Date.now,
    problem: (sentence) => problems.push(sentence),
    log,
    ...options,
  });
  return { checks, problems };
}

const named = (count: number, node = "n"): [string, string][] =>
  Array.from({ length: count }, (_, index) => [node, `w-${index}`]);

describe("the checks of all workers", () => {
  it("are shared out: each worker of each node has one replica that asks for it", async () => {
    const workers = [...named(100, "a"), ...named(100, "b")];
    const asked: Record<string, string[]> = {};
    const replicas = ["health-1", "health-2", "health-3"];
    for (const nodeId of replicas) {
      asked[nodeId] = [];
      const note = (node: string) => async (request: CheckHealthRequest) => {
        asked[nodeId]!.push(`${node}/${request.worker}`);
        expect(request.ageMaxMs).toBeLessThan(INTERVAL_MS);
      };
      await createChecks(workers, note, { nodeId, replicas }).checks.checkDue(0, INTERVAL_MS);
    }
    const all = Object.values(asked).flat();
    expect(all.sort()).toEqual(workers.map(([node, worker]) => `${node}/${worker}`).sort());
    for (const nodeId of replicas) expect(asked[nodeId]!.length).toBeGreaterThan(30);
  });

  it("come once in every interval, spread over it", async () => {
    const asked: string[] = [];
    const { checks } = createChecks(
      named(300),
      () =>
        async ({ worker }) =>
          void asked.push(worker),
    );
    const startMs = 1_700_000_000_123;
    const counts: number[] = [];
    for (let second = 0; second < 30; second += 1) {
      const before = asked.length;
      await checks.checkDue(startMs + second * 1_000, startMs + (second + 1) * 1_000);
      counts.push(asked.length - before);
    }
    expect(new Set(asked).size).toBe(300);
    expect(asked).toHaveLength(300);
    expect(Math.max(...counts)).toBeLessThan(30);
    await checks.checkDue(startMs + INTERVAL_MS, startMs + 2 * INTERVAL_MS);
    expect(asked).toHaveLength(600);
    // After a long sleep each is asked once, not once for each interval that was missed.
    await checks.checkDue(startMs + 2 * INTERVAL_MS, startMs + 20 * INTERVAL_MS);
    expect(asked).toHaveLength(900);
  });

  it("go on by themselves, and end with their service", async () => {
    const asked: string[] = [];
    const end = new AbortController();
    const { checks } = createChecks(
      named(5),
      () =>
        async ({ worker }) =>
          void asked.push(worker),
      {
        intervalMs: () => 50,
      },
    );
    const running = checks.run(end.signal);
    await vi.waitFor(() => expect(asked.length).toBeGreaterThan(20));
    expect(new Set(asked).size).toBe(5);
    end.abort();
    await running;
    const before = asked.length;
    await checks.checkDue(0, 0);
    expect(asked).toHaveLength(before);
  });

  it("of 1,000 workers are not held up by 100 whose providers hang, and do not pile up on those", async () => {
    const asked = { quick: 0, hanging: 0 };
    await using provider = await serveHttp((request, response) => {
      request.resume();
      if (request.url?.startsWith("/hangs")) asked.hanging += 1;
      else {
        asked.quick += 1;
        response.end("{}");
      }
    });
    const workers: ProviderService = createProviderService();
    ends.push(() => workers.close());
    const all = named(1_000);
    // The hanging ones among the others, every tenth, and more than are asked at once.
    for (const [index, [, name]] of all.entries()) {
      workers.add(createTestWorker(`${provider.url}${index % 10 === 0 ? "/hangs" : ""}`, { name, keys: [] }));
    }
    const { checks } = createChecks(all, () => workers.service.checkHealth);
    const count = (health: Health) => workers.workers().filter((worker) => worker.info().health === health).length;
    let ended = false;
    const round = checks.checkDue(0, INTERVAL_MS).then(() => {
      ended = true;
    });
    await vi.waitFor(() => expect(count(Health.AVAILABLE)).toBe(900));
    expect(ended).toBe(false);
    // The next rounds come while those still hang.
    const next = [checks.checkDue(0, INTERVAL_MS), checks.checkDue(0, INTERVAL_MS)];
    await Promise.all([round, ...next]);
    expect(asked.quick).toBe(900);
    expect(asked.hanging).toBeLessThanOrEqual(100);
    // On a machine that is too busy to ask all of them in time, some are not known.
    expect(count(Health.UNAVAILABLE) + count(Health.UNSPECIFIED)).toBe(100);
    expect(count(Health.UNAVAILABLE)).toBeGreaterThan(0);
  }, 30_000);

  it("say which workers' nodes do not answer, until they do", async () => {
    let lost = true;
    const { checks, problems } = createChecks(named(8), () => async ({ worker }, call) => {
      if (!lost || worker === "w-0") return;
      if (worker === "w-1") throw new RpcError("NODE_UNREACHABLE", "gone");
      // A frozen process: nothing ever comes, and the call ends when its time is over.
      await new Promise((_, reject) => call.signal.addEventListener("abort", () => reject(call.signal.reason)));
    });
    await checks.checkDue(0, INTERVAL_MS);
    expect(problems.at(-1)).toBe(
      "no answer to a health check within 5 s from: w-1 on node n, w-2 on node n, w-3 on node n, w-4 on node n, w-5 on node n and 2 more",
    );
    lost = false;
    await checks.checkDue(0, INTERVAL_MS);
    expect(problems.at(-1)).toBeUndefined();
  }, 30_000);
});
