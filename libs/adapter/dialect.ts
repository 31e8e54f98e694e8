/**
 * What an adapter has to say about its provider: pure translation between Cortex's vocabulary and the provider's wire
 * format. No socket, no clock, no randomness: what a dialect needs of those comes in as arguments. Everything else an
 * adapter does is written once in this library.
 */
import type {
  Completion,
  CompletionRequest,
  EmbeddingRequest,
  EmbeddingResult,
  Model,
  Part,
  Warning,
} from "../gen/cortex/llm/v1/llm.ts";
import type { RpcError } from "../rpc/index.ts";
import type { Knowledge } from "./model-properties.ts";
import type { RateLimits } from "./rate-limits.ts";
import type { Headers } from "./waits.ts";

/** An HTTP request to the provider, without its key. */
export interface ProviderRequest {
  readonly method: "GET" | "POST";
  /** Appended to the worker's base URL; begins with a slash. */
  readonly path: string;
  /** The path is whole: nothing of the base URL's own path goes before it. */
  readonly fromRoot?: boolean;
  /** JSON text; absent for GET. */
  readonly body?: string;
  /** Besides content-type and the key's header; names in lower case. */
  readonly headers?: Readonly<Record<string, string>>;
  /** What the provider can't do and the request did not insist on. */
  readonly warnings?: readonly Warning[];
}

/** What a dialect may know about the attempt it translates for. */
export interface AttemptContext {
  readonly worker: string;
  /** The provider's own name of the model asked for. */
  readonly model: string;
  /** The beginning of the answer, where the request ends in it: some providers say it again. */
  readonly begun?: string | undefined;
  /** Seconds since the Unix epoch, for providers that give no time. */
  readonly nowS: number;
  /** A fresh identifier such as `call_k3j5h2g8`: `prefix` and random letters and digits. */
  mintId(prefix: string): string;
}

/** An event of a stream: one SSE event, or one line of NDJSON. */
export interface ProviderEvent {
  /** The SSE event's name; empty for unnamed events and NDJSON. */
  readonly name: string;
  readonly data: string;
}

/** Reads one stream. */
export interface EventReader {
  /**
   * Appends what the event means to `parts`; they may be handed out at once, so change none of them later. Throws an
   * RpcError for an error inside the stream and PROVIDER_INVALID_ANSWER for an event that can't be understood.
   */
  read(event: ProviderEvent, parts: Part[]): void;
  /**
   * For a provider that writes errors between the server-sent events as something that is none (Gemini: bare JSON). `text`
   * is what stood there, at most 64 Ki characters of it. Throws the RpcError that it is, and takes no notice of anything
   * else. Without it such text is ignored.
   */
  readStray?(text: string): void;
  /**
   * The stream has ended. True when the provider had said all of it (every choice has its finish reason, and the
   * terminator came where the provider always sends one): anything else is a cut, whatever the socket says. It changes
   * nothing: once a finish part has come it is also asked between events, so that a connection left open holds up nobody.
   */
  complete(): boolean;
}

/** What a worker of this provider is like when its configuration says nothing else. */
export interface DialectDefaults {
  /** Scheme, host and path prefix, without a slash at the end. */
  readonly baseUrl: string;
  /** Lower is tried first. */
  readonly priority: number;
  readonly capabilities: readonly string[];
  readonly pool: { readonly connections: number; readonly keepAliveMs: number };
  readonly timeouts: Timeouts;
}

/** The time-outs of a worker, in milliseconds. */
export interface Timeouts {
  /** Until the TCP and TLS connection stands. */
  readonly connectMs: number;
  /** In the queue for a connection of the pool. */
  readonly poolMs: number;
  /** From sending the request to the first content; for a unary call, to the whole answer's first byte. */
  readonly firstTokenMs: number;
  /** Between two pieces of an answer. */
  readonly stallMs: number;
  /** For the whole attempt. */
  readonly totalMs: number;
}

/** A model of the provider's list, and what the list says of it besides. */
export interface ListedModel extends Model {
  readonly properties?: Knowledge;
}

/** The translation for one provider. */
export interface Dialect {
  /** The provider's name in configuration, metrics and traces: `openai`. */
  readonly provider: string;
  /** The provider's name in OpenTelemetry's GenAI conventions (`gcp.gemini` for Gemini); absent when it is the same. */
  readonly telemetryName?: string;
  /** How a stream is cut into events. */
  readonly framing: "sse" | "ndjson";
  readonly defaults: DialectDefaults;
  /** The answers are simulated, not a model's. */
  readonly simulated?: boolean;

  /** The header that carries a key: `{ authorization: "Bearer …" }`. Never a URL. */
  authorization(key: string): Readonly<Record<string, string>>;

  /** Translates a chat request. Throws INVALID_REQUEST or UNSUPPORTED_PARAMETER with the field's name. */
  chatRequest(request: CompletionRequest, stream: boolean, context: AttemptContext): ProviderRequest;
  /** Translates a whole answer (parsed JSON of a 2xx). Throws an RpcError for an error in disguise. */
  chatAnswer(body: unknown, context: AttemptContext): Completion;
  /** A reader for one stream. */
  chatEvents(context: AttemptContext): EventReader;

  /** Translates a failure: an answer that is not 2xx. `body` is its text, at most 64 KiB, of any content type. */
  error(status: number, headers: Headers, body: string): RpcError;
  /**
   * What the head of an answer, also of a failure, says is left of the key's limits; undefined when it says nothing. Absent
   * where the provider uses one of the known families of headers: rate-limits.ts.
   */
  limits?(headers: Headers): RateLimits | undefined;

  /** How to ask whether the provider would serve; a 2xx means available. */
  healthRequest(): ProviderRequest;
  /** How to ask for the models, and how to read the answer (parsed JSON). */
  modelsRequest(): ProviderRequest;
  modelsAnswer(body: unknown): ListedModel[];
  /**
   * What is known of a model by its name, whether there is such a model or not. Only what is certain: who names one of the
   * capabilities vision, audio, files, tools and json_schema says that the model has none of the others, and gets no
   * requests that need them. Undefined for a model that is not known. What the list says of it goes before.
   */
  modelProperties?(model: string): Knowledge | undefined;

  /** Absent where the provider has no embeddings. */
  readonly embedding?: {
    request(request: EmbeddingRequest, context: AttemptContext): ProviderRequest;
    answer(body: unknown, context: AttemptContext): EmbeddingResult;
  };
}
