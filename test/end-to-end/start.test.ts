/** `npm start` as a user runs it, in a copy of the project: what it says, what it finds, and what is left when it ends. */
import { type ChildProcess, execFile, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { accessSync, constants } from "node:fs";
import { cp, mkdir, mkdtemp, readdir, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { type AddressInfo, createServer, type Server } from "node:net";
import { tmpdir } from "node:os";
import { delimiter, dirname, join } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import { type Simulator, startOllamaSimulator, startOpenAiSimulator, unusedPort } from "../fakes/index.ts";
import { natsServerBin } from "../mesh.ts";

const ROOT = new URL("../..", import.meta.url).pathname;
const OLLAMA_PORT = 11434;
const START = ["libs/host/bootstrap.mjs", "cortex", "up"];
const HELLO = { model: "auto", messages: [{ role: "user", content: "hello" }] };
const linux = process.platform === "linux";

let folder: string;
let environment: Record<string, string>;
const started = new Set<Command>();

/** A command that runs in the copy, in a process group of its own, as a terminal starts it. */
class Command {
  readonly child: ChildProcess;
  readonly exited: Promise<number | string>;
  stdout = "";
  stderr = "";

  constructor(file: string, args: readonly string[], variables: Readonly<Record<string, string>>) {
    this.child = spawn(file, args, {
      cwd: folder,
      detached: true,
      stdio: ["ignore", "pipe", "pipe"],
      env: { ...environment, ...variables },
    });
    this.child.stdout!.setEncoding("utf8").on("data", (piece: string) => {
      this.stdout += piece;
    });
    this.child.stderr!.setEncoding("utf8").on("data", (piece: string) => {
      this.stderr += piece;
    });
    this.exited = once(this.child, "close").then(([code, signal]) => (code ?? signal) as number | string);
    started.add(this);
  }

  /** What it has printed, once that has all it takes to use it. */
  async ready(): Promise<string> {
    let code: number | string | undefined;
    void this.exited.then((ended) => {
      code = ended;
    });
    await vi.waitFor(
      () => {
        if (code !== undefined) return;
        expect(this.stdout).toMatch(/-d '.*'\n/);
      },
      { timeout: 30_000, interval: 5 },
    );
    if (code !== undefined) throw new Error(`ended with ${code}:\n${this.stdout}\n${this.stderr}`);
    return this.stdout;
  }

  /** What Ctrl-C in a terminal does: the signal goes to every process of the group. */
  interrupt(): Promise<number | string> {
    process.kill(-this.child.pid!, "SIGINT");
    return this.exited;
  }

  address(name: string): string {
    return new RegExp(`^ {2}${name} +(\\S+)$`, "m").exec(this.stdout)![1]!;
  }
}

const npmStart = (variables: Readonly<Record<string, string>> = {}) => new Command(npm(), ["start"], variables);
const up = (variables: Readonly<Record<string, string>> = {}) => new Command(process.execPath, START, variables);

/** The npm that the shell would find. */
function npm(): string {
  return (process.env["PATH"] ?? "")
    .split(delimiter)
    .map((place) => join(place, "npm"))
    .find((file) => {
      try {
        accessSync(file, constants.X_OK);
        return true;
      } catch {
        return false;
      }
    })!;
}

/** A copy of the working tree as a clone would have it, with what is installed here. */
async function copyProject(target: string): Promise<void> {
  const listed = execFileSync("git", ["ls-files", "-z", "--cached", "--others", "--exclude-standard"], { cwd: ROOT });
  const files = listed
    .toString()
    .split("\0")
    .filter((file) => file !== "" && file !== "node_modules");
  await Promise.all([...new Set(files.map(dirname))].map((name) => mkdir(join(target, name), { recursive: true })));
  await Promise.all(
    files.map((file) =>
      cp(join(ROOT, file), join(target, file)).catch((error: NodeJS.ErrnoException) => {
        // Deleted in the working tree, and not yet in the index.
        if (error.code !== "ENOENT") throw error;
      }),
    ),
  );
  // Links to the packages, not to their folder: nothing that happens to the copy's node_modules happens to ours.
  await mkdir(join(target, "node_modules"));
  const packages = (await readdir(join(ROOT, "node_modules"))).filter((name) => name !== ".cache");
  await Promise.all(
    packages.map((name) => symlink(join(ROOT, "node_modules", name), join(target, "node_modules", name))),
  );
}

interface Process {
  readonly pid: number;
  readonly session: number;
  readonly command: string;
}

/** The processes of this machine, without those that have ended and only wait to be noticed. */
async function processes(): Promise<Process[]> {
  const pids = (await readdir("/proc")).filter((name) => /^\d+$/.test(name));
  const found = await Promise.all(
    pids.map(async (pid) => {
      try {
        const [stat, command] = await Promise.all([
          readFile(`/proc/${pid}/stat`, "utf8"),
          readFile(`/proc/${pid}/cmdline`, "utf8"),
        ]);
        // pid (name) state parent group session …
        const [state, , , session] = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
        return state === "Z" ? [] : [{ pid: Number(pid), session: Number(session), command }];
      } catch {
        return [];
      }
    }),
  );
  return found.flat();
}

/** The sessions of a command and of everything that it has started, whatever became of their parents. */
async function sessionsOf(command: Command): Promise<Set<number>> {
  const { pid } = command.child;
  const own = (await processes()).filter((other) => other.session === pid || other.command.includes(folder));
  expect(own.map((other) => other.command).join()).toContain("nats-server");
  return new Set(own.map(({ session }) => session));
}

async function expectNothingLeft(sessions: ReadonlySet<number>, withinMs: number): Promise<void> {
  const left = async () =>
    (await processes())
      .filter(({ session }) => sessions.has(session))
      .map(({ pid, command }) => `${pid} ${command.replaceAll("\0", " ")}`);
  await expect.poll(left, { timeout: withinMs }).toEqual([]);
}

async function listening(): Promise<Server> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  return server;
}

async function isFree(port: number): Promise<boolean> {
  const server = createServer();
  return new Promise((resolve) => {
    server.once("error", () => resolve(false));
    server.listen({ host: "127.0.0.1", port }, () => server.close(() => resolve(true)));
  });
}

function ask(rest: string, body: object, headers: Record<string, string> = {}): Promise<Response> {
  return fetch(`${rest}/v1/chat/completions`, {
    method: "POST",
    headers: { "content-type": "application/json", ...headers },
    body: JSON.stringify(body),
  });
}

async function models(rest: string, headers: Record<string, string> = {}): Promise<string[]> {
  const { data } = (await (await fetch(`${rest}/v1/models`, { headers })).json()) as { data: { id: string }[] };
  return data.map(({ id }) => id);
}

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "cortex-start-"));
  await copyProject(folder);
  // Nothing is missing, so nothing may be installed; and nothing that the machine has set may turn a provider on.
  const stubs = join(folder, "stubs");
  await mkdir(stubs);
  await writeFile(join(stubs, "npm"), "#!/bin/sh\necho 'npm ci was called' >&2\nexit 1\n", { mode: 0o755 });
  environment = {
    PATH: [stubs, process.env["PATH"]].join(delimiter),
    HOME: process.env["HOME"] ?? tmpdir(),
    PORT: "0",
    CORTEX_GRPC_PORT: "0",
    CORTEX_NATS_BIN: await natsServerBin(),
    npm_config_update_notifier: "false",
  };
});

afterAll(async () => {
  for (const { child } of started) {
    try {
      process.kill(-child.pid!, "SIGKILL");
    } catch {
      // It has ended, as it should.
    }
  }
  await Promise.all([...started].map(({ exited }) => exited));
  await rm(folder, { recursive: true, force: true, maxRetries: 5 });
});

describe("npm start, with nothing configured", () => {
  let command: Command;
  let ollamaIsHere: boolean;

  beforeAll(async () => {
    ollamaIsHere = !(await isFree(OLLAMA_PORT));
    command = npmStart();
    await command.ready();
  });

  it("says where everything is", () => {
    expect(command.address("REST")).toMatch(/^http:\/\/127\.0\.0\.1:[1-9]\d*$/);
    expect(command.address("gRPC")).toMatch(/^127\.0\.0\.1:[1-9]\d*$/);
    expect(command.address("NATS")).toMatch(/^nats:\/\/127\.0\.0\.1:[1-9]\d*$/);
    expect(command.stdout).toContain("worker   sim (a simulation");
    expect(command.stdout).toContain("worker   ollama-local (ollama at http://localhost:11434");
    expect(command.stdout).not.toContain("WARNING");
  });

  it("prints a curl that works as it stands", async (test) => {
    test.skip(await promisify(execFile)("curl", ["--version"]).then(...NO), "there is no curl on this machine");
    const curl = command.stdout.slice(command.stdout.indexOf("curl "));
    const { stdout } = await promisify(execFile)("sh", ["-c", curl]);
    expect(stdout).toMatch(/^data: \{.*"delta":\{"role":"assistant"/);
    expect(stdout.trimEnd()).toMatch(/data: \[DONE\]$/);
  });

  it("answers from the simulation, and says so", async (test) => {
    test.skip(ollamaIsHere, "an Ollama of this machine answers");
    const response = await ask(command.address("REST"), { ...HELLO, max_tokens: 12 });
    expect(response.headers.get("x-cortex-warnings")).toBe("SIMULATED");
    expect(response.headers.get("x-cortex-worker")).toBe("sim");
    expect(await response.text()).toContain("This is a simulation: no language model wrote this answer.");
  });

  it("misses no Ollama that nobody has asked for", async (test) => {
    test.skip(ollamaIsHere, "an Ollama of this machine answers");
    const health = await fetch(`${command.address("REST")}/api/health`);
    expect(await health.json()).toMatchObject({
      status: "healthy",
      workers: { available: 1, busy: 0, unavailable: 0 },
      problems: [],
    });
    expect(command.stderr).not.toContain("WARN");
  });

  it("does not start a second time on the same data, and says what to do", async () => {
    const second = up();
    expect(await second.exited).toBe(1);
    expect(second.stderr).toContain(command.address("NATS"));
    expect(second.stderr).toMatch(/CORTEX_DATA.*CORTEX_NATS_URL/);
    expect(second.stderr).not.toMatch(/\n\s+at /);
  });

  it("ends with Ctrl-C: exit code 0, and no process is left", async () => {
    const sessions = linux ? await sessionsOf(command) : new Set<number>();
    expect(await command.interrupt()).toBe(0);
    expect(command.stdout + command.stderr).not.toContain("npm ci was called");
    // All of it has ended before the command has, down to the shell's sleep of 5 s.
    if (linux) await expectNothingLeft(sessions, 4_000);
    await expect(fetch(`${command.address("REST")}/api/health`)).rejects.toThrow();
  });
});

/** For a promise that only has to say whether it failed. */
const NO = [() => false, () => true] as const;

describe("a mesh that is started", () => {
  it.runIf(linux)("takes its nats-server with it when it is killed", async () => {
    const command = up();
    await command.ready();
    const sessions = await sessionsOf(command);
    command.child.kill("SIGKILL");
    expect(await command.exited).toBe("SIGKILL");
    await expectNothingLeft(sessions, 20_000);
    // And its data can be used again.
    const again = up();
    await again.ready();
    expect(await again.interrupt()).toBe(0);
  });

  it("runs beside others, with ports and data of its own, and finds what the environment and its file name", async () => {
    const openai = await startOpenAiSimulator({ apiKeys: ["provider-key"] });
    const ollama = await startOllamaSimulator({ models: ["llama3.2:latest", "gemma3:4b"] });
    const file = join(folder, "beside.yaml");
    const workers = [{ name: "local", provider: "ollama", baseUrl: ollama.url }];
    // JSON is YAML.
    await writeFile(file, JSON.stringify({ workers, clients: [{ key: "client-key" }] }));
    try {
      const open = up({
        CORTEX_DATA: join(folder, "one"),
        OPENAI_API_KEY: "provider-key",
        OPENAI_BASE_URL: openai.url,
        HOST: "0.0.0.0",
      });
      const closed = up({ CORTEX_DATA: join(folder, "two"), CORTEX_CONFIG: file, HOST: "0.0.0.0" });
      await Promise.all([open.ready(), closed.ready()]);

      // A provider's key in the environment turns it on, and nothing else; without client keys everybody is warned.
      expect(open.stdout).toContain(`worker   openai (openai at ${openai.url}`);
      expect(open.stdout).not.toContain("sim (");
      expect(open.stdout).toMatch(/WARNING: open to everybody who reaches 0\.0\.0\.0/);
      expect(open.stdout).toContain("CORTEX_CLIENT_KEYS");
      const rest = open.address("REST").replace("0.0.0.0", "127.0.0.1");
      const [first] = (await models(rest)).filter((id) => id.startsWith("openai/"));
      const answer = await ask(rest, { ...HELLO, model: first });
      expect(answer.headers.get("x-cortex-worker")).toBe("openai");
      expect(await answer.text()).toContain("You said: hello");
      expect(open.stdout + open.stderr).not.toContain("provider-key");

      // A worker of the file is found with its models; with client keys nobody is warned, and the curl has a place for one.
      expect(closed.stdout).toContain(`worker   local (ollama at ${ollama.url}; 2 models)`);
      expect(closed.stdout).not.toContain("WARNING");
      expect(closed.stdout).toContain('-H "authorization: Bearer $KEY"');
      const guarded = closed.address("REST").replace("0.0.0.0", "127.0.0.1");
      expect((await ask(guarded, HELLO)).status).toBe(401);
      const key = { authorization: "Bearer client-key" };
      expect(await models(guarded, key)).toEqual(
        expect.arrayContaining(["auto", "llama3.2:latest", "gemma3:4b", "local/gemma3:4b"]),
      );
      expect(await (await ask(guarded, HELLO, key)).text()).toContain("You said: hello");
      expect(closed.stdout + closed.stderr).not.toContain("client-key");

      expect(await Promise.all([open.interrupt(), closed.interrupt()])).toEqual([0, 0]);
    } finally {
      await Promise.all([openai.stop(), ollama.stop()]);
    }
  });

  it("finds an Ollama where Ollama is by default", async (test) => {
    let ollama: Simulator | undefined;
    try {
      ollama = await startOllamaSimulator({ port: OLLAMA_PORT, models: ["llama3.2:latest"] });
    } catch {
      test.skip(true, "something else listens on Ollama's port");
    }
    try {
      const command = up();
      await command.ready();
      expect(command.stdout).toContain("worker   ollama-local (ollama at http://localhost:11434; 1 model)");
      const answer = await ask(command.address("REST"), HELLO);
      expect(answer.headers.get("x-cortex-worker")).toBe("ollama-local");
      expect(answer.headers.get("x-cortex-warnings")).toBeNull();
      expect(await answer.text()).toContain("You said: hello");
      expect(await command.interrupt()).toBe(0);
    } finally {
      await ollama!.stop();
    }
  });
});

describe("a mesh that can't start", () => {
  /** What is said in the end: no stack, and a sentence that begins with who says it. */
  async function failureOf(command: Command): Promise<string> {
    expect(await command.exited).toBe(1);
    expect(command.stdout).not.toContain("Cortex is ready");
    expect(command.stderr).not.toMatch(/\n\s+at /);
    expect(command.stderr).toMatch(/^cortex: /m);
    return command.stderr.slice(command.stderr.search(/^cortex: /m));
  }

  it.each([
    ["REST", "PORT"],
    ["gRPC", "CORTEX_GRPC_PORT"],
  ])("says which port is taken and what to do: %s", async (what, variable) => {
    const server = await listening();
    const { port } = server.address() as AddressInfo;
    try {
      const told = await failureOf(up({ [variable]: String(port) }));
      expect(told).toContain(`port ${port} on 127.0.0.1, which is to be Cortex's ${what} port, is taken`);
      expect(told).toContain(`${variable}=${port + 1}`);
    } finally {
      server.close();
    }
  });

  it("passes its exit code on through npm", async () => {
    const command = npmStart({ PORT: "eighty" });
    expect(await command.exited).toBe(1);
    expect(command.stderr).toContain('PORT is "eighty"');
  });

  it("says what is wrong in cortex.yaml, field by field", async () => {
    const file = join(folder, "cortex.yaml");
    await writeFile(file, "workers:\n  - { name: A, provider: opneai }\nrouting: { strategy: fastest }\n");
    try {
      const told = await failureOf(up());
      expect(told).toContain(file);
      for (const field of ["workers[0].name", "workers[0].provider", "routing.strategy"]) expect(told).toContain(field);
    } finally {
      await rm(file);
    }
  });

  it("says which worker's settings can't be, and does not stay", async () => {
    const file = join(folder, "worker.yaml");
    await writeFile(file, "workers: [{ name: slow, provider: sim, options: { tokensPerSecond: 0 } }]");
    expect(await failureOf(up({ CORTEX_CONFIG: file }))).toMatch(/worker slow: options\.tokensPerSecond/);
  });

  it("says that HOST is no address of this machine", async () => {
    // https://www.rfc-editor.org/rfc/rfc5737: an address of nobody.
    expect(await failureOf(up({ HOST: "192.0.2.1" }))).toMatch(/HOST is 192\.0\.2\.1/);
  });

  it("says that NATS is not where it should be, waits for it, and ends at once with Ctrl-C", async () => {
    const url = `nats://127.0.0.1:${await unusedPort()}`;
    const command = up({ CORTEX_NATS_URL: url });
    await expect.poll(() => command.stderr, { timeout: 20_000 }).toMatch(/waiting for NATS/);
    expect(command.stderr).toContain(url);
    expect(await command.interrupt()).toBe(130);
    expect(command.stdout).toBe("");
  });
});
