/**
 * What a request needs of a worker, against what workers declare. What is certain (pictures, tools, a schema, length)
 * refuses workers that are known to lack it; what is guessed (code, translation, …) only changes their order.
 */
import {
  type CompletionRequest,
  type ContentPart,
  ReasoningOptions_Effort as Effort,
  ResponseFormat_Kind as FormatKind,
  type Message,
  Role,
  ToolChoice_Mode as ToolMode,
} from "../../libs/gen/cortex/llm/v1/llm.ts";
import type { ModelProperties } from "../../libs/gen/cortex/provider/v1/provider.ts";
import type { Need } from "../../libs/gen/cortex/router/v1/router.ts";
import type { Reason } from "../../libs/rpc/index.ts";
import { classify } from "./classifier.ts";
import { estimateTokens } from "./token-estimate.ts";

interface Capability {
  /** Workers that are known to lack it are refused; or come later; or can't take over a stream that breaks. */
  readonly use: "refuses" | "orders" | "continues";
  /** What a worker that declares it can do. */
  readonly meaning: string;
  /** When a request needs it. */
  readonly needed: string;
  /** The field of a request that asks for it, where one does. */
  readonly field?: string;
}

/** The words for what workers can do, as the configuration and docs/routing.md have them. */
export const CAPABILITIES = {
  vision: {
    use: "refuses",
    meaning: "It sees pictures.",
    needed: "A message or a tool's result has a picture.",
    field: "messages",
  },
  audio: { use: "refuses", meaning: "It hears recordings.", needed: "A message has a recording.", field: "messages" },
  files: {
    use: "refuses",
    meaning: "It reads documents, such as PDF.",
    needed: "A message has a file.",
    field: "messages",
  },
  tools: {
    use: "refuses",
    meaning: "It calls tools.",
    needed: "The request gives tools, and `tool_choice` is not `none`.",
    field: "tools",
  },
  json_schema: {
    use: "refuses",
    meaning: "Its answers keep to a JSON Schema.",
    needed: "`response_format` is a `json_schema`.",
    field: "response_format",
  },
  code: { use: "orders", meaning: "It is good at programming.", needed: "The prompt has to do with programs." },
  translation: {
    use: "orders",
    meaning: "It is good at translating.",
    needed: "The prompt asks for something in another language.",
  },
  reasoning: {
    use: "orders",
    meaning: "It thinks before it answers.",
    needed:
      "The request asks for reasoning effort, or the prompt for a proof, a calculation or the solution of a puzzle.",
  },
  simple: {
    use: "orders",
    meaning: "It is quick and cheap, and good enough for easy questions.",
    needed: "The prompt is one short question.",
  },
  long_context: {
    use: "orders",
    meaning: "It keeps long prompts in mind.",
    needed: "The prompt is longer than about 8,000 tokens.",
  },
  prefill: {
    use: "continues",
    meaning: "It goes on in the middle of an answer that is given to it as the beginning of its own.",
    needed: "A stream has broken off, and another worker goes on.",
  },
} as const satisfies Record<string, Capability>;

/** A word for what a worker can do. */
export type CapabilityName = keyof typeof CAPABILITIES;

const NAMES = Object.keys(CAPABILITIES) as CapabilityName[];
const CERTAIN = NAMES.filter((name) => CAPABILITIES[name].use === "refuses");

/** From this many tokens on a prompt is long. */
const LONG_TOKENS = 8_000;
const IMAGE_TOKENS = 1_000;
const IMAGE_TOKENS_MIN = 80;
const FILE_TOKENS = 2_000;
const AUDIO_BYTES_PER_TOKEN = 1_000;
/** Of all that was tried, no text had fewer tokens than this share of what is estimated. */
const CERTAIN_SHARE = 0.5;

/** What a request needs. The parts that cost something are found out when somebody asks for them. */
export interface Needs {
  readonly certain: readonly Need[];
  /** Most certain first. */
  readonly guessed: readonly Need[];
  /** About how long the prompt is. */
  readonly inputTokens: number;
  /** The prompt surely has so many. */
  readonly inputTokensMin: number;
  readonly outputTokensMax: number | undefined;
}

/** What is known of a candidate. */
export interface Capable {
  readonly capabilities: ReadonlySet<string>;
  readonly properties: ModelProperties | undefined;
}

/** Why a candidate can't serve. */
export interface Refusal {
  readonly reason: Extract<Reason, "UNSUPPORTED_PARAMETER" | "CONTEXT_LENGTH_EXCEEDED">;
  /** A sentence without its subject, the worker: "lacks the capability vision". */
  readonly message: string;
  readonly field?: string;
}

/** What `request` needs of the worker that is to serve it. */
export function needsOf(request: CompletionRequest): Needs {
  return new RequestNeeds(request);
}

class RequestNeeds implements Needs {
  readonly certain: readonly Need[];
  readonly #request: CompletionRequest;
  readonly #media: Media;
  #textTokens: number | undefined;
  #guessed: readonly Need[] | undefined;

  constructor(request: CompletionRequest) {
    this.#request = request;
    this.#media = mediaOf(request.messages);
    this.certain = certainNeeds(request, this.#media);
  }

  get guessed(): readonly Need[] {
    this.#guessed ??= guess(this.#request, this.inputTokens);
    return this.#guessed;
  }

  get inputTokens(): number {
    const { images, files, audioBytes } = this.#media;
    const media = images * IMAGE_TOKENS + files * FILE_TOKENS + audioBytes / AUDIO_BYTES_PER_TOKEN;
    return Math.ceil(this.#text() + media);
  }

  get inputTokensMin(): number {
    return Math.floor(this.#text() * CERTAIN_SHARE + this.#media.images * IMAGE_TOKENS_MIN);
  }

  get outputTokensMax(): number | undefined {
    return this.#request.maxOutputTokens;
  }

  #text(): number {
    this.#textTokens ??= textTokensOf(this.#request);
    return this.#textTokens;
  }
}

function certainNeeds({ tools, toolChoice, responseFormat }: CompletionRequest, media: Media): readonly Need[] {
  const certain: Need[] = [];
  if (media.images > 0) certain.push(certainly("vision", counted(media.images, "picture")));
  if (media.recordings > 0) certain.push(certainly("audio", counted(media.recordings, "recording")));
  if (media.files > 0) certain.push(certainly("files", counted(media.files, "file")));
  if (tools.length > 0 && toolChoice?.mode !== ToolMode.NONE) {
    certain.push(certainly("tools", counted(tools.length, "tool")));
  }
  if (responseFormat?.kind === FormatKind.JSON_SCHEMA) {
    certain.push(certainly("json_schema", "the answer has to match a schema"));
  }
  return certain;
}

/**
 * Why a candidate can't serve, undefined if it can or nobody knows. One that declares any of the certain capabilities is
 * taken at its word for all of them; one that declares none may have them all.
 */
export function refusal(needs: Needs, { capabilities, properties }: Capable): Refusal | undefined {
  if (needs.certain.length > 0 && isComplete(capabilities)) {
    for (const { capability } of needs.certain) {
      if (capabilities.has(capability)) continue;
      const { field } = CAPABILITIES[capability as "vision"];
      return { reason: "UNSUPPORTED_PARAMETER", message: `lacks the capability ${capability}`, field };
    }
  }
  const most = properties?.contextTokensMax;
  if (most === undefined || most === 0) return undefined;
  const least = needs.inputTokensMin + (needs.outputTokensMax ?? 0);
  if (least <= most) return undefined;
  const answer = needs.outputTokensMax === undefined ? "" : ` and ${needs.outputTokensMax} for the answer`;
  return {
    reason: "CONTEXT_LENGTH_EXCEEDED",
    message: `takes ${most} tokens, and the prompt has about ${needs.inputTokens}${answer}`,
    field: "messages",
  };
}

/**
 * How badly a candidate fits: 0 is best, always below 20. For each guess, a candidate that declares it comes first, then one
 * that declares nothing of the kind, then one that is meant for other work. What is certain weighs more: candidates that may
 * lack it come after all that declare it.
 */
export function misfit(needs: Needs, { capabilities }: Pick<Capable, "capabilities">): number {
  const unknown = needs.certain.length > 0 && !isComplete(capabilities) ? MISFIT_UNKNOWN : 0;
  const { guessed } = needs;
  if (guessed.length === 0) return unknown;
  const lacking = KINDS_OF_WORK.some((name) => capabilities.has(name)) ? MISFIT_OTHER_WORK : MISFIT_NO_WORK;
  let worse = 0;
  for (const { capability, confidence } of guessed) if (!capabilities.has(capability)) worse += confidence * lacking;
  return unknown + worse;
}

/** What a worker is set aside for. That a model can reason, or takes long prompts, is a fact about it and no such wish. */
const KINDS_OF_WORK: readonly CapabilityName[] = ["code", "translation", "simple"];

const MISFIT_UNKNOWN = 10;
const MISFIT_OTHER_WORK = 2;
const MISFIT_NO_WORK = 1;

/** What of a candidate's capabilities bears on where it stands, in words; empty when nothing does. */
export function whyFit(needs: Needs, { capabilities }: Pick<Capable, "capabilities">): string[] {
  const why: string[] = [];
  if (needs.certain.length > 0 && !isComplete(capabilities)) {
    why.push(`does not say whether it has ${needs.certain.map(({ capability }) => capability).join(", ")}`);
  }
  if (needs.guessed.length === 0) return why;
  const meant = KINDS_OF_WORK.filter((name) => capabilities.has(name));
  const fitting = needs.guessed.filter(({ capability }) => capabilities.has(capability));
  if (fitting.length > 0) why.push(`meant for ${fitting.map(({ capability }) => capability).join(", ")}`);
  else if (meant.length > 0) why.push(`meant for other work: ${meant.join(", ")}`);
  return why;
}

function isComplete(capabilities: ReadonlySet<string>): boolean {
  return CERTAIN.some((name) => capabilities.has(name));
}

function certainly(capability: CapabilityName, why: string): Need {
  return { capability, certain: true, confidence: 1, why };
}

function counted(count: number, noun: string): string {
  return `${count} ${noun}${count === 1 ? "" : "s"}`;
}

/** What the messages have besides text. */
interface Media {
  images: number;
  recordings: number;
  audioBytes: number;
  files: number;
}

function mediaOf(messages: readonly Message[]): Media {
  const media: Media = { images: 0, recordings: 0, audioBytes: 0, files: 0 };
  for (const { content } of messages) countMedia(content, media);
  return media;
}

function countMedia(content: readonly ContentPart[], media: Media): void {
  for (const { part } of content) {
    if (part?.$case === "image") media.images++;
    else if (part?.$case === "file") media.files++;
    else if (part?.$case === "toolResult") countMedia(part.value.content, media);
    else if (part?.$case === "audio") {
      media.recordings++;
      media.audioBytes += part.value.data.length;
    }
  }
}

function textTokensOf({ messages, tools, responseFormat }: CompletionRequest): number {
  let tokens = estimateTokens(responseFormat?.jsonSchema ?? "");
  for (const { content } of messages) tokens += contentTokens(content);
  for (const { name, description, parametersJsonSchema } of tools) {
    tokens += estimateTokens(name) + estimateTokens(description) + estimateTokens(parametersJsonSchema);
  }
  return tokens;
}

function contentTokens(content: readonly ContentPart[]): number {
  let tokens = 0;
  for (const { part } of content) {
    if (part?.$case === "text" || part?.$case === "refusal") tokens += estimateTokens(part.value);
    else if (part?.$case === "reasoning") tokens += estimateTokens(part.value.text);
    else if (part?.$case === "toolCall") tokens += estimateTokens(part.value.argumentsJson);
    else if (part?.$case === "toolResult") tokens += contentTokens(part.value.content);
  }
  return tokens;
}

/** So many messages before the last of the user's say what it is about, and so much of each. */
const CONTEXT_MESSAGES = 2;
const CONTEXT_CHARACTERS = 600;
const PROMPT_CHARACTERS = 4_000;

function guess({ messages, reasoning }: CompletionRequest, inputTokens: number): Need[] {
  const guessed: Need[] = classify(...wordsOf(messages)).map(({ kind, confidence, why }) => ({
    capability: kind,
    certain: false,
    confidence,
    why,
  }));
  if (inputTokens >= LONG_TOKENS) {
    guessed.push({ capability: "long_context", certain: false, confidence: 0.9, why: `about ${inputTokens} tokens` });
  }
  const effort = reasoning?.effort ?? Effort.UNSPECIFIED;
  if (effort !== Effort.UNSPECIFIED && effort !== Effort.NONE) {
    const asked: Need = {
      capability: "reasoning",
      certain: false,
      confidence: 1,
      why: "the request asks for reasoning",
    };
    return [asked, ...guessed.filter(({ capability }) => capability !== "reasoning" && capability !== "simple")];
  }
  return guessed.sort((a, b) => b.confidence - a.confidence);
}

/** What the user says last, and a part of what was said before: the instructions, and the messages right before it. */
function wordsOf(messages: readonly Message[]): [prompt: string, context: string[]] {
  const last = messages.findLastIndex(({ role }) => role === Role.USER);
  if (last < 0) return ["", []];
  const context: string[] = [];
  for (let index = 0; index < last; index++) {
    const { role, content } = messages[index]!;
    const near = index >= last - CONTEXT_MESSAGES && role !== Role.TOOL;
    if (near || (index === 0 && role === Role.SYSTEM)) context.push(beginningOf(content, CONTEXT_CHARACTERS));
  }
  return [endsOf(messages[last]!.content), context];
}

/** The text of a message, its middle left out when it is long. */
function endsOf(content: readonly ContentPart[]): string {
  const texts = content.flatMap(({ part }) => (part?.$case === "text" ? [part.value] : []));
  const text = texts.length === 1 ? texts[0]! : texts.join("\n");
  if (text.length <= PROMPT_CHARACTERS) return text;
  return `${text.slice(0, PROMPT_CHARACTERS / 2)}\n${text.slice(-PROMPT_CHARACTERS / 2)}`;
}

function beginningOf(content: readonly ContentPart[], characters: number): string {
  for (const { part } of content) if (part?.$case === "text") return part.value.slice(0, characters);
  return "";
}
