/** What the last hour has come to, over HTTP and by the commands, and who may see it. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import { type Simulator, startOpenAiSimulator } from "../fakes/index.ts";
import { startMesh, type TestMesh } from "../mesh.ts";

const CORTEX = new URL("../../services/cortex.ts", import.meta.url).pathname;
const KEYS = { team: "team-key-7f3a", other: "other-key-11aa", admin: "admin-key-51d0" };

let simulator: Simulator;
let mesh: TestMesh;

beforeAll(async () => {
  simulator = await startOpenAiSimulator();
  mesh = await startMesh("one node", {
    workers: [{ name: "main", provider: "openai", baseUrl: simulator.url, models: ["m"] }],
    settings: {
      cache: { enabled: true },
      clients: [
        { key: KEYS.team, tenant: "team" },
        { key: KEYS.other, tenant: "other" },
        { key: KEYS.admin, tenant: "operations", admin: true },
      ],
    },
  });
  for (const [key, count] of [
    [KEYS.team, 3],
    [KEYS.other, 2],
  ] as const) {
    for (let index = 0; index < count; index++) {
      const body = JSON.stringify({ model: "m", messages: [{ role: "user", content: `${key.length} ${index}` }] });
      const response = await fetch(`${mesh.rest}/v1/chat/completions`, {
        method: "POST",
        headers: authorization(key),
        body,
      });
      expect(response.status).toBe(200);
    }
  }
  await vi.waitFor(async () => {
    expect((await read("/api/metrics", KEYS.admin)).body.total).toMatchObject({ requests: 5 });
  });
});

afterAll(async () => {
  await mesh?.[Symbol.asyncDispose]();
  await simulator?.stop();
});

function authorization(key: string): Record<string, string> {
  return { authorization: `Bearer ${key}` };
}

interface Read {
  readonly status: number;
  // biome-ignore lint/suspicious/noExplicitAny: JSON, of which each test looks at another part.
  readonly body: any;
}

async function read(path: string, key: string): Promise<Read> {
  const response = await fetch(`${mesh.rest}${path}`, { headers: authorization(key) });
  return { status: response.status, body: await response.json() };
}

function start(...args: string[]): ChildProcess {
  return spawn(process.execPath, [CORTEX, ...args, "--address", mesh.grpc, "--key", KEYS.admin], {
    stdio: ["ignore", "pipe", "pipe"],
    env: { PATH: process.env["PATH"], HOME: process.env["HOME"] },
  });
}

function outputOf(child: ChildProcess): () => string {
  let output = "";
  for (const stream of [child.stdout!, child.stderr!]) {
    stream.setEncoding("utf8").on("data", (piece: string) => {
      output += piece;
    });
  }
  return () => output;
}

async function run(...args: string[]): Promise<string> {
  const child = start(...args);
  const output = outputOf(child);
  await once(child, "close");
  return output();
}

describe("over HTTP", () => {
  it("an administrator is told everything, by what it wants, of the window it wants", async () => {
    const { body } = await read("/api/metrics?window=10m&by=worker,tenant", KEYS.admin);
    expect(body.groups).toMatchObject({
      worker: [{ name: "main", requests: 5, errors: 0, duration: { count: 5 } }],
      tenant: [
        { name: "other", requests: 2 },
        { name: "team", requests: 3 },
      ],
    });
    expect(Object.keys(body.groups)).toEqual(["worker", "tenant"]);
    expect(body.toMs - body.fromMs).toBeGreaterThanOrEqual(600_000);
    expect((await read("/api/metrics/scores", KEYS.admin)).body).toMatchObject({
      providers: [{ name: "openai", score: 100, success: 1, attempts: 5 }],
      workers: [{ name: "main", score: 100 }],
    });
    const { points } = (await read("/api/metrics/history?window=1h&points=30", KEYS.admin)).body;
    expect(points).toHaveLength(30);
    expect(points.reduce((sum: number, point: { requests: number }) => sum + point.requests, 0)).toBe(5);
  });

  it("a tenant is told what is its own", async () => {
    const { body } = await read("/api/metrics", KEYS.team);
    expect(body.total).toMatchObject({ requests: 3 });
    expect(body.groups).toMatchObject({ tenant: [{ name: "team", requests: 3 }], worker: [], model: [] });
    const { points } = (await read("/api/metrics/history", KEYS.team)).body;
    expect(points.reduce((sum: number, point: { requests: number }) => sum + point.requests, 0)).toBe(3);
    for (const path of ["/api/metrics/scores", "/api/live"]) {
      expect(await read(path, KEYS.team)).toMatchObject({
        status: 403,
        body: { error: { code: "PERMISSION_DENIED" } },
      });
    }
    expect((await read("/api/metrics", "no key of ours")).status).toBe(401);
  });

  it.each([
    ["/api/metrics?window=2h", "window"],
    ["/api/metrics?window=soon", "window"],
    ["/api/metrics?by=moon", "by"],
    ["/api/metrics?form=xml", "form"],
    ["/api/metrics/history?points=-1", "points"],
  ])("%s is refused, naming %s", async (path, param) => {
    expect(await read(path, KEYS.admin)).toMatchObject({ status: 400, body: { error: { param } } });
  });

  it("everything is told as it is, and again within a second", async () => {
    const response = await fetch(`${mesh.rest}/api/live`, { headers: authorization(KEYS.admin) });
    expect(response.headers.get("content-type")).toMatch(/^text\/event-stream/);
    let text = "";
    for await (const piece of response.body!.pipeThrough(new TextDecoderStream())) {
      text += piece;
      if (text.split("\n\n").length > 2) break;
    }
    const [first, second] = text
      .split("\n\n")
      .slice(0, 2)
      .map((event) => JSON.parse(event.replace(/^event: state\ndata: /, "")));
    expect(first).toMatchObject({ whole: true, workers: [{ name: "main", state: "available", attempts: 5 }] });
    expect(first.nodes).toHaveLength(1);
    expect(first.nodes[0].rssBytes).toBeGreaterThan(10_000_000);
    expect(first.mostUsed).toMatchObject([{ name: "m", figures: { requests: 5 } }]);
    expect(second.whole).toBe(false);
  });
});

describe("the commands", () => {
  it("cortex metrics prints a table, and JSON for programs", async () => {
    const [table, json, wrong] = await Promise.all([
      run("metrics", "--by", "tenant"),
      run("metrics", "--window", "10m", "--by", "worker", "--json"),
      run("metrics", "--window", "2h"),
    ]);
    expect(table).toMatch(/all requests +│ +5 +│ +0/);
    expect(table).toMatch(/tenant team +│ +3/);
    expect(JSON.parse(json)).toMatchObject({ total: { requests: 5 }, groups: { worker: [{ name: "main" }] } });
    expect(wrong).toMatch(/from 1 s to 3600 s/);
  });

  it("cortex watch prints a line each time, and appends one of JSON to a file", async () => {
    const file = join(mesh.folder, "watched.jsonl");
    const child = start("watch", "--every", "1s", "--out", file);
    const output = outputOf(child);
    const lines = async () => (await readFile(file, "utf8").catch(() => "")).trim().split("\n").filter(Boolean);
    await expect.poll(lines).toHaveLength(2);
    child.kill("SIGINT");
    await once(child, "close");
    for (const line of await lines()) {
      expect(JSON.parse(line)).toMatchObject({
        requestsPerSecond: expect.any(Number),
        errorRate: 0,
        meanMs: expect.any(Number),
        workers: { available: 1, unavailable: 0 },
        breakers: { closed: 1, open: 0 },
        pools: { connectionsMax: expect.any(Number) },
        nodes: [{ rssBytes: expect.any(Number), eventLoopDelayMs: expect.any(Number) }],
        cache: [{ level: "l1" }, { level: "l2" }],
      });
    }
    expect(output()).toMatch(/^\d\d:\d\d:\d\d {2}[\d.]+ requests\/s, .*workers 1 up, 0 busy, 0 down \| .*\| cache l1 /);
    const nowhere = await run("watch", "--out", join(mesh.folder, "missing", "file"));
    expect(nowhere).toMatch(/^cortex: .*can't be written/);
  });

  it("cortex top prints plain lines where there is no terminal", async () => {
    const child = start("top");
    const output = outputOf(child);
    await expect.poll(output).toMatch(/\d\d:\d\d:\d\d {2}[\d.]+ requests\/s .*workers 1 up 0 busy 0 down\n/);
    child.kill("SIGINT");
    await once(child, "close");
    expect(output()).not.toContain("\x1b");
  });
});
