/**
 * `npm run bench`: CPU per call and per streamed token of Cortex, of the bare pipe and of Portkey's gateway, as ratios,
 * in one run. See docs/benchmarks.md for the method.
 */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { benchCache, CACHE_HEADING } from "./cache.ts";
import { benchCacheMemory, CACHE_MEMORY_HEADING } from "./cache-memory.ts";
import { benchChoosing } from "./choosing.ts";
import { FULL, Generator, type Measurement, Meter, type Plan, QUICK } from "./measure.ts";
import { benchMetrics, METRICS_HEADING } from "./metrics.ts";
import { benchObserving, OBSERVING_HEADING } from "./observing.ts";
import { Processes } from "./processes.ts";
import { benchReading } from "./reading.ts";
import { document, machine, type Report, remarks, tables } from "./report.ts";
import { sectionsOf, withSection } from "./sections.ts";
import { summarize } from "./summary.ts";
import { KEYS, type Key, NAMES, portOf, startOwn, startTarget } from "./targets.ts";
import { cpuIsReadable, processTree, watchOthers } from "./usage.ts";

/** The whole run ends by then, however it stands; an npm install on first use included. */
const RUN_WITHIN_MS = 360_000;
/** What it costs to see everything takes about twelve minutes. */
const OBSERVING_WITHIN_MS = 1_200_000;
/** The metrics service's run takes ten minutes. */
const METRICS_WITHIN_MS = 900_000;
const METRICS_SECONDS = 600;
/** As many answers as that takes on a slow machine. */
const CACHE_MEMORY_WITHIN_MS = 1_800_000;
const CACHE_MEMORY_ANSWERS = 1_000_000;

const USAGE = `usage: npm run bench -- [--quick] [--targets ${KEYS.join(",")}] [--json FILE] | --reading | --choosing |
                         --cache | --cache-memory [--answers N] | --metrics [--seconds N] |
                         --observing

  --quick      fewer and shorter rounds (about 40 s instead of 4 min); docs/benchmarks.md is left as it is
  --targets    measure these only, beside the bare pipe; docs/benchmarks.md is left as it is
  --json FILE  also write everything measured, round by round
  --reading    only what reading an event of a stream costs, against JSON.parse of it; fails above 1.5 (8 s)
  --choosing   only what choosing among 1,000 workers costs; writes that section of docs/benchmarks.md, fails above 50 µs (30 s)
  --cache      only what a hit costs, and a thousand clients at once; writes that section of docs/benchmarks.md, fails when a hit
               costs more than the bare pipe's call (3 min)
  --cache-memory  only the memory of a cache through which a million answers go; writes that section of docs/benchmarks.md (10 min);
               with --answers fewer of them, and nothing is written
  --observing  only what it costs to see everything, against seeing nothing; writes that section of docs/benchmarks.md, fails above
               1.15 for a call and 1.05 for a token (5 min); with --quick nothing is written
  --metrics    only the metrics service: a thousand requests a second for ten minutes; writes that section of docs/benchmarks.md,
               fails when its memory grows, or it is not told what was sent; with --seconds for as long, and nothing is written`;

type Options = {
  reading: boolean;
  choosing: boolean;
  cache: boolean;
  cacheMemory: boolean;
  answers: number | undefined;
  metrics: boolean;
  observing: boolean;
  seconds: number | undefined;
  quick: boolean;
  targets: Key[];
  json: string | undefined;
};

function readOptions(): Options {
  const { values } = parseArgs({
    options: {
      quick: { type: "boolean", default: false },
      targets: { type: "string" },
      json: { type: "string" },
      reading: { type: "boolean", default: false },
      choosing: { type: "boolean", default: false },
      cache: { type: "boolean", default: false },
      "cache-memory": { type: "boolean", default: false },
      answers: { type: "string" },
      metrics: { type: "boolean", default: false },
      observing: { type: "boolean", default: false },
      seconds: { type: "string" },
      help: { type: "boolean", default: false },
    },
  });
  if (values.help) {
    console.log(USAGE);
    process.exit(0);
  }
  const chosen = values.targets?.split(",") ?? [...KEYS];
  const unknown = chosen.filter((key) => !KEYS.includes(key as Key));
  if (unknown.length > 0) throw new Error(`no such target: ${unknown.join(", ")}\n${USAGE}`);
  return {
    reading: values.reading,
    choosing: values.choosing,
    cache: values.cache,
    cacheMemory: values["cache-memory"],
    answers: values.answers === undefined ? undefined : Number(values.answers),
    metrics: values.metrics,
    observing: values.observing,
    seconds: values.seconds === undefined ? undefined : Number(values.seconds),
    quick: values.quick,
    targets: KEYS.filter((key) => key === "pipe" || chosen.includes(key)),
    json: values.json,
  };
}

function say(text: string): void {
  console.error(text);
}

type Outcome = {
  measurements: Measurement[];
  missing: string[];
  failed: string[];
  /** Share of the machine that processes outside the bench used during the rounds. */
  others: number;
};

/** One run over all targets; whoever calls it ends the processes. */
async function measure(targets: Key[], plan: Plan, around: { processes: Processes; folder: string }): Promise<Outcome> {
  const upstream = await startOwn(around.processes, "upstream");
  const generator = new Generator(await startOwn(around.processes, "load"));
  const upstreamPort = portOf(upstream);
  const outcome: Outcome = { measurements: [], missing: [], failed: [], others: 0 };
  let meters: Meter[] = [];

  for (const key of targets) {
    say(`starting ${NAMES[key]}`);
    try {
      const target = await startTarget(key, { ...around, upstream: `http://127.0.0.1:${upstreamPort}` });
      const meter = new Meter(target, generator, plan);
      await meter.untilUsable();
      meters.push(meter);
    } catch (error) {
      // The run goes on without a peer; without the bare pipe there is nothing to compare with.
      if (key === "pipe") throw error;
      outcome.missing.push(`${NAMES[key]}. ${(error as Error).message}`);
      say((error as Error).message);
    }
  }
  const each = async (order: Meter[], step: (meter: Meter) => Promise<void>): Promise<void> => {
    for (const meter of order) {
      try {
        await step(meter);
      } catch (error) {
        outcome.failed.push((error as Error).message);
        say((error as Error).message);
        meters = meters.filter((other) => other !== meter);
      }
    }
  };

  say("warming up");
  await each(meters, (meter) => meter.warmUp());
  await each(meters, (meter) => meter.memory(upstreamPort));
  const othersSince = watchOthers(processTree([process.pid]));
  for (let round = 0; round < plan.rounds; round++) {
    say(`round ${round + 1} of ${plan.rounds}`);
    await each(round % 2 === 0 ? meters : meters.toReversed(), (meter) => meter.round());
  }
  outcome.others = othersSince();
  outcome.measurements = meters.map(({ measurement }) => measurement);
  return outcome;
}

const DOCUMENT = fileURLToPath(new URL("../../docs/benchmarks.md", import.meta.url));

/** Today, as the document has it. */
function today(): string {
  return new Date().toISOString().slice(0, 10);
}

/** Prints and writes what was found; returns the exit code. */
function publish({ measurements, missing, failed, others }: Outcome, plan: Plan, options: Options): number {
  if (!measurements.some(({ key }) => key === "pipe")) {
    say("The bare pipe failed, so there is nothing to compare with.");
    return 1;
  }
  const report: Report = {
    date: today(),
    command: "npm run bench",
    plan,
    summaries: summarize(measurements),
    missing,
    others,
  };
  console.log(`\n${machine()}\n\n${tables(report)}\n`);
  for (const remark of remarks(report)) console.log(`- ${remark}`);
  if (options.json) {
    const everything = { machine: machine(), valid: failed.length === 0, failed, ...report, measurements };
    writeFileSync(options.json, `${JSON.stringify(everything, undefined, 2)}\n`);
  }
  if (failed.length > 0) {
    console.log(`\nThis run is INVALID:\n${failed.map((message) => `- ${message}`).join("\n")}`);
    return 1;
  }
  const cortexMissing = options.targets.some(
    (key) => (key === "one" || key === "three") && !measurements.some((one) => one.key === key),
  );
  if (!options.quick && options.targets.length === KEYS.length && !cortexMissing) {
    const kept = sectionsOf(readFileSync(DOCUMENT, "utf8"), [
      CACHE_HEADING,
      CACHE_MEMORY_HEADING,
      METRICS_HEADING,
      OBSERVING_HEADING,
    ]);
    writeFileSync(DOCUMENT, [benchChoosing(report.date).section, ...kept].reduce(withSection, document(report)));
    console.log("\nwritten: docs/benchmarks.md");
  }
  return cortexMissing ? 1 : 0;
}

/** What is measured of the cache alone; returns the exit code. */
async function benchCaches(options: Options, around: { processes: Processes; folder: string }): Promise<number> {
  const { cacheMemory, answers = CACHE_MEMORY_ANSWERS } = options;
  const { section, withinBudget } = cacheMemory
    ? await benchCacheMemory(around, { answers, date: today(), say })
    : await benchCache(around, today(), say);
  console.log(section);
  if (options.answers === undefined) writeFileSync(DOCUMENT, withSection(readFileSync(DOCUMENT, "utf8"), section));
  return withinBudget ? 0 : 1;
}

/** What is measured of the metrics service alone; returns the exit code. */
async function benchSummaries(options: Options, around: { processes: Processes; folder: string }): Promise<number> {
  const { seconds = METRICS_SECONDS } = options;
  const { section, withinBudget } = await benchMetrics(around, { seconds, date: today(), say });
  console.log(section);
  if (options.seconds === undefined) writeFileSync(DOCUMENT, withSection(readFileSync(DOCUMENT, "utf8"), section));
  return withinBudget ? 0 : 1;
}

/** What seeing everything costs; returns the exit code. */
async function benchSeeing(options: Options, around: { processes: Processes; folder: string }): Promise<number> {
  const { section, withinBudget } = await benchObserving(around, { date: today(), say, quick: options.quick });
  console.log(section);
  if (!options.quick) writeFileSync(DOCUMENT, withSection(readFileSync(DOCUMENT, "utf8"), section));
  return withinBudget ? 0 : 1;
}

function withinMsOf({ cacheMemory, metrics, observing }: Options): number {
  if (cacheMemory) return CACHE_MEMORY_WITHIN_MS;
  if (metrics) return METRICS_WITHIN_MS;
  return observing ? OBSERVING_WITHIN_MS : RUN_WITHIN_MS;
}

async function main(): Promise<void> {
  const options = readOptions();
  if (options.reading) {
    if (!(await benchReading((line) => console.log(line)))) process.exitCode = 1;
    return;
  }
  if (options.choosing) {
    const { section, withinBudget } = benchChoosing(today());
    console.log(section);
    writeFileSync(DOCUMENT, withSection(readFileSync(DOCUMENT, "utf8"), section));
    if (!withinBudget) process.exitCode = 1;
    return;
  }
  if (!cpuIsReadable())
    throw new Error(`unsupported on ${process.platform}: CPU per process is read from Linux' /proc`);
  const plan = options.quick ? QUICK : FULL;
  const folder = mkdtempSync(join(tmpdir(), "cortex-bench-"));
  const processes = new Processes(folder);

  let leaving: Promise<never> | undefined;
  const leave = (code: number): Promise<never> => {
    leaving ??= processes.endAll().finally(() => {
      rmSync(folder, { recursive: true, force: true });
      process.exit(code);
    }) as Promise<never>;
    return leaving;
  };
  process.on("SIGINT", () => void leave(130));
  process.on("SIGTERM", () => void leave(143));
  const withinMs = withinMsOf(options);
  setTimeout(() => {
    say(`given up after ${withinMs / 1_000} s`);
    void leave(1);
  }, withinMs).unref();

  try {
    if (options.observing) {
      await (leaving ?? leave(await benchSeeing(options, { processes, folder })));
      return;
    }
    if (options.metrics) {
      await (leaving ?? leave(await benchSummaries(options, { processes, folder })));
      return;
    }
    if (options.cache || options.cacheMemory) {
      await (leaving ?? leave(await benchCaches(options, { processes, folder })));
      return;
    }
    const outcome = await measure(options.targets, plan, { processes, folder });
    // While it is leaving, processes end under the measurement: what that says is not worth a report.
    await (leaving ?? leave(publish(outcome, plan, options)));
  } catch (error) {
    if (!leaving) say((error as Error).message);
    await leave(1);
  }
}

main().catch((error: unknown) => {
  console.error((error as Error).message);
  process.exit(1);
});
