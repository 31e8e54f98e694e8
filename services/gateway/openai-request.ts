/**
 * Requests in OpenAI's form to Cortex's vocabulary. Everything is validated, and every mistake names its field; parameters
 * that Cortex has no field for travel on untouched.
 * https://platform.openai.com/docs/api-reference/chat/create
 */
import { z } from "zod";
import {
  ToolChoice_Mode as ChoiceMode,
  type CompletionRequest,
  type ContentPart,
  ReasoningOptions_Effort as Effort,
  type EmbeddingRequest,
  ResponseFormat_Kind as FormatKind,
  type Message,
  type ReasoningOptions,
  type ResponseFormat,
  Role,
  type Sampling,
  type Tool,
  type ToolChoice,
} from "../../libs/gen/cortex/llm/v1/llm.ts";
import { inWords } from "../../libs/host/index.ts";
import { RpcError } from "../../libs/rpc/index.ts";
import type { CachingWish } from "./caching-options.ts";
import { cortexWish, type RoutingWish } from "./routing-options.ts";

const textPart = z.looseObject({ type: z.literal("text"), text: z.string() });
const userPart = z.discriminatedUnion("type", [
  textPart,
  z.looseObject({
    type: z.literal("image_url"),
    image_url: z.looseObject({ url: z.string().min(1), detail: z.enum(["auto", "low", "high"]).optional() }),
  }),
  z.looseObject({
    type: z.literal("input_audio"),
    input_audio: z.looseObject({ data: z.string().min(1), format: z.enum(["wav", "mp3"]) }),
  }),
  z.looseObject({
    type: z.literal("file"),
    file: z.looseObject({
      file_id: z.string().optional(),
      file_data: z.string().optional(),
      filename: z.string().optional(),
    }),
  }),
]);
const assistantPart = z.discriminatedUnion("type", [
  textPart,
  z.looseObject({ type: z.literal("refusal"), refusal: z.string() }),
]);
const toolCall = z.looseObject({
  id: z.string().min(1),
  type: z.literal("function"),
  function: z.looseObject({ name: z.string().min(1), arguments: z.string() }),
  signature: z.string().optional(),
});

/** The largest number that the fields of the contracts hold; a larger one would arrive as another. */
const UINT32_MAX = 4_294_967_295;
const count = z.int().positive().max(UINT32_MAX);

const text = z.union([z.string(), z.array(textPart).min(1)], "must be a text or a list of text parts");
const name = z.string().optional();
const message = z.discriminatedUnion("role", [
  z.looseObject({ role: z.literal("system"), content: text, name }),
  z.looseObject({ role: z.literal("developer"), content: text, name }),
  z.looseObject({
    role: z.literal("user"),
    content: z.union([z.string(), z.array(userPart).min(1)], "must be a text or a list of parts"),
    name,
  }),
  z.looseObject({
    role: z.literal("assistant"),
    content: z.union([z.string(), z.array(assistantPart)], "must be a text, a list of parts, or null").nullish(),
    refusal: z.string().nullish(),
    reasoning_content: z.string().nullish(),
    reasoning_signature: z.string().nullish(),
    tool_calls: z.array(toolCall).nullish(),
    name,
  }),
  z.looseObject({
    role: z.literal("tool"),
    content: z.union(
      [z.string(), z.array(z.discriminatedUnion("type", [textPart])).min(1)],
      "must be a text or a list of text parts",
    ),
    tool_call_id: z.string().min(1),
    name,
  }),
]);

/** Longer than any model's; it stands in routes, traces and events. */
const MODEL_CHARACTERS_MAX = 512;
const modelName = z.string().min(1).max(MODEL_CHARACTERS_MAX);

const chatBody = z.looseObject({
  model: modelName,
  messages: z.array(message).min(1),
  stream: z.boolean().nullish(),
  stream_options: z.looseObject({ include_usage: z.boolean().optional() }).nullish(),
  temperature: z.number().min(0).max(2).nullish(),
  top_p: z.number().min(0).max(1).nullish(),
  top_k: z.int().min(0).max(UINT32_MAX).nullish(),
  frequency_penalty: z.number().min(-2).max(2).nullish(),
  presence_penalty: z.number().min(-2).max(2).nullish(),
  seed: z.int().nullish(),
  stop: z.union([z.string(), z.array(z.string()).max(16)], "must be a text or a list of at most 16 texts").nullish(),
  logit_bias: z.record(z.string(), z.number().min(-100).max(100)).nullish(),
  max_tokens: count.nullish(),
  max_completion_tokens: count.nullish(),
  n: z.int().positive().max(128).nullish(),
  logprobs: z.boolean().nullish(),
  top_logprobs: z.int().min(0).max(20).nullish(),
  user: z.string().nullish(),
  cortex: cortexWish,
  parallel_tool_calls: z.boolean().nullish(),
  reasoning_effort: z.enum(["none", "minimal", "low", "medium", "high", "xhigh", "max"]).nullish(),
  tools: z
    .array(
      z.looseObject({
        type: z.literal("function"),
        function: z.looseObject({
          name: z.string().regex(/^[a-zA-Z0-9_-]{1,64}$/, "must be 1 to 64 letters, digits, _ or -"),
          description: z.string().optional(),
          parameters: z.record(z.string(), z.unknown()).optional(),
          strict: z.boolean().nullish(),
        }),
      }),
    )
    .nullish(),
  tool_choice: z
    .union(
      [
        z.enum(["none", "auto", "required"]),
        z.looseObject({ type: z.literal("function"), function: z.looseObject({ name: z.string() }) }),
      ],
      'must be "none", "auto", "required" or {"type":"function","function":{"name":…}}',
    )
    .nullish(),
  response_format: z
    .discriminatedUnion("type", [
      z.looseObject({ type: z.literal("text") }),
      z.looseObject({ type: z.literal("json_object") }),
      z.looseObject({
        type: z.literal("json_schema"),
        json_schema: z.looseObject({
          name: z.string(),
          description: z.string().optional(),
          schema: z.record(z.string(), z.unknown()).optional(),
          strict: z.boolean().nullish(),
        }),
      }),
    ])
    .nullish(),
  // Null is what clients send that write out every field.
  functions: z.null("is deprecated and not supported; use tools").optional(),
  function_call: z.null("is deprecated and not supported; use tool_choice").optional(),
  audio: z.null("spoken answers are not supported").optional(),
  modalities: z.array(z.literal("text", "spoken answers are not supported")).nullish(),
});

type ChatBody = z.output<typeof chatBody>;

const embeddingBody = z.looseObject({
  model: modelName,
  input: z.union([z.string().min(1), z.array(z.string().min(1)).min(1).max(2048)], {
    error: "must be a text or a list of 1 to 2048 texts; lists of token ids are not supported",
  }),
  encoding_format: z.enum(["float", "base64"]).nullish(),
  dimensions: count.nullish(),
  user: z.string().nullish(),
  cortex: cortexWish,
});

/** Fields that are translated (or refused); every other one travels in `extra_json`. */
const CHAT_FIELDS = new Set(Object.keys(chatBody.shape));
const EMBEDDING_FIELDS = new Set(Object.keys(embeddingBody.shape));

/** A chat request and how its client wants the answer. */
export interface ChatRequest {
  readonly completion: CompletionRequest;
  readonly stream: boolean;
  /** The client wants the usage at the end of the stream. */
  readonly includeUsage: boolean;
  readonly routing: RoutingWish;
  readonly caching: CachingWish;
}

/** Reads the body of `POST /v1/chat/completions`. Throws INVALID_REQUEST with the field. */
export function readChatRequest(body: unknown): ChatRequest {
  const parsed = validate(chatBody, body);
  return {
    stream: parsed.stream ?? false,
    includeUsage: parsed.stream_options?.include_usage ?? false,
    completion: toCompletionRequest(parsed),
    ...wishesOf(parsed),
  };
}

/** The vectors that a client asks for, and in which form. */
export interface EmbeddingsRequest {
  readonly embedding: EmbeddingRequest;
  readonly base64: boolean;
  readonly routing: RoutingWish;
  readonly caching: CachingWish;
}

/** Reads the body of `POST /v1/embeddings`. Throws INVALID_REQUEST with the field. */
export function readEmbeddingsRequest(body: unknown): EmbeddingsRequest {
  const parsed = validate(embeddingBody, body);
  return {
    base64: parsed.encoding_format === "base64",
    ...wishesOf(parsed),
    embedding: {
      model: parsed.model,
      inputs: typeof parsed.input === "string" ? [parsed.input] : parsed.input,
      dimensions: parsed.dimensions ?? undefined,
      user: parsed.user ?? "",
      extraJson: extraOf(parsed, EMBEDDING_FIELDS),
    },
  };
}

const shortBody = z.strictObject({
  messages: z.array(message).min(1),
  model: modelName.default("auto"),
  temperature: chatBody.shape.temperature,
  max_tokens: chatBody.shape.max_tokens,
  cortex: cortexWish,
});

/** Reads the body of `POST /api/chat`. Throws INVALID_REQUEST with the field. */
export function readShortChatRequest(body: unknown): Pick<ChatRequest, "completion" | "routing" | "caching"> {
  const parsed = validate(shortBody, body);
  return { completion: toCompletionRequest(parsed as ChatBody), ...wishesOf(parsed) };
}

function wishesOf({ cortex }: Pick<ChatBody, "cortex">): Pick<ChatRequest, "routing" | "caching"> {
  if (cortex === undefined || cortex === null) return { routing: undefined, caching: undefined };
  const { cache, ...routing } = cortex;
  return { routing, caching: cache };
}

/** One mistake is told; to gather those of a list of a million takes seconds and a gigabyte. */
const UNTIL_FIRST_MISTAKE: z.core.ParseContextInternal<z.core.$ZodIssue> = { abortEarly: true };

function validate<T>(schema: z.ZodType<T>, body: unknown): T {
  const result = parse(schema, body);
  if (result.success) return result.data;
  const issue = deepest(result.error.issues[0]!);
  const field = fieldName(issue.path);
  const message = inWords(issue.message);
  throw new RpcError("INVALID_REQUEST", field === "" ? `the body: ${message}` : `${field}: ${message}`, {
    ...(field === "" ? {} : { field }),
  });
}

function parse<T>(schema: z.ZodType<T>, body: unknown): z.ZodSafeParseResult<T> {
  try {
    return schema.safeParse(body, UNTIL_FIRST_MISTAKE);
  } catch (thrown) {
    // zod measures whatever has a `length`, also an object with a field of that name, which need not be a number.
    const message = "the body: an object stands where a text or a list is expected";
    throw new RpcError("INVALID_REQUEST", message, { cause: thrown });
  }
}

interface Issue {
  readonly path: readonly PropertyKey[];
  readonly message: string;
}

/** Of a union, the issue of the alternative that came furthest tells most. */
function deepest(issue: z.core.$ZodIssue): Issue {
  if (issue.code === "unrecognized_keys") return { path: [...issue.path, issue.keys[0]!], message: "is not known" };
  if (issue.code !== "invalid_union") return issue;
  let best: Issue = issue;
  for (const alternative of issue.errors) {
    for (const inner of alternative) {
      const found = deepest(inner);
      const path = [...issue.path, ...found.path];
      if (path.length > best.path.length) best = { path, message: found.message };
    }
  }
  return best;
}

function fieldName(path: readonly PropertyKey[]): string {
  return path
    .map((step) => (typeof step === "number" ? `[${step}]` : `.${String(step)}`))
    .join("")
    .replace(/^\./, "")
    .slice(0, FIELD_CHARACTERS_MAX);
}

/** Some names are the client's own, and may be as long as the body. */
const FIELD_CHARACTERS_MAX = 200;

function toCompletionRequest(body: ChatBody): CompletionRequest {
  const toolNames = new Map<string, string>();
  return {
    model: body.model,
    messages: body.messages.map((item, index) => toMessage(item, index, toolNames)),
    tools: (body.tools ?? []).map(toTool),
    toolChoice: toToolChoice(body.tool_choice),
    parallelToolCalls: body.parallel_tool_calls ?? undefined,
    responseFormat: toResponseFormat(body.response_format),
    sampling: toSampling(body),
    reasoning: toReasoning(body.reasoning_effort),
    maxOutputTokens: body.max_completion_tokens ?? body.max_tokens ?? undefined,
    choiceCount: body.n ?? undefined,
    logprobs: body.logprobs ?? false,
    topLogprobs: body.top_logprobs ?? undefined,
    user: body.user ?? "",
    extraJson: extraOf(body, CHAT_FIELDS),
  };
}

function extraOf(body: Readonly<Record<string, unknown>>, known: ReadonlySet<string>): Record<string, string> {
  const extra: Record<string, string> = {};
  for (const field in body) {
    if (!known.has(field) && body[field] !== undefined) extra[field] = toJson(body[field], field);
  }
  return extra;
}

/** Far deeper than any schema, and far less than what takes seconds to write. */
const NESTING_MAX = 200;

/** The text of a value that travels on as it came. Throws INVALID_REQUEST for what would not arrive so. */
function toJson(value: unknown, field: string): string {
  const wrong = obstacle(value, 0);
  if (wrong === undefined) return JSON.stringify(value);
  const name = field.slice(0, FIELD_CHARACTERS_MAX);
  throw new RpcError("INVALID_REQUEST", `${name}: ${wrong}`, { field: name });
}

function obstacle(value: unknown, depth: number): string | undefined {
  if (typeof value === "number" && !Number.isFinite(value)) return "a number in it is too large";
  if (typeof value !== "object" || value === null) return undefined;
  if (depth === NESTING_MAX) return `it is nested more than ${NESTING_MAX} levels deep`;
  for (const inner of Array.isArray(value) ? value : Object.values(value)) {
    const wrong = obstacle(inner, depth + 1);
    if (wrong !== undefined) return wrong;
  }
  return undefined;
}

type MessageBody = ChatBody["messages"][number];

function toMessage(body: MessageBody, index: number, toolNames: Map<string, string>): Message {
  const name = body.name ?? "";
  switch (body.role) {
    case "system":
    case "developer":
      return { role: Role.SYSTEM, name, content: textParts(body.content) };
    case "user":
      if (typeof body.content === "string") return { role: Role.USER, name, content: textParts(body.content) };
      return {
        role: Role.USER,
        name,
        content: body.content.map((part, position) => toUserPart(part, `messages[${index}].content[${position}]`)),
      };
    case "assistant":
      return { role: Role.ASSISTANT, name, content: assistantParts(body, index, toolNames) };
    case "tool": {
      const toolName = toolNames.get(body.tool_call_id) ?? name;
      const content = textParts(body.content);
      const value = { toolCallId: body.tool_call_id, name: toolName, content, isError: false };
      return { role: Role.TOOL, name: "", content: [{ part: { $case: "toolResult", value } }] };
    }
    default:
      return body satisfies never;
  }
}

function textParts(content: string | readonly { readonly text: string }[]): ContentPart[] {
  if (typeof content === "string") return [{ part: { $case: "text", value: content } }];
  return content.map((part) => ({ part: { $case: "text", value: part.text } }));
}

function assistantParts(
  body: Extract<MessageBody, { role: "assistant" }>,
  index: number,
  toolNames: Map<string, string>,
): ContentPart[] {
  const parts: ContentPart[] = [];
  if (body.reasoning_content || body.reasoning_signature) {
    const value = { text: body.reasoning_content ?? "", signature: body.reasoning_signature ?? "" };
    parts.push({ part: { $case: "reasoning", value } });
  }
  if (typeof body.content === "string" && body.content !== "") parts.push(...textParts(body.content));
  if (Array.isArray(body.content)) {
    for (const part of body.content) {
      if (part.type === "text") parts.push({ part: { $case: "text", value: part.text } });
      else parts.push({ part: { $case: "refusal", value: part.refusal } });
    }
  }
  if (body.refusal) parts.push({ part: { $case: "refusal", value: body.refusal } });
  for (const call of body.tool_calls ?? []) {
    toolNames.set(call.id, call.function.name);
    const value = {
      id: call.id,
      name: call.function.name,
      argumentsJson: call.function.arguments,
      signature: call.signature ?? "",
    };
    parts.push({ part: { $case: "toolCall", value } });
  }
  if (parts.length === 0 && body.content !== "") {
    const field = `messages[${index}].content`;
    throw new RpcError("INVALID_REQUEST", `${field} may be absent only beside tool_calls`, { field });
  }
  return parts;
}

const DATA_URL = /^data:([a-z0-9.+-]+\/[a-z0-9.+-]+)?(?:;[a-z0-9-]+=[^;,]*)*;base64,/i;

function toUserPart(part: z.output<typeof userPart>, field: string): ContentPart {
  switch (part.type) {
    case "text":
      return { part: { $case: "text", value: part.text } };
    case "image_url": {
      const { url, detail = "" } = part.image_url;
      if (/^https?:\/\//i.test(url)) {
        return { part: { $case: "image", value: { source: { $case: "url", value: url }, mediaType: "", detail } } };
      }
      const { data, mediaType } = fromDataUrl(url, `${field}.image_url.url`);
      return { part: { $case: "image", value: { source: { $case: "data", value: data }, mediaType, detail } } };
    }
    case "input_audio": {
      const data = fromBase64(part.input_audio.data, `${field}.input_audio.data`);
      return { part: { $case: "audio", value: { data, mediaType: `audio/${part.input_audio.format}` } } };
    }
    case "file": {
      const { file_id, file_data, filename = "" } = part.file;
      if (file_data !== undefined) {
        const { data, mediaType } = fromDataUrl(file_data, `${field}.file.file_data`);
        return { part: { $case: "file", value: { source: { $case: "data", value: data }, mediaType, filename } } };
      }
      if (file_id !== undefined) {
        const source = { $case: "providerFileId" as const, value: file_id };
        return { part: { $case: "file", value: { source, mediaType: "", filename } } };
      }
      throw new RpcError("INVALID_REQUEST", `${field}.file needs file_data or file_id`, { field: `${field}.file` });
    }
    default:
      return part satisfies never;
  }
}

function fromDataUrl(url: string, field: string): { data: Buffer; mediaType: string } {
  const match = DATA_URL.exec(url.slice(0, 256));
  if (match === null) {
    throw new RpcError("INVALID_REQUEST", `${field} has to be an http(s) URL or data:<type>;base64,<data>`, { field });
  }
  return { data: fromBase64(url.slice(match[0].length), field), mediaType: (match[1] ?? "").toLowerCase() };
}

function fromBase64(text: string, field: string): Buffer {
  const data = Buffer.from(text, "base64");
  if (data.length > 0) return data;
  throw new RpcError("INVALID_REQUEST", `${field} holds no base64 data`, { field });
}

function toTool({ function: body }: NonNullable<ChatBody["tools"]>[number], index: number): Tool {
  return {
    name: body.name,
    description: body.description ?? "",
    parametersJsonSchema:
      body.parameters === undefined ? "" : toJson(body.parameters, `tools[${index}].function.parameters`),
    strict: body.strict ?? false,
  };
}

const CHOICE_MODES = { none: ChoiceMode.NONE, auto: ChoiceMode.AUTO, required: ChoiceMode.REQUIRED } as const;

function toToolChoice(choice: ChatBody["tool_choice"]): ToolChoice | undefined {
  if (choice === undefined || choice === null) return undefined;
  if (typeof choice === "string") return { mode: CHOICE_MODES[choice], name: "" };
  return { mode: ChoiceMode.NAMED, name: choice.function.name };
}

function toResponseFormat(format: ChatBody["response_format"]): ResponseFormat | undefined {
  if (format === undefined || format === null) return undefined;
  const plain = { name: "", description: "", jsonSchema: "", strict: false };
  if (format.type === "text") return { ...plain, kind: FormatKind.TEXT };
  if (format.type === "json_object") return { ...plain, kind: FormatKind.JSON_OBJECT };
  const { name, description = "", schema, strict } = format.json_schema;
  const jsonSchema = schema === undefined ? "" : toJson(schema, "response_format.json_schema.schema");
  return { kind: FormatKind.JSON_SCHEMA, name, description, jsonSchema, strict: strict ?? false };
}

function toSampling(body: ChatBody): Sampling {
  return {
    temperature: body.temperature ?? undefined,
    topP: body.top_p ?? undefined,
    topK: body.top_k ?? undefined,
    frequencyPenalty: body.frequency_penalty ?? undefined,
    presencePenalty: body.presence_penalty ?? undefined,
    seed: body.seed ?? undefined,
    stop: typeof body.stop === "string" ? [body.stop] : (body.stop ?? []),
    logitBias: body.logit_bias ?? {},
  };
}

const EFFORTS = {
  none: Effort.NONE,
  minimal: Effort.MINIMAL,
  low: Effort.LOW,
  medium: Effort.MEDIUM,
  high: Effort.HIGH,
  xhigh: Effort.XHIGH,
  max: Effort.MAX,
} as const;

function toReasoning(effort: ChatBody["reasoning_effort"]): ReasoningOptions | undefined {
  return effort === undefined || effort === null ? undefined : { effort: EFFORTS[effort], budgetTokens: undefined };
}
