/** The adapter of Groq. */
import { dialectService } from "../../libs/host/index.ts";
import { groqDialect, PROVIDER } from "./dialect.ts";

/** Runs the workers of provider `groq`. */
export const adapterGroq = dialectService(PROVIDER, groqDialect);
