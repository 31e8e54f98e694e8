/** What both ends of the gRPC carrier agree on: the names of metadata, the limits, and how methods are described. */
import type { ServiceDefinition as GrpcServiceDefinition } from "@grpc/grpc-js";
import type { MethodDefinition, ServiceDefinition } from "./service.ts";

/** Metadata that accompanies calls. */
export const METADATA = {
  authorization: "authorization",
  /** The mesh's secret: the caller is a node of this mesh, so what it says of tenant, role and request id holds. */
  meshSecret: "cortex-mesh-secret",
  tenant: "cortex-tenant",
  /** Present when the caller speaks for an administrator. */
  admin: "cortex-admin",
  requestId: "cortex-request-id",
  traceparent: "traceparent",
  tracestate: "tracestate",
} as const;

/** The largest message; above the gateway's largest body, as images travel inside requests. */
export const MESSAGE_BYTES_MAX = 64 * 1024 * 1024;

const described = new WeakMap<ServiceDefinition, GrpcServiceDefinition>();

/** The definition as grpc-js wants it. */
export function describe(definition: ServiceDefinition): GrpcServiceDefinition {
  let description = described.get(definition);
  if (description === undefined) {
    description = Object.fromEntries(
      Object.entries<MethodDefinition>(definition.methods).map(([key, method]) => [
        key,
        {
          path: `/${definition.fullName}/${method.name}`,
          requestStream: method.requestStream,
          responseStream: method.responseStream,
          requestSerialize: (message: unknown) => toBuffer(method.requestType.encode(message).finish()),
          requestDeserialize: (bytes: Buffer) => method.requestType.decode(bytes) as unknown,
          responseSerialize: (message: unknown) => toBuffer(method.responseType.encode(message).finish()),
          responseDeserialize: (bytes: Buffer) => method.responseType.decode(bytes) as unknown,
        },
      ]),
    );
    described.set(definition, description);
  }
  return description;
}

function toBuffer(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
