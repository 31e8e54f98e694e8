/** What is cached, and the word that says why not. */
import { describe, expect, it } from "vitest";
import {
  CompletionRequest,
  EmbeddingResult,
  FinishReason,
  type Part,
  type Warning,
} from "../../../libs/gen/cortex/llm/v1/llm.ts";
import { type CacheOptions, CacheOptions_Mode as Mode } from "../../../libs/gen/cortex/router/v1/router.ts";
import type { Configuration } from "../../../libs/host/index.ts";
import { bypass, bypassVectors, unkept, unkeptVectors } from "./rules.ts";

const settings: Configuration["cache"] = {
  enabled: true,
  ttlMs: 900_000,
  temperatureMax: 0.9,
  tokensMax: 10,
  l1: { entries: 1, bytes: 1 },
  l2: { entries: 1, bytes: 1, timeoutMs: 50 },
};

describe("a request", () => {
  const ask = (temperature?: number, options?: CacheOptions, changed: Partial<typeof settings> = {}) =>
    bypass(CompletionRequest.fromPartial({ model: "m", sampling: { temperature } }), options, {
      ...settings,
      ...changed,
    });

  it.each([
    ["without a temperature", undefined, undefined],
    ["with a low temperature", 0, undefined],
    ["with the highest temperature there may be", 0.9, undefined],
    ["with a higher temperature", 0.91, "temperature"],
    ["with a temperature that is no number", Number.NaN, "temperature"],
  ])("%s: %s is %s", (_what, temperature, why) => {
    expect(ask(temperature)).toBe(why);
  });

  it("may ask for several choices, and have no sampling at all", () => {
    expect(bypass(CompletionRequest.fromPartial({ model: "m", choiceCount: 3 }), undefined, settings)).toBeUndefined();
  });

  it("passes the cache by when it says so, and in no other mode", () => {
    expect(ask(0, { mode: Mode.OFF })).toBe("no_cache");
    for (const mode of [Mode.UNSPECIFIED, Mode.REFRESH, Mode.ONLY_IF_CACHED]) expect(ask(0, { mode })).toBeUndefined();
    expect(bypassVectors({ mode: Mode.OFF }, settings)).toBe("no_cache");
    expect(bypassVectors(undefined, settings)).toBeUndefined();
  });

  it("passes a cache by that is switched off, whatever else it says", () => {
    expect(ask(2, { mode: Mode.OFF }, { enabled: false })).toBe("disabled");
    expect(bypassVectors(undefined, { ...settings, enabled: false })).toBe("disabled");
  });

  it("may be as warm as the configuration says", () => {
    expect(ask(1.5, undefined, { temperatureMax: 2 })).toBeUndefined();
  });
});

const delta = ($case: "text" | "reasoning" | "refusal" | "reasoningSignature", text: string, choice = 0): Part => ({
  part: { $case, value: { text, choice, logprobs: [] } },
});
const finish = (reason: FinishReason = FinishReason.STOP, choice = 0): Part => ({
  part: { $case: "finish", value: { choice, reason } },
});
const call = (argumentsJson: string, choice = 0): Part => ({
  part: { $case: "toolCall", value: { choice, index: 0, id: "c", name: "find", argumentsJson, signature: "" } },
});
const warning = (code: string): Warning => ({ code, message: "", parameter: "" });
const warn = (code: string): Part => ({ part: { $case: "warning", value: warning(code) } });

describe("an answer", () => {
  it.each<[string, Part[], string | undefined]>([
    ["that is whole", [delta("text", "hi"), finish()], undefined],
    ["that has come to the asked length", [delta("text", "hi"), finish(FinishReason.LENGTH)], undefined],
    ["that is a tool call", [call("{}"), finish(FinishReason.TOOL_CALLS)], undefined],
    ["that is a refusal", [delta("refusal", "no"), finish()], undefined],
    ["without an end", [delta("text", "hi")], "unfinished"],
    ["with an end of no kind", [delta("text", "hi"), finish(FinishReason.UNSPECIFIED)], "unfinished"],
    ["of which one choice has no end", [delta("text", "a"), delta("text", "b", 1), finish()], "unfinished"],
    ["of which a tool call has no end", [delta("text", "a"), call("{", 1), finish()], "unfinished"],
    ["with an end for each choice", [delta("text", "a"), delta("text", "b", 1), finish(), finish(1, 1)], undefined],
    [
      "of which the provider withheld the rest",
      [delta("text", "a"), finish(FinishReason.CONTENT_FILTER)],
      "content_filter",
    ],
    ["that says nothing", [finish()], "empty"],
    ["that says nothing at length", [delta("text", ""), finish()], "empty"],
    ["that was only thought", [delta("reasoning", "hm"), delta("reasoningSignature", "s"), finish()], "empty"],
    ["of a simulation", [warn("SIMULATED"), delta("text", "hi"), finish()], undefined],
    ["with a usual value", [warn("PARAMETER_DEFAULTED"), delta("text", "hi"), finish()], undefined],
    [
      "that lacks something",
      [warn("SIMULATED"), warn("UNSUPPORTED_PARAMETER"), delta("text", "hi"), finish()],
      "warning",
    ],
    ["with a warning nobody knows", [warn("NEW"), delta("text", "hi"), finish()], "warning"],
    ["with a part nobody knows", [{}, delta("text", "hi"), finish()], "unknown"],
    ["as long as may be", [delta("text", "x".repeat(40)), finish()], undefined],
    ["that is longer", [delta("text", "x".repeat(41)), finish()], "too_long"],
    [
      "that is longer with its thoughts",
      [delta("reasoning", "x".repeat(40)), delta("text", "x"), finish()],
      "too_long",
    ],
    ["that is longer with its arguments", [delta("text", "x"), call("x".repeat(40)), finish()], "too_long"],
    [
      "whose choices are longer together",
      [delta("text", "x".repeat(40)), delta("text", "x", 1), finish(), finish(1, 1)],
      "too_long",
    ],
  ])("%s", (_what, parts, why) => {
    expect(unkept(parts, settings)).toBe(why);
  });

  it("that another worker has gone on with is not kept", () => {
    const value = { worker: "b", provider: "p", model: "m", reason: "PROVIDER_STREAM_CUT" };
    const parts: Part[] = [delta("text", "a"), { part: { $case: "continued", value } }, delta("text", "b"), finish()];
    expect(unkept(parts, settings)).toBe("continued");
  });
});

describe("vectors", () => {
  const result = (vectors: number[][], ...codes: string[]) =>
    EmbeddingResult.fromPartial({ embeddings: vectors.map((values) => ({ values })), warnings: codes.map(warning) });

  it.each<[string, EmbeddingResult, string | undefined]>([
    ["for each input", result([[1], [2]]), undefined],
    ["of a simulation", result([[1], [2]], "SIMULATED"), undefined],
    ["too few", result([[1]]), "unfinished"],
    ["too many", result([[1], [2], [3]]), "unfinished"],
    ["of which one has no values", result([[1], []]), "empty"],
    ["that lack something", result([[1], [2]], "UNSUPPORTED_PARAMETER"), "warning"],
  ])("%s", (_what, embedding, why) => {
    expect(unkeptVectors(embedding, 2)).toBe(why);
  });
});
