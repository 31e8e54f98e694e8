/** How a client wants one request to be routed: by header, or by the body's field `cortex`, which SDKs can send too. */
import { z } from "zod";
import { type RoutingOptions, Strategy } from "../../libs/gen/cortex/router/v1/router.ts";
import { STRATEGY_NAMES, type StrategyName } from "../../libs/host/index.ts";
import { RpcError } from "../../libs/rpc/index.ts";
import { cachingWish } from "./caching-options.ts";

const STRATEGIES: Readonly<Record<StrategyName, Strategy>> = {
  local_first: Strategy.LOCAL_FIRST,
  round_robin: Strategy.ROUND_ROBIN,
  least_loaded: Strategy.LEAST_LOADED,
  weighted: Strategy.WEIGHTED,
  latency: Strategy.LATENCY,
  cost: Strategy.COST,
  affinity: Strategy.AFFINITY,
};

const strategyWish = z.enum(STRATEGY_NAMES, `must be one of ${STRATEGY_NAMES.join(", ")}`);

/** The body's field, with what it says of the cache. */
export const cortexWish = z
  .strictObject({
    strategy: strategyWish.nullish(),
    continuation: z.boolean().nullish(),
    hedging: z.boolean().nullish(),
    cache: cachingWish,
  })
  .nullish();

/** What a client wishes in the body. */
export type RoutingWish = Omit<NonNullable<z.output<typeof cortexWish>>, "cache"> | null | undefined;

/**
 * Both together; a header wins over the field of the same name. Undefined when nothing is wished. Throws INVALID_REQUEST with
 * the header's name.
 */
export function readRouting(wish: RoutingWish, header: (name: string) => string): RoutingOptions | undefined {
  const strategy = readStrategy(header("x-cortex-strategy")) ?? wish?.strategy ?? undefined;
  const continuation = readSwitch(header, "x-cortex-continuation") ?? wish?.continuation ?? undefined;
  const hedging = readSwitch(header, "x-cortex-hedging") ?? wish?.hedging ?? undefined;
  if (strategy === undefined && continuation === undefined && hedging === undefined) return undefined;
  return { strategy: strategy === undefined ? Strategy.UNSPECIFIED : STRATEGIES[strategy], continuation, hedging };
}

function readStrategy(value: string): StrategyName | undefined {
  if (value === "") return undefined;
  const read = strategyWish.safeParse(value);
  if (read.success) return read.data;
  throw wrong("x-cortex-strategy", `one of ${STRATEGY_NAMES.join(", ")}`);
}

function readSwitch(header: (name: string) => string, name: string): boolean | undefined {
  const value = header(name);
  if (value === "") return undefined;
  if (value === "on" || value === "off") return value === "on";
  throw wrong(name, "on or off");
}

function wrong(field: string, allowed: string): RpcError {
  return new RpcError("INVALID_REQUEST", `${field}: must be ${allowed}`, { field });
}
