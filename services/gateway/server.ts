/**
 * The HTTP face: routes, bodies, answers as JSON and as server-sent events, and what happens when a client goes away. The
 * only room that knows HTTP status codes.
 */
import { randomUUID } from "node:crypto";
import { createServer, type IncomingMessage, type Server } from "node:http";
import { CATALOGUE, type Call, type OwnedCall, REFUSALS, RpcError, startCall } from "../../libs/rpc/index.ts";
import { ATTRIBUTE, parseTraceparent, SPAN, type Span, traceFields } from "../../libs/telemetry/index.ts";
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
import { chatCompletions, embeddings, model, models, shortChat } from "./chat.ts";
import { errorBody, errorHeaders, HTTP_FACES } from "./errors.ts";
import {
  answerJson,
  decode,
  type Exchange,
  type GatewayDependencies,
  GatewayResponse,
  type Handler,
  header,
  readJson,
} from "./exchange.ts";
import { health, healthPage, probeLife, probeReadiness } from "./health-routes.ts";
import { history, scores, summary, watchLive } from "./metrics-routes.ts";
import { countExchange, scrape, scrapeTargets } from "./operations.ts";
import { servePage, wantsPage } from "./page.ts";

interface Route {
  readonly method: "GET" | "POST" | "PUT" | "PATCH" | "DELETE";
  readonly path: string;
  /** The path is a prefix: what follows it is the handler's. */
  readonly prefix?: boolean;
  /** With a prefix: after it come a name without a slash, and this. */
  readonly suffix?: string;
  /** Needs no client key, or asks for one itself: probes and people have none. */
  readonly open?: boolean;
  readonly handle: Handler;
}

const ROUTES = named([
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
  { method: "GET", path: "/api/metrics", handle: summary },
  { method: "GET", path: "/api/metrics/scores", handle: scores },
  { method: "GET", path: "/api/metrics/history", handle: history },
  { method: "GET", path: "/api/live", handle: watchLive },
  { method: "GET", path: "/api/health", open: true, handle: health },
  { method: "GET", path: "/health", open: true, handle: healthPage },
  { method: "GET", path: "/live", open: true, handle: probeLife },
  { method: "GET", path: "/ready", open: true, handle: probeReadiness },
  { method: "GET", path: "/metrics", open: true, handle: scrape },
  { method: "GET", path: "/metrics/targets", open: true, handle: scrapeTargets },
  { method: "GET", path: "/page/", prefix: true, open: true, handle: pageFile },
  { method: "GET", path: "/", open: true, handle: welcome },
]);

/** Routes with what they are called in metrics and traces: `/admin/workers/{name}/drain`. */
function named(routes: readonly Route[]) {
  return routes.map((route) => {
    const pattern = route.suffix === undefined ? route.path : `${route.path}{name}${route.suffix}`;
    return { ...route, pattern, spanName: SPAN.http(route.method, pattern) };
  });
}

/** Who has not been asked for a key. */
const NOBODY: Pick<Call, "tenant" | "admin"> = { tenant: "", admin: false };

/** The HTTP server of the gateway, not yet listening. */
export function createGatewayServer(dependencies: GatewayDependencies): Server {
  const server = createServer(
    { noDelay: true, keepAliveTimeout: 75_000, requestTimeout: 120_000, ServerResponse: GatewayResponse },
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

async function exchange(request: IncomingMessage, response: GatewayResponse, dependencies: GatewayDependencies) {
  const { log, tracer } = dependencies;
  const path = pathOf(request);
  const method = request.method ?? "GET";
  const route = ROUTES.find((known) => matches(known, path) && answers(known, method));
  const routePath = route?.pattern ?? "(unknown)";
  const parent = parseTraceparent(header(request, "traceparent"), header(request, "tracestate"));
  const span = tracer.startSpan(
    route?.method === method ? route.spanName : SPAN.http(method, routePath),
    parent,
    "server",
  );
  span.set(ATTRIBUTE.httpMethod, method);
  span.set(ATTRIBUTE.httpRoute, routePath);
  const requestId = randomUUID();
  const startedAtMs = performance.now();
  response.requestId = requestId;
  response.traceId = span.context.traceId;
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
    span.set(ATTRIBUTE.tenant, tenant);
    span.set(ATTRIBUTE.requestId, requestId);
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
    span.set(ATTRIBUTE.httpStatus, status);
    span.end();
    const durationMs = performance.now() - startedAtMs;
    countExchange(dependencies.metrics, { method, route: routePath, status, durationMs, failure, trace: span.context });
    const level = failure === undefined || failure.class === "request" ? "debug" : "warn";
    if (log.isLevelEnabled(level)) {
      const fields = { method, path: routePath, status, duration_ms: Math.round(durationMs), request_id: requestId };
      log[level](
        { ...fields, ...(failure && failureFields(failure, request)), ...traceFields(span.context) },
        "request",
      );
    }
  }
}

/** What a log line tells of a failure: of a refusal also whom it was for, as many of them may be an attack. */
function failureFields({ reason }: RpcError, { socket }: IncomingMessage) {
  return { reason, ...(REFUSALS.has(reason) && { client_address: socket.remoteAddress }) };
}

/** Probes and pages are also asked for their headers alone; Node then leaves out the body. */
function answers(route: Route, method: string): boolean {
  return route.method === method || (method === "HEAD" && route.method === "GET" && route.open === true);
}

function matches({ path: known, prefix, suffix }: Route, path: string): boolean {
  if (prefix !== true) return path === known;
  if (!path.startsWith(known) || path.length === known.length) return false;
  if (suffix === undefined) return true;
  const slash = path.indexOf("/", known.length);
  return slash < 0 ? suffix === "" : slash > known.length && path.slice(slash) === suffix;
}

function pathOf(request: IncomingMessage): string {
  const url = request.url ?? "/";
  const query = url.indexOf("?");
  return query < 0 ? url : url.slice(0, query);
}

function unknownRoute(method: string, path: string, response: GatewayResponse): RpcError {
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

function answerFailure(response: GatewayResponse, error: RpcError, span: Span): void {
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
  if (response.hasEvents) response.end(`data: ${body}\n\n`);
  else response.destroy();
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

async function pageFile({ request, response, path }: Exchange) {
  await servePage(request, response, path.slice("/page/".length));
}

async function welcome({ response, request }: Exchange, { keysRequired }: GatewayDependencies) {
  if (wantsPage(request)) return servePage(request, response, "index.html");
  const host = request.headers.host ?? "localhost";
  const authorization = keysRequired() ? ` -H "authorization: Bearer $KEY"` : "";
  response.writeHead(200, { "content-type": "text/plain; charset=utf-8", vary: "accept" });
  response.end(
    `This is Cortex, a gateway for large language models.\n\n` +
      `  curl http://${host}/v1/chat/completions${authorization} -H 'content-type: application/json' \\\n` +
      `    -d '{"model":"auto","messages":[{"role":"user","content":"Hello!"}]}'\n\n` +
      `OpenAI SDKs: base URL http://${host}/v1 · models: /v1/models · health: /api/health\n`,
  );
}
