/** The health service: says how the mesh is. The checks themselves are made where the workers are, by their adapters. */
import { HealthServiceDefinition } from "../../libs/gen/cortex/health/v1/health.ts";
import type { ServiceEntry } from "../../libs/host/index.ts";

/** Answers the HealthService. */
export const health: ServiceEntry = {
  name: "health",
  interfaces: [HealthServiceDefinition],
  async start(host) {
    host.serve(HealthServiceDefinition, { check: async () => host.health() });
    return {};
  },
};
