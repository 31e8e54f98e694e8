/** Writing the body of a request: JSON, field by field, as far as the server has the field. */
import { invalid, type ProviderRequest, refused } from "../adapter/index.ts";
import type { Warning } from "../gen/cortex/llm/v1/llm.ts";
import type { ParameterRule, Server } from "./server.ts";

/** What a server does anyway when the parameter is not there: leaving it out changes nothing, and needs no warning. */
const NEUTRAL: Readonly<Record<string, unknown>> = {
  frequency_penalty: 0,
  presence_penalty: 0,
  n: 1,
  parallel_tool_calls: true,
  tool_choice: "auto",
};

/** A warning that the server can't do something. */
export function unsupported(parameter: string, message: string): Warning {
  return { code: "UNSUPPORTED_PARAMETER", message, parameter };
}

/** A JSON object written field by field, so that the JSON texts in a request reach the provider exactly as they came. */
export class JsonFields {
  readonly #texts = new Map<string, string>();

  /** Nothing is written for undefined. */
  set(name: string, value: unknown): this {
    return value === undefined ? this : this.setText(name, JSON.stringify(value));
  }

  setText(name: string, json: string): this {
    this.#texts.set(name, json);
    return this;
  }

  has(name: string): boolean {
    return this.#texts.has(name);
  }

  toString(): string {
    return `{${[...this.#texts].map(([name, json]) => `${JSON.stringify(name)}:${json}`).join(",")}}`;
  }
}

/** The body of a request to one server, with what the client has to be warned about. */
export class RequestBody {
  readonly warnings: Warning[] = [];
  readonly #fields = new JsonFields();
  readonly #server: Server;
  readonly #rules: Readonly<Record<string, ParameterRule>>;
  readonly #model: string;

  constructor(server: Server, rules: Readonly<Record<string, ParameterRule>>, model: string) {
    this.#server = server;
    this.#rules = rules;
    this.#model = model;
  }

  /** Writes a parameter by OpenAI's name as the server knows it. Nothing is written for undefined. */
  set(name: string, value: unknown): this {
    if (value === undefined) return this;
    const rule = this.#rule(name);
    if (rule.lacking !== undefined) return this.#lack(name, value, rule.lacking);
    if (rule.max !== undefined && Array.isArray(value) && value.length > rule.max) {
      throw refused(name, `${this.#server.title} takes at most ${rule.max} sequences`);
    }
    const word = typeof value === "string" ? rule.words?.[value] : undefined;
    this.#fields.set(rule.as ?? name, word ?? value);
    return this;
  }

  /** As `set`, for what is JSON text already. */
  setText(name: string, json: string | undefined): this {
    if (json === undefined) return this;
    const { lacking } = this.#rule(name);
    if (lacking !== undefined) return this.#lack(name, json, lacking);
    this.#fields.setText(name, json);
    return this;
  }

  /** Writes fields that are the server's own, and not OpenAI's. */
  setOwn(fields: Readonly<Record<string, unknown>>): this {
    for (const [name, value] of Object.entries(fields)) this.#fields.set(name, value);
    return this;
  }

  warn(parameter: string, message: string): this {
    this.warnings.push(unsupported(parameter, message));
    return this;
  }

  /** Passes on what Cortex has no field for; what it does have a field for stands as Cortex wrote it. */
  addExtra(extra: Readonly<Record<string, string>>): this {
    for (const [name, json] of Object.entries(extra)) {
      try {
        JSON.parse(json);
      } catch {
        throw invalid(name, "not valid JSON");
      }
      if (this.#fields.has(name)) this.warn(name, `${name} is set by Cortex; the extra value was left out`);
      else this.#fields.setText(name, json);
    }
    return this;
  }

  toRequest(path: string): ProviderRequest {
    return { method: "POST", path, body: this.#fields.toString(), warnings: this.warnings };
  }

  #rule(name: string): ParameterRule {
    const rule = this.#rules[name];
    return rule === undefined || rule.models?.test(this.#model) === false ? {} : rule;
  }

  #lack(name: string, value: unknown, lacking: "warn" | "refuse"): this {
    if (value === NEUTRAL[name]) return this;
    if (lacking === "refuse") throw refused(name, `${this.#server.title} has no ${name}`);
    return this.warn(name, `${this.#server.title} has no ${name}; it was left out`);
  }
}
