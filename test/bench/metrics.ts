/**
 * `npm run bench -- --metrics`: ten minutes of a thousand requests a second, through NATS into the metrics service. Its
 * memory levels off, its counters are exactly those of whoever sent the events, its percentiles close to the true ones, and a
 * replica that is started afterwards says the same.
 */
import { connect } from "@nats-io/transport-node";
import {
  AttemptFinished,
  AttemptOutcome,
  RequestFinished,
  RequestOutcome,
} from "../../libs/gen/cortex/events/v1/events.ts";
import {
  Dimension,
  type Figures,
  type Latency,
  MetricsServiceDefinition,
  type SummarizeResponse,
} from "../../libs/gen/cortex/metrics/v1/metrics.ts";
import { TrafficTeller } from "../../services/router/traffic-teller.ts";
import { ask } from "../mesh.ts";
import type { Processes, Started } from "./processes.ts";
import { machine, table } from "./report.ts";
import { startCortex, startNats } from "./targets.ts";
import { countCpu, residentBytes } from "./usage.ts";

export const METRICS_HEADING = "## The metrics service's memory and truth";

const REQUESTS_PER_SECOND = 1_000;
/** As a router tells them. */
const TELL_MS = 250;
const WORKERS = 200;
const PROVIDERS = 10;
const MODELS = 50;
const TENANTS = 40;
const SAMPLES = 20;
const MB = 1024 * 1024;
/** In the second half of the run the resident memory grows by no more than this share. */
const GROWTH_MAX = 0.1;
const PERCENTILE_ERROR_MAX = 0.02;

/** What was sent, counted where it was sent. */
class Sent {
  requests = 0;
  errors = 0;
  cancelled = 0;
  cacheHits = 0;
  failovers = 0;
  inputTokens = 0;
  outputTokens = 0;
  readonly durations: number[] = [];
  readonly firstTokens: number[] = [];

  counters() {
    const { requests, errors, cancelled, cacheHits, failovers, inputTokens, outputTokens } = this;
    return { requests, errors, cancelled, cacheHits, failovers, inputTokens, outputTokens };
  }
}

const NOTHING = new Uint8Array();
const EMPTY_REQUEST = RequestFinished.decode(NOTHING);
const EMPTY_ATTEMPT = AttemptFinished.decode(NOTHING);

/** Makes requests and their attempts, the same ones in each run. */
class Traffic {
  readonly total = new Sent();
  readonly models = new Map<string, Sent>();
  readonly workers = new Map<string, Sent>();
  #seed = 1;

  #random(): number {
    this.#seed = (Math.imul(this.#seed, 1_664_525) + 1_013_904_223) >>> 0;
    return this.#seed / 2 ** 32;
  }

  /** Log-normal about `median`. */
  #time(median: number): number {
    const normal = Math.sqrt(-2 * Math.log(1 - this.#random())) * Math.cos(2 * Math.PI * this.#random());
    return median * Math.exp(0.7 * normal);
  }

  next(): { readonly request: RequestFinished; readonly attempts: AttemptFinished[] } {
    const place = Math.floor(this.#random() ** 2 * WORKERS);
    const requestedModel = `model-${Math.floor(this.#random() ** 2 * MODELS)}`;
    const timeToFirstTokenMs = this.#time(200);
    const durationMs = timeToFirstTokenMs + this.#time(1_500);
    const usage = { inputTokens: Math.floor(this.#random() * 2_000), outputTokens: Math.floor(this.#random() * 800) };
    const chance = this.#random();
    const hit = chance < 0.1;
    const failed = chance >= 0.1 && chance < 0.12;
    const cancelled = chance >= 0.12 && chance < 0.13;
    const failedOver = chance >= 0.13 && chance < 0.15;
    const common = { tenant: `tenant-${place % TENANTS}`, requestedModel, strategy: "local_first", stream: true };
    const attempt = (worker: number, outcome: AttemptOutcome): AttemptFinished => ({
      ...EMPTY_ATTEMPT,
      ...common,
      outcome,
      worker: `worker-${worker}`,
      provider: `provider-${worker % PROVIDERS}`,
      reason: outcome === AttemptOutcome.FAILED ? "PROVIDER_ERROR" : "",
      ...(outcome === AttemptOutcome.SERVED ? { timeToFirstTokenMs, durationMs, usage } : { durationMs: 50 }),
    });
    const attempts: AttemptFinished[] = [];
    if (failed || failedOver) attempts.push(attempt((place + 1) % WORKERS, AttemptOutcome.FAILED));
    if (cancelled) attempts.push(attempt(place, AttemptOutcome.CANCELLED));
    else if (!hit && !failed) attempts.push(attempt(place, AttemptOutcome.SERVED));
    const served = !failed && !cancelled;
    const outcome = served ? RequestOutcome.SERVED : failed ? RequestOutcome.FAILED : RequestOutcome.CANCELLED;
    const request: RequestFinished = {
      ...EMPTY_REQUEST,
      ...common,
      outcome,
      reason: failed ? "PROVIDER_ERROR" : "",
      cache: hit ? "l1" : "",
      attempts: attempts.length,
      durationMs: hit ? durationMs / 1_000 : durationMs,
      timeToFirstTokenMs: hit ? timeToFirstTokenMs / 1_000 : timeToFirstTokenMs,
      usage: served ? usage : undefined,
    };
    this.#note(request, attempts);
    return { request, attempts };
  }

  #note(request: RequestFinished, attempts: readonly AttemptFinished[]): void {
    for (const sent of [this.total, sentOf(this.models, request.requestedModel)]) {
      sent.requests++;
      if (request.outcome === RequestOutcome.FAILED) sent.errors++;
      if (request.outcome === RequestOutcome.CANCELLED) sent.cancelled++;
      if (request.cache !== "") sent.cacheHits++;
      else {
        sent.inputTokens += request.usage?.inputTokens ?? 0;
        sent.outputTokens += request.usage?.outputTokens ?? 0;
      }
      if (request.attempts > 1) sent.failovers++;
      if (request.outcome !== RequestOutcome.SERVED) continue;
      sent.durations.push(request.durationMs);
      sent.firstTokens.push(request.timeToFirstTokenMs);
    }
    for (const { worker, outcome, usage, durationMs, timeToFirstTokenMs } of attempts) {
      const sent = sentOf(this.workers, worker);
      sent.requests++;
      if (outcome === AttemptOutcome.FAILED) sent.errors++;
      if (outcome === AttemptOutcome.CANCELLED) sent.cancelled++;
      sent.inputTokens += usage?.inputTokens ?? 0;
      sent.outputTokens += usage?.outputTokens ?? 0;
      if (outcome !== AttemptOutcome.SERVED) continue;
      sent.durations.push(durationMs);
      sent.firstTokens.push(timeToFirstTokenMs);
    }
  }
}

function sentOf(all: Map<string, Sent>, name: string): Sent {
  const known = all.get(name);
  if (known !== undefined) return known;
  const sent = new Sent();
  all.set(name, sent);
  return sent;
}

interface Comparison {
  /** Counters that differ, in a sentence each. */
  readonly wrong: string[];
  readonly counters: number;
  readonly percentiles: number;
  /** Of all percentiles, as a part of the true one. */
  readonly errorMax: number;
}

function compare(traffic: Traffic, { total, groups }: SummarizeResponse): Comparison {
  const result = { wrong: [] as string[], counters: 0, percentiles: 0, errorMax: 0 };
  const check = (name: string, sent: Sent, figures: Figures | undefined): void => {
    for (const [counter, value] of Object.entries(sent.counters())) {
      result.counters++;
      const told = figures?.[counter as keyof ReturnType<Sent["counters"]>];
      if (told !== value) result.wrong.push(`${counter} of ${name}: ${value} sent, ${told} counted`);
    }
    const latencies: [number[], Latency | undefined][] = [
      [sent.durations, figures?.duration],
      [sent.firstTokens, figures?.timeToFirstToken],
    ];
    for (const [values, latency] of latencies) {
      if (values.length === 0) continue;
      const sorted = Float64Array.from(values).sort();
      const told = [latency?.p50Ms, latency?.p95Ms, latency?.p99Ms];
      for (const [index, q] of [0.5, 0.95, 0.99].entries()) {
        const exact = sorted[Math.max(0, Math.ceil(q * sorted.length) - 1)]!;
        result.percentiles++;
        result.errorMax = Math.max(result.errorMax, Math.abs((told[index] ?? 0) - exact) / exact);
      }
    }
  };
  const find = (dimension: Dimension, name: string) =>
    groups.find((group) => group.dimension === dimension && group.name === name)?.figures;
  check("all", traffic.total, total);
  for (const [name, sent] of traffic.models) check(name, sent, find(Dimension.MODEL, name));
  for (const [name, sent] of traffic.workers) check(name, sent, find(Dimension.WORKER, name));
  return result;
}

/** Runs it. Whoever calls it ends the processes. */
export async function benchMetrics(
  { processes, folder }: { readonly processes: Processes; readonly folder: string },
  { seconds, date, say }: { readonly seconds: number; readonly date: string; readonly say: (line: string) => void },
): Promise<{ readonly section: string; readonly withinBudget: boolean }> {
  const around = { processes, folder, upstream: "http://127.0.0.1:9" };
  const nats = await startNats(around);
  const node = await startCortex(around, ["run", "metrics"], { natsUrl: nats.url });
  const measured = [{ pid: node.child.pid!, name: "metrics" }];
  const summarize = (started: Started) =>
    ask(started.ready.grpc!, (channel, call) =>
      channel.client(MetricsServiceDefinition).summarize({ windowS: 3_600, dimensions: [] }, call),
    );
  const connection = await connect({ servers: nats.url });
  let messages = 0;
  const teller = new TrafficTeller({
    nodeId: "bench",
    events: {
      publish(subject, type, message) {
        connection.publish(subject, type.encode(message).finish());
        messages++;
      },
    },
  });
  const traffic = new Traffic();
  const cpu = countCpu(measured);
  const samples: { readonly atS: number; readonly residentBytes: number; readonly natsBytes: number }[] = [];
  const startedAtMs = performance.now();
  for (let sent = 0; sent < seconds * REQUESTS_PER_SECOND; ) {
    const elapsedMs = performance.now() - startedAtMs;
    const due = Math.min(seconds * REQUESTS_PER_SECOND, Math.floor((elapsedMs / 1_000) * REQUESTS_PER_SECOND));
    for (; sent < due; sent++) {
      const { request, attempts } = traffic.next();
      for (const attempt of attempts) teller.attempt(attempt);
      if (attempts.length > 1) teller.takeover(attempts[0]!, attempts[1]!, false);
      teller.request(request);
    }
    teller.tell();
    if (elapsedMs / 1_000 >= ((samples.length + 1) * seconds) / SAMPLES) {
      const natsBytes = residentBytes([{ pid: nats.pid, name: "nats" }]);
      samples.push({ atS: Math.round(elapsedMs / 1_000), residentBytes: residentBytes(measured), natsBytes });
      say(`${Math.round(elapsedMs / 1_000)} s, ${(samples.at(-1)!.residentBytes / MB).toFixed(0)} MB`);
    }
    await new Promise((resolve) => setTimeout(resolve, TELL_MS));
  }
  const microseconds = cpu()[0]! / (seconds * REQUESTS_PER_SECOND);
  await connection.flush();
  const summary = await untilCounted(() => summarize(node), traffic.total.requests);
  const comparison = compare(traffic, summary);
  const beginning = performance.now();
  const replica = await startCortex(around, ["run", "metrics"], { natsUrl: nats.url, replica: 2 });
  const startMs = performance.now() - beginning;
  const other = await untilCounted(() => summarize(replica), traffic.total.requests);
  const same = JSON.stringify([other.total, other.groups]) === JSON.stringify([summary.total, summary.groups]);
  await connection.close();
  return report({ samples, comparison, microseconds, startMs, same, messages, seconds, date });
}

async function untilCounted(summarize: () => Promise<SummarizeResponse>, requests: number): Promise<SummarizeResponse> {
  for (let tries = 0; ; tries++) {
    const summary = await summarize();
    if (summary.total!.requests >= requests || tries === 100) return summary;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

function report(run: {
  readonly samples: readonly { readonly atS: number; readonly residentBytes: number; readonly natsBytes: number }[];
  readonly comparison: Comparison;
  readonly microseconds: number;
  readonly startMs: number;
  readonly same: boolean;
  readonly messages: number;
  readonly seconds: number;
  readonly date: string;
}): { readonly section: string; readonly withinBudget: boolean } {
  const { samples, comparison, microseconds, startMs, same, messages, seconds, date } = run;
  const mb = (bytes: number) => (bytes / MB).toFixed(0);
  const half = samples.slice(samples.length >> 1).map((sample) => sample.residentBytes);
  const growth = Math.max(...half) / half[0]! - 1;
  const { wrong, counters, percentiles, errorMax } = comparison;
  const rows = samples.map(({ atS, residentBytes: resident, natsBytes }) => [`${atS} s`, mb(resident), mb(natsBytes)]);
  const exact =
    wrong.length === 0 ? "exactly what was sent" : `WRONG in ${wrong.length}: ${wrong.slice(0, 5).join("; ")}`;
  const section = `${METRICS_HEADING}

Written by \`npm run bench -- --metrics\` on ${date}. Machine: ${machine()}.

${table(["after", "metrics MB", "nats-server MB"], rows)}

- ${REQUESTS_PER_SECOND} requests a second for ${seconds} s (${WORKERS} workers, ${MODELS} models, ${TENANTS} tenants), added up by a router's code and told in ${messages} messages,
  went through NATS into one node that runs the metrics service alone. "MB" is all of a process that is resident.
- In the second half of the run the resident memory grew by ${(growth * 100).toFixed(1)} % at most (budget: ${GROWTH_MAX * 100} %).
- ${counters} counters are ${exact}; ${percentiles} percentiles are at most ${(errorMax * 100).toFixed(2)} % from the true ones (budget: ${PERCENTILE_ERROR_MAX * 100} %).
- A request costs the metrics service ${microseconds.toFixed(1)} µs of CPU, everything that its process does included.
- A replica that is started at the end is ready after ${(startMs / 1_000).toFixed(1)} s, and says ${same ? "the same" : "something ELSE"}.
`;
  const withinBudget = wrong.length === 0 && same && errorMax <= PERCENTILE_ERROR_MAX && growth <= GROWTH_MAX;
  return { section, withinBudget };
}
