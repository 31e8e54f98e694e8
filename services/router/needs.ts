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
  /** Whether a worker that is known to lack it is refused. */
  readonly certain: boolean;
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
    certain: true,
    meaning: "It sees pictures.",
    needed: "A message or a tool's result has a picture.",
    field: "messages",
  },
  audio: { certain: true, meaning: "It hears recordings.", needed: "A message has a recording.", field: "messages" },
  files: {
    certain: true,
    meaning: "It reads documents, such as PDF.",
    needed: "A message has a file.",
    field: "messages",
  },
  tools: {
    certain: true,
    meaning: "It calls tools.",
    needed: "The request gives tools, and `tool_choice` is not `none`.",
    field: "tools",
  },
  json_schema: {
    certain: true,
    meaning: "Its answers keep to a JSON Schema.",
    needed: "`response_format` is a `json_schema`.",
    field: "response_format",
  },
  code: { certain: false, meaning: "It is good at programming.", needed: "The prompt has to do with programs." },
  translation: {
    certain: false,
    meaning: "It is good at translating.",
    needed: "The prompt asks for something in another language.",
  },
  reasoning: {
    certain: false,
    meaning: "It thinks before it answers.",
    needed:
      "The request asks for reasoning effort, or the prompt for a proof, a calculation or the solution of a puzzle.",
  },
  simple: {
    certain: false,
    meaning: "It is quick and cheap, and good enough for easy questions.",
    needed: "The prompt is one short question.",
  },
  long_context: {
    certain: false,
    meaning: "It keeps long prompts in mind.",
    needed: "The prompt is longer than about 8,000 tokens.",
  },
} as const satisfies Record<string, Capability>;

/** A word for what a worker can do. */
export type CapabilityName = keyof typeof CAPABILITIES;

const NAMES = Object.keys(CAPABILITIES) as CapabilityName[];
const CERTAIN = NAMES.filter((name) => CAPABILITIES[name].certain);
const GUESSED = NAMES.filter((name) => !CAPABILITIES[name].certain);

/** From this many tokens on a prompt is long. */
const LONG_TOKENS = 8_000;
const IMAGE_TOKENS = 1_000;
const IMAGE_TOKENS_MIN = 80;
const FILE_TOKENS = 2_000;
const AUDIO_BYTES_PER_TOKEN = 1_000;
/** No tokenizer makes fewer tokens of a text than this share of what is estimated. */
const CERTAIN_SHARE = 0.5;

/** What a request needs. */
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
  const contents = countContents(request);
  const inputTokens = Math.ceil(
    contents.textTokens +
      contents.images * IMAGE_TOKENS +
      contents.files * FILE_TOKENS +
      contents.audioBytes / AUDIO_BYTES_PER_TOKEN,
  );
  const inputTokensMin = Math.floor(contents.textTokens * CERTAIN_SHARE + contents.images * IMAGE_TOKENS_MIN);
  const certain: Need[] = [];
  if (contents.images > 0) certain.push(certainly("vision", counted(contents.images, "picture")));
  if (contents.recordings > 0) certain.push(certainly("audio", counted(contents.recordings, "recording")));
  if (contents.files > 0) certain.push(certainly("files", counted(contents.files, "file")));
  if (request.tools.length > 0 && request.toolChoice?.mode !== ToolMode.NONE) {
    certain.push(certainly("tools", counted(request.tools.length, "tool")));
  }
  if (request.responseFormat?.kind === FormatKind.JSON_SCHEMA) {
    certain.push(certainly("json_schema", "the answer has to match a schema"));
  }
  return {
    certain,
    guessed: guess(request, inputTokens),
    inputTokens,
    inputTokensMin,
    outputTokensMax: request.maxOutputTokens,
  };
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

/** How badly a candidate fits: 0 is best, always below 20. */
export function misfit(needs: Needs, { capabilities }: Pick<Capable, "capabilities">): number {
  let steps = needs.certain.length > 0 && !isComplete(capabilities) ? 10 : 0;
  if (needs.guessed.length === 0) return steps;
  const otherwise = GUESSED.some((name) => capabilities.has(name)) ? 2 : 1;
  for (const { capability, confidence } of needs.guessed) {
    if (!capabilities.has(capability)) steps += confidence * otherwise;
  }
  return steps;
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

interface Contents {
  textTokens: number;
  images: number;
  recordings: number;
  audioBytes: number;
  files: number;
}

function countContents({ messages, tools, responseFormat }: CompletionRequest): Contents {
  const contents: Contents = { textTokens: 0, images: 0, recordings: 0, audioBytes: 0, files: 0 };
  for (const { content } of messages) for (const { part } of content) countPart(part, contents);
  for (const { name, description, parametersJsonSchema } of tools) {
    contents.textTokens += (name.length + description.length + parametersJsonSchema.length) / 4;
  }
  contents.textTokens += (responseFormat?.jsonSchema.length ?? 0) / 4;
  return contents;
}

function countPart(part: ContentPart["part"], contents: Contents): void {
  switch (part?.$case) {
    case "text":
    case "refusal":
      contents.textTokens += estimateTokens(part.value);
      break;
    case "reasoning":
      contents.textTokens += estimateTokens(part.value.text);
      break;
    case "toolCall":
      contents.textTokens += (part.value.name.length + part.value.argumentsJson.length) / 4;
      break;
    case "toolResult":
      for (const inner of part.value.content) countPart(inner.part, contents);
      break;
    case "image":
      contents.images++;
      break;
    case "audio":
      contents.recordings++;
      contents.audioBytes += part.value.data.length;
      break;
    case "file":
      contents.files++;
      break;
    default:
  }
}

function guess({ messages, reasoning }: CompletionRequest, inputTokens: number): Need[] {
  const guessed: Need[] = classify(lastUserText(messages)).map(({ kind, confidence, why }) => ({
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

function lastUserText(messages: readonly Message[]): string {
  const message = messages.findLast(({ role }) => role === Role.USER);
  return message?.content.map(({ part }) => (part?.$case === "text" ? part.value : "")).join("\n") ?? "";
}
