/**
 * What is certain of the models in Ollama's library by their names: https://ollama.com/library. Whatever the model, Ollama goes on
 * with an answer that has begun, and holds it to a schema. How long a prompt may be is up to the server's settings.
 */
import { type Knowledge, knownOf, type ModelFamily } from "../../libs/adapter/index.ts";

const ALWAYS = ["json_schema", "prefill"];

function family(models: RegExp, ...capabilities: readonly string[]): ModelFamily {
  return { models, capabilities: [...capabilities, ...ALWAYS] };
}

const FAMILIES: readonly ModelFamily[] = [
  family(/^(llava(-llama3|-phi3)?|bakllava|moondream|minicpm-v|llama3\.2-vision|qwen2\.5vl)(:|$)/, "vision"),
  family(/^gemma3(:(latest|4b|12b|27b).*)?$/, "vision"),
  family(/^(mistral-small3\.[12]|llama4|granite3\.2-vision)(:|$)/, "vision", "tools"),
  family(/^qwen3-vl(:|$)/, "vision", "tools", "reasoning"),
  family(/^(qwen3|gpt-oss)(:|$)/, "tools", "reasoning"),
  family(/^(llama3\.[123]|qwen2\.5|mistral|mistral-nemo|mixtral|command-r|command-r-plus)(:|$)/, "tools"),
  family(/^(qwen2\.5-coder|qwen3-coder)(:|$)/, "tools", "code"),
  // Nothing is known of the others but this.
  { models: /(?:)/, capabilities: ["prefill"] },
];

export function modelProperties(model: string): Knowledge | undefined {
  return knownOf(FAMILIES, model);
}

/** Ollama's words for what a model can do. */
const WORDS: ReadonlyMap<unknown, string> = new Map([
  ["tools", "tools"],
  ["vision", "vision"],
  ["audio", "audio"],
  ["thinking", "reasoning"],
]);

/** What the list of models says of one, where it says it. */
export function listedProperties(said: unknown): Knowledge | undefined {
  if (!Array.isArray(said) || !said.includes("completion")) return undefined;
  const capabilities = said.flatMap((word: unknown) => WORDS.get(word) ?? []);
  return { capabilities: [...capabilities, ...ALWAYS] };
}
