/** What is known of a worker's models: what its settings say, and what its dialect knows besides. */
import { ModelProperties } from "../gen/cortex/provider/v1/provider.ts";

/** Who names one of these says of all of them whether a model has it. */
const CERTAIN: ReadonlySet<string> = new Set(["vision", "audio", "files", "tools", "json_schema"]);

/** The largest number that a bound can have in a message. */
const NUMBER_MAX = 0xffff_ffff;

/** What an adapter knows of a model; a fact that it does not know is absent. */
export type Knowledge = Partial<ModelProperties>;

/** What models whose names are alike have in common. */
export interface ModelFamily extends Knowledge {
  readonly models: RegExp;
}

/** What is known of the first family that `model` is of. */
export function knownOf(families: readonly ModelFamily[], model: string): Knowledge | undefined {
  const family = families.find(({ models }) => models.test(model));
  if (family === undefined) return undefined;
  const { models: _, ...knowledge } = family;
  return knowledge;
}

/** What of a worker's settings is about its models. */
interface Configured {
  readonly modelProperties?: Readonly<Record<string, ModelProperties>> | undefined;
  readonly capabilities?: readonly string[] | undefined;
}

/**
 * The properties of `models`, by their names, `*` for all others. Settings hold, field by field: those for the model, then
 * those for `*`; what they leave open is as `known` says. The worker's own list of capabilities is added to what is known,
 * unless it says itself which of the certain ones there are.
 */
export function propertiesOf(
  { modelProperties: configured = {}, capabilities = [] }: Configured,
  models: readonly string[],
  known: (model: string) => Knowledge | undefined,
): Record<string, ModelProperties> {
  const all = configured["*"];
  const names = new Set([...Object.keys(configured), ...models]);
  // A model may have any name, __proto__ too.
  return Object.fromEntries(
    [...names].flatMap((model) => {
      const own = Object.hasOwn(configured, model) ? configured[model] : undefined;
      const facts = model === "*" ? undefined : known(model);
      if (own === undefined && facts === undefined) return [];
      const chosen = [own, all].find((each) => each !== undefined && each.capabilities.length > 0)?.capabilities;
      const properties = ModelProperties.fromPartial({
        ...said(facts),
        ...said(all),
        ...said(own),
        capabilities: chosen ?? joined(capabilities, facts?.capabilities ?? []),
      });
      return [[model, properties]];
    }),
  );
}

/** Only the fields that say something. A bound that nothing reaches is none, and would not fit into a message. */
function said(properties: Knowledge | undefined): Knowledge {
  const fields = Object.entries(properties ?? {}).filter(([, value]) => value !== undefined);
  return Object.fromEntries(fields.filter(([, value]) => typeof value !== "number" || value <= NUMBER_MAX));
}

/** Empty when nothing is known: then the worker's own list holds anyway. */
function joined(own: readonly string[], known: readonly string[]): string[] {
  if (known.length === 0) return [];
  const complete = own.some((name) => CERTAIN.has(name));
  return [...new Set([...own, ...(complete ? known.filter((name) => !CERTAIN.has(name)) : known)])];
}
