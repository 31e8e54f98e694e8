/** A plain HTTP client that sees what a gateway really sends: every byte, how the connection ended, and what it makes of both. */
import { type ClientRequest, request as httpRequest, type IncomingHttpHeaders, type IncomingMessage } from "node:http";

/** A JSON object. */
type Json = Record<string, unknown>;

/** Where a gateway is, and what it needs to be told with each request. */
export interface Door {
  /** Ends in /v1. */
  readonly baseUrl: string;
  readonly headers: Readonly<Record<string, string>>;
}

/** How an answer ended: as HTTP wants it, with the connection lost, or not at all as long as the client would wait. */
export type End = "clean" | "broken" | "late";

/** Everything that a client has seen of one answer. */
export interface Seen {
  /** 0 when there was no answer. */
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly body: string;
  readonly end: End;
  readonly durationMs: number;
  /** Of a stream. */
  readonly events: readonly Json[];
  readonly comments: readonly string[];
  /** Lines of a stream that are none of server-sent events, and events that are no JSON. */
  readonly strange: readonly string[];
  readonly text: string;
  readonly reasoning: string;
  /** The arguments of all tool calls, as they came. */
  readonly toolArguments: string;
  readonly finishes: readonly string[];
  readonly usage: Json | undefined;
  /** An error that was told, as the body or as an event. */
  readonly error: Json | undefined;
  /** How often [DONE] came, and whether it came last. */
  readonly done: { readonly count: number; readonly last: boolean };
}

/** A request under way. */
export interface Open {
  /** Settles when the headers have come; rejects when they never do. */
  readonly headers: Promise<IncomingMessage>;
  /** Settles when something of the body has come. */
  readonly begun: Promise<void>;
  /** Settles when it is over, however it ends; never rejects. */
  readonly seen: Promise<Seen>;
  /** What has come of the body so far. */
  soFar(): string;
  /** Goes away. */
  leave(): void;
}

/** Longer than any gateway may keep its clients waiting. */
export const PATIENCE_MS = 25_000;

/** Asks a question on a connection of its own. */
export function open(door: Door, body: Json, patienceMs = PATIENCE_MS): Open {
  const startedAtMs = performance.now();
  const pieces: Buffer[] = [];
  const headers = Promise.withResolvers<IncomingMessage>();
  const begun = Promise.withResolvers<void>();
  const over = Promise.withResolvers<Seen>();
  // Nobody need wait for these.
  headers.promise.catch(() => {});
  begun.promise.catch(() => {});
  let response: IncomingMessage | undefined;
  let ended = false;
  const finish = (end: End): void => {
    if (ended) return;
    ended = true;
    clearTimeout(timer);
    const gone = new Error(`the answer never came: ${end}`);
    headers.reject(gone);
    begun.reject(gone);
    const text = Buffer.concat(pieces).toString("utf8");
    over.resolve(understand(response, text, end, performance.now() - startedAtMs));
    request.destroy();
  };
  const request: ClientRequest = httpRequest(`${door.baseUrl}/chat/completions`, {
    method: "POST",
    agent: false,
    headers: { "content-type": "application/json", authorization: "Bearer conformance", ...door.headers },
  });
  const timer = setTimeout(() => finish("late"), patienceMs);
  request.setNoDelay(true);
  request.on("error", () => finish("broken"));
  request.on("response", (incoming) => {
    response = incoming;
    headers.resolve(incoming);
    incoming.on("data", (piece: Buffer) => {
      pieces.push(piece);
      begun.resolve();
    });
    incoming.on("error", () => finish("broken"));
    incoming.on("close", () => finish(incoming.complete ? "clean" : "broken"));
  });
  request.end(JSON.stringify(body));
  return {
    headers: headers.promise,
    begun: begun.promise,
    seen: over.promise,
    soFar: () => Buffer.concat(pieces).toString("utf8"),
    leave: () => finish("broken"),
  };
}

function understand(response: IncomingMessage | undefined, body: string, end: End, durationMs: number): Seen {
  const headers = response?.headers ?? {};
  const seen = {
    status: response?.statusCode ?? 0,
    headers,
    body,
    end,
    durationMs,
    events: [] as Json[],
    comments: [] as string[],
    strange: [] as string[],
    text: "",
    reasoning: "",
    toolArguments: "",
    finishes: [] as string[],
    usage: undefined as Json | undefined,
    error: undefined as Json | undefined,
    done: { count: 0, last: false },
  };
  if (/event-stream/.test(headers["content-type"] ?? "")) readStream(body, seen);
  else readObject(parse(body), seen, "message");
  return seen;
}

type Draft = { -readonly [Name in keyof Seen]: Seen[Name] extends readonly (infer T)[] ? T[] : Seen[Name] };

function readStream(body: string, seen: Draft): void {
  for (const line of body.split(/\r\n|\n|\r/)) {
    if (line === "") continue;
    if (line.startsWith(":")) seen.comments.push(line.slice(1).trim());
    else if (line === "data: [DONE]") seen.done = { count: seen.done.count + 1, last: true };
    else if (line.startsWith("data:")) {
      const event = parse(line.slice(5));
      seen.done = { ...seen.done, last: false };
      if (event === undefined) seen.strange.push(line);
      else seen.events.push(event);
      readObject(event, seen, "delta");
    } else if (!/^(event|id|retry):/.test(line)) seen.strange.push(line);
  }
}

function readObject(object: Json | undefined, seen: Draft, field: "message" | "delta"): void {
  if (object === undefined) return;
  if (object["error"] !== undefined && object["error"] !== null) seen.error = errorOf(object["error"]);
  else if (seen.status >= 400) seen.error = object;
  if (isJson(object["usage"])) seen.usage = object["usage"];
  for (const choice of Array.isArray(object["choices"]) ? object["choices"] : []) {
    if (!isJson(choice)) continue;
    if (typeof choice["finish_reason"] === "string") seen.finishes.push(choice["finish_reason"]);
    const said = choice[field];
    if (!isJson(said)) continue;
    if (typeof said["content"] === "string") seen.text += said["content"];
    const thought = said["reasoning_content"] ?? said["reasoning"];
    if (typeof thought === "string") seen.reasoning += thought;
    for (const call of Array.isArray(said["tool_calls"]) ? said["tool_calls"] : []) {
      const given = isJson(call) && isJson(call["function"]) ? call["function"]["arguments"] : undefined;
      if (typeof given === "string") seen.toolArguments += given;
    }
  }
}

function errorOf(error: unknown): Json {
  return isJson(error) ? error : { message: String(error) };
}

function parse(text: string): Json | undefined {
  try {
    const parsed: unknown = JSON.parse(text);
    return isJson(parsed) ? parsed : undefined;
  } catch {
    return undefined;
  }
}

function isJson(value: unknown): value is Json {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
