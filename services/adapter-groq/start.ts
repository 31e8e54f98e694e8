/** The adapter of Groq. */
import { createHttpWorker } from "../../libs/adapter/index.ts";
import { adapterService } from "../../libs/host/index.ts";
import { groqDialect, PROVIDER } from "./dialect.ts";

/** Runs the workers of provider `groq`. */
export const adapterGroq = adapterService(PROVIDER, (settings, dependencies) =>
  createHttpWorker(groqDialect(settings), settings, dependencies),
);
