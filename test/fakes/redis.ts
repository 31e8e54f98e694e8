/**
 * Redis for tests: a real redis-server where this machine has one (CORTEX_REDIS_BIN, or on the PATH), and everywhere a simulated
 * one that speaks its protocol as far as a cache needs it. Both can be frozen, killed, and started again at the same port.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { accessSync, constants } from "node:fs";
import { connect, createServer, type Server, type Socket } from "node:net";
import { delimiter, join } from "node:path";
import { unusedPort } from "./simulator.ts";

/** A Redis that runs. */
export interface TestRedis extends AsyncDisposable {
  readonly url: string;
  /** How many keys it has. */
  size(): Promise<number>;
  /** Sets what lies under a key of it, as somebody else might. */
  set(key: string, value: string): Promise<void>;
  keys(): Promise<string[]>;
  /** It answers no more, but its connections stay. */
  freeze(): void;
  thaw(): void;
  /** It is gone at once, with all that it had. */
  kill(): Promise<void>;
  /** Starts it again, empty, where it was. */
  revive(): Promise<void>;
}

export type RedisKind = "simulated" | "real";

/** The kinds that can be started here. */
export function redisKinds(): RedisKind[] {
  return realRedis() === undefined ? ["simulated"] : ["simulated", "real"];
}

/** Starts a Redis without keys; with a password it wants that before anything else. */
export async function startRedis(kind: RedisKind, password?: string): Promise<TestRedis> {
  const port = await unusedPort();
  const process = kind === "real" ? new RealRedis(port, password) : new SimulatedRedis(port, password);
  await process.start();
  const ask = (...command: string[]): Promise<Reply> => askOnce(port, password, command);
  return {
    url: `redis://${password === undefined ? "" : `:${password}@`}127.0.0.1:${port}`,
    size: async () => Number(await ask("DBSIZE")),
    set: async (key, value) => void (await ask("SET", key, value)),
    keys: async () => ((await ask("SCAN", "0", "COUNT", "1000000")) as [string, string[]])[1],
    freeze: () => process.freeze(),
    thaw: () => process.thaw(),
    kill: () => process.kill(),
    revive: () => process.start(),
    [Symbol.asyncDispose]: () => process.kill(),
  };
}

interface RedisProcess {
  start(): Promise<void>;
  freeze(): void;
  thaw(): void;
  kill(): Promise<void>;
}

function realRedis(): string | undefined {
  const named = process.env["CORTEX_REDIS_BIN"];
  const folders = (process.env["PATH"] ?? "").split(delimiter).filter((folder) => folder !== "");
  return [...(named ? [named] : []), ...folders.map((folder) => join(folder, "redis-server"))].find((file) => {
    try {
      accessSync(file, constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}

class RealRedis implements RedisProcess {
  readonly #port: number;
  readonly #password: string | undefined;
  #child: ChildProcess | undefined;

  constructor(port: number, password: string | undefined) {
    this.#port = port;
    this.#password = password;
  }

  async start(): Promise<void> {
    const flags = ["--port", String(this.#port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"];
    if (this.#password !== undefined) flags.push("--requirepass", this.#password);
    const child = spawn(realRedis()!, flags, { stdio: ["ignore", "pipe", "inherit"] });
    this.#child = child;
    for await (const piece of child.stdout!.setEncoding("utf8")) {
      if (String(piece).includes("Ready to accept connections")) break;
    }
  }

  freeze(): void {
    this.#child?.kill("SIGSTOP");
  }

  thaw(): void {
    this.#child?.kill("SIGCONT");
  }

  async kill(): Promise<void> {
    const child = this.#child;
    this.#child = undefined;
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return;
    const exited = once(child, "exit");
    child.kill("SIGKILL");
    await exited;
  }
}

/** What a command is answered with, before it is written down. */
type Reply = string | number | null | Error | { readonly simple: string } | readonly Reply[];

interface Kept {
  readonly value: string;
  readonly expiresAtMs: number;
}

class SimulatedRedis implements RedisProcess {
  readonly #port: number;
  readonly #password: string | undefined;
  readonly #kept = new Map<string, Kept>();
  readonly #sockets = new Set<Socket>();
  /** Where scans have come to, the first cursor being 1. */
  readonly #cursors: string[] = [];
  #server: Server | undefined;
  #frozen = false;

  constructor(port: number, password: string | undefined) {
    this.#port = port;
    this.#password = password;
  }

  async start(): Promise<void> {
    this.#frozen = false;
    this.#server = createServer((socket) => this.#serve(socket));
    this.#server.listen(this.#port, "127.0.0.1");
    await once(this.#server, "listening");
  }

  freeze(): void {
    this.#frozen = true;
    for (const socket of this.#sockets) socket.pause();
  }

  thaw(): void {
    this.#frozen = false;
    for (const socket of this.#sockets) socket.resume();
  }

  async kill(): Promise<void> {
    const server = this.#server;
    this.#server = undefined;
    if (server === undefined) return;
    this.#kept.clear();
    const closed = once(server, "close");
    server.close();
    for (const socket of this.#sockets) socket.resetAndDestroy();
    await closed;
  }

  #serve(socket: Socket): void {
    this.#sockets.add(socket);
    socket.on("close", () => this.#sockets.delete(socket)).on("error", () => {});
    const connection = { welcome: this.#password === undefined };
    const reader = new Reader();
    socket.on("data", (bytes: Buffer) => {
      for (const message of reader.read(bytes)) socket.write(written(this.#answer(message as string[], connection)));
    });
    if (this.#frozen) socket.pause();
  }

  #answer(command: readonly string[], connection: { welcome: boolean }): Reply {
    const [name = "", ...args] = command;
    const word = name.toUpperCase();
    if (word === "AUTH") {
      connection.welcome = args.at(-1) === this.#password;
      return connection.welcome ? OK : new Error("WRONGPASS invalid username-password pair or user is disabled.");
    }
    if (!connection.welcome) return new Error("NOAUTH Authentication required.");
    switch (word) {
      case "PING":
        return { simple: "PONG" };
      case "CLIENT":
      case "SELECT":
        return OK;
      case "GET":
        return this.#get(args[0]!);
      case "MGET":
        return args.map((key) => this.#get(key));
      case "SET": {
        const px = args.findIndex((option) => option.toUpperCase() === "PX");
        const expiresAtMs = px === -1 ? Number.POSITIVE_INFINITY : Date.now() + Number(args[px + 1]);
        this.#kept.set(args[0]!, { value: args[1]!, expiresAtMs });
        return OK;
      }
      case "DEL":
      case "UNLINK":
        return args.filter((key) => this.#get(key) !== null && this.#kept.delete(key)).length;
      case "DBSIZE":
        return this.#keys().length;
      case "SCAN":
        return this.#scan(args);
      default:
        return new Error(`ERR unknown command '${name}'`);
    }
  }

  #get(key: string): string | null {
    const kept = this.#kept.get(key);
    if (kept === undefined || kept.expiresAtMs > Date.now()) return kept?.value ?? null;
    this.#kept.delete(key);
    return null;
  }

  #keys(): string[] {
    return [...this.#kept.keys()].filter((key) => this.#get(key) !== null);
  }

  /** The cursor is the last key of the page before, so that keys which go in between make no holes. */
  #scan([cursor, ...options]: readonly string[]): Reply {
    const option = (name: string): string | undefined => {
      const place = options.findIndex((word) => word.toUpperCase() === name);
      return place === -1 ? undefined : options[place + 1];
    };
    const pattern = option("MATCH") ?? "*";
    const count = Number(option("COUNT") ?? 10);
    const cursors = this.#cursors;
    const from = cursor === "0" ? "" : (cursors[Number(cursor) - 1] ?? "");
    const page = this.#keys()
      .filter((key) => key > from)
      .sort()
      .slice(0, count);
    const next = page.length < count ? "0" : String(cursors.push(page.at(-1)!));
    const regex = new RegExp(`^${pattern.replaceAll(/[.+^${}()|[\]\\]/g, "\\$&").replaceAll("*", ".*")}$`);
    return [next, page.filter((key) => regex.test(key))];
  }
}

const OK: Reply = { simple: "OK" };

/** A reply as RESP2 writes it. */
function written(reply: Reply): string {
  if (reply === null) return "$-1\r\n";
  if (typeof reply === "number") return `:${reply}\r\n`;
  if (typeof reply === "string") return `$${Buffer.byteLength(reply)}\r\n${reply}\r\n`;
  if (reply instanceof Error) return `-${reply.message}\r\n`;
  if (Array.isArray(reply)) return `*${reply.length}\r\n${reply.map(written).join("")}`;
  return `+${(reply as { simple: string }).simple}\r\n`;
}

/** Reads RESP2, whole messages at a time. */
class Reader {
  #bytes: Buffer = Buffer.alloc(0);
  #at = 0;

  *read(piece: Buffer): Iterable<Reply> {
    this.#bytes = Buffer.concat([this.#bytes, piece]);
    for (;;) {
      this.#at = 0;
      const message = this.#message();
      if (message === undefined) return;
      this.#bytes = this.#bytes.subarray(this.#at);
      yield message;
    }
  }

  /** Undefined while it has not come whole. */
  #message(): Reply | undefined {
    const end = this.#bytes.indexOf("\r\n", this.#at);
    if (end === -1) return undefined;
    const type = String.fromCharCode(this.#bytes[this.#at]!);
    const line = this.#bytes.toString("utf8", this.#at + 1, end);
    this.#at = end + 2;
    if (type === "+") return line;
    if (type === "-") return new Error(line);
    if (type === ":") return Number(line);
    const length = Number(line);
    if (length === -1) return null;
    if (type === "$") {
      if (this.#bytes.length < this.#at + length + 2) return undefined;
      const text = this.#bytes.toString("utf8", this.#at, this.#at + length);
      this.#at += length + 2;
      return text;
    }
    const items: Reply[] = [];
    for (let index = 0; index < length; index++) {
      const item = this.#message();
      if (item === undefined) return undefined;
      items.push(item);
    }
    return items;
  }
}

/** One command on a connection of its own. */
async function askOnce(port: number, password: string | undefined, command: readonly string[]): Promise<Reply> {
  const commands = [...(password === undefined ? [] : [["AUTH", password]]), command];
  const socket = connect(port, "127.0.0.1");
  socket.write(commands.map((words) => written(words)).join(""));
  const reader = new Reader();
  const replies: Reply[] = [];
  try {
    for await (const piece of socket) {
      replies.push(...reader.read(piece as Buffer));
      if (replies.length === commands.length) break;
    }
  } finally {
    socket.destroy();
  }
  const answer = replies.at(-1);
  if (answer === undefined || answer instanceof Error) throw answer ?? new Error("Redis has closed the connection");
  return answer;
}
