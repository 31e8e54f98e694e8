/** What the HTTP face tells Prometheus: its node's metrics, and where those of the other nodes are. */

import { REFUSALS, type RpcError } from "../../libs/rpc/index.ts";
import { METRIC, type Metrics, OTHER, type TraceContext } from "../../libs/telemetry/index.ts";
import { answerJson, type Exchange, type GatewayDependencies, header } from "./exchange.ts";

/** GET /metrics */
export async function scrape({ request, response }: Exchange, { operations }: GatewayDependencies): Promise<void> {
  const { contentType, body } = await operations.scrape(header(request, "accept"), header(request, "authorization"));
  response.writeHead(200, { "content-type": contentType, "cache-control": "no-store" }).end(body);
}

/** GET /metrics/targets */
export async function scrapeTargets(
  { request, response }: Exchange,
  { operations }: GatewayDependencies,
): Promise<void> {
  const targets = operations.targets(header(request, "authorization"));
  answerJson(response, 200, JSON.stringify(targets), { "cache-control": "no-store" });
}

/** Counts an exchange that has ended. */
export function countExchange(
  metrics: Metrics,
  ended: {
    readonly method: string;
    readonly route: string;
    readonly status: number;
    readonly durationMs: number;
    readonly failure: RpcError | undefined;
    readonly trace: TraceContext;
  },
): void {
  if (!metrics.enabled) return;
  const { method, route, status, durationMs, failure, trace } = ended;
  metrics.observe(METRIC.httpDuration, durationMs / 1_000, trace, methodText(method), route, statusText(status));
  if (failure !== undefined) countRefusal(metrics, failure);
}

/** Counts that somebody was refused something, also where the rest of the answer is for everybody. */
export function countRefusal(metrics: Metrics, { reason }: RpcError): void {
  if (REFUSALS.has(reason)) metrics.add(METRIC.refusals, 1, "rest", reason);
}

/** Others that HTTP knows would take the places of these. */
function methodText(method: string): string {
  return METHODS.has(method) ? method : OTHER;
}
const METHODS: ReadonlySet<string> = new Set(["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"]);

/** The same string for each status: a number is made one anew each time. */
function statusText(status: number): string {
  return status === 200 ? "200" : String(status);
}
