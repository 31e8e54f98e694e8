/** The adapter of Ollama, by its native protocol. */
import { createHttpWorker } from "../../libs/adapter/index.ts";
import { adapterService } from "../../libs/host/index.ts";
import { ollama } from "./dialect.ts";

/** Runs the workers of provider `ollama`. */
export const adapterOllama = adapterService(ollama.provider, (settings, dependencies) =>
  createHttpWorker(ollama, settings, dependencies),
);
