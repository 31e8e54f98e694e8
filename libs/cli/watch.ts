/** `cortex watch`: how the mesh does while a load test runs, a line every few seconds for people, and one of JSON for programs. */
import { once } from "node:events";
import { createWriteStream, type WriteStream } from "node:fs";
import type { Command } from "commander";
import { CacheServiceDefinition, type LevelStatistics } from "../gen/cortex/cache/v1/cache.ts";
import { StartError } from "../host/index.ts";
import type { Call, Channel } from "../rpc/index.ts";
import { type ClientOptions, QUESTION_TIMEOUT_MS } from "./client.ts";
import { seconds } from "./durations.ts";
import { milliseconds } from "./metrics.ts";
import { type WatchedMesh, watchMesh } from "./watching.ts";

interface WatchOptions extends ClientOptions {
  readonly every: number;
  readonly out?: string;
}

/** Adds the command to `program`; `common` gives it the options that all have, `ended` takes the exit code. */
export function addWatchCommand(
  program: Command,
  common: (command: Command) => Command,
  ended: (exitCode: number) => void,
): void {
  common(program.command("watch"))
    .description("say how the mesh does, again and again: while a load test runs, for example")
    .option("--every <duration>", "how often: 1s to 1m", seconds(1, 60), 5)
    .option("--out <file>", "also append a line of JSON each time to a file")
    .action(async (options: WatchOptions) => ended(await watch(options)));
}

async function watch({ every, out, ...options }: WatchOptions): Promise<number> {
  const file = out === undefined ? undefined : await openFile(out);
  try {
    await watchMesh(options, every * 1_000, {
      async onMessage(mesh, channel, call) {
        const line = lineOf(mesh, await cacheOf(channel, call));
        const text = `${JSON.stringify(line)}\n`;
        file?.write(text);
        process.stdout.write(options.json === true ? text : `${sentenceOf(line)}\n`);
      },
      onLost: ({ message }) => void process.stderr.write(`cortex: ${message}; trying again\n`),
    });
  } finally {
    file?.end();
    if (file !== undefined) await once(file, "close");
  }
  return 0;
}

async function openFile(path: string): Promise<WriteStream> {
  const file = createWriteStream(path, { flags: "a" });
  try {
    await once(file, "open");
  } catch (error) {
    throw new StartError(`${path} can't be written: ${(error as Error).message}`, { cause: error });
  }
  return file;
}

/** What all nodes' caches hold, by level; undefined where it can't be told. */
async function cacheOf(channel: Channel, call: Call): Promise<readonly LevelStatistics[] | undefined> {
  const question = { ...call, deadlineAtMs: Date.now() + QUESTION_TIMEOUT_MS };
  try {
    const { nodes } = await channel.client(CacheServiceDefinition).listStatistics({}, question);
    return nodes.flatMap(({ levels }) => levels);
  } catch {
    return undefined;
  }
}

/** One line of JSON: everything at one moment. Rates are of the interval before it, latencies of the last minute. */
function lineOf(mesh: WatchedMesh, levels: readonly LevelStatistics[] | undefined) {
  const { atMs, rates, eventsLost } = mesh.message;
  const { requestsPerSecond, errorsPerSecond, outputTokensPerSecond, hitRate, activeRequests } = rates!;
  const { duration, timeToFirstToken } = rates!;
  const workers = [...mesh.workers.values()];
  const breakers = (state: string) => workers.filter(({ breaker }) => breaker === state).length;
  const sum = (values: readonly number[]) => values.reduce((total, value) => total + value, 0);
  const names = [...new Set(levels?.map(({ level }) => level))].sort();
  return {
    at: new Date(atMs).toISOString(),
    requestsPerSecond,
    errorsPerSecond,
    errorRate: requestsPerSecond === 0 ? 0 : errorsPerSecond / requestsPerSecond,
    outputTokensPerSecond,
    hitRate,
    activeRequests,
    meanMs: duration!.meanMs,
    p50Ms: duration!.p50Ms,
    p95Ms: duration!.p95Ms,
    p99Ms: duration!.p99Ms,
    timeToFirstTokenP95Ms: timeToFirstToken!.p95Ms,
    workers: {
      available: mesh.count("available"),
      busy: mesh.count("busy"),
      unavailable: mesh.count("unavailable"),
      draining: mesh.count("draining"),
    },
    breakers: { closed: breakers("closed"), open: breakers("open"), halfOpen: breakers("half_open") },
    pools: {
      connectionsOpen: sum(workers.map(({ connectionsOpen }) => connectionsOpen)),
      connectionsMax: sum(workers.map(({ connectionsMax }) => connectionsMax)),
    },
    nodes: mesh.nodes.map(({ id, name, rssBytes, eventLoopDelayMs, eventLoopUtilization, callsInFlight }) => ({
      id,
      name,
      rssBytes,
      eventLoopDelayMs,
      eventLoopUtilization,
      callsInFlight,
    })),
    cache:
      levels === undefined
        ? null
        : names.map((level) => {
            const own = levels.filter((known) => known.level === level);
            const all = (of: "entries" | "bytes" | "hits" | "misses" | "evictions") => sum(own.map((one) => one[of]));
            return {
              level,
              entries: all("entries"),
              bytes: all("bytes"),
              hits: all("hits"),
              misses: all("misses"),
              evictions: all("evictions"),
            };
          }),
    eventsLost,
  };
}

type Line = ReturnType<typeof lineOf>;

/** The same for people, in one line. */
function sentenceOf(line: Line): string {
  const { workers, breakers, pools, nodes, cache } = line;
  const percent = (part: number) => `${(100 * part).toFixed(1)} %`;
  const megabytes = (bytes: number) => `${(bytes / 1_048_576).toFixed(0)} MB`;
  const parts = [
    `${line.requestsPerSecond.toFixed(1)} requests/s, ${percent(line.errorRate)} errors, ${percent(line.hitRate)} hits, ` +
      `mean ${milliseconds(line.meanMs)}, p95 ${milliseconds(line.p95Ms)}, ${line.activeRequests} running`,
    `workers ${workers.available} up, ${workers.busy} busy, ${workers.unavailable} down`,
    `breakers ${breakers.open} open`,
    `pools ${pools.connectionsOpen} of ${pools.connectionsMax}`,
    ...(cache === null || cache.length === 0
      ? []
      : [`cache ${cache.map(({ level, entries, bytes }) => `${level} ${entries}, ${megabytes(bytes)}`).join("; ")}`]),
    ...nodes.map(
      ({ name, rssBytes, eventLoopDelayMs, eventLoopUtilization }) =>
        `${name} ${megabytes(rssBytes)}, loop ${eventLoopDelayMs.toFixed(0)} ms, ${percent(eventLoopUtilization)} busy`,
    ),
  ];
  return `${line.at.slice(11, 19)}  ${parts.join(" | ")}`;
}
