/** gRPC as a client sees it that has nothing but the address: reflection, streams, errors, health, and who is believed. */

import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import {
  type Client,
  type ClientDuplexStream,
  credentials,
  type GrpcObject,
  loadPackageDefinition,
  Metadata,
  type ServiceClientConstructor,
  type ServiceError,
  status,
} from "@grpc/grpc-js";
import { loadFileDescriptorSetFromBuffer, loadSync } from "@grpc/proto-loader";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { ErrorInfo, Status } from "../../libs/gen/cortex/errors/v1/errors.ts";
import { type Simulator, startOpenAiSimulator } from "../fakes/index.ts";
import { SHAPES, startMesh, type TestMesh } from "../mesh.ts";

const OPTIONS = { enums: String, defaults: true, oneofs: true } as const;
const KEY = "client-key-a1";

/** Everything that a server says about one of its services, as an encoded FileDescriptorSet. */
async function reflect(address: string, symbol: string): Promise<Buffer> {
  const folder = dirname(createRequire(import.meta.url).resolve("@grpc/reflection/package.json"));
  const proto = join(folder, "build/proto/grpc/reflection/v1/reflection.proto");
  const { grpc } = loadPackageDefinition(loadSync(proto, OPTIONS)) as unknown as {
    grpc: { reflection: { v1: { ServerReflection: ServiceClientConstructor } } };
  };
  const client = new grpc.reflection.v1.ServerReflection(address, credentials.createInsecure());
  const stream = (client as unknown as Record<string, () => ClientDuplexStream<object, ReflectionResponse>>)[
    "ServerReflectionInfo"
  ]!();
  try {
    const answer = new Promise<ReflectionResponse>((resolve, reject) => {
      stream.once("data", resolve);
      stream.once("error", reject);
    });
    stream.write({ fileContainingSymbol: symbol });
    const { fileDescriptorResponse } = await answer;
    // A FileDescriptorSet is the files, each as field 1.
    return Buffer.concat(
      fileDescriptorResponse.fileDescriptorProto.flatMap((file) => [Buffer.from([0x0a]), varint(file.length), file]),
    );
  } finally {
    stream.end();
    client.close();
  }
}

interface ReflectionResponse {
  readonly fileDescriptorResponse: { readonly fileDescriptorProto: readonly Buffer[] };
}

function varint(value: number): Buffer {
  const bytes: number[] = [];
  let rest = value;
  for (; rest > 0x7f; rest >>>= 7) bytes.push((rest & 0x7f) | 0x80);
  bytes.push(rest);
  return Buffer.from(bytes);
}

/** A client of a service that is known by its name only. */
async function clientOf(
  address: string,
  symbol: string,
): Promise<Client & Record<string, (...args: unknown[]) => unknown>> {
  const definition = loadFileDescriptorSetFromBuffer(await reflect(address, symbol), OPTIONS);
  let scope = loadPackageDefinition(definition) as GrpcObject;
  const names = symbol.split(".");
  const service = names.pop()!;
  for (const name of names) scope = scope[name] as GrpcObject;
  const Service = scope[service] as ServiceClientConstructor;
  return new Service(address, credentials.createInsecure()) as never;
}

function metadataOf(entries: Readonly<Record<string, string>>): Metadata {
  const metadata = new Metadata();
  for (const [name, value] of Object.entries(entries)) metadata.set(name, value);
  return metadata;
}

interface Heard {
  readonly text: string;
  readonly finished: boolean;
  readonly error: ServiceError | undefined;
}

function stream(
  client: Record<string, (...args: unknown[]) => unknown>,
  request: object,
  metadata = new Metadata(),
): Promise<Heard> {
  return new Promise((resolve) => {
    let text = "";
    let finished = false;
    const call = client["Stream"]!(request, metadata) as NodeJS.EventEmitter;
    call.on("data", ({ parts }: { parts: { part: string; text?: { text: string } }[] }) => {
      for (const part of parts) {
        if (part.part === "text") text += part.text!.text;
        if (part.part === "finish") finished = true;
      }
    });
    call.on("error", (error: ServiceError) => resolve({ text, finished, error }));
    call.on("end", () => resolve({ text, finished, error: undefined }));
  });
}

const request = (model: string) => ({
  completion: { model, messages: [{ role: "ROLE_USER", content: [{ text: "hello" }] }] },
});

describe.each(SHAPES)("a gRPC client that knows only the address, with %s", (shape) => {
  let simulator: Simulator;
  let mesh: TestMesh;

  beforeAll(async () => {
    simulator = await startOpenAiSimulator();
    mesh = await startMesh(shape, {
      workers: [{ name: "main", provider: "openai", baseUrl: simulator.url, models: ["gpt-4o"] }],
      settings: { clients: [{ key: KEY, tenant: "team-a" }] },
    });
  });

  afterAll(async () => {
    await mesh?.[Symbol.asyncDispose]();
    await simulator?.stop();
  });

  it("asks what there is, and streams a completion", async () => {
    const router = await clientOf(mesh.grpc, "cortex.router.v1.RouterService");
    const heard = await stream(router, request("gpt-4o"), metadataOf({ authorization: `Bearer ${KEY}` }));
    expect(heard).toEqual({ text: "You said: hello", finished: true, error: undefined });
    router.close();
  });

  it("gets errors whose details any gRPC library reads", async () => {
    const router = await clientOf(mesh.grpc, "cortex.router.v1.RouterService");
    const { error } = await stream(router, request("nope"), metadataOf({ authorization: `Bearer ${KEY}` }));
    expect(error?.code).toBe(status.NOT_FOUND);
    const [encoded] = error!.metadata.get("grpc-status-details-bin");
    const details = Status.decode(encoded as Buffer);
    expect(details.code).toBe(status.NOT_FOUND);
    const info = details.details.find(({ typeUrl }) => typeUrl === "type.googleapis.com/google.rpc.ErrorInfo");
    expect(ErrorInfo.decode(info!.value)).toMatchObject({ reason: "MODEL_NOT_FOUND", domain: "cortex" });
    router.close();
  });

  it("is believed only with a key, whatever else it claims", async () => {
    const router = await clientOf(mesh.grpc, "cortex.router.v1.RouterService");
    const registry = await clientOf(mesh.grpc, "cortex.registry.v1.RegistryService");
    for (const claims of [
      {},
      { authorization: "Bearer wrong" },
      { "cortex-tenant": "team-a" },
      { "cortex-mesh-secret": "guess", "cortex-tenant": "team-a" },
    ]) {
      const { error, text } = await stream(router, request("gpt-4o"), metadataOf(claims as Record<string, string>));
      expect(error?.code).toBe(status.UNAUTHENTICATED);
      expect(text).toBe("");
      const listed = await new Promise<ServiceError | null>((resolve) => {
        registry["List"]!({}, metadataOf(claims as Record<string, string>), (failure: ServiceError | null) =>
          resolve(failure),
        );
      });
      expect(listed?.code).toBe(status.UNAUTHENTICATED);
    }
    router.close();
    registry.close();
  });

  it("asks the standard health service, which needs no key and tells when the node leaves", async () => {
    const node = shape === "one node" ? "cortex" : "router";
    const { grpc } = mesh.node(node);
    const health = await clientOf(grpc, "grpc.health.v1.Health");
    const check = (service: string) =>
      new Promise<string>((resolve) => {
        health["Check"]!({ service }, (failure: ServiceError | null, answer: { status: string } | undefined) =>
          resolve(failure === null ? answer!.status : status[failure.code]!),
        );
      });
    expect(await check("")).toBe("SERVING");
    expect(await check("cortex.router.v1.RouterService")).toBe("SERVING");
    expect(await check("cortex.nope.v1.Nope")).toBe("NOT_FOUND");

    simulator.behave("tokens:200,tokenMs:20");
    const next = simulator.generations.length;
    const router = await clientOf(grpc, "cortex.router.v1.RouterService");
    const running = stream(router, request("gpt-4o"), metadataOf({ authorization: `Bearer ${KEY}` }));
    const generation = await simulator.generation(next);
    await expect.poll(() => generation.tokensSent).toBeGreaterThan(2);
    mesh.node(node).kill("SIGTERM");
    await expect.poll(() => check("")).not.toBe("SERVING");
    const heard = await running;
    expect(heard.error).toBeUndefined();
    expect(heard.finished).toBe(true);
    expect(await mesh.node(node).exited).toBe(0);
    health.close();
    router.close();
  });
});
