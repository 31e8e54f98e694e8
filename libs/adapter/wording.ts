/** How requests to providers are written, and how the client is told what can't be. */
import type { ContentPart, Message, ToolResult, Warning } from "../gen/cortex/llm/v1/llm.ts";
import { RpcError } from "../rpc/index.ts";
import { isJson } from "./json.ts";

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
  if (!isJson(value)) throw invalid(field, "not a JSON object");
  return json;
}

/** The schema of a tool's parameters, for a provider that wants one also where there are none. */
export function parametersText(json: string, field: string): string {
  return json === "" ? '{"type":"object","properties":{}}' : objectText(json, field);
}

/** Writes the warnings of `provider`: without a message of its own one says that the parameter was left out. */
export function unsupportedBy(provider: string): (parameter: string, message?: string) => Warning {
  return (parameter, message = `${provider} has no ${parameter}; it was left out`) => ({
    code: "UNSUPPORTED_PARAMETER",
    message,
    parameter,
  });
}

/** A request that is wrong whoever gets it. */
export function invalid(field: string, message: string): RpcError {
  return new RpcError("INVALID_REQUEST", `${field}: ${message}`, { field });
}

/** A request that this provider can't serve, though another may. */
export function refused(field: string, message: string): RpcError {
  return new RpcError("UNSUPPORTED_PARAMETER", `${field}: ${message}`, { field });
}

/** A part of a message that can't stand where it does; `where` says that, `in an answer`. */
export function misplaced({ part }: ContentPart, field: string, where: string): RpcError {
  return invalid(field, `${part?.$case ?? "an empty part"} can't stand ${where}`);
}

/** The text that a part is, where nothing else can stand. */
export function textIn({ part }: ContentPart, field: string): string {
  if (part?.$case !== "text") throw invalid(field, "only text can stand here");
  return part.value;
}

/** The results in a tool's message; there is at least one. */
export function toolResultsIn({ content }: Message, field: string): ToolResult[] {
  if (content.length === 0) throw invalid(field, "a tool's message needs a result");
  return content.map(({ part }) => {
    if (part?.$case !== "toolResult") throw invalid(field, "only a tool's result can stand in a tool's message");
    return part.value;
  });
}

/** Bytes as they stand in JSON. */
export function base64(data: Uint8Array): string {
  return Buffer.from(data.buffer, data.byteOffset, data.byteLength).toString("base64");
}

/** Bytes as the address that holds them. */
export function dataUrl(data: Uint8Array, mediaType: string, field: string): string {
  if (mediaType === "") throw invalid(field, "data needs a media type");
  return `data:${mediaType};base64,${base64(data)}`;
}
