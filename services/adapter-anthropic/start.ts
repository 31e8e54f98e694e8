/** The adapter of Anthropic. */
import { createHttpWorker } from "../../libs/adapter/index.ts";
import { adapterService } from "../../libs/host/index.ts";
import { anthropic } from "./dialect.ts";

/** Runs the workers of provider `anthropic`. */
export const adapterAnthropic = adapterService(anthropic.provider, (settings, dependencies) =>
  createHttpWorker(anthropic, settings, dependencies),
);
