/** How requests are written, and how it is told what can't be. */
import type { Warning } from "../../libs/gen/cortex/llm/v1/llm.ts";
import { RpcError } from "../../libs/rpc/index.ts";

/** A JSON object of JSON texts, so that the texts in a request reach the provider exactly as they came. */
export function jsonText(fields: Readonly<Record<string, string | undefined>>): string {
  const written = Object.entries(fields).filter(([, text]) => text !== undefined);
  return `{${written.map(([name, text]) => `${JSON.stringify(name)}:${text}`).join(",")}}`;
}

/** The text itself, once it is known to be a JSON object. */
export function objectText(json: string, field: string): string {
  let value: unknown;
  try {
    value = JSON.parse(json);
  } catch {
    throw invalid(field, "not valid JSON");
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) throw invalid(field, "not a JSON object");
  return json;
}

/** A warning that something was left out, or became something else. */
export function unsupported(parameter: string, message = `Anthropic has no ${parameter}; it was left out`): Warning {
  return { code: "UNSUPPORTED_PARAMETER", message, parameter };
}

export function invalid(field: string, message: string): RpcError {
  return new RpcError("INVALID_REQUEST", `${field}: ${message}`, { field });
}

export function refused(field: string, message: string): RpcError {
  return new RpcError("UNSUPPORTED_PARAMETER", `${field}: ${message}`, { field });
}

/** Required with every request: https://platform.claude.com/docs/en/api/versioning */
export const VERSION_HEADER = { "anthropic-version": "2023-06-01" } as const;
