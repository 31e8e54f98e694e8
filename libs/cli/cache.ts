/** `cortex cache`: says what the levels of the cache hold and have done, on all nodes, and takes answers out of them. */
import Table from "cli-table3";
import { type Command, InvalidArgumentError } from "commander";
import { CacheServiceDefinition, type LevelStatistics } from "../gen/cortex/cache/v1/cache.ts";
import { type ClientOptions, QUESTION_TIMEOUT_MS, withNode } from "./client.ts";

/** How long taking answers out may take: a store behind the cache is searched from end to end. */
const CLEAR_TIMEOUT_MS = 300_000;

interface ClearOptions extends ClientOptions {
  readonly tenant?: string;
  readonly model?: string;
  readonly cacheKey?: string;
}

/** Adds the commands to `program`; `common` gives a command the options that all have, `ended` takes the exit code. */
export function addCacheCommands(
  program: Command,
  common: (command: Command) => Command,
  ended: (exitCode: number) => void,
): void {
  const cache = program.command("cache").description("the answers that are kept");
  common(cache.command("stats"))
    .description("say what each level holds on each node, and what it has done since its node was started")
    .action(async (options: ClientOptions) => ended(await showStatistics(options)));
  common(cache.command("clear"))
    .description("take answers out of every level, on every node: all of them, or those that all options fit")
    .option("--tenant <tenant>", "those of one tenant", readWord)
    .option("--model <model>", "those of one model, as clients ask for it", readWord)
    .option("--cache-key <key>", "one, by its key as the header x-cortex-cache-key tells it", readWord)
    .action(async (options: ClearOptions) => ended(await clear(options)));
}

/** Nothing at all would mean everything. */
function readWord(text: string): string {
  if (text.trim() === "") throw new InvalidArgumentError("it is empty; leave the option out to mean all.");
  return text;
}

async function showStatistics(options: ClientOptions): Promise<number> {
  const { nodes, silent } = await withNode(options, QUESTION_TIMEOUT_MS, (channel, call) =>
    channel.client(CacheServiceDefinition).listStatistics({}, call),
  );
  const names = [...new Set(nodes.flatMap(({ levels }) => levels.map(({ level }) => level)))].sort();
  const totals = names.map((name) =>
    total(nodes.flatMap(({ levels }) => levels.filter(({ level }) => level === name))),
  );
  const sharedCalls = nodes.reduce((sum, node) => sum + node.sharedCalls, 0);
  if (options.json === true) {
    process.stdout.write(`${JSON.stringify({ nodes, totals, sharedCalls, silent }, null, 2)}\n`);
    return 0;
  }
  const head = ["level", "node", "entries", "size", "hits", "misses", "hit rate", "evictions", "failures"];
  const table = new Table({ head, style: { head: [], border: [] } });
  for (const [place, name] of names.entries()) {
    const rows = nodes.flatMap(({ node, levels }) =>
      levels.filter(({ level }) => level === name).map((level) => rowOf(node, level)),
    );
    table.push(...rows);
    if (rows.length > 1) table.push(rowOf("all", totals[place]!));
  }
  const shared = `${sharedCalls} ${sharedCalls === 1 ? "request was" : "requests were"} served by another one's call`;
  const missing = silent.map((node) => `node ${node} did not answer\n`).join("");
  process.stdout.write(
    `${names.length === 0 ? "no node has a level of the cache" : table.toString()}\n${shared}\n${missing}`,
  );
  return 0;
}

async function clear(options: ClearOptions): Promise<number> {
  const { tenant = "", model = "", cacheKey = "" } = options;
  const { entries } = await withNode(options, CLEAR_TIMEOUT_MS, (channel, call) =>
    channel.client(CacheServiceDefinition).invalidate({ tenant, model, key: cacheKey }, call),
  );
  const words = `${entries} ${entries === 1 ? "entry was" : "entries were"} taken out on the node that was asked; the others follow now`;
  process.stdout.write(options.json === true ? `${JSON.stringify({ entries })}\n` : `${words}\n`);
  return 0;
}

function total(levels: readonly LevelStatistics[]): LevelStatistics {
  const sum = (field: Exclude<keyof LevelStatistics, "level">): number =>
    levels.reduce((all, level) => all + level[field], 0);
  return {
    level: levels[0]!.level,
    hits: sum("hits"),
    misses: sum("misses"),
    entries: sum("entries"),
    bytes: sum("bytes"),
    evictions: sum("evictions"),
    failures: sum("failures"),
    entriesMax: sum("entriesMax"),
    bytesMax: sum("bytesMax"),
  };
}

function rowOf(node: string, { level, entries, bytes, hits, misses, evictions, failures, ...max }: LevelStatistics) {
  const asked = hits + misses;
  // A store of its own tells by itself what it holds.
  const bounded = max.bytesMax > 0;
  return [
    level,
    node,
    bounded ? `${entries} of ${max.entriesMax}` : "",
    bounded ? `${megabytes(bytes)} of ${megabytes(max.bytesMax)} MB` : "",
    hits,
    misses,
    asked === 0 ? "" : `${((100 * hits) / asked).toFixed(1)} %`,
    evictions,
    failures,
  ];
}

function megabytes(bytes: number): string {
  return (bytes / (1024 * 1024)).toFixed(1);
}
