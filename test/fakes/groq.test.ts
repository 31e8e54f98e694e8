/** The simulated Groq, used by Groq's own SDK, and by our adapter. */
import Groq, { type APIError, AuthenticationError, NotFoundError, RateLimitError } from "groq-sdk";
import { afterEach, describe, expect, it } from "vitest";
import { createTestWorker, startTestCall } from "../../libs/adapter/test-provider.ts";
import { CompletionRequest, ResponseFormat_Kind, Role } from "../../libs/gen/cortex/llm/v1/llm.ts";
import { groqDialect } from "../../services/adapter-groq/dialect.ts";
import { GROQ_ERRORS, type Simulator, startGroqSimulator } from "./index.ts";

const running: Simulator[] = [];
afterEach(async () => {
  for (const simulator of running.splice(0)) await simulator.stop();
});

async function groq(options?: Parameters<typeof startGroqSimulator>[0]): Promise<Simulator> {
  const simulator = await startGroqSimulator(options);
  running.push(simulator);
  return simulator;
}

const sdk = (simulator: Simulator, apiKey = "gsk_test") =>
  new Groq({ baseURL: new URL(simulator.url).origin, apiKey, maxRetries: 0, timeout: 10_000 });

const MODEL = "llama-3.1-8b-instant";
const hello = [{ role: "user" as const, content: "hello there" }];
const weather = {
  type: "function" as const,
  function: { name: "weather", parameters: { type: "object", properties: { city: { type: "string" } } } },
};
const time = { type: "function" as const, function: { name: "time" } };

describe("Groq's SDK against the simulated Groq", () => {
  it("chats, with Groq's own numbers beside the usual ones", async () => {
    const simulator = await groq();
    const answer = await sdk(simulator).chat.completions.create({ model: MODEL, messages: hello });
    expect(answer.choices[0]).toMatchObject({
      finish_reason: "stop",
      message: { role: "assistant", content: "You said: hello there" },
    });
    expect(answer.usage).toMatchObject({ prompt_tokens: 2, completion_tokens: 4, total_tokens: 6, queue_time: 0.115 });
    expect(answer.x_groq?.id).toMatch(/^req_01/);
    expect(simulator.requests[0]?.path).toBe("/openai/v1/chat/completions");
  });

  it("streams, with usage on the last chunk whether asked for or not", async () => {
    const stream = await sdk(await groq()).chat.completions.create({
      model: `${MODEL}@tokens:50`,
      messages: hello,
      stream: true,
    });
    const chunks = [];
    for await (const chunk of stream) chunks.push(chunk);
    expect(chunks.map(({ choices }) => choices[0]?.delta.content ?? "").join("")).toMatch(/^You said: hello there and/);
    expect(chunks[0]?.x_groq).toMatchObject({ id: expect.stringMatching(/^req_/) });
    expect(chunks.at(-1)).toMatchObject({
      choices: [{ delta: {}, finish_reason: "stop" }],
      usage: { completion_tokens: 50 },
      x_groq: { usage: { completion_tokens: 50 } },
    });
  });

  it("calls tools, whole also in a stream, and answers after their results", async () => {
    const client = sdk(await groq());
    const ask = { model: MODEL, tools: [weather, time], messages: [{ role: "user" as const, content: "call tools" }] };
    const { choices } = await client.chat.completions.create(ask);
    const calls = choices[0]?.message.tool_calls ?? [];
    expect(choices[0]?.finish_reason).toBe("tool_calls");
    expect(calls).toMatchObject([
      { id: expect.stringMatching(/^fc_/), function: { name: "weather", arguments: '{"city":"text"}' } },
      { function: { name: "time", arguments: "{}" } },
    ]);
    const streamed = [];
    for await (const chunk of await client.chat.completions.create({ ...ask, stream: true })) {
      const delta = chunk.choices[0]?.delta.tool_calls;
      if (delta !== undefined) streamed.push(delta);
    }
    expect(streamed).toMatchObject([
      [{ index: 0, function: { name: "weather", arguments: '{"city":"text"}' } }],
      [{ index: 1, function: { name: "time", arguments: "{}" } }],
    ]);
    const after = await client.chat.completions.create({
      ...ask,
      messages: [
        ...ask.messages,
        { role: "assistant", tool_calls: calls },
        { role: "tool", tool_call_id: calls[0]!.id, content: "sunny" },
      ],
    });
    expect(after.choices[0]?.finish_reason).toBe("stop");
  });

  it("thinks in a field of its own, lists models and embeds", async () => {
    const client = sdk(await groq());
    const answer = await client.chat.completions.create({
      model: "openai/gpt-oss-120b",
      messages: hello,
      reasoning_effort: "low",
    });
    expect(answer.choices[0]?.message.reasoning).toBe("Let me think.");
    expect((await client.models.list()).data.map(({ id }) => id)).toContain(MODEL);
    const { data } = await client.embeddings.create({ model: "nomic-embed-text-v1_5", input: ["a", "b"] });
    expect(data).toHaveLength(2);
  });

  it("gets Groq's errors, none of which names a parameter", async () => {
    const simulator = await groq({ apiKeys: ["gsk_right"], models: [MODEL] });
    const ask = (model: string, key = "gsk_right", more = {}) =>
      sdk(simulator, key).chat.completions.create({ model, messages: hello, ...more });
    await expect(ask(MODEL, "gsk_wrong")).rejects.toThrow(AuthenticationError);
    await expect(ask("none")).rejects.toThrow(NotFoundError);
    await expect(ask(`${MODEL}@status:429`)).rejects.toSatisfy(
      (error: APIError) => error instanceof RateLimitError && error.headers?.get("retry-after") === "17",
    );
    await expect(ask(`${MODEL}@status:413`)).rejects.toMatchObject({
      status: 413,
      error: { error: { type: "tokens", code: "rate_limit_exceeded" } },
    });
    await expect(ask(`${MODEL}@status:498`)).rejects.toMatchObject({ status: 498 });
    await expect(ask(MODEL, "gsk_right", { logprobs: true })).rejects.toThrow("`logprobs` is not supported");
    await expect(ask(MODEL, "gsk_right", { n: 2 })).rejects.toThrow("'n'");
    const json = { response_format: { type: "json_object" } };
    await expect(ask(MODEL, "gsk_right", { ...json, stream: true })).rejects.toThrow("does not support streaming");
    await expect(ask(MODEL, "gsk_right", { ...json, tools: [time] })).rejects.toThrow("cannot be combined");
    const named = [{ role: "user" as const, name: "ada", content: "hi" }];
    await expect(ask(MODEL, "gsk_right", { messages: named })).rejects.toThrow("property 'name' is unsupported");
    for (const body of Object.values(GROQ_ERRORS)) {
      simulator.behave([{ status: 400, body }]);
      await expect(ask(MODEL)).rejects.toMatchObject({ status: 400, error: body });
    }
  });

  it("hears of an error in the middle of a stream", async () => {
    const stream = await sdk(await groq()).chat.completions.create({
      model: `${MODEL}@error:1`,
      messages: hello,
      stream: true,
    });
    const read = async () => {
      for await (const chunk of stream) expect(chunk.choices).toHaveLength(1);
    };
    await expect(read()).rejects.toThrow("Tool call validation failed");
  });

  it("sees its limits on every answer, and meets them key by key", async () => {
    const limits = { requests: { count: 3, perMs: 86_400_000 }, tokens: { count: 100, perMs: 60_000 } };
    const simulator = await groq({ limits });
    const ask = (key: string, words = 2) =>
      sdk(simulator, key).chat.completions.create({
        model: MODEL,
        messages: [{ role: "user", content: "word ".repeat(words) }],
      });
    const { response } = await ask("gsk_a").withResponse();
    expect(response.headers.get("x-ratelimit-limit-requests")).toBe("3");
    expect(response.headers.get("x-ratelimit-remaining-requests")).toBe("2");
    expect(response.headers.get("x-ratelimit-reset-requests")).toMatch(/^(8h0m0s|7h59m[\d.]+s)$/);
    expect(response.headers.get("x-ratelimit-remaining-tokens")).toBe("98");
    expect(response.headers.get("x-ratelimit-reset-tokens")).toMatch(/^1(\.\d+)?s$/);
    await expect(ask("gsk_a", 101)).rejects.toMatchObject({ status: 413 });
    await expect(ask("gsk_a", 99)).rejects.toSatisfy(
      (error: APIError) => error instanceof RateLimitError && error.headers?.get("retry-after") === "1",
    );
    await ask("gsk_a");
    await ask("gsk_a");
    await expect(ask("gsk_a")).rejects.toThrow(/requests per day \(RPD\): Limit 3, Used 3.*try again in \dh/);
    expect((await ask("gsk_b")).choices).toHaveLength(1);
  });
});

describe("our adapter against the simulated Groq", () => {
  const SETTINGS = { keys: ["gsk_test"], models: undefined };

  const request = (text: string, more: Parameters<typeof CompletionRequest.fromPartial>[0] = {}) =>
    CompletionRequest.fromPartial({
      model: MODEL,
      messages: [{ role: Role.USER, content: [{ part: { $case: "text", value: text } }] }],
      ...more,
    });

  it("streams JSON that Groq only writes whole, and leaves out what Groq does not have", async () => {
    const simulator = await groq({ apiKeys: ["gsk_test"] });
    await using worker = createTestWorker(simulator.url, SETTINGS, { dialect: groqDialect(SETTINGS) });
    const parts = [];
    const json = request("hello", {
      responseFormat: { kind: ResponseFormat_Kind.JSON_SCHEMA, jsonSchema: '{"type":"object","properties":{}}' },
      logprobs: true,
    });
    for await (const chunk of worker.stream(json, startTestCall())) parts.push(...chunk.parts);
    expect(parts.map(({ part }) => part?.$case)).toEqual(["served", "warning", "text", "finish", "usage"]);
    expect(await worker.checkHealth(startTestCall())).toMatchObject({ message: "" });
    expect(worker.info().models).toContain(MODEL);
  });

  it("waits as long as Groq says, and knows what will never fit", async () => {
    const limits = { requests: { count: 9, perMs: 1e9 }, tokens: { count: 10, perMs: 60_000 } };
    const simulator = await groq({ limits });
    await using worker = createTestWorker(simulator.url, SETTINGS, { dialect: groqDialect(SETTINGS) });
    const ask = (words: number) => worker.complete(request("word ".repeat(words)), startTestCall());
    await ask(8);
    await expect(ask(11)).rejects.toMatchObject({ reason: "PROVIDER_REQUEST_TOO_LARGE" });
    await expect(ask(7)).rejects.toMatchObject({
      reason: "PROVIDER_RATE_LIMITED",
      // The bucket fills while the test runs.
      retryAfterMs: expect.closeTo(30_000, -4),
    });
  });
});
