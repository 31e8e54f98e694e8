/**
 * `npm run providers`: starts every simulated provider, as fast as the real one is, and writes a cortex.yaml with a worker for
 * each, so that the whole mesh can be tried without a key. Until it is interrupted.
 *
 *   npm run providers                                all of them
 *   npm run providers -- openai groq=status:429      these, the second with a behaviour (behaviour.ts has all of them)
 *   npm run providers -- ollama=pace:ollama-cpu      as slow as another
 *   npm run providers -- --fast --port 9500          as fast as can be, on the ports from 9500 on (0: free ones)
 */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, relative } from "node:path";
import { parseArgs } from "node:util";
import {
  BEHAVIOURS,
  type FlavorName,
  type PaceName,
  parseBehaviour,
  type Simulator,
  startAnthropicSimulator,
  startCohereSimulator,
  startGeminiSimulator,
  startGroqSimulator,
  startOllamaSimulator,
  startOpenAiSimulator,
} from "./index.ts";

interface Options {
  readonly port: number;
  readonly behaviour: string | undefined;
  readonly pace: PaceName | undefined;
}

interface Entry {
  readonly start: (options: Options) => Promise<Simulator>;
  readonly pace: PaceName;
  /** Of the worker's settings; the entry's own name when absent. */
  readonly provider?: string;
  readonly settings?: string;
}

function compatible(flavor: FlavorName, pace: PaceName, settings = ""): Entry {
  const start = (options: Options) => startOpenAiSimulator({ ...options, flavor });
  return { start, pace, provider: "openai", settings: `, options: { server: ${flavor} }${settings}` };
}

/** The place of each says its port. */
const ENTRIES: Readonly<Record<string, Entry>> = {
  openai: { start: startOpenAiSimulator, pace: "openai", settings: ", options: { server: openai }" },
  ollama: { start: startOllamaSimulator, pace: "ollama-gpu" },
  groq: { start: startGroqSimulator, pace: "groq" },
  gemini: { start: startGeminiSimulator, pace: "gemini" },
  cohere: { start: startCohereSimulator, pace: "cohere" },
  anthropic: { start: startAnthropicSimulator, pace: "anthropic" },
  azure: compatible("azure", "openai", ", models: [gpt-4o]"),
  mistral: compatible("mistral", "mistral"),
  deepseek: compatible("deepseek", "openai"),
  openrouter: compatible("openrouter", "openai"),
  vllm: compatible("vllm", "ollama-gpu"),
  "llama.cpp": compatible("llama.cpp", "ollama-cpu"),
};

const USAGE = `usage: npm run providers -- [--port FIRST] [--fast] [PROVIDER[=BEHAVIOUR[,…]] …]
providers: ${Object.keys(ENTRIES).join(", ")} (all when none is named)
behaviours: ${BEHAVIOURS.join(", ")}
  POINT is request, headers, or after how many tokens
`;

function readArguments(): {
  readonly port: number;
  readonly fast: boolean;
  readonly wanted: ReadonlyMap<string, string | undefined>;
} {
  const options = {
    port: { type: "string", default: "9101" },
    fast: { type: "boolean", default: false },
    help: { type: "boolean", short: "h", default: false },
  } as const;
  const { values, positionals } = parseArgs({ options, allowPositionals: true });
  if (values.help) {
    process.stdout.write(USAGE);
    process.exit();
  }
  const port = Number(values.port);
  if (!Number.isInteger(port) || port < 0 || port > 65_000) throw new Error(`${values.port} is no port`);
  const wanted = new Map<string, string | undefined>();
  for (const positional of positionals) {
    const [name = "", behaviour] = positional.split(/=(.*)/s);
    if (!Object.hasOwn(ENTRIES, name)) throw new Error(`there is no provider ${name}`);
    // A mistake in it shows at once.
    parseBehaviour(behaviour ?? "");
    wanted.set(name, behaviour);
  }
  const all = Object.keys(ENTRIES).map((name): [string, undefined] => [name, undefined]);
  return { port, fast: values.fast, wanted: wanted.size > 0 ? wanted : new Map(all) };
}

/** A worker of cortex.yaml; two keys, so that one can rest. */
function workerLine(name: string, { provider = name, settings = "" }: Entry, url: string): string {
  // A worker's name has no dots.
  const worker = name.replaceAll(".", "-");
  const keys = name === "ollama" ? "" : `, keys: [${worker}-key-1, ${worker}-key-2]`;
  return `  - { name: ${worker}, provider: ${provider}, baseUrl: "${url}"${keys}${settings} }`;
}

async function startAll({ port, fast, wanted }: ReturnType<typeof readArguments>): Promise<void> {
  const simulators: Simulator[] = [];
  const lines: string[] = [];
  for (const [index, [name, entry]] of Object.entries(ENTRIES).entries()) {
    if (!wanted.has(name)) continue;
    const pace = fast ? undefined : entry.pace;
    const simulator = await entry.start({ port: port === 0 ? 0 : port + index, behaviour: wanted.get(name), pace });
    simulators.push(simulator);
    lines.push(workerLine(name, entry, simulator.url));
    process.stdout.write(`${name.padEnd(11)} ${simulator.url.padEnd(34)} ${pace ?? "no pace"}\n`);
  }
  const folder = mkdtempSync(join(tmpdir(), "cortex-providers-"));
  let ending = false;
  const end = (): void => {
    // A Ctrl-C comes twice: from the terminal, and from npm.
    if (ending) return;
    ending = true;
    rmSync(folder, { recursive: true, force: true });
    void Promise.all(simulators.map((simulator) => simulator.stop())).then(() => process.exit());
  };
  process.on("SIGINT", end);
  process.on("SIGTERM", end);
  const file = join(folder, "cortex.yaml");
  // Whoever plays with providers asks the same again and again, and wants to see what they do.
  const yaml = `workers:\n${lines.join("\n")}\ncache: { enabled: false }\n`;
  writeFileSync(file, yaml);
  const shown = relative(process.cwd(), file).startsWith("..") ? file : relative(process.cwd(), file);
  process.stdout.write(`\n${yaml}\nThat is in ${shown}. In another terminal:\n\n`);
  process.stdout.write(`  npm start -- --config ${shown}\n\nCtrl-C ends the providers.\n`);
}

try {
  await startAll(readArguments());
} catch (error) {
  process.stderr.write(`${(error as Error).message}\n${USAGE}`);
  process.exit(2);
}
