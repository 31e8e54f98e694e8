/** Nodes join, drain, die and come back, and nats-server with them: requests go on throughout. */
import { rm } from "node:fs/promises";
import OpenAI from "openai";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { RegistryServiceDefinition } from "../../libs/gen/cortex/registry/v1/registry.ts";
import { startNatsServer } from "../../libs/host/nats-server.ts";
import { type Simulator, startOpenAiSimulator } from "../fakes/index.ts";
import { ask, natsServerBin, startMesh, type TestMesh } from "../mesh.ts";

const messages: OpenAI.ChatCompletionMessageParam[] = [{ role: "user", content: "hello" }];
const TEXT = "You said: hello";

let simulator: Simulator;
let mesh: TestMesh;
let client: OpenAI;

async function start(replicas: Record<string, number>): Promise<void> {
  mesh = await startMesh("many nodes", {
    workers: [
      { name: "main", provider: "openai", baseUrl: simulator.url, models: ["m"], breaker: { failures: 1_000 } },
    ],
    replicas,
  });
  client = new OpenAI({ apiKey: "any", baseURL: `${mesh.rest}/v1`, maxRetries: 0 });
}

beforeEach(async () => {
  simulator = await startOpenAiSimulator();
});

afterEach(async () => {
  await mesh?.[Symbol.asyncDispose]();
  await simulator.stop();
});

/**
 * Asks again and again, a few at a time, until it is stopped; every answer has to be right. With `mayInterrupt`, a stream
 * that has begun may end in an error, as when the node that serves it is killed.
 */
function steadyLoad(mayInterrupt = false): {
  readonly answered: number;
  readonly failures: string[];
  stop(): Promise<void>;
} {
  const load = { answered: 0, failures: [] as string[], stop };
  let running = true;
  const clients = Array.from({ length: 4 }, async (_, index) => {
    while (running) {
      try {
        const text = index % 2 === 0 ? await streamed() : await whole();
        if (text !== TEXT) load.failures.push(`answered ${text}`);
        load.answered++;
      } catch (error) {
        if (mayInterrupt && error instanceof Interrupted) continue;
        load.failures.push((error as Error).message);
      }
    }
  });
  async function stop(): Promise<void> {
    running = false;
    await Promise.all(clients);
  }
  return load;
}

async function whole(): Promise<string | null | undefined> {
  const completion = await client.chat.completions.create({ model: "m", messages });
  return completion.choices[0]?.message.content;
}

/** A stream failed that had begun. */
class Interrupted extends Error {}

async function streamed(): Promise<string> {
  let text = "";
  try {
    for await (const chunk of await client.chat.completions.create({ model: "m", messages, stream: true })) {
      text += chunk.choices[0]?.delta.content ?? "";
    }
  } catch (error) {
    throw text === "" ? error : new Interrupted((error as Error).message);
  }
  return text;
}

async function more(load: { readonly answered: number }, count: number): Promise<void> {
  const goal = load.answered + count;
  await expect.poll(() => load.answered, { timeout: 20_000 }).toBeGreaterThanOrEqual(goal);
}

const locations = () =>
  ask(mesh.grpc, (channel, call) => channel.client(RegistryServiceDefinition).get({ name: "main" }, call)).then(
    ({ workers }) => workers.map(({ node }) => node),
  );

describe("a mesh of many nodes", () => {
  it("gives traffic to a node that joins, within a second", async () => {
    await start({});
    const before = await locations();
    const joined = await mesh.run("adapter-openai");
    const joinedAtMs = performance.now();
    await expect.poll(locations, { timeout: 5_000, interval: 20 }).toEqual([...before, joined.id].sort());
    // Both run the worker now, and each is chosen half of the time.
    const connections = simulator.connections.opened;
    await Promise.all(Array.from({ length: 20 }, whole));
    expect(simulator.connections.opened).toBeGreaterThan(connections);
    expect(performance.now() - joinedAtMs).toBeLessThan(5_000);
  });

  it("lets the streams of a node that is stopped end whole, and sends new calls elsewhere", async () => {
    await start({ "adapter-openai": 2, router: 2 });
    simulator.behave("tokens:60,tokenMs:25");
    const streams = Array.from({ length: 8 }, async () => {
      const stream = await client.chat.completions.create({ model: "m", messages, stream: true });
      let finish: string | null = null;
      for await (const { choices } of stream) finish = choices[0]?.finish_reason ?? finish;
      return finish;
    });
    await expect.poll(() => simulator.generations.filter(({ tokensSent }) => tokensSent > 2).length).toBe(8);
    simulator.behave(undefined);
    const load = steadyLoad();
    mesh.node("adapter-openai").kill("SIGTERM");
    mesh.node("router").kill("SIGTERM");
    expect(await Promise.all(streams)).toEqual(Array(8).fill("stop"));
    expect(await mesh.node("adapter-openai").exited).toBe(0);
    expect(await mesh.node("router").exited).toBe(0);
    await more(load, 20);
    await load.stop();
    expect(load.failures).toEqual([]);
  });

  it.each(["router", "adapter-openai"])(
    "loses no request that had not yet streamed when a %s is killed",
    async (name) => {
      await start({ [name]: 2 });
      // These hang before the first token on the node that dies.
      simulator.behave((index) => (index < 6 ? "firstTokenMs:1500" : undefined));
      const waiting = Array.from({ length: 6 }, (_, index) => (index % 2 === 0 ? streamed() : whole()));
      await simulator.generation(5);
      const load = steadyLoad(true);
      await more(load, 10);
      mesh.node(name).kill("SIGKILL");
      expect(await Promise.all(waiting)).toEqual(Array(6).fill(TEXT));
      await more(load, 50);
      await load.stop();
      expect(load.failures).toEqual([]);
    },
  );

  it.each(["with its data", "without its data"])(
    "goes on while nats-server is killed and comes back %s",
    async (data) => {
      await start({});
      const { nats } = mesh;
      const load = steadyLoad();
      await more(load, 10);
      const { port } = new URL(nats.url);
      process.kill(nats.pid, "SIGKILL");
      await nats.exited;
      await more(load, 50);
      const storeDir = `${mesh.folder}/nats`;
      if (data === "without its data") await rm(storeDir, { recursive: true });
      const revived = await startNatsServer({ bin: await natsServerBin(), storeDir, port: Number(port) });
      try {
        // The directory has healed when a node that joins now is seen by those that were there before.
        const joined = await mesh.run("adapter-openai");
        await expect.poll(locations, { timeout: 20_000 }).toContain(joined.id);
        await more(load, 50);
        await load.stop();
        expect(load.failures).toEqual([]);
      } finally {
        await load.stop();
        await mesh[Symbol.asyncDispose]();
        await revived.stop();
      }
    },
  );

  it("serves again as soon as its only router is back", async () => {
    await start({});
    mesh.node("router").kill("SIGKILL");
    await mesh.node("router").exited;
    await expect(whole()).rejects.toMatchObject({ status: 503 });
    await mesh.run("router");
    await expect.poll(() => whole().catch(() => undefined), { timeout: 10_000 }).toBe(TEXT);
  });
});
