/**
 * What whoever runs a node asks of it over plain HTTP: its metrics, where the others' are, whether it lives, whether it is ready.
 * A gateway answers this on its own port; every other node has a small server for it.
 */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import type { NodeRecord } from "../gen/cortex/mesh/v1/mesh.ts";
import { REFUSALS, type Reason, RpcError } from "../rpc/index.ts";
import { METRIC, type Metrics } from "../telemetry/index.ts";
import { type Identity, sameSecret } from "./authentication.ts";

/** What Prometheus' service discovery over HTTP takes: https://prometheus.io/docs/prometheus/latest/http_sd/ */
export interface ScrapeTarget {
  readonly targets: readonly string[];
  readonly labels: Readonly<Record<string, string>>;
}

/** Whether a node may be sent requests. */
export interface Readiness {
  readonly ready: boolean;
  /** Why not, in a sentence; empty when it is ready. */
  readonly why: string;
}

/** What a node answers to whoever runs it. */
export interface Operations {
  /**
   * Its metrics, for a scraper's `Accept` and `Authorization` headers. Throws UNAUTHENTICATED or PERMISSION_DENIED for who may not
   * know them, ENDPOINT_NOT_FOUND when it counts nothing.
   */
  scrape(accept: string, authorization: string): Promise<{ readonly contentType: string; readonly body: string }>;
  /** Where every node of the mesh tells its metrics. Throws as `scrape`. */
  targets(authorization: string): readonly ScrapeTarget[];
  /** Its services have started, and it is not about to stop. That it answers at all shows that it lives. */
  readiness(): Readiness;
  /** Counts that `scrape` or `targets` has thrown, for servers that count nothing themselves. */
  refused(error: RpcError): void;
}

export interface OperationsDependencies {
  readonly metrics: Metrics;
  /** The nodes of the mesh. */
  nodes(): readonly NodeRecord[];
  /** Client keys are configured. */
  keysRequired(): boolean;
  /** `metrics.token` */
  token(): string | undefined;
  authenticate(authorization: string): Identity;
  readiness(): Readiness;
}

/** Makes what a node answers. */
export function createOperations(dependencies: OperationsDependencies): Operations {
  const { metrics, readiness } = dependencies;

  /** Metrics tell what clients ask for and what it costs, so who may not administer the mesh needs the token. */
  function admit(authorization: string): void {
    if (!metrics.enabled) {
      throw new RpcError(
        "ENDPOINT_NOT_FOUND",
        "this node counts nothing: metrics.enabled is false in the configuration",
      );
    }
    const token = dependencies.token();
    if (token === undefined && !dependencies.keysRequired()) return;
    const sent = /^Bearer\s+(\S+)$/i.exec(authorization)?.[1];
    if (token !== undefined && sent !== undefined && sameSecret(sent, token)) return;
    if (!dependencies.keysRequired()) {
      throw new RpcError("UNAUTHENTICATED", "send metrics.token of the configuration as Authorization: Bearer TOKEN");
    }
    if (!dependencies.authenticate(authorization).admin) {
      throw new RpcError(
        "PERMISSION_DENIED",
        "metrics need an administrator's key, or metrics.token of the configuration",
      );
    }
  }

  return {
    async scrape(accept, authorization) {
      admit(authorization);
      return metrics.expose(accept);
    },
    targets(authorization) {
      admit(authorization);
      return dependencies
        .nodes()
        .filter(({ metricsAddress }) => metricsAddress !== "")
        .map(({ id, name, services, zone, metricsAddress }) => ({
          targets: [metricsAddress],
          labels: { node: name || id, services: services.join(","), zone, __meta_cortex_node_id: id },
        }));
    },
    readiness,
    refused({ reason }) {
      if (REFUSALS.has(reason)) metrics.add(METRIC.refusals, 1, "rest", reason);
    },
  };
}

/** What the server of a node without a gateway answers each error with; nothing else is thrown there. */
const STATUS: Partial<Readonly<Record<Reason, number>>> = {
  UNAUTHENTICATED: 401,
  PERMISSION_DENIED: 403,
  ENDPOINT_NOT_FOUND: 404,
};

/** A server that answers for a node. */
export interface OperationsServer {
  readonly port: number;
  close(): Promise<void>;
}

/** Answers on a port of its own; 0 takes a free one. Rejects with the system's error (EADDRINUSE …). */
export async function listenForOperations(
  operations: Operations,
  { host, port }: { readonly host: string; readonly port: number },
): Promise<OperationsServer> {
  const server = createServer((request, response) => {
    answer(operations, request, response).catch((thrown: unknown) => {
      const error = RpcError.from(thrown);
      operations.refused(error);
      answerText(response, STATUS[error.reason] ?? 500, error.message);
    });
  });
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen({ host, port }, resolve);
  });
  return { port: (server.address() as AddressInfo).port, close: () => close(server) };
}

async function answer(operations: Operations, request: IncomingMessage, response: ServerResponse): Promise<void> {
  const { accept = "", authorization = "" } = request.headers;
  const [path] = (request.url ?? "/").split("?");
  if (request.method !== "GET" && request.method !== "HEAD") {
    response.setHeader("allow", "GET, HEAD");
    answerText(response, 405, "GET, please");
  } else if (path === "/metrics") {
    const { contentType, body } = await operations.scrape(accept, authorization);
    response.writeHead(200, { "content-type": contentType }).end(body);
  } else if (path === "/metrics/targets") {
    const body = JSON.stringify(operations.targets(authorization));
    response.writeHead(200, { "content-type": "application/json" }).end(body);
  } else if (path === "/live") {
    answerLive(response);
  } else if (path === "/ready") {
    answerReady(operations, response);
  } else {
    throw new RpcError("ENDPOINT_NOT_FOUND", "there are /metrics, /metrics/targets, /live and /ready");
  }
}

/** GET /live, for orchestrators: a process that turns its event loop lives, and need not be started anew. */
export function answerLive(response: ServerResponse): void {
  answerText(response, 200, "live");
}

/** GET /ready, for orchestrators: 200 when the node may be sent requests, 503 and why when not. */
export function answerReady(operations: Operations, response: ServerResponse): void {
  const { ready, why } = operations.readiness();
  answerText(response, ready ? 200 : 503, ready ? "ready" : why);
}

function answerText(response: ServerResponse, status: number, text: string): void {
  response.writeHead(status, { "content-type": "text/plain; charset=utf-8", "cache-control": "no-store" });
  response.end(`${text}\n`);
}

function close(server: Server): Promise<void> {
  return new Promise((resolve) => {
    server.close(() => resolve());
    server.closeAllConnections();
  });
}
