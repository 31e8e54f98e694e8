/** A typed service: implement it, serve it, call it, in process or over gRPC. The only room that knows grpc-js. */
export {
  CATALOGUE,
  type ErrorClass,
  type FailedAttempt,
  isReason,
  type Reason,
  RpcError,
  type RpcErrorDetails,
} from "./errors.ts";
export type { Call, Carrier, Method, MethodDefinition, Service, ServiceDefinition } from "./service.ts";
