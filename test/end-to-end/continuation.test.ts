/** Whatever dies in the middle of an answer, worker or router: the client has the whole text, once, or is told that it has not. */
import type OpenAI from "openai";
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { type Simulator, startOpenAiSimulator } from "../fakes/index.ts";
import { SHAPES, startMesh, type TestMesh } from "../mesh.ts";

const SAID = "one two three four five six seven eight nine ten";
const ANSWER = `You said: ${SAID}`;
const messages: OpenAI.ChatCompletionMessageParam[] = [
  { role: "system", content: "Speak like a pirate." },
  { role: "user", content: SAID },
];
const timeouts = { connectMs: 2_000, firstTokenMs: 2_000, stallMs: 1_000 };
/** So many failures are provoked here that the breaker would get between; it has tests of its own. */
const breaker = { failures: 1_000 };

interface Seen {
  /** As it came over the wire. */
  readonly body: string;
  readonly text: string;
  readonly ids: number;
  readonly comments: readonly string[];
  readonly usage: { readonly completion_tokens: number } | undefined;
  /** The reason of the error event, if there is one. */
  readonly error: string | undefined;
  readonly done: boolean;
}

/** Asks for a stream and reads it as it is, comments too. */
async function see(mesh: TestMesh, body: object, headers: Record<string, string> = {}): Promise<Seen> {
  const response = await fetch(`${mesh.rest}/v1/chat/completions`, {
    method: "POST",
    headers: { "content-type": "application/json", ...headers },
    body: JSON.stringify({ messages, stream: true, stream_options: { include_usage: true }, ...body }),
  });
  const raw = await response.text();
  const blocks = raw.split("\n\n").filter((block) => block !== "");
  const events = blocks.filter((block) => block.startsWith("data: {")).map((block) => JSON.parse(block.slice(6)));
  const chunks = events.filter((event) => event.error === undefined) as OpenAI.ChatCompletionChunk[];
  return {
    body: raw,
    text: chunks.map(({ choices }) => choices[0]?.delta.content ?? "").join(""),
    ids: new Set(chunks.map(({ id }) => id)).size,
    comments: blocks.filter((block) => block.startsWith(":")),
    usage: chunks.findLast(({ usage }) => usage)?.usage ?? undefined,
    error: events.find((event) => event.error !== undefined)?.error.code,
    done: raw.endsWith("data: [DONE]\n\n"),
  };
}

function expectWhole(seen: Seen, text = ANSWER): void {
  expect(seen, seen.body).toMatchObject({ text, ids: 1, error: undefined, done: true });
}

describe.each(SHAPES)("an answer that breaks off, with %s", (shape) => {
  let first: Simulator;
  let second: Simulator;
  let third: Simulator;
  let mesh: TestMesh;

  beforeAll(async () => {
    first = await startOpenAiSimulator();
    second = await startOpenAiSimulator();
    third = await startOpenAiSimulator();
    const worker = (name: string, simulator: Simulator, priority: number, more: object = {}) => ({
      ...{ name, provider: "openai", baseUrl: simulator.url, models: ["m"], priority, timeouts, breaker },
      ...more,
    });
    const prefill = { models: ["p"], capabilities: ["prefill"] };
    mesh = await startMesh(shape, {
      workers: [
        worker("first", first, 1),
        worker("second", second, 2),
        worker("third", third, 3),
        worker("first-p", first, 1, prefill),
        worker("second-p", second, 2, prefill),
        worker("third-p", third, 3, prefill),
      ],
    });
  });

  beforeEach(() => {
    for (const simulator of [first, second, third]) simulator.behave(undefined);
  });

  afterAll(async () => {
    await mesh?.[Symbol.asyncDispose]();
    await Promise.all([first?.stop(), second?.stop(), third?.stop()]);
  });

  it.each(Array.from({ length: 12 }, (_, index) => index + 1))("behind token %i is finished by another", async (at) => {
    for (const fault of ["cut", "error", "end", "malformed"]) {
      first.behave(`${fault}:${at}`);
      const seen = await see(mesh, { model: "m" });
      expectWhole(seen);
      if (fault !== "malformed")
        expect(seen.comments).toEqual([expect.stringMatching(/^: continued by worker second/)]);
    }
  });

  it.each(["tail", "whole", "preamble"])("is finished by one that repeats: %s", async (continues) => {
    first.behave("cut:7");
    second.behave(`continues:${continues}`);
    expectWhole(await see(mesh, { model: "m" }));
    expect(third.generations).toHaveLength(0);
  });

  it.each(["exact", "paraphrase", "ignore"])("is not finished by one that does not go on: %s", async (continues) => {
    first.behave("cut:7");
    second.behave(`continues:${continues}`);
    const seen = await see(mesh, { model: "m" });
    expectWhole(seen);
    expect(seen.comments).toEqual([expect.stringMatching(/^: continued by worker third/)]);
    second.behave(undefined);
  });

  it.each(["exact", "tail", "whole"])("is finished by a model that takes a prefill: %s", async (continues) => {
    first.behave("cut:7");
    second.behave(`continues:${continues}`);
    const seen = await see(mesh, { model: "p" });
    expectWhole(seen);
    const body = second.generations.at(-1)?.body as { messages: { role: string; content: string }[] };
    expect(body.messages.at(-1)).toMatchObject({ role: "assistant", content: "You said: one two three four five" });
    expect(body.messages[0]).toEqual(messages[0]);
  });

  it("survives several that die, and sums what all have used", async () => {
    first.behave("cut:3");
    second.behave("cut:14");
    const seen = await see(mesh, { model: "m" });
    expectWhole(seen);
    expect(seen.comments).toHaveLength(2);
    expect(seen.usage?.completion_tokens).toBeGreaterThan(12);
  });

  it.each([
    ["a tool call has begun", { messages: [{ role: "user", content: "call tool" }], tools: [tool()] }, {}, "cut:2"],
    ["JSON was asked for", { response_format: { type: "json_object" } }, {}, "cut:2"],
    ["the client does not want it", {}, { "x-cortex-continuation": "off" }, "cut:2"],
    ["the client does not want it", { cortex: { continuation: false } }, {}, "cut:2"],
  ] as const)("ends in an error where nobody may go on: %s", async (_why, body, headers, behaviour) => {
    first.behave(behaviour);
    const seen = await see(mesh, { model: "m", ...body }, headers);
    expect(seen, seen.body).toMatchObject({ error: "STREAM_INTERRUPTED", done: false });
  });

  it("ends in an error when nobody is able to go on", async () => {
    first.behave("cut:7");
    second.behave("continues:paraphrase");
    third.behave("continues:ignore");
    const seen = await see(mesh, { model: "m" });
    expect(seen).toMatchObject({ text: "You said: one two three four five", error: "STREAM_INTERRUPTED", done: false });
  });
});

function tool(): OpenAI.ChatCompletionTool {
  const parameters = { type: "object", properties: { city: { type: "string" } } };
  return { type: "function", function: { name: "weather", parameters } };
}

describe("an answer whose router is killed", () => {
  it("is finished by another router", async () => {
    await using worker = await startOpenAiSimulator({ behaviour: "tokenMs:200" });
    await using mesh = await startMesh("many nodes", {
      workers: [{ name: "only", provider: "openai", baseUrl: worker.url, models: ["m"], timeouts, breaker }],
      replicas: { router: 2 },
    });
    // The gateway has to know both routers, or all streams would be the other one's.
    const streams = 12;
    const pending = Array.from({ length: streams }, () => see(mesh, { model: "m" }));
    await expect.poll(() => worker.generations.filter(({ tokensSent }) => tokensSent >= 3).length).toBe(streams);
    mesh.node("router").kill("SIGKILL");
    const seen = await Promise.all(pending);
    for (const one of seen) expectWhole(one);
    const continued = seen.filter(({ comments }) => comments.includes(": continued by worker only (NODE_UNREACHABLE)"));
    expect(continued.length).toBeGreaterThan(0);
  });
});
