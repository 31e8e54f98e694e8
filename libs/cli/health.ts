/** `cortex health`: says how the mesh is, and with --detailed everything behind it. */
import Table from "cli-table3";
import type { Command } from "commander";
import {
  type CheckResponse,
  type GetReportResponse,
  HealthServiceDefinition,
  Status,
} from "../gen/cortex/health/v1/health.ts";
import { BREAKER_NAMES, HEALTH_NAMES, KEY_NAMES } from "../host/index.ts";
import { type ClientOptions, QUESTION_TIMEOUT_MS, withNode } from "./client.ts";
import { summarizeKeys } from "./workers.ts";

interface HealthOptions extends ClientOptions {
  readonly detailed?: boolean;
}

const STATUS_NAMES: Record<Status, string> = {
  [Status.UNSPECIFIED]: "unknown",
  [Status.HEALTHY]: "healthy",
  [Status.DEGRADED]: "degraded",
  [Status.UNHEALTHY]: "unhealthy",
};

/** Adds the command to `program`; `common` gives it the options that all have, `ended` takes the exit code. */
export function addHealthCommand(
  program: Command,
  common: (command: Command) => Command,
  ended: (code: number) => void,
): void {
  common(
    program
      .command("health")
      .description("say how the mesh is; exit code 1 when it can't serve")
      .option("--detailed", "also nodes, workers, scores, requests and the cache; needs an administrator's key"),
  ).action(async (options: HealthOptions) => {
    ended(await (options.detailed === true ? report(options) : check(options)));
  });
}

async function check(options: ClientOptions): Promise<number> {
  const state = await withNode(options, QUESTION_TIMEOUT_MS, (channel, call) =>
    channel.client(HealthServiceDefinition).check({}, call),
  );
  if (options.json === true) process.stdout.write(`${JSON.stringify(plainVerdict(state))}\n`);
  else process.stdout.write(writeVerdict(state));
  return exitCode(state);
}

async function report(options: ClientOptions): Promise<number> {
  const told = await withNode(options, QUESTION_TIMEOUT_MS, (channel, call) =>
    channel.client(HealthServiceDefinition).getReport({}, call),
  );
  if (options.json === true) process.stdout.write(`${JSON.stringify(plainReport(told), null, 2)}\n`);
  else {
    const parts = [writeNodes(told), writeWorkers(told), writeMetrics(told), writeCache(told)];
    process.stdout.write(`${writeVerdict(told.verdict!)}\n${parts.join("\n")}`);
  }
  return exitCode(told.verdict!);
}

function exitCode({ status }: CheckResponse): number {
  return status === Status.HEALTHY || status === Status.DEGRADED ? 0 : 1;
}

function plainVerdict(state: CheckResponse): object {
  return { ...state, status: STATUS_NAMES[state.status] };
}

function plainReport({ verdict, workers, ...rest }: GetReportResponse): object {
  return {
    verdict: plainVerdict(verdict!),
    ...rest,
    workers: workers.map(({ node, info, announced }) => ({
      ...info!,
      health: HEALTH_NAMES[info!.health],
      breaker: BREAKER_NAMES[info!.breaker],
      keys: info!.keys.map((key) => ({ ...key, state: KEY_NAMES[key.state] })),
      node,
      announced,
    })),
  };
}

function writeVerdict(state: CheckResponse): string {
  const { workersAvailable, workersBusy, workersUnavailable, nodes, version, problems } = state;
  return (
    `${STATUS_NAMES[state.status]}: workers: ${workersAvailable} available, ${workersBusy} busy, ${workersUnavailable} unavailable; ` +
    `${nodes} ${nodes === 1 ? "node" : "nodes"}; Cortex ${version}\n${problems.map((problem) => `  - ${problem}\n`).join("")}`
  );
}

function writeNodes({ nodes, workersByNode, silentNodes }: GetReportResponse): string {
  const table = createTable("node", "services", "zone", "version", "state", "workers", "calls", "loop delay", "memory");
  for (const { id, services, zone, version, draining, load } of nodes) {
    const state = silentNodes.includes(id) ? "silent" : draining ? "draining" : "up";
    const memory = load?.rssBytes === undefined ? "" : `${Math.round(load.rssBytes / 1024 / 1024)} MB`;
    table.push([
      id,
      services.length > 3 ? `${services.slice(0, 3).join(", ")} +${services.length - 3}` : services.join(", "),
      zone,
      version,
      state,
      workersByNode[id] ?? 0,
      load?.callsInFlight ?? 0,
      `${Math.round(load?.eventLoopDelayMs ?? 0)} ms`,
      memory,
    ]);
  }
  return `${table.toString()}\n`;
}

function writeWorkers({ workers, metrics }: GetReportResponse): string {
  if (workers.length === 0) return "no workers are running\n";
  const scores = new Map((metrics?.scores?.workers ?? []).map((score) => [score.name, score]));
  const table = createTable("worker", "node", "health", "breaker", "opened", "keys", "active", "connections", "score");
  for (const { node, info, announced } of workers) {
    const { name, health, breaker, breakerStatistics, keys, activeRequests, pool, draining } = info!;
    const score = scores.get(name);
    table.push([
      name,
      node,
      `${HEALTH_NAMES[health]}${draining ? ", draining" : ""}${announced ? " (as last announced)" : ""}`,
      BREAKER_NAMES[breaker],
      breakerStatistics?.opened ?? 0,
      summarizeKeys(keys),
      activeRequests,
      pool === undefined ? "" : `${pool.connected} of ${pool.size}`,
      score === undefined || score.attempts === 0 ? "" : score.score,
    ]);
  }
  return `${table.toString()}\n`;
}

function writeMetrics({ metrics }: GetReportResponse): string {
  const total = metrics?.summary?.total;
  if (total === undefined) return `requests: not known: ${metrics?.unavailable ?? ""}\n`;
  const { requests, errors, duration, cacheHits } = total;
  const time = `${Math.round(duration?.meanMs ?? 0)} ms on average, 95 % within ${Math.round(duration?.p95Ms ?? 0)} ms`;
  const providers = (metrics?.scores?.providers ?? [])
    .filter(({ attempts }) => attempts > 0)
    .map(({ name, score, success }) => `${name} ${score} (${(success * 100).toFixed(1)} % of attempts succeed)`);
  const scores = providers.length === 0 ? "" : `scores: ${providers.join(", ")}\n`;
  return `requests in 5 minutes: ${requests}, ${errors} failed, ${cacheHits} from the cache; ${time}\n${scores}`;
}

function writeCache({ cache }: GetReportResponse): string {
  if (cache === undefined || cache.unavailable !== "") return `cache: not known: ${cache?.unavailable ?? ""}\n`;
  const levels = Map.groupBy(
    cache.nodes.flatMap((node) => node.levels),
    ({ level }) => level,
  );
  const words = [...levels].sort().map(([name, all]) => {
    const [entries, hits, misses] = all.reduce(
      ([e, h, m], level) => [e! + level.entries, h! + level.hits, m! + level.misses],
      [0, 0, 0],
    );
    return `${name} ${entries} entries, ${hits} hits, ${misses} misses`;
  });
  const silent = cache.silent.length === 0 ? "" : `; no answer from ${cache.silent.join(", ")}`;
  return `cache: ${words.length === 0 ? "off" : words.join("; ")}${silent}\n`;
}

function createTable(...head: string[]) {
  return new Table({ head, style: { head: [], border: [] } });
}
