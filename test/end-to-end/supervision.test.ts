/** What nobody has caught, in a real process: a service's own is the service's affair, and anything else ends the node well. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { CACHE_OFF, natsServerBin } from "../mesh.ts";

const ROOT = new URL("../..", import.meta.url);

/**
 * `cortex up` with one service more, which misbehaves when it is asked to over HTTP: `/throw` and `/reject` are its own doing,
 * `/stray` is nobody's.
 */
const PROGRAM = `
import { AsyncResource } from "node:async_hooks";
import { createServer } from "node:http";
import { runCommandLine } from "${new URL("libs/cli/index.ts", ROOT)}";
import { adapterSim } from "${new URL("services/adapter-sim/start.ts", ROOT)}";
import { gateway } from "${new URL("services/gateway/start.ts", ROOT)}";
import { router } from "${new URL("services/router/start.ts", ROOT)}";

const nobody = new AsyncResource("nobody");
const fail = () => { throw new Error("nobody caught this"); };
const doings = {
  "/throw": () => setTimeout(fail),
  "/reject": () => void Promise.reject(new Error("nobody caught this")),
  "/stray": () => nobody.runInAsyncScope(() => setTimeout(fail)),
};
let starts = 0;
const unruly = {
  name: "unruly",
  interfaces: [],
  async start(_host, before) {
    starts++;
    const port = before === undefined ? 0 : Number(new URL(before.addresses.unruly).port);
    const server = createServer((request, response) => {
      response.setHeader("connection", "close").end(String(starts));
      doings[request.url]?.();
    });
    await new Promise((resolve) => server.listen(port, "127.0.0.1", resolve));
    const address = "http://127.0.0.1:" + server.address().port;
    process.stdout.write(JSON.stringify({ unruly: address }) + "\\n");
    return {
      addresses: { unruly: address },
      drain: () => new Promise((resolve) => server.close(resolve)),
    };
  },
};
process.exitCode = await runCommandLine(process.argv.slice(2), [gateway, router, adapterSim, unruly]);
`;

let folder: string;
let child: ChildProcess;
let exited: Promise<number | null>;
let log: string;
let rest: string;
let unruly: string;
let nats: URL;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "cortex-supervision-"));
  await writeFile(join(folder, "program.mjs"), PROGRAM);
  const options = { firstTokenMs: 0, tokens: 60, tokensPerSecond: 40 };
  await writeFile(
    join(folder, "cortex.yaml"),
    JSON.stringify({ workers: [{ name: "sim", provider: "sim", models: ["m"], options }], cache: CACHE_OFF }),
  );
  child = spawn(process.execPath, [join(folder, "program.mjs"), "up", "--json"], {
    cwd: folder,
    stdio: ["ignore", "pipe", "pipe"],
    env: {
      PATH: process.env["PATH"],
      HOME: process.env["HOME"],
      PORT: "0",
      CORTEX_GRPC_PORT: "0",
      CORTEX_NATS_BIN: await natsServerBin(),
    },
  });
  exited = once(child, "exit").then(([code]) => code as number | null);
  log = "";
  child.stderr!.setEncoding("utf8").on("data", (piece: string) => {
    log += piece;
  });
  for await (const line of createInterface({ input: child.stdout! })) {
    const told = JSON.parse(line) as { unruly?: string; event?: string; rest: string; nats: string };
    if (told.unruly !== undefined) unruly = told.unruly;
    if (told.event !== "ready") continue;
    rest = told.rest;
    nats = new URL(told.nats);
    break;
  }
});

afterEach(async () => {
  child.kill("SIGKILL");
  await exited;
  await rm(folder, { recursive: true, force: true });
});

/** A text as a client sees it, from beginning to end. */
async function stream(onBegun: () => void): Promise<string> {
  const response = await fetch(`${rest}/v1/chat/completions`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ model: "m", stream: true, messages: [{ role: "user", content: "go on" }] }),
  });
  let text = "";
  for await (const piece of response.body!) {
    if (text === "") onBegun();
    text += Buffer.from(piece).toString();
  }
  return text;
}

const starts = async (): Promise<number> => Number(await (await fetch(unruly)).text());
const isWhole = (text: string): boolean => text.endsWith("data: [DONE]\n\n") && !text.includes('"error"');

describe("what nobody has caught", () => {
  it.each(["/throw", "/reject"])("of a service restarts that service alone (%s)", async (doing) => {
    const text = await stream(() => void fetch(unruly + doing));
    expect(text).toSatisfy(isWhole);
    await expect.poll(starts, { timeout: 10_000 }).toBe(2);
    expect(log).toContain("a service has crashed and is restarted alone");
    expect(log).toContain("nobody caught this");
    expect(await stream(() => {})).toSatisfy(isWhole);
    child.kill("SIGTERM");
    expect(await exited).toBe(0);
  });

  it("of no service ends the process with an error, once what it serves has ended, and nats-server with it", async () => {
    const text = await stream(() => void fetch(`${unruly}/stray`));
    expect(text).toSatisfy(isWhole);
    expect(await exited).toBe(1);
    expect(log).toContain("an error that belongs to no service was caught by nobody");
    expect(log).toContain("nobody caught this");
    const connection = connect({ host: nats.hostname, port: Number(nats.port) });
    const [refused] = (await once(connection, "error").catch((error: unknown) => [error])) as [NodeJS.ErrnoException];
    expect(refused.code).toBe("ECONNREFUSED");
  });
});
