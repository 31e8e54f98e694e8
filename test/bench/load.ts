/**
 * The load generator, a process of its own. It does one job at a time on message, checks every answer, and reads the
 * CPU counters of the measured processes itself, at the very edges of what it counts.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { callChecked, type Door, streamChecked } from "./checked.ts";
import { Connection, post } from "./client.ts";
import { COUNT_PATH, RELEASE_PATH, type Wish } from "./exchange.ts";
import { endWithParent } from "./processes.ts";
import { countCpu, type Process, residentBytes } from "./usage.ts";

/** Work that a process does shortly after its last answer belongs to the calls counted. */
const SETTLE_MS = 60;
/** After the last stream has started: what had to wait meanwhile is caught up before tokens are counted. */
const STEADY_AFTER_MS = 300;
const CALL_TOKENS = 20;
/** A job gives up after so many failures: the run is invalid by then. */
const MAX_FAILURES = 20;
/** Held streams are opened by so many at a time: slow enough to stress nobody, fast enough to end. */
const OPENED_AT_ONCE = 32;
/** After opening them, before the look at the memory. */
const QUIET_MS = 1_000;

type Measured = { door: Door; processes: Process[] };

export type CallsJob = Measured & {
  kind: "calls";
  concurrency: number;
  forMs: number;
  /** The answers are streamed, without a pause between their tokens. */
  stream?: boolean;
  /** All ask the same, each time. */
  same?: boolean;
};
export type TokensJob = Measured & {
  kind: "tokens";
  streams: number;
  everyMs: number;
  /** Streams start at random moments within it. */
  rampMs: number;
  /** Tokens and CPU are counted in it, while all streams run: the cost of opening and ending is left out. */
  windowMs: number;
};
export type MemoryJob = Measured & {
  kind: "memory";
  /** Open before the first look: opening them also clears away what earlier work has left in the heap. */
  base: number;
  streams: number;
  upstreamPort: number;
};
/** All ask the same at the same moment, in turn at each door, and stream the answer. */
export type CrowdJob = {
  kind: "crowd";
  doors: Door[];
  clients: number;
  tokens: number;
  everyMs: number;
  /** Before the first token: by then all have asked. */
  firstMs: number;
  upstreamPort: number;
};
export type Job = CallsJob | TokensJob | MemoryJob | CrowdJob;

/** `cpuUs` is per process, in the order given. */
export type CallsResult = { calls: number; cpuUs: number[]; latenciesMs: number[] };
export type TokensResult = {
  tokens: number;
  /** What the upstream sends in the window when nothing is late. */
  expected: number;
  /** Reads of a socket that brought tokens: fewer than tokens when some arrived together. */
  reads: number;
  cpuUs: number[];
  firstTokensMs: number[];
};
export type MemoryResult = { bytesPerStream: number };
/** `calls` of the upstream; times of each client since the first of all first tokens. */
export type CrowdResult = { calls: number; firstTokensMs: number[]; endsMs: number[] };
export type Outcome<Result> = { result: Result; failures: string[] };

/** Counts what went wrong; the messages are the answer to "what?", their number to "is this run valid?". */
class Failures {
  readonly messages: string[] = [];

  get tooMany(): boolean {
    return this.messages.length >= MAX_FAILURES;
  }

  async guard(work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } catch (error) {
      this.messages.push((error as Error).message);
    }
  }
}

let wishes = 0;
function nextWish(fields: Partial<Wish> = {}): Wish {
  wishes++;
  return { id: wishes.toString(36), tokens: CALL_TOKENS, everyMs: 0, hold: false, firstMs: 0, ...fields };
}

const sameWish = nextWish();

/** Closed loop: each of the callers asks anew as soon as it has its answer. */
async function runCalls(job: CallsJob): Promise<Outcome<CallsResult>> {
  const failures = new Failures();
  const latenciesMs: number[] = [];
  const same = job.same === true ? sameWish : undefined;
  const caller = async (connection: Connection, until: number): Promise<void> => {
    while (performance.now() < until && !failures.tooMany) {
      const asked = performance.now();
      const wish = same ?? nextWish();
      if (job.stream === true) await streamChecked(connection, job.door, wish, () => {});
      else await callChecked(connection, job.door, wish);
      latenciesMs.push(performance.now() - asked);
    }
  };
  const connections = await Promise.all(Array.from({ length: job.concurrency }, () => Connection.open(job.door.port)));
  await sleep(SETTLE_MS);
  const cpuSince = countCpu(job.processes);
  const until = performance.now() + job.forMs;
  await Promise.all(connections.map((connection) => failures.guard(() => caller(connection, until))));
  await sleep(SETTLE_MS);
  const cpuUs = cpuSince();
  for (const connection of connections) connection.close();
  return { result: { calls: latenciesMs.length, cpuUs, latenciesMs }, failures: failures.messages };
}

/** Opens a connection, streams on it, closes it. The first call of `onWords` is the first token. */
async function streamOnce(
  door: Door,
  wish: Wish,
  onWords: (count: number, sinceAskedMs: number) => void,
): Promise<void> {
  const connection = await Connection.open(door.port);
  try {
    const asked = performance.now();
    await streamChecked(connection, door, wish, (count) => onWords(count, performance.now() - asked));
  } finally {
    connection.close();
  }
}

async function runTokens(job: TokensJob): Promise<Outcome<TokensResult>> {
  const failures = new Failures();
  const firstTokensMs: number[] = [];
  let tokens = 0;
  let reads = 0;
  // A stream that starts first must still run when the window closes.
  const tokensEach = Math.ceil((job.rampMs + STEADY_AFTER_MS + job.windowMs + 2 * SETTLE_MS) / job.everyMs);
  const stream = async (): Promise<void> => {
    await sleep(Math.random() * job.rampMs);
    if (failures.tooMany) return;
    let first = true;
    await streamOnce(job.door, nextWish({ tokens: tokensEach, everyMs: job.everyMs }), (count, sinceAskedMs) => {
      if (first) firstTokensMs.push(sinceAskedMs);
      first = false;
      tokens += count;
      reads++;
    });
  };
  const streams = Array.from({ length: job.streams }, () => failures.guard(stream));
  await sleep(job.rampMs + STEADY_AFTER_MS);
  const before = { tokens, reads, at: performance.now() };
  const cpuSince = countCpu(job.processes);
  await sleep(job.windowMs);
  const cpuUs = cpuSince();
  const counted = { tokens: tokens - before.tokens, reads: reads - before.reads };
  const expected = (job.streams * (performance.now() - before.at)) / job.everyMs;
  await Promise.all(streams);
  return { result: { ...counted, expected, cpuUs, firstTokensMs }, failures: failures.messages };
}

/** Opens held streams and looks at the memory in between; at the end the upstream lets all of them finish. */
async function runMemory(job: MemoryJob): Promise<Outcome<MemoryResult>> {
  const failures = new Failures();
  const all: Promise<void>[] = [];
  const openOne = async (): Promise<void> => {
    await new Promise<void>((opened) => {
      const held = failures.guard(() => streamOnce(job.door, nextWish({ hold: true }), () => opened()));
      all.push(held.then(opened));
    });
  };
  const open = async (count: number): Promise<void> => {
    let left = count;
    const opener = async (): Promise<void> => {
      while (left-- > 0 && !failures.tooMany) await openOne();
    };
    await Promise.all(Array.from({ length: OPENED_AT_ONCE }, opener));
    await sleep(QUIET_MS);
  };
  await open(job.base);
  const before = residentBytes(job.processes);
  await open(job.streams);
  const after = residentBytes(job.processes);
  await failures.guard(async () => {
    const control = await Connection.open(job.upstreamPort);
    await control.exchange(post({ path: RELEASE_PATH, headers: {}, body: "" }), () => {});
    control.close();
  });
  await Promise.all(all);
  return { result: { bytesPerStream: (after - before) / job.streams }, failures: failures.messages };
}

/** What one client has seen of the common answer. */
type Seen = { firstAtMs: number; endAtMs: number };

async function runCrowd(job: CrowdJob): Promise<Outcome<CrowdResult>> {
  const failures = new Failures();
  const { tokens, everyMs, firstMs } = job;
  const wish = nextWish({ tokens, everyMs, firstMs });
  const control = await Connection.open(job.upstreamPort);
  const count = async (): Promise<number> => {
    let body = "";
    await control.exchange(post({ path: COUNT_PATH, headers: {}, body: "" }), (piece) => {
      body += piece.toString("latin1");
    });
    return Number(body);
  };
  const before = await count();
  const clients = Array.from({ length: job.clients }, (_, index) => job.doors[index % job.doors.length] as Door);
  // Opening connections is not what is looked at.
  const connections = await Promise.all(clients.map(({ port }) => Connection.open(port)));
  const seen: Seen[] = [];
  await Promise.all(
    connections.map((connection, index) =>
      failures.guard(async () => {
        let firstAtMs: number | undefined;
        await streamChecked(connection, clients[index] as Door, wish, () => {
          firstAtMs ??= performance.now();
        });
        seen.push({ firstAtMs: firstAtMs as number, endAtMs: performance.now() });
      }),
    ),
  );
  const calls = (await count()) - before;
  for (const connection of [...connections, control]) connection.close();
  const began = Math.min(...seen.map(({ firstAtMs }) => firstAtMs));
  const result = {
    calls,
    firstTokensMs: seen.map(({ firstAtMs }) => firstAtMs - began),
    endsMs: seen.map(({ endAtMs }) => endAtMs - began),
  };
  return { result, failures: failures.messages };
}

function run(job: Job): Promise<Outcome<unknown>> {
  switch (job.kind) {
    case "calls":
      return runCalls(job);
    case "tokens":
      return runTokens(job);
    case "memory":
      return runMemory(job);
    case "crowd":
      return runCrowd(job);
  }
}

endWithParent();
process.on("message", (job: Job) => {
  run(job).then(
    (outcome) => process.send?.(outcome),
    (error: Error) => process.send?.({ result: undefined, failures: [error.message] }),
  );
});
process.stdout.write(`${JSON.stringify({ event: "ready" })}\n`);
