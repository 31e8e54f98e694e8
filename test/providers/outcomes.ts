/** What a worker makes of each failure of its provider, found by letting the simulated provider fail. */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { createHttpWorker, type Worker } from "../../libs/adapter/index.ts";
import { CompletionRequest, Role } from "../../libs/gen/cortex/llm/v1/llm.ts";
import { KeyState, type WorkerInfo } from "../../libs/gen/cortex/provider/v1/provider.ts";
import { CATALOGUE, type ErrorClass, type Reason, RpcError, startCall } from "../../libs/rpc/index.ts";
import { createLogger, NO_TRACE, silentTracer } from "../../libs/telemetry/index.ts";
import {
  type Behaviour,
  type BehaviourLike,
  parseBehaviour,
  type Simulator,
  startOllamaSimulator,
  unusedPort,
} from "../fakes/index.ts";
import type { Subject } from "./subjects.ts";

/** What came of one request whose provider failed, with two keys. */
export interface Outcome {
  readonly failure: string;
  /** Undefined when it was served all the same. */
  readonly reason: Reason | undefined;
  readonly class: ErrorClass | undefined;
  /** Content had come, so nobody can take over. */
  readonly begun: boolean;
  /** The request went to the provider a second time, with the other key. */
  readonly nextKey: boolean;
  /** What became of the keys that were used; empty when nothing did. */
  readonly keys: string;
  readonly breaker: boolean;
}

interface Failure {
  readonly name: string;
  readonly behaviour?: BehaviourLike | undefined;
  readonly connection?: "refused" | "reset";
  readonly whole?: boolean;
  /** The provider falls silent: this time-out is short. */
  readonly silent?: "firstTokenMs" | "stallMs";
}

/** Rests are told to the second, so the clock stands still. */
const NOW_MS = 1_764_000_000_000;
/** Long enough for what comes to come. */
const SILENCE_MS = 500;
const KEYS = ["first-key", "second-key"] as const;
const PAGE = "<html><body><h1>It works!</h1></body></html>";

const FAILURES: readonly Failure[] = [
  { name: "connection refused", connection: "refused" },
  { name: "connection reset", connection: "reset" },
  { name: "closed without an answer", behaviour: "cut" },
  { name: "something that is no HTTP", behaviour: "garbage" },
  { name: "silence", behaviour: "stall", silent: "firstTokenMs" },
  { name: "silence after the headers", behaviour: "stall:headers", silent: "firstTokenMs" },
  { name: "silence in mid-stream", behaviour: "stall:2", silent: "stallMs" },
  { name: "400", behaviour: "status:400" },
  { name: "401", behaviour: "status:401" },
  { name: "403", behaviour: "status:403" },
  { name: "404", behaviour: "status:404" },
  { name: "408", behaviour: "status:408" },
  { name: "413", behaviour: "status:413" },
  { name: "429", behaviour: "status:429" },
  { name: "429, wait 7 s", behaviour: "status:429,retryAfter:7" },
  { name: "500", behaviour: "status:500" },
  { name: "502, HTML of a proxy", behaviour: "status:502,html" },
  { name: "503", behaviour: "status:503" },
  { name: "529", behaviour: "status:529" },
  { name: "200, empty", behaviour: "end:headers" },
  { name: "200, HTML", behaviour: { status: 200, headers: { "content-type": "text/html" }, body: PAGE } },
  { name: "error inside the 200, first", behaviour: "error:0" },
  { name: "error inside the 200, in mid-stream", behaviour: "error:2" },
  { name: "malformed, first", behaviour: "malformed:0" },
  { name: "malformed, in mid-stream", behaviour: "malformed:2" },
  { name: "cut before the first token", behaviour: "cut:0" },
  { name: "cut in mid-stream", behaviour: "cut:2" },
  { name: "ended in mid-stream as if whole", behaviour: "end:2" },
  { name: "whole answer: 200, empty", behaviour: "end:headers", whole: true },
  { name: "whole answer: cut", behaviour: "cut:1", whole: true },
  { name: "whole answer: malformed", behaviour: "malformed:1", whole: true },
];

/** What comes of every failure that a provider may have, each met by a worker that has seen none before. */
export async function outcomesOf(subject: Subject): Promise<Outcome[]> {
  const simulator = await subject.start();
  return observeAll(subject, simulator, FAILURES);
}

/** The same of the errors in its fixtures, in the provider's own words. */
export async function errorsOf(subject: Subject): Promise<Outcome[]> {
  const files = readdirSync(subject.fixtures);
  const errors = files.flatMap((file) => /^(.*\.error\.\d+)\.(?:json|html|txt)$/.exec(file)?.[1] ?? []);
  const failures = errors.map((error) => ({ name: nameOf(error), behaviour: behaviourOf(subject, error) }));
  failures.sort((a, b) => (a.name < b.name ? -1 : 1));
  // It adds no headers of its own to what it is told to send.
  const simulator = await startOllamaSimulator();
  return observeAll(subject, simulator, failures);
}

/** How the fixture of an error is told of: `quota.error.429` as `429 quota`. */
export function nameOf(error: string): string {
  return error.replace(/^(.*)\.error\.(\d+)$/, "$2 $1");
}

function behaviourOf({ fixtures }: Subject, error: string): Behaviour {
  const path = (end: string) => join(fixtures, `${error}.${end}`);
  const end = ["json", "html", "txt"].find((each) => existsSync(path(each)))!;
  const headers = existsSync(path("headers.json")) ? JSON.parse(readFileSync(path("headers.json"), "utf8")) : {};
  const type = { json: "application/json", html: "text/html", txt: "text/plain" }[end]!;
  return {
    status: Number(/\d+$/.exec(error)![0]),
    headers: { "content-type": type, ...headers },
    body: readFileSync(path(end), "utf8"),
  };
}

async function observeAll(subject: Subject, simulator: Simulator, failures: readonly Failure[]): Promise<Outcome[]> {
  const outcomes: Outcome[] = [];
  try {
    for (const failure of failures) outcomes.push(await observe(subject, simulator, failure));
  } finally {
    await simulator.stop();
  }
  return outcomes;
}

async function observe(subject: Subject, simulator: Simulator, failure: Failure): Promise<Outcome> {
  const behaviour = failure.behaviour === undefined ? undefined : parseBehaviour(failure.behaviour);
  simulator.behave(behaviour === undefined ? undefined : { tokens: 6, ...behaviour });
  simulator.accept = failure.connection === "reset" ? "reset" : "serve";
  const before = simulator.generations.length;
  const baseUrl = failure.connection === "refused" ? `http://127.0.0.1:${await unusedPort()}` : simulator.url;
  const worker = createWorker(subject, baseUrl, failure.silent);
  try {
    const { error, begun } = await ask(worker, subject.model, failure.whole === true);
    const info = worker.info();
    return {
      failure: failure.name,
      reason: error?.reason,
      class: error && CATALOGUE[error.reason].class,
      begun,
      nextKey: simulator.generations.length - before > 1,
      keys: toldKeys(info),
      breaker: (info.breakerStatistics?.failures ?? 0) > 0,
    };
  } finally {
    await worker.close();
  }
}

function createWorker({ dialect }: Subject, baseUrl: string, silent: Failure["silent"]): Worker {
  const { provider } = dialect;
  const timeouts = silent && { [silent]: SILENCE_MS };
  const destination = { write: () => {} };
  return createHttpWorker(
    dialect,
    { name: provider, provider, baseUrl, keys: KEYS, models: [], timeouts },
    {
      tracer: silentTracer,
      log: createLogger({ level: "fatal", readable: false, node: "node", destination }),
      clock: () => NOW_MS,
      closeWaitMs: 0,
    },
  );
}

async function ask(
  worker: Worker,
  model: string,
  whole: boolean,
): Promise<{ readonly error: RpcError | undefined; readonly begun: boolean }> {
  const request = CompletionRequest.fromPartial({
    model,
    messages: [{ role: Role.USER, content: [{ part: { $case: "text", value: "Hello!" } }] }],
  });
  const call = startCall({ tenant: "", requestId: "request", trace: NO_TRACE });
  let begun = false;
  try {
    if (whole) await worker.complete(request, call);
    else {
      for await (const { parts } of worker.stream(request, call)) {
        begun ||= parts.some(({ part }) => part?.$case === "text" && part.value.text !== "");
      }
    }
    return { error: undefined, begun };
  } catch (thrown) {
    return { error: RpcError.from(thrown), begun };
  } finally {
    call.finish();
  }
}

function toldKeys({ keys }: WorkerInfo): string {
  const told = keys.map(({ state, restingUntilMs }) => {
    if (state === KeyState.OUT) return "out";
    return state === KeyState.RESTING ? `rests ${duration(restingUntilMs - NOW_MS)}` : "";
  });
  return [...new Set(told)].filter((each) => each !== "").join(", ");
}

function duration(ms: number): string {
  const seconds = Math.round(ms / 1_000);
  if (seconds < 120) return `${seconds} s`;
  return seconds < 7_200 ? `${Math.round(seconds / 60)} min` : `${Math.round(seconds / 3_600)} h`;
}
