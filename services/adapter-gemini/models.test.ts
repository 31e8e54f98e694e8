import { describe, expect, it } from "vitest";
import { gemini } from "./dialect.ts";

const SENSES = ["vision", "audio", "files", "tools", "json_schema"];

describe("what is known of Gemini's models", () => {
  it.each<[string, string[]]>([
    ["gemini-2.5-flash", [...SENSES, "reasoning"]],
    ["gemini-3-pro-preview", [...SENSES, "reasoning"]],
    ["gemini-3.1-flash-lite-preview", [...SENSES, "reasoning"]],
    ["gemini-flash-latest", [...SENSES, "reasoning"]],
    ["gemini-2.0-flash-lite-001", SENSES],
    ["gemini-2.5-flash-image", []],
    ["gemini-2.5-flash-preview-tts", []],
  ])("%s", (model, capabilities) => expect(gemini.modelProperties?.(model)?.capabilities).toEqual(capabilities));

  it("is nothing for others", () => {
    for (const model of ["gemma-3-27b-it", "gemini-embedding-001", "gemini-robotics-er-1.5"]) {
      expect(gemini.modelProperties?.(model)).toBeUndefined();
    }
  });
});
