/** Requests find the workers that can do what they need, and `cortex explain` says who that would be. */
import { execFile } from "node:child_process";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import OpenAI, { BadRequestError } from "openai";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { ExplainResponse } from "../../libs/gen/cortex/router/v1/router.ts";
import { type Simulator, startOpenAiSimulator } from "../fakes/index.ts";
import { SHAPES, startMesh, type TestMesh } from "../mesh.ts";

const CORTEX = new URL("../../services/cortex.ts", import.meta.url).pathname;
const PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";

type Body = Omit<OpenAI.ChatCompletionCreateParamsNonStreaming, "model">;
const say = (content: string): Body => ({ messages: [{ role: "user", content }] });
const show = (text: string): Body => ({
  messages: [
    {
      role: "user",
      content: [
        { type: "text", text },
        { type: "image_url", image_url: { url: `data:image/png;base64,${PIXEL}` } },
      ],
    },
  ],
});
const weather: OpenAI.ChatCompletionTool = {
  type: "function",
  function: { name: "weather", parameters: { type: "object" } },
};

describe.each(SHAPES)("capabilities with %s", (shape) => {
  let simulator: Simulator;
  let mesh: TestMesh;
  let client: OpenAI;

  beforeAll(async () => {
    simulator = await startOpenAiSimulator();
    const worker = { provider: "openai", baseUrl: simulator.url };
    mesh = await startMesh(shape, {
      workers: [
        { ...worker, name: "coder", models: ["c"], priority: 30, capabilities: ["code", "tools"] },
        { ...worker, name: "eyes", models: ["v"], priority: 20, capabilities: ["translation", "vision"] },
        { ...worker, name: "plain", models: ["p"], priority: 10 },
      ],
    });
    client = new OpenAI({ apiKey: "any", baseURL: `${mesh.rest}/v1`, maxRetries: 0 });
  });

  afterAll(async () => {
    await mesh?.[Symbol.asyncDispose]();
    await simulator?.stop();
  });

  const servedBy = async (body: Body, model = "auto") => {
    const { response } = await client.chat.completions.create({ model, ...body }).withResponse();
    return response.headers.get("x-cortex-worker");
  };

  /** `cortex explain` beside the mesh. */
  const explain = (...args: readonly string[]) =>
    new Promise<{ code: number; stdout: string; stderr: string }>((resolve) => {
      execFile(process.execPath, [CORTEX, "explain", "--address", mesh.grpc, ...args], (error, stdout, stderr) =>
        resolve({ code: error === null ? 0 : Number(error.code), stdout, stderr }),
      );
    });

  it("a prompt goes to the worker that is meant for it, and without a guess to the first by priority", async () => {
    expect(await servedBy(say("Draft an invitation to my mother's birthday, in rhymes."))).toBe("plain");
    expect(await servedBy(say("Write a Python function that adds two numbers."))).toBe("coder");
    expect(await servedBy(say("Translate this into Polish: good morning"))).toBe("eyes");
  });

  it("what is certain outweighs priority, and workers that may have it come after those that do", async () => {
    expect(await servedBy(show("describe it"))).toBe("eyes");
    expect(await servedBy({ ...say("what is the weather like in Lisbon?"), tools: [weather] })).toBe("coder");
  });

  it("a worker that is asked by name and lacks what is needed refuses, with the field, and its provider is not asked", async () => {
    const before = simulator.requests.length;
    const refused = await servedBy(show("describe it"), "coder/c").catch((error: unknown) => error);
    expect(refused).toBeInstanceOf(BadRequestError);
    expect(refused).toMatchObject({
      param: "messages",
      message: expect.stringMatching(/coder lacks the capability vision/),
    });
    await expect(servedBy({ ...say("hi"), tools: [weather] }, "eyes/v")).rejects.toMatchObject({
      status: 400,
      param: "tools",
    });
    expect(simulator.requests.length).toBe(before);
    expect(await servedBy({ ...say("hi"), tools: [weather], tool_choice: "none" }, "eyes/v")).toBe("eyes");
  });

  it("cortex explain shows the needs and the order, and those who are never tried, for people and for programs", async () => {
    const picture = join(mesh.folder, "pixel.png");
    await writeFile(picture, Buffer.from(PIXEL, "base64"));
    const prompt = "Write a Python function that reads this chart.";
    const [table, json] = await Promise.all([
      explain(prompt),
      explain(prompt, "--json", "--strategy", "round_robin", "--image", picture),
    ]);
    expect(table).toMatchObject({ code: 0, stderr: "" });
    expect(table.stdout).toMatch(/^auto, strategy local_first; chosen in \d+ µs\n/);
    expect(table.stdout).toMatch(/code +│ guessed, \d+ %/);
    expect(table.stdout).toMatch(
      /1 │ coder\/c .*meant for code[\s\S]*2 │ plain\/p [\s\S]*3 │ eyes\/v .*meant for other work: translation/,
    );
    expect(json).toMatchObject({ code: 0, stderr: "" });
    const explained = JSON.parse(json.stdout) as ExplainResponse;
    expect(explained).toMatchObject({ resolved: "auto", strategy: "round_robin" });
    expect(explained.needs.map(({ capability, certain }) => [capability, certain])).toEqual([
      ["vision", true],
      ["code", false],
    ]);
    expect(explained.candidates.map(({ worker, refused }) => [worker, refused])).toEqual([
      ["eyes", ""],
      ["plain", ""],
      ["coder", "lacks the capability vision"],
    ]);
  });

  it("cortex explain says in a sentence what is wrong", async () => {
    const [nobody, file, strategy] = await Promise.all([
      explain("hi", "-m", "nobody"),
      explain("hi", "--image", "no-such-file.png"),
      explain("hi", "--strategy", "fastest"),
    ]);
    for (const { code, stdout } of [nobody, file, strategy]) expect([code, stdout]).toEqual([1, ""]);
    expect(nobody.stderr).toContain("MODEL_NOT_FOUND");
    expect(file.stderr).toContain("can't read no-such-file.png");
    expect(strategy.stderr).toContain("Allowed choices are local_first");
  });
});
