/**
 * Everything that is known of the mesh now, for people who look into it (M3): what this node remembers, and what others answer
 * within a second. Who is silent is named, and the rest is told all the same.
 */
import { CacheServiceDefinition, type GetStatisticsResponse } from "../gen/cortex/cache/v1/cache.ts";
import type {
  CacheReport,
  CheckResponse,
  GetReportResponse,
  MetricsReport,
  WorkerReport,
} from "../gen/cortex/health/v1/health.ts";
import type { RunningWorker } from "../gen/cortex/mesh/v1/mesh.ts";
import { Dimension, MetricsServiceDefinition } from "../gen/cortex/metrics/v1/metrics.ts";
import { ProviderServiceDefinition, type WorkerInfo } from "../gen/cortex/provider/v1/provider.ts";
import type { Clients, Mesh } from "../mesh/index.ts";
import { type Call, RpcError, startCall } from "../rpc/index.ts";
import { NO_TRACE } from "../telemetry/index.ts";

/** How long others may take to answer. */
const ANSWER_TIMEOUT_MS = 1_000;
/** What the figures are of. */
const WINDOW_S = 300;

export interface HealthReportsOptions {
  readonly mesh: Mesh;
  readonly clients: Clients;
  /** The verdict, from memory. */
  readonly check: () => CheckResponse;
}

/** Makes reports. However many ask, one is made at a time, and all who came while it was made get it. */
export class HealthReports {
  readonly #mesh: Mesh;
  readonly #clients: Clients;
  readonly #check: () => CheckResponse;
  #making: Promise<GetReportResponse> | undefined;

  constructor({ mesh, clients, check }: HealthReportsOptions) {
    this.#mesh = mesh;
    this.#clients = clients;
    this.#check = check;
  }

  /** Everything, as an administrator may know it, soon after a second at the latest. Never rejects for what others do. */
  get(): Promise<GetReportResponse> {
    this.#making ??= this.#make().finally(() => {
      this.#making = undefined;
    });
    return this.#making;
  }

  async #make(): Promise<GetReportResponse> {
    const { directory } = this.#mesh;
    const call = startCall({
      tenant: "",
      admin: true,
      requestId: "health report",
      trace: NO_TRACE,
      deadlineAtMs: Date.now() + ANSWER_TIMEOUT_MS,
    });
    try {
      const [{ workers, silentNodes }, metrics, cache] = await Promise.all([
        this.#workers(call),
        this.#metrics(call),
        this.#cache(call),
      ]);
      const workersByNode: Record<string, number> = {};
      for (const { id } of directory.nodes()) workersByNode[id] = 0;
      for (const { node } of workers) workersByNode[node] = (workersByNode[node] ?? 0) + 1;
      return {
        verdict: this.#check(),
        nodes: directory.nodes().map(({ id, name, services, zone, version, startedAtMs, draining, load }) => {
          return { id, name, services, zone, version, startedAtMs, draining, load };
        }),
        workersByNode,
        workers,
        silentNodes,
        metrics,
        cache,
        nats: { connected: this.#mesh.connected },
      };
    } finally {
      call.finish();
    }
  }

  /** What each worker says of itself now; of a silent node's, what it announced last. */
  async #workers(call: Call): Promise<{ readonly workers: WorkerReport[]; readonly silentNodes: string[] }> {
    const announced = Map.groupBy(this.#mesh.directory.workers(), ({ node }) => node);
    const silentNodes: string[] = [];
    const workers = await Promise.all(
      [...announced].map(async ([node, known]) => {
        try {
          const asked = this.#clients.at(ProviderServiceDefinition, node).getInfo({ worker: "" }, call);
          const answer = await inTime(asked, call);
          return answer.workers.map((info) => ({ node, info: withoutProperties(info), announced: false }));
        } catch {
          silentNodes.push(node);
          return known.flatMap(({ info }: RunningWorker) =>
            info === undefined ? [] : [{ node, info: withoutProperties(info), announced: true }],
          );
        }
      }),
    );
    const order = ({ node, info }: WorkerReport) => `${info?.name} ${node}`;
    return {
      workers: workers.flat().sort((a, b) => (order(a) < order(b) ? -1 : 1)),
      silentNodes: silentNodes.sort(),
    };
  }

  async #metrics(call: Call): Promise<MetricsReport> {
    const nothing = { summary: undefined, scores: undefined };
    if (!this.#isServed(MetricsServiceDefinition)) {
      return { ...nothing, unavailable: "no node runs the service metrics" };
    }
    try {
      const service = this.#clients.service(MetricsServiceDefinition);
      const [summary, scores] = await inTime(
        Promise.all([
          service.summarize({ windowS: WINDOW_S, dimensions: [Dimension.PROVIDER] }, call),
          service.getHealthScores({ windowS: WINDOW_S }, call),
        ]),
        call,
      );
      return { unavailable: "", summary, scores };
    } catch (thrown) {
      return { ...nothing, unavailable: why(thrown) };
    }
  }

  async #cache(call: Call): Promise<CacheReport> {
    const holders = this.#mesh.directory.nodesServing(CacheServiceDefinition.fullName);
    if (holders.length === 0) return { unavailable: "no node has a level of the cache", nodes: [], silent: [] };
    const silent: string[] = [];
    let last: unknown;
    const nodes = await Promise.all(
      holders.map(async ({ id }): Promise<GetStatisticsResponse[]> => {
        try {
          return [await inTime(this.#clients.at(CacheServiceDefinition, id).getStatistics({}, call), call)];
        } catch (thrown) {
          last = thrown;
          silent.push(id);
          return [];
        }
      }),
    );
    const unavailable = silent.length === holders.length ? why(last) : "";
    return { unavailable, nodes: nodes.flat(), silent: silent.sort() };
  }

  #isServed({ fullName }: { readonly fullName: string }): boolean {
    return this.#mesh.directory.nodesServing(fullName).length > 0;
  }
}

/** What is known of each model is the routers' business: with a thousand workers it would be most of the report. */
function withoutProperties(info: WorkerInfo): WorkerInfo {
  return { ...info, modelProperties: {} };
}

/** As `asked`, but not longer than the call lasts, whatever `asked` makes of the call's end. */
async function inTime<T>(asked: Promise<T>, { signal }: Call): Promise<T> {
  let stop = () => {};
  const late = new Promise<never>((_, reject) => {
    const expire = () => reject(signal.reason);
    signal.addEventListener("abort", expire, { once: true });
    stop = () => signal.removeEventListener("abort", expire);
    if (signal.aborted) expire();
  });
  try {
    return await Promise.race([asked, late]);
  } finally {
    stop();
  }
}

function why(thrown: unknown): string {
  const { reason, message } = RpcError.from(thrown);
  if (reason === "DEADLINE_EXCEEDED") return `no answer within ${ANSWER_TIMEOUT_MS / 1_000} s`;
  return message;
}
