/** The adapter of OpenAI and of every server that speaks its protocol. */
import { createHttpWorker } from "../../libs/adapter/index.ts";
import { adapterService } from "../../libs/host/index.ts";
import { openAiDialectFor, openai } from "./dialect.ts";

/** Runs the workers of provider `openai`. */
export const adapterOpenAi = adapterService(openai.provider, (settings, dependencies) =>
  createHttpWorker(openAiDialectFor(settings), settings, dependencies),
);
