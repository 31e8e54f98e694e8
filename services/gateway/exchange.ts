/** One request on its way through the HTTP face, and what every handler needs for it: its body, and the ways to answer. */
import { isUtf8 } from "node:buffer";
import { type IncomingMessage, type OutgoingHttpHeader, type OutgoingHttpHeaders, ServerResponse } from "node:http";
import type { CheckResponse, GetReportResponse } from "../../libs/gen/cortex/health/v1/health.ts";
import type { MetricsServiceDefinition } from "../../libs/gen/cortex/metrics/v1/metrics.ts";
import type { RegistryServiceDefinition } from "../../libs/gen/cortex/registry/v1/registry.ts";
import type { RouterServiceDefinition } from "../../libs/gen/cortex/router/v1/router.ts";
import type { Operations } from "../../libs/host/index.ts";
import { type Call, type OwnedCall, RpcError, type Service } from "../../libs/rpc/index.ts";
import type { Logger, Metrics, Span, Tracer } from "../../libs/telemetry/index.ts";
import type { LiveRelay } from "./live.ts";

/** What the HTTP face needs of its node. */
export interface GatewayDependencies {
  /** Asked at each request, as the router may live elsewhere and move. */
  router(): Service<typeof RouterServiceDefinition>;
  /** Where the workers are administered; it lives with the router. */
  registry(): Service<typeof RegistryServiceDefinition>;
  /** What the last hour has come to. */
  summaries(): Service<typeof MetricsServiceDefinition>;
  /** How everything is, for pages that are open. */
  readonly live: LiveRelay;
  /** Client keys are configured. */
  keysRequired(): boolean;
  /** How the mesh is, from memory; with `causes`, for administrators, also why each worker is down. */
  health(options: { readonly causes: boolean }): CheckResponse;
  /** Everything behind that, for administrators alone; soon after a second at the latest. */
  report(): Promise<GetReportResponse>;
  /** Whom the `Authorization` header proves; throws UNAUTHENTICATED. */
  authenticate(authorization: string): Pick<Call, "tenant" | "admin">;
  /** Answers are kept, so that the same requests may come again and again. */
  caching(): boolean;
  /** What the node answers to whoever runs it. */
  readonly operations: Operations;
  readonly tracer: Tracer;
  readonly metrics: Metrics;
  readonly log: Logger;
  readonly bodyBytesMax: number;
  /** Between the comments that keep a silent stream open. */
  readonly keepAliveMs: number;
  /** For a whole request. */
  readonly timeoutMs: number;
}

/** An answer that says to which request it belongs, however it is begun. */
export class GatewayResponse extends ServerResponse<IncomingMessage> {
  requestId = "";
  traceId = "";
  /** Events have begun to go out: what is left to say is said as an event. */
  hasEvents = false;

  override writeHead(
    status: number,
    first?: string | OutgoingHttpHeaders | OutgoingHttpHeader[],
    second?: OutgoingHttpHeaders | OutgoingHttpHeader[],
  ): this {
    const message = typeof first === "string" ? first : undefined;
    const headers = typeof first === "string" ? second : first;
    // As a list: Node would put an object's headers into one of its own first, one by one.
    const list: OutgoingHttpHeader[] = ["x-request-id", this.requestId, "x-trace-id", this.traceId];
    if (Array.isArray(headers)) list.push(...headers);
    else {
      for (const name in headers) {
        const value = headers[name];
        if (value !== undefined) list.push(name, value);
      }
    }
    return message === undefined ? super.writeHead(status, list) : super.writeHead(status, message, list);
  }
}

/** One request on its way. */
export interface Exchange {
  readonly request: IncomingMessage;
  readonly response: GatewayResponse;
  readonly path: string;
  readonly call: OwnedCall;
  readonly span: Span;
}

export type Handler = (exchange: Exchange, dependencies: GatewayDependencies) => Promise<void>;

/** Answers with JSON text. */
export function answerJson(
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

/** A request's header, empty when it is absent or came several times. */
export function header(request: IncomingMessage, name: string): string {
  const value = request.headers[name];
  return typeof value === "string" ? value : "";
}

/** A part of a path as it was before it was made one; as it is when nothing can be made of it. */
export function decode(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/** The body as text. Throws INVALID_REQUEST and REQUEST_TOO_LARGE. */
export async function readText(request: IncomingMessage, bytesMax: number): Promise<string> {
  const bytes = await readBody(request, bytesMax);
  if (bytes.length === 0) throw new RpcError("INVALID_REQUEST", "the body is empty; send JSON");
  if (!isUtf8(bytes)) throw new RpcError("INVALID_REQUEST", "the body is not valid UTF-8");
  return bytes.toString();
}

/** The body as JSON. Throws INVALID_REQUEST and REQUEST_TOO_LARGE. */
export async function readJson(request: IncomingMessage, bytesMax: number): Promise<unknown> {
  return parseJson(await readText(request, bytesMax));
}

/** Throws INVALID_REQUEST. */
export function parseJson(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
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
