/** What a worker that is added at run time may be: every field checked, the wrong one named. */
import { WorkerSpecification } from "../../libs/gen/cortex/registry/v1/registry.ts";
import { KEYS_VARIABLE } from "../../libs/host/index.ts";
import { RpcError } from "../../libs/rpc/index.ts";

const NAME = /^[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?$/;
const PRIORITY_MAX = 10_000;
const WEIGHT_MAX = 10_000;
const CONNECTIONS_MAX = 10_000;
const NODE_NAME_CHARACTERS_MAX = 300;
/** What the directory keeps of one worker; it is on every node. */
const BYTES_MAX = 64 * 1024;

/** Returns a specification that every adapter can work with, or throws INVALID_REQUEST with the field that is wrong. */
export function checkSpecification(
  specification: WorkerSpecification | undefined,
  providers: readonly string[],
): WorkerSpecification {
  if (specification === undefined) throw new RpcError("INVALID_REQUEST", "worker is missing", { field: "worker" });
  const { name, provider, baseUrl, models, capabilities, keysVariable, preferredNode } = specification;
  demand(NAME.test(name), "name", "has to be lower-case letters, digits and hyphens, at most 64");
  demand(provider !== "", "provider", "is missing");
  const there = providers.length === 0 ? "no node runs one now" : providers.join(", ");
  const hint = " (use openai with a base URL for OpenAI-compatible servers)";
  demand(
    providers.includes(provider),
    "provider",
    `has to be one that a node of this mesh has an adapter for: ${there}${hint}`,
  );
  checkBaseUrl(baseUrl);
  demand(!models.includes(""), `models[${models.indexOf("")}]`, "is empty");
  demand(!capabilities.includes(""), `capabilities[${capabilities.indexOf("")}]`, "is empty");
  demand(
    keysVariable === "" || KEYS_VARIABLE.test(keysVariable),
    "keys_variable",
    "has to begin with CORTEX_KEYS_: other variables are never sent to an address chosen at run time",
  );
  demand(
    preferredNode.length <= NODE_NAME_CHARACTERS_MAX,
    "preferred_node",
    `has to be at most ${NODE_NAME_CHARACTERS_MAX} characters`,
  );
  const { priority, weight, poolConnections, concurrentRequestsMax, tokensPerSecondMin } = specification;
  checkRange(priority, "priority", 0, PRIORITY_MAX);
  checkRange(weight, "weight", 0, WEIGHT_MAX);
  checkRange(poolConnections, "pool_connections", 1, CONNECTIONS_MAX);
  checkRange(concurrentRequestsMax, "concurrent_requests_max", 1, Number.POSITIVE_INFINITY);
  const speed = tokensPerSecondMin ?? 1;
  demand(speed > 0 && Number.isFinite(speed), "tokens_per_second_min", "has to be more than 0");
  checkTimeouts(specification.timeouts);
  checkModelProperties(specification.modelProperties);
  const bytes = WorkerSpecification.encode(specification).finish().length;
  if (bytes > BYTES_MAX) {
    const message = `worker takes ${bytes} bytes, more than the ${BYTES_MAX} that the directory keeps: list fewer models`;
    throw new RpcError("INVALID_REQUEST", message, { field: "worker" });
  }
  return specification;
}

function checkBaseUrl(baseUrl: string): void {
  if (baseUrl === "") return;
  const url = URL.parse(baseUrl);
  const web = url !== null && (url.protocol === "http:" || url.protocol === "https:");
  demand(web && /^https?:\/\//.test(baseUrl), "base_url", "has to be an address that begins with http:// or https://");
  // It is shown to everybody who may list workers.
  const secret = url!.username !== "" || url!.password !== "";
  demand(!secret, "base_url", "must not have a user or password: keys come from the environment");
}

function checkTimeouts(timeouts: WorkerSpecification["timeouts"]): void {
  if (timeouts === undefined) return;
  const { connectMs, poolMs, firstTokenMs, stallMs, totalMs } = timeouts;
  checkRange(connectMs, "timeouts.connect_ms", 1, Number.POSITIVE_INFINITY);
  checkRange(poolMs, "timeouts.pool_ms", 1, Number.POSITIVE_INFINITY);
  checkRange(firstTokenMs, "timeouts.first_token_ms", 1, Number.POSITIVE_INFINITY);
  checkRange(stallMs, "timeouts.stall_ms", 1, Number.POSITIVE_INFINITY);
  checkRange(totalMs, "timeouts.total_ms", 1, Number.POSITIVE_INFINITY);
}

function checkModelProperties(modelProperties: WorkerSpecification["modelProperties"]): void {
  for (const [model, properties] of Object.entries(modelProperties)) {
    demand(model !== "", "model_properties", 'has an entry without a name; "*" stands for all others');
    const path = `model_properties["${model.slice(0, 100)}"]`;
    demand(!properties.capabilities.includes(""), `${path}.capabilities`, "has an empty word");
    checkRange(properties.contextTokensMax, `${path}.context_tokens_max`, 1, Number.POSITIVE_INFINITY);
    checkCost(properties.inputCostUsdPerMillion, `${path}.input_cost_usd_per_million`);
    checkCost(properties.outputCostUsdPerMillion, `${path}.output_cost_usd_per_million`);
  }
}

function checkRange(value: number | undefined, field: string, min: number, max: number): void {
  if (value === undefined) return;
  const rule = Number.isFinite(max) ? `a whole number from ${min} to ${max}` : `a whole number, at least ${min}`;
  demand(Number.isInteger(value) && value >= min && value <= max, field, `has to be ${rule}`);
}

function checkCost(value: number | undefined, field: string): void {
  demand(value === undefined || (value >= 0 && Number.isFinite(value)), field, "has to be a number, at least 0");
}

function demand(holds: boolean, field: string, rule: string): asserts holds {
  if (!holds) throw new RpcError("INVALID_REQUEST", `worker.${field} ${rule}`, { field: `worker.${field}` });
}
