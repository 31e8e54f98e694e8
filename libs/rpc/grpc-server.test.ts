/** A node's gRPC server: how it ends, seen by clients that hold streams open which no service of the node knows, and whom it lets in. */
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { type Client, credentials, loadPackageDefinition, type ServiceError } from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";
import { protoPath } from "grpc-health-check";
import { afterEach, describe, expect, it, vi } from "vitest";
import { CacheServiceDefinition, CacheStoreServiceDefinition } from "../gen/cortex/cache/v1/cache.ts";
import { RouterServiceDefinition } from "../gen/cortex/router/v1/router.ts";
import { createLogger, NO_TRACE, silentTracer } from "../telemetry/index.ts";
import { type Caller, connect, createGrpcServer, RpcError, startCall } from "./index.ts";

const log = createLogger({ level: "silent", readable: false, node: "test" });
const reflectionProto = join(
  dirname(createRequire(import.meta.url).resolve("@grpc/reflection")),
  "../proto/grpc/reflection/v1/reflection.proto",
);
/** What a node's graceful end may take; far more than these tests do. */
const GRACE_MS = 60_000;
const ends: (() => unknown)[] = [];

afterEach(async () => {
  for (const end of ends.splice(0).reverse()) await end();
});

interface Stream {
  on(event: "data", listener: (answer: { status: string }) => void): void;
  on(event: "error", listener: (error: ServiceError) => void): void;
}

type ReflectionClient = Client & { ServerReflectionInfo(): Stream & { write(question: object): void } };
type HealthClient = Client & { Watch(request: { service: string }): Stream };

async function start() {
  const server = createGrpcServer({
    tracer: silentTracer,
    log,
    authenticate: () => ({ trusted: false, tenant: "t", admin: false }),
    descriptors: readFileSync(new URL("../gen/descriptors.binpb", import.meta.url)),
    interfaces: [],
  });
  const unused = () => Promise.reject(new Error("not asked in this test"));
  server.add(RouterServiceDefinition, {
    complete: unused,
    embed: unused,
    listModels: unused,
    explain: unused,
    join: () => {
      throw new Error("not asked in this test");
    },
    stream: () => {
      throw new Error("not asked in this test");
    },
  });
  const port = await server.listen("127.0.0.1", 0);
  ends.push(() => server.close(0));
  const address = `127.0.0.1:${port}`;
  // biome-ignore lint/suspicious/noExplicitAny: a definition that is loaded at run time has no types.
  const contract = (file: string) => loadPackageDefinition(loadSync(file, { enums: String })) as any;
  const client: HealthClient = new (contract(protoPath).grpc.health.v1.Health)(address, credentials.createInsecure());
  const { ServerReflection } = contract(reflectionProto).grpc.reflection.v1;
  const reflection: ReflectionClient = new ServerReflection(address, credentials.createInsecure());
  ends.push(() => {
    client.close();
    reflection.close();
  });
  return { server, client, reflection };
}

/** Watches a service as a balancer does, for as long as it is told something. */
function watch(client: HealthClient, service: string) {
  const seen: string[] = [];
  const failed = vi.fn<(error: ServiceError) => void>();
  const stream = client.Watch({ service });
  stream.on("data", ({ status }) => seen.push(status));
  stream.on("error", failed);
  return { seen, failed };
}

describe("a gRPC server that closes", () => {
  it("does not wait for those who watch its health, and tells them", async () => {
    const { server, client } = await start();
    const { seen, failed } = watch(client, "");
    server.open();
    await vi.waitFor(() => expect(seen.at(-1)).toBe("SERVING"));
    server.drain();
    await vi.waitFor(() => expect(seen.at(-1)).toBe("NOT_SERVING"));
    await server.close(GRACE_MS);
    await vi.waitFor(() => expect(failed).toHaveBeenCalledOnce());
    expect(failed.mock.calls[0]![0]).toMatchObject({ code: 14 });
  });

  it("does not wait for those who have asked it what it serves", async () => {
    const { server, reflection } = await start();
    const stream = reflection.ServerReflectionInfo();
    const answers = vi.fn();
    const failed = vi.fn<(error: ServiceError) => void>();
    stream.on("data", answers);
    stream.on("error", failed);
    stream.write({ listServices: "" });
    await vi.waitFor(() => expect(answers).toHaveBeenCalledOnce());
    await server.close(GRACE_MS);
    await vi.waitFor(() => expect(failed).toHaveBeenCalledOnce());
  });

  it("takes calls of its services, and is itself not ready, until its node has started", async () => {
    const { server, client } = await start();
    const [node, router] = [watch(client, ""), watch(client, RouterServiceDefinition.fullName)];
    await vi.waitFor(() => expect([node.seen, router.seen]).toEqual([["NOT_SERVING"], ["SERVING"]]));
    server.open();
    await vi.waitFor(() => expect(node.seen).toEqual(["NOT_SERVING", "SERVING"]));
    server.drain();
    await vi.waitFor(() => expect([node.seen.at(-1), router.seen.at(-1)]).toEqual(["NOT_SERVING", "NOT_SERVING"]));
    // What comes while it drains changes nothing.
    server.open();
    server.setServing(RouterServiceDefinition, true);
    const late = watch(client, "");
    await vi.waitFor(() => expect(late.seen).toEqual(["NOT_SERVING"]));
    expect(router.seen.at(-1)).toBe("NOT_SERVING");
    await server.close(GRACE_MS);
  });

  it("tells who watches a service that it can't be called for a while", async () => {
    const { server, client } = await start();
    const { seen } = watch(client, RouterServiceDefinition.fullName);
    await vi.waitFor(() => expect(seen).toEqual(["SERVING"]));
    server.setServing(RouterServiceDefinition, false);
    server.setServing(RouterServiceDefinition, true);
    await vi.waitFor(() => expect(seen).toEqual(["SERVING", "NOT_SERVING", "SERVING"]));
    await server.close(GRACE_MS);
    // The service stops after the server: nobody is left to be told, and nothing breaks.
    server.setServing(RouterServiceDefinition, false);
  });
});

describe("a service for the mesh alone", () => {
  const CALLERS: readonly [string, Caller, string][] = [
    ["a node of the mesh", { trusted: true, tenant: "", admin: false }, "answered"],
    ["an administrator", { trusted: false, tenant: "t", admin: true }, "answered"],
    ["a client", { trusted: false, tenant: "t", admin: false }, "PERMISSION_DENIED"],
  ];

  it.each(CALLERS)("is asked by %s", async (_who, caller, outcome) => {
    const server = createGrpcServer({
      tracer: silentTracer,
      log,
      authenticate: () => caller,
      descriptors: readFileSync(new URL("../gen/descriptors.binpb", import.meta.url)),
      interfaces: [],
      meshOnly: [CacheStoreServiceDefinition.fullName],
    });
    const put = vi.fn(async () => ({}));
    const unused = () => Promise.reject(new Error("not asked in this test"));
    server.add(CacheStoreServiceDefinition, {
      put,
      putMany: unused,
      acquire: unused,
      release: unused,
      getMany: unused,
    });
    server.add(CacheServiceDefinition, {
      invalidate: unused,
      getStatistics: async () => ({ node: "n", levels: [], sharedCalls: 0 }),
      listStatistics: unused,
    });
    const channel = connect(`127.0.0.1:${await server.listen("127.0.0.1", 0)}`, { meshSecret: () => "secret" });
    const call = startCall({ tenant: "t", requestId: "r", trace: NO_TRACE, deadlineAtMs: Date.now() + 10_000 });
    ends.push(
      () => server.close(0),
      () => channel.close(),
      () => call.finish(),
    );
    const entry = { key: "k", entry: Buffer.of(1), expiresAtMs: 1, node: "n" };
    const told = await channel
      .client(CacheStoreServiceDefinition)
      .put(entry, call)
      .then(
        () => "answered",
        (error: RpcError) => error.reason,
      );
    expect(told).toBe(outcome);
    expect(put).toHaveBeenCalledTimes(outcome === "answered" ? 1 : 0);
    // Everybody may ask the others.
    expect(await channel.client(CacheServiceDefinition).getStatistics({}, call)).toMatchObject({ node: "n" });
  });
});

describe("what logs may say of an error", () => {
  it.each([
    ["reaches a node of the mesh", { trusted: true, tenant: "", admin: false }, "nobody at 10.0.0.1:80"],
    ["is kept from a client", { trusted: false, tenant: "t", admin: false }, undefined],
  ] as const)("%s", async (_who, caller, forLog) => {
    const server = createGrpcServer({
      tracer: silentTracer,
      log,
      authenticate: () => caller,
      descriptors: readFileSync(new URL("../gen/descriptors.binpb", import.meta.url)),
      interfaces: [],
    });
    const failed = new RpcError("PROVIDER_UNREACHABLE", "no answer", { forLog: "nobody at 10.0.0.1:80" });
    server.add(CacheServiceDefinition, {
      invalidate: () => Promise.reject(failed),
      getStatistics: () => Promise.reject(failed),
      listStatistics: () => Promise.reject(failed),
    });
    const channel = connect(`127.0.0.1:${await server.listen("127.0.0.1", 0)}`, { meshSecret: () => "secret" });
    const call = startCall({ tenant: "t", requestId: "r", trace: NO_TRACE, deadlineAtMs: Date.now() + 10_000 });
    ends.push(
      () => server.close(0),
      () => channel.close(),
      () => call.finish(),
    );
    const told = channel.client(CacheServiceDefinition).getStatistics({}, call);
    const error = await told.catch((thrown: unknown) => thrown);
    expect(error).toMatchObject({ reason: "PROVIDER_UNREACHABLE", message: "no answer" });
    expect((error as RpcError).forLog).toBe(forLog);
  });
});
