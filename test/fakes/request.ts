/** Reading what a simulated provider is asked. */
import type { Question, Turn } from "./model.ts";
import type { SimulatedRequest } from "./simulator.ts";

/** A JSON object. */
export type Json = Record<string, unknown>;

/** Whether a parsed value is a JSON object. */
export function isJson(value: unknown): value is Json {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** The model in the body; the empty text when there is none. */
export function modelOf({ body }: SimulatedRequest): string {
  return isJson(body) && typeof body["model"] === "string" ? body["model"] : "";
}

/** The key of `authorization: Bearer …`. */
export function bearerOf({ headers }: SimulatedRequest): string | undefined {
  return /^Bearer (.*)$/.exec(headers.authorization ?? "")?.[1];
}

/** What a message's content says: a text, or parts of which some have one. */
export function textOf(content: unknown): string {
  if (typeof content === "string") return content;
  if (!Array.isArray(content)) return "";
  return content.map((part) => (isJson(part) && typeof part["text"] === "string" ? part["text"] : "")).join("");
}

/** Tools as OpenAI has them, and others after it: `{"type":"function","function":{…}}`. */
export function functionTools(tools: unknown): Question["tools"] {
  return (Array.isArray(tools) ? tools : []).filter(isJson).map((tool) => {
    const { name, parameters } = isJson(tool["function"]) ? tool["function"] : {};
    return { name: String(name), parameters };
  });
}

/** Messages with a role and a content, as OpenAI has them, and others after it. */
export function turnsOf(messages: readonly Json[]): Turn[] {
  return messages.map(({ role, content }) => ({
    speaker: role === "user" || role === "assistant" ? role : "other",
    text: textOf(content),
  }));
}
