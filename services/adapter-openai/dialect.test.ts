import { join } from "node:path";
import { describe, expect, it } from "vitest";
import type { AttemptContext } from "../../libs/adapter/index.ts";
import { testDialect } from "../../libs/adapter/testing/index.ts";
import { CompletionRequest, type DeepPartial, Role } from "../../libs/gen/cortex/llm/v1/llm.ts";
import { RpcError } from "../../libs/rpc/index.ts";
import { openAiDialect } from "./dialect.ts";

/** A server that is not known: the model's name alone decides what differs. */
const openai = openAiDialect({ baseUrl: "http://localhost:8000/v1" });

testDialect(openai, { folder: join(import.meta.dirname, "fixtures"), model: "gpt-4o-mini" });

const context = (model: string): AttemptContext => ({
  worker: "worker-a",
  model,
  nowS: 1_764_000_000,
  mintId: (prefix) => `${prefix}x`,
});

/** What is sent for `request` to `model`: the text of the body, parsed, and the parameters that were warned about. */
function send(request: DeepPartial<CompletionRequest>, model: string, dialect = openai) {
  const hello = { role: Role.USER, content: [{ part: { $case: "text" as const, value: "hi" } }] };
  const full = CompletionRequest.fromPartial({ messages: [hello], ...request });
  const { body: text = "", warnings = [] } = dialect.chatRequest(full, false, context(model));
  return { text, body: JSON.parse(text), warned: warnings.map(({ parameter }) => parameter) };
}

describe("what differs between OpenAI and the servers that speak like it", () => {
  const limited = { maxOutputTokens: 7 };
  const elsewhere = openai;
  const atOpenAi = openAiDialect({ baseUrl: "https://api.openai.com/v1" });

  it("bounds the tokens with the field that the server knows", () => {
    for (const model of ["gpt-5", "o3-mini", "chatgpt-4o-latest", "ft:gpt-4o:acme::1", "openai/gpt-4o"]) {
      expect(send(limited, model, elsewhere).body).toMatchObject({ max_completion_tokens: 7 });
    }
    for (const model of ["llama3.2", "gpt-oss:20b", "openai/gpt-oss-120b", "mistral-small-latest", "ollama3"]) {
      const { body } = send(limited, model, elsewhere);
      expect([body.max_tokens, body.max_completion_tokens]).toEqual([7, undefined]);
    }
    expect(send(limited, "a-name-of-tomorrow", atOpenAi).body).toMatchObject({ max_completion_tokens: 7 });
    const told = openAiDialect({ baseUrl: "http://localhost:8000/v1", options: { maxTokensField: "max_tokens" } });
    expect(send(limited, "gpt-4o", told).body).toMatchObject({ max_tokens: 7 });
    expect(send(limited, "a-name-of-tomorrow", openAiDialect({})).body).toMatchObject({ max_completion_tokens: 7 });
    expect(() => openAiDialect({ options: { maxTokensField: "tokens" } })).toThrow("options.maxTokensField");
  });

  it("sends top_k and long lists of stop sequences only where they are known", () => {
    const stop = ["a", "b", "c", "d", "e"];
    expect(send({ sampling: { topK: 3, stop } }, "llama3.2", elsewhere)).toMatchObject({
      body: { top_k: 3, stop },
      warned: [],
    });
    const { body, warned } = send({ sampling: { topK: 3 } }, "gpt-4o");
    expect([body.top_k, warned]).toEqual([undefined, ["top_k"]]);
    expect(() => send({ sampling: { stop } }, "gpt-4o")).toThrow(
      expect.objectContaining({ reason: "UNSUPPORTED_PARAMETER", field: "stop" }),
    );
  });

  it("gives reasoning back within a loop of tool calls, to servers that have a place for it", () => {
    const content = [
      { part: { $case: "reasoning" as const, value: { text: "hm" } } },
      { part: { $case: "toolCall" as const, value: { id: "call_a", name: "look", argumentsJson: "{}" } } },
    ];
    const messages = [{ role: Role.ASSISTANT, content }];
    const there = send({ messages }, "deepseek-reasoner");
    expect([there.body.messages[0].reasoning_content, there.warned]).toEqual(["hm", []]);
    const here = send({ messages }, "gpt-4o");
    expect([here.body.messages[0].reasoning_content, here.warned]).toEqual([
      undefined,
      ["messages[0].reasoning_content"],
    ]);
  });
});

describe("a request is never altered in silence", () => {
  it("passes on extra parameters as they came, but not in place of its own", () => {
    const extraJson = { metadata: '{ "id": 12345678901234567890, "id": 1.0 }', model: '"another"' };
    const { text, body, warned } = send({ extraJson }, "gpt-4o");
    expect(text).toContain('"metadata":{ "id": 12345678901234567890, "id": 1.0 }');
    expect(body.model).toBe("gpt-4o");
    expect(warned).toEqual(["model"]);
  });

  it("refuses what it can't say, naming the field", () => {
    const image = {
      part: { $case: "image" as const, value: { source: { $case: "url" as const, value: "https://x/y" } } },
    };
    const tool = { part: { $case: "toolResult" as const, value: { toolCallId: "call_a", content: [image] } } };
    const refused = (request: DeepPartial<CompletionRequest>) => {
      try {
        return send(request, "gpt-4o").text;
      } catch (thrown) {
        return thrown instanceof RpcError ? `${thrown.reason} ${thrown.field}` : thrown;
      }
    };
    const audio = { part: { $case: "audio" as const, value: { data: Buffer.from("x"), mediaType: "audio/ogg" } } };
    expect(refused({ messages: [{ role: Role.TOOL, content: [tool] }] })).toBe(
      "UNSUPPORTED_PARAMETER messages[0].content[0]",
    );
    expect(refused({ messages: [{ role: Role.USER, content: [audio] }] })).toBe(
      "UNSUPPORTED_PARAMETER messages[0].content[0].input_audio.format",
    );
    expect(refused({ messages: [{ role: Role.SYSTEM, content: [image] }] })).toBe(
      "INVALID_REQUEST messages[0].content[0]",
    );
    expect(refused({ extraJson: { modalities: '["text", "audio"]' } })).toBe("UNSUPPORTED_PARAMETER modalities");
    expect(refused({ extraJson: { store: "tru" } })).toBe("INVALID_REQUEST store");
    expect(refused({ tools: [{ name: "t", parametersJsonSchema: "[]" }] })).toBe(
      "INVALID_REQUEST tools[0].function.parameters",
    );
  });
});

describe("keys in error messages", () => {
  it("are taken out, whichever way the provider repeats them", () => {
    for (const [message, clean] of [
      ["Incorrect API key provided: sk-abcdef1234567890.", "Incorrect API key provided: [redacted]."],
      ["Your api key: ****-key is invalid", "Your api key: [redacted] is invalid"],
      ["invalid token 4f9d8c7b6a5e4d3c2b1a0f9e8d7c6b5a", "invalid token [redacted]"],
      ["see https://example.com/docs/401-errors", "see https://example.com/docs/401-errors"],
    ]) {
      expect(openai.error(401, {}, JSON.stringify({ error: { message } })).message).toBe(clean);
    }
    const echoed = openai.error(
      500,
      {},
      JSON.stringify({ error: { message: "header Bearer gsk_a1b2c3d4e5f6g7h8 refused" } }),
    );
    expect(echoed.message).toBe("header Bearer [redacted] refused");
  });

  it("leave no header when there is no key", () => {
    expect(openai.authorization("")).toEqual({});
    expect(openai.authorization("k")).toEqual({ authorization: "Bearer k" });
  });
});
