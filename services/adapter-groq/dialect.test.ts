import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { testDialect } from "../../libs/adapter/testing/index.ts";
import {
  CompletionRequest,
  type DeepPartial,
  ReasoningOptions_Effort as Effort,
  ResponseFormat_Kind,
  Role,
  ToolChoice_Mode,
} from "../../libs/gen/cortex/llm/v1/llm.ts";
import { groqDialect } from "./dialect.ts";

const groq = groqDialect({});

testDialect(groq, { folder: join(import.meta.dirname, "fixtures"), model: "openai/gpt-oss-120b" });

/** What is sent for `request` to `model`: the parsed body, and the parameters that were warned about. */
function send(request: DeepPartial<CompletionRequest>, model: string, stream = false) {
  const hello = { role: Role.USER, content: [{ part: { $case: "text" as const, value: "hi" } }] };
  const full = CompletionRequest.fromPartial({ messages: [hello], ...request });
  const context = { worker: "worker-a", model, nowS: 1, mintId: (prefix: string) => `${prefix}x` };
  const { body = "", warnings = [] } = groq.chatRequest(full, stream, context);
  return { body: JSON.parse(body), warned: warnings.map(({ parameter }) => parameter) };
}

it("is itself wherever its base URL leads, unless it is told to be another", () => {
  const { authorization, defaults } = groqDialect({ baseUrl: "http://127.0.0.1:9100/openai/v1" });
  expect(authorization("gsk_k")).toEqual({ authorization: "Bearer gsk_k" });
  expect(defaults).toMatchObject({ priority: 50, pool: { connections: 100, keepAliveMs: 30_000 } });
});

describe("reasoning", () => {
  const ask = (effort: Effort, model: string) => send({ reasoning: { effort } }, model);

  it("is asked for in the words of each family of models, with a warning where they only come near", () => {
    const sent = (effort: Effort, model: string) => {
      const { body, warned } = ask(effort, model);
      return [body.reasoning_effort, warned.length];
    };
    expect(sent(Effort.LOW, "openai/gpt-oss-20b")).toEqual(["low", 0]);
    expect(sent(Effort.MINIMAL, "openai/gpt-oss-20b")).toEqual(["low", 1]);
    expect(sent(Effort.NONE, "openai/gpt-oss-20b")).toEqual(["low", 1]);
    expect(sent(Effort.NONE, "qwen/qwen3-32b")).toEqual(["none", 0]);
    expect(sent(Effort.HIGH, "qwen/qwen3-32b")).toEqual(["default", 1]);
  });

  it("comes apart from the answer, unless the client wants it otherwise", () => {
    expect(send({}, "qwen/qwen3-32b").body.reasoning_format).toBe("parsed");
    expect(send({ extraJson: { reasoning_format: '"raw"' } }, "qwen/qwen3-32b").body.reasoning_format).toBe("raw");
    expect(send({ extraJson: { include_reasoning: "false" } }, "qwen/qwen3-32b").body.reasoning_format).toBeUndefined();
    expect(send({}, "llama-3.3-70b-versatile").body.reasoning_format).toBeUndefined();
    expect(send({}, "openai/gpt-oss-120b").body.reasoning_format).toBeUndefined();
  });
});

describe("JSON", () => {
  const format = { kind: ResponseFormat_Kind.JSON_SCHEMA, jsonSchema: "{}" };
  const tools = [{ name: "look" }];

  it("is asked for whole where it is to be streamed", () => {
    const { body, warned } = send({ responseFormat: format }, "openai/gpt-oss-120b", true);
    expect([body.stream, body.stream_options, warned]).toEqual([false, undefined, []]);
    expect(send({ responseFormat: { kind: ResponseFormat_Kind.TEXT } }, "openai/gpt-oss-120b", true).body.stream).toBe(
      true,
    );
  });

  it("is refused together with tools that could be called", () => {
    expect(() => send({ responseFormat: format, tools }, "openai/gpt-oss-120b")).toThrow(
      expect.objectContaining({ reason: "UNSUPPORTED_PARAMETER", field: "response_format" }),
    );
    const toolChoice = { mode: ToolChoice_Mode.NONE };
    const { body } = send({ responseFormat: format, tools, toolChoice }, "openai/gpt-oss-120b");
    expect([body.tools, body.tool_choice, body.response_format.type]).toEqual([undefined, undefined, "json_schema"]);
  });
});
