/** The simulated providers as they are started by hand, and their paces. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { loadConfiguration } from "../../libs/host/index.ts";
import { BEHAVIOURS, PACES, type PaceName, parseBehaviour, startGroqSimulator } from "./index.ts";
import { Paced } from "./pace.ts";

const MAIN = new URL("main.ts", import.meta.url).pathname;

async function run(...args: string[]) {
  const child = spawn(process.execPath, [MAIN, ...args], { stdio: ["ignore", "pipe", "pipe"] });
  let output = "";
  let ended = false;
  const closed = once(child, "close").then(([code]) => {
    ended = true;
    return code as number | null;
  });
  for (const stream of [child.stdout, child.stderr]) stream.on("data", (piece: Buffer) => (output += piece));
  while (!ended && !output.includes("Ctrl-C ends")) await new Promise((resolve) => setTimeout(resolve, 5));
  return { child, closed, output: () => output };
}

describe("npm run providers", () => {
  it("starts them, writes a configuration for them, and ends without a trace", async () => {
    const { child, closed, output } = await run("--fast", "--port", "0", "groq=status:503", "llama.cpp");
    try {
      const file = /--config (\S+)/.exec(output())![1]!;
      const { workers } = loadConfiguration({ file, providers: ["groq", "openai"], environment: {} });
      expect(workers.map(({ name, provider, keys }) => [name, provider, keys.length])).toEqual([
        ["groq", "groq", 2],
        ["llama-cpp", "openai", 2],
      ]);
      const answer = await fetch(`${workers[0]!.baseUrl}/chat/completions`, { method: "POST", body: "{}" });
      expect(answer.status).toBe(503);
      expect(readFileSync(file, "utf8")).toContain("groq-key-1");
      child.kill("SIGINT");
      expect(await closed).toBe(0);
      expect(existsSync(file)).toBe(false);
    } finally {
      child.kill("SIGKILL");
    }
  });

  it("leaves nothing behind when Ctrl-C comes twice, from the terminal and from npm", async () => {
    const { child, closed, output } = await run("--fast", "--port", "0", "groq", "ollama");
    const file = /--config (\S+)/.exec(output())![1]!;
    const again = setInterval(() => child.kill("SIGINT"), 0);
    try {
      expect(await closed).toBe(0);
      expect(existsSync(file)).toBe(false);
    } finally {
      clearInterval(again);
      child.kill("SIGKILL");
    }
  });

  it("lists the providers and every way to fail", async () => {
    const { closed, output } = await run("--help");
    expect(await closed).toBe(0);
    expect(output()).toContain("openai, ollama, groq");
    for (const behaviour of BEHAVIOURS) {
      expect(output()).toContain(behaviour);
      const [word, unit] = behaviour.replace(/\[|\]/g, "").split(":");
      const example = { HOW: "whole", PROVIDER: "groq", POINT: "headers", TEXT: "x", TYPE: "x" }[unit ?? ""] ?? "5";
      expect(parseBehaviour(unit === undefined ? word! : `${word}:${example}`)).not.toEqual({});
    }
  });

  it.each([["nobody"], ["groq=sleep"], ["--port", "x"], ["--slow"]])("says what is wrong with %s", async (...args) => {
    const { closed, output } = await run(...args);
    expect(await closed).toBe(2);
    expect(output()).toContain("usage: npm run providers");
  });
});

describe("a pace", () => {
  const median = (values: readonly number[]) => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)]!;
  const many = (draw: () => number) => Array.from({ length: 4_001 }, draw);

  it.each(Object.keys(PACES) as PaceName[])("of %s has the median and the scatter that were recorded", (name) => {
    let state = 1;
    const random = () => {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      return state / 2 ** 32;
    };
    const paced = new Paced(name, random);
    const { firstTokenMs, tokensPerS } = PACES[name];
    const waits = many(() => paced.firstTokenMs(0));
    expect(median(waits) / firstTokenMs[0]).toBeCloseTo(1, 0);
    const above = waits.filter((ms) => ms > firstTokenMs[1]).length / waits.length;
    expect(above).toBeGreaterThan(0.002);
    expect(above).toBeLessThan(0.03);
    expect(median(many(() => paced.tokenMs())) * tokensPerS).toBeCloseTo(1_000, -2);
  });

  it("is kept by a simulator, and gives way to a behaviour", async () => {
    await using simulator = await startGroqSimulator({ pace: "ollama-gpu" });
    const ask = async () => {
      const startedAtMs = performance.now();
      const body = JSON.stringify({
        model: "m",
        stream: true,
        messages: [{ role: "user", content: "a b c d e f g h" }],
      });
      await (await fetch(`${simulator.url}/chat/completions`, { method: "POST", body })).text();
      return performance.now() - startedAtMs;
    };
    // Ten tokens, and 32 ms before each but the first.
    expect(await ask()).toBeGreaterThan(9 * 31);
    simulator.behave("firstTokenMs:0,tokenMs:0");
    expect(await ask()).toBeLessThan(9 * 31);
  });
});
