import { join } from "node:path";
import { describe, expect, it } from "vitest";
import {
  assistant,
  look,
  type PartialContent,
  type PartialMessage,
  reasoning,
  text,
  user,
} from "../../libs/adapter/testing/conversation.ts";
import { testDialect } from "../../libs/adapter/testing/index.ts";
import { createSend, refusal } from "../../libs/adapter/testing/sending.ts";
import {
  type CompletionRequest,
  type DeepPartial,
  ReasoningOptions_Effort as Effort,
  ResponseFormat_Kind,
  Role,
  ToolChoice_Mode,
} from "../../libs/gen/cortex/llm/v1/llm.ts";
import { anthropic } from "./dialect.ts";

testDialect(anthropic, { folder: join(import.meta.dirname, "fixtures"), model: "claude-sonnet-4-5" });

const result = (toolCallId: string, ...content: PartialContent): PartialMessage => ({
  role: Role.TOOL,
  content: [{ part: { $case: "toolResult" as const, value: { toolCallId, content } } }],
});
const file = (mediaType: string, data: string, filename = "") => ({
  part: {
    $case: "file" as const,
    value: { source: { $case: "data" as const, value: Buffer.from(data) }, mediaType, filename },
  },
});
const fileId = (value: string) => ({
  part: { $case: "file" as const, value: { source: { $case: "providerFileId" as const, value } } },
});

/** The bound that is always set is the model's own. */
const send = createSend(anthropic, "claude-sonnet-4-5", { maxOutputTokens: 64_000 });
const refused = (request: DeepPartial<CompletionRequest>, name?: string) => refusal(() => send(request, name).body);

describe("how much Claude is to think", () => {
  const thinking = (name: string, request: DeepPartial<CompletionRequest>) => {
    const { body, warned } = send(request, name);
    return [body.thinking, body.output_config?.effort, warned];
  };
  const effort = (value: Effort, budgetTokens?: number) => ({ reasoning: { effort: value, budgetTokens } });
  const enabled = (budget_tokens: number) => ({ type: "enabled", budget_tokens });

  it("is a budget before Claude 4.6, within max_tokens", () => {
    expect(thinking("claude-3-7-sonnet-20250219", effort(Effort.LOW))).toEqual([enabled(2048), undefined, []]);
    expect(thinking("claude-sonnet-4-5", effort(Effort.HIGH))).toEqual([enabled(24_576), undefined, []]);
    expect(thinking("claude-sonnet-4-5", { ...effort(Effort.HIGH), maxOutputTokens: 4096 })).toEqual([
      enabled(3072),
      undefined,
      [],
    ]);
    expect(thinking("claude-opus-4-20250514", effort(Effort.HIGH, 5000))).toEqual([enabled(5000), undefined, []]);
    expect(thinking("claude-haiku-4-5", effort(Effort.UNSPECIFIED, 10))).toEqual([
      enabled(1024),
      undefined,
      ["reasoning.budget_tokens"],
    ]);
    expect(thinking("claude-haiku-4-5", { ...effort(Effort.HIGH), maxOutputTokens: 2000 })).toEqual([
      undefined,
      undefined,
      ["reasoning_effort"],
    ]);
  });

  it("is an effort from Claude 4.6 on", () => {
    expect(thinking("claude-opus-4-6", effort(Effort.MEDIUM))).toEqual([{ type: "adaptive" }, "medium", []]);
    expect(thinking("claude-opus-4-6", effort(Effort.MEDIUM, 5000))).toEqual([enabled(5000), "medium", []]);
    expect(thinking("claude-opus-4-6", effort(Effort.XHIGH))).toEqual([
      { type: "adaptive" },
      "high",
      ["reasoning_effort"],
    ]);
    const adaptive = { type: "adaptive", display: "summarized" };
    expect(thinking("claude-opus-4-8", effort(Effort.XHIGH))).toEqual([adaptive, "xhigh", []]);
    expect(thinking("claude-opus-4-7", effort(Effort.MAX))).toEqual([adaptive, "max", []]);
    expect(thinking("claude-sonnet-5", effort(Effort.MINIMAL))).toEqual([adaptive, "low", ["reasoning_effort"]]);
    expect(thinking("claude-mythos-preview", effort(Effort.HIGH, 9))).toEqual([
      adaptive,
      "high",
      ["reasoning.budget_tokens"],
    ]);
  });

  it("is nothing when none is wanted, and where there is none", () => {
    expect(thinking("claude-opus-4-7", effort(Effort.NONE))).toEqual([undefined, undefined, []]);
    expect(thinking("claude-opus-5", effort(Effort.NONE))).toEqual([undefined, "low", ["reasoning_effort"]]);
    expect(thinking("claude-3-5-haiku-latest", effort(Effort.HIGH))).toEqual([
      undefined,
      undefined,
      ["reasoning_effort"],
    ]);
  });

  it("is nothing where tools forbid it", () => {
    const tools = [{ name: "look" }];
    const forced = { ...effort(Effort.HIGH), tools, toolChoice: { mode: ToolChoice_Mode.REQUIRED } };
    expect(thinking("claude-opus-4-7", forced)).toEqual([undefined, undefined, ["reasoning_effort"]]);
    const loop = (...content: PartialContent) => ({
      ...effort(Effort.HIGH),
      tools,
      messages: [user(text("hi")), assistant(...content), result("a", text("x")), user(text("and quick"))],
    });
    expect(thinking("claude-sonnet-4-5", loop(look("a")))).toEqual([undefined, undefined, ["reasoning_effort"]]);
    const signed = loop(reasoning("hm", "anthropic:c2ln"), look("a"));
    expect(thinking("claude-sonnet-4-5", signed)).toEqual([enabled(24_576), undefined, []]);
    expect(thinking("claude-opus-4-6", loop(look("a")))).toEqual([{ type: "adaptive" }, "high", []]);
    const messages = [...loop(look("a")).messages, assistant(text("done")), user(text("more"))];
    expect(thinking("claude-sonnet-4-5", { ...effort(Effort.LOW), tools, messages })).toEqual([
      enabled(2048),
      undefined,
      [],
    ]);
  });
});

describe("thoughts of earlier turns", () => {
  it("go back with their signature, or not at all", () => {
    const messages = [
      user(text("hi")),
      assistant(reasoning("hm", "anthropic:c2ln"), reasoning("", "anthropic-redacted:ZW5j"), text("yes")),
      user(text("so?")),
      assistant(reasoning("hm", "gemini:c2ln"), reasoning("ha", ""), text("no")),
      user(text("oh")),
    ];
    const { body, warned } = send({ messages });
    expect(body.messages[1].content).toEqual([
      { type: "thinking", thinking: "hm", signature: "c2ln" },
      { type: "redacted_thinking", data: "ZW5j" },
      { type: "text", text: "yes" },
    ]);
    expect(body.messages[3].content).toEqual([{ type: "text", text: "no" }]);
    expect(warned).toEqual(["messages[3].reasoning_content", "messages[3].reasoning_content"]);
  });
});

describe("what Claude is sent", () => {
  it("has a bound, the model's own if none was set", () => {
    const bound = (name: string) => {
      const { body, warned } = send({ maxOutputTokens: undefined }, name);
      return [body.max_tokens, warned];
    };
    expect(bound("claude-3-haiku-20240307")).toEqual([4096, ["max_tokens"]]);
    expect(bound("claude-3-5-sonnet-latest")).toEqual([8192, ["max_tokens"]]);
    expect(bound("claude-3-7-sonnet-latest")).toEqual([64_000, ["max_tokens"]]);
    expect(bound("claude-opus-4-1-20250805")).toEqual([32_000, ["max_tokens"]]);
    expect(bound("claude-sonnet-4-20250514")).toEqual([64_000, ["max_tokens"]]);
    expect(bound("claude-of-tomorrow")).toEqual([64_000, ["max_tokens"]]);
    expect(send({ maxOutputTokens: 7 })).toMatchObject({ body: { max_tokens: 7 }, warned: [] });
  });

  it("has of sampling what its generation takes", () => {
    const sampled = (sampling: object, name: string, more: DeepPartial<CompletionRequest> = {}) => {
      const { body, warned } = send({ sampling, ...more }, name);
      return [body.temperature, body.top_p, body.top_k, warned];
    };
    const all = { temperature: 0.5, topP: 0.9, topK: 40 };
    expect(sampled(all, "claude-3-5-haiku-latest")).toEqual([0.5, 0.9, 40, []]);
    expect(sampled(all, "claude-sonnet-4-5")).toEqual([0.5, undefined, 40, ["top_p"]]);
    expect(sampled({ topP: 0.9 }, "claude-sonnet-4-5")).toEqual([undefined, 0.9, undefined, []]);
    expect(sampled({ temperature: 1.5 }, "claude-sonnet-4-5")).toEqual([1, undefined, undefined, ["temperature"]]);
    expect(sampled(all, "claude-opus-4-7")).toEqual([
      undefined,
      undefined,
      undefined,
      ["temperature", "top_p", "top_k"],
    ]);
    expect(sampled({ temperature: 1, topP: 1 }, "claude-opus-4-7")).toEqual([undefined, undefined, undefined, []]);
    const thinks = { reasoning: { effort: Effort.LOW } };
    expect(sampled(all, "claude-sonnet-4-5", thinks)).toEqual([
      undefined,
      undefined,
      undefined,
      ["temperature", "top_k", "top_p"],
    ]);
    expect(sampled({ topP: 0.97 }, "claude-sonnet-4-5", thinks)).toEqual([undefined, 0.97, undefined, []]);
    const others = { seed: 1, frequencyPenalty: 1, presencePenalty: 1, logitBias: { 1: 2 }, stop: ["END"] };
    const { body, warned } = send({ sampling: others, user: "u", extraJson: { store: "true" } });
    expect(body).toMatchObject({ stop_sequences: ["END"], metadata: { user_id: "u" } });
    expect(warned).toEqual(["store", "logit_bias", "seed", "frequency_penalty", "presence_penalty"]);
  });

  it("has turns that alternate, results of tools first, and ids in letters that it takes", () => {
    const system = (value: string): PartialMessage => ({ role: Role.SYSTEM, content: [text(value)] });
    const messages = [
      system("one"),
      user(text("hi")),
      user(text("there"), text("")),
      assistant(look("functions.look:0"), look("functions_look_0")),
      result("functions.look:0", text("x")),
      result("functions_look_0"),
      user(text("so?")),
      system("two"),
      assistant(),
      user(text("well?")),
    ];
    const { body, warned } = send({ messages });
    expect(body.system).toEqual([
      { type: "text", text: "one" },
      { type: "text", text: "two" },
    ]);
    expect(body.messages).toEqual([
      {
        role: "user",
        content: [
          { type: "text", text: "hi" },
          { type: "text", text: "there" },
        ],
      },
      {
        role: "assistant",
        content: [
          { type: "tool_use", id: "functions_look_0", name: "look", input: {} },
          { type: "tool_use", id: "functions_look_0_2", name: "look", input: {} },
        ],
      },
      {
        role: "user",
        content: [
          { type: "tool_result", tool_use_id: "functions_look_0", content: [{ type: "text", text: "x" }] },
          { type: "tool_result", tool_use_id: "functions_look_0_2" },
          { type: "text", text: "so?" },
          { type: "text", text: "well?" },
        ],
      },
    ]);
    expect(warned).toEqual(["messages[7]", "messages[8]"]);
    expect(refused({ messages: [assistant(text("Hello, I am here."))] })).toBe("UNSUPPORTED_PARAMETER messages");
  });

  it("has pictures and documents, in results of tools too", () => {
    const picture = {
      part: {
        $case: "image" as const,
        value: { source: { $case: "data" as const, value: Buffer.from("x") }, mediaType: "image/jpg" },
      },
    };
    const { body } = send({ messages: [user(text("hi")), assistant(look("a")), result("a", picture)] });
    expect(body.messages[2].content[0].content).toEqual([
      { type: "image", source: { type: "base64", media_type: "image/jpeg", data: "eA==" } },
    ]);
    const documents = [file("application/pdf", "%PDF", "a.pdf"), file("text/plain", "grüße"), fileId("file_01")];
    const sent = send({ messages: [user(...documents)] });
    expect(sent.body.messages[0].content).toEqual([
      { type: "document", source: { type: "base64", media_type: "application/pdf", data: "JVBERg==" }, title: "a.pdf" },
      { type: "document", source: { type: "text", media_type: "text/plain", data: "grüße" } },
      { type: "document", source: { type: "file", file_id: "file_01" } },
    ]);
    expect(sent.headers).toEqual({ "anthropic-version": "2023-06-01", "anthropic-beta": "files-api-2025-04-14" });
    const field = "UNSUPPORTED_PARAMETER messages[0].content[0].file";
    expect(refused({ messages: [user(fileId("file-abc"))] })).toBe(`${field}.file_id`);
    expect(refused({ messages: [user(file("text/csv", "a,b"))] })).toBe(field);
  });

  it("ends in an answer that has begun as it is taken: without white space, and without thoughts", () => {
    const begun = (...words: string[]) => ({ messages: [user(text("hi")), assistant(...words.map(text))] });
    const { body, warned } = send({ ...begun("Hello, ", "I am\n "), reasoning: { effort: Effort.HIGH } });
    expect(body.messages[1].content).toEqual([
      { type: "text", text: "Hello, " },
      { type: "text", text: "I am" },
    ]);
    expect(body.thinking).toBeUndefined();
    expect(warned).toEqual(expect.arrayContaining(["messages[1]", "reasoning_effort"]));
    expect(send(begun("Hello,", " \n")).body.messages[1].content).toEqual([{ type: "text", text: "Hello," }]);
    expect(send(begun(" ")).body.messages).toHaveLength(1);
    expect(send(begun("Hello, I am")).warned).not.toContain("messages[1]");
  });

  it("says how tools are to be called", () => {
    const choice = (request: DeepPartial<CompletionRequest>) =>
      send({ tools: [{ name: "look" }], ...request }).body.tool_choice;
    const one = { disable_parallel_tool_use: true };
    expect(choice({})).toBeUndefined();
    expect(choice({ parallelToolCalls: false })).toEqual({ type: "auto", ...one });
    expect(choice({ toolChoice: { mode: ToolChoice_Mode.REQUIRED } })).toEqual({ type: "any" });
    expect(choice({ tools: [], toolChoice: { mode: ToolChoice_Mode.NONE } })).toBeUndefined();
    const strict = { tools: [{ name: "look", strict: true }] };
    expect(send(strict, "claude-3-7-sonnet-latest").warned).toEqual(["tools[0].function.strict"]);
  });

  it("is refused where it would come to something else", () => {
    expect(refused({ sampling: { stop: ["END", "\n"] } })).toBe("UNSUPPORTED_PARAMETER stop");
    expect(refused({ responseFormat: { kind: ResponseFormat_Kind.JSON_OBJECT } })).toBe(
      "UNSUPPORTED_PARAMETER response_format",
    );
    const schema = { kind: ResponseFormat_Kind.JSON_SCHEMA, jsonSchema: "{}" };
    expect(refused({ responseFormat: schema }, "claude-3-7-sonnet-latest")).toBe(
      "UNSUPPORTED_PARAMETER response_format",
    );
    expect(refused({ responseFormat: { ...schema, jsonSchema: "[]" } })).toBe(
      "INVALID_REQUEST response_format.json_schema.schema",
    );
  });

  it("has its key in a header alone, and none when there is none", () => {
    expect(anthropic.authorization("k")).toEqual({ "x-api-key": "k" });
    expect(anthropic.authorization("")).toEqual({});
    expect(anthropic.healthRequest().headers).toEqual({ "anthropic-version": "2023-06-01" });
  });
});
