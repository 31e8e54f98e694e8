/** The adapter without a provider: simulated workers, for demonstrations and for load. */
import { adapterService } from "../../libs/host/index.ts";
import { createSimWorker, SIM } from "./worker.ts";

/** Runs the workers of provider `sim`. */
export const adapterSim = adapterService(SIM, createSimWorker);
