/** A typed service: implement it, serve it, call it, in process or over gRPC. The only room that knows grpc-js. */

export { abortReason, type OwnedCall, startCall, withTrace } from "./call.ts";
export {
  CATALOGUE,
  type ErrorClass,
  type FailedAttempt,
  isReason,
  REFUSALS,
  type Reason,
  RpcError,
  type RpcErrorDetails,
} from "./errors.ts";
export { type Channel, type ChannelOptions, connect } from "./grpc-client.ts";
export { type Caller, createGrpcServer, type GrpcServer, type GrpcServerOptions } from "./grpc-server.ts";
export { bind, type CarrierDependencies } from "./in-process.ts";
export type { Call, Carrier, Method, MethodDefinition, Service, ServiceDefinition } from "./service.ts";
