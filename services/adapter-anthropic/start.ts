/** The adapter of Anthropic. */
import { dialectService } from "../../libs/host/index.ts";
import { anthropic } from "./dialect.ts";

/** Runs the workers of provider `anthropic`. */
export const adapterAnthropic = dialectService(anthropic.provider, () => anthropic);
