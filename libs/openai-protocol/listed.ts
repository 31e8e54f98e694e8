/** What a server's list of models says of one besides its name. OpenAI's says nothing. */
import { countOf, isJson, type Json, type Knowledge } from "../adapter/index.ts";

/** By the names that Groq, OpenRouter and Together, vLLM, and Mistral have for it. */
const CONTEXT_FIELDS = ["context_window", "context_length", "max_model_len", "max_context_length"];

/** Undefined when there is nothing that is understood. */
export function listedProperties(model: Json): Knowledge | undefined {
  const capabilities = mistralCapabilities(model["capabilities"]) ?? openRouterCapabilities(model);
  const contextTokensMax = CONTEXT_FIELDS.map((field) => countOf(model[field])).find((count) => (count ?? 0) > 0);
  const properties: Knowledge = {
    ...(capabilities !== undefined && { capabilities }),
    ...(contextTokensMax !== undefined && { contextTokensMax }),
    ...openRouterCosts(model["pricing"]),
  };
  return Object.keys(properties).length > 0 ? properties : undefined;
}

/** https://docs.mistral.ai/api/#tag/models: all that chat can be held to a schema, and go on with what has begun. */
function mistralCapabilities(said: unknown): string[] | undefined {
  if (!isJson(said) || said["completion_chat"] !== true) return undefined;
  const capabilities = ["json_schema", "prefill"];
  if (said["function_calling"] === true) capabilities.push("tools");
  if (said["vision"] === true) capabilities.push("vision");
  return capabilities;
}

/** https://openrouter.ai/docs/api-reference/list-available-models: it reads files itself for models that can't. */
function openRouterCapabilities({ architecture, supported_parameters: parameters }: Json): string[] | undefined {
  const inputs = isJson(architecture) ? architecture["input_modalities"] : undefined;
  if (!Array.isArray(inputs) || !Array.isArray(parameters)) return undefined;
  const capabilities = ["files"];
  if (inputs.includes("image")) capabilities.push("vision");
  if (inputs.includes("audio")) capabilities.push("audio");
  if (parameters.includes("tools")) capabilities.push("tools");
  if (parameters.includes("structured_outputs")) capabilities.push("json_schema");
  if (parameters.includes("reasoning")) capabilities.push("reasoning");
  return capabilities;
}

/** US dollars for a token, as text; those of its own router, which has no price, are negative. */
function openRouterCosts(pricing: unknown): Knowledge {
  if (!isJson(pricing) || typeof pricing["prompt"] !== "string") return {};
  const [input, output] = [pricing["prompt"], pricing["completion"]].map((text) => Number(text) * 1_000_000);
  if (!(input! >= 0 && output! >= 0)) return {};
  return { inputCostUsdPerMillion: input!, outputCostUsdPerMillion: output! };
}
