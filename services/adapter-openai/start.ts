/** The adapter of OpenAI and of every server that speaks its protocol. */
import { createHttpWorker } from "../../libs/adapter/index.ts";
import { adapterService } from "../../libs/host/index.ts";
import { openAiDialect, PROVIDER } from "./dialect.ts";

/** Runs the workers of provider `openai`. */
export const adapterOpenAi = adapterService(PROVIDER, (settings, dependencies) =>
  createHttpWorker(openAiDialect(settings), settings, dependencies),
);
