/** The command `cortex`: starts nodes, and asks those that run. Output is for people, `--json` is for programs. */
import { readFileSync } from "node:fs";
import { Command, CommanderError, InvalidArgumentError, Option } from "commander";
import { ConfigurationError, type ServiceEntry, STRATEGY_NAMES, StartError } from "../host/index.ts";
import { type Reason, RpcError } from "../rpc/index.ts";
import { addCacheCommands } from "./cache.ts";
import { chat } from "./chat.ts";
import type { ClientOptions } from "./client.ts";
import { doctor } from "./doctor.ts";
import { type ExplainOptions, explainRouting } from "./explain.ts";
import { addHealthCommand } from "./health.ts";
import { addMetricsCommand } from "./metrics.ts";
import { run, StartInterrupted, up } from "./node.ts";
import { addTopCommand } from "./top.ts";
import { addWatchCommand } from "./watch.ts";
import { addWorkerCommands } from "./workers.ts";

/** Cortex's version, as package.json has it. */
export const VERSION = (
  JSON.parse(readFileSync(new URL("../../package.json", import.meta.url), "utf8")) as { version: string }
).version;

/** Runs one command line; returns the exit code. Every failure is told in words that help, on standard error. */
export async function runCommandLine(args: readonly string[], services: readonly ServiceEntry[]): Promise<number> {
  let exitCode = 0;
  // A reader that has gone is no reason to end with a stack; who writes much listens for it too, and stops.
  process.stdout.on("error", () => {});
  const program = new Command("cortex")
    .description("A gateway and routing mesh for large language models.")
    .version(VERSION)
    .showSuggestionAfterError()
    .showHelpAfterError("(cortex --help shows what there is)")
    .exitOverride();
  const config = new Option("--config <file>", "configuration file (default: cortex.yaml where it exists)");
  const json = new Option("--json", "print JSON for programs");
  const address = new Option(
    "--address <host:port>",
    "gRPC address of a node (default: 127.0.0.1:50051, or as HOST and CORTEX_GRPC_PORT say)",
  ).argParser(readAddress);
  const key = new Option("--key <key>", "client key").env("CORTEX_CLIENT_KEY");

  program
    .command("up")
    .description("run all services in one node, with a nats-server of its own unless CORTEX_NATS_URL names one")
    .addOption(config)
    .addOption(json)
    .action(async (options: { config?: string; json?: boolean }) => {
      exitCode = await up({ ...options, services, version: VERSION });
    });
  program
    .command("run")
    .description("run some services in one node of a mesh")
    .argument("<services...>", services.map(({ name }) => name).join(", "))
    .addOption(config)
    .addOption(json)
    .action(async (names: string[], options: { config?: string; json?: boolean }) => {
      exitCode = await run(names, { ...options, services, version: VERSION });
    });
  program
    .command("chat")
    .description("ask a model and watch the answer come")
    .argument("<prompt...>", "what to ask")
    .option("-m, --model <model>", "model, worker/model, route, or auto", "auto")
    .addOption(address)
    .addOption(key)
    .addOption(json)
    .action(async (prompt: string[], options: ClientOptions & { model: string }) => {
      exitCode = await chat(prompt.join(" "), options);
    });
  program
    .command("explain")
    .description("say how a prompt would be routed now, and why; no model is asked")
    .argument("<prompt...>", "what would be asked")
    .option("-m, --model <model>", "model, worker/model, route, or auto", "auto")
    .addOption(new Option("--strategy <strategy>", "instead of the configured one").choices(STRATEGY_NAMES))
    .option("--image <file>", "a picture that would go along; may be given several times", collect)
    .addOption(address)
    .addOption(key)
    .addOption(json)
    .action(async (prompt: string[], options: ExplainOptions) => {
      exitCode = await explainRouting(prompt.join(" "), options);
    });
  const common = (command: Command): Command => command.addOption(address).addOption(key).addOption(json);
  const ended = (code: number): void => {
    exitCode = code;
  };
  addWorkerCommands(program, common, ended);
  addCacheCommands(program, common, ended);
  addMetricsCommand(program, common, ended);
  addTopCommand(program, common, ended);
  addWatchCommand(program, common, ended);
  addHealthCommand(program, common, ended);
  program
    .command("doctor")
    .description("check this machine, the configuration and every worker, and say how to mend what is wrong")
    .addOption(config)
    .addOption(json)
    .action(async (options: { config?: string; json?: boolean }) => {
      exitCode = await doctor({ ...options, services });
    });

  try {
    await program.parseAsync([...args], { from: "user" });
  } catch (error) {
    return explain(error);
  }
  return exitCode;
}

function readAddress(text: string): string {
  const [, port] = /^[^/\s]+:(\d+)$/.exec(text) ?? [];
  if (port !== undefined && Number(port) >= 1 && Number(port) <= 65_535) return text;
  throw new InvalidArgumentError("It has to be host:port, such as 127.0.0.1:50051.");
}

function collect(value: string, values: readonly string[] = []): readonly string[] {
  return [...values, value];
}

/** What helps on the command line. */
const HINTS: Partial<Record<Reason, string>> = {
  NODE_UNREACHABLE:
    "Start a node with npm start, or name the one that runs: --address host:port, as it has printed after gRPC\n",
  ENDPOINT_NOT_FOUND: "That node does not run the service; name one that does: --address host:port\n",
  UNAUTHENTICATED: "Give the key with --key KEY or CORTEX_CLIENT_KEY\n",
  PERMISSION_DENIED: "Give an administrator's key with --key KEY or CORTEX_CLIENT_KEY\n",
  WORKER_NOT_FOUND: "cortex workers list shows which there are\n",
};

/** The exit code of a program that Ctrl-C has ended. */
const INTERRUPTED = 130;

function explain(error: unknown): number {
  if (error instanceof CommanderError) return error.exitCode;
  // What was being started would go on, and hold the process; nobody has been served by it yet.
  if (error instanceof StartInterrupted) process.exit(INTERRUPTED);
  if (error instanceof RpcError && error.reason === "CANCELLED") return INTERRUPTED;
  if (error instanceof ConfigurationError || error instanceof StartError) {
    process.stderr.write(`cortex: ${error.message}\n`);
  } else if (error instanceof RpcError) {
    // A node that answered is there: it is another one, or NATS, that could not be reached, and it has said so.
    const answered = error.reason === "NODE_UNREACHABLE" && !error.message.startsWith("the node at");
    process.stderr.write(`cortex: ${error.message} (${error.reason})\n${answered ? "" : (HINTS[error.reason] ?? "")}`);
  } else {
    process.stderr.write(`cortex: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}\n`);
  }
  return 1;
}
