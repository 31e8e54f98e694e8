/**
 * The shell of an adapter: everything an adapter does besides translation. It turns a dialect and a worker's settings into
 * a worker, and workers into the node's ProviderService. The only room that knows undici and opossum.
 */
export { ActiveRequests } from "./active-requests.ts";
export { begunAnswer, Repetition } from "./begun-answer.ts";
export { completionParts } from "./completion-parts.ts";
export type {
  AttemptContext,
  Dialect,
  DialectDefaults,
  EventReader,
  ListedModel,
  ProviderEvent,
  ProviderRequest,
  Timeouts,
} from "./dialect.ts";
export { createHttpWorker } from "./http-worker.ts";
export {
  countOf,
  isJson,
  type Json,
  momentSOf,
  notUnderstood,
  objectOf,
  parseJson,
  textOf,
  vectorOf,
} from "./json.ts";
export type { KeyChange } from "./keys.ts";
export { type Knowledge, knownOf, type ModelFamily, propertiesOf } from "./model-properties.ts";
export { createProviderService, type ProviderService, type ProviderServiceChange } from "./provider-service.ts";
export { failureMessage, oneLine, pageText, READ_CHARS_MAX, shortened } from "./provider-words.ts";
export type { RateLimit, RateLimits } from "./rate-limits.ts";
export type { WorkerSettings } from "./settings.ts";
export { readTokenLogprobs } from "./token-logprobs.ts";
export { boundedWaitMs, durationMs, type Headers, header, retryAfterMs, secondsMs, untilMs } from "./waits.ts";
export {
  base64,
  dataUrl,
  invalid,
  jsonText,
  misplaced,
  objectText,
  parametersText,
  refused,
  textIn,
  toolResultsIn,
  unsupportedBy,
} from "./wording.ts";
export type { RequestOptions, Worker, WorkerChange, WorkerDependencies } from "./worker.ts";
