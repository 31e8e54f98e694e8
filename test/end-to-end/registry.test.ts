/** Workers are added, changed, drained, moved and removed while the mesh runs, by those who may, and that survives it. */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  Locality,
  RegistryServiceDefinition,
  WorkerSpecification,
} from "../../libs/gen/cortex/registry/v1/registry.ts";
import { startNatsServer } from "../../libs/host/nats-server.ts";
import { type Simulator, startOpenAiSimulator } from "../fakes/index.ts";
import { ask, natsServerBin, SHAPES, startMesh, type TestMesh } from "../mesh.ts";

const USER = "user-key";
const ADMIN = "admin-key";
const SETTINGS = {
  clients: [
    { key: USER, tenant: "team-a" },
    { key: ADMIN, tenant: "operations", admin: true },
  ],
};
const ADAPTER = "adapter-openai";

interface Answer {
  readonly status: number;
  // biome-ignore lint/suspicious/noExplicitAny: JSON as it comes.
  readonly body: any;
}

/** One request to the administration, with an administrator's key unless another is given. */
async function admin(mesh: TestMesh, request: string, body?: unknown, key = ADMIN): Promise<Answer> {
  const [method, path] = request.split(" ") as [string, string];
  const response = await fetch(`${mesh.rest}${path}`, {
    method,
    headers: { authorization: `Bearer ${key}` },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  });
  const text = await response.text();
  return { status: response.status, body: text === "" ? undefined : JSON.parse(text) };
}

/** Asks a model; says who served it, or with which status it was refused. */
async function servedBy(mesh: TestMesh, model: string): Promise<string | number> {
  const response = await chat(mesh, model, false);
  await response.text();
  return response.ok ? response.headers.get("x-cortex-worker")! : response.status;
}

function chat(mesh: TestMesh, model: string, stream: boolean): Promise<Response> {
  return fetch(`${mesh.rest}/v1/chat/completions`, {
    method: "POST",
    headers: { authorization: `Bearer ${USER}` },
    body: JSON.stringify({ model, stream, messages: [{ role: "user", content: "hello" }] }),
  });
}

/** The models that the gateway lists. */
async function models(mesh: TestMesh): Promise<string[]> {
  const response = await fetch(`${mesh.rest}/v1/models`, { headers: { authorization: `Bearer ${USER}` } });
  const { data } = (await response.json()) as { data: { id: string }[] };
  return data.map(({ id }) => id);
}

/** Begins a stream that lasts a second or two; its end says whether it was whole. */
async function slowStream(mesh: TestMesh, model: string, simulator: Simulator): Promise<{ whole: Promise<boolean> }> {
  const next = simulator.generations.length;
  simulator.behave("tokens:60,tokenMs:25");
  const response = await chat(mesh, model, true);
  const generation = await simulator.generation(next);
  await expect.poll(() => generation.tokensSent).toBeGreaterThan(2);
  simulator.behave(undefined);
  return { whole: response.text().then((text) => text.trimEnd().endsWith("data: [DONE]")) };
}

/** The nodes that run a worker, as every node that has a registry tells. */
async function nodesOf(mesh: TestMesh, name: string): Promise<string[]> {
  const { workers } = await ask(
    mesh.grpc,
    (channel, call) =>
      channel.client(RegistryServiceDefinition).list({ provider: "", locality: Locality.UNSPECIFIED }, call),
    USER,
  );
  return workers.flatMap(({ info, node }) => (info?.name === name && node !== "" ? [node] : []));
}

/** Removes a worker and waits until its nodes have stopped it, which is a moment later. */
async function remove(mesh: TestMesh, name: string): Promise<void> {
  expect((await admin(mesh, `DELETE /admin/workers/${name}`)).status).toBe(204);
  await expect.poll(async () => (await admin(mesh, `GET /admin/workers/${name}`)).status, soon).toBe(404);
}

/** How many requests a worker is said to serve, on all its nodes. */
async function activeAt(mesh: TestMesh, name: string): Promise<number> {
  const { running } = (await admin(mesh, `GET /admin/workers/${name}`)).body as {
    running: { activeRequests: number }[];
  };
  return running.reduce((sum, { activeRequests }) => sum + activeRequests, 0);
}

/** Asks a model again and again until it is stopped; whatever was not served is a failure. */
function steadyLoad(
  mesh: TestMesh,
  model: string,
): { readonly answered: number; stop(): Promise<(string | number)[]> } {
  const failures: (string | number)[] = [];
  let running = true;
  const load = { answered: 0, stop };
  const clients = Array.from({ length: 3 }, async () => {
    while (running) {
      const served = await servedBy(mesh, model);
      if (typeof served === "number") failures.push(served);
      load.answered++;
    }
  });
  async function stop(): Promise<(string | number)[]> {
    running = false;
    await Promise.all(clients);
    return failures;
  }
  return load;
}

const soon = { timeout: 5_000, interval: 20 };

describe.each(SHAPES)("workers at run time, with %s", (shape) => {
  let first: Simulator;
  let second: Simulator;
  let mesh: TestMesh;

  beforeAll(async () => {
    [first, second] = await Promise.all([startOpenAiSimulator(), startOpenAiSimulator()]);
    mesh = await startMesh(shape, {
      workers: [{ name: "main", provider: "openai", baseUrl: first.url, models: ["m"], priority: 1 }],
      settings: SETTINGS,
    });
  });

  afterAll(async () => {
    await mesh?.[Symbol.asyncDispose]();
    await Promise.all([first?.stop(), second?.stop()]);
  });

  it("are added, changed and removed, and no stream notices", async () => {
    const specification = { name: "extra", provider: "openai", baseUrl: second.url, models: ["x"], weight: 2 };
    expect(await admin(mesh, "POST /admin/workers", specification)).toEqual({ status: 201, body: specification });
    await expect.poll(() => servedBy(mesh, "x"), soon).toBe("extra");
    expect((await admin(mesh, "GET /admin/workers/extra")).body).toMatchObject({
      name: "extra",
      added: true,
      specification,
      running: [{ node: mesh.node(ADAPTER).id, health: "available", weight: 2 }],
    });

    const before = await slowStream(mesh, "x", second);
    expect(await admin(mesh, "PATCH /admin/workers/extra", { models: ["y"], limits: { concurrent: 9 } })).toEqual({
      status: 200,
      body: { ...specification, models: ["y"], limits: { concurrent: 9 } },
    });
    await expect.poll(() => servedBy(mesh, "y"), soon).toBe("extra");
    expect(await models(mesh)).not.toContain("x");
    expect(await before.whole).toBe(true);

    const put = { name: "extra", provider: "openai", baseUrl: second.url, models: ["z"] };
    expect(await admin(mesh, "PUT /admin/workers/extra", { ...put, name: undefined })).toEqual({
      status: 200,
      body: put,
    });
    await expect.poll(() => servedBy(mesh, "z"), soon).toBe("extra");

    const last = await slowStream(mesh, "z", second);
    expect(await admin(mesh, "DELETE /admin/workers/extra")).toEqual({ status: 204, body: undefined });
    await expect.poll(() => models(mesh), soon).not.toContain("z");
    expect(await last.whole).toBe(true);
    expect((await admin(mesh, "DELETE /admin/workers/extra")).status).toBe(404);
  });

  it("are there again when they are removed and added in one breath", async () => {
    const specification = (model: string) => ({
      name: "again",
      provider: "openai",
      baseUrl: second.url,
      models: [model],
    });
    await admin(mesh, "POST /admin/workers", specification("old"));
    await expect.poll(() => servedBy(mesh, "old"), soon).toBe("again");
    expect((await admin(mesh, "DELETE /admin/workers/again")).status).toBe(204);
    expect((await admin(mesh, "POST /admin/workers", specification("new"))).status).toBe(201);
    await expect.poll(() => servedBy(mesh, "new"), soon).toBe("again");
    expect(await models(mesh)).not.toContain("old");
    await remove(mesh, "again");
  });

  it("are refused when the name is taken, and what is wrong with them is told in their own words", async () => {
    const refused = async (request: string, body: unknown) => {
      const { status, body: answer } = await admin(mesh, request, body);
      return [status, answer.error.code, answer.error.param];
    };
    const worker = { name: "w", provider: "openai" };
    expect(await refused("POST /admin/workers", { ...worker, name: "main" })).toEqual([
      409,
      "WORKER_ALREADY_REGISTERED",
      "name",
    ]);
    const wrong: [unknown, string][] = [
      [{ ...worker, provider: "nope" }, "provider"],
      [{ ...worker, keysVariable: "OPENAI_API_KEY" }, "keysVariable"],
      [{ ...worker, limits: { concurrent: 0 } }, "limits.concurrent"],
      [{ ...worker, limits: { concurent: 1 } }, "limits.concurent"],
      [{ ...worker, timeouts: { firstTokenMs: 0 } }, "timeouts.firstTokenMs"],
      [{ ...worker, modelProperties: { a_b: { contextTokensMax: 0 } } }, 'modelProperties["a_b"].contextTokensMax'],
      [{ ...worker, keys: ["secret"] }, "keys"],
      [{ ...worker, priority: "1" }, "priority"],
    ];
    for (const [body, field] of wrong) {
      expect(await refused("POST /admin/workers", body)).toEqual([400, "INVALID_REQUEST", field]);
    }
    expect(await refused("PATCH /admin/workers/main", { weight: 2 })).toEqual([400, "INVALID_REQUEST", "name"]);
    expect(await refused("PATCH /admin/workers/nobody", { weight: 2 })).toEqual([404, "WORKER_NOT_FOUND", "name"]);
    expect(JSON.stringify(await admin(mesh, "POST /admin/workers", { ...worker, keys: ["secret"] }))).not.toContain(
      'secret"',
    );
  });

  it("take no new requests while they are drained, wherever they come from, and end what they serve", async () => {
    await admin(mesh, "POST /admin/workers", {
      name: "other",
      provider: "openai",
      baseUrl: second.url,
      models: ["m"],
      priority: 2,
    });
    await expect.poll(() => servedBy(mesh, "other/m"), soon).toBe("other");
    expect(await servedBy(mesh, "m")).toBe("main");
    const stream = await slowStream(mesh, "m", first);
    await expect.poll(() => activeAt(mesh, "main"), soon).toBe(1);
    expect(await admin(mesh, "POST /admin/workers/main/drain")).toEqual({
      status: 200,
      body: { name: "main", draining: true },
    });
    await expect.poll(() => servedBy(mesh, "m"), soon).toBe("other");
    const load = steadyLoad(mesh, "m");
    await expect.poll(() => load.answered, soon).toBeGreaterThan(20);
    const requests = first.generations.length;
    expect(await load.stop()).toEqual([]);
    expect(first.generations.length).toBe(requests);
    expect(await stream.whole).toBe(true);
    await expect.poll(() => activeAt(mesh, "main"), soon).toBe(0);
    expect((await admin(mesh, "GET /admin/workers?provider=openai")).body.workers).toMatchObject([
      { name: "main", draining: true, added: false },
      { name: "other", draining: false, added: true },
    ]);
    expect((await admin(mesh, "POST /admin/workers/main/undrain")).status).toBe(200);
    await expect.poll(() => servedBy(mesh, "m"), soon).toBe("main");
    await remove(mesh, "other");
  });

  it("are changed by administrators alone, over REST and gRPC, whatever else a client claims", async () => {
    const worker = { name: "w", provider: "openai", models: ["w"] };
    for (const request of ["GET /admin/workers", "POST /admin/workers", "POST /admin/workers/main/drain"]) {
      const body = request === "POST /admin/workers" ? worker : undefined;
      expect(await admin(mesh, request, body, USER)).toMatchObject({
        status: 403,
        body: { error: { code: "PERMISSION_DENIED" } },
      });
      expect((await admin(mesh, request, body, "wrong")).status).toBe(401);
    }
    const register = (key: string) =>
      ask(
        mesh.grpc,
        (channel, call) =>
          channel
            .client(RegistryServiceDefinition)
            .register({ worker: WorkerSpecification.fromPartial(worker) }, { ...call, admin: true }),
        key,
      );
    await expect(register(USER)).rejects.toMatchObject({ reason: "PERMISSION_DENIED" });
    await register(ADMIN);
    // Before it runs, its removal would seem to be over at once.
    await expect.poll(() => nodesOf(mesh, "w"), soon).toHaveLength(1);
    await remove(mesh, "w");
    // Reading is for everybody who has a key.
    expect(await nodesOf(mesh, "main")).toHaveLength(1);
  });

  it("are told by provider and locality, and how many each node runs", async () => {
    const names = async (query: string) =>
      (await admin(mesh, `GET /admin/workers${query}`)).body.workers.map(({ name }: { name: string }) => name);
    const here = shape === "one node";
    expect(await names("?provider=openai")).toEqual(["main"]);
    expect(await names("?provider=sim")).toEqual([]);
    expect(await names("?locality=local")).toEqual(here ? ["main"] : []);
    expect(await names("?locality=remote")).toEqual(here ? [] : ["main"]);
    expect((await admin(mesh, "GET /admin/distribution")).body).toEqual({
      workersByNode: { [mesh.node(ADAPTER).id]: 1 },
    });
  });

  it("run on the node they prefer, on another one without it, and move back without losing a request", async () => {
    const preferred = await mesh.runAs("gpu-1", ADAPTER);
    await expect.poll(() => nodesOf(mesh, "main"), soon).toHaveLength(2);
    const worker = {
      name: "moving",
      provider: "openai",
      baseUrl: second.url,
      models: ["moving"],
      preferredNode: "gpu-1",
    };
    await admin(mesh, "POST /admin/workers", worker);
    await expect.poll(() => nodesOf(mesh, "moving"), soon).toEqual([preferred.id]);
    await expect.poll(() => servedBy(mesh, "moving"), soon).toBe("moving");

    const load = steadyLoad(mesh, "moving");
    await expect.poll(() => load.answered, soon).toBeGreaterThan(10);
    preferred.kill("SIGTERM");
    await preferred.exited;
    await expect.poll(() => nodesOf(mesh, "moving"), soon).toEqual([mesh.node(ADAPTER).id]);
    const back = await mesh.runAs("gpu-1", ADAPTER);
    expect(back.id).not.toBe(preferred.id);
    await expect.poll(() => nodesOf(mesh, "moving"), soon).toEqual([back.id]);
    const answered = load.answered;
    await expect.poll(() => load.answered, soon).toBeGreaterThan(answered + 20);
    expect(await load.stop()).toEqual([]);

    // Without a word.
    back.kill("SIGKILL");
    await expect.poll(() => nodesOf(mesh, "moving"), { timeout: 15_000 }).toEqual([mesh.node(ADAPTER).id]);
    await expect.poll(() => servedBy(mesh, "moving"), soon).toBe("moving");
    await remove(mesh, "moving");
  });

  it("and what is drained survive the end of every process, nats-server's too", async () => {
    const worker = { name: "kept", provider: "openai", baseUrl: second.url, models: ["kept", "m"], priority: 9 };
    await admin(mesh, "POST /admin/workers", worker);
    await admin(mesh, "POST /admin/workers/main/drain");
    await expect.poll(() => servedBy(mesh, "m"), soon).toBe("kept");
    const { nats } = mesh;
    for (const node of mesh.nodes) node.kill("SIGKILL");
    process.kill(nats.pid, "SIGKILL");
    await Promise.all([nats.exited, ...mesh.nodes.map(({ exited }) => exited)]);
    const revived = await startNatsServer({
      bin: await natsServerBin(),
      storeDir: `${mesh.folder}/nats`,
      port: Number(new URL(nats.url).port),
    });
    try {
      const [gateway] = await (shape === "one node"
        ? Promise.all([mesh.run("gateway", "router", ADAPTER)])
        : Promise.all(["gateway", "router", ADAPTER].map((service) => mesh.run(service))));
      const again = { ...mesh, rest: gateway!.rest! };
      await expect.poll(() => servedBy(again, "kept"), soon).toBe("kept");
      await expect.poll(() => servedBy(again, "m"), soon).toBe("kept");
      expect((await admin(again, "GET /admin/workers/kept")).body.specification).toEqual(worker);
      // Those that were killed are missed only after a while, and may not have told that they are drained.
      const drained = async () => {
        const { running } = (await admin(again, "GET /admin/workers/main")).body as {
          running: { draining: boolean }[];
        };
        return [...new Set(running.map(({ draining }) => draining))];
      };
      await expect.poll(drained, { timeout: 15_000, interval: 100 }).toEqual([true]);

      process.kill(revived.pid, "SIGKILL");
      await revived.exited;
      await expect
        .poll(async () => (await admin(again, "POST /admin/workers/main/undrain")).body, soon)
        .toMatchObject({
          error: { code: "NODE_UNREACHABLE", message: expect.stringMatching(/NATS.*Try again/) },
        });
      expect(await servedBy(again, "m")).toBe("kept");
    } finally {
      await mesh[Symbol.asyncDispose]();
      await revived.stop();
    }
  });
});
