/** Load is the mesh's: a router sees what another one has given to a worker, and sees it go. */
import OpenAI from "openai";
import { describe, expect, it } from "vitest";
import { startOpenAiSimulator } from "../fakes/index.ts";
import { startMesh } from "../mesh.ts";

const messages: OpenAI.ChatCompletionMessageParam[] = [{ role: "user", content: "hello" }];

describe("two routers before the same workers", () => {
  it("each leave a worker alone that the other one keeps busy, until that one is gone", async () => {
    const busy = await startOpenAiSimulator();
    const idle = await startOpenAiSimulator();
    const workers = [
      { name: "busy", provider: "openai", baseUrl: busy.url, models: ["m"] },
      { name: "idle", provider: "openai", baseUrl: idle.url, models: ["m"] },
    ];
    await using mesh = await startMesh("one node", { workers, settings: { routing: { strategy: "least_loaded" } } });
    const other = await mesh.run("gateway", "router");
    const clientOf = (rest: string) => new OpenAI({ apiKey: "any", baseURL: `${rest}/v1`, maxRetries: 0 });
    const here = clientOf(mesh.rest);
    const there = clientOf(other.rest!);
    await expect.poll(async () => (await there.models.list()).data.map(({ id }) => id)).toContain("busy/m");

    const askedOfBusy = async () => {
      const before = busy.generations.length;
      for (let request = 0; request < 12; request += 1) {
        await here.chat.completions.create({ model: "m", messages });
      }
      return busy.generations.length - before;
    };
    // Equal ones are asked at random.
    await expect.poll(askedOfBusy).toBeGreaterThan(0);

    busy.behave("stall:2");
    const streams = await Promise.all(
      Array.from({ length: 3 }, () => there.chat.completions.create({ model: "busy/m", messages, stream: true })),
    );
    busy.behave(undefined);
    await expect.poll(askedOfBusy, { timeout: 10_000 }).toBe(0);

    const ended = streams.map(async (stream) => {
      for await (const _chunk of stream);
    });
    other.kill("SIGKILL");
    await Promise.allSettled(ended);
    await expect.poll(askedOfBusy, { timeout: 20_000 }).toBeGreaterThan(0);
    await Promise.all([busy.stop(), idle.stop()]);
  });

  it("share its only slot: whoever waits at either of them is served, and few are sent in vain", async () => {
    const provider = await startOpenAiSimulator({ behaviour: "firstTokenMs:150,tokens:2" });
    const worker = { name: "single", provider: "openai", baseUrl: provider.url, models: ["m"] };
    await using mesh = await startMesh("many nodes", {
      workers: [{ ...worker, limits: { concurrent: 1 } }],
      replicas: { router: 2 },
    });
    const client = new OpenAI({ apiKey: "any", baseURL: `${mesh.rest}/v1`, maxRetries: 0 });
    const asked = Array.from({ length: 40 }, () => client.chat.completions.create({ model: "m", messages }));
    const answered = await Promise.allSettled(asked);
    expect(answered.filter(({ status }) => status === "rejected")).toEqual([]);
    const counted = await Promise.all(
      ["router", "router-2"].map(async (name) => {
        const text = await (await fetch(mesh.node(name).metrics!)).text();
        const lines = text.matchAll(/^cortex_attempts_total\{.*reason="(\w*)".*\} (\d+)$/gm);
        return [...lines].map(([, reason = "", count]) => ({ reason, count: Number(count) }));
      }),
    );
    const attempts = (wanted: string) =>
      counted.flat().reduce((sum, { reason, count }) => sum + (reason === wanted ? count : 0), 0);
    expect(attempts("")).toBe(40);
    // Each slot that comes free is sought by both.
    expect(attempts("WORKER_BUSY")).toBeLessThan(120);
    await provider.stop();
  });
});
