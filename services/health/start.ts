/** The health service: has every worker asked how it is, and says how the mesh is. */
import { HealthServiceDefinition } from "../../libs/gen/cortex/health/v1/health.ts";
import type { ServiceEntry } from "../../libs/host/index.ts";
import { RpcError } from "../../libs/rpc/index.ts";
import { WorkerChecks } from "./worker-checks.ts";

/** Answers the HealthService. */
export const health: ServiceEntry = {
  name: "health",
  interfaces: [HealthServiceDefinition],
  async start(host) {
    host.serve(HealthServiceDefinition, {
      check: async (_request, call) => host.health({ causes: call.admin }),
      async getReport(_request, call) {
        if (!call.admin) {
          throw new RpcError("PERMISSION_DENIED", "only an administrator's key opens the report: clients[].admin");
        }
        return host.report();
      },
    });
    const checks = new WorkerChecks({
      nodeId: host.nodeId,
      directory: host.mesh.directory,
      clients: host.clients,
      intervalMs: () => host.configuration.health.intervalMs,
      nowMs: Date.now,
      problem: (sentence) => host.problem("checks", sentence),
      log: host.log,
    });
    host.run("checks of the workers", (signal) => checks.run(signal));
    return {};
  },
};
