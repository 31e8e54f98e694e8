/** Which pages may make a browser administer workers; and how what is sent as JSON becomes a worker, and back. */
import { describe, expect, it } from "vitest";
import { WorkerInfo } from "../../libs/gen/cortex/provider/v1/provider.ts";
import {
  Locality,
  type RegistryServiceDefinition,
  WorkerSpecification,
} from "../../libs/gen/cortex/registry/v1/registry.ts";
import { type RpcError, type Service, startCall } from "../../libs/rpc/index.ts";
import { NO_TRACE } from "../../libs/telemetry/index.ts";
import { type AdminAction, addWorker, changeWorker, getWorker, refuseForeignPages, replaceWorker } from "./admin.ts";

describe("a request without client keys", () => {
  type Headers = Parameters<typeof refuseForeignPages>[0];
  const request: Headers = {
    origin: undefined,
    host: "localhost:8080",
    localAddress: "127.0.0.1",
    keysRequired: false,
  };
  const allowed = (more: Partial<Headers>): boolean => {
    try {
      refuseForeignPages({ ...request, ...more });
      return true;
    } catch (error) {
      expect((error as RpcError).reason).toBe("PERMISSION_DENIED");
      return false;
    }
  };

  it.each([
    ["of a program", {}],
    ["of a program that names an IP address", { host: "127.0.0.1:8080" }],
    ["of a program that names an IPv6 address", { host: "[::1]:8080", localAddress: "::1" }],
    ["of a program on another machine", { host: "cortex.internal", localAddress: "10.0.0.5" }],
    ["of the gateway's own page", { origin: "http://localhost:8080" }],
    [
      "of a page at an address of the network",
      { host: "10.0.0.5", origin: "http://10.0.0.5", localAddress: "10.0.0.5" },
    ],
  ])("is served when it is one %s", (_what, more) => {
    expect(allowed(more)).toBe(true);
  });

  it.each([
    ["another site", { origin: "https://evil.example" }],
    ["another port", { origin: "http://localhost:3000" }],
    ["a page without an origin", { origin: "null" }],
    ["a name that leads here (DNS rebinding)", { host: "evil.example:8080", origin: "http://evil.example:8080" }],
    ["such a name, by a request that has no origin", { host: "evil.example:8080" }],
    ["such a name, over IPv6", { host: "evil.example", localAddress: "::ffff:127.0.0.1" }],
    ["such a name, in the network", { host: "evil.example", origin: "http://evil.example", localAddress: "10.0.0.5" }],
    ["a name that looks like an address", { host: "127.0.0.1.evil.example" }],
    ["nobody", { host: undefined }],
  ])("is refused when it comes from %s", (_what, more) => {
    expect(allowed(more)).toBe(false);
  });

  it("and one with a key may name any host: the key tells whose it is", () => {
    expect(allowed({ host: "llm.example.com", keysRequired: true })).toBe(true);
    expect(allowed({ host: "llm.example.com", origin: "https://llm.example.com", keysRequired: true })).toBe(true);
    expect(allowed({ host: "llm.example.com", origin: "https://evil.example", keysRequired: true })).toBe(false);
  });
});

describe("a worker as JSON", () => {
  const call = startCall({ tenant: "t", admin: true, requestId: "r", trace: NO_TRACE });
  const full = {
    name: "w",
    provider: "openai",
    baseUrl: "http://localhost:8000/v1",
    models: ["a", "b"],
    priority: 0,
    capabilities: ["code"],
    keysVariable: "CORTEX_KEYS_W",
    weight: 2,
    preferredNode: "gpu-1",
    pool: { connections: 10 },
    limits: { concurrent: 4, tokensPerSecondMin: 2.5 },
    timeouts: { connectMs: 1, poolMs: 2, firstTokenMs: 3, stallMs: 4, totalMs: 5 },
    modelProperties: {
      a: { capabilities: ["vision"], contextTokensMax: 1000, inputCostUsdPerMillion: 0, outputCostUsdPerMillion: 1.5 },
    },
  };
  const specification: WorkerSpecification = {
    name: "w",
    provider: "openai",
    baseUrl: "http://localhost:8000/v1",
    models: ["a", "b"],
    priority: 0,
    capabilities: ["code"],
    keysVariable: "CORTEX_KEYS_W",
    weight: 2,
    preferredNode: "gpu-1",
    poolConnections: 10,
    concurrentRequestsMax: 4,
    tokensPerSecondMin: 2.5,
    timeouts: full.timeouts,
    modelProperties: full.modelProperties,
  };

  /** A registry that has one worker and notes what it is told. */
  async function ask(action: AdminAction, body: unknown, current = specification) {
    let told: WorkerSpecification | undefined;
    const note = async ({ worker }: { worker?: WorkerSpecification | undefined }) => {
      told = worker;
      return {};
    };
    const registered = {
      info: WorkerInfo.create({ name: "w", provider: "openai" }),
      node: "n",
      locality: Locality.LOCAL,
      added: true,
      preferredNode: "",
      specification: current,
    };
    const registry = {
      register: note,
      update: note,
      get: async () => ({ workers: [registered] }),
    } as unknown as Service<typeof RegistryServiceDefinition>;
    const answer = await action({ worker: "w", query: new URLSearchParams(), body }, registry, call);
    return { told, answer };
  }

  it("is read whole, and written as it was sent", async () => {
    const { told, answer } = await ask(addWorker, full);
    expect(told).toEqual(specification);
    expect(answer).toEqual({ status: 201, body: full, headers: { location: "/admin/workers/w" } });
    expect((await ask(getWorker, undefined)).answer.body).toMatchObject({ specification: full });
  });

  it("is what it says and nothing else when it is put in the place of another", async () => {
    const { told } = await ask(replaceWorker, { provider: "openai", limits: null });
    expect(told).toEqual(WorkerSpecification.fromPartial({ name: "w", provider: "openai" }));
  });

  it("keeps what a patch does not name, and loses what the patch has null for", async () => {
    const { told } = await ask(changeWorker, {
      weight: 9,
      priority: null,
      models: ["c"],
      limits: { concurrent: null },
      timeouts: { stallMs: 40 },
      modelProperties: { a: { contextTokensMax: null }, b: { contextTokensMax: 7 } },
      baseUrl: null,
    });
    expect(told).toEqual({
      ...specification,
      weight: 9,
      priority: undefined,
      models: ["c"],
      baseUrl: "",
      concurrentRequestsMax: undefined,
      timeouts: { ...full.timeouts, stallMs: 40 },
      modelProperties: {
        a: { capabilities: ["vision"], inputCostUsdPerMillion: 0, outputCostUsdPerMillion: 1.5 },
        b: { capabilities: [], contextTokensMax: 7 },
      },
    });
  });

  it.each<[string, unknown]>([
    ["nonsense", { nonsense: 1 }],
    ["__proto__", JSON.parse('{"__proto__": {}}')],
    ["toString", { toString: 1 }],
    ["pool", { pool: [] }],
    ["pool.size", { pool: { size: 1 } }],
    ["limits.concurrent", { limits: { concurrent: "4" } }],
    ["limits.concurrent", { limits: { concurrent: 2 ** 32 } }],
    ["limits.concurrent", { limits: { concurrent: -1 } }],
    ["weight", { weight: 1.5 }],
    ["models", { models: "a" }],
    ["models", { models: [1] }],
    ["name", { name: "another" }],
    ['modelProperties["a"]', { modelProperties: { a: 1 } }],
    ['modelProperties["a"].context', { modelProperties: { a: { context: 1 } } }],
    ["timeouts.totalMs", { timeouts: { totalMs: true } }],
  ])("whose %s is wrong is refused by that name", async (field, body) => {
    for (const action of [replaceWorker, changeWorker]) {
      await expect(ask(action, body)).rejects.toMatchObject({
        reason: "INVALID_REQUEST",
        field,
        message: expect.stringContaining(field),
      });
    }
  });

  it.each([[undefined], [null], [[]], ["w"], [1]])("is an object, and not %j", async (body) => {
    await expect(ask(addWorker, body)).rejects.toMatchObject({ reason: "INVALID_REQUEST" });
  });
});
