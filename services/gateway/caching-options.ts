/**
 * Whether an answer may come from the cache and be kept there, as a client says it: by HTTP's own `Cache-Control`, by headers
 * of Cortex, or by the body's field `cortex.cache`; and what the cache had to do with an answer, as headers.
 */
import { z } from "zod";
import {
  type CacheOptions,
  type CacheStatus,
  CacheOptions_Mode as Mode,
  CacheStatus_State as State,
} from "../../libs/gen/cortex/router/v1/router.ts";
import { RpcError } from "../../libs/rpc/index.ts";

const MODES = {
  off: Mode.OFF,
  refresh: Mode.REFRESH,
  "only-if-cached": Mode.ONLY_IF_CACHED,
} as const satisfies Readonly<Record<string, Mode>>;

type ModeName = keyof typeof MODES;

const MODE_NAMES = Object.keys(MODES) as ModeName[];

/** The largest number that the fields of the contracts hold. */
const UINT32_MAX = 4_294_967_295;
const ttlS = z.int().positive().max(UINT32_MAX);
const maxAgeS = z.int().min(0).max(UINT32_MAX);

/** The body's field. */
export const cachingWish = z
  .strictObject({
    mode: z.enum(MODE_NAMES, `must be one of ${MODE_NAMES.join(", ")}`).nullish(),
    no_cache: z.boolean().nullish(),
    only_if_cached: z.boolean().nullish(),
    ttl_s: ttlS.nullish(),
    max_age_s: maxAgeS.nullish(),
    tokens_per_second: z.number().positive().max(100_000).nullish(),
  })
  .refine(({ mode, no_cache, only_if_cached }) => [mode, no_cache, only_if_cached].filter(Boolean).length <= 1, {
    error: "mode, no_cache and only_if_cached say the same thing: send one of them",
  })
  .nullish();

/** What a client wishes in the body. */
export type CachingWish = z.output<typeof cachingWish>;

type ReadHeader = (name: string) => string;

/**
 * All together: a header of Cortex wins over the body, and both over `Cache-Control`, which browsers and HTTP libraries send
 * unasked. Undefined when nothing is wished. Throws INVALID_REQUEST with the header's name.
 */
export function readCaching(wish: CachingWish, header: ReadHeader): CacheOptions | undefined {
  const control = readCacheControl(header("cache-control"));
  const mode = readMode(header("x-cortex-cache")) ?? modeOf(wish) ?? control.mode;
  const ttl = readSeconds(header("x-cortex-cache-ttl"), "x-cortex-cache-ttl", ttlS) ?? wish?.ttl_s ?? undefined;
  const maxAge = wish?.max_age_s ?? control.maxAgeS;
  const tokensPerSecond = wish?.tokens_per_second ?? undefined;
  if (mode === undefined && ttl === undefined && maxAge === undefined && tokensPerSecond === undefined)
    return undefined;
  return { mode: mode === undefined ? Mode.UNSPECIFIED : MODES[mode], ttlS: ttl, maxAgeS: maxAge, tokensPerSecond };
}

function modeOf(wish: CachingWish): ModeName | undefined {
  if (wish?.no_cache === true) return "off";
  if (wish?.only_if_cached === true) return "only-if-cached";
  return wish?.mode ?? undefined;
}

function readMode(value: string): ModeName | undefined {
  if (value === "") return undefined;
  const word = value.trim().toLowerCase();
  if (Object.hasOwn(MODES, word)) return word as ModeName;
  throw wrong("x-cortex-cache", `one of ${MODE_NAMES.join(", ")}`);
}

function readSeconds(value: string, field: string, schema: z.ZodType<number>): number | undefined {
  if (value === "") return undefined;
  const read = /^\d+$/.test(value) ? schema.safeParse(Number(value)) : undefined;
  if (read?.success === true) return read.data;
  throw wrong(field, `a whole number of seconds${schema === ttlS ? ", at least 1" : ""}`);
}

/** RFC 9111 §5.2.1. Directives that mean nothing here are ignored, as it asks for. */
function readCacheControl(value: string): { readonly mode?: ModeName; readonly maxAgeS?: number } {
  if (value === "") return {};
  const directives = new Map<string, string>();
  for (const directive of value.split(",")) {
    const [name = "", argument = ""] = directive.split(/=(.*)/s);
    directives.set(name.trim().toLowerCase(), argument.trim().replaceAll('"', ""));
  }
  const maxAge = directives.get("max-age");
  return {
    ...modeOfDirectives(directives),
    ...(maxAge === undefined ? {} : { maxAgeS: readMaxAge(maxAge) }),
  };
}

function modeOfDirectives(directives: ReadonlyMap<string, string>): { readonly mode?: ModeName } {
  if (directives.has("only-if-cached")) return { mode: "only-if-cached" };
  if (directives.has("no-store")) return { mode: "off" };
  return directives.has("no-cache") ? { mode: "refresh" } : {};
}

function readMaxAge(value: string): number {
  // A time too long for a number is as good as the longest, says RFC 9111 §1.2.2.
  if (/^\d+$/.test(value)) return Math.min(Number(value), UINT32_MAX);
  throw wrong("cache-control", "right: its max-age is a whole number of seconds");
}

function wrong(field: string, allowed: string): RpcError {
  return new RpcError("INVALID_REQUEST", `${field}: must be ${allowed}`, { field });
}

const STATE_NAMES: Record<State, string> = {
  [State.UNSPECIFIED]: "",
  [State.HIT]: "hit",
  [State.MISS]: "miss",
  [State.SHARED]: "shared",
  [State.BYPASS]: "bypass",
};

/** Whether the answer comes from the cache. */
export function isHit(status: CacheStatus | undefined): boolean {
  return status?.state === State.HIT;
}

/**
 * What the cache had to do with an answer, for people (`x-cortex-cache: hit; level=l1; age=12`) and for programs
 * (`Cache-Status`, RFC 9211). Nothing when nothing is known of it.
 */
export function cacheHeaders(status: CacheStatus | undefined): Record<string, string> {
  if (status === undefined || status.state === State.UNSPECIFIED) return {};
  const { state, detail, key } = status;
  const ageS = Math.floor(status.ageS);
  const said = detail === "" ? "" : `; ${isHit(status) ? "level" : "detail"}=${item(detail)}`;
  return {
    "x-cortex-cache": `${STATE_NAMES[state]}${said}${isHit(status) ? `; age=${ageS}` : ""}`,
    "cache-status": `cortex; ${standing(status)}${detail === "" ? "" : `; detail=${item(detail)}`}`,
    ...(key === "" ? {} : { "x-cortex-cache-key": printable(key) }),
    ...(isHit(status) ? { age: String(ageS) } : {}),
  };
}

/** RFC 9211 §2: a hit, or why the request went on to a provider. */
function standing({ state, detail }: CacheStatus): string {
  switch (state) {
    case State.HIT:
      return "hit";
    case State.SHARED:
      return "fwd=miss; collapsed";
    case State.BYPASS:
      return "fwd=bypass";
    default:
      if (/^[1-9]\d* of /.test(detail)) return "fwd=partial";
      return detail === "refresh" ? "fwd=request" : "fwd=miss";
  }
}

/** A token or a string of RFC 8941. */
function item(value: string): string {
  if (/^[A-Za-z*][\w!#$%&'*+.^`|~:/-]*$/.test(value)) return value;
  return `"${printable(value).replaceAll(/["\\]/g, "\\$&")}"`;
}

function printable(value: string): string {
  return value.slice(0, 200).replaceAll(/[^\x20-\x7e]/g, "?");
}
