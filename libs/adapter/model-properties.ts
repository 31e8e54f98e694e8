/** What is known of a worker's models: what its settings say, and what its dialect knows besides. */
import { ModelProperties } from "../gen/cortex/provider/v1/provider.ts";
import type { WorkerSettings } from "./settings.ts";

/** Who names one of these says of all of them whether a model has it. */
const CERTAIN: ReadonlySet<string> = new Set(["vision", "audio", "files", "tools", "json_schema"]);

/** What an adapter knows of a model; a fact that it does not know is absent. */
export type Knowledge = Partial<ModelProperties>;

/**
 * The properties of `models`, by their names, `*` for all others. Settings hold, field by field: those for the model, then
 * those for `*`; what they leave open is as `known` says. The worker's own list of capabilities is added to what is known,
 * unless it says itself which of the certain ones there are.
 */
export function propertiesOf(
  { modelProperties: configured = {}, capabilities = [] }: WorkerSettings,
  models: readonly string[],
  known: (model: string) => Knowledge | undefined,
): Record<string, ModelProperties> {
  const all = configured["*"];
  const properties: Record<string, ModelProperties> = {};
  for (const model of new Set([...Object.keys(configured), ...models])) {
    const own = Object.hasOwn(configured, model) ? configured[model] : undefined;
    const facts = model === "*" ? undefined : known(model);
    if (own === undefined && facts === undefined) continue;
    const chosen = [own, all].find((each) => each !== undefined && each.capabilities.length > 0)?.capabilities;
    properties[model] = ModelProperties.fromPartial({
      ...facts,
      ...said(all),
      ...said(own),
      capabilities: chosen ?? joined(capabilities, facts?.capabilities ?? []),
    });
  }
  return properties;
}

/** Only the fields that say something. */
function said(properties: ModelProperties | undefined): Knowledge {
  return Object.fromEntries(Object.entries(properties ?? {}).filter(([, value]) => value !== undefined));
}

/** Empty when nothing is known: then the worker's own list holds anyway. */
function joined(own: readonly string[], known: readonly string[]): string[] {
  if (known.length === 0) return [];
  const complete = own.some((name) => CERTAIN.has(name));
  return [...new Set([...own, ...(complete ? known.filter((name) => !CERTAIN.has(name)) : known)])];
}
