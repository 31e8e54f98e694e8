/** A framer that is wrong about the bytes of a character that come apart has to be found out. */
import { describe, expect, it, vi } from "vitest";
import type { createFramer } from "../../libs/adapter/framing.ts";
import { cutEverywhere } from "./cutting.ts";

vi.mock("../../libs/adapter/framing.ts", () => {
  const naive: typeof createFramer = (_framing, onEvent) => {
    let held = "";
    return {
      push(bytes) {
        const lines = `${held}${bytes.toString("utf8")}`.split("\n");
        held = lines.pop() ?? "";
        for (const data of lines) onEvent({ name: "", data });
      },
      end() {
        if (held !== "") onEvent({ name: "", data: held });
      },
    };
  };
  return { createFramer: naive };
});

describe("cutting a stream everywhere", () => {
  it("finds the byte at which a cut makes a difference", () => {
    expect(cutEverywhere("ndjson", Buffer.from("one\ntwo\n"), false)).toEqual({
      count: 7,
      step: 1,
      differentAt: undefined,
    });
    expect(cutEverywhere("ndjson", Buffer.from("one\ngrün\n"), false).differentAt).toBe(7);
  });

  it("finds it in a long one too", () => {
    const lines = Array.from({ length: 3_000 }, (_, index) => `line ${index}`);
    const plain = Buffer.from(lines.join("\n"));
    expect(cutEverywhere("ndjson", plain, false)).toEqual({ count: plain.length - 1, step: 1, differentAt: undefined });
    const [before, after] = [lines.slice(0, 2_000).join("\n"), lines.slice(2_000).join("\n")];
    const odd = Buffer.from(`${before}\n☀\n${after}`);
    expect(cutEverywhere("ndjson", odd, false).differentAt).toBe(Buffer.byteLength(before) + 2);
  });

  it("leaves out some of the cuts of what would take too long, and says so", () => {
    const line = Buffer.alloc(100_000, "a");
    const { count, step, differentAt } = cutEverywhere("ndjson", line, false);
    expect(step).toBeGreaterThan(1);
    expect(count * step).toBeGreaterThanOrEqual(line.length - step);
    expect(differentAt).toBeUndefined();
  });
});
