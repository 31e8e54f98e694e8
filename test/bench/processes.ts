/**
 * Starts the processes of the bench and ends each by its own pid, whatever happens. All of them say on stdout, with one
 * line of JSON, when they are ready; their stderr goes to a file that is shown only when something fails.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { closeSync, openSync, readFileSync } from "node:fs";
import type { AddressInfo, Server } from "node:net";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { processTree, startTime } from "./usage.ts";

const READY_WITHIN_MS = 30_000;
const END_WITHIN_MS = 5_000;

/** What a process says when it can be used; a service without a REST port leaves `rest` out, the bench's own programs `grpc`. */
export type Ready = { event: "ready"; rest?: string; grpc?: string; nats?: string };

export type Started = { name: string; child: ChildProcess; ready: Ready };

type Start = {
  name: string;
  command: string;
  args: string[];
  env?: Record<string, string>;
  /** Also open a channel for messages. A child that knows `endWithParent` needs it too. */
  ipc?: boolean;
};

/** Said by a child of the bench itself once its server listens. On a line of its own: a spinner may stand before it. */
export function announce(server: Server): void {
  const { port } = server.address() as AddressInfo;
  process.stdout.write(`\n${JSON.stringify({ event: "ready", rest: `http://127.0.0.1:${port}` } satisfies Ready)}\n`);
}

/** Called by a child of the bench itself: it never outlives the bench, not even one that was killed. */
export function endWithParent(): void {
  process.on("disconnect", () => process.exit(0));
}

/** Owns every process of one run. */
export class Processes {
  readonly #folder: string;
  readonly #running = new Set<ChildProcess>();
  readonly #adopted: (() => Promise<void>)[] = [];

  /** Logs are kept in the folder given; who gives it removes it. */
  constructor(folder: string) {
    this.#folder = folder;
    // The last resort when the bench leaves without having called `end`.
    process.on("exit", () => {
      for (const child of this.#running) child.kill("SIGKILL");
    });
  }

  async start({ name, command, args, env = {}, ipc = false }: Start): Promise<Started> {
    const logFile = join(this.#folder, `${name}.log`);
    const log = openSync(logFile, "a");
    const child = spawn(command, args, {
      // Nothing of the caller's environment but what any program needs: a proxy variable would change what is measured.
      env: { PATH: process.env["PATH"], HOME: process.env["HOME"], NODE_ENV: "production", ...env },
      stdio: ["ignore", "pipe", log, ...(ipc ? (["ipc"] as const) : [])],
    });
    closeSync(log);
    this.#running.add(child);
    child.once("exit", () => this.#running.delete(child));
    try {
      return { name, child, ready: await readyLine(child) };
    } catch (error) {
      await this.end(child);
      const said = readFileSync(logFile, "utf8").trim().split("\n").slice(-8).join("\n");
      throw new Error(`${name}: ${(error as Error).message}${said ? `\n${said}` : ""}`);
    }
  }

  /** Ends one process, politely and then by force, and after it what it had started and left behind. */
  async end(child: ChildProcess): Promise<void> {
    if (child.pid === undefined) return;
    const below = processTree([child.pid])
      .filter(({ pid }) => pid !== child.pid)
      .map(({ pid }) => ({ pid, started: startTime(pid) }));
    if (this.#running.has(child)) {
      const ended = new Promise<void>((resolve) => child.once("exit", () => resolve()));
      child.kill("SIGTERM");
      const force = setTimeout(() => child.kill("SIGKILL"), END_WITHIN_MS);
      await ended;
      clearTimeout(force);
    }
    for (const { pid, started } of below) {
      if (started === undefined || startTime(pid) !== started) continue;
      try {
        process.kill(pid, "SIGKILL");
      } catch {
        // it has ended by itself in between
      }
    }
  }

  /** Takes over a process that somebody else has started; it must not outlive this one by itself. */
  adopt(stop: () => Promise<void>): void {
    this.#adopted.push(stop);
  }

  /** Ends everything, the last started first. */
  async endAll(): Promise<void> {
    for (const child of [...this.#running].reverse()) await this.end(child);
    await Promise.allSettled(this.#adopted.map((stop) => stop()));
  }
}

function readyLine(child: ChildProcess): Promise<Ready> {
  return new Promise((resolve, reject) => {
    const late = setTimeout(() => reject(new Error(`not ready within ${READY_WITHIN_MS / 1000} s`)), READY_WITHIN_MS);
    const lines = createInterface({ input: child.stdout as NodeJS.ReadableStream });
    const settle = (finish: () => void): void => {
      clearTimeout(late);
      lines.close();
      child.stdout?.resume(); // an unread pipe would block the child once it is full
      finish();
    };
    child.once("error", (error) => settle(() => reject(error)));
    child.once("exit", (code, signal) =>
      settle(() => reject(new Error(`ended before it was ready (${signal ?? code})`))),
    );
    lines.on("line", (line) => {
      const ready = asReady(line);
      if (ready) settle(() => resolve(ready));
    });
  });
}

function asReady(line: string): Ready | undefined {
  if (!line.startsWith("{")) return undefined;
  try {
    const said = JSON.parse(line) as { event?: unknown };
    return said.event === "ready" ? (said as Ready) : undefined;
  } catch {
    return undefined;
  }
}
