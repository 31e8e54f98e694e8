/** A worker as it is configured: what `cortex.yaml`, the environment and the registry come to in the end. */
import type { ModelProperties } from "../gen/cortex/provider/v1/provider.ts";
import { RpcError } from "../rpc/index.ts";
import type { Timeouts } from "./dialect.ts";

/** Everything optional is the dialect's default when it is absent. */
export interface WorkerSettings {
  /** Unique in the mesh. */
  readonly name: string;
  /** The dialect that it speaks. */
  readonly provider: string;
  /** Scheme, host and path prefix; a slash at the end is ignored. */
  readonly baseUrl?: string | undefined;
  /** Secrets: they leave this object only inside the header that the dialect makes of them. */
  readonly keys: readonly string[];
  /** Absent to ask the provider. */
  readonly models?: readonly string[] | undefined;
  readonly priority?: number | undefined;
  readonly capabilities?: readonly string[] | undefined;
  readonly pool?: { readonly connections?: number | undefined; readonly keepAliveMs?: number | undefined } | undefined;
  readonly limits?:
    | { readonly concurrent?: number | undefined; readonly tokensPerSecondMin?: number | undefined }
    | undefined;
  /** Its share of the requests under the strategy `weighted`; 1 when absent. */
  readonly weight?: number | undefined;
  /** What is known of its models; `*` stands for all that have no entry of their own. */
  readonly modelProperties?: Readonly<Record<string, ModelProperties>> | undefined;
  readonly timeouts?: { readonly [K in keyof Timeouts]?: number | undefined } | undefined;
  readonly breaker?: { readonly failures?: number | undefined; readonly resetMs?: number | undefined } | undefined;
  /** Nobody has asked for it, and it may not be there: until it is, nobody hears of it. */
  readonly assumed?: boolean | undefined;
  /** Settings that only this provider's dialect understands, for example the pace of `sim`. */
  readonly options?: Readonly<Record<string, unknown>> | undefined;
}

/** Where a worker's provider is. Throws INVALID_REQUEST for what is no such address. */
export function parseBaseUrl(text: string): URL {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  const http = url?.protocol === "http:" || url?.protocol === "https:";
  if (
    url === undefined ||
    !http ||
    url.username !== "" ||
    url.password !== "" ||
    url.search !== "" ||
    url.hash !== ""
  ) {
    // Not quoted: it may hold a key.
    const message = "baseUrl must be an http or https address of host, port and path only; keys go into keys";
    throw new RpcError("INVALID_REQUEST", message, { field: "baseUrl" });
  }
  url.pathname = url.pathname.replace(/\/+$/, "");
  return url;
}

/**
 * Throws INVALID_REQUEST, naming it by its index, for a key that can't be in a header: it would fail every request, with an error
 * that is hard to read.
 */
export function checkKey(key: string, index: number): void {
  if (/^[\x21-\x7e]+$/.test(key)) return;
  const field = `keys[${index}]`;
  throw new RpcError("INVALID_REQUEST", `${field} is empty, or has a space or a character that no key has`, { field });
}

/** `chosen` over `defaults`, where a field that is undefined chooses nothing. */
export function withDefaults<T extends object>(
  defaults: T,
  chosen: { readonly [K in keyof T]?: T[K] | undefined } | undefined,
): T {
  const result = { ...defaults };
  for (const key of Object.keys(defaults) as (keyof T)[]) {
    const value = chosen?.[key];
    if (value !== undefined) result[key] = value;
  }
  return result;
}
