/** The adapter of OpenAI and of every server that speaks its protocol. */
import { dialectService } from "../../libs/host/index.ts";
import { openAiDialect, PROVIDER } from "./dialect.ts";

/** Runs the workers of provider `openai`. */
export const adapterOpenAi = dialectService(PROVIDER, openAiDialect);
