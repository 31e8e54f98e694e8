import { describe, expect, it } from "vitest";
import type { AttemptContext, DialectDefaults } from "../adapter/index.ts";
import {
  CompletionRequest,
  type ContentPart,
  type DeepPartial,
  ReasoningOptions_Effort as Effort,
  EmbeddingRequest,
  type Part,
  ResponseFormat_Kind,
  Role,
  ToolChoice_Mode,
} from "../gen/cortex/llm/v1/llm.ts";
import { createOpenAiDialect, type DialectSettings } from "./index.ts";

const defaults: DialectDefaults = {
  baseUrl: "https://api.openai.com/v1",
  priority: 100,
  capabilities: [],
  pool: { connections: 1, keepAliveMs: 1 },
  timeouts: { connectMs: 1, poolMs: 1, firstTokenMs: 1, stallMs: 1, totalMs: 1 },
};

const dialect = (settings: DialectSettings = {}) => createOpenAiDialect({ provider: "openai", defaults }, settings);
const server = (name: string) =>
  dialect({ baseUrl: "http://localhost:8000/v1", models: ["m"], options: { server: name } });

const context = (model: string): AttemptContext => ({ worker: "w", model, nowS: 1, mintId: (prefix) => `${prefix}x` });

const text = (value: string): DeepPartial<ContentPart> => ({ part: { $case: "text", value } });

/** What is sent for `request`: the parsed body, the path, and the parameters that were warned about. */
function send(
  to: ReturnType<typeof dialect>,
  request: DeepPartial<CompletionRequest>,
  { model = "m", stream = false } = {},
) {
  const full = CompletionRequest.fromPartial({
    messages: [{ role: Role.USER, content: [text("hi")] }],
    ...request,
  });
  const { path, body = "", warnings = [] } = to.chatRequest(full, stream, context(model));
  return { path, body: JSON.parse(body), warned: warnings.map(({ parameter }) => parameter) };
}

const unsupported = (field: string) => expect.objectContaining({ reason: "UNSUPPORTED_PARAMETER", field });
const wrong = (field: string) => expect.objectContaining({ reason: "INVALID_REQUEST", field });

const toolLoop = (id: string) => [
  { role: Role.USER, content: [text("look")] },
  {
    role: Role.ASSISTANT,
    content: [
      { part: { $case: "reasoning" as const, value: { text: "hm" } } },
      { part: { $case: "toolCall" as const, value: { id, name: "look", argumentsJson: "{}" } } },
    ],
  },
  {
    role: Role.TOOL,
    content: [{ part: { $case: "toolResult" as const, value: { toolCallId: id, content: [text("seen")] } } }],
  },
];

describe("which server a worker talks to", () => {
  const titles = [
    ["https://api.openai.com/v1", "OpenAI"],
    ["https://eu.api.openai.com/v1", "OpenAI"],
    ["https://api.groq.com/openai/v1", "Groq"],
    ["https://api.mistral.ai/v1/", "Mistral"],
    ["https://api.deepseek.com", "DeepSeek"],
    ["https://api.x.ai/v1", "xAI"],
    ["https://api.perplexity.ai", "Perplexity"],
    ["https://api.together.xyz/v1", "Together"],
  ] as const;

  it.each(titles)("%s is %s", (baseUrl, title) => {
    const { warnings } = dialect({ baseUrl }).chatRequest(
      CompletionRequest.fromPartial({
        messages: [{ role: Role.USER, content: [text("hi")] }],
        sampling: { topK: 1, seed: 1, logitBias: { "1": 1 } },
        user: "u",
        logprobs: true,
        reasoning: { effort: Effort.MINIMAL },
      }),
      false,
      context("m"),
    );
    expect(warnings?.[0]?.message).toContain(title);
  });

  it("is not guessed from a name that only looks alike", () => {
    for (const baseUrl of [
      "https://api.mistral.ai.example.com/v1",
      "https://notapi.mistral.ai.test",
      "http://10.0.0.7",
    ]) {
      expect(send(dialect({ baseUrl }), { sampling: { seed: 7 } }).body.seed).toBe(7);
    }
    expect(
      send(dialect({ baseUrl: "http://proxy", options: { server: "mistral" } }), { sampling: { seed: 7 } }),
    ).toMatchObject({ body: { random_seed: 7 } });
  });

  it("has to be one that there is", () => {
    expect(() => server("bing")).toThrow(wrong("options.server"));
    expect(() => dialect({ options: { maxTokensField: "tokens" } })).toThrow(wrong("options.maxTokensField"));
  });
});

describe("Mistral", () => {
  const mistral = server("mistral");

  it("gets its own words, and nothing that it does not know", () => {
    const sent = send(
      mistral,
      {
        maxOutputTokens: 5,
        sampling: { seed: 42, topK: 3 },
        user: "u",
        toolChoice: { mode: ToolChoice_Mode.REQUIRED },
        tools: [{ name: "look" }],
        reasoning: { effort: Effort.LOW },
        messages: [{ role: Role.USER, name: "ada", content: [text("hi")] }],
      },
      { stream: true },
    );
    expect(sent.body).toEqual({
      model: "m",
      messages: [{ role: "user", content: "hi" }],
      stream: true,
      max_tokens: 5,
      random_seed: 42,
      reasoning_effort: "high",
      tool_choice: "any",
      tools: [{ type: "function", function: { name: "look" } }],
    });
    expect(sent.warned).toEqual(["messages[0].name", "reasoning_effort", "user", "top_k"]);
  });

  it("gets ids of tool calls that it takes, the same for a call and its result and the same each time", () => {
    const [, first, result] = send(mistral, { messages: toolLoop("call_0f0f0f0f") }).body.messages;
    expect(first.tool_calls[0].id).toMatch(/^[a-zA-Z0-9]{9}$/);
    expect(result.tool_call_id).toBe(first.tool_calls[0].id);
    const again = send(mistral, { messages: [...toolLoop("zzzzzzzzz"), ...toolLoop("call_0f0f0f0f")] }).body.messages;
    expect(again[1].tool_calls[0].id).toBe("zzzzzzzzz");
    expect(again[4].tool_calls[0].id).toBe(first.tool_calls[0].id);
  });

  it("gets different ids for different calls, even if somebody chooses one to collide", () => {
    const made = send(mistral, { messages: toolLoop("call_a") }).body.messages[1].tool_calls[0].id;
    const { messages } = send(mistral, { messages: [...toolLoop("call_a"), ...toolLoop(made)] }).body;
    expect(messages[1].tool_calls[0].id).toBe(made);
    expect(messages[4].tool_calls[0].id).not.toBe(made);
    expect(messages[5].tool_call_id).toBe(messages[4].tool_calls[0].id);
  });

  it("is told to go on with an answer that has begun, and nobody else is", () => {
    const messages = [
      { role: Role.USER, content: [text("Count.")] },
      { role: Role.ASSISTANT, content: [text("One, ")] },
    ];
    const said = { role: "assistant", content: "One, " };
    expect(send(mistral, { messages }).body.messages[1]).toEqual({ ...said, prefix: true });
    expect(send(server("groq"), { messages }).body.messages[1]).toEqual(said);
    const answered = [...messages, { role: Role.USER, content: [text("Go on.")] }];
    expect(send(mistral, { messages: answered }).body.messages[1]).toEqual(said);
    expect(send(mistral, { messages: toolLoop("abcdefghi").slice(0, 2) }).body.messages[1].prefix).toBeUndefined();
  });

  it("says again what the request began, which is left out", () => {
    const begun = { ...context("m"), begun: "One, two, " };
    const message = { role: "assistant", content: "One, two, three" };
    const whole = { choices: [{ index: 0, message, finish_reason: "stop" }] };
    expect(mistral.chatAnswer(whole, begun).choices[0]?.message?.content).toMatchObject([text("three")]);
    expect(server("vllm").chatAnswer(whole, begun).choices[0]?.message?.content).toMatchObject([
      text("One, two, three"),
    ]);
    const streamed = (...pieces: string[]) => {
      const reader = mistral.chatEvents(begun);
      const parts: Part[] = [];
      const read = (choice: object) => reader.read({ name: "", data: JSON.stringify({ choices: [choice] }) }, parts);
      for (const content of pieces) read({ index: 0, delta: { content } });
      read({ index: 0, delta: { content: "" }, finish_reason: "stop" });
      return parts.flatMap(({ part }) => (part?.$case === "text" ? [part.value.text] : []));
    };
    // The blank at the end has been seen to come with what follows.
    expect(streamed("One, two,", " three", ", four")).toEqual(["three", ", four"]);
    expect(streamed("three", ", four")).toEqual(["three", ", four"]);
    expect(streamed("One, ")).toEqual(["One, "]);
  });

  it("gets the reasoning back as a part of the content", () => {
    expect(send(mistral, { messages: toolLoop("abcdefghi") }).body.messages[1].content).toEqual([
      { type: "thinking", thinking: [{ type: "text", text: "hm" }] },
    ]);
  });

  it("embeds with its own name for the dimensions", () => {
    const request = EmbeddingRequest.fromPartial({ inputs: ["a"], dimensions: 3, user: "u" });
    const { body = "", warnings } = mistral.embedding!.request(request, context("mistral-embed"));
    expect(JSON.parse(body)).toMatchObject({ output_dimension: 3 });
    expect(warnings?.map(({ parameter }) => parameter)).toEqual(["user"]);
  });
});

describe("OpenAI", () => {
  it("gets ids of tool calls of at most 40 characters", () => {
    const long = `get_weather_in_a_very_long_function_name_${"x".repeat(20)}`;
    const [, call, result] = send(dialect(), { messages: toolLoop(long) }).body.messages;
    expect(call.tool_calls[0].id).toHaveLength(40);
    expect(result.tool_call_id).toBe(call.tool_calls[0].id);
  });
});

describe("Azure", () => {
  const azure = (settings: DialectSettings = {}) =>
    dialect({ baseUrl: "https://acme.openai.azure.com", models: ["gpt-4o-eu"], ...settings });

  it("is asked by deployment and version, with the key in its own header", () => {
    expect(send(azure(), {}, { model: "gpt 4o/eu" }).path).toBe(
      "/openai/deployments/gpt%204o%2Feu/chat/completions?api-version=2024-10-21",
    );
    expect(azure({ options: { apiVersion: "2025-04-01-preview" } }).healthRequest().path).toBe(
      "/openai/models?api-version=2025-04-01-preview",
    );
    expect(azure().authorization("k")).toEqual({ "api-key": "k" });
    expect(azure().telemetryName).toBe("azure.ai.openai");
  });

  it("is asked as OpenAI is at its newer address", () => {
    const newer = azure({ baseUrl: "https://acme.openai.azure.com/openai/v1/" });
    expect(send(newer, { maxOutputTokens: 3 })).toMatchObject({
      path: "/chat/completions",
      body: { max_completion_tokens: 3 },
    });
    expect(newer.authorization("k")).toEqual({ "api-key": "k" });
  });

  it("says what is wrong with settings that can't work", () => {
    expect(() => dialect({ baseUrl: "https://acme.openai.azure.com" })).toThrow(wrong("models"));
    expect(() => azure({ baseUrl: "https://acme.openai.azure.com/openai/deployments/x" })).toThrow(wrong("baseUrl"));
    expect(() => azure({ options: { apiVersion: "1&x=2" } })).toThrow(wrong("options.apiVersion"));
  });

  it("has no such deployment", () => {
    const body = {
      error: { code: "DeploymentNotFound", message: "The API deployment for this resource does not exist." },
    };
    expect(azure().error(404, {}, JSON.stringify(body)).reason).toBe("PROVIDER_MODEL_NOT_FOUND");
  });
});

describe("DeepSeek", () => {
  const deepseek = server("deepseek");

  it("thinks or does not", () => {
    expect(send(deepseek, { reasoning: { effort: Effort.NONE } }).body.thinking).toEqual({ type: "disabled" });
    expect(send(deepseek, { reasoning: { effort: Effort.MEDIUM } })).toMatchObject({
      body: { thinking: { type: "enabled" }, reasoning_effort: "high" },
      warned: ["reasoning_effort"],
    });
  });

  it("refuses what it does not have, and has no embeddings", () => {
    const format = { kind: ResponseFormat_Kind.JSON_SCHEMA, jsonSchema: "{}" };
    expect(() => send(deepseek, { responseFormat: format })).toThrow(unsupported("response_format"));
    expect(() => send(deepseek, { choiceCount: 2 })).toThrow(unsupported("n"));
    const image = {
      part: { $case: "image" as const, value: { source: { $case: "url" as const, value: "https://x/y" } } },
    };
    expect(() => send(deepseek, { messages: [{ role: Role.USER, content: [image] }] })).toThrow(
      unsupported("messages[0].content[0].image_url"),
    );
    expect(deepseek.embedding).toBeUndefined();
  });

  it("gets the reasoning of a loop of tool calls back", () => {
    expect(send(deepseek, { messages: toolLoop("call_a") }).body.messages[1].reasoning_content).toBe("hm");
  });
});

describe("OpenRouter", () => {
  const openrouter = server("openrouter");

  it("takes an effort or a bound for the reasoning", () => {
    expect(send(openrouter, { reasoning: { effort: Effort.MAX } }).body.reasoning).toEqual({ effort: "xhigh" });
    expect(send(openrouter, { reasoning: { effort: Effort.LOW, budgetTokens: 99 } })).toMatchObject({
      body: { reasoning: { max_tokens: 99 } },
      warned: ["reasoning_effort"],
    });
  });

  it("says by the clock when a limit ends", () => {
    const headers = {
      date: "Wed, 21 Oct 2015 07:28:00 GMT",
      "x-ratelimit-reset": String(Date.UTC(2015, 9, 21, 7, 28, 30)),
    };
    const body = JSON.stringify({ error: { code: 429, message: "Rate limit exceeded: free-models-per-day" } });
    expect(openrouter.error(429, headers, body)).toMatchObject({
      reason: "PROVIDER_RATE_LIMITED",
      retryAfterMs: 30_000,
    });
    expect(openrouter.error(429, { "x-ratelimit-reset": "1445412510000" }, body).retryAfterMs).toBeUndefined();
    const nobody = JSON.stringify({ error: { code: 404, message: "No endpoints found for fx/one." } });
    expect(openrouter.error(404, {}, nobody).reason).toBe("PROVIDER_MODEL_NOT_FOUND");
  });
});

describe("servers of one's own", () => {
  it.each(["vllm", "llama.cpp"])("%s is asked for its health beside the version of its API", (name) => {
    const at = (baseUrl: string) => dialect({ baseUrl, options: { server: name } }).healthRequest();
    expect(at("http://localhost:8000/v1")).toEqual({ method: "GET", path: "/health", fromRoot: true });
    expect(at("http://localhost:8000/gpu-7/v1/").path).toBe("/gpu-7/health");
    expect(server(name).modelsRequest()).toEqual({ method: "GET", path: "/models" });
  });
});

describe("xAI", () => {
  it("has fewer parameters with the models that reason", () => {
    const sampling = { presencePenalty: 0.5, stop: ["x"] };
    expect(() => send(server("xai"), { sampling }, { model: "grok-4" })).toThrow(unsupported("stop"));
    expect(send(server("xai"), { sampling }, { model: "grok-4-fast-non-reasoning" }).body).toMatchObject({
      presence_penalty: 0.5,
      stop: ["x"],
    });
    const noCredit = JSON.stringify({
      code: "forbidden",
      error: "Your newly created team doesn't have any credits yet.",
    });
    expect(server("xai").error(403, {}, noCredit).reason).toBe("PROVIDER_QUOTA_EXHAUSTED");
  });
});

describe("Perplexity and Together", () => {
  it("refuse or leave out what they lack", () => {
    expect(() => send(server("perplexity"), { tools: [{ name: "look" }] })).toThrow(unsupported("tools"));
    expect(send(server("perplexity"), {}, { stream: true }).body.stream_options).toBeUndefined();
    expect(send(server("together"), { logprobs: true, topLogprobs: 2 }).warned).toEqual(["logprobs", "top_logprobs"]);
  });
});

describe("leaving out", () => {
  it("is not worth a warning when nothing is lost", () => {
    const request = { sampling: { frequencyPenalty: 0, presencePenalty: 0 }, choiceCount: 1, parallelToolCalls: true };
    expect(send(server("groq"), request).warned).toEqual([]);
    expect(send(server("perplexity"), { toolChoice: { mode: ToolChoice_Mode.AUTO } }).warned).toEqual([]);
  });
});

describe("an answer that has ended", () => {
  it("is not spoilt by what comes after it", () => {
    const parts: Part[] = [];
    const reader = dialect().chatEvents(context("m"));
    const read = (chunk: object) => reader.read({ name: "", data: JSON.stringify(chunk) }, parts);
    read({ choices: [{ index: 0, delta: { content: "a" }, finish_reason: "length" }] });
    read({ error: { code: 400, message: "Token limit reached" }, choices: [], usage: { prompt_tokens: 1 } });
    expect(parts.map(({ part }) => part?.$case)).toEqual(["served", "text", "finish", "usage"]);
  });
});
