/** The adapter of Gemini. */
import { createHttpWorker } from "../../libs/adapter/index.ts";
import { adapterService } from "../../libs/host/index.ts";
import { gemini } from "./dialect.ts";

/** Runs the workers of provider `gemini`. */
export const adapterGemini = adapterService(gemini.provider, (settings, dependencies) =>
  createHttpWorker(gemini, settings, dependencies),
);
