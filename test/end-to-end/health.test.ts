/** The health of a mesh of real processes: who asks the workers and how often, what is told, and when others do not answer. */
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { afterEach, describe, expect, it } from "vitest";
import { startMesh, type TestMesh } from "../mesh.ts";

const ends: (() => Promise<unknown>)[] = [];

afterEach(async () => {
  for (const end of ends.splice(0).reverse()) await end();
});

/** A server of OpenAI's protocol that is asked for its models, which is how workers are checked. */
async function serveModels() {
  const state = { checks: 0 };
  const server = createServer((request, response) => {
    request.resume();
    if (request.url === "/v1/models") state.checks += 1;
    response.setHeader("content-type", "application/json");
    response.end('{"object":"list","data":[{"id":"m","object":"model","created":1,"owned_by":"test"}]}');
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  ends.push(async () => {
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
  });
  return { state, url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1` };
}

async function start(...options: Parameters<typeof startMesh>): Promise<TestMesh> {
  const mesh = await startMesh(...options);
  ends.push(async () => mesh[Symbol.asyncDispose]());
  return mesh;
}

describe("the checks of the workers", () => {
  it("come as often from two health nodes as from one, and go on when there is none", async () => {
    const intervalMs = 500;
    const provider = await serveModels();
    const mesh = await start("many nodes", {
      workers: [{ name: "w", provider: "openai", baseUrl: provider.url, keys: ["k"], models: ["m"] }],
      settings: { health: { intervalMs } },
      replicas: { "adapter-openai": 2 },
    });
    const instances = 2;

    /** How often the provider is asked in an interval, by each instance of the worker. */
    async function rate(): Promise<number> {
      const [before, startedAtMs] = [provider.state.checks, performance.now()];
      await expect.poll(() => provider.state.checks - before, { timeout: 30_000, interval: 20 }).toBeGreaterThan(9);
      return (provider.state.checks - before) / instances / ((performance.now() - startedAtMs) / intervalMs);
    }

    const health = [await mesh.runAs("health-1", "health"), await mesh.runAs("health-2", "health")];
    expect(await rate()).toBeLessThan(1.3);
    health[0]!.kill("SIGKILL");
    await health[0]!.exited;
    expect(await rate()).toBeLessThan(1.3);
    health[1]!.kill("SIGTERM");
    await health[1]!.exited;
    expect(await rate()).toBeLessThan(1.3);
  });
});
