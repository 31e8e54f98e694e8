/** Runs services in a node: configuration, NATS, lifecycle, drain. The only room that reads the environment. */
export { adapterService, checkWorkerSettings, dialectService } from "./adapter.ts";
export {
  type Configuration,
  ConfigurationError,
  configurationJsonSchema,
  KEYS_VARIABLE,
  loadConfiguration,
  localGrpcAddress,
  STRATEGY_NAMES,
  type StrategyName,
} from "./config.ts";
export { inWords } from "./configuration-mistakes.ts";
export { type Host, type RunningService, type ServiceEntry, StartError } from "./host.ts";
export { type NatsServer, resolveNatsServer, startNatsServer } from "./nats-server.ts";
export { portError, type RunningNode, startNode } from "./node.ts";
export { answerLive, answerReady, type Operations, type Readiness, type ScrapeTarget } from "./operations.ts";
export { BREAKER_NAMES, HEALTH_NAMES, KEY_NAMES } from "./worker-words.ts";
