/** The adapter of Gemini. */
import { dialectService } from "../../libs/host/index.ts";
import { gemini } from "./dialect.ts";

/** Runs the workers of provider `gemini`. */
export const adapterGemini = dialectService(gemini.provider, () => gemini);
