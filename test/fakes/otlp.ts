/** An OTLP receiver over HTTP and JSON: keeps every span that a process exports, for tests to ask for. */
import { once } from "node:events";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { gunzipSync } from "node:zlib";

/** A span as it was exported. */
export interface ReceivedSpan {
  readonly name: string;
  readonly traceId: string;
  readonly spanId: string;
  /** Empty for a root. */
  readonly parentSpanId: string;
  /** 1 internal, 2 server, 3 client, 4 producer. */
  readonly kind: number;
  readonly attributes: Readonly<Record<string, unknown>>;
  readonly events: readonly { readonly name: string; readonly attributes: Readonly<Record<string, unknown>> }[];
  /** Nanoseconds since the Unix epoch. */
  readonly startNs: bigint;
  readonly endNs: bigint;
  /** 2 means error. */
  readonly status: number;
  /** The tracestate; empty if none. */
  readonly traceState: string;
  /** `service.name` of the process. */
  readonly service: string;
}

/** A receiver that runs. */
export interface OtlpReceiver {
  /** What makes a process export here all spans, each as soon as it has ended. */
  readonly environment: Readonly<Record<string, string>>;
  /** As above, but which traces are exported is left to the configuration. */
  readonly endpoint: Readonly<Record<string, string>>;
  readonly spans: readonly ReceivedSpan[];
  /** Everything that was received, as text: to search for what must not be in it. */
  text(): string;
  /** The spans of a trace by start, once `complete` says that they are all there. */
  trace(traceId: string, complete: (spans: readonly ReceivedSpan[]) => boolean): Promise<ReceivedSpan[]>;
  stop(): Promise<void>;
}

const TRACE_TIMEOUT_MS = 10_000;

interface OtlpAttribute {
  readonly key: string;
  readonly value: Readonly<Record<string, unknown>>;
}

interface OtlpSpan {
  readonly name: string;
  readonly traceId: string;
  readonly spanId: string;
  readonly parentSpanId?: string;
  readonly kind: number;
  readonly attributes?: readonly OtlpAttribute[];
  readonly events?: readonly { readonly name: string; readonly attributes?: readonly OtlpAttribute[] }[];
  readonly startTimeUnixNano: string;
  readonly endTimeUnixNano: string;
  readonly status?: { readonly code?: number };
  readonly traceState?: string;
}

interface OtlpBody {
  readonly resourceSpans?: readonly {
    readonly resource?: { readonly attributes?: readonly OtlpAttribute[] };
    readonly scopeSpans?: readonly { readonly spans?: readonly OtlpSpan[] }[];
  }[];
}

/** Starts one on a free port. */
export async function startOtlpReceiver(): Promise<OtlpReceiver> {
  const spans: ReceivedSpan[] = [];
  const texts: string[] = [];
  const server = createServer(async (request, response) => {
    const pieces: Buffer[] = [];
    for await (const piece of request) pieces.push(piece as Buffer);
    const bytes = Buffer.concat(pieces);
    const text = (request.headers["content-encoding"] === "gzip" ? gunzipSync(bytes) : bytes).toString();
    texts.push(text);
    for (const span of readBody(JSON.parse(text) as OtlpBody)) spans.push(span);
    response.writeHead(200, { "content-type": "application/json" }).end("{}");
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  const endpoint = {
    OTEL_EXPORTER_OTLP_ENDPOINT: `http://127.0.0.1:${port}`,
    OTEL_EXPORTER_OTLP_PROTOCOL: "http/json",
    OTEL_BSP_SCHEDULE_DELAY: "50",
  };
  return {
    environment: { ...endpoint, OTEL_TRACES_SAMPLER: "parentbased_always_on" },
    endpoint,
    spans,
    text: () => texts.join("\n"),
    async trace(traceId, complete) {
      const deadlineMs = performance.now() + TRACE_TIMEOUT_MS;
      for (;;) {
        const found = spans
          .filter((span) => span.traceId === traceId)
          .sort((a, b) => (a.startNs < b.startNs ? -1 : a.startNs > b.startNs ? 1 : 0));
        if (complete(found)) return found;
        if (performance.now() > deadlineMs) {
          throw new Error(`trace ${traceId} is not complete; it has ${found.map(({ name }) => name).join(", ")}`);
        }
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
    },
    async stop() {
      server.close();
      server.closeAllConnections();
      await once(server, "close");
    },
  };
}

function readBody(body: OtlpBody): ReceivedSpan[] {
  return (body.resourceSpans ?? []).flatMap(({ resource, scopeSpans = [] }) => {
    const service = String(readAttributes(resource?.attributes)["service.name"] ?? "");
    return scopeSpans.flatMap(({ spans = [] }) =>
      spans.map((span) => ({
        name: span.name,
        traceId: span.traceId,
        spanId: span.spanId,
        parentSpanId: span.parentSpanId ?? "",
        kind: span.kind,
        attributes: readAttributes(span.attributes),
        events: (span.events ?? []).map(({ name, attributes }) => ({ name, attributes: readAttributes(attributes) })),
        startNs: BigInt(span.startTimeUnixNano),
        endNs: BigInt(span.endTimeUnixNano),
        status: span.status?.code ?? 0,
        traceState: span.traceState ?? "",
        service,
      })),
    );
  });
}

function readAttributes(attributes: readonly OtlpAttribute[] = []): Record<string, unknown> {
  return Object.fromEntries(
    attributes.map(({ key, value }) => {
      const list = value["arrayValue"] as { values?: readonly Record<string, unknown>[] } | undefined;
      if (list !== undefined) return [key, (list.values ?? []).map((item) => Object.values(item)[0])];
      const [single] = Object.values(value);
      return [key, "intValue" in value ? Number(single) : single];
    }),
  );
}
