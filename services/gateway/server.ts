/**
 * The HTTP face: routes, bodies, answers as JSON and as server-sent events, and what happens when a client goes away. The
 * only room that knows HTTP status codes.
 */
import { isUtf8 } from "node:buffer";
import { randomUUID } from "node:crypto";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import { type CheckResponse, Status } from "../../libs/gen/cortex/health/v1/health.ts";
import type { CompletionRequest, Part, Served, Warning } from "../../libs/gen/cortex/llm/v1/llm.ts";
import type { RegistryServiceDefinition } from "../../libs/gen/cortex/registry/v1/registry.ts";
import type {
  CacheOptions,
  CacheStatus,
  RouterServiceDefinition,
  RoutingOptions,
  StreamResponse,
} from "../../libs/gen/cortex/router/v1/router.ts";
import { CATALOGUE, type Call, type OwnedCall, RpcError, type Service, startCall } from "../../libs/rpc/index.ts";
import {
  ATTRIBUTE,
  type Logger,
  parseTraceparent,
  SPAN,
  type Span,
  type Tracer,
  traceFields,
} from "../../libs/telemetry/index.ts";
import {
  type AdminAction,
  addWorker,
  changeWorker,
  drainWorker,
  getDistribution,
  getWorker,
  listWorkers,
  refuseForeignPages,
  removeWorker,
  replaceWorker,
  undrainWorker,
} from "./admin.ts";
import { type CachingWish, cacheHeaders, isHit, readCaching } from "./caching-options.ts";
import { errorBody, errorHeaders, HTTP_FACES } from "./errors.ts";
import { readChatRequest, readEmbeddingsRequest, readShortChatRequest } from "./openai-request.ts";
import {
  ChunkWriter,
  servedHeaders,
  writeCompletion,
  writeEmbeddings,
  writeModel,
  writeModels,
  writeShortAnswer,
} from "./openai-response.ts";
import { servePage, wantsPage } from "./page.ts";
import { resumableStream } from "./resume.ts";
import { type RoutingWish, readRouting } from "./routing-options.ts";

/** What the HTTP face needs of its node. */
export interface GatewayDependencies {
  /** Asked at each request, as the router may live elsewhere and move. */
  router(): Service<typeof RouterServiceDefinition>;
  /** Where the workers are administered; it lives with the router. */
  registry(): Service<typeof RegistryServiceDefinition>;
  /** Client keys are configured. */
  keysRequired(): boolean;
  /** How the mesh is, from memory. */
  health(): CheckResponse;
  /** Whom the `Authorization` header proves; throws UNAUTHENTICATED. */
  authenticate(authorization: string): Pick<Call, "tenant" | "admin">;
  readonly tracer: Tracer;
  readonly log: Logger;
  readonly bodyBytesMax: number;
  /** Between the comments that keep a silent stream open. */
  readonly keepAliveMs: number;
  /** For a whole request. */
  readonly timeoutMs: number;
}

/** One request on its way. */
interface Exchange {
  readonly request: IncomingMessage;
  readonly response: ServerResponse;
  readonly path: string;
  readonly call: OwnedCall;
  readonly span: Span;
}

type Handler = (exchange: Exchange, dependencies: GatewayDependencies) => Promise<void>;

interface Route {
  readonly method: "GET" | "POST" | "PUT" | "PATCH" | "DELETE";
  readonly path: string;
  /** The path is a prefix: what follows it is the handler's. */
  readonly prefix?: boolean;
  /** With a prefix: after it come a name without a slash, and this. */
  readonly suffix?: string;
  /** Needs no client key: probes and people have none. */
  readonly open?: boolean;
  readonly handle: Handler;
}

const ROUTES: readonly Route[] = [
  { method: "POST", path: "/v1/chat/completions", handle: chatCompletions },
  { method: "POST", path: "/v1/embeddings", handle: embeddings },
  { method: "GET", path: "/v1/models", handle: models },
  { method: "GET", path: "/v1/models/", prefix: true, handle: model },
  { method: "POST", path: "/api/chat", handle: shortChat },
  { method: "GET", path: "/admin/workers", handle: administer(listWorkers) },
  { method: "POST", path: "/admin/workers", handle: administer(addWorker) },
  { method: "GET", path: "/admin/workers/", prefix: true, suffix: "", handle: administer(getWorker) },
  { method: "PUT", path: "/admin/workers/", prefix: true, suffix: "", handle: administer(replaceWorker) },
  { method: "PATCH", path: "/admin/workers/", prefix: true, suffix: "", handle: administer(changeWorker) },
  { method: "DELETE", path: "/admin/workers/", prefix: true, suffix: "", handle: administer(removeWorker) },
  { method: "POST", path: "/admin/workers/", prefix: true, suffix: "/drain", handle: administer(drainWorker) },
  { method: "POST", path: "/admin/workers/", prefix: true, suffix: "/undrain", handle: administer(undrainWorker) },
  { method: "GET", path: "/admin/distribution", handle: administer(getDistribution) },
  { method: "GET", path: "/api/health", open: true, handle: health },
  { method: "GET", path: "/page/", prefix: true, open: true, handle: pageFile },
  { method: "GET", path: "/", open: true, handle: welcome },
];

/** Who has not been asked for a key. */
const NOBODY: Pick<Call, "tenant" | "admin"> = { tenant: "", admin: false };

/** The HTTP server of the gateway, not yet listening. */
export function createGatewayServer(dependencies: GatewayDependencies): Server {
  const server = createServer(
    { noDelay: true, keepAliveTimeout: 75_000, requestTimeout: 120_000 },
    (request, response) => {
      void exchange(request, response, dependencies);
    },
  );
  server.on("clientError", (error: NodeJS.ErrnoException, socket) => {
    if (error.code === "ECONNRESET" || !socket.writable) return;
    socket.end("HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n");
  });
  return server;
}

async function exchange(request: IncomingMessage, response: ServerResponse, dependencies: GatewayDependencies) {
  const { log, tracer } = dependencies;
  const path = pathOf(request);
  const method = request.method ?? "GET";
  const route = ROUTES.find((known) => matches(known, path) && known.method === method);
  const routePath = route === undefined ? "(unknown)" : patternOf(route);
  const parent = parseTraceparent(header(request, "traceparent"), header(request, "tracestate"));
  const span = tracer.startSpan(SPAN.http(method, routePath), parent, "server", {
    [ATTRIBUTE.httpMethod]: method,
    [ATTRIBUTE.httpRoute]: routePath,
  });
  const requestId = randomUUID();
  const startedAtMs = performance.now();
  response.setHeader("x-request-id", requestId);
  response.setHeader("x-trace-id", span.context.traceId);
  let call: OwnedCall | undefined;
  let failure: RpcError | undefined;
  // Without a listener, a socket that breaks while we write would end the process.
  response.on("error", () => {});
  try {
    if (route === undefined) throw unknownRoute(method, path, response);
    const { tenant, admin } =
      route.open === true ? NOBODY : dependencies.authenticate(header(request, "authorization"));
    call = startCall({
      tenant,
      admin,
      requestId,
      trace: span.context,
      deadlineAtMs: Date.now() + dependencies.timeoutMs,
    });
    const { cancel } = call;
    response.on("close", () => {
      if (!response.writableFinished) cancel();
    });
    span.set({ [ATTRIBUTE.tenant]: tenant, [ATTRIBUTE.requestId]: requestId });
    await route.handle({ request, response, path, call, span }, dependencies);
  } catch (thrown) {
    failure = RpcError.from(thrown);
    if (failure.reason === "INTERNAL") {
      log.error(
        { err: failure.cause, path: routePath, ...traceFields(span.context) },
        "the gateway threw an unexpected error",
      );
    }
    answerFailure(response, failure, span);
  } finally {
    call?.finish();
    const status = response.headersSent ? response.statusCode : 499;
    if (failure !== undefined) span.fail(failure.reason, CATALOGUE[failure.reason].meaning);
    span.set({ [ATTRIBUTE.httpStatus]: status });
    span.end();
    const fields = { method, path: routePath, status, duration_ms: Math.round(performance.now() - startedAtMs) };
    const level = failure === undefined || failure.class === "request" ? "debug" : "warn";
    log[level](
      { ...fields, request_id: requestId, ...(failure && { reason: failure.reason }), ...traceFields(span.context) },
      "request",
    );
  }
}

function matches({ path: known, prefix, suffix }: Route, path: string): boolean {
  if (prefix !== true) return path === known;
  if (!path.startsWith(known) || path.length === known.length) return false;
  if (suffix === undefined) return true;
  const slash = path.indexOf("/", known.length);
  return slash < 0 ? suffix === "" : slash > known.length && path.slice(slash) === suffix;
}

/** `/admin/workers/{name}/drain` */
function patternOf({ path, suffix }: Route): string {
  return suffix === undefined ? path : `${path}{name}${suffix}`;
}

function pathOf(request: IncomingMessage): string {
  const url = request.url ?? "/";
  const query = url.indexOf("?");
  return query < 0 ? url : url.slice(0, query);
}

function header(request: IncomingMessage, name: string): string {
  const value = request.headers[name];
  return typeof value === "string" ? value : "";
}

function unknownRoute(method: string, path: string, response: ServerResponse): RpcError {
  const allowed = ROUTES.filter((route) => matches(route, path)).map((route) => route.method);
  if (allowed.length === 0) {
    return new RpcError(
      "ENDPOINT_NOT_FOUND",
      `${method} ${path.slice(0, 200)} does not exist; docs/api.md lists what does`,
    );
  }
  response.setHeader("allow", allowed.join(", "));
  return new RpcError("METHOD_NOT_ALLOWED", `${path.slice(0, 200)} takes ${allowed.join(", ")}, not ${method}`);
}

function answerFailure(response: ServerResponse, error: RpcError, span: Span): void {
  if (response.destroyed || response.writableEnded) return;
  const body = errorBody(error, span.context.traceId);
  if (!response.headersSent) {
    // What is left of the request's body is not read any more, so the connection can't serve another one.
    if (!response.req.complete) response.setHeader("connection", "close");
    answerJson(response, HTTP_FACES[error.reason].status, body, errorHeaders(error));
    return;
  }
  // The status has long been sent. An error event, and no [DONE], is what SDKs understand; where there are no events, only
  // a connection that breaks tells the client that the answer is not whole.
  if (response.getHeader("content-type") === SSE_TYPE) response.end(`data: ${body}\n\n`);
  else response.destroy();
}

function answerJson(
  response: ServerResponse,
  status: number,
  body: string,
  headers: Record<string, string> = {},
): void {
  response.writeHead(status, {
    "content-type": "application/json",
    "content-length": Buffer.byteLength(body),
    ...headers,
  });
  response.end(body);
}

const SSE_TYPE = "text/event-stream; charset=utf-8";

async function chatCompletions({ request, response, call, span }: Exchange, dependencies: GatewayDependencies) {
  const body = readChatRequest(await readJson(request, dependencies.bodyBytesMax));
  const { completion, stream, includeUsage } = body;
  const wishes = readWishes(body, request);
  describeRequest(span, completion, stream);
  if (!stream) {
    const {
      attempts,
      cache,
      completion: whole,
    } = await dependencies.router().complete({ completion, ...wishes }, call);
    answerJson(response, 200, writeCompletion(whole!, isHit(cache)), {
      ...servedHeaders(whole!.served, attempts, whole!.warnings),
      ...cacheHeaders(cache),
    });
    return;
  }
  const writer = new ChunkWriter(includeUsage);
  const chunks = resumableStream({ completion, ...wishes }, call, dependencies);
  await streamOut(chunks, response, call, dependencies.keepAliveMs, {
    contentType: SSE_TYPE,
    begin: (cache) => {
      writer.cached = isHit(cache);
    },
    write: (parts) => writer.write(parts),
    end: () => writer.end(),
    keepAlive: ": keep-alive\n\n",
  });
}

async function shortChat({ request, response, call, span }: Exchange, dependencies: GatewayDependencies) {
  const body = readShortChatRequest(await readJson(request, dependencies.bodyBytesMax));
  const { completion } = body;
  const wishes = readWishes(body, request);
  const wantsJson = /\bapplication\/json\b/.test(header(request, "accept"));
  describeRequest(span, completion, !wantsJson);
  if (wantsJson) {
    const {
      attempts,
      cache,
      completion: whole,
    } = await dependencies.router().complete({ completion, ...wishes }, call);
    answerJson(response, 200, writeShortAnswer(whole!, isHit(cache)), {
      ...servedHeaders(whole!.served, attempts, whole!.warnings),
      ...cacheHeaders(cache),
    });
    return;
  }
  const chunks = resumableStream({ completion, ...wishes }, call, dependencies);
  await streamOut(chunks, response, call, dependencies.keepAliveMs, {
    contentType: "text/plain; charset=utf-8",
    begin: () => {},
    write: (parts) => {
      let text = "";
      for (const { part } of parts) {
        if (part?.$case === "text" || part?.$case === "refusal") text += part.value.text;
      }
      return text;
    },
    end: () => "",
    keepAlive: "",
  });
}

/** How the client wants it to be routed, and what may come from the cache: the body and the headers together. */
function readWishes(
  body: { readonly routing: RoutingWish; readonly caching: CachingWish },
  request: IncomingMessage,
): { readonly routing: RoutingOptions | undefined; readonly cache: CacheOptions | undefined } {
  const read = (name: string) => header(request, name);
  return { routing: readRouting(body.routing, read), cache: readCaching(body.caching, read) };
}

/** How a stream is put into bytes. */
interface StreamFormat {
  readonly contentType: string;
  /** Called once, before the first part. */
  begin(cache: CacheStatus | undefined): void;
  write(parts: readonly Part[]): string;
  end(): string;
  /** What to send when nothing has been sent for a while; empty where the format has no way to say nothing. */
  readonly keepAlive: string;
}

async function streamOut(
  stream: AsyncIterable<StreamResponse>,
  response: ServerResponse,
  call: Call,
  keepAliveMs: number,
  format: StreamFormat,
): Promise<void> {
  let keepAlive: NodeJS.Timeout | undefined;
  try {
    for await (const { parts, attempts, cache } of stream) {
      if (!response.headersSent) {
        format.begin(cache);
        // The headers wait for the first content: until then a failure can still have a status of its own.
        response.writeHead(200, {
          ...headersOf(parts, attempts),
          ...cacheHeaders(cache),
          "content-type": format.contentType,
          "cache-control": "no-cache",
        });
        if (format.keepAlive !== "") {
          keepAlive = setInterval(() => response.write(format.keepAlive), keepAliveMs);
        }
      }
      const text = format.write(parts);
      keepAlive?.refresh();
      if (text !== "" && !response.write(text)) await drained(response, call.signal);
    }
    response.end(format.end());
  } finally {
    clearInterval(keepAlive);
  }
}

function headersOf(parts: readonly Part[], attempts: number): Record<string, string> {
  let served: Served | undefined;
  const warnings: Warning[] = [];
  for (const { part } of parts) {
    if (part?.$case === "served") served = part.value;
    else if (part?.$case === "warning") warnings.push(part.value);
  }
  return servedHeaders(served, attempts, warnings);
}

/** Waits until a slow client has taken what was written, or has gone. */
function drained(response: ServerResponse, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      response.off("drain", done);
      signal.removeEventListener("abort", done);
      resolve();
    };
    response.on("drain", done);
    signal.addEventListener("abort", done, { once: true });
    if (signal.aborted) done();
  });
}

async function embeddings({ request, response, call, span }: Exchange, dependencies: GatewayDependencies) {
  const body = readEmbeddingsRequest(await readJson(request, dependencies.bodyBytesMax));
  const { embedding, base64 } = body;
  const wishes = readWishes(body, request);
  span.set({ [ATTRIBUTE.operation]: "embeddings", [ATTRIBUTE.requestModel]: embedding.model });
  const { attempts, cache, embedding: result } = await dependencies.router().embed({ embedding, ...wishes }, call);
  answerJson(response, 200, writeEmbeddings(result!, base64), {
    ...servedHeaders(result!.served, attempts, result!.warnings),
    ...cacheHeaders(cache),
  });
}

async function models({ response, call }: Exchange, { router }: GatewayDependencies) {
  const answer = await router().listModels({}, call);
  answerJson(response, 200, writeModels(answer.models));
}

async function model({ response, call, path }: Exchange, { router }: GatewayDependencies) {
  const answer = await router().listModels({}, call);
  answerJson(response, 200, writeModel(answer.models, decode(path.slice("/v1/models/".length))));
}

function decode(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/** Actions whose request has a body. */
const WITH_BODY: ReadonlySet<AdminAction> = new Set([addWorker, replaceWorker, changeWorker]);

function administer(action: AdminAction): Handler {
  return async ({ request, response, call, path }, dependencies) => {
    const { origin, host } = request.headers;
    const { localAddress } = request.socket;
    refuseForeignPages({ origin, host, localAddress, keysRequired: dependencies.keysRequired() });
    if (!call.admin) {
      throw new RpcError(
        "PERMISSION_DENIED",
        "only an administrator's key opens /admin: clients[].admin in cortex.yaml",
      );
    }
    const body = WITH_BODY.has(action) ? await readJson(request, dependencies.bodyBytesMax) : undefined;
    const worker = decode(path.split("/")[3] ?? "");
    const query = new URLSearchParams((request.url ?? "").slice(path.length));
    const answer = await action({ worker, query, body }, dependencies.registry(), call);
    const headers = { ...answer.headers, "cache-control": "no-store" };
    if (answer.body !== undefined) answerJson(response, answer.status, JSON.stringify(answer.body), headers);
    else response.writeHead(answer.status, headers).end();
  };
}

const STATUS_NAMES: Record<Status, string> = {
  [Status.UNSPECIFIED]: "unhealthy",
  [Status.HEALTHY]: "healthy",
  [Status.DEGRADED]: "degraded",
  [Status.UNHEALTHY]: "unhealthy",
};

async function health({ response }: Exchange, dependencies: GatewayDependencies) {
  const state = dependencies.health();
  const body = JSON.stringify({
    status: STATUS_NAMES[state.status],
    version: state.version,
    node: state.node,
    uptime_s: Math.round(state.uptimeS),
    nodes: state.nodes,
    workers: {
      available: state.workersAvailable,
      busy: state.workersBusy,
      unavailable: state.workersUnavailable,
    },
    nats_connected: state.natsConnected,
    problems: state.problems,
  });
  const serving = state.status === Status.HEALTHY || state.status === Status.DEGRADED;
  answerJson(response, serving ? 200 : 503, body, { "cache-control": "no-store" });
}

async function pageFile({ request, response, path }: Exchange) {
  await servePage(request, response, path.slice("/page/".length));
}

async function welcome({ response, request }: Exchange) {
  if (wantsPage(request)) return servePage(request, response, "index.html");
  const host = request.headers.host ?? "localhost";
  response.writeHead(200, { "content-type": "text/plain; charset=utf-8", vary: "accept" });
  response.end(
    `This is Cortex, a gateway for large language models.\n\n` +
      `  curl http://${host}/v1/chat/completions -H 'content-type: application/json' \\\n` +
      `    -d '{"model":"auto","messages":[{"role":"user","content":"Hello!"}]}'\n\n` +
      `OpenAI SDKs: base URL http://${host}/v1 · models: /v1/models · health: /api/health\n`,
  );
}

function describeRequest(span: Span, completion: CompletionRequest, stream: boolean): void {
  if (!span.recording) return;
  span.set({
    [ATTRIBUTE.operation]: "chat",
    [ATTRIBUTE.requestModel]: completion.model,
    [ATTRIBUTE.requestStream]: stream,
    [ATTRIBUTE.requestMaxTokens]: completion.maxOutputTokens,
    [ATTRIBUTE.requestTemperature]: completion.sampling?.temperature,
    [ATTRIBUTE.requestTopP]: completion.sampling?.topP,
  });
}

async function readJson(request: IncomingMessage, bytesMax: number): Promise<unknown> {
  const bytes = await readBody(request, bytesMax);
  if (bytes.length === 0) throw new RpcError("INVALID_REQUEST", "the body is empty; send JSON");
  if (!isUtf8(bytes)) throw new RpcError("INVALID_REQUEST", "the body is not valid UTF-8");
  try {
    return JSON.parse(bytes.toString()) as unknown;
  } catch (error) {
    // The parser's own message quotes the text around the mistake, which may be a prompt: only the place is told.
    const place = /\(line \d+ column \d+\)|at position \d+/.exec((error as Error).message)?.[0] ?? "";
    throw new RpcError("INVALID_REQUEST", `the body is not valid JSON ${place}`.trim());
  }
}

function readBody(request: IncomingMessage, bytesMax: number): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const pieces: Buffer[] = [];
    let bytes = 0;
    request.on("data", (piece: Buffer) => {
      bytes += piece.length;
      if (bytes > bytesMax) {
        request.pause();
        reject(new RpcError("REQUEST_TOO_LARGE", `the body is larger than ${bytesMax} bytes`));
        return;
      }
      pieces.push(piece);
    });
    request.on("end", () => resolve(pieces.length === 1 ? pieces[0]! : Buffer.concat(pieces, bytes)));
    request.on("error", () => reject(new RpcError("CANCELLED", "the client went away")));
    request.on("close", () => {
      if (!request.complete) reject(new RpcError("CANCELLED", "the client went away"));
    });
  });
}
