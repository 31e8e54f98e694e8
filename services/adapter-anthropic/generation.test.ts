import { describe, expect, it } from "vitest";
import { modelProperties } from "./generation.ts";

const known = (model: string) => modelProperties(model)?.capabilities;

describe("what is known of a Claude", () => {
  it.each<[string, string[]]>([
    ["claude-3-haiku-20240307", ["vision", "tools", "prefill"]],
    ["claude-3-5-sonnet-latest", ["vision", "tools", "files", "prefill"]],
    ["claude-sonnet-4-20250514", ["vision", "tools", "files", "reasoning", "prefill"]],
    ["claude-haiku-4-5", ["vision", "tools", "files", "json_schema", "reasoning", "prefill"]],
    // They refuse a request that ends in the beginning of its answer.
    ["claude-opus-4-6", ["vision", "tools", "files", "json_schema", "reasoning"]],
    ["claude-sonnet-4-6", ["vision", "tools", "files", "json_schema", "reasoning"]],
    ["claude-opus-4-7", ["vision", "tools", "files", "json_schema", "reasoning"]],
  ])("%s", (model, capabilities) => expect(known(model)).toEqual(capabilities));

  it("is nothing for a name without a number, or another's", () => {
    for (const model of ["claude", "claude-2.1", "gpt-4o"]) expect(modelProperties(model)).toBeUndefined();
  });
});
