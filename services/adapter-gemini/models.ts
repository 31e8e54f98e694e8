/** What is certain of Gemini's models by their names: https://ai.google.dev/gemini-api/docs/models */
import { type Knowledge, knownOf, type ModelFamily } from "../../libs/adapter/index.ts";

const MULTIMODAL = ["vision", "audio", "files", "tools", "json_schema"];

/** Prompt and answer have limits of their own. */
const CONTEXT_TOKENS_MAX = 1_048_576 + 65_536;

/** Those that draw, speak, or use a computer are other models under like names. */
const FAMILIES: readonly ModelFamily[] = [
  { models: /-(image|tts|live|audio|dialog|computer)/, capabilities: [] },
  { models: /^gemini-(1\.5|2\.0)-(flash|pro)(-lite|-8b)?(-\d+|-latest)?$/, capabilities: MULTIMODAL },
  {
    models: /^gemini-2\.5-(flash|pro)/,
    capabilities: [...MULTIMODAL, "reasoning"],
    contextTokensMax: CONTEXT_TOKENS_MAX,
  },
  { models: /^gemini-(3[\d.]*-)?(flash|pro)/, capabilities: [...MULTIMODAL, "reasoning"] },
];

export function modelProperties(model: string): Knowledge | undefined {
  return knownOf(FAMILIES, model);
}
