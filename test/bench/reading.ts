/**
 * `npm run bench -- --reading`: what it costs to read one event of a stream, against `JSON.parse` of the same text alone.
 *
 * Each dialect reads a stream of its simulated provider, as it was sent, event by event; a round of that and a round of
 * parsing alone take turns, and each pair gives a ratio. The median of the ratios is what counts: whatever slows the machine
 * down for a while slows both.
 */

import { createFramer } from "../../libs/adapter/framing.ts";
import type { Dialect, ProviderEvent, ProviderRequest } from "../../libs/adapter/index.ts";
import { CompletionRequest, type DeepPartial, type Part, Role } from "../../libs/gen/cortex/llm/v1/llm.ts";
import { RpcError } from "../../libs/rpc/index.ts";
import { SUBJECTS, type Subject } from "../providers/subjects.ts";

/** What reading may cost. */
const RATIO_MAX = 1.5;

const TOKENS = 200;
const ROUND_MS = 4;
const PAIRS = 41;
/** Until the compiler has seen enough. */
const WARM_UP_PAIRS = 30;

/** The simulated model answers with a text for each property. */
const SCHEMA = JSON.stringify({
  type: "object",
  properties: Object.fromEntries(Array.from({ length: 12 }, (_, index) => [`field_${index}`, { type: "string" }])),
});
const TOOLS = Array.from({ length: 8 }, (_, index) => ({ name: `look_${index}`, parametersJsonSchema: SCHEMA }));

/** What a stream is of. */
const KINDS: Readonly<Record<string, DeepPartial<CompletionRequest>>> = {
  text: {},
  "log probabilities": { logprobs: true, topLogprobs: 5 },
  "tool calls": { tools: TOOLS },
};

/** A stream, and what came of reading it. */
interface Reading {
  readonly provider: string;
  readonly kind: string;
  readonly events: number;
  readonly bytes: number;
  readonly parseUs: number;
  readonly readUs: number;
  readonly ratio: number;
}

/** Measures all dialects and says what came of it; false when one of them costs more than it may. */
export async function benchReading(say: (line: string) => void): Promise<boolean> {
  const readings: Reading[] = [];
  for (const subject of SUBJECTS) {
    for (const kind of Object.keys(KINDS)) {
      const events = await record(subject, kind);
      if (events !== undefined) readings.push(measure(subject, kind, events));
    }
  }
  say("| provider | stream of | events | bytes each | JSON.parse | read | ratio |");
  say("|---|---|---|---|---|---|---|");
  for (const { provider, kind, events, bytes, parseUs, readUs, ratio } of readings) {
    const cells = [provider, kind, events, bytes, `${parseUs.toFixed(2)} µs`, `${readUs.toFixed(2)} µs`];
    say(`| ${cells.join(" | ")} | ${ratio > RATIO_MAX ? `**${ratio.toFixed(2)}**` : ratio.toFixed(2)} |`);
  }
  const over = readings.filter(({ ratio }) => ratio > RATIO_MAX).map(({ provider, kind }) => `${provider} (${kind})`);
  say(over.length === 0 ? `\nnone above ${RATIO_MAX}` : `\nabove ${RATIO_MAX}: ${over.join(", ")}`);
  return over.length === 0;
}

/** The events that its simulator sends, but for the terminator, which is no JSON; undefined where there is no such stream. */
async function record({ dialect, model, start }: Subject, kind: string): Promise<ProviderEvent[] | undefined> {
  const asked = askFor(dialect, model, kind);
  if (asked === undefined) return undefined;
  const simulator = await start();
  try {
    simulator.behave({ tokens: TOKENS });
    const { path, body = "", headers } = asked;
    const answer = await fetch(`${simulator.url}${path}`, {
      method: "POST",
      body,
      headers: { "content-type": "application/json", ...headers, ...dialect.authorization("key") },
    });
    if (!answer.ok) throw new Error(`${dialect.provider}: ${answer.status} ${await answer.text()}`);
    const events: ProviderEvent[] = [];
    const framer = createFramer(dialect.framing, (event) => events.push(event));
    framer.push(Buffer.from(await answer.arrayBuffer()));
    framer.end();
    return events.filter(({ data }) => data.startsWith("{"));
  } finally {
    await simulator.stop();
  }
}

function askFor(dialect: Dialect, model: string, kind: string): ProviderRequest | undefined {
  const content = [{ part: { $case: "text" as const, value: "call tools" } }];
  const request = CompletionRequest.fromPartial({ model, messages: [{ role: Role.USER, content }], ...KINDS[kind] });
  try {
    const asked = dialect.chatRequest(request, true, contextOf(model));
    return asked.warnings?.some(({ parameter }) => parameter.startsWith("logprobs")) ? undefined : asked;
  } catch (thrown) {
    if (thrown instanceof RpcError && thrown.reason === "UNSUPPORTED_PARAMETER") return undefined;
    throw thrown;
  }
}

function measure({ dialect, model }: Subject, kind: string, events: readonly ProviderEvent[]): Reading {
  const parse = () => parseAll(events);
  const read = () => readAll(dialect, model, events);
  const times = repetitions(parse);
  for (let pair = 0; pair < WARM_UP_PAIRS; pair += 1) for (const run of [parse, read]) timeUs(run, times);
  const pairs = Array.from({ length: PAIRS }, (_, index) => {
    // Neither is always the first.
    const readFirst = index % 2 === 0 ? timeUs(read, times) : undefined;
    const parseUs = timeUs(parse, times);
    return { parseUs, readUs: readFirst ?? timeUs(read, times) };
  });
  const each = (value: number) => value / times / events.length;
  return {
    provider: dialect.provider,
    kind,
    events: events.length,
    bytes: Math.round(events.reduce((sum, { data }) => sum + data.length, 0) / events.length),
    parseUs: each(median(pairs.map(({ parseUs }) => parseUs))),
    readUs: each(median(pairs.map(({ readUs }) => readUs))),
    ratio: median(pairs.map(({ parseUs, readUs }) => readUs / parseUs)),
  };
}

/** So many rounds over the events take about ROUND_MS. */
function repetitions(run: () => void): number {
  for (let times = 1; ; times *= 2) if (timeUs(run, times) > (ROUND_MS * 1_000) / 2) return times * 2;
}

/** By the wall clock: a thread's own CPU time is only counted from tick to tick, which are as long as a round. */
function timeUs(run: () => void, times: number): number {
  const startedAtMs = performance.now();
  for (let time = 0; time < times; time += 1) run();
  return (performance.now() - startedAtMs) * 1_000;
}

/** What is read is kept until it is counted, so that no compiler can leave it out. */
let kept = 0;

function parseAll(events: readonly ProviderEvent[]): void {
  for (const { data } of events) if (JSON.parse(data) !== null) kept += 1;
}

function readAll(dialect: Dialect, model: string, events: readonly ProviderEvent[]): void {
  const reader = dialect.chatEvents(contextOf(model));
  for (const event of events) {
    const parts: Part[] = [];
    reader.read(event, parts);
    kept += parts.length;
  }
}

function contextOf(model: string) {
  return { worker: "worker", model, nowS: 1_764_000_000, mintId: (prefix: string) => `${prefix}${kept}` };
}

function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)]!;
}
