/** A client that reads slowly slows its provider down, through every hop; memory stays flat meanwhile. */
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { request as httpRequest, type IncomingMessage } from "node:http";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type Simulator, startOllamaSimulator, startOpenAiSimulator } from "../fakes/index.ts";
import { SHAPES, startMesh, type TestMesh } from "../mesh.ts";

/** Far more than any buffer on the way holds, far less than the answer has. */
const TOKENS_MAX = 400_000;
const RSS_GROWTH_BYTES_MAX = 150 * 1024 * 1024;

describe.each(SHAPES)("a client that does not read, with %s", (shape) => {
  let openai: Simulator;
  let ollama: Simulator;
  let mesh: TestMesh;

  beforeAll(async () => {
    openai = await startOpenAiSimulator({ behaviour: "tokens:2000000" });
    ollama = await startOllamaSimulator({ behaviour: "tokens:2000000" });
    const timeouts = { stallMs: 60_000 };
    mesh = await startMesh(shape, {
      workers: [
        { name: "o", provider: "openai", baseUrl: openai.url, models: ["gpt"], timeouts },
        { name: "l", provider: "ollama", baseUrl: ollama.url, models: ["llama"], timeouts },
      ],
    });
  });

  afterAll(async () => {
    await mesh?.[Symbol.asyncDispose]();
    await Promise.all([openai?.stop(), ollama?.stop()]);
  });

  it.each([
    ["OpenAI", "gpt", () => openai],
    ["Ollama", "llama", () => ollama],
  ] as const)("brings %s to a halt", async (_name, model, simulatorOf) => {
    const client = httpRequest(`${mesh.rest}/v1/chat/completions`, { method: "POST", agent: false });
    client.on("error", () => {});
    client.end(JSON.stringify({ model, stream: true, messages: [{ role: "user", content: "hello" }] }));
    const [response] = (await once(client, "response")) as [IncomingMessage];
    response.on("error", () => {});
    response.pause();
    const generation = simulatorOf().generations.at(-1)!;
    const before = rssBytes(mesh);
    // It has come to rest when the count stays the same from one look to the next.
    let seen = -1;
    await expect
      .poll(
        () => {
          const resting = generation.tokensSent === seen;
          seen = generation.tokensSent;
          return resting;
        },
        { interval: 300, timeout: 30_000 },
      )
      .toBe(true);
    expect(seen).toBeLessThan(TOKENS_MAX);
    if (process.platform === "linux") expect(rssBytes(mesh) - before).toBeLessThan(RSS_GROWTH_BYTES_MAX);
    // It goes on as soon as somebody reads.
    response.resume();
    await expect.poll(() => generation.tokensSent, { timeout: 30_000 }).toBeGreaterThan(seen);
    client.destroy();
    expect((await generation.ended).how).toBe("client-closed");
  });
});

function rssBytes(mesh: TestMesh): number {
  if (process.platform !== "linux") return 0;
  return mesh.nodes.reduce((sum, { pid }) => {
    const resident = /VmRSS:\s+(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1];
    return sum + Number(resident) * 1024;
  }, 0);
}
