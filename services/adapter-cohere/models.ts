/** What is certain of Cohere's models by their names: https://docs.cohere.com/docs/models */
import { type Knowledge, knownOf, type ModelFamily } from "../../libs/adapter/index.ts";

const FAMILIES: readonly ModelFamily[] = [
  { models: /^command-a-03-2025$/, capabilities: ["tools", "json_schema"] },
  { models: /^command-a-reasoning-08-2025$/, capabilities: ["tools", "json_schema", "reasoning"] },
  { models: /^command-a-translate-08-2025$/, capabilities: ["translation"] },
  {
    models: /^command-r(-plus-08-2024|-08-2024|7b-12-2024)$/,
    capabilities: ["tools", "json_schema"],
    contextTokensMax: 128_000,
  },
];

export function modelProperties(model: string): Knowledge | undefined {
  return knownOf(FAMILIES, model);
}

/** The features in Cohere's list of models that are capabilities by the same name. */
const FEATURES: ReadonlySet<unknown> = new Set(["tools", "json_schema", "vision", "reasoning"]);

/** What the list says of a model that chats. */
export function listedProperties(features: unknown, contextTokensMax: number | undefined): Knowledge {
  const capabilities = Array.isArray(features) ? features.filter((feature) => FEATURES.has(feature)) : [];
  return {
    ...(capabilities.length > 0 && { capabilities }),
    ...(contextTokensMax !== undefined && { contextTokensMax }),
  };
}
