/** The servers that speak OpenAI's protocol, each in its flavor: our adapter gets the same meaning from all of them. */
import OpenAI from "openai";
import { afterEach, describe, expect, it } from "vitest";
import { complete, createTestWorker, startTestCall } from "../../libs/adapter/test-provider.ts";
import {
  CompletionRequest,
  type DeepPartial,
  ReasoningOptions_Effort as Effort,
  type Part,
  Role,
} from "../../libs/gen/cortex/llm/v1/llm.ts";
import { openAiDialect } from "../../services/adapter-openai/dialect.ts";
import { FLAVORS, type FlavorName, type Simulator, startOpenAiSimulator } from "./index.ts";

const running: Simulator[] = [];
afterEach(async () => {
  for (const simulator of running.splice(0)) await simulator.stop();
});

async function start(flavor: FlavorName): Promise<Simulator> {
  const simulator = await startOpenAiSimulator({ flavor, apiKeys: ["key-right"] });
  running.push(simulator);
  return simulator;
}

const MODEL = "m-1";

function workerFor(simulator: Simulator, flavor: FlavorName, key = "key-right") {
  const settings = { keys: [key], models: [MODEL], baseUrl: simulator.url, options: { server: flavor } };
  return createTestWorker(simulator.url, settings, { dialect: openAiDialect(settings) });
}

const text = (value: string) => ({ part: { $case: "text" as const, value } });

function request(said: string, more: DeepPartial<CompletionRequest> = {}): CompletionRequest {
  const messages = [{ role: Role.USER, name: "ada", content: [text(said)] }];
  return CompletionRequest.fromPartial({ model: MODEL, messages, ...more });
}

const tools = [
  { name: "weather", parametersJsonSchema: '{"type":"object","properties":{"city":{"type":"string"}}}' },
  { name: "time" },
];

/** Everything that a client may ask for at once without being refused. */
const everything: DeepPartial<CompletionRequest> = {
  maxOutputTokens: 100,
  sampling: { temperature: 0.5, topP: 0.9, topK: 3, seed: 42, frequencyPenalty: 0.1, stop: ["@@"] },
  user: "user-17",
  reasoning: { effort: Effort.HIGH },
};

async function collect(stream: AsyncIterable<{ readonly parts: readonly Part[] }>) {
  const parts: Part[] = [];
  for await (const chunk of stream) parts.push(...chunk.parts);
  const joined = (kind: "text" | "reasoning") =>
    parts.map(({ part }) => (part?.$case === kind ? part.value.text : "")).join("");
  const calls = parts.flatMap(({ part }) => (part?.$case === "toolCall" && part.value.name ? [part.value.name] : []));
  const usage = parts.flatMap(({ part }) => (part?.$case === "usage" ? [part.value] : []));
  return { text: joined("text"), reasoning: joined("reasoning"), calls, usage };
}

const flavors = Object.keys(FLAVORS) as FlavorName[];
const HIDDEN: readonly FlavorName[] = ["openai", "azure"];

describe.each(flavors)("%s", (flavor) => {
  it("says the same, whole and streamed, to a request with everything in it", async () => {
    const simulator = await start(flavor);
    await using worker = workerFor(simulator, flavor);
    const answer = await complete(worker, request("hello there", everything), startTestCall());
    const streamed = await collect(worker.stream(request("hello there", everything), startTestCall()));
    const said = answer.choices[0]?.message?.content.map(({ part }) => part?.$case);
    const thoughts = HIDDEN.includes(flavor) ? "" : "Let me think.";
    expect(said).toEqual(thoughts === "" ? ["text"] : ["reasoning", "text"]);
    expect(streamed).toMatchObject({ text: "You said: hello there", reasoning: thoughts });
    expect(streamed.usage).toEqual([answer.usage]);
    expect(answer.usage).toMatchObject({ inputTokens: 2, outputTokens: 7 });
  });

  it("calls tools and takes their results, with ids from elsewhere", async () => {
    const simulator = await start(flavor);
    await using worker = workerFor(simulator, flavor);
    const streamed = await collect(worker.stream(request("call tools", { tools }), startTestCall()));
    expect(streamed.calls).toEqual(["weather", "time"]);
    const id = `toolu_from_another_provider_${"x".repeat(30)}`;
    const toolCall = { id, name: "weather", argumentsJson: "{}" };
    const messages = [
      { role: Role.USER, content: [text("call tool")] },
      {
        role: Role.ASSISTANT,
        content: [
          { part: { $case: "reasoning" as const, value: { text: "hm" } } },
          { part: { $case: "toolCall" as const, value: toolCall } },
        ],
      },
      {
        role: Role.TOOL,
        content: [{ part: { $case: "toolResult" as const, value: { toolCallId: id, content: [text("sunny")] } } }],
      },
    ];
    const answer = await complete(worker, request("", { messages, tools }), startTestCall());
    expect(answer.choices[0]?.message?.content.map(({ part }) => part?.$case)).toEqual(["text"]);
  });

  it("fails in words that are understood", async () => {
    const simulator = await start(flavor);
    await using worker = workerFor(simulator, flavor);
    const reason = async (behaviour: string) => {
      simulator.behave([behaviour]);
      return worker.complete(request("hi"), startTestCall()).then(
        () => "none",
        (error) => error.reason,
      );
    };
    expect(await reason("status:404")).toBe("PROVIDER_MODEL_NOT_FOUND");
    expect(await reason("status:503")).toBe("PROVIDER_OVERLOADED");
    expect(await reason("status:500")).toBe("PROVIDER_ERROR");
    simulator.behave(["error:1"]);
    await expect(collect(worker.stream(request("hi"), startTestCall()))).rejects.toMatchObject({
      reason: "PROVIDER_ERROR",
    });
    // The worker's only key rests after this.
    expect(await reason("status:429")).toBe("PROVIDER_RATE_LIMITED");
    await using stranger = workerFor(simulator, flavor, "key-wrong");
    await expect(stranger.complete(request("hi"), startTestCall())).rejects.toMatchObject({
      reason: "PROVIDER_REFUSED_KEY",
    });
  });

  it("is healthy", async () => {
    const simulator = await start(flavor);
    await using worker = workerFor(simulator, flavor);
    expect(await worker.checkHealth(startTestCall())).toMatchObject({ message: "" });
    const own = flavor === "vllm" || flavor === "llama.cpp";
    expect(simulator.requests.map(({ path }) => path === "/health")).toEqual([own]);
  });
});

describe("OpenAI's SDK", () => {
  it.each(flavors.filter((flavor) => flavor !== "azure"))("reads the stream of %s", async (flavor) => {
    const simulator = await start(flavor);
    const client = new OpenAI({ baseURL: simulator.url, apiKey: "key-right", maxRetries: 0 });
    const stream = await client.chat.completions.create({
      model: MODEL,
      messages: [{ role: "user", content: "hello there" }],
      stream: true,
    });
    let said = "";
    for await (const chunk of stream) said += chunk.choices[0]?.delta.content ?? "";
    // OpenRouter's and Mistral's last chunks repeat nothing.
    expect(said).toBe("You said: hello there");
  });
});
