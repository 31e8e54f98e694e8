/** What a node without a gateway answers over HTTP to whoever runs it. */
import { afterEach, describe, expect, it } from "vitest";
import { NodeRecord } from "../gen/cortex/mesh/v1/mesh.ts";
import { createMetrics, METRIC } from "../telemetry/index.ts";
import { createAuthenticator } from "./authentication.ts";
import {
  createOperations,
  listenForOperations,
  type OperationsDependencies,
  type OperationsServer,
  type Readiness,
} from "./operations.ts";

const CLIENTS = [
  { key: "admin-key", tenant: "operators", admin: true },
  { key: "client-key", tenant: "team-a", admin: false },
];

const servers: OperationsServer[] = [];

afterEach(() => Promise.all(servers.splice(0).map((server) => server.close())));

/** Starts the server of a node; returns how to ask it. */
async function start(options: Partial<OperationsDependencies> & { readonly clients?: typeof CLIENTS } = {}) {
  const { clients = [], ...dependencies } = options;
  const operations = createOperations({
    metrics: createMetrics(),
    nodes: () => [],
    keysRequired: () => clients.length > 0,
    token: () => undefined,
    authenticate: createAuthenticator(clients),
    readiness: () => ({ ready: true, why: "" }),
    ...dependencies,
  });
  const server = await listenForOperations(operations, { host: "127.0.0.1", port: 0 });
  servers.push(server);
  return (path: string, init?: RequestInit) => fetch(`http://127.0.0.1:${server.port}${path}`, init);
}

const bearer = (key: string) => ({ headers: { authorization: `Bearer ${key}` } });

describe("a node", () => {
  it("tells its metrics in the format that is asked for", async () => {
    const metrics = createMetrics();
    metrics.add(METRIC.serviceCrashes, 1, "router");
    const ask = await start({ metrics });
    const text = await ask("/metrics");
    expect(text.headers.get("content-type")).toBe("text/plain; version=0.0.4; charset=utf-8");
    expect(await text.text()).toContain('cortex_service_crashes_total{service="router"} 1\n');
    const open = await ask("/metrics?whatever", { headers: { accept: "application/openmetrics-text; version=1.0.0" } });
    expect(open.headers.get("content-type")).toContain("application/openmetrics-text");
    expect(await open.text()).toMatch(/# EOF\n$/);
  });

  it("tells where the nodes of the mesh can be scraped, as Prometheus wants it", async () => {
    const node = NodeRecord.decode(new Uint8Array());
    const ask = await start({
      nodes: () => [
        { ...node, id: "a-1", name: "a", services: ["router", "cache"], zone: "z", metricsAddress: "10.0.0.1:9000" },
        { ...node, id: "b-1", services: ["health"], metricsAddress: "10.0.0.2:9000" },
        { ...node, id: "old", services: ["health"] },
      ],
    });
    const answer = await ask("/metrics/targets");
    expect(answer.headers.get("content-type")).toBe("application/json");
    expect(await answer.json()).toEqual([
      {
        targets: ["10.0.0.1:9000"],
        labels: { node: "a", services: "router,cache", zone: "z", __meta_cortex_node_id: "a-1" },
      },
      {
        targets: ["10.0.0.2:9000"],
        labels: { node: "b-1", services: "health", zone: "", __meta_cortex_node_id: "b-1" },
      },
    ]);
  });

  it("lives as long as it answers, and is ready when it says so", async () => {
    let readiness: Readiness = { ready: false, why: "its services are being started" };
    const ask = await start({ readiness: () => readiness });
    expect((await ask("/live")).status).toBe(200);
    const waiting = await ask("/ready");
    expect([waiting.status, await waiting.text()]).toEqual([503, "its services are being started\n"]);
    readiness = { ready: true, why: "" };
    expect((await ask("/ready")).status).toBe(200);
  });

  it("answers nothing else", async () => {
    const ask = await start();
    expect((await ask("/")).status).toBe(404);
    expect((await ask("/metrics", { method: "POST" })).status).toBe(405);
  });

  it("that counts nothing has no metrics", async () => {
    const ask = await start({ metrics: createMetrics({ enabled: false }) });
    const answer = await ask("/metrics");
    expect([answer.status, await answer.text()]).toEqual([404, expect.stringContaining("metrics.enabled")]);
    expect((await ask("/metrics/targets")).status).toBe(404);
    expect((await ask("/live")).status).toBe(200);
  });
});

describe("metrics are told", () => {
  async function statuses(options: Parameters<typeof start>[0]): Promise<Record<string, number>> {
    const ask = await start(options);
    const keys = {
      nothing: undefined,
      "admin-key": "admin-key",
      "client-key": "client-key",
      token: "the-token",
      wrong: "x",
    };
    const asked = Object.entries(keys).map(async ([name, key]) => {
      const { status } = await ask("/metrics", key === undefined ? {} : bearer(key));
      return [name, status] as const;
    });
    return Object.fromEntries(await Promise.all(asked));
  }

  it("to everybody, where no keys are configured", async () => {
    expect(new Set(Object.values(await statuses({})))).toEqual(new Set([200]));
  });

  it("to administrators, where client keys are", async () => {
    expect(await statuses({ clients: CLIENTS })).toEqual({
      nothing: 401,
      "admin-key": 200,
      "client-key": 403,
      token: 401,
      wrong: 401,
    });
  });

  it("to nobody else, and each who tries is counted", async () => {
    const metrics = createMetrics();
    const ask = await start({ clients: CLIENTS, metrics });
    for (const key of ["x", "y", "client-key"]) await (await ask("/metrics", bearer(key))).text();
    await (await ask("/metrics/targets", bearer("z"))).text();
    const { body } = await metrics.expose("");
    expect(body).toContain('cortex_refusals_total{carrier="rest",reason="UNAUTHENTICATED"} 3\n');
    expect(body).toContain('cortex_refusals_total{carrier="rest",reason="PERMISSION_DENIED"} 1\n');
  });

  it("to who has the token too", async () => {
    expect(await statuses({ clients: CLIENTS, token: () => "the-token" })).toEqual({
      nothing: 401,
      "admin-key": 200,
      "client-key": 403,
      token: 200,
      wrong: 401,
    });
  });

  it("to who has the token alone, where it is all that is configured", async () => {
    expect(await statuses({ token: () => "the-token" })).toEqual({
      nothing: 401,
      "admin-key": 401,
      "client-key": 401,
      token: 200,
      wrong: 401,
    });
  });
});
