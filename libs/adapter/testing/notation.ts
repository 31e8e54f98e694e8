/**
 * The vocabulary as it is written in cases and goldens: the generated messages as JSON for people. A oneof is the field
 * that is set (`{ "text": "hi" }`), an enum is its name, bytes are base64, and what is empty is left out.
 */
import {
  CompletionRequest,
  type ContentPart,
  EmbeddingRequest,
  FinishReason,
  ReasoningOptions_Effort,
  ResponseFormat_Kind,
  Role,
  ToolChoice_Mode,
} from "../../gen/cortex/llm/v1/llm.ts";

type Json = Record<string, unknown>;

/** The enum of each field that has one. */
const ENUMS: Readonly<Record<string, Readonly<Record<string, number>>>> = {
  role: Role,
  finishReason: FinishReason,
  reason: FinishReason,
  mode: ToolChoice_Mode,
  kind: ResponseFormat_Kind,
  effort: ReasoningOptions_Effort,
};

/** Reads a case that asks for a chat. */
export function toCompletionRequest(notation: unknown): CompletionRequest {
  const json = withEnums(notation) as Json;
  const messages = (json["messages"] as Json[]).map((message) => ({
    ...message,
    content: toContent(message["content"]),
  }));
  return CompletionRequest.fromPartial({ ...json, messages });
}

/** Reads a case that asks for embeddings. */
export function toEmbeddingRequest(notation: unknown): EmbeddingRequest {
  return EmbeddingRequest.fromPartial(notation as Json);
}

/** Writes a message of the vocabulary. */
export function toNotation(message: unknown): unknown {
  if (Buffer.isBuffer(message)) return message.toString("base64");
  if (Array.isArray(message)) return message.map(toNotation);
  if (typeof message !== "object" || message === null) return message;
  const notation: Json = {};
  for (const [field, value] of Object.entries(message)) {
    if (isOneof(value)) notation[value.$case] = toNotation(value.value);
    else if (!isEmpty(value)) notation[field] = toEnumName(field, value) ?? toNotation(value);
  }
  return notation;
}

function isOneof(value: unknown): value is { readonly $case: string; readonly value: unknown } {
  return typeof value === "object" && value !== null && "$case" in value;
}

function isEmpty(value: unknown): boolean {
  if (value === undefined || value === "" || value === false) return true;
  return (Array.isArray(value) || Buffer.isBuffer(value)) && value.length === 0;
}

function toEnumName(field: string, value: unknown): string | undefined {
  const names = ENUMS[field];
  return names === undefined ? undefined : Object.keys(names).find((name) => names[name] === value);
}

function withEnums(notation: unknown): unknown {
  return JSON.parse(JSON.stringify(notation), (field, value) => {
    const names = ENUMS[field];
    if (names === undefined || typeof value !== "string") return value;
    if (names[value] === undefined) throw new Error(`no such ${field}: ${value}`);
    return names[value];
  });
}

function toContent(notation: unknown): ContentPart[] {
  return ((notation ?? []) as Json[]).map((part) => {
    const [[$case, value] = ["", undefined]] = Object.entries(part);
    return { part: { $case, value: toPartValue($case, value) } } as unknown as ContentPart;
  });
}

function toPartValue($case: string, value: unknown): unknown {
  if (typeof value === "string") return value;
  const { data, url, providerFileId, ...fields } = value as Json;
  const bytes = typeof data === "string" ? Buffer.from(data, "base64") : undefined;
  switch ($case) {
    case "image":
      return { ...fields, source: bytes ? { $case: "data", value: bytes } : { $case: "url", value: url } };
    case "file":
      return {
        ...fields,
        source: bytes ? { $case: "data", value: bytes } : { $case: "providerFileId", value: providerFileId },
      };
    case "audio":
      return { ...fields, data: bytes };
    case "toolResult":
      return { ...fields, content: toContent(fields["content"]) };
    default:
      return value;
  }
}
