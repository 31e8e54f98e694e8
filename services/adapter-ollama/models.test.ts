import { describe, expect, it } from "vitest";
import { ollama } from "./dialect.ts";

const known = (model: string) => ollama.modelProperties?.(model)?.capabilities;

describe("what is known of Ollama's models", () => {
  it.each<[string, string[]]>([
    ["llava:13b", ["vision", "json_schema", "prefill"]],
    ["gemma3:4b", ["vision", "json_schema", "prefill"]],
    ["qwen3:8b", ["tools", "reasoning", "json_schema", "prefill"]],
    ["llama3.2", ["tools", "json_schema", "prefill"]],
    ["llama3.2-vision:11b", ["vision", "json_schema", "prefill"]],
    // Small ones see nothing; what somebody else has made may do anything.
    ["gemma3:1b", ["prefill"]],
    ["ada/tiny:q4", ["prefill"]],
  ])("%s", (model, capabilities) => expect(known(model)).toEqual(capabilities));

  it("is what the server says, where it says it", () => {
    const list = (capabilities: unknown) => ollama.modelsAnswer({ models: [{ model: "m", capabilities }] })[0];
    expect(list(["completion", "vision", "thinking", "insert"])?.properties?.capabilities).toEqual([
      "vision",
      "reasoning",
      "json_schema",
      "prefill",
    ]);
    for (const silent of [undefined, ["embedding"], "completion", ["constructor"]]) {
      expect(list(silent)).toEqual({ id: "m", workers: [], createdAtS: 0, ownedBy: "library" });
    }
  });
});
