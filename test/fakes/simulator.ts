/**
 * A provider to test against, over real HTTP: everything about it but its wire format. A provider gives a {@link Provider},
 * which turns requests into {@link Reply}s; this plays them as a {@link Behaviour} wants, and keeps a log of what happened.
 */
import { once } from "node:events";
import { createServer, type IncomingHttpHeaders, type IncomingMessage, type ServerResponse } from "node:http";
import { type AddressInfo, createServer as createTcpServer, type Socket } from "node:net";
import { setImmediate as nextTurn, setTimeout as wait } from "node:timers/promises";
import { type Behaviour, type BehaviourLike, parseBehaviour } from "./behaviour.ts";
import { countWords } from "./model.ts";
import { Paced, type PaceName } from "./pace.ts";

/** More than any test sends. */
const REQUEST_BYTES_MAX = 64 * 1024 * 1024;

/** An answer, cut where something can go wrong. */
export interface Reply {
  readonly status: number;
  readonly headers: Readonly<Record<string, string>>;
  /** What comes before the first token. */
  readonly head: readonly string[];
  /** A piece for each token. */
  readonly tokens: readonly string[];
  /** What comes after the last token: why it ended, the usage, the terminator. */
  readonly tail: readonly string[];
  /** How this provider reports an error at any point of this answer. */
  readonly error: string;
  /** A piece of this answer that can't be parsed. */
  readonly malformed: string;
}

/** What a provider makes of a request. */
export interface Provider {
  /** After host and port in the base URL: `/v1`. */
  readonly basePath: string;
  reply(request: SimulatedRequest, behaviour: Behaviour): Reply;
  /** Waits are told in the body, not by a retry-after header. */
  readonly waitInBody?: boolean;
  /** The answer for an HTTP status other than 200, in this provider's words. */
  failure(status: number, retryAfterS?: number): Reply;
  /** Whether the model is asked for something here, so that behaviours apply. */
  isGeneration(request: SimulatedRequest): boolean;
  /** The behaviour that the request itself asks for. */
  behaviourOf(request: SimulatedRequest): Behaviour | undefined;
}

/** How a request went. */
export interface Ending {
  /** `answered` in full, `client-closed` before the end, or `broken` by a behaviour or by stop(). */
  readonly how: "answered" | "client-closed" | "broken";
  /** By performance.now(). */
  readonly atMs: number;
}

/** A request as it came, and what became of it. */
export interface SimulatedRequest {
  readonly method: string;
  /** With its query. */
  readonly path: string;
  readonly headers: IncomingHttpHeaders;
  /** The parsed JSON; undefined when there was none. */
  readonly body: unknown;
  /** The connection it came on, counted from 0. */
  readonly connection: number;
  /** By performance.now(). */
  readonly receivedAtMs: number;
  /** So far. */
  tokensSent: number;
  /** When the client closed the connection before the end, by performance.now(); undefined as long as it did not. */
  closedAtMs: number | undefined;
  /** Settles when it is over, however it ends. */
  readonly ended: Promise<Ending>;
}

/** What a simulator does: always, in turn for one request each and then as if nothing were said, or as a function says. */
export type Script =
  | BehaviourLike
  | readonly BehaviourLike[]
  | ((index: number, request: SimulatedRequest) => BehaviourLike | undefined);

/** What every simulated provider can be told. */
export interface SimulatorOptions {
  /** A free one when absent. */
  readonly port?: number | undefined;
  readonly behaviour?: Script | undefined;
  /** How fast it is when its behaviour does not say; as fast as can be when absent. */
  readonly pace?: PaceName | undefined;
}

/** What a simulated provider with keys and models can be told as well. */
export interface ProviderOptions extends SimulatorOptions {
  /** Any key, or none, is taken when absent. */
  readonly apiKeys?: readonly string[] | undefined;
  /** Requests for others get 404. When absent every model is there. */
  readonly models?: readonly string[] | undefined;
}

/** A running simulated provider. */
export interface Simulator {
  /** What to configure as a worker's base URL. */
  readonly url: string;
  readonly port: number;
  /** Every request, in the order in which they came. */
  readonly requests: readonly SimulatedRequest[];
  /** The requests that asked the model for something: no health checks, no lists of models. */
  readonly generations: readonly SimulatedRequest[];
  readonly connections: { readonly opened: number; readonly open: number };
  /** From the next request on. The numbering of a function's requests begins anew. `everywhere` means health checks too. */
  behave(script: Script | undefined, options?: { readonly everywhere?: boolean }): void;
  /** What becomes of new connections. */
  accept: "serve" | "reset";
  /** Settles when the request of this number, counted from 0 among the generations, has come. */
  generation(index: number): Promise<SimulatedRequest>;
  /** Closes the port and every connection. */
  stop(): Promise<void>;
  [Symbol.asyncDispose](): Promise<void>;
}

/** A port on which nothing listens: connections to it are refused. */
export async function unusedPort(): Promise<number> {
  const server = createTcpServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, "close");
  return port;
}

/** Starts `provider` on a port of this machine. */
export async function startSimulator(provider: Provider, options: SimulatorOptions = {}): Promise<Simulator> {
  const play = new Play(provider, options.pace);
  play.behave(options.behaviour);
  await play.listen(options.port ?? 0);
  return play;
}

class Play implements Simulator {
  readonly requests: SimulatedRequest[] = [];
  readonly generations: SimulatedRequest[] = [];
  readonly connections = { opened: 0, open: 0 };
  accept: "serve" | "reset" = "serve";
  url = "";
  port = 0;
  readonly #provider: Provider;
  readonly #pace: PaceName | undefined;
  readonly #server = createServer((request, response) => void this.#serve(request, response));
  readonly #numbers = new WeakMap<Socket, number>();
  readonly #sockets = new Set<Socket>();
  readonly #waiting = new Set<() => void>();
  readonly #performances = new Set<Performance>();
  #script: Script | undefined;
  #everywhere = false;
  #index = 0;

  constructor(provider: Provider, pace: PaceName | undefined) {
    this.#provider = provider;
    this.#pace = pace;
    this.#server.on("connection", (socket: Socket) => this.#connect(socket));
    // A test decides when a connection ends.
    this.#server.keepAliveTimeout = 0;
    this.#server.requestTimeout = 0;
  }

  async listen(port: number): Promise<void> {
    this.#server.listen(port, "127.0.0.1");
    await once(this.#server, "listening");
    this.port = (this.#server.address() as AddressInfo).port;
    this.url = `http://127.0.0.1:${this.port}${this.#provider.basePath}`;
  }

  behave(script: Script | undefined, options: { readonly everywhere?: boolean } = {}): void {
    // A mistake in a short form shows where it was made.
    if (typeof script === "string") parseBehaviour(script);
    if (Array.isArray(script)) for (const like of script) parseBehaviour(like);
    this.#script = script;
    this.#everywhere = options.everywhere ?? false;
    this.#index = 0;
  }

  async generation(index: number): Promise<SimulatedRequest> {
    for (;;) {
      const request = this.generations[index];
      if (request !== undefined) return request;
      await new Promise<void>((resolve) => this.#waiting.add(resolve));
    }
  }

  async stop(): Promise<void> {
    for (const performance of this.#performances) performance.stop();
    const closed = this.#server.listening ? once(this.#server, "close") : undefined;
    this.#server.close();
    for (const socket of this.#sockets) socket.destroy();
    await closed;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.stop();
  }

  #connect(socket: Socket): void {
    this.#numbers.set(socket, this.connections.opened);
    this.connections.opened += 1;
    this.connections.open += 1;
    this.#sockets.add(socket);
    socket.setNoDelay(true);
    socket.on("error", () => {});
    socket.once("close", () => {
      this.connections.open -= 1;
      this.#sockets.delete(socket);
    });
    if (this.accept === "reset") socket.resetAndDestroy();
  }

  async #serve(incoming: IncomingMessage, response: ServerResponse): Promise<void> {
    let settle: (ending: Ending) => void = () => {};
    const ended = new Promise<Ending>((resolve) => {
      settle = resolve;
    });
    let request: SimulatedRequest | undefined;
    const performance = new Performance(response);
    this.#performances.add(performance);
    response.once("close", () => {
      this.#performances.delete(performance);
      const how = performance.broken ? "broken" : response.writableFinished ? "answered" : "client-closed";
      const atMs = globalThis.performance.now();
      if (request !== undefined && how === "client-closed") request.closedAtMs = atMs;
      settle({ how, atMs });
    });
    try {
      const body = await readBody(incoming);
      request = {
        method: incoming.method ?? "",
        path: incoming.url ?? "",
        headers: incoming.headers,
        body,
        connection: this.#numbers.get(incoming.socket) ?? -1,
        receivedAtMs: globalThis.performance.now(),
        tokensSent: 0,
        closedAtMs: undefined,
        ended,
      };
      const generation = this.#log(request);
      const behaviour = this.#behaviour(request, generation);
      const reply = this.#reply(request, behaviour);
      await performance.play(reply, generation ? this.#paced(behaviour, request, reply) : behaviour, request);
    } catch (thrown) {
      // The client has gone, or the simulator stops; anything else is a mistake in a test or in the simulator.
      if (performance.over) return;
      if (response.headersSent) response.destroy();
      else response.writeHead(500).end(`simulator: ${thrown}`);
    }
  }

  #log(request: SimulatedRequest): boolean {
    const generation = this.#provider.isGeneration(request);
    this.requests.push(request);
    if (generation) this.generations.push(request);
    for (const resolve of this.#waiting) resolve();
    this.#waiting.clear();
    return generation;
  }

  #behaviour(request: SimulatedRequest, generation: boolean): Behaviour {
    const own = this.#provider.behaviourOf(request);
    if (!generation && !this.#everywhere) return own ?? {};
    const index = this.#index;
    this.#index += 1;
    return own ?? parseBehaviour(this.#scripted(index, request) ?? {});
  }

  /** With the waits that its pace makes. An error is told at once, a whole answer when all of it is there. */
  #paced(behaviour: Behaviour, request: SimulatedRequest, reply: Reply): Timing {
    const name = behaviour.pace ?? this.#pace;
    if (name === undefined || reply.status !== 200) return behaviour;
    const paced = new Paced(name);
    const words = countWords(JSON.stringify(request.body) ?? "");
    const cold = request === this.generations[0];
    const wholeMs = isStream(reply) ? 0 : words * paced.tokenMs();
    const times = { headersMs: paced.headersMs(cold), firstTokenMs: paced.firstTokenMs(words) + wholeMs };
    return { ...times, ...behaviour, gapMs: () => behaviour.tokenMs ?? paced.tokenMs() };
  }

  #scripted(index: number, request: SimulatedRequest): BehaviourLike | undefined {
    const script = this.#script;
    if (typeof script === "function") return script(index, request);
    if (Array.isArray(script)) return script[index];
    return script as BehaviourLike | undefined;
  }

  #reply(request: SimulatedRequest, behaviour: Behaviour): Reply {
    if (behaviour.status === undefined) return this.#provider.reply(request, behaviour);
    const { status, headers, body, html, retryAfter } = behaviour;
    const reply = this.#provider.failure(status, retryAfter);
    const inHeader = retryAfter !== undefined && !this.#provider.waitInBody;
    const wait = inHeader ? { "retry-after": String(retryAfter) } : {};
    if (html) {
      const page = `<html>\r\n<head><title>${status} Error</title></head>\r\n<body><center><h1>${status}</h1></center></body>\r\n</html>\r\n`;
      return { ...reply, headers: { "content-type": "text/html", ...wait, ...headers }, ...inHalves(page) };
    }
    const own = body === undefined ? {} : inHalves(typeof body === "string" ? body : JSON.stringify(body));
    return { ...reply, headers: { ...reply.headers, ...wait, ...headers }, ...own };
  }
}

/** A behaviour, and the gaps between its tokens where they differ. */
type Timing = Behaviour & { readonly gapMs?: () => number };

function isStream(reply: Reply): boolean {
  return /event-stream|ndjson/.test(reply.headers["content-type"] ?? "");
}

/** A body that is sent whole, cut in the middle, where it can go wrong. */
export function inHalves(text: string): Pick<Reply, "head" | "tokens" | "tail"> {
  const middle = Math.floor(text.length / 2);
  return { head: [], tokens: [text.slice(0, middle)], tail: [text.slice(middle)] };
}

async function readBody(incoming: IncomingMessage): Promise<unknown> {
  const pieces: Buffer[] = [];
  let bytes = 0;
  for await (const piece of incoming as AsyncIterable<Buffer>) {
    bytes += piece.length;
    if (bytes > REQUEST_BYTES_MAX) throw new Error("the request is too large for a simulator");
    pieces.push(piece);
  }
  try {
    return JSON.parse(Buffer.concat(pieces).toString("utf8"));
  } catch {
    return undefined;
  }
}

function lineEnds(text: string, behaviour: Behaviour): string {
  return behaviour.crlf ? text.replaceAll(/\r?\n/g, "\r\n") : text;
}

/** Plays one reply. */
class Performance {
  /** The behaviour ended it, not the client. */
  broken = false;
  readonly #response: ServerResponse;
  /** The client has gone or the simulator stops. */
  readonly #over = new AbortController();

  constructor(response: ServerResponse) {
    this.#response = response;
    response.once("close", () => this.#over.abort());
  }

  get over(): boolean {
    return this.#over.signal.aborted;
  }

  stop(): void {
    this.broken = true;
    this.#over.abort();
  }

  async play(reply: Reply, behaviour: Timing, request: SimulatedRequest): Promise<void> {
    // After the last token at the latest: a fault that is asked for comes.
    const at =
      typeof behaviour.at === "number" ? Math.min(behaviour.at, reply.tokens.length) : (behaviour.at ?? "request");
    const faultAt = (point: string | number) => (at === point ? behaviour.fault : undefined);
    if (await this.#break(faultAt("request"), reply, behaviour)) return;
    await this.#pause(behaviour.headersMs);
    if (!this.#response.headersSent) this.#sendHeaders(reply, behaviour);
    if (await this.#break(faultAt("headers"), reply, behaviour)) return;
    for (const piece of reply.head) await this.#write(piece, behaviour);
    if (await this.#break(faultAt(0), reply, behaviour)) return;
    for (const [index, piece] of reply.tokens.entries()) {
      await this.#pause(index === 0 ? behaviour.firstTokenMs : (behaviour.gapMs?.() ?? behaviour.tokenMs));
      await this.#write(piece, behaviour);
      request.tokensSent += 1;
      if (await this.#break(faultAt(index + 1), reply, behaviour)) return;
    }
    for (const piece of reply.tail) await this.#write(piece, behaviour);
    this.#response.end();
  }

  #sendHeaders(reply: Reply, behaviour: Behaviour): void {
    const headers: Record<string, string> = { ...reply.headers };
    if (behaviour.contentType !== undefined) headers["content-type"] = behaviour.contentType;
    const whole = reply.head.length === 0 && behaviour.fault === undefined && reply.tail.length <= 1;
    // As real servers do: a length for what is known in full, chunks for a stream.
    if (whole && !isStream(reply)) {
      const text = [...reply.tokens, ...reply.tail].join("");
      headers["content-length"] = String(Buffer.byteLength(lineEnds(text, behaviour)));
    }
    this.#response.writeHead(reply.status, headers);
    this.#response.flushHeaders();
  }

  /** True when the fault has ended the answer. */
  async #break(fault: Behaviour["fault"], reply: Reply, behaviour: Behaviour): Promise<boolean> {
    const response = this.#response;
    switch (fault) {
      case undefined:
        return false;
      case "malformed":
        if (!response.headersSent) this.#sendHeaders(reply, behaviour);
        await this.#write(reply.malformed, behaviour);
        return false;
      case "error":
        if (!response.headersSent) this.#sendHeaders(reply, behaviour);
        await this.#write(reply.error, behaviour);
        response.end();
        return true;
      case "end":
        if (!response.headersSent) this.#sendHeaders(reply, behaviour);
        this.broken = true;
        response.end();
        return true;
      case "garbage":
        this.broken = true;
        if (response.headersSent) response.end(Buffer.from([0xff, 0xfe, 0x00, 0x7b, 0x9c, 0x0a, 0x1b, 0x5d]));
        else response.socket?.end(Buffer.from([0x15, 0x03, 0x01, 0x00, 0x02, 0x02, 0x46]));
        return true;
      case "cut":
        this.broken = true;
        response.socket?.destroy();
        return true;
      case "reset":
        this.broken = true;
        response.socket?.resetAndDestroy();
        return true;
      case "stall":
        if (!this.over) await once(this.#over.signal, "abort");
        return true;
    }
  }

  async #pause(ms: number | undefined): Promise<void> {
    if (ms) await wait(ms, undefined, { signal: this.#over.signal });
  }

  async #write(piece: string, behaviour: Behaviour): Promise<void> {
    const text = lineEnds(piece, behaviour);
    if (behaviour.byteMs === undefined) {
      await this.#send(text);
      return;
    }
    for (const byte of Buffer.from(text)) {
      await this.#send(Buffer.from([byte]));
      if (behaviour.byteMs === 0) await nextTurn();
      else await this.#pause(behaviour.byteMs);
    }
  }

  /** Settles once the bytes are with the system, so that a cut after them does not take them back. */
  #send(bytes: string | Buffer): Promise<void> {
    return new Promise((resolve, reject) => {
      if (this.over) reject(new Error("the client has gone"));
      else this.#response.write(bytes, (error) => (error ? reject(error) : resolve()));
    });
  }
}
