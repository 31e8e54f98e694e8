/** The adapter of Cohere, by the second version of its API. */
import { createHttpWorker } from "../../libs/adapter/index.ts";
import { adapterService } from "../../libs/host/index.ts";
import { cohere } from "./dialect.ts";

/** Runs the workers of provider `cohere`. */
export const adapterCohere = adapterService(cohere.provider, (settings, dependencies) =>
  createHttpWorker(cohere, settings, dependencies),
);
