/** The command `cortex`, as people and programs use it beside a mesh that runs, and where none does. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import { type Simulator, startOpenAiSimulator, unusedPort } from "../fakes/index.ts";
import { natsServerBin, startMesh, type TestMesh } from "../mesh.ts";

const CORTEX = new URL("../../services/cortex.ts", import.meta.url).pathname;
const ROOT = new URL("../..", import.meta.url).pathname;
const KEY = "client-key-7f3a";
const ADMIN_KEY = "admin-key-51d0";

interface Outcome {
  readonly code: number | string;
  readonly stdout: string;
  readonly stderr: string;
}

let folder: string;
let natsBin: string;

function start(args: readonly string[], environment: Readonly<Record<string, string>> = {}): ChildProcess {
  return spawn(process.execPath, [CORTEX, ...args], {
    cwd: folder,
    stdio: ["ignore", "pipe", "pipe"],
    env: {
      PATH: process.env["PATH"],
      HOME: process.env["HOME"],
      PORT: "0",
      CORTEX_GRPC_PORT: "0",
      CORTEX_NATS_BIN: natsBin,
      NODE_COMPILE_CACHE: join(ROOT, "node_modules", ".cache", "cortex"),
      ...environment,
    },
  });
}

async function outcomeOf(child: ChildProcess): Promise<Outcome> {
  let stdout = "";
  let stderr = "";
  child.stdout!.setEncoding("utf8").on("data", (piece: string) => {
    stdout += piece;
  });
  child.stderr!.setEncoding("utf8").on("data", (piece: string) => {
    stderr += piece;
  });
  const [code, signal] = (await once(child, "close")) as [number | null, string | null];
  // Whatever goes wrong, nobody is shown a stack.
  expect(stderr).not.toMatch(/\n\s+at /);
  return { code: code ?? signal!, stdout, stderr };
}

/** Runs one command to its end. */
const cortex = (args: readonly string[], environment: Readonly<Record<string, string>> = {}): Promise<Outcome> =>
  outcomeOf(start(args, environment));

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "cortex-cli-"));
  natsBin = await natsServerBin();
});

afterAll(() => rm(folder, { recursive: true, force: true }));

describe("beside a mesh", () => {
  let simulator: Simulator;
  let mesh: TestMesh;
  /** A command to the mesh, with its client key unless there is another. */
  const ask = (args: readonly string[], environment: Readonly<Record<string, string>> = {}) =>
    cortex([...args, "--address", mesh.grpc], { CORTEX_CLIENT_KEY: KEY, ...environment });

  beforeAll(async () => {
    simulator = await startOpenAiSimulator();
    mesh = await startMesh("one node", {
      workers: [
        {
          name: "main",
          provider: "openai",
          baseUrl: simulator.url,
          models: ["gpt-4o", "a", "b", "c", "d"],
          priority: 1,
        },
        {
          name: "gone",
          provider: "openai",
          baseUrl: `http://127.0.0.1:${await unusedPort()}/v1`,
          models: ["g"],
          breaker: { failures: 1_000 },
        },
      ],
      settings: {
        clients: [
          { key: KEY, tenant: "team-a" },
          { key: ADMIN_KEY, tenant: "operations", admin: true },
        ],
      },
    });
  });

  afterAll(async () => {
    await mesh?.[Symbol.asyncDispose]();
    await simulator?.stop();
  });

  it("chat streams an answer, and says beside it who gave it", async () => {
    const [answer, named, json] = await Promise.all([
      ask(["chat", "hello", "there"]),
      cortex(["chat", "hi", "-m", "main/gpt-4o", "--address", mesh.grpc, "--key", KEY]),
      ask(["chat", "--json", "hi"]),
    ]);
    expect(answer).toMatchObject({ code: 0, stdout: "You said: hello there\n" });
    expect(answer.stderr).toMatch(/main\/gpt-4o.*: first token after [\d.]+ s, \d+ tokens/);
    expect(named).toMatchObject({ code: 0, stdout: "You said: hi\n" });
    expect(JSON.parse(json.stdout)).toEqual({
      text: "You said: hi",
      model: expect.stringContaining("gpt-4o"),
      worker: "main",
      provider: "openai",
      finish_reason: "stop",
      usage: { prompt_tokens: expect.any(Number), completion_tokens: 3, total_tokens: expect.any(Number) },
      warnings: [],
      first_token_ms: expect.any(Number),
      duration_ms: expect.any(Number),
    });
    expect(json.stderr).toBe("");
  });

  it("chat says in a sentence what went wrong", async () => {
    const [unknown, down, locked, wrong] = await Promise.all([
      ask(["chat", "hi", "-m", "gpt-4oo"]),
      ask(["chat", "hi", "-m", "g"]),
      ask(["chat", "hi"], { CORTEX_CLIENT_KEY: "" }),
      ask(["chat", "hi"], { CORTEX_CLIENT_KEY: "wrong-key" }),
    ]);
    for (const { code, stdout } of [unknown, down, locked, wrong]) expect([code, stdout]).toEqual([1, ""]);
    expect(unknown.stderr).toMatch(/^cortex: the model "gpt-4oo" does not exist; did you mean "gpt-4o".*\n/);
    expect(down.stderr).toMatch(/^cortex: no workers available: gone: PROVIDER_UNREACHABLE/);
    expect(locked.stderr).toContain("CORTEX_CLIENT_KEY");
    expect(wrong.stderr).toContain("is not known");
    expect(wrong.stderr).not.toContain("wrong-key");
  });

  it("chat says it to programs in JSON", async () => {
    const [unknown, down] = await Promise.all([
      ask(["chat", "--json", "hi", "-m", "gpt-4oo"]),
      ask(["chat", "--json", "hi", "-m", "g"]),
    ]);
    for (const { code, stderr } of [unknown, down]) expect([code, stderr]).toEqual([1, ""]);
    expect(JSON.parse(unknown.stdout)).toMatchObject({
      error: {
        reason: "MODEL_NOT_FOUND",
        param: "model",
        message: expect.stringMatching(/does not exist/),
        attempts: [],
      },
    });
    expect(JSON.parse(down.stdout)).toMatchObject({
      error: {
        reason: "NO_WORKERS_AVAILABLE",
        message: expect.stringMatching(/^no workers available: gone: PROVIDER_UNREACHABLE/),
        attempts: expect.arrayContaining([
          { worker: "gone", reason: "PROVIDER_UNREACHABLE", message: "no answer from the provider (ECONNREFUSED)" },
        ]),
      },
    });
    expect(down.stdout).not.toContain("127.0.0.1");
  });

  it("the gateway's greeting shows how to send the key", async () => {
    expect(await (await fetch(mesh.rest)).text()).toContain(`completions -H "authorization: Bearer $KEY" -H`);
  });

  it("chat stops with Ctrl-C, and when nobody reads it any more, and the provider with it", async () => {
    simulator.behave("tokens:100000,tokenMs:5");
    try {
      const interrupted = start(["chat", "hi", "--address", mesh.grpc, "--key", KEY]);
      const piped = start(["chat", "hi", "--address", mesh.grpc, "--key", KEY]);
      const outcomes = [interrupted, piped].map(outcomeOf);
      await Promise.all([once(interrupted.stdout!, "data"), once(piped.stdout!, "data")]);
      interrupted.kill("SIGINT");
      piped.stdout!.destroy();
      const [first, second] = await Promise.all(outcomes);
      expect(first).toMatchObject({ code: 130, stderr: "" });
      expect(second).toMatchObject({ code: 130, stderr: "" });
      const streams = simulator.generations.slice(-2);
      expect(await Promise.all(streams.map(async ({ ended }) => (await ended).how))).toEqual([
        "client-closed",
        "client-closed",
      ]);
    } finally {
      simulator.behave(undefined);
    }
  });

  it("cache stats tells of every level, for people and for programs", async () => {
    const [table, json] = await Promise.all([ask(["cache", "stats"]), ask(["cache", "stats", "--json"])]);
    expect(table.stdout).toMatch(
      /level.*node.*entries.*hits.*\n.*\n.*l1.*0 of 10000.*100\.0 MB.*\n.*\n.*l2.*0 of 50000/,
    );
    expect(table.stdout).toContain("0 requests were served by another one's call");
    const told = JSON.parse(json.stdout) as { nodes: unknown[]; totals: { level: string }[]; silent: string[] };
    expect(told.totals.map(({ level }) => level)).toEqual(["l1", "l2"]);
    expect([told.nodes.length, told.silent]).toEqual([1, []]);
  });

  it("cache clear is for administrators, and takes nothing for everything", async () => {
    const admin = { CORTEX_CLIENT_KEY: ADMIN_KEY };
    const [refused, empty, done, json] = await Promise.all([
      ask(["cache", "clear"]),
      ask(["cache", "clear", "--tenant", ""], admin),
      ask(["cache", "clear", "--tenant", "acme", "--model", "gpt-4o"], admin),
      ask(["cache", "clear", "--json"], admin),
    ]);
    expect(refused).toMatchObject({ code: 1, stdout: "" });
    expect(refused.stderr).toMatch(/PERMISSION_DENIED.*\n.*administrator's key/);
    expect(empty).toMatchObject({ code: 1, stdout: "" });
    expect(empty.stderr).toContain("leave the option out to mean all");
    expect(done).toMatchObject({ code: 0, stdout: expect.stringMatching(/^0 entries were taken out/) });
    expect(JSON.parse(json.stdout)).toEqual({ entries: 0 });
  });

  it("workers list is a table for people and JSON for programs", async () => {
    // The worker that is down has been found out by now.
    await vi.waitFor(async () => expect((await ask(["health"])).stdout).toContain("gone is unavailable"), 20_000);
    const [table, byAdmin, json, none, one] = await Promise.all([
      ask(["workers", "list"]),
      ask(["workers", "list"], { CORTEX_CLIENT_KEY: ADMIN_KEY }),
      ask(["workers", "list", "--json"]),
      ask(["workers", "list", "--provider", "ollama"]),
      ask(["workers", "list", "--provider", "openai", "--json"]),
    ]);
    const cells = table.stdout
      .split("\n")
      .filter((line) => line.startsWith("│"))
      .map((line) => line.split("│").map((cell) => cell.trim()));
    const column = (name: string) => cells.slice(1).map((row) => row[cells[0]!.indexOf(name)]);
    expect(column("worker")).toEqual(["gone", "main"]);
    expect(column("health")).toEqual(["unavailable", "available"]);
    expect(column("priority")).toEqual(["100", "1"]);
    expect(column("models")).toEqual(["g", "gpt-4o, a, b +2"]);
    expect(new Set(column("node"))).toEqual(new Set([mesh.nodes[0]!.id]));
    const remedy = "Operators: check the worker's baseUrl and the network with cortex doctor.";
    const place = `  - gone on ${mesh.nodes[0]!.id}:`;
    expect(table.stdout.split("\n").at(-2)).toBe(`${place} (PROVIDER_UNREACHABLE). ${remedy}`);
    const line = byAdmin.stdout
      .split("\n")
      .at(-2)
      ?.replace(/:\d+ \(E/, ":PORT (E");
    expect(line).toBe(`${place} no answer from 127.0.0.1:PORT (ECONNREFUSED) (PROVIDER_UNREACHABLE). ${remedy}`);
    const workers = JSON.parse(json.stdout) as Record<string, unknown>[];
    expect(workers).toMatchObject([
      {
        name: "gone",
        provider: "openai",
        health: "unavailable",
        reason: "PROVIDER_UNREACHABLE",
        message: "",
        breaker: "closed",
        node: mesh.nodes[0]!.id,
      },
      { name: "main", models: ["gpt-4o", "a", "b", "c", "d"], health: "available", simulated: false },
    ]);
    expect(none).toMatchObject({ code: 0, stdout: "no workers of provider ollama are running\n" });
    expect(JSON.parse(one.stdout)).toHaveLength(2);
  });

  it("workers add refuses what can't be said of a model, and names it", async () => {
    const add = (properties: string) =>
      ask(["workers", "add", "w", "--provider", "openai", "--model-properties", properties]);
    const told = await Promise.all([
      add('{"m": {"contextTokens": 1000}}'),
      add('{"m": {"contextTokensMax": "many"}}'),
      add('{"m": {"capabilities": "vision"}}'),
      add('{"m": 7}'),
      add("[]"),
    ]);
    for (const { code, stdout } of told) expect([code, stdout]).toEqual([1, ""]);
    expect(told[0]!.stderr).toMatch(/there is no "contextTokens"; there are capabilities, contextTokensMax, /);
    expect(told[1]!.stderr).toContain("contextTokensMax has to be a whole number, at least 1");
    expect(told[2]!.stderr).toContain("capabilities has to be a list of texts");
    for (const { stderr } of told.slice(3)) expect(stderr).toContain("It has to be JSON");
  });

  it("workers are added, changed, drained and removed, and each command says what has become of it", async () => {
    const change = (...args: string[]) => ask(["workers", ...args], { CORTEX_CLIENT_KEY: ADMIN_KEY });
    const list = async (...filter: string[]) =>
      JSON.parse((await change("list", "--json", ...filter)).stdout) as Record<string, unknown>[];
    const options = ["--base-url", simulator.url, "--models", "x, y", "--weight", "3", "--concurrent", "5"];
    const times = ["--first-token-ms", "60000", "--model-properties", '{"x": {"contextTokensMax": 1000}}'];
    const added = await change("add", "extra", "--provider", "openai", ...options, ...times);
    expect(added).toMatchObject({ code: 0, stderr: "" });
    expect(added.stdout).toMatch(/^worker extra was added; available on \S+ with 2 models\n$/);
    expect((await list()).find(({ name }) => name === "extra")).toMatchObject({
      added: true,
      models: ["x", "y"],
      weight: 3,
      concurrentRequestsMax: 5,
      modelProperties: { x: { contextTokensMax: 1000 } },
      draining: false,
      locality: "local",
    });
    expect(await list("--remote")).toEqual([]);

    expect(await change("update", "extra")).toMatchObject({
      code: 1,
      stderr: "cortex: name a setting to change: cortex workers update --help lists them (INVALID_REQUEST)\n",
    });
    const updated = await change("update", "extra", "--models", "z", "--concurrent", "default");
    expect(updated).toMatchObject({ code: 0, stdout: "worker extra was changed\n" });
    await expect
      .poll(async () => (await list("--local")).find(({ name }) => name === "extra"), { timeout: 10_000 })
      .toMatchObject({ models: ["z"], weight: 3, concurrentRequestsMax: 0 });
    expect(await ask(["chat", "hi", "-m", "z"])).toMatchObject({ code: 0, stdout: "You said: hi\n" });

    const drained = await change("drain", "extra");
    expect(drained).toMatchObject({ code: 0, stdout: "worker extra takes no new requests and serves none\n" });
    await expect
      .poll(async () => (await change("list")).stdout, { timeout: 10_000 })
      .toMatch(/extra.*available, draining.*added/);
    expect(await change("undrain", "extra", "--json")).toMatchObject({
      code: 0,
      stdout: '{"worker":"extra","change":"undrained"}\n',
    });
    const distribution = await change("distribution", "--json");
    expect(Object.values((JSON.parse(distribution.stdout) as { workersByNode: object }).workersByNode)).toEqual([3]);
    expect((await change("distribution")).stdout).toMatch(/node.*workers[\s\S]*3/);
    expect(await change("remove", "extra")).toMatchObject({ code: 0, stdout: "worker extra was removed\n" });
    await expect
      .poll(async () => (await list()).map(({ name }) => name), { timeout: 10_000 })
      .toEqual(["gone", "main"]);
  });

  it("workers that can't be changed so are told why, in the words of the command line", async () => {
    const change = (...args: string[]) => ask(["workers", ...args], { CORTEX_CLIENT_KEY: ADMIN_KEY });
    const outcomes = await Promise.all([
      ask(["workers", "add", "w", "--provider", "openai"]),
      change("add", "main", "--provider", "openai"),
      change("add", "w", "--provider", "vllm"),
      change("add", "w", "--provider", "openai", "--concurrent", "0"),
      change("add", "w", "--provider", "openai", "--stall-ms", "soon"),
      change("add", "w", "--provider", "openai", "--keys-variable", "HOME"),
      change("add", "w"),
      change("update", "main", "--weight", "2"),
      change("remove", "nobody"),
    ]);
    for (const { code, stdout } of outcomes) expect([code, stdout]).toEqual([1, ""]);
    const told = outcomes.map(({ stderr }) => stderr);
    expect(told[0]).toMatch(/administrator.*PERMISSION_DENIED\)\n.*--key/);
    expect(told[1]).toContain("worker main is already registered");
    expect(told[2]).toMatch(/^cortex: --provider has to be one .*: anthropic, .*sim/);
    expect(told[3]).toMatch(/^cortex: --concurrent has to be a whole number, at least 1/);
    expect(told[4]).toContain("It has to be a number");
    expect(told[5]).toMatch(/^cortex: --keys-variable has to begin with CORTEX_KEYS_/);
    expect(told[6]).toContain("--provider");
    expect(told[7]).toContain("change cortex.yaml");
    expect(told[8]).toMatch(/no worker.*nobody.*\n.*workers list/);
  });

  it("health --detailed shows an administrator the nodes, the workers and what is counted", async () => {
    const admin = { CORTEX_CLIENT_KEY: ADMIN_KEY };
    const [told, json, locked] = await Promise.all([
      ask(["health", "--detailed"], admin),
      ask(["health", "--detailed", "--json"], admin),
      ask(["health", "--detailed"]),
    ]);
    expect(told.code).toBe(0);
    expect(told.stdout).toMatch(
      /^degraded: .*\n {2}- worker gone is unavailable: no answer from 127\.0\.0\.1:\d+ \(ECONNREFUSED\) \(PROVIDER_/,
    );
    expect(told.stdout).toMatch(/gateway, router, cache \+\d/);
    expect(told.stdout).toMatch(/│ gone +│.*│ unavailable +│ closed/);
    expect(told.stdout).toMatch(/│ main +│.*│ available +│ closed/);
    expect(told.stdout).toMatch(/\nrequests in 5 minutes: \d+, \d+ failed/);
    expect(told.stdout).toMatch(/\ncache: /);
    const report = JSON.parse(json.stdout) as { workers: object[]; verdict: object };
    expect(report.verdict).toMatchObject({ status: "degraded" });
    expect(report.workers).toEqual([
      expect.objectContaining({ name: "gone", health: "unavailable", announced: false }),
      expect.objectContaining({ name: "main", health: "available", breaker: "closed", node: mesh.nodes[0]!.id }),
    ]);
    expect(locked.code).toBe(1);
    expect(locked.stderr).toMatch(/administrator.*PERMISSION_DENIED\)\n.*--key/);
  });

  it("health says how the mesh is, and by its exit code whether it can serve", async () => {
    const [told, json] = await Promise.all([ask(["health"]), ask(["health", "--json"])]);
    expect(told.code).toBe(0);
    expect(told.stdout).toMatch(/^degraded: workers: 1 available, 0 busy, 1 unavailable; 1 node; Cortex \d/);
    expect(told.stdout).toContain("  - worker gone is unavailable\n");
    expect(json.code).toBe(0);
    expect(JSON.parse(json.stdout)).toMatchObject({ status: "degraded", workersUnavailable: 1, natsConnected: true });

    await simulator.stop();
    expect((await ask(["chat", "hi"])).code).toBe(1);
    const [broken, brokenJson] = await Promise.all([ask(["health"]), ask(["health", "--json"])]);
    expect(broken.code).toBe(1);
    expect(broken.stdout).toMatch(/^unhealthy: workers: 0 available/);
    expect(brokenJson.code).toBe(1);
    expect(JSON.parse(brokenJson.stdout)).toMatchObject({ status: "unhealthy" });
  });
});

describe("where nothing runs", () => {
  it.each([["health"], ["workers", "list"], ["chat", "hi"]])("%s says so, and what to do", async (...command) => {
    const address = `127.0.0.1:${await unusedPort()}`;
    const { code, stdout, stderr } = await cortex([...command, "--address", address]);
    expect([code, stdout]).toEqual([1, ""]);
    expect(stderr).toMatch(/^cortex: the node at /);
    expect(stderr).toContain(address);
    expect(stderr).toContain("--address host:port");
  });

  it("run needs a mesh to join, and services that there are", async () => {
    const [lonely, unknown] = await Promise.all([cortex(["run", "gateway"]), cortex(["run", "gatway", "router"])]);
    expect(lonely.code).toBe(1);
    expect(lonely.stderr).toMatch(/^cortex: no mesh to join: set CORTEX_NATS_URL .*\n.*cortex up/);
    expect(unknown.code).toBe(1);
    expect(unknown.stderr).toMatch(/^cortex: there is no service gatway; there are gateway, router/);
  });

  it("a node is asked where the environment says that it listens, and an address has a host and a port", async () => {
    const port = String(await unusedPort());
    const [usual, moved, ...wrong] = await Promise.all([
      cortex(["health"], { CORTEX_GRPC_PORT: port }),
      cortex(["health"], { CORTEX_GRPC_PORT: port, HOST: "::1" }),
      ...["nonsense", "50051", "localhost:99999", "http://localhost:8080"].map((address) =>
        cortex(["health", "--address", address]),
      ),
    ]);
    expect(usual.stderr).toMatch(
      new RegExp(`^cortex: the node at 127\\.0\\.0\\.1:${port} could not be reached.*\n.*after gRPC`),
    );
    expect(moved.stderr).toContain(`the node at [::1]:${port} could not be reached`);
    for (const { code, stderr } of wrong) {
      expect([code, stderr]).toEqual([1, expect.stringContaining("It has to be host:port, such as 127.0.0.1:50051.")]);
    }
  });

  it("help is a command's first answer, and a mistake's second", async () => {
    const [help, topic, version, unknown, option, missing] = await Promise.all([
      cortex(["--help"]),
      cortex(["chat", "--help"]),
      cortex(["--version"]),
      cortex(["wrokers", "list"]),
      cortex(["health", "--adress", "x"]),
      cortex(["chat"]),
    ]);
    expect(help.code).toBe(0);
    for (const name of ["up", "run", "chat", "workers", "health", "doctor"]) {
      expect(help.stdout).toMatch(new RegExp(`^  ${name} `, "m"));
    }
    expect(topic.stdout).toMatch(/--model <model>.*auto/);
    expect(version.stdout).toMatch(/^\d+\.\d+\.\d+\n$/);
    expect(unknown).toMatchObject({ code: 1, stdout: "" });
    expect(unknown.stderr).toMatch(/unknown command 'wrokers'\n\(Did you mean workers\?\)\n.*--help/);
    expect(option.stderr).toMatch(/unknown option '--adress'\n\(Did you mean --address\?\)/);
    expect(missing.stderr).toContain("missing required argument 'prompt'");
  });
});

interface Finding {
  readonly check: string;
  readonly result: "ok" | "warning" | "wrong";
  readonly message: string;
  readonly remedy: string;
}

describe("doctor", () => {
  let simulator: Simulator;

  beforeAll(async () => {
    simulator = await startOpenAiSimulator({ apiKeys: ["right-key"] });
  });

  afterAll(() => simulator.stop());

  /** What the doctor finds with these workers, for people and for programs. */
  async function examined(workers: readonly object[], environment: Readonly<Record<string, string>> = {}) {
    const file = join(await mkdtemp(join(folder, "doctor-")), "cortex.yaml");
    await writeFile(file, JSON.stringify({ workers }));
    const [people, programs] = await Promise.all([
      cortex(["doctor", "--config", file], environment),
      cortex(["doctor", "--config", file, "--json"], environment),
    ]);
    expect(programs.code).toBe(people.code);
    const findings = JSON.parse(programs.stdout) as Finding[];
    const marks = { ok: "✓", warning: "!", wrong: "✗" };
    for (const { check, result, message, remedy } of findings) {
      // The same is told to both; what is not well has a remedy.
      expect(people.stdout).toContain(`${marks[result]} ${check}: ${message}\n`);
      if (result !== "ok" && remedy !== "") expect(people.stdout).toContain(`    → ${remedy.split("\n")[0]}`);
      if (result === "wrong") expect(remedy).not.toBe("");
    }
    const found = (check: string) => findings.find((finding) => finding.check === check)!;
    return { code: people.code, findings, found, file };
  }

  it("finds nothing where all is well", async () => {
    const worker = {
      name: "main",
      provider: "openai",
      baseUrl: simulator.url,
      keys: ["right-key"],
      models: ["a", "b"],
    };
    const { code, findings, found, file } = await examined([worker, { name: "sim", provider: "sim" }]);
    expect(code).toBe(0);
    // Not every machine that tests has as many file descriptors as one that serves.
    expect(findings.filter(({ result, check }) => result !== "ok" && check !== "file descriptors")).toEqual([]);
    expect(findings.map(({ check }) => check)).toEqual([
      "Node",
      "file descriptors",
      "configuration",
      "NATS",
      "REST port",
      "gRPC port",
      "worker main",
      "worker sim",
    ]);
    expect(found("configuration").message).toContain(file);
    expect(found("worker main").message).toBe(`${simulator.url} answers; 2 models`);
    expect(found("worker sim").message).toBe("a simulation");
  });

  it("says what is wrong with a worker: down, refused, or not to be made at all", async () => {
    const baseUrl = `http://127.0.0.1:${await unusedPort()}/v1`;
    const { code, found } = await examined([
      { name: "down", provider: "openai", baseUrl, keys: ["some-key"], models: ["m"] },
      { name: "refused", provider: "openai", baseUrl: simulator.url, keys: ["canary-key"] },
      { name: "odd", provider: "sim", options: { speed: 1 } },
      { name: "well", provider: "sim" },
    ]);
    expect(code).toBe(1);
    expect(found("worker down")).toMatchObject({ result: "warning" });
    expect(found("worker down").remedy).toContain(baseUrl);
    expect(found("worker down").message).toMatch(/^no answer from 127\.0\.0\.1:\d+ \(ECONNREFUSED\)/);
    expect(found("worker refused")).toMatchObject({ result: "warning" });
    expect(found("worker refused").message).toContain("Incorrect API key");
    expect(JSON.stringify(found("worker refused"))).not.toContain("canary-key");
    expect(found("worker odd")).toMatchObject({ result: "wrong" });
    expect(found("worker odd").message).toContain("options.speed");
    // One that is wrong does not hide the others.
    expect(found("worker well")).toMatchObject({ result: "ok" });
  });

  it("does not take a worker that is down for an illness of Cortex", async () => {
    const baseUrl = `http://127.0.0.1:${await unusedPort()}/v1`;
    const { code } = await examined([{ name: "down", provider: "openai", baseUrl, keys: ["k"], models: ["m"] }]);
    expect(code).toBe(0);
  });

  it("says that there is no nats-server, and how to get one", async () => {
    const { code, found } = await examined([], { CORTEX_NATS_BIN: join(folder, "no-such-server") });
    expect(code).toBe(1);
    expect(found("NATS")).toMatchObject({ result: "wrong" });
    expect(found("NATS").remedy).toContain("CORTEX_NATS_BIN");
  });

  it("says that NATS does not answer where it should be, or that this is no address", async () => {
    const url = `nats://127.0.0.1:${await unusedPort()}`;
    const [silent, odd] = await Promise.all([
      examined([], { CORTEX_NATS_URL: url }),
      examined([], { CORTEX_NATS_URL: "nats://a b:c" }),
    ]);
    expect(silent.found("NATS")).toMatchObject({ result: "wrong" });
    expect(silent.found("NATS").message).toContain(`${new URL(url).host} does not answer`);
    expect(odd.found("NATS")).toMatchObject({ result: "wrong", message: "CORTEX_NATS_URL is no address" });
  });

  it("says which field of the configuration is wrong, and which port is taken", async () => {
    const broken = await examined([{ name: "A", provider: "opneai" }]);
    expect(broken.code).toBe(1);
    for (const field of ["workers[0].name", "workers[0].provider"]) {
      expect(broken.found("configuration").message).toContain(field);
    }
    const port = String(simulator.port);
    const taken = await examined([], { PORT: port });
    expect(taken.code).toBe(0);
    expect(taken.found("REST port")).toMatchObject({ result: "warning" });
    expect(taken.found("REST port").message).toContain(`${port} on 127.0.0.1 is taken`);
    expect(taken.found("REST port").remedy).toContain("PORT");
  });
});
