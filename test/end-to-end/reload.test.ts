/** The configuration file changes under a mesh that serves: every node takes it over, and no client notices. */
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type Simulator, startOpenAiSimulator } from "../fakes/index.ts";
import { CACHE_OFF, SHAPES, startMesh, type TestMesh, type TestWorker } from "../mesh.ts";

const soon = { timeout: 10_000, interval: 50 };

let first: Simulator;
let second: Simulator;
let mesh: TestMesh;

const worker = (name: string, simulator: Simulator, settings: Readonly<Record<string, unknown>> = {}): TestWorker => ({
  name,
  provider: "openai",
  baseUrl: simulator.url,
  models: ["m"],
  ...settings,
});

/** JSON is YAML. */
const write = (workers: readonly TestWorker[], settings: object = {}): Promise<void> =>
  writeFile(join(mesh.folder, "cortex.yaml"), JSON.stringify({ workers, cache: CACHE_OFF, ...settings }));

async function ask(stream: boolean, model = "m"): Promise<string> {
  const response = await fetch(`${mesh.rest}/v1/chat/completions`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ model, stream, messages: [{ role: "user", content: "hello" }] }),
  });
  const text = await response.text();
  const whole = stream ? text.endsWith("data: [DONE]\n\n") && !text.includes('"error"') : response.ok;
  return whole ? "served" : `${response.status} ${text.slice(-300)}`;
}

async function problems(): Promise<readonly string[]> {
  const response = await fetch(`${mesh.rest}/api/health`);
  return ((await response.json()) as { problems: string[] }).problems;
}

const asked = (simulator: Simulator): number => simulator.generations.length;

describe.each(SHAPES)("a configuration file that changes, with %s", (shape) => {
  beforeAll(async () => {
    first = await startOpenAiSimulator();
    second = await startOpenAiSimulator();
    mesh = await startMesh(shape, { workers: [worker("main", first), worker("other", first)] });
  });

  afterAll(async () => {
    await mesh[Symbol.asyncDispose]();
    await Promise.all([first.stop(), second.stop()]);
  });

  it("moves, adds and removes workers while requests are served, and refuses none", async () => {
    const answers = new Set<string>();
    let asking = true;
    const clients = Array.from({ length: 4 }, async (_, index) => {
      while (asking) answers.add(await ask(index % 2 === 0));
    });
    await expect.poll(() => asked(first), soon).toBeGreaterThan(10);
    await write([worker("main", second), worker("third", second, { priority: 1_000 })]);
    await expect.poll(() => asked(second), soon).toBeGreaterThan(10);
    // Nobody is asked any more who is not in the file.
    await expect
      .poll(async () => {
        const before = asked(first);
        await ask(false);
        await ask(true);
        return asked(first) - before;
      }, soon)
      .toBe(0);
    asking = false;
    await Promise.all(clients);
    expect([...answers]).toEqual(["served"]);
  });

  it("changes nothing while it has mistakes, which health shows until they are mended", async () => {
    await write([worker("main", second, { priority: "first" })], { routing: { models: { fast: ["main/m"] } } });
    await expect.poll(problems, soon).toContainEqual(expect.stringContaining("workers[0].priority"));
    expect(await ask(true)).toBe("served");
    expect(await ask(false, "fast")).toContain("404");
    await write([worker("main", second)], { routing: { models: { fast: ["main/m"] } } });
    await expect.poll(() => ask(false, "fast"), soon).toBe("served");
    await expect.poll(problems, soon).toEqual([]);
  });
});
