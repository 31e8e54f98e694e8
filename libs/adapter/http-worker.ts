/** A worker whose provider is reached over HTTP. */
import type { Dialect } from "./dialect.ts";
import type { WorkerSettings } from "./settings.ts";
import type { Worker, WorkerDependencies } from "./worker.ts";

/** Makes a worker of a dialect. It opens no connection before the first request. */
export function createHttpWorker(dialect: Dialect, settings: WorkerSettings, dependencies: WorkerDependencies): Worker {
  throw new Error(`not there yet: ${dialect.provider} ${settings.name} ${dependencies.log.level}`);
}
