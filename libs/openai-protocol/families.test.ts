/** What is known of models by their names: the certain ones, and no word about the others. */
import { describe, expect, it } from "vitest";
import type { DialectDefaults } from "../adapter/index.ts";
import { createOpenAiDialect, type DialectSettings } from "./index.ts";

const defaults: DialectDefaults = {
  baseUrl: "https://api.openai.com/v1",
  priority: 1,
  capabilities: [],
  pool: { connections: 1, keepAliveMs: 1 },
  timeouts: { connectMs: 1, poolMs: 1, firstTokenMs: 1, stallMs: 1, totalMs: 1 },
};

const dialect = (settings: DialectSettings = {}) => createOpenAiDialect({ provider: "openai", defaults }, settings);
const at = (server: string) => dialect({ models: ["m"], options: { server } });

const SEEING = ["vision", "files", "tools", "json_schema"];

describe("what is known of a model", () => {
  it.each<[string, string[], number | undefined]>([
    ["gpt-4o", SEEING, 128_000],
    ["gpt-4o-mini-2024-07-18", SEEING, 128_000],
    ["ft:gpt-4o-mini-2024-07-18:acme::abc", SEEING, 128_000],
    ["gpt-4o-2024-05-13", ["vision", "tools"], 128_000],
    ["gpt-4o-audio-preview", ["audio", "tools"], 128_000],
    ["gpt-4.1-nano", SEEING, 1_047_576],
    ["gpt-5-mini", [...SEEING, "reasoning"], 400_000],
    ["gpt-5.4", [...SEEING, "reasoning"], undefined],
    ["o3", [...SEEING, "reasoning"], 200_000],
    ["o3-mini-2025-01-31", ["tools", "json_schema", "reasoning"], 200_000],
    ["gpt-4", ["tools"], 8_192],
    ["gpt-4-turbo", ["vision", "tools"], 128_000],
    ["gpt-3.5-turbo-0125", ["tools"], 16_385],
  ])("OpenAI's %s", (model, capabilities, contextTokensMax) => {
    const known = dialect().modelProperties?.(model);
    expect([known?.capabilities, known?.contextTokensMax]).toEqual([capabilities, contextTokensMax]);
    expect(known?.capabilities).not.toContain("prefill");
  });

  it.each(["gpt-4o-search-preview", "gpt-4o-realtime-preview", "chatgpt-4o-latest", "gpt-5-chat-latest", "o1-mini"])(
    "is nothing certain for %s",
    (model) => expect(dialect().modelProperties?.(model)).toBeUndefined(),
  );

  it("is nothing for a server that may call any model so", () => {
    for (const server of ["compatible", "azure", "vllm", "llama.cpp", "together"]) {
      expect(at(server).modelProperties?.("gpt-4o")).toBeUndefined();
    }
  });

  it("includes who goes on with an answer that has begun", () => {
    const goesOn = (server: string, model: string) =>
      at(server).modelProperties?.(model)?.capabilities?.includes("prefill") ?? false;
    expect(goesOn("groq", "llama-3.3-70b-versatile")).toBe(true);
    expect(goesOn("groq", "openai/gpt-oss-120b")).toBe(false);
    expect(goesOn("mistral", "mistral-large-latest")).toBe(true);
    expect(goesOn("mistral", "mistral-embed")).toBe(false);
    expect(goesOn("deepseek", "deepseek-chat")).toBe(false);
    expect(goesOn("vllm", "llama")).toBe(false);
  });
});

describe("what a list says of its models", () => {
  const listed = (model: object) => dialect().modelsAnswer({ data: [{ id: "m", ...model }] })[0]?.properties;

  it("is read of Mistral", () => {
    const capabilities = { completion_chat: true, function_calling: true, vision: true, fine_tuning: false };
    expect(listed({ capabilities, max_context_length: 131_072 })).toEqual({
      capabilities: ["json_schema", "prefill", "tools", "vision"],
      contextTokensMax: 131_072,
    });
    expect(listed({ capabilities: { completion_chat: false } })).toBeUndefined();
  });

  it("is read of OpenRouter, with what a million tokens cost", () => {
    const model = {
      context_length: 200_000,
      architecture: { input_modalities: ["text", "image"] },
      supported_parameters: ["tools", "reasoning", "structured_outputs", "seed"],
      pricing: { prompt: "0.000003", completion: "0.000015" },
    };
    expect(listed(model)).toEqual({
      capabilities: ["files", "vision", "tools", "json_schema", "reasoning"],
      contextTokensMax: 200_000,
      inputCostUsdPerMillion: 3,
      outputCostUsdPerMillion: 15,
    });
    // Its own router has no price.
    expect(listed({ pricing: { prompt: "-1", completion: "-1" } })).toBeUndefined();
  });

  it("is how long a prompt may be, of Groq and vLLM", () => {
    expect(listed({ context_window: 8_192 })).toEqual({ contextTokensMax: 8_192 });
    expect(listed({ max_model_len: 4_096 })).toEqual({ contextTokensMax: 4_096 });
    expect(listed({ context_length: 0, pricing: {} })).toBeUndefined();
  });
});
