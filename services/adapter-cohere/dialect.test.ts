import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { testDialect } from "../../libs/adapter/testing/index.ts";
import { contextFor, createSend, refusal } from "../../libs/adapter/testing/sending.ts";
import {
  type CompletionRequest,
  type DeepPartial,
  EmbeddingRequest,
  ReasoningOptions_Effort,
  ResponseFormat_Kind,
  ToolChoice_Mode,
} from "../../libs/gen/cortex/llm/v1/llm.ts";
import { cohere } from "./dialect.ts";

const MODEL = "command-a-03-2025";

testDialect(cohere, { folder: join(import.meta.dirname, "fixtures"), model: MODEL });

const send = createSend(cohere, MODEL);

describe("the bounds of Cohere's parameters", () => {
  it("become what is sent in place of what lies beyond them, with a warning", () => {
    const beyond = { topP: 1, topK: 1_000, frequencyPenalty: 2, presencePenalty: -2 };
    expect(send({ sampling: beyond })).toMatchObject({
      body: { p: 0.99, k: 500, frequency_penalty: 1, presence_penalty: 0 },
      warned: ["top_p", "top_k", "frequency_penalty", "presence_penalty"],
    });
    const within = { topP: 0.01, topK: 0, frequencyPenalty: 0, presencePenalty: 1 };
    expect(send({ sampling: within })).toMatchObject({
      body: { p: 0.01, k: 0, frequency_penalty: 0, presence_penalty: 1 },
      warned: [],
    });
    expect(send({ sampling: { topP: 0 } })).toMatchObject({ body: { p: 0.01 }, warned: ["top_p"] });
  });

  it("are refused where no bound would do", () => {
    const stop = ["a", "b", "c", "d", "e"];
    expect(send({ sampling: { stop } }).body.stop_sequences).toEqual(stop);
    expect(refusal(() => send({ sampling: { stop: [...stop, "f"] } }))).toBe("UNSUPPORTED_PARAMETER stop");
    expect(refusal(() => send({ sampling: { seed: -1 } }))).toBe("UNSUPPORTED_PARAMETER seed");
    expect(send({ logprobs: true }).body.logprobs).toBe(true);
    expect(refusal(() => send({ logprobs: true, topLogprobs: 1 }))).toBe("UNSUPPORTED_PARAMETER top_logprobs");
  });
});

describe("tools at Cohere", () => {
  const tools = [{ name: "look", strict: true }, { name: "listen" }];

  it("are one tool when it is chosen by name", () => {
    const { body } = send({ tools, toolChoice: { mode: ToolChoice_Mode.NAMED, name: "listen" } });
    expect([body.tools.length, body.tools[0].function.name, body.tool_choice]).toEqual([1, "listen", "REQUIRED"]);
    const named = (name: string) => () => send({ tools, toolChoice: { mode: ToolChoice_Mode.NAMED, name } });
    expect(refusal(named("smell"))).toBe("INVALID_REQUEST tool_choice.function.name");
    expect(refusal(() => send({ toolChoice: { mode: ToolChoice_Mode.REQUIRED } }))).toBe("INVALID_REQUEST tool_choice");
  });

  it("are held to their schemas all together or not at all", () => {
    expect(send({ tools: tools.slice(0, 1) })).toMatchObject({ body: { strict_tools: true }, warned: [] });
    const { body, warned } = send({ tools });
    expect([body.strict_tools, warned]).toEqual([undefined, ["tools[0].function.strict"]]);
  });

  it("are refused for a name that Cohere does not take", () => {
    for (const name of ["get-weather", "2nd", "größe"]) {
      expect(refusal(() => send({ tools: [{ name: "fine" }, { name }] }))).toBe(
        "UNSUPPORTED_PARAMETER tools[1].function.name",
      );
    }
  });

  it("exclude JSON, unless none may be called", () => {
    const responseFormat = { kind: ResponseFormat_Kind.JSON_OBJECT };
    expect(refusal(() => send({ tools, responseFormat }))).toBe("UNSUPPORTED_PARAMETER response_format");
    const { body } = send({ tools, responseFormat, toolChoice: { mode: ToolChoice_Mode.NONE } });
    expect([body.tools, body.tool_choice, body.response_format]).toEqual([
      undefined,
      undefined,
      { type: "json_object" },
    ]);
  });
});

describe("thinking at Cohere", () => {
  it("is switched on, off or bounded", () => {
    const thinking = (reasoning: DeepPartial<CompletionRequest>["reasoning"]) => {
      const { body, warned } = send({ reasoning });
      return [body.thinking, ...warned];
    };
    expect(thinking(undefined)).toEqual([undefined]);
    expect(thinking({ effort: ReasoningOptions_Effort.NONE })).toEqual([{ type: "disabled" }]);
    expect(thinking({ budgetTokens: 0 })).toEqual([{ type: "disabled" }]);
    expect(thinking({ budgetTokens: 300 })).toEqual([{ type: "enabled", token_budget: 300 }]);
    expect(thinking({ effort: ReasoningOptions_Effort.LOW })).toEqual([{ type: "enabled" }, "reasoning_effort"]);
  });
});

describe("embeddings at Cohere", () => {
  const send = (request: DeepPartial<EmbeddingRequest>) => {
    const asked = cohere.embedding?.request(
      EmbeddingRequest.fromPartial({ inputs: ["a"], ...request }),
      contextFor(MODEL),
    );
    return { body: JSON.parse(asked?.body ?? ""), warned: asked?.warnings?.map(({ parameter }) => parameter) };
  };

  it("are for documents unless the request says otherwise", () => {
    expect(send({})).toMatchObject({ body: { input_type: "search_document" }, warned: ["input_type"] });
    const asked = send({ extraJson: { input_type: '"search_query"', odd: "1" } });
    expect(asked).toMatchObject({ body: { input_type: "search_query" }, warned: ["odd"] });
    expect(refusal(() => send({ extraJson: { input_type: "{" } }))).toBe("INVALID_REQUEST input_type");
    expect(refusal(() => send({ inputs: Array(97).fill("a") }))).toBe("UNSUPPORTED_PARAMETER input");
  });
});
