/** The adapter of Cohere, by the second version of its API. */
import { dialectService } from "../../libs/host/index.ts";
import { cohere } from "./dialect.ts";

/** Runs the workers of provider `cohere`. */
export const adapterCohere = dialectService(cohere.provider, () => cohere);
