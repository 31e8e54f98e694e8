/** The health of a mesh of real processes: who asks the workers and how often, what is told, and when others do not answer. */
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { afterEach, describe, expect, it } from "vitest";
import { HealthServiceDefinition, Status } from "../../libs/gen/cortex/health/v1/health.ts";
import { ask, startMesh, type TestMesh } from "../mesh.ts";

const ends: (() => Promise<unknown>)[] = [];

afterEach(async () => {
  for (const end of ends.splice(0).reverse()) await end();
});

/** A server of OpenAI's protocol that is asked for its models, which is how workers are checked. */
async function serveModels() {
  const state = { checks: 0 };
  const server = createServer((request, response) => {
    request.resume();
    if (request.url === "/v1/models") state.checks += 1;
    response.setHeader("content-type", "application/json");
    response.end('{"object":"list","data":[{"id":"m","object":"model","created":1,"owned_by":"test"}]}');
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  ends.push(async () => {
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
  });
  return { state, url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1` };
}

async function start(...options: Parameters<typeof startMesh>): Promise<TestMesh> {
  const mesh = await startMesh(...options);
  ends.push(async () => mesh[Symbol.asyncDispose]());
  return mesh;
}

describe("the checks of the workers", () => {
  it("come as often from two health nodes as from one, and go on when there is none", async () => {
    const intervalMs = 500;
    const provider = await serveModels();
    const mesh = await start("many nodes", {
      workers: [{ name: "w", provider: "openai", baseUrl: provider.url, keys: ["k"], models: ["m"] }],
      settings: { health: { intervalMs } },
      replicas: { "adapter-openai": 2 },
    });
    const instances = 2;

    /** How often the provider is asked in an interval, by each instance of the worker. */
    async function rate(): Promise<number> {
      const [before, startedAtMs] = [provider.state.checks, performance.now()];
      await expect.poll(() => provider.state.checks - before, { timeout: 30_000, interval: 20 }).toBeGreaterThan(9);
      return (provider.state.checks - before) / instances / ((performance.now() - startedAtMs) / intervalMs);
    }

    const health = [await mesh.runAs("health-1", "health"), await mesh.runAs("health-2", "health")];
    expect(await rate()).toBeLessThan(1.3);
    health[0]!.kill("SIGKILL");
    await health[0]!.exited;
    expect(await rate()).toBeLessThan(1.3);
    health[1]!.kill("SIGTERM");
    await health[1]!.exited;
    expect(await rate()).toBeLessThan(1.3);
  });
});

interface Verdict {
  readonly status: string;
  readonly problems: readonly string[];
  readonly [field: string]: unknown;
}

interface Report extends Verdict {
  readonly workers: { readonly running: readonly { readonly name: string; readonly node: string }[] };
  readonly cluster: {
    readonly size: number;
    readonly nodes: readonly { readonly id: string; readonly services: readonly string[] }[];
    readonly workers_by_node: Readonly<Record<string, number>>;
    readonly silent_nodes: readonly string[];
  };
  readonly pools: readonly object[];
  readonly breakers: readonly object[];
  readonly keys: readonly object[];
  readonly metrics: { readonly unavailable?: string; readonly requests?: { readonly requests: number } };
  readonly cache: { readonly unavailable?: string; readonly nodes?: readonly object[] };
  readonly nats: { readonly connected: boolean };
}

async function get<T = Verdict>(
  mesh: TestMesh,
  path: string,
  headers: Readonly<Record<string, string>> = {},
): Promise<{ status: number; body: T; text: string; type: string; ms: number }> {
  const startedAtMs = performance.now();
  const response = await fetch(`${mesh.rest}${path}`, { headers });
  const text = await response.text();
  const ms = performance.now() - startedAtMs;
  const type = response.headers.get("content-type") ?? "";
  const body = type === "application/json" ? (JSON.parse(text) as T) : (undefined as T);
  return { status: response.status, body, text, type, ms };
}

/** A report comes within this, whoever hangs; more than the product promises, as the machine of a test is busy. */
const REPORT_MS = 1_500 + 1_000;
const SECRET = "sk-canary-of-the-provider";
const HTML = { accept: "text/html" };

describe("the report of a mesh's health", () => {
  it("tells everything of all nodes, and which of them is frozen, in time", async () => {
    const provider = await serveModels();
    const mesh = await start("many nodes", {
      workers: [{ name: "w", provider: "openai", baseUrl: provider.url, keys: [SECRET], models: ["m"] }],
      settings: { cache: { enabled: true } },
      replicas: { "adapter-openai": 2 },
    });
    const metrics = await mesh.runAs("metrics", "metrics");
    const detailed = () => get<Report>(mesh, "/api/health?detailed=true");
    await expect.poll(async () => (await detailed()).body.metrics.requests).toBeDefined();

    const { status, body, text } = await detailed();
    expect(status).toBe(200);
    expect(body).toMatchObject({ status: "healthy", problems: [], nats: { connected: true } });
    expect(body.cluster.size).toBe(mesh.nodes.length);
    expect(body.cluster.nodes.flatMap(({ services }) => services).sort()).toEqual(
      ["adapter-openai", "adapter-openai", "cache", "gateway", "metrics", "router"].sort(),
    );
    const adapters = [mesh.node("adapter-openai"), mesh.node("adapter-openai-2")];
    for (const { id } of adapters) expect(body.cluster.workers_by_node[id]).toBe(1);
    expect(body.workers.running.map(({ name, node }) => [name, node]).sort()).toEqual(
      adapters.map(({ id }) => ["w", id]).sort(),
    );
    const worker = { worker: "w", node: expect.stringMatching(/^vm|./) };
    expect(body.pools).toEqual([1, 2].map(() => expect.objectContaining({ ...worker, size: expect.any(Number) })));
    expect(body.breakers).toEqual([1, 2].map(() => expect.objectContaining({ ...worker, state: "closed", opened: 0 })));
    const key = { fingerprint: expect.stringMatching(/^[0-9a-f]{8}$/), state: "available" };
    expect(body.keys).toEqual([1, 2].map(() => expect.objectContaining({ ...worker, ...key })));
    expect(body.cache.nodes).toHaveLength(2);
    expect(body.metrics.requests).toMatchObject({ requests: 0, errors: 0 });
    expect(text).not.toContain(SECRET);

    // Everybody but the gateway is frozen: its own memory is all there is.
    const others = mesh.nodes.filter(({ name }) => name !== "gateway");
    for (const node of others) node.kill("SIGSTOP");
    try {
      const frozen = await detailed();
      expect(frozen.ms).toBeLessThan(REPORT_MS);
      expect(frozen.body.cluster.silent_nodes).toEqual(adapters.map(({ id }) => id).sort());
      expect(frozen.body.workers.running).toEqual([1, 2].map(() => expect.objectContaining({ as_announced: true })));
      expect(frozen.body.metrics).toEqual({ unavailable: expect.stringMatching(/./) });
      expect(frozen.body.cache).toEqual({ unavailable: expect.stringMatching(/./) });
      expect(frozen.body.keys).toHaveLength(2);
      // Later they are taken for dead, and are gone.
      await expect.poll(async () => (await detailed()).body.cluster.size).toBe(1);
      const alone = await detailed();
      expect(alone).toMatchObject({ status: 503, body: { status: "unhealthy" } });
      expect(alone.body.metrics.unavailable).toBe("no node runs the service metrics");
    } finally {
      for (const node of others) node.kill("SIGCONT");
    }
    await expect.poll(async () => (await detailed()).body.status).toBe("healthy");

    // NATS is away: nodes are asked as before, and what they say is told.
    await mesh.nats.stop();
    await expect.poll(async () => (await get(mesh, "/api/health")).body["nats_connected"]).toBe(false);
    const away = await detailed();
    expect(away.ms).toBeLessThan(REPORT_MS);
    expect(away.status).toBe(200);
    expect(away.body).toMatchObject({ status: "degraded", nats: { connected: false }, cluster: { silent_nodes: [] } });
    expect(away.body.pools).toHaveLength(2);
    metrics.kill("SIGKILL");
  });

  it("is the same over gRPC, from a node that runs the health service", async () => {
    const mesh = await start("one node", { workers: [{ name: "w", provider: "sim", models: ["m"] }] });
    const report = await ask(mesh.grpc, (channel, call) => channel.client(HealthServiceDefinition).getReport({}, call));
    expect(report.verdict).toMatchObject({ status: Status.HEALTHY, workersAvailable: 1 });
    expect(report.workers.map(({ info, announced }) => [info?.name, announced])).toEqual([["w", false]]);
    expect(report.nodes.map(({ id }) => id)).toEqual([mesh.nodes[0]!.id]);
    expect(report.metrics?.unavailable).toBe("");
  });
});

describe("what is told of a mesh's health", () => {
  it("to whom it is not known is the verdict, without a name, where client keys are configured", async () => {
    const clients = [
      { key: "k-tenant", tenant: "t" },
      { key: "k-admin", tenant: "ops", admin: true },
    ];
    const mesh = await start("one node", {
      workers: [
        { name: "well", provider: "sim", models: ["m"] },
        { name: "named-secretly", provider: "openai", baseUrl: "http://127.0.0.1:1/private-path", keys: [SECRET] },
      ],
      settings: { clients, log: { level: "debug" } },
    });
    await expect
      .poll(async () => (await get(mesh, "/api/health")).body["problems"])
      .toEqual(["1 of 2 workers is unavailable"]);
    const paths = ["/api/health", "/api/health?detailed=true", "/health"];
    for (const headers of [{}, { authorization: "Bearer k-tenant" }, { authorization: "Bearer wrong" }]) {
      for (const path of paths) {
        for (const accept of ["*/*", "text/html"]) {
          const { status, text } = await get(mesh, path, { ...headers, accept });
          expect([status, path]).toEqual([200, path]);
          expect(text).toContain("degraded");
          expect(text).not.toMatch(/named-secretly|private-path|canary|\bwell\b|127\.0\.0\.1:1\b/);
        }
      }
    }
    const closed = await get<{ details: { unavailable: string } }>(mesh, paths[1]!);
    expect(closed.body.details.unavailable).toMatch(/Authorization: Bearer KEY.*admin: true/);
    const wrong = await get<typeof closed.body>(mesh, paths[1]!, { authorization: "Bearer wrong" });
    expect(wrong.body.details.unavailable).toMatch(/not known/);

    const admin = { authorization: "Bearer k-admin" };
    // The answer says whether a key is right: whoever tries some is seen.
    const { text } = await get(mesh, "/metrics", admin);
    expect(text).toContain('cortex_refusals_total{carrier="rest",reason="UNAUTHENTICATED"} 7\n');
    await get(mesh, "/v1/models", { authorization: "Bearer wrong" });
    const line = /"path":"\/v1\/models".*"reason":"UNAUTHENTICATED","client_address":"127\.0\.0\.1"/;
    await expect.poll(() => mesh.output()).toMatch(line);
    const why = "no answer from 127.0.0.1:1 (ECONNREFUSED)";
    const problem = `worker named-secretly is unavailable: ${why} (PROVIDER_UNREACHABLE)`;
    expect((await get(mesh, paths[0]!, admin)).body.problems).toEqual([problem]);
    const report = await get<Report>(mesh, paths[1]!, admin);
    expect(report.body).toMatchObject({
      problems: [problem],
      workers: {
        running: [
          { reason: "PROVIDER_UNREACHABLE", message: why },
          { reason: null, message: null },
        ],
      },
    });
    expect(report.body.workers.running.map(({ name }) => name)).toEqual(["named-secretly", "well"]);
    expect(report.text).not.toContain(SECRET);
    expect((await get(mesh, "/health", { ...admin, ...HTML })).text).toContain(`${why} (PROVIDER_UNREACHABLE)</td>`);

    const verdictOverGrpc = (key: string) =>
      ask(mesh.grpc, (channel, call) => channel.client(HealthServiceDefinition).check({}, call), key);
    expect((await verdictOverGrpc("k-tenant")).problems).toEqual(["worker named-secretly is unavailable"]);
    expect((await verdictOverGrpc("k-admin")).problems).toEqual([problem]);
    const overGrpc = (key: string) =>
      ask(mesh.grpc, (channel, call) => channel.client(HealthServiceDefinition).getReport({}, call), key);
    await expect(overGrpc("k-tenant")).rejects.toMatchObject({ reason: "PERMISSION_DENIED" });
    expect((await overGrpc("k-admin")).workers).toHaveLength(2);
  });

  it("to pages of other sites is the verdict, though no keys are configured", async () => {
    const mesh = await start("one node", { workers: [{ name: "named-w", provider: "sim", models: ["m"] }] });
    const foreign = await get<{ details: { unavailable: string } }>(mesh, "/api/health?detailed=true", {
      origin: "https://example.com",
    });
    expect(foreign.body.details.unavailable).toMatch(/pages of other sites/);
    expect(foreign.text).not.toContain("named-w");
    expect((await get(mesh, "/api/health?detailed=true")).text).toContain("named-w");
  });

  it("to people is a page that needs no script and nothing from elsewhere", async () => {
    const mesh = await start("one node", { workers: [{ name: "w", provider: "sim", models: ["m"] }] });
    const response = await fetch(`${mesh.rest}/health`, { headers: HTML });
    expect(response.headers.get("content-security-policy")).toMatch(/default-src 'none'/);
    expect(response.headers.get("cache-control")).toBe("no-store");
    const page = await response.text();
    expect(page).toContain("<h1>Everything works</h1>");
    expect(page).toContain('<meta http-equiv="refresh" content="10">');
    expect(page).not.toMatch(/<script|style=|https?:/);
    for (const [, path] of page.matchAll(/(?:href|src)="(\/page[^"]*)"/g)) {
      expect((await fetch(`${mesh.rest}${path}`)).status).toBe(200);
    }
    expect((await get(mesh, "/health?reload=off", HTML)).text).not.toContain('http-equiv="refresh"');
    expect((await get(mesh, "/health")).body).toMatchObject({ status: "healthy" });
  });

  it("to orchestrators is whether a node lives, and whether it is ready, until it is about to stop", async () => {
    const mesh = await start("many nodes", { workers: [{ name: "w", provider: "sim", models: ["m"] }] });
    expect(await get(mesh, "/live")).toMatchObject({ status: 200, text: "live\n" });
    for (const path of ["/live", "/ready", "/api/health"]) {
      const headers = await fetch(`${mesh.rest}${path}`, { method: "HEAD" });
      expect([headers.status, await headers.text()]).toEqual([200, ""]);
    }
    expect((await fetch(`${mesh.rest}/v1/models`, { method: "HEAD" })).status).toBe(405);
    expect(await get(mesh, "/ready")).toMatchObject({ status: 200, text: "ready\n" });
    // No worker and no router: nothing that starting the gateway anew would mend.
    for (const name of ["router", "adapter-sim"]) mesh.node(name).kill("SIGKILL");
    await expect.poll(async () => (await get(mesh, "/api/health")).status).toBe(503);
    expect((await get(mesh, "/live")).status).toBe(200);
    expect((await get(mesh, "/ready")).status).toBe(200);
    mesh.node("gateway").kill("SIGTERM");
    await expect
      .poll(() =>
        get(mesh, "/ready").then(
          ({ status }) => status,
          () => 0,
        ),
      )
      .not.toBe(200);
    expect(await mesh.node("gateway").exited).toBe(0);
  });
});
