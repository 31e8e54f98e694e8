/** For the tests of this folder: a provider of a made-up wire format, its dialect, and a worker of it. */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import { type AddressInfo, createServer as createTcpServer, type Socket } from "node:net";
import { Completion, CompletionRequest, FinishReason, type Part } from "../gen/cortex/llm/v1/llm.ts";
import type { StreamResponse } from "../gen/cortex/provider/v1/provider.ts";
import { type Call, RpcError } from "../rpc/index.ts";
import { createLogger, NO_TRACE, type Span, silentTracer, type Tracer } from "../telemetry/index.ts";
import type { Dialect, EventReader } from "./dialect.ts";
import { createHttpWorker } from "./http-worker.ts";
import { parseJson } from "./json.ts";
import type { WorkerSettings } from "./settings.ts";
import type { Worker, WorkerDependencies } from "./worker.ts";

/** One event, and at once the whole answer, of the made-up format. */
export interface WireEvent {
  readonly id?: string;
  readonly text?: string;
  readonly finish?: boolean;
  readonly usage?: number;
  readonly error?: string;
}

function createReader(framing: "sse" | "ndjson"): EventReader {
  let finished = false;
  let done = framing === "ndjson";
  return {
    read({ data }, parts) {
      if (data === "[DONE]") {
        done = true;
        return;
      }
      const event = parseJson(data, "an event") as WireEvent;
      if (event.error !== undefined) throw new RpcError("PROVIDER_OVERLOADED", event.error);
      if (event.id !== undefined) {
        const served = { id: event.id, model: "m-1", worker: "", provider: "", createdAtS: 0, systemFingerprint: "" };
        parts.push({ part: { $case: "served", value: served } });
      }
      if (event.text !== undefined) {
        parts.push({ part: { $case: "text", value: { text: event.text, choice: 0, logprobs: [] } } });
      }
      if (event.finish === true) {
        finished = true;
        parts.push({ part: { $case: "finish", value: { choice: 0, reason: FinishReason.STOP } } });
      }
      if (event.usage !== undefined) parts.push({ part: { $case: "usage", value: { outputTokens: event.usage } } });
    },
    complete: () => finished && done,
  };
}

export function createTestDialect(framing: "sse" | "ndjson", overrides: Partial<Dialect> = {}): Dialect {
  return {
    provider: "test",
    framing,
    defaults: {
      baseUrl: "http://127.0.0.1:1",
      priority: 70,
      capabilities: ["code"],
      pool: { connections: 4, keepAliveMs: 10_000 },
      timeouts: { connectMs: 5_000, poolMs: 5_000, firstTokenMs: 5_000, stallMs: 5_000, totalMs: 20_000 },
    },
    authorization: (key) => ({ authorization: `Bearer ${key}` }),
    chatRequest: (request, stream) => ({
      method: "POST",
      path: "/chat",
      body: JSON.stringify({ model: request.model, stream }),
      warnings:
        request.user === "" ? [] : [{ code: "UNSUPPORTED_PARAMETER", message: "user is ignored", parameter: "user" }],
    }),
    chatAnswer(body) {
      const answer = body as WireEvent;
      if (answer.error !== undefined) throw new RpcError("PROVIDER_OVERLOADED", answer.error);
      return Completion.fromPartial({
        served: { id: answer.id ?? "", model: "m-1" },
        choices: [
          {
            message: { role: 3, content: [{ part: { $case: "text", value: answer.text ?? "" } }] },
            finishReason: FinishReason.STOP,
          },
        ],
        usage: { outputTokens: 7 },
      });
    },
    chatEvents: () => createReader(framing),
    error: (status, _headers, body) =>
      new RpcError(
        status === 429 ? "PROVIDER_RATE_LIMITED" : status >= 500 ? "PROVIDER_ERROR" : "INVALID_REQUEST",
        body,
      ),
    healthRequest: () => ({ method: "GET", path: "/health" }),
    modelsRequest: () => ({ method: "GET", path: "/models" }),
    modelsAnswer: (body) => (body as string[]).map((id) => ({ id, workers: [], createdAtS: 0, ownedBy: "" })),
    ...overrides,
  };
}

/** An event as the stream has it. */
export function wire(framing: "sse" | "ndjson", ...events: (WireEvent | "[DONE]")[]): string {
  const texts = events.map((event) => (event === "[DONE]" ? event : JSON.stringify(event)));
  return texts.map((text) => (framing === "sse" ? `data: ${text}\n\n` : `${text}\n`)).join("");
}

/** A whole good answer as SSE. */
export const GOOD = wire("sse", { id: "a-1" }, { text: "Hel" }, { text: "lo" }, { finish: true, usage: 2 }, "[DONE]");

/** A server on a free port that is closed with everything it holds. */
export interface TestServer extends AsyncDisposable {
  readonly url: string;
  readonly port: number;
  /** Open connections now. */
  readonly sockets: ReadonlySet<Socket>;
}

export function serveHttp(handler: (request: IncomingMessage, response: ServerResponse) => void): Promise<TestServer> {
  return listen(createServer({ keepAliveTimeout: 60_000 }, handler));
}

export function serveTcp(handler: (socket: Socket) => void): Promise<TestServer> {
  return listen(createTcpServer(handler));
}

async function listen(server: ReturnType<typeof createTcpServer> | Server): Promise<TestServer> {
  const sockets = new Set<Socket>();
  server.on("connection", (socket: Socket) => {
    sockets.add(socket);
    socket.on("error", () => {});
    socket.on("close", () => sockets.delete(socket));
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  return {
    url: `http://127.0.0.1:${port}`,
    port,
    sockets,
    async [Symbol.asyncDispose]() {
      for (const socket of sockets) socket.destroy();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

/** Starts an SSE answer; the test writes the rest. */
export function startSse(response: ServerResponse, first = ""): ServerResponse {
  response.writeHead(200, { "content-type": "text/event-stream" });
  response.flushHeaders();
  if (first !== "") response.write(first);
  return response;
}

/** Resolves when the client's connection is closed, with the milliseconds since the call. */
export function closed(message: IncomingMessage | Socket): Promise<number> {
  const socket = "socket" in message ? message.socket : message;
  const startedAtMs = performance.now();
  return new Promise((resolve) => socket.once("close", () => resolve(performance.now() - startedAtMs)));
}

/** A call, and how to end it. */
export interface TestCall extends Call {
  abort(error?: RpcError): void;
}

export function startTestCall(overrides: Partial<Call> = {}): TestCall {
  const controller = new AbortController();
  return {
    signal: controller.signal,
    deadlineAtMs: Number.POSITIVE_INFINITY,
    tenant: "t",
    admin: false,
    requestId: "r-1",
    trace: NO_TRACE,
    ...overrides,
    abort: (error) => controller.abort(error ?? new RpcError("CANCELLED", "the caller went away")),
  };
}

export const REQUEST: CompletionRequest = CompletionRequest.fromPartial({
  model: "m",
  messages: [{ role: 2, content: [{ part: { $case: "text", value: "canary-prompt" } }] }],
});

/** A worker that is closed at the end of the block. */
export interface TestWorker extends Worker, AsyncDisposable {
  readonly spans: readonly RecordedSpan[];
  /** Every line of its log. */
  readonly lines: readonly string[];
}

export function createTestWorker(
  baseUrl: string,
  settings: Partial<WorkerSettings> = {},
  options: { dialect?: Dialect; recording?: boolean; dependencies?: Partial<WorkerDependencies> } = {},
): TestWorker {
  const spans: RecordedSpan[] = [];
  const lines: string[] = [];
  const worker = createHttpWorker(
    options.dialect ?? createTestDialect("sse"),
    { name: "w", provider: "test", keys: [], baseUrl, models: ["m"], ...settings },
    {
      tracer: options.recording === true ? createRecordingTracer(spans) : silentTracer,
      log: createLogger({
        level: "trace",
        readable: false,
        node: "n",
        destination: { write: (line) => void lines.push(line) },
      }),
      closeWaitMs: 0,
      ...options.dependencies,
    },
  );
  return Object.assign(worker, { spans, lines, [Symbol.asyncDispose]: () => worker.close() });
}

export interface RecordedSpan {
  readonly name: string;
  readonly kind: string;
  readonly attributes: Record<string, unknown>;
  readonly events: string[];
  failure?: { type: string; message: string };
  ends: number;
}

function createRecordingTracer(spans: RecordedSpan[]): Tracer {
  return {
    startSpan(name, parent, kind, attributes) {
      const record: RecordedSpan = { name, kind, attributes: { ...attributes }, events: [], ends: 0 };
      spans.push(record);
      const span: Span = {
        context: parent ?? NO_TRACE,
        recording: true,
        set(attribute, value) {
          if (value !== undefined) record.attributes[attribute] = value;
        },
        event: (event) => void record.events.push(event),
        fail(type, message) {
          record.failure = { type, message };
        },
        keep() {},
        end() {
          record.ends += 1;
        },
      };
      return span;
    },
    newTrace: () => NO_TRACE,
    shutdown: async () => {},
  };
}

/** A worker's whole answer, without what is said about it. */
export async function complete(worker: Worker, request: CompletionRequest, call: Call): Promise<Completion> {
  return (await worker.complete(request, call)).completion!;
}

/** Everything that a stream gives: its parts, its chunks, and how it ended. */
export async function collect(stream: AsyncIterable<StreamResponse>): Promise<{
  readonly parts: Part[];
  /** The key of each chunk. */
  readonly keys: readonly string[];
  readonly chunks: number;
  readonly text: string;
  readonly error: RpcError | undefined;
}> {
  const parts: Part[] = [];
  const keys: string[] = [];
  let error: RpcError | undefined;
  try {
    for await (const chunk of stream) {
      keys.push(chunk.key);
      parts.push(...chunk.parts);
    }
  } catch (thrown) {
    error = thrown as RpcError;
  }
  const text = parts.map(({ part }) => (part?.$case === "text" ? part.value.text : "")).join("");
  return { parts, keys, chunks: keys.length, text, error };
}

/** What kinds of part there are, in order. */
export function kinds(parts: readonly Part[]): (string | undefined)[] {
  return parts.map(({ part }) => part?.$case);
}

/** Resolves as soon as `condition` holds; the test's own time-out is the limit. */
export async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise((resolve) => setTimeout(resolve, 2));
}
