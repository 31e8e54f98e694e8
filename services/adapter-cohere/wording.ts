/** How it is told what Cohere can't do. */
import { unsupportedBy } from "../../libs/adapter/index.ts";

/** A warning that something was left out, or became something else. */
export const unsupported = unsupportedBy("Cohere");
