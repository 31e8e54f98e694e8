/** The same conversation through every provider, in its own wire format, by the OpenAI SDK: it comes out the same. */

import { connect, type NatsConnection } from "@nats-io/transport-node";
import OpenAI from "openai";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { AttemptsFinished } from "../../libs/gen/cortex/events/v1/events.ts";
import { EVENT } from "../../libs/telemetry/index.ts";
import {
  type Simulator,
  startAnthropicSimulator,
  startCohereSimulator,
  startGeminiSimulator,
  startGroqSimulator,
  startOllamaSimulator,
  startOpenAiSimulator,
} from "../fakes/index.ts";
import { type OtlpReceiver, startOtlpReceiver } from "../fakes/otlp.ts";
import { startMesh, type TestMesh } from "../mesh.ts";

/** Looked for at the end in everything that came out. */
const KEY = "sk-canary-provider-key-77f0";
const CANARIES = [
  KEY,
  "You are brief.",
  "übrigens",
  "one two three four",
  "Berlin as JSON",
  "What is this?",
  "Think about it",
  "Let me think",
];
const PROVIDERS = [
  { provider: "openai", model: "gpt-4o", start: () => startOpenAiSimulator({ apiKeys: [KEY] }), thinks: undefined },
  { provider: "ollama", model: "qwen3-vl", start: () => startOllamaSimulator(), thinks: "qwen3-vl" },
  {
    provider: "groq",
    model: "meta-llama/llama-4-scout-17b-16e-instruct",
    start: () => startGroqSimulator({ apiKeys: [KEY] }),
    thinks: "openai/gpt-oss-120b",
  },
  {
    provider: "gemini",
    model: "gemini-2.5-flash",
    start: () => startGeminiSimulator({ apiKeys: [KEY] }),
    thinks: "gemini-2.5-flash",
  },
  {
    provider: "cohere",
    model: "command-a-vision-07-2025",
    start: () => startCohereSimulator({ apiKeys: [KEY] }),
    thinks: "command-a-reasoning-08-2025",
  },
  {
    provider: "anthropic",
    model: "claude-sonnet-4-5",
    start: () => startAnthropicSimulator({ apiKeys: [KEY] }),
    thinks: "claude-sonnet-4-5",
  },
] as const;

const TOOLS: OpenAI.ChatCompletionTool[] = ["get_weather", "get_time"].map((name) => ({
  type: "function",
  function: {
    name,
    description: `Tells ${name.slice(4)} of a city`,
    parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
  },
}));
const SCHEMA = {
  type: "object",
  properties: { city: { type: "string" }, population: { type: "integer" } },
  required: ["city", "population"],
  additionalProperties: false,
};
/** One pixel. */
const PICTURE =
  "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";

describe("the same conversation", () => {
  const simulators = new Map<string, Simulator>();
  const events: string[] = [];
  let attempts = 0;
  let otlp: OtlpReceiver;
  let nats: NatsConnection;
  let mesh: TestMesh;
  let client: OpenAI;

  beforeAll(async () => {
    for (const { provider, start } of PROVIDERS) simulators.set(provider, await start());
    otlp = await startOtlpReceiver();
    mesh = await startMesh("one node", {
      settings: { log: { level: "trace" } },
      environment: otlp.environment,
      workers: PROVIDERS.map(({ provider, model, thinks }) => ({
        name: provider,
        provider,
        baseUrl: simulators.get(provider)!.url,
        models: [...new Set([model, ...(thinks === undefined ? [] : [thinks])])],
        ...(provider === "ollama" ? {} : { keys: [KEY] }),
      })),
    });
    nats = await connect({ servers: mesh.nats.url });
    nats.subscribe("cortex.>", {
      callback: (_error, message) => {
        events.push(`${message.subject} ${message.string()}`);
        if (message.subject === EVENT.attemptFinished)
          attempts += AttemptsFinished.decode(message.data).attempts.length;
      },
    });
    await nats.flush();
    client = new OpenAI({ apiKey: "any", baseURL: `${mesh.rest}/v1`, maxRetries: 0 });
  });

  afterAll(async () => {
    await nats?.close();
    await mesh?.[Symbol.asyncDispose]();
    await otlp?.stop();
    await Promise.all([...simulators.values()].map((simulator) => simulator.stop()));
  });

  describe.each(PROVIDERS)("through $provider", ({ provider, model, thinks }) => {
    type Body = Omit<OpenAI.ChatCompletionCreateParamsNonStreaming, "model" | "stream">;

    /** Asks twice, whole and streamed; both have to say the same. */
    async function ask(
      body: Body,
      asked: string = model,
    ): Promise<OpenAI.ChatCompletion.Choice & { usage?: OpenAI.CompletionUsage | undefined }> {
      const full = { ...body, model: `${provider}/${asked}` };
      const whole = await client.chat.completions.create(full);
      const streamed = await client.chat.completions
        .stream({ ...full, stream_options: { include_usage: true } })
        .finalChatCompletion();
      const [one, other] = [whole.choices[0]!, streamed.choices[0]!];
      expect(other.message.content ?? "").toBe(one.message.content ?? "");
      expect(other.finish_reason).toBe(one.finish_reason);
      expect(callsOf(other)).toEqual(callsOf(one));
      for (const { usage } of [whole, streamed]) {
        expect(usage?.prompt_tokens).toBeGreaterThan(0);
        expect(usage?.completion_tokens).toBeGreaterThan(0);
      }
      return { ...one, usage: whole.usage };
    }

    it("answers a conversation in text", async () => {
      const { message, finish_reason } = await ask({
        messages: [
          { role: "system", content: "You are brief." },
          { role: "user", content: "Hi" },
          { role: "assistant", content: "Hello!" },
          { role: "user", content: "How are you, übrigens? 🙂" },
        ],
        temperature: 0.5,
      });
      expect(message.content).toBe("You said: How are you, übrigens? 🙂");
      expect(finish_reason).toBe("stop");
    });

    it("stops at a limit", async () => {
      const { message, finish_reason } = await ask({
        messages: [{ role: "user", content: "one two three four" }],
        max_tokens: 2,
      });
      expect(finish_reason).toBe("length");
      expect("You said: one two three four".startsWith(message.content!.trimEnd())).toBe(true);
    });

    it("calls tools in parallel and takes their results", async () => {
      const messages: OpenAI.ChatCompletionMessageParam[] = [{ role: "user", content: "call tools" }];
      const { message, finish_reason } = await ask({ messages, tools: TOOLS });
      expect(finish_reason).toBe("tool_calls");
      const calls = callsOf({ message });
      expect(calls.map(([name]) => name)).toEqual(["get_weather", "get_time"]);
      for (const [, args] of calls) expect(args).toHaveProperty("city");
      const results = message.tool_calls!.map(({ id }, index) => ({
        role: "tool" as const,
        tool_call_id: id,
        content: index === 0 ? "sunny" : '{"time": "12:00"}',
      }));
      const after = await ask({ messages: [...messages, message, ...results], tools: TOOLS });
      expect(after.finish_reason).toBe("stop");
      expect(after.message.content).not.toBe("");
    });

    it("answers in JSON that matches a schema", async () => {
      const { message } = await ask({
        messages: [{ role: "user", content: "Berlin as JSON" }],
        response_format: { type: "json_schema", json_schema: { name: "city", schema: SCHEMA, strict: true } },
      });
      expect(JSON.parse(message.content!)).toEqual({ city: expect.any(String), population: expect.any(Number) });
    });

    it("looks at a picture", async () => {
      const { message } = await ask({
        messages: [
          {
            role: "user",
            content: [
              { type: "text", text: "What is this?" },
              { type: "image_url", image_url: { url: PICTURE } },
            ],
          },
        ],
      });
      expect(message.content).toContain("What is this?");
      const sent = JSON.stringify(simulators.get(provider)!.generations.at(-1)!.body);
      expect(sent).toContain(PICTURE.split(",")[1]);
    });

    if (provider === "anthropic" || provider === "gemini") {
      it("gives back what the provider signed, when the client sends its message back as it was", async () => {
        const messages: OpenAI.ChatCompletionMessageParam[] = [{ role: "user", content: "call tools" }];
        const full = {
          model: `${provider}/${thinks}`,
          tools: TOOLS,
          reasoning_effort: "medium" as const,
          max_tokens: 16_000,
        };
        const { choices } = await client.chat.completions.create({ ...full, messages });
        const message = choices[0]!.message as OpenAI.ChatCompletionMessage & { reasoning_signature?: string };
        const calls = message.tool_calls as (OpenAI.ChatCompletionMessageToolCall & { signature?: string })[];
        const signature = message.reasoning_signature ?? calls[0]?.signature;
        expect(signature).toMatch(new RegExp(`^${provider}:`));
        const results = calls.map(({ id }) => ({ role: "tool" as const, tool_call_id: id, content: "sunny" }));
        await client.chat.completions.create({ ...full, messages: [...messages, message, ...results] });
        const sent = JSON.stringify(simulators.get(provider)!.generations.at(-1)!.body);
        expect(sent).toContain(signature!.slice(provider.length + 1));
      });
    }

    if (thinks === undefined) return;
    it("shows its reasoning", async () => {
      const messages: OpenAI.ChatCompletionMessageParam[] = [{ role: "user", content: "Think about it" }];
      const full = {
        model: `${provider}/${thinks}`,
        messages,
        reasoning_effort: "medium" as const,
        max_tokens: 16_000,
      };
      const whole = await client.chat.completions.create(full);
      let streamed = "";
      let text = "";
      for await (const { choices } of await client.chat.completions.create({ ...full, stream: true })) {
        streamed += (choices[0]?.delta as { reasoning_content?: string } | undefined)?.reasoning_content ?? "";
        text += choices[0]?.delta.content ?? "";
      }
      const { content, reasoning_content } = whole.choices[0]!.message as {
        content: string;
        reasoning_content?: string;
      };
      expect(reasoning_content).toBeTruthy();
      expect(streamed).toBe(reasoning_content);
      expect(text).toBe(content);
    });
  });

  it("leaves no key, prompt or answer in any log line, span or event", async () => {
    // The key is refused everywhere, and a provider's error quotes the prompt.
    for (const { provider, model } of PROVIDERS) {
      const simulator = simulators.get(provider)!;
      simulator.behave([{ status: 500, body: `I can't do "${CANARIES[5]}" with ${KEY}` }, "error:1", "malformed:1"]);
      for (let index = 0; index < 3; index++) {
        const messages: OpenAI.ChatCompletionMessageParam[] = [{ role: "user", content: CANARIES[5]! }];
        await client.chat.completions.create({ model: `${provider}/${model}`, messages }).catch(() => {});
      }
    }
    const last = await client.chat.completions
      .create({ model: "openai/gpt-4o", messages: [{ role: "user", content: "end" }] })
      .withResponse();
    await otlp.trace(last.response.headers.get("x-trace-id")!, (spans) => spans.length >= 5);
    await expect.poll(() => attempts).toBeGreaterThan(60);
    const seen = { logs: mesh.output(), spans: otlp.text(), events: events.join("\n") };
    for (const [where, text] of Object.entries(seen)) {
      expect(text.length, `something is in the ${where}`).toBeGreaterThan(1_000);
      for (const canary of CANARIES) expect(text.includes(canary), `"${canary}" is in the ${where}`).toBe(false);
    }
  });
});

/** Name and arguments of each call. */
function callsOf({ message }: Pick<OpenAI.ChatCompletion.Choice, "message">): [string, unknown][] {
  const calls = (message.tool_calls ?? []) as OpenAI.ChatCompletionMessageFunctionToolCall[];
  return calls.map((call) => [call.function.name, JSON.parse(call.function.arguments)]);
}
