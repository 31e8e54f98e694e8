/** The adapter of Ollama, by its native protocol. */
import { dialectService } from "../../libs/host/index.ts";
import { ollama } from "./dialect.ts";

/** Runs the workers of provider `ollama`. */
export const adapterOllama = dialectService(ollama.provider, () => ollama);
