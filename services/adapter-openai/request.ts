/** Cortex's requests in the words of the OpenAI API: https://platform.openai.com/docs/api-reference/chat/create */
import type { ProviderRequest } from "../../libs/adapter/index.ts";
import {
  type CompletionRequest,
  type ContentPart,
  type EmbeddingRequest,
  type Message,
  ReasoningOptions_Effort,
  type ResponseFormat,
  ResponseFormat_Kind,
  Role,
  type Tool,
  type ToolChoice,
  ToolChoice_Mode,
  type ToolResult,
  type Warning,
} from "../../libs/gen/cortex/llm/v1/llm.ts";
import { RpcError } from "../../libs/rpc/index.ts";

/** What differs between OpenAI and the servers that speak like it. */
export interface RequestStyle {
  /** The field that bounds the generated tokens. */
  readonly maxTokensField: "max_tokens" | "max_completion_tokens";
  /** The request goes to OpenAI itself, which refuses every field that its documentation does not name. */
  readonly strict: boolean;
}

/** OpenAI takes four: https://platform.openai.com/docs/api-reference/chat/create#chat-create-stop */
const STOP_SEQUENCES_MAX = 4;

/** A JSON object written field by field, so that the JSON texts in a request reach the provider exactly as they came. */
class JsonFields {
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

/** The request for `POST /chat/completions`. */
export function toChatRequest(
  request: CompletionRequest,
  model: string,
  stream: boolean,
  style: RequestStyle,
): ProviderRequest {
  const warnings: Warning[] = [];
  const sampling = request.sampling;
  const body = new JsonFields()
    .set("model", model)
    .set("messages", toMessages(request.messages, style, warnings))
    .set("stream", stream)
    .set("stream_options", stream ? { include_usage: true } : undefined)
    .set(style.maxTokensField, request.maxOutputTokens)
    .set("temperature", sampling?.temperature)
    .set("top_p", sampling?.topP)
    .set("frequency_penalty", sampling?.frequencyPenalty)
    .set("presence_penalty", sampling?.presencePenalty)
    .set("seed", sampling?.seed)
    .set("stop", toStop(sampling?.stop ?? [], style))
    .set("logit_bias", toLogitBias(sampling?.logitBias))
    // One answer is what every server gives; some refuse the field itself.
    .set("n", request.choiceCount === 1 ? undefined : request.choiceCount)
    .set("logprobs", request.logprobs || undefined)
    .set("top_logprobs", request.topLogprobs)
    .set("reasoning_effort", toEffort(request.reasoning?.effort))
    .set("tool_choice", toToolChoice(request.toolChoice))
    .set("parallel_tool_calls", request.parallelToolCalls)
    .set("user", request.user || undefined);
  if (request.tools.length > 0) body.setText("tools", `[${request.tools.map(toTool).join(",")}]`);
  const format = toResponseFormat(request.responseFormat);
  if (format !== undefined) body.setText("response_format", format);
  if (sampling?.topK !== undefined) {
    // OpenAI has no top_k and refuses unknown fields; vLLM, llama.cpp and OpenRouter have it.
    if (style.strict) warnings.push(unsupported("top_k", "OpenAI has no top_k; it was left out"));
    else body.set("top_k", sampling.topK);
  }
  if (request.reasoning?.budgetTokens !== undefined) {
    warnings.push(unsupported("reasoning.budget_tokens", "The OpenAI API has no bound for reasoning; it was left out"));
  }
  refuseAudioOutput(request.extraJson);
  addExtra(body, request.extraJson, warnings);
  return { method: "POST", path: "/chat/completions", body: body.toString(), warnings };
}

/** The request for `POST /embeddings`. */
export function toEmbeddingRequest(request: EmbeddingRequest, model: string): ProviderRequest {
  const warnings: Warning[] = [];
  const body = new JsonFields()
    .set("model", model)
    .set("input", request.inputs)
    .set("encoding_format", "float")
    .set("dimensions", request.dimensions)
    .set("user", request.user || undefined);
  addExtra(body, request.extraJson, warnings);
  return { method: "POST", path: "/embeddings", body: body.toString(), warnings };
}

function unsupported(parameter: string, message: string): Warning {
  return { code: "UNSUPPORTED_PARAMETER", message, parameter };
}

function invalid(field: string, message: string): RpcError {
  return new RpcError("INVALID_REQUEST", `${field}: ${message}`, { field });
}

function toStop(stop: readonly string[], style: RequestStyle): readonly string[] | undefined {
  if (stop.length > STOP_SEQUENCES_MAX && style.strict) {
    throw new RpcError("UNSUPPORTED_PARAMETER", `stop: OpenAI takes at most ${STOP_SEQUENCES_MAX} sequences`, {
      field: "stop",
    });
  }
  return stop.length === 0 ? undefined : stop;
}

function toLogitBias(bias: Readonly<Record<string, number>> | undefined): Readonly<Record<string, number>> | undefined {
  return bias === undefined || Object.keys(bias).length === 0 ? undefined : bias;
}

function toEffort(effort: ReasoningOptions_Effort | undefined): string | undefined {
  switch (effort) {
    case ReasoningOptions_Effort.NONE:
      return "none";
    case ReasoningOptions_Effort.MINIMAL:
      return "minimal";
    case ReasoningOptions_Effort.LOW:
      return "low";
    case ReasoningOptions_Effort.MEDIUM:
      return "medium";
    case ReasoningOptions_Effort.HIGH:
      return "high";
    case ReasoningOptions_Effort.MAX:
      return "max";
    default:
      return undefined;
  }
}

function toToolChoice(choice: ToolChoice | undefined): unknown {
  switch (choice?.mode) {
    case ToolChoice_Mode.AUTO:
      return "auto";
    case ToolChoice_Mode.NONE:
      return "none";
    case ToolChoice_Mode.REQUIRED:
      return "required";
    case ToolChoice_Mode.NAMED:
      if (choice.name === "") throw invalid("tool_choice.function.name", "a named tool choice needs a name");
      return { type: "function", function: { name: choice.name } };
    default:
      return undefined;
  }
}

function toTool(tool: Tool, index: number): string {
  const definition = new JsonFields().set("name", tool.name).set("description", tool.description || undefined);
  if (tool.parametersJsonSchema !== "") {
    definition.setText("parameters", schemaText(tool.parametersJsonSchema, `tools[${index}].function.parameters`));
  }
  definition.set("strict", tool.strict || undefined);
  return `{"type":"function","function":${definition}}`;
}

function toResponseFormat(format: ResponseFormat | undefined): string | undefined {
  switch (format?.kind) {
    case ResponseFormat_Kind.TEXT:
      return '{"type":"text"}';
    case ResponseFormat_Kind.JSON_OBJECT:
      return '{"type":"json_object"}';
    case ResponseFormat_Kind.JSON_SCHEMA: {
      // The name is required, but means nothing to the model.
      const schema = new JsonFields()
        .set("name", format.name || "answer")
        .set("description", format.description || undefined)
        .setText("schema", schemaText(format.jsonSchema, "response_format.json_schema.schema"))
        .set("strict", format.strict || undefined);
      return `{"type":"json_schema","json_schema":${schema}}`;
    }
    default:
      return undefined;
  }
}

/** The schema's own text, once it is known to be a JSON object. */
function schemaText(json: string, field: string): string {
  let schema: unknown;
  try {
    schema = JSON.parse(json);
  } catch {
    throw invalid(field, "not valid JSON");
  }
  if (typeof schema !== "object" || schema === null || Array.isArray(schema)) throw invalid(field, "not a JSON object");
  return json;
}

/** The vocabulary has no sound in answers, so an answer of sound alone would come out empty. */
function refuseAudioOutput(extra: Readonly<Record<string, string>>): void {
  for (const field of ["audio", "modalities"]) {
    if (extra[field]?.includes(field === "audio" ? "{" : '"audio"')) {
      throw new RpcError("UNSUPPORTED_PARAMETER", `${field}: answers as sound are not supported`, { field });
    }
  }
}

/** Passes on what Cortex has no field for; what it does have a field for stands as Cortex wrote it. */
function addExtra(body: JsonFields, extra: Readonly<Record<string, string>>, warnings: Warning[]): void {
  for (const [name, json] of Object.entries(extra)) {
    try {
      JSON.parse(json);
    } catch {
      throw invalid(name, "not valid JSON");
    }
    if (body.has(name)) warnings.push(unsupported(name, `${name} is set by Cortex; the extra value was left out`));
    else body.setText(name, json);
  }
}

function toMessages(messages: readonly Message[], style: RequestStyle, warnings: Warning[]): unknown[] {
  return messages.flatMap((message, index) => {
    const field = `messages[${index}]`;
    const name = message.name || undefined;
    switch (message.role) {
      case Role.SYSTEM:
        return [{ role: "system", content: toContent(message.content, field, toTextPart), name }];
      case Role.USER:
        return [{ role: "user", content: toContent(message.content, field, toUserPart), name }];
      case Role.ASSISTANT:
        return [{ ...toAssistantMessage(message, field, style, warnings), name }];
      case Role.TOOL:
        return toToolMessages(message, field, warnings);
      default:
        throw invalid(`${field}.role`, "a message needs a role");
    }
  });
}

type ToPart = (part: ContentPart, field: string) => unknown;

/** One text is sent as a string, which every server understands; anything else as an array of parts. */
function toContent(content: readonly ContentPart[], field: string, toPart: ToPart): unknown {
  const [first] = content;
  if (first === undefined) return "";
  if (content.length === 1 && first.part?.$case === "text") return first.part.value;
  return content.map((part, index) => toPart(part, `${field}.content[${index}]`));
}

function toTextPart({ part }: ContentPart, field: string): unknown {
  if (part?.$case !== "text") throw invalid(field, "only text can stand here");
  return { type: "text", text: part.value };
}

function toUserPart({ part }: ContentPart, field: string): unknown {
  switch (part?.$case) {
    case "text":
      return { type: "text", text: part.value };
    case "image": {
      const { source, mediaType, detail } = part.value;
      if (source === undefined) throw invalid(`${field}.image_url`, "an image needs a url or data");
      const url = source.$case === "url" ? source.value : dataUrl(source.value, mediaType, `${field}.image_url`);
      return { type: "image_url", image_url: { url, detail: detail || undefined } };
    }
    case "audio": {
      const format = toAudioFormat(part.value.mediaType, `${field}.input_audio.format`);
      return { type: "input_audio", input_audio: { data: base64(part.value.data), format } };
    }
    case "file": {
      const { source, mediaType, filename } = part.value;
      if (source === undefined) throw invalid(`${field}.file`, "a file needs data or an id");
      if (source.$case === "providerFileId") return { type: "file", file: { file_id: source.value } };
      const data = dataUrl(source.value, mediaType, `${field}.file`);
      return { type: "file", file: { filename: filename || undefined, file_data: data } };
    }
    default:
      throw invalid(field, `${part?.$case ?? "an empty part"} can't stand in a user's message`);
  }
}

/** OpenAI knows two: https://platform.openai.com/docs/guides/audio */
function toAudioFormat(mediaType: string, field: string): "wav" | "mp3" {
  switch (mediaType) {
    case "audio/wav":
    case "audio/wave":
    case "audio/x-wav":
      return "wav";
    case "audio/mp3":
    case "audio/mpeg":
      return "mp3";
    default:
      throw new RpcError("UNSUPPORTED_PARAMETER", `${field}: only wav and mp3 are supported`, { field });
  }
}

function dataUrl(data: Uint8Array, mediaType: string, field: string): string {
  if (mediaType === "") throw invalid(field, "data needs a media type");
  return `data:${mediaType};base64,${base64(data)}`;
}

function base64(data: Uint8Array): string {
  return Buffer.from(data.buffer, data.byteOffset, data.byteLength).toString("base64");
}

function toAssistantMessage(message: Message, field: string, style: RequestStyle, warnings: Warning[]): object {
  const said: ContentPart[] = [];
  const calls: unknown[] = [];
  let reasoning = "";
  for (const [index, content] of message.content.entries()) {
    const { part } = content;
    switch (part?.$case) {
      case "text":
      case "refusal":
        said.push(content);
        break;
      case "toolCall": {
        const { id, name, argumentsJson } = part.value;
        calls.push({ id, type: "function", function: { name, arguments: argumentsJson } });
        break;
      }
      case "reasoning":
        reasoning += part.value.text;
        break;
      default:
        throw invalid(`${field}.content[${index}]`, `${part?.$case ?? "an empty part"} can't stand in an answer`);
    }
  }
  // DeepSeek wants the reasoning back within a loop of tool calls and nowhere else; OpenAI has no place for it.
  // https://api-docs.deepseek.com/guides/thinking_mode
  const reasoningBack = reasoning !== "" && calls.length > 0 && !style.strict;
  if (reasoning !== "" && !reasoningBack) {
    const parameter = `${field}.reasoning_content`;
    warnings.push(unsupported(parameter, "The reasoning of an earlier turn was left out: the API has no place for it"));
  }
  return {
    role: "assistant",
    // Null is allowed with tool calls only.
    content: said.length === 0 && calls.length > 0 ? null : toContent(said, field, toSaidPart),
    reasoning_content: reasoningBack ? reasoning : undefined,
    tool_calls: calls.length > 0 ? calls : undefined,
  };
}

function toSaidPart(content: ContentPart, field: string): unknown {
  const { part } = content;
  return part?.$case === "refusal" ? { type: "refusal", refusal: part.value } : toTextPart(content, field);
}

function toToolMessages(message: Message, field: string, warnings: Warning[]): unknown[] {
  if (message.content.length === 0) throw invalid(field, "a tool's message needs a result");
  return message.content.map(({ part }) => {
    if (part?.$case !== "toolResult") throw invalid(field, "only a tool's result can stand in a tool's message");
    return toToolMessage(part.value, field, warnings);
  });
}

function toToolMessage(result: ToolResult, field: string, warnings: Warning[]): unknown {
  if (result.isError) {
    const parameter = `${field}.is_error`;
    warnings.push(unsupported(parameter, "The API can't mark a tool's result as an error; only its text was sent"));
  }
  const content = toContent(result.content, field, (part, partField) => {
    if (part.part?.$case !== "image") return toTextPart(part, partField);
    // Without the picture the model would answer about something that it has not seen.
    throw new RpcError("UNSUPPORTED_PARAMETER", `${partField}: a tool's result can't be a picture in the OpenAI API`, {
      field: partField,
    });
  });
  return { role: "tool", tool_call_id: result.toolCallId, content };
}
