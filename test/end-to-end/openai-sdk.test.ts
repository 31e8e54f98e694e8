/** The official `openai` package, unchanged, against a running mesh. */
import OpenAI, {
  APIConnectionError,
  APIError,
  APIUserAbortError,
  AuthenticationError,
  BadRequestError,
  InternalServerError,
  NotFoundError,
} from "openai";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type Simulator, startOllamaSimulator, startOpenAiSimulator } from "../fakes/index.ts";
import { SHAPES, startMesh, type TestMesh } from "../mesh.ts";

const KEY = "client-key-7f3a";
const TOOLS: OpenAI.ChatCompletionTool[] = ["get_weather", "get_time"].map((name) => ({
  type: "function",
  function: {
    name,
    parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
  },
}));
const hello: OpenAI.ChatCompletionMessageParam[] = [{ role: "user", content: "hello there" }];

describe.each(SHAPES)("the OpenAI SDK against %s", (shape) => {
  let simulator: Simulator;
  let ollama: Simulator;
  let mesh: TestMesh;
  let client: OpenAI;

  beforeAll(async () => {
    simulator = await startOpenAiSimulator({ apiKeys: ["provider-key"] });
    ollama = await startOllamaSimulator();
    mesh = await startMesh(shape, {
      workers: [
        {
          name: "main",
          provider: "openai",
          baseUrl: simulator.url,
          keys: ["provider-key"],
          models: ["gpt-4o", "gpt-4o@cut:2"],
        },
        { name: "local", provider: "ollama", baseUrl: ollama.url, models: ["llama3.2"] },
      ],
      settings: { clients: [{ key: KEY, tenant: "team-a" }] },
    });
    client = new OpenAI({ apiKey: KEY, baseURL: `${mesh.rest}/v1`, maxRetries: 0 });
  });

  afterAll(async () => {
    await mesh?.[Symbol.asyncDispose]();
    await simulator?.stop();
    await ollama?.stop();
  });

  it.each(["gpt-4o", "llama3.2"])("chats with %s", async (model) => {
    const completion = await client.chat.completions.create({ model, messages: hello });
    expect(completion.object).toBe("chat.completion");
    expect(completion.choices[0]?.message).toMatchObject({ role: "assistant", content: "You said: hello there" });
    expect(completion.choices[0]?.finish_reason).toBe("stop");
    expect(completion.usage?.prompt_tokens).toBeGreaterThan(0);
    expect(completion.usage?.total_tokens).toBe(completion.usage!.prompt_tokens + completion.usage!.completion_tokens);
  });

  it.each(["gpt-4o", "llama3.2"])("streams from %s with usage", async (model) => {
    const stream = await client.chat.completions.create({
      model,
      messages: hello,
      stream: true,
      stream_options: { include_usage: true },
    });
    const chunks: OpenAI.ChatCompletionChunk[] = [];
    for await (const chunk of stream) chunks.push(chunk);
    const text = chunks.map((chunk) => chunk.choices[0]?.delta.content ?? "").join("");
    expect(text).toBe("You said: hello there");
    expect(chunks[0]?.choices[0]?.delta.role).toBe("assistant");
    expect(new Set(chunks.map(({ id }) => id)).size).toBe(1);
    const last = chunks.at(-1)!;
    expect(last.choices).toEqual([]);
    expect(last.usage?.completion_tokens).toBeGreaterThan(0);
    expect(chunks.slice(0, -1).every(({ usage }) => usage === null)).toBe(true);
  });

  it("streams without usage when it was not asked for", async () => {
    const stream = await client.chat.completions.create({ model: "gpt-4o", messages: hello, stream: true });
    for await (const chunk of stream) {
      expect(chunk.usage).toBeUndefined();
      expect(chunk.choices).toHaveLength(1);
    }
  });

  it.each(["gpt-4o", "llama3.2"])(
    "calls tools in parallel with %s, streamed and not, and takes their results",
    async (model) => {
      const messages: OpenAI.ChatCompletionMessageParam[] = [{ role: "user", content: "call tools" }];
      const whole = await client.chat.completions.create({ model, messages, tools: TOOLS });
      const streamed = await client.chat.completions.stream({ model, messages, tools: TOOLS }).finalChatCompletion();
      for (const { choices } of [whole, streamed]) {
        const { message, finish_reason } = choices[0]!;
        expect(finish_reason).toBe("tool_calls");
        const calls = (message.tool_calls ?? []) as OpenAI.ChatCompletionMessageFunctionToolCall[];
        expect(calls.map((call) => call.function.name)).toEqual(["get_weather", "get_time"]);
        expect(new Set(calls.map(({ id }) => id)).size).toBe(2);
        for (const call of calls) expect(JSON.parse(call.function.arguments)).toHaveProperty("city");
      }
      const answered = await client.chat.completions.create({
        model,
        tools: TOOLS,
        messages: [
          ...messages,
          whole.choices[0]!.message,
          ...whole.choices[0]!.message.tool_calls!.map((call) => ({
            role: "tool" as const,
            tool_call_id: call.id,
            content: "sunny",
          })),
        ],
      });
      expect(answered.choices[0]?.finish_reason).toBe("stop");
      expect(answered.choices[0]?.message.content).not.toBe("");
    },
  );

  it("gives embeddings, in base64 as the SDK asks for them", async () => {
    const { data, usage } = await client.embeddings.create({ model: "gpt-4o", input: ["one", "two"] });
    expect(data).toHaveLength(2);
    expect(Math.hypot(...data[0]!.embedding)).toBeCloseTo(1, 3);
    expect(usage.prompt_tokens).toBeGreaterThan(0);
  });

  it("lists models and finds one", async () => {
    const ids: string[] = [];
    for await (const model of client.models.list()) ids.push(model.id);
    expect(ids).toEqual(expect.arrayContaining(["auto", "gpt-4o", "llama3.2", "main/gpt-4o", "local/llama3.2"]));
    expect((await client.models.retrieve("main/gpt-4o")).id).toBe("main/gpt-4o");
    await expect(client.models.retrieve("nope")).rejects.toBeInstanceOf(NotFoundError);
  });

  it("can be aborted in the middle of a stream", async () => {
    simulator.behave("tokens:1000,tokenMs:10");
    try {
      const running = await client.chat.completions.create({ model: "gpt-4o", messages: hello, stream: true });
      let count = 0;
      for await (const _ of running) if (++count === 3) running.controller.abort();
      expect(count).toBeGreaterThanOrEqual(3);
      const request = simulator.generations.at(-1)!;
      expect((await request.ended).how).toBe("client-closed");
    } finally {
      simulator.behave(undefined);
    }
    const controller = new AbortController();
    const answer = client.chat.completions.create({ model: "gpt-4o", messages: hello }, { signal: controller.signal });
    controller.abort();
    await expect(answer).rejects.toBeInstanceOf(APIUserAbortError);
  });

  it("throws AuthenticationError for a wrong key", async () => {
    const stranger = new OpenAI({ apiKey: "wrong-key", baseURL: `${mesh.rest}/v1`, maxRetries: 0 });
    const error = await failureOf(stranger.chat.completions.create({ model: "gpt-4o", messages: hello }));
    expect(error).toBeInstanceOf(AuthenticationError);
    expect(error.code).toBe("invalid_api_key");
    expect(error.message).toContain("Authorization");
    expect(error.message).not.toContain("wrong-key");
  });

  it("throws NotFoundError for a wrong model and names close ones", async () => {
    const error = await failureOf(client.chat.completions.create({ model: "gpt-4oo", messages: hello }));
    expect(error).toBeInstanceOf(NotFoundError);
    expect(error.code).toBe("model_not_found");
    expect(error.param).toBe("model");
    expect(error.message).toContain('"gpt-4o"');
  });

  const malformed: [string, Record<string, unknown>][] = [
    ["model", { messages: hello }],
    ["messages", { model: "gpt-4o" }],
    ["messages", { model: "gpt-4o", messages: [] }],
    ["messages[0].role", { model: "gpt-4o", messages: [{ role: "human", content: "hi" }] }],
    ["messages[1].content", { model: "gpt-4o", messages: [...hello, { role: "user", content: 7 }] }],
    [
      "messages[0].content[0].image_url.url",
      {
        model: "gpt-4o",
        messages: [{ role: "user", content: [{ type: "image_url", image_url: { url: "cat.png" } }] }],
      },
    ],
    ["temperature", { model: "gpt-4o", messages: hello, temperature: 3 }],
    [
      "tools[0].function.name",
      { model: "gpt-4o", messages: hello, tools: [{ type: "function", function: { name: "a b" } }] },
    ],
    ["max_tokens", { model: "gpt-4o", messages: hello, max_tokens: 0 }],
    ["response_format.type", { model: "gpt-4o", messages: hello, response_format: { type: "xml" } }],
  ];
  it.each(malformed)("throws BadRequestError that names %s", async (field, body) => {
    const error = await failureOf(client.post("/chat/completions", { body }));
    expect(error).toBeInstanceOf(BadRequestError);
    expect(error.param).toBe(field);
    expect(error.message).toContain(field);
  });

  it("answers broken JSON, an empty body and a body that is not text with 400", async () => {
    for (const body of ['{"model": "gpt-4o", "messages": [', "", Buffer.from([0xff, 0xfe, 0x00])]) {
      const response = await fetch(`${mesh.rest}/v1/chat/completions`, {
        method: "POST",
        headers: { authorization: `Bearer ${KEY}`, "content-type": "application/json" },
        body,
      });
      expect(response.status).toBe(400);
      const { error } = (await response.json()) as { error: Record<string, unknown> };
      expect(error).toMatchObject({ type: "invalid_request_error", param: null, code: "INVALID_REQUEST" });
      expect(error["message"]).toContain("body");
    }
  });

  it("ends a stream whose provider dies after the first content in an error, never clean", async () => {
    const stream = await client.chat.completions.create({ model: "gpt-4o@cut:2", messages: hello, stream: true });
    let text = "";
    const error = await failureOf(
      (async () => {
        for await (const chunk of stream) text += chunk.choices[0]?.delta.content ?? "";
      })(),
    );
    expect(text).not.toBe("");
    expect(error).toBeInstanceOf(APIError);
    expect(error.code).toBe("STREAM_INTERRUPTED");
  });

  it("throws InternalServerError with every reason when no worker is left", async () => {
    simulator.behave("status:500");
    try {
      const error = await failureOf(client.chat.completions.create({ model: "gpt-4o", messages: hello }));
      expect(error).toBeInstanceOf(InternalServerError);
      expect(error.status).toBe(503);
      expect(error.code).toBe("NO_WORKERS_AVAILABLE");
      expect(error.message).toMatch(/main: PROVIDER_ERROR/);
      expect(error).not.toBeInstanceOf(APIConnectionError);
    } finally {
      simulator.behave(undefined);
    }
  });
});

async function failureOf(promise: Promise<unknown>): Promise<APIError> {
  const error = await promise.then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  expect(error).toBeInstanceOf(APIError);
  return error as APIError;
}
