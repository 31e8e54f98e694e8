import { createServer, get, type IncomingMessage, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import {
  type MetricsServiceDefinition,
  WatchedWorker,
  WatchResponse,
} from "../../libs/gen/cortex/metrics/v1/metrics.ts";
import { type Call, RpcError, type Service } from "../../libs/rpc/index.ts";
import { createLogger } from "../../libs/telemetry/index.ts";
import { LiveRelay } from "./live.ts";

/** A metrics service that tells what a test wants. */
class Upstream {
  watches = 0;
  running = 0;
  calls: Call[] = [];
  refuse: RpcError | undefined;
  #waiting: { resolve(message: WatchResponse): void; reject(error: RpcError): void } | undefined;
  readonly #queue: WatchResponse[] = [];

  tell(message: Partial<WatchResponse>): void {
    const whole = { ...WatchResponse.decode(new Uint8Array()), ...message };
    if (this.#waiting === undefined) this.#queue.push(whole);
    else this.#waiting.resolve(whole);
    this.#waiting = undefined;
  }

  fail(error: RpcError): void {
    this.#waiting!.reject(error);
    this.#waiting = undefined;
  }

  async *watch(_request: unknown, call: Call): AsyncGenerator<WatchResponse> {
    this.watches++;
    this.calls.push(call);
    if (this.refuse !== undefined) throw this.refuse;
    this.running++;
    try {
      for (;;) {
        const next = this.#queue.shift();
        if (next !== undefined) yield next;
        else yield await this.#next(call.signal);
      }
    } finally {
      this.running--;
    }
  }

  #next(signal: AbortSignal): Promise<WatchResponse> {
    return new Promise((resolve, reject) => {
      this.#waiting = { resolve, reject };
      signal.addEventListener("abort", () => reject(new RpcError("CANCELLED", "left")));
    });
  }
}

/** A page that is open. */
class Page {
  readonly messages: WatchResponse[] = [];
  closed = false;
  readonly #response: IncomingMessage;

  constructor(response: IncomingMessage) {
    this.#response = response;
    let text = "";
    response.setEncoding("utf8").on("data", (piece: string) => {
      text += piece;
      for (let end = text.indexOf("\n\n"); end >= 0; end = text.indexOf("\n\n")) {
        const [event, data] = text.slice(0, end).split("\n");
        expect(event).toBe("event: state");
        this.messages.push(JSON.parse(data!.slice("data: ".length)) as WatchResponse);
        text = text.slice(end + 2);
      }
    });
    response.on("close", () => {
      this.closed = true;
    });
  }

  pause(): void {
    this.#response.pause();
  }

  resume(): void {
    this.#response.resume();
  }

  close(): void {
    this.#response.destroy();
  }

  /** What it knows of the workers, as the live page puts it together. */
  get workers(): Record<string, string> {
    const known = new Map<string, string>();
    for (const { whole, workers, gone } of this.messages) {
      if (whole) known.clear();
      for (const name of gone) known.delete(name);
      for (const { name, state } of workers) known.set(name, state);
    }
    return Object.fromEntries(known);
  }
}

const worker = (name: string, state = "available", more: Partial<WatchedWorker> = {}): WatchedWorker => ({
  ...WatchedWorker.decode(new Uint8Array()),
  name,
  state,
  ...more,
});

let upstream: Upstream;
let relay: LiveRelay;
let server: Server;
let refusals: string[];
const pages: Page[] = [];

beforeEach(async () => {
  upstream = new Upstream();
  refusals = [];
  relay = new LiveRelay({
    metrics: () => upstream as unknown as Service<typeof MetricsServiceDefinition>,
    log: createLogger({ level: "silent", readable: false, node: "test" }),
  });
  server = createServer((_request, response) => {
    const leaving = new AbortController();
    response.on("close", () => leaving.abort());
    relay.serve(response, leaving.signal).catch((error: RpcError) => {
      refusals.push(error.reason);
      response.writeHead(503).end();
    });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
});

afterEach(async () => {
  relay.close();
  for (const page of pages.splice(0)) page.close();
  server.closeAllConnections();
  await new Promise((resolve) => server.close(resolve));
});

/** Opens a page; resolves with its status when it has been answered. */
async function open(): Promise<Page & { status: number }> {
  const { port } = server.address() as AddressInfo;
  const response = await new Promise<IncomingMessage>((resolve, reject) => {
    get({ port, host: "127.0.0.1", agent: false }, resolve).on("error", reject);
  });
  const page = Object.assign(new Page(response), { status: response.statusCode! });
  pages.push(page);
  return page;
}

describe("the pages that are open", () => {
  it("share one watch, and a new one is told everything at once", async () => {
    upstream.tell({ whole: true, workers: [worker("a"), worker("b")] });
    const first = await open();
    upstream.tell({ workers: [worker("b", "busy"), worker("c")], gone: ["a"] });
    await expect.poll(() => first.workers).toEqual({ b: "busy", c: "available" });
    const others = await Promise.all(Array.from({ length: 20 }, open));
    for (const page of others) await expect.poll(() => page.workers).toEqual({ b: "busy", c: "available" });
    expect(others.every(({ messages }) => messages.length === 1 && messages[0]!.whole)).toBe(true);
    upstream.tell({ gone: ["b"] });
    for (const page of [first, ...others]) await expect.poll(() => page.workers).toEqual({ c: "available" });
    expect(upstream.watches).toBe(1);
    expect(upstream.calls[0]).toMatchObject({ admin: true });
  });

  it("are not told what they have no room for, but how everything is when they have", async () => {
    const filling = "x".repeat(200_000);
    upstream.tell({ whole: true, workers: [worker("a")] });
    const [quick, slow] = [await open(), await open()];
    await expect.poll(() => slow.messages.length).toBe(1);
    slow.pause();
    for (let index = 0; index < 200; index++) {
      upstream.tell({
        workers: [worker("a", "busy", { provider: filling }), worker(`w${index}`)],
        gone: index > 0 ? [`w${index - 1}`] : [],
      });
      await expect.poll(() => quick.messages.length, { interval: 1 }).toBe(index + 2);
    }
    expect(quick.workers).toEqual({ a: "busy", w199: "available" });
    slow.resume();
    await expect
      .poll(() => {
        upstream.tell({});
        return slow.workers;
      })
      .toEqual({ a: "busy", w199: "available" });
    expect(slow.messages.filter(({ workers }) => workers.length > 0).length).toBeLessThan(150);
  });

  it("go on when the watch is lost, and know how it is when there is another", async () => {
    upstream.tell({ whole: true, workers: [worker("a"), worker("b")] });
    const page = await open();
    await expect.poll(() => page.workers).toEqual({ a: "available", b: "available" });
    upstream.fail(new RpcError("NODE_DRAINING", "leaving"));
    await expect.poll(() => upstream.watches).toBe(2);
    upstream.tell({ whole: true, workers: [worker("b", "busy")] });
    await expect.poll(() => page.workers).toEqual({ b: "busy" });
    expect(page.closed).toBe(false);
  });

  it("are refused while nobody can tell anything", async () => {
    upstream.refuse = new RpcError("NODE_UNREACHABLE", "nobody there");
    expect((await open()).status).toBe(503);
    expect(refusals).toEqual(["NODE_UNREACHABLE"]);
    upstream.refuse = undefined;
    upstream.tell({ whole: true, workers: [worker("a")] });
    await expect.poll(async () => (await open()).status).toBe(200);
  });

  it("end with the gateway, and are as many as it can bear", async () => {
    upstream.tell({ whole: true, workers: [worker("a")] });
    const open200 = await Promise.all(Array.from({ length: 200 }, open));
    expect((await open()).status).toBe(503);
    expect(refusals).toEqual(["OVERLOADED"]);
    open200[0]!.close();
    await expect.poll(async () => (await open()).status).toBe(200);
    relay.close();
    for (const page of open200) await expect.poll(() => page.closed).toBe(true);
    await expect.poll(() => upstream.running).toBe(0);
    expect((await open()).status).toBe(503);
  });
});
