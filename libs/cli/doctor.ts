/** `cortex doctor`: checks what Cortex needs, one thing after the other, and says how to mend each that is wrong. */
import { execFileSync } from "node:child_process";
import { connect as connectSocket, createServer } from "node:net";
import { Health } from "../gen/cortex/provider/v1/provider.ts";
import {
  type Configuration,
  ConfigurationError,
  loadConfiguration,
  resolveNatsServer,
  type ServiceEntry,
} from "../host/index.ts";
import { RpcError, startCall } from "../rpc/index.ts";
import { createLogger, NO_TRACE, silentTracer } from "../telemetry/index.ts";
import { providersOf, withDemonstration } from "./node.ts";

/** What one check has found. `warning` does not make the exit code 1. */
interface Finding {
  readonly check: string;
  readonly result: "ok" | "warning" | "wrong";
  readonly message: string;
  /** How to mend it; empty when there is nothing to mend. */
  readonly remedy: string;
}

const NODE_MAJOR_MIN = 24;
/** Each client and each stream to a provider takes a descriptor. */
const DESCRIPTORS_WANTED = 10_000;
const DIAL_TIMEOUT_MS = 2_000;
const WORKER_TIMEOUT_MS = 5_000;

/** Runs every check. The exit code is 1 when something is wrong. */
export async function doctor(options: {
  readonly config?: string | undefined;
  readonly json?: boolean | undefined;
  readonly services: readonly ServiceEntry[];
}): Promise<number> {
  const findings = [checkNode(), checkDescriptors()];
  const configuration = readConfiguration(options, findings);
  if (configuration !== undefined) {
    const workers = Promise.all(configuration.workers.map((worker) => checkWorker(worker, options.services)));
    findings.push(await checkNats(configuration));
    findings.push(await checkPort("REST port", "PORT", configuration.host, configuration.restPort));
    findings.push(await checkPort("gRPC port", "CORTEX_GRPC_PORT", configuration.host, configuration.grpcPort));
    findings.push(...(await workers));
  }
  if (options.json === true) process.stdout.write(`${JSON.stringify(findings, null, 2)}\n`);
  else for (const finding of findings) process.stdout.write(lineOf(finding));
  return findings.some(({ result }) => result === "wrong") ? 1 : 0;
}

const MARKS = { ok: "✓", warning: "!", wrong: "✗" } as const;

function lineOf({ check, result, message, remedy }: Finding): string {
  return `${MARKS[result]} ${check}: ${message}\n${remedy === "" ? "" : `    → ${remedy.replaceAll("\n", "\n      ")}\n`}`;
}

function checkNode(): Finding {
  const { node } = process.versions;
  if (Number(node.split(".")[0]) >= NODE_MAJOR_MIN)
    return { check: "Node", result: "ok", message: `v${node}`, remedy: "" };
  const remedy = "start Cortex through npm (npm start, npm run cortex), which uses the Node that the project brings";
  return {
    check: "Node",
    result: "wrong",
    message: `v${node} is too old; ${NODE_MAJOR_MIN} or later is needed`,
    remedy,
  };
}

function checkDescriptors(): Finding {
  const check = "file descriptors";
  let limit: string;
  try {
    limit = execFileSync("/bin/sh", ["-c", "ulimit -n"], { encoding: "utf8" }).trim();
  } catch {
    return { check, result: "warning", message: "the limit could not be read", remedy: "" };
  }
  if (limit === "unlimited" || Number(limit) >= DESCRIPTORS_WANTED)
    return { check, result: "ok", message: limit, remedy: "" };
  const message = `at most ${limit}, which is about ${Math.floor(Number(limit) / 2)} streams at once`;
  return {
    check,
    result: "warning",
    message,
    remedy: `ulimit -n ${DESCRIPTORS_WANTED * 2} in the shell that starts Cortex`,
  };
}

function readConfiguration(
  { config, services }: { readonly config?: string | undefined; readonly services: readonly ServiceEntry[] },
  findings: Finding[],
): Configuration | undefined {
  const check = "configuration";
  try {
    const loaded = loadConfiguration({ file: config, providers: providersOf(services) });
    const source = {
      file: "it",
      environment: "provider keys in the environment",
      nothing: "the defaults",
    };
    const message = `${loaded.file ?? "no file"}; workers from ${source[loaded.workersFrom]}`;
    findings.push({ check, result: "ok", message, remedy: "" });
    return loaded.workersFrom === "nothing" ? withDemonstration(loaded) : loaded;
  } catch (error) {
    if (!(error instanceof ConfigurationError)) throw error;
    findings.push({
      check,
      result: "wrong",
      message: error.message,
      remedy: "correct it; docs/configuration.md describes each field",
    });
    return undefined;
  }
}

async function checkNats({ natsUrl, natsBin, path, cacheDir }: Configuration): Promise<Finding> {
  const check = "NATS";
  if (natsUrl === undefined) {
    try {
      const bin = await resolveNatsServer({ bin: natsBin, path, cacheDir, install: false, notify: () => {} });
      return { check, result: "ok", message: `cortex up will run ${bin}`, remedy: "" };
    } catch (error) {
      return { check, result: "wrong", message: "no nats-server was found", remedy: (error as Error).message };
    }
  }
  const [first = natsUrl] = natsUrl.split(",");
  const address = first.includes("://") ? first : `nats://${first}`;
  if (!URL.canParse(address)) {
    return { check, result: "wrong", message: "CORTEX_NATS_URL is no address", remedy: "write it as nats://host:4222" };
  }
  const { hostname, port } = new URL(address);
  if (await answers(hostname, Number(port || 4222))) {
    return { check, result: "ok", message: `${hostname}:${port || 4222} answers`, remedy: "" };
  }
  const remedy = "start that NATS, or correct CORTEX_NATS_URL, or unset it to have cortex up run one of its own";
  return { check, result: "wrong", message: `${hostname}:${port || 4222} does not answer`, remedy };
}

function answers(host: string, port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connectSocket({ host, port, timeout: DIAL_TIMEOUT_MS });
    const end = (answered: boolean) => {
      socket.destroy();
      resolve(answered);
    };
    socket.once("connect", () => end(true));
    socket.once("error", () => end(false));
    socket.once("timeout", () => end(false));
  });
}

function checkPort(check: string, variable: string, host: string, port: number): Promise<Finding> {
  return new Promise((resolve) => {
    const server = createServer();
    server.once("error", (error: NodeJS.ErrnoException) => {
      const taken = error.code === "EADDRINUSE";
      resolve({
        check,
        result: taken ? "warning" : "wrong",
        message: taken ? `${port} on ${host} is taken, by a Cortex that runs or by another program` : error.message,
        remedy: taken
          ? `if it is not Cortex: stop that program, or choose another port with ${variable}`
          : `correct HOST or ${variable}`,
      });
    });
    server.listen({ host, port }, () => {
      server.close(() => resolve({ check, result: "ok", message: `${port} on ${host} is free`, remedy: "" }));
    });
  });
}

/** Asks the worker's provider, as the adapter would. A worker that is down is a warning: others may serve. */
async function checkWorker(
  settings: Configuration["workers"][number],
  services: readonly ServiceEntry[],
): Promise<Finding> {
  const check = `worker ${settings.name}`;
  const adapter = services.find((service) => service.adapter?.provider === settings.provider)!.adapter!;
  const log = createLogger({ level: "silent", readable: false, node: "doctor" });
  let worker: ReturnType<typeof adapter.createWorker>;
  try {
    worker = adapter.createWorker(settings, { log, tracer: silentTracer });
  } catch (error) {
    const remedy = "correct its settings; docs/configuration.md describes each field";
    return { check, result: "wrong", message: RpcError.from(error).message, remedy };
  }
  const deadlineAtMs = Date.now() + WORKER_TIMEOUT_MS;
  const call = startCall({ tenant: "", requestId: "doctor", trace: NO_TRACE, deadlineAtMs });
  try {
    const { health, message } = await worker.checkHealth(call);
    const { baseUrl, models, simulated } = worker.info();
    if (health === Health.AVAILABLE) {
      const what = simulated
        ? "a simulation"
        : `${baseUrl} answers; ${models.length} ${models.length === 1 ? "model" : "models"}`;
      return { check, result: "ok", message: what, remedy: "" };
    }
    const remedy = `check that its server runs, that this machine reaches ${baseUrl}, and its keys (${settings.keys.length} configured)`;
    // What to do is said below, in words for the one who reads this.
    const [trouble = message] = message.split(" Operators:");
    return { check, result: "warning", message: trouble, remedy };
  } catch (error) {
    const message = RpcError.from(error).message;
    return { check, result: "warning", message, remedy: "check that its server runs and answers" };
  } finally {
    call.finish();
    await worker.close();
  }
}
