/** A worker without a provider: it says what it is, keeps its pace, and takes nothing for granted. */
import fc from "fast-check";
import { describe, expect, it, vi } from "vitest";
import type { Worker, WorkerSettings } from "../../libs/adapter/index.ts";
import {
  ToolChoice_Mode as ChoiceMode,
  type Completion,
  type CompletionRequest,
  type ContentPart,
  FinishReason,
  ResponseFormat_Kind as FormatKind,
  type Part,
  Role,
} from "../../libs/gen/cortex/llm/v1/llm.ts";
import { BreakerState, Health } from "../../libs/gen/cortex/provider/v1/provider.ts";
import { type OwnedCall, RpcError, startCall } from "../../libs/rpc/index.ts";
import { createLogger, NO_TRACE, silentTracer } from "../../libs/telemetry/index.ts";
import { createSimWorker } from "./worker.ts";

const log = createLogger({ level: "silent", readable: false, node: "test" });
const FAST = { firstTokenMs: 0, tokensPerSecond: 1_000_000 };

function workerWith(options: Record<string, unknown> = FAST, settings: Partial<WorkerSettings> = {}): Worker {
  return createSimWorker(
    { name: "sim", provider: "sim", keys: [], options, ...settings },
    { tracer: silentTracer, log, clock: () => 1_700_000_000_000 },
  );
}

const startedCall = (): OwnedCall => startCall({ tenant: "", requestId: "r", trace: NO_TRACE });
const text = (value: string): ContentPart => ({ part: { $case: "text", value } });

function request(fields: Partial<CompletionRequest> = {}, ...said: string[]): CompletionRequest {
  const messages = (said.length === 0 ? ["hello"] : said).map((value) => ({
    role: Role.USER,
    name: "",
    content: [text(value)],
  }));
  return { model: "sim", messages, tools: [], logprobs: false, user: "", extraJson: {}, ...fields };
}

async function complete(worker: Worker, asked: CompletionRequest): Promise<Completion> {
  return (await worker.complete(asked, startedCall())).completion!;
}

async function streamed(worker: Worker, asked: CompletionRequest): Promise<Part["part"][]> {
  const parts: Part["part"][] = [];
  for await (const chunk of worker.stream(asked, startedCall())) parts.push(...chunk.parts.map(({ part }) => part));
  return parts;
}

const textOf = ({ choices }: Completion): string =>
  choices[0]!.message!.content.map(({ part }) => (part?.$case === "text" ? part.value : "")).join("");

async function refusalOf(promise: Promise<unknown>): Promise<RpcError> {
  const error = await promise.then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  expect(error).toBeInstanceOf(RpcError);
  return error as RpcError;
}

describe("a simulated answer", () => {
  it("says that it is one: in its text, in a warning, and in what the worker tells of itself", async () => {
    const worker = workerWith();
    const completion = await complete(worker, request());
    expect(textOf(completion)).toMatch(/^This is a simulation: no language model wrote this answer\. /);
    expect(completion.warnings).toMatchObject([{ code: "SIMULATED" }]);
    expect(worker.info()).toMatchObject({ simulated: true, provider: "sim", models: ["sim"], baseUrl: "" });
    const json = request({
      responseFormat: { kind: FormatKind.JSON_OBJECT, name: "", description: "", jsonSchema: "", strict: false },
    });
    expect(JSON.parse(textOf(await complete(worker, json)))).toEqual({ simulation: true });
  });

  it("is the same for the same request, and another for another", async () => {
    const answer = async (asked: CompletionRequest) => textOf(await complete(workerWith(), asked));
    const sampling = { stop: [], logitBias: {} };
    const first = await answer(request());
    expect(await answer(request())).toBe(first);
    expect(await answer(request({}, "hello", "again"))).not.toBe(first);
    expect(await answer(request({ sampling: { ...sampling, seed: 1 } }))).not.toBe(first);
    // What does not change an answer does not change this one.
    expect(await answer(request({ user: "somebody", sampling: { ...sampling, temperature: 0.3 } }))).toBe(first);
  });

  it("has a stream that says the same: one head, the words, an end, the usage", async () => {
    const worker = workerWith({ ...FAST, tokens: 12 });
    const parts = await streamed(worker, request());
    const completion = await complete(worker, request());
    expect(parts.map((part) => part?.$case)).toEqual([
      "served",
      "warning",
      ...Array<string>(12).fill("text"),
      "finish",
      "usage",
    ]);
    expect(parts[0]).toEqual({ $case: "served", value: completion.served });
    expect(completion.served).toMatchObject({
      model: "sim",
      worker: "sim",
      provider: "sim",
      createdAtS: 1_700_000_000,
    });
    expect(parts.map((part) => (part?.$case === "text" ? part.value.text : "")).join("")).toBe(textOf(completion));
    expect(parts.at(-2)).toMatchObject({ value: { choice: 0, reason: FinishReason.STOP } });
    expect(parts.at(-1)).toEqual({ $case: "usage", value: completion.usage });
    expect(completion.usage).toEqual({ inputTokens: 2, outputTokens: 12 });
  });

  it("ends at the limit, and says so", async () => {
    await fc.assert(
      fc.asyncProperty(fc.integer({ min: 1, max: 30 }), fc.integer({ min: 0, max: 40 }), async (tokens, limit) => {
        const asked = request({ maxOutputTokens: limit });
        const parts = await streamed(workerWith({ ...FAST, tokens }), asked);
        const words = parts.filter((part) => part?.$case === "text");
        expect(words).toHaveLength(Math.min(tokens, limit));
        expect(parts.filter((part) => part?.$case === "served")).toHaveLength(1);
        const finish = parts.find((part) => part?.$case === "finish");
        expect(finish?.value).toEqual({ choice: 0, reason: limit < tokens ? FinishReason.LENGTH : FinishReason.STOP });
      }),
      { numRuns: 40 },
    );
  });

  it("goes on exactly where the answer that it is given stops, wherever that is", async () => {
    const whole = textOf(await complete(workerWith({ ...FAST, tokens: 14 }), request()));
    await fc.assert(
      fc.asyncProperty(fc.integer({ min: 0, max: whole.length }), async (length) => {
        const begun = { role: Role.ASSISTANT, name: "", content: [text(whole.slice(0, length))] };
        const asked = request({ messages: [...request().messages, begun] });
        const completion = await complete(workerWith({ ...FAST, tokens: 14 }), asked);
        expect(textOf(completion)).toBe(whole.slice(length));
        const parts = await streamed(workerWith({ ...FAST, tokens: 14 }), asked);
        expect(parts.map((part) => (part?.$case === "text" ? part.value.text : "")).join("")).toBe(whole.slice(length));
        expect(parts.map((part) => part?.$case)).toEqual(expect.arrayContaining(["served", "finish", "usage"]));
      }),
      { numRuns: 60 },
    );
    expect(workerWith().info().modelProperties["sim"]?.capabilities).toEqual(["prefill"]);
  });

  it("goes on after a text that it would not have written, and after a call of a tool answers anew", async () => {
    const whole = textOf(await complete(workerWith(), request()));
    const ending = (content: ContentPart[]) =>
      request({ messages: [...request().messages, { role: Role.ASSISTANT, name: "", content }] });
    const foreign = await complete(workerWith(), ending([text("Certainly! Here is a poem")]));
    expect(textOf(foreign)).toBe(whole.slice("Certainly! Here is a poem".length));
    const called: ContentPart = {
      part: { $case: "toolCall", value: { id: "1", name: "f", argumentsJson: "{}", signature: "" } },
    };
    expect(textOf(await complete(workerWith(), ending([text("Let me look."), called])))).toMatch(/^This is a sim/);
  });

  it("counts what was said, not how it was written, and does not stumble over a picture", async () => {
    const picture: ContentPart = {
      part: {
        $case: "image",
        value: { source: { $case: "data", value: Buffer.alloc(1_000_000) }, mediaType: "image/png", detail: "" },
      },
    };
    const content = [text("12345678"), picture];
    const asked = request({ messages: [{ role: Role.USER, name: "", content }] });
    expect((await complete(workerWith(), asked)).usage?.inputTokens).toBe(2);
  });

  it("warns of what it leaves out", async () => {
    const asked = request({
      tools: [{ name: "f", description: "", parametersJsonSchema: "", strict: false }],
      logprobs: true,
      sampling: { stop: ["river"], logitBias: {} },
    });
    const { warnings } = await complete(workerWith(), asked);
    expect(warnings.map(({ code, parameter }) => [code, parameter])).toEqual([
      ["SIMULATED", ""],
      ["UNSUPPORTED_PARAMETER", "tools"],
      ["UNSUPPORTED_PARAMETER", "logprobs"],
      ["UNSUPPORTED_PARAMETER", "stop"],
    ]);
  });

  const schema = { kind: FormatKind.JSON_SCHEMA, name: "s", description: "", jsonSchema: "{}", strict: true };
  it.each<[string, Partial<CompletionRequest>]>([
    ["tool_choice", { toolChoice: { mode: ChoiceMode.REQUIRED, name: "" } }],
    ["tool_choice", { toolChoice: { mode: ChoiceMode.NAMED, name: "f" } }],
    ["response_format", { responseFormat: schema }],
    ["n", { choiceCount: 2 }],
  ])("is refused where it would need a mind: %s", async (field, fields) => {
    const worker = workerWith();
    for (const attempt of [worker.complete(request(fields), startedCall()), streamed(worker, request(fields))]) {
      expect(await refusalOf(attempt)).toMatchObject({ reason: "UNSUPPORTED_PARAMETER", field });
    }
    expect(worker.info().activeRequests).toBe(0);
  });
});

describe("a simulated worker", () => {
  it("stops when the caller goes away, before the first word and between words", async () => {
    for (const options of [{ firstTokenMs: 3_600_000 }, { firstTokenMs: 0, tokensPerSecond: 0.001 }]) {
      const worker = workerWith(options);
      const call = startedCall();
      const answer = refusalOf(worker.complete(request(), call));
      await vi.waitFor(() => expect(worker.info().activeRequests).toBe(1));
      call.cancel();
      expect((await answer).reason).toBe("CANCELLED");
      expect(worker.info().activeRequests).toBe(0);
    }
  });

  it("says why it stopped when that was the deadline, and does not begin what was given up", async () => {
    const call = startCall({ tenant: "", requestId: "r", trace: NO_TRACE, deadlineAtMs: Date.now() });
    const worker = workerWith({ firstTokenMs: 3_600_000 });
    expect((await refusalOf(worker.complete(request(), call))).reason).toBe("DEADLINE_EXCEEDED");
    const cancelled = startedCall();
    cancelled.cancel();
    expect((await refusalOf(workerWith().complete(request(), cancelled))).reason).toBe("CANCELLED");
  });

  it("forgets a request whose reader has left", async () => {
    const worker = workerWith();
    for await (const _ of worker.stream(request(), startedCall())) {
      expect(worker.info().activeRequests).toBe(1);
      break;
    }
    expect(worker.info().activeRequests).toBe(0);
  });

  it("serves as many at once as it may, and tells how many those are", async () => {
    const worker = workerWith({ firstTokenMs: 3_600_000 }, { limits: { concurrent: 2 } });
    const seen: number[] = [];
    worker.onLoad((activeRequests) => void seen.push(activeRequests));
    const calls = [startedCall(), startedCall()];
    const answers = calls.map((call) => refusalOf(worker.complete(request(), call)));
    expect(worker.info()).toMatchObject({ activeRequests: 2, concurrentRequestsMax: 2 });
    const refused = await refusalOf(worker.complete(request(), startedCall()));
    expect(refused).toMatchObject({ reason: "WORKER_BUSY" });
    calls[0]!.cancel();
    await answers[0];
    expect(worker.info()).toMatchObject({ activeRequests: 1 });
    calls[1]!.cancel();
    await answers[1];
    expect(seen).toEqual([1, 2, 1, 0]);
  });

  it("keeps the pace that it was given", async () => {
    const measured = async (options: object) => {
      const startedAtMs = performance.now();
      await workerWith({ tokens: 3, ...options }).complete(request(), startedCall());
      return performance.now() - startedAtMs;
    };
    expect(await measured({ firstTokenMs: 60, tokensPerSecond: 1_000 })).toBeGreaterThanOrEqual(55);
    expect(await measured({ firstTokenMs: 0, tokensPerSecond: 50 })).toBeGreaterThanOrEqual(55);
  });

  it("is well, has the models that it was given, and comes after real ones", async () => {
    const settings = { models: ["a", "b"], priority: 5, capabilities: ["code"] };
    const worker = workerWith(FAST, settings);
    expect(worker.info()).toMatchObject({ ...settings, health: Health.AVAILABLE, breaker: BreakerState.CLOSED });
    expect((await worker.listModels(startedCall())).map(({ id }) => id)).toEqual(["a", "b"]);
    expect(await worker.checkHealth(startedCall())).toMatchObject({ health: Health.AVAILABLE });
    expect(workerWith().info().priority).toBe(1_000);
    await worker.close();
  });

  it.each<[string, Record<string, unknown>]>([
    ["options.speed", { speed: 1 }],
    ["options.__proto__", JSON.parse('{"__proto__":1}') as Record<string, unknown>],
    ["options.toString", { toString: 1 }],
    ["options.firstTokenMs", { firstTokenMs: -1 }],
    ["options.firstTokenMs", { firstTokenMs: "1" }],
    ["options.firstTokenMs", { firstTokenMs: Number.POSITIVE_INFINITY }],
    // Node's timers take a pause without end for one of a millisecond.
    ["options.tokensPerSecond", { tokensPerSecond: 0 }],
    ["options.tokensPerSecond", { tokensPerSecond: Number.NaN }],
    ["options.tokens", { tokens: 0 }],
    ["options.tokens", { tokens: 2.5 }],
    ["options.tokens", { tokens: 1e12 }],
    ["options.tokens", { tokens: null }],
  ])("is not made with wrong options: %s", (field, options) => {
    expect(() => workerWith(options)).toThrow(RpcError);
    try {
      workerWith(options);
    } catch (error) {
      expect(error).toMatchObject({ reason: "INVALID_REQUEST", field });
      expect((error as RpcError).message).toContain(field);
    }
  });
});

describe("simulated vectors", () => {
  const embed = async (inputs: string[], dimensions?: number) => {
    const asked = { model: "sim", inputs, dimensions, user: "", extraJson: {} };
    return (await workerWith().embed(asked, startedCall())).embedding!;
  };

  it("have length 1, and are the same for the same text", async () => {
    const { embeddings, usage, warnings } = await embed(["one", "two", "one", ""]);
    expect(embeddings.map(({ values }) => values.length)).toEqual([256, 256, 256, 256]);
    for (const { values } of embeddings) expect(Math.hypot(...values)).toBeCloseTo(1, 6);
    expect(embeddings[2]).toEqual(embeddings[0]);
    expect(embeddings[1]).not.toEqual(embeddings[0]);
    expect(usage?.inputTokens).toBe(3);
    expect(warnings).toMatchObject([{ code: "SIMULATED" }]);
  });

  it("are as long as asked for, within what a node can bear", async () => {
    for (const dimensions of [1, 8, 4_096]) {
      expect((await embed(["a"], dimensions)).embeddings[0]!.values).toHaveLength(dimensions);
    }
    for (const dimensions of [0, 4_097, 4_294_967_295]) {
      const error = await refusalOf(embed(["a"], dimensions));
      expect(error).toMatchObject({ reason: "UNSUPPORTED_PARAMETER", field: "dimensions" });
    }
  });
});
