/** How the mesh is, seen from one node's memory. */
import { type CheckResponse, Status } from "../gen/cortex/health/v1/health.ts";
import { BreakerState, Health, type WorkerInfo } from "../gen/cortex/provider/v1/provider.ts";
import { RouterServiceDefinition } from "../gen/cortex/router/v1/router.ts";
import type { Mesh } from "../mesh/index.ts";

/** The verdict and what it is made of. Asks nobody, so it answers also when everything else hangs. */
export function checkMesh(
  mesh: Mesh,
  options: {
    readonly version: string;
    readonly uptimeS: number;
    /** What else is wrong with this node; the other ones say it in their heartbeats. */
    readonly problems: readonly string[];
    /** Also tells why each worker is down, which may name an address. */
    readonly causes: boolean;
  },
): CheckResponse {
  const best = new Map<string, WorkerInfo>();
  for (const { info } of mesh.directory.workers()) {
    if (info === undefined) continue;
    const known = best.get(info.name);
    if (known === undefined || stateOf(info) < stateOf(known)) best.set(info.name, info);
  }
  const states = [...best.values()].map(stateOf);
  const count = (state: Health) => states.filter((known) => known === state).length;
  const [available, busy, unavailable] = [count(Health.AVAILABLE), count(Health.BUSY), count(Health.UNAVAILABLE)];
  const problems = [...options.problems];
  for (const { id, name, load } of mesh.directory.nodes()) {
    if (id !== mesh.nodeId) for (const problem of load?.problems ?? []) problems.push(`node ${name || id}: ${problem}`);
  }
  for (const info of best.values()) {
    if (stateOf(info) !== Health.UNAVAILABLE) continue;
    const cause = options.causes && info.reason !== "" ? `: ${info.message} (${info.reason})` : "";
    problems.push(`worker ${info.name} is unavailable${cause}`);
  }
  if (!mesh.connected) problems.push("NATS is away: the directory is as it was, and changes are not seen");
  if (best.size === 0) problems.push("no worker is running");
  const routed = mesh.directory.nodesServing(RouterServiceDefinition.fullName).length > 0;
  if (!routed) problems.push("no router is running that takes new calls");
  const serving = routed && available + busy > 0;
  return {
    status: !serving ? Status.UNHEALTHY : problems.length > 0 ? Status.DEGRADED : Status.HEALTHY,
    version: options.version,
    node: mesh.nodeId,
    uptimeS: options.uptimeS,
    nodes: mesh.directory.nodes().length,
    workersAvailable: available,
    workersBusy: busy,
    workersUnavailable: unavailable,
    natsConnected: mesh.connected,
    problems,
  };
}

/** A worker that rests behind its breaker serves nobody. AVAILABLE < BUSY < UNAVAILABLE in the contract's numbers. */
function stateOf({ health, breaker }: WorkerInfo): Health {
  if (breaker === BreakerState.OPEN) return Health.UNAVAILABLE;
  return health === Health.UNSPECIFIED ? Health.UNAVAILABLE : health;
}
