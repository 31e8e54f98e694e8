/**
 * What can differ between the servers that speak OpenAI's protocol. Only requests and errors need it: answers are read the
 * same way whoever sends them, because a reader can be lenient and a server is not.
 */
import type { ModelFamily } from "../adapter/index.ts";
import type { Reason } from "../rpc/index.ts";

/** How hard a model should think, in the words of the OpenAI API. */
export type EffortWord = "none" | "minimal" | "low" | "medium" | "high" | "xhigh" | "max";

/** What becomes of a parameter that the server does not know as OpenAI does. */
export interface ParameterRule {
  /** The server does not have it: it is left out with a warning, or the request is refused, for the caller would miss it. */
  readonly lacking?: "warn" | "refuse";
  /** The server's name for it. */
  readonly as?: string;
  /** The server's words for OpenAI's values. */
  readonly words?: Readonly<Record<string, string>>;
  /** How many values the server takes. */
  readonly max?: number;
  /** Only for these models. */
  readonly models?: RegExp;
}

/** How an effort is asked for. */
export interface Effort {
  readonly fields: Readonly<Record<string, unknown>>;
  /** The server's own word, where it is not the same effort but the one that comes nearest. */
  readonly nearest?: string;
}

/** The efforts that some models of a server have; one that is missing is left out with a warning. */
export interface Efforts {
  /** All when absent. */
  readonly models?: RegExp;
  readonly efforts: Readonly<Partial<Record<EffortWord, Effort>>>;
}

/** Fields that some models need without being asked for them. */
export interface Addition {
  readonly models: RegExp;
  readonly fields: Readonly<Record<string, unknown>>;
  /** The client has said its own when it has set one of these. */
  readonly unless: readonly string[];
}

/** What a message can have besides text, tool calls and their results. */
export type MessageFeature = "name" | "refusal" | "image" | "audio" | "file";

/** Which ids of tool calls the server takes; others are replaced, by the same one throughout a request. */
export interface ToolCallIds {
  readonly valid: RegExp;
  /** Of a replacement, which is made of letters and digits. */
  readonly length: number;
}

/** An error that means something else at this server than it does in general; every pattern that is given must match. */
export interface ErrorRule {
  readonly status?: number;
  /** Of the error's type and code, in lower case. */
  readonly kind?: RegExp;
  readonly message?: RegExp;
  readonly reason: Reason;
  /** What the error is about, where the server does not say it; or the message's group `field` names it. */
  readonly field?: string;
}

/** Where the server answers; `{model}` is the model's name. */
export interface Paths {
  readonly chat: string;
  /** Absent where there are none. */
  readonly embeddings?: string;
  readonly models: string;
  readonly health: string;
  /** The health route lies beside the version of the API, not below it: `/health` for a base URL that ends in `/v1`. */
  readonly healthBesideVersion?: boolean;
  /** The version that goes with every path, `?api-version=…`, when the worker's option `apiVersion` names none. */
  readonly apiVersion?: string;
}

/** One kind of server. */
export interface Server {
  /** What people call it. */
  readonly title: string;
  /** Its name in OpenTelemetry's GenAI conventions, where it has one of its own. */
  readonly telemetryName?: string;
  /** Host names by which it is recognised, and all names below them. */
  readonly hosts: readonly string[];
  /** The end of the base URL's path by which it is told from another kind at the same host. */
  readonly pathEnd?: string;
  readonly paths: Paths;
  /** Its list of models is not what this account can be asked for, so the worker's has to be configured. */
  readonly modelsUnknown?: boolean;
  /** What is certain of its models by their names; the first that fits. */
  readonly families?: readonly ModelFamily[];
  /** The header of the key, where it is not `authorization: Bearer`. */
  readonly keyHeader?: string;
  /** The field that bounds the generated tokens. */
  readonly maxTokensField: "max_tokens" | "max_completion_tokens";
  /** Usage comes in a stream when `stream_options.include_usage` asks for it; else it always comes. */
  readonly usageOnRequest: boolean;
  /** By OpenAI's name. */
  readonly parameters: Readonly<Record<string, ParameterRule>>;
  /** The same for embeddings. */
  readonly embeddingParameters: Readonly<Record<string, ParameterRule>>;
  /** The first that fits the model. */
  readonly efforts: readonly Efforts[];
  /** A bound for the reasoning is a field of this object, beside which no effort may stand. */
  readonly budget?: { readonly object: string; readonly field: string };
  readonly additions: readonly Addition[];
  readonly messages: readonly MessageFeature[];
  /** It goes on with an assistant's message at the end only when that has this set; its answer then begins with it again. */
  readonly begunField?: "prefix";
  /**
   * Where the reasoning of an assistant's message goes when the message calls tools; elsewhere no server wants it back.
   * Absent where there is no place for it.
   */
  readonly reasoningBack?: "reasoning_content" | "reasoning" | "thinking";
  /** Whether `response_format` can hold a schema. */
  readonly jsonSchema: boolean;
  /** JSON stands neither with tools nor with a stream: it is asked for whole, and refused together with tools. */
  readonly jsonAlone?: boolean;
  readonly toolCallIds?: ToolCallIds;
  readonly errors: readonly ErrorRule[];
  /** A header with the moment when a limit ends, in milliseconds since the Unix epoch. */
  readonly resetAtMsHeader?: string;
}

/** Who answers: the adapter's provider, and the kind of server behind it. */
export interface Source {
  readonly provider: string;
  readonly server: Server;
}
