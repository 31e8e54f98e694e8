/**
 * `npm run bench -- --cache-memory`: a million answers that are all different, through a first level of 100 MB and a second one
 * of 500 MB in one process. The bounds hold, and the resident memory levels off.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { CacheServiceDefinition, type LevelStatistics } from "../../libs/gen/cortex/cache/v1/cache.ts";
import { ask } from "../mesh.ts";
import type { CallsJob } from "./load.ts";
import { Generator } from "./measure.ts";
import { machine, table } from "./report.ts";
import { portOf, type Surroundings, startCortex, startOwn } from "./targets.ts";
import { processTree, residentBytes } from "./usage.ts";

export const CACHE_MEMORY_HEADING = "## The cache's memory";

const MB = 1024 * 1024;
const CACHE = {
  enabled: true,
  l1: { entries: 1_000_000, bytes: 100 * MB },
  l2: { entries: 1_000_000, bytes: 500 * MB },
};
const SAMPLES = 20;
/** In the second half of the run, by when both levels are full, the resident memory grows by no more than this share. */
const GROWTH_MAX = 0.1;

interface Sample {
  readonly answers: number;
  readonly residentBytes: number;
  readonly levels: readonly LevelStatistics[];
}

/** Runs it. Whoever calls it ends the processes. */
export async function benchCacheMemory(
  { processes, folder }: Pick<Surroundings, "processes" | "folder">,
  { answers, date, say }: { readonly answers: number; readonly date: string; readonly say: (line: string) => void },
): Promise<{ readonly section: string; readonly withinBudget: boolean }> {
  const upstream = await startOwn(processes, "upstream");
  const generator = new Generator(await startOwn(processes, "load"));
  const around = { processes, folder, upstream: `http://127.0.0.1:${portOf(upstream)}` };
  const node = await startCortex(around, ["up"], { cache: CACHE });
  const door = { port: portOf(node), headers: {} };
  // nats-server, a process of its own, is not the cache's memory.
  const measured = [{ pid: node.child.pid!, name: "cortex" }];

  async function sample(asked: number): Promise<Sample> {
    const { levels } = await ask(node.ready.grpc!, (channel, call) =>
      channel.client(CacheServiceDefinition).getStatistics({}, call),
    );
    return { answers: asked, residentBytes: residentBytes(measured), levels };
  }

  const job: CallsJob = {
    kind: "calls",
    door,
    processes: processTree([node.child.pid!]),
    concurrency: 16,
    forMs: 1_000,
  };
  await sleep(1_000);
  const samples: Sample[] = [];
  let asked = 0;
  while (asked < answers) {
    const { result, failures } = await generator.do(job);
    if (failures.length > 0) throw new Error(`${failures.length} failed, first: ${failures[0]}`);
    asked += result.calls;
    if (asked < ((samples.length + 1) * answers) / SAMPLES) continue;
    const taken = await sample(asked);
    samples.push(taken);
    say(`${asked} answers, ${(taken.residentBytes / MB).toFixed(0)} MB`);
  }
  return report(samples, date);
}

function report(
  samples: readonly Sample[],
  date: string,
): { readonly section: string; readonly withinBudget: boolean } {
  const mb = (bytes: number) => (bytes / MB).toFixed(0);
  const cells = samples.map(({ answers, residentBytes: resident, levels }) => {
    const of = (name: string) => levels.find(({ level }) => level === name);
    const cellsOf = (name: string) => [
      mb(of(name)?.bytes ?? 0),
      String(of(name)?.entries ?? 0),
      String(of(name)?.evictions ?? 0),
    ];
    return [String(answers), mb(resident), ...cellsOf("l1"), ...cellsOf("l2")];
  });
  const half = samples.slice(samples.length >> 1).map((one) => one.residentBytes);
  const growth = Math.max(...half) / half[0]! - 1;
  const bounded = samples.every(({ levels }) =>
    levels.every((level) => level.bytes <= level.bytesMax && level.entries <= level.entriesMax),
  );
  const head = ["answers", "resident MB", "L1 MB", "entries", "evicted", "L2 MB", "entries", "evicted"];
  const verdict = bounded ? "Both bounds held at every look." : "A bound did NOT hold.";
  const section = `${CACHE_MEMORY_HEADING}

Written by \`npm run bench -- --cache-memory\` on ${date}. Machine: ${machine()}.

${table(head, cells)}

- All answers are different, and come over HTTP from the fake provider through one process (\`cortex up\`) with a first level of ${mb(CACHE.l1.bytes)} MB and a
  second one of ${mb(CACHE.l2.bytes)} MB, bounded by bytes alone. "Resident" is all of the process, the code and the heap's reserve included.
- ${verdict} In the second half of the run the resident memory grew by ${(growth * 100).toFixed(1)} % at most (budget: ${GROWTH_MAX * 100} %).
`;
  return { section, withinBudget: bounded && growth <= GROWTH_MAX };
}
