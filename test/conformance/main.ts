/** `npm run conformance`: what clients see when providers fail, behind Cortex or behind another gateway. See docs/conformance.md. */
import { writeFile } from "node:fs/promises";
import { createInterface } from "node:readline/promises";
import { parseArgs } from "node:util";
import { conformanceDocument } from "./document.ts";
import { cortexConfiguration, GATEWAYS, type Gateway, type GatewayKey, gatewayAt, startGateway } from "./gateways.ts";
import { type Column, table, totals } from "./report.ts";
import { startRun } from "./run.ts";
import { SCENARIOS } from "./scenarios.ts";
import { SETTINGS, type StagePlan } from "./stage.ts";

const USAGE = `usage: npm run conformance [-- --shape one|many|both] [--against portkey|pipe|URL …] [--only TEXT] [--json FILE]

  --shape     Cortex in one node, in many nodes, or one after the other (default)
  --against   another gateway instead: Portkey's from npm, a pipe to the first provider alone, or one that runs at URL;
              for a URL the providers listen from --port on, and what the gateway has to know of them is printed
  --only      the scenarios whose name contains this
  --port      where the providers' ports begin; 9400 with a URL, else free ones
  --json      also write everything that was seen to a file
  --document  write docs/conformance.md: Cortex in both shapes, Portkey and no gateway, side by side
  --list      print the scenarios and what a client must see, and end
`;

const DOCUMENT = new URL("../../docs/conformance.md", import.meta.url);

const options = {
  shape: { type: "string", default: "both" },
  against: { type: "string", multiple: true, default: [] as string[] },
  only: { type: "string", default: "" },
  port: { type: "string" },
  json: { type: "string" },
  document: { type: "boolean", default: false },
  list: { type: "boolean", default: false },
  help: { type: "boolean", default: false },
} as const;

function say(text: string): void {
  process.stderr.write(`${text}\n`);
}

/** A gateway that its operator sets up: says what of, and waits. */
async function waitForOperator(url: string, stages: readonly StagePlan[]): Promise<Gateway> {
  process.stdout.write(`${JSON.stringify({ settings: SETTINGS, stages }, undefined, 2)}\n`);
  say(
    "\nThese are the providers: OpenAI-compatible, any key will do. Each model has its own, to be asked in this order.",
  );
  say(`For a Cortex the same as cortex.yaml:\n\n${cortexConfiguration(stages)}`);
  const reader = createInterface({ input: process.stdin, output: process.stderr });
  await reader.question(`Press Enter when the gateway at ${url} knows them: `);
  reader.close();
  return gatewayAt(url);
}

async function main(): Promise<number> {
  const { values } = parseArgs({ options });
  const scenarios = SCENARIOS.filter(({ name }) => name.includes(values.only));
  if (values.help) {
    process.stdout.write(USAGE);
    return 0;
  }
  if (scenarios.length === 0) throw new Error(`no scenario is called ${values.only}`);
  if (values.list) {
    for (const { name, must } of scenarios) process.stdout.write(`${name}\n    ${must}\n`);
    return 0;
  }
  const columns: Column[] = [];
  let failed = false;
  for (const target of values.document ? Object.keys(GATEWAYS) : targets(values.shape, values.against)) {
    const own = target in GATEWAYS;
    const port = Number(values.port ?? (own ? 0 : 9400));
    const startedAtMs = performance.now();
    const run = await startRun({
      scenarios,
      port,
      start: (stages) => (own ? startGateway(target as GatewayKey, stages) : waitForOperator(target, stages)),
      onResult: ({ name, passed }) => say(`${passed ? "pass" : "FAIL"}  ${name}`),
    });
    try {
      const column = { gateway: run.gateway, results: await run.results };
      columns.push(column);
      process.stdout.write(`\n${table(column)}`);
      say(`${((performance.now() - startedAtMs) / 1000).toFixed(0)} s`);
      // What others do is for the reader to judge.
      if (target === "one" || target === "many") failed ||= column.results.some(({ passed }) => !passed);
    } finally {
      await run.stop();
    }
  }
  if (values.document) await writeFile(DOCUMENT, conformanceDocument(columns, new Date().toISOString().slice(0, 10)));
  if (values.json !== undefined) await writeFile(values.json, `${JSON.stringify(columns, undefined, 2)}\n`);
  for (const column of columns) say(`${column.gateway}: ${totals(column)}`);
  return failed ? 1 : 0;
}

function targets(shape: string, against: readonly string[]): readonly string[] {
  for (const target of against) {
    if (!["portkey", "pipe"].includes(target) && !URL.canParse(target))
      throw new Error(`${target} is no gateway\n${USAGE}`);
  }
  if (against.length > 0) return against;
  if (shape === "both") return ["one", "many"];
  if (shape === "one" || shape === "many") return [shape];
  throw new Error(`there is no shape ${shape}\n${USAGE}`);
}

try {
  process.exitCode = await main();
} catch (error) {
  say((error as Error).message);
  process.exitCode = 2;
}
