/** Cortex's requests in the words of Ollama's own API: https://docs.ollama.com/api/chat */
import {
  base64,
  invalid,
  jsonText,
  misplaced,
  objectText,
  type ProviderRequest,
  parametersText,
  refused,
  toolResultsIn,
  unsupportedBy,
} from "../../libs/adapter/index.ts";
import {
  type CompletionRequest,
  type ContentPart,
  type EmbeddingRequest,
  type Message,
  ReasoningOptions_Effort,
  type ResponseFormat,
  ResponseFormat_Kind,
  Role,
  type Sampling,
  type Tool,
  ToolChoice_Mode,
  type ToolResult,
  type Warning,
} from "../../libs/gen/cortex/llm/v1/llm.ts";

/** A warning that something was left out, or became something else. */
const unsupported = unsupportedBy("Ollama");

/** The request for `POST /api/chat`. */
export function toChatRequest(request: CompletionRequest, model: string, stream: boolean): ProviderRequest {
  refuse(request);
  // Without tools none can be called: that is what Ollama has for tool_choice none.
  const tools = request.toolChoice?.mode === ToolChoice_Mode.NONE ? [] : request.tools;
  const warnings = toWarnings(request, tools);
  const options = toOptions(request.sampling, request.maxOutputTokens);
  const body = jsonText({
    model: JSON.stringify(model),
    messages: toMessages(request.messages, warnings),
    tools: tools.length > 0 ? `[${tools.map(toTool).join(",")}]` : undefined,
    // Streaming is what Ollama does when nothing is said.
    stream: JSON.stringify(stream),
    format: toFormat(request.responseFormat),
    think: toThink(request.reasoning?.effort),
    logprobs: request.logprobs ? "true" : undefined,
    top_logprobs: request.topLogprobs === undefined ? undefined : JSON.stringify(request.topLogprobs),
    // Left to itself Ollama drops the oldest messages when the prompt is too long, and while it writes, without a word.
    // With these it says so: an error for the prompt, the end by length for the answer.
    truncate: "false",
    shift: "false",
    options: Object.keys(options).length > 0 ? JSON.stringify(options) : undefined,
  });
  return { method: "POST", path: "/api/chat", body, warnings };
}

/** The request for `POST /api/embed`. */
export function toEmbeddingRequest(request: EmbeddingRequest, model: string): ProviderRequest {
  const warnings = Object.keys(request.extraJson).map((name) => unsupported(name));
  if (request.user !== "") warnings.push(unsupported("user"));
  const { inputs, dimensions } = request;
  const body = JSON.stringify({ model, input: inputs, truncate: false, dimensions });
  return { method: "POST", path: "/api/embed", body, warnings };
}

/** What changes the answer's quality or bookkeeping, but not what it is. */
function toWarnings(request: CompletionRequest, tools: readonly Tool[]): Warning[] {
  const warnings = Object.keys(request.extraJson).map((name) => unsupported(name));
  if (Object.keys(request.sampling?.logitBias ?? {}).length > 0) warnings.push(unsupported("logit_bias"));
  if (request.user !== "") warnings.push(unsupported("user"));
  if (request.parallelToolCalls === false && tools.length > 0) {
    warnings.push(unsupported("parallel_tool_calls", "Ollama can't be kept from calling several tools at once"));
  }
  if (request.reasoning?.budgetTokens !== undefined) warnings.push(unsupported("reasoning.budget_tokens"));
  if (request.reasoning?.effort === ReasoningOptions_Effort.MINIMAL) {
    warnings.push(unsupported("reasoning_effort", "Ollama has no effort minimal; low was asked for"));
  }
  if (request.reasoning?.effort === ReasoningOptions_Effort.XHIGH) {
    warnings.push(unsupported("reasoning_effort", "Ollama has no effort xhigh; high was asked for"));
  }
  for (const [index, tool] of tools.entries()) {
    const parameter = `tools[${index}].function.strict`;
    if (tool.strict) warnings.push(unsupported(parameter, "Ollama does not hold arguments to the schema"));
  }
  return warnings;
}

/** What the caller would miss in the answer. */
function refuse(request: CompletionRequest): void {
  if ((request.choiceCount ?? 1) > 1) throw refused("n", "Ollama gives one answer");
  const mode = request.toolChoice?.mode;
  if (mode === ToolChoice_Mode.REQUIRED || mode === ToolChoice_Mode.NAMED) {
    throw refused("tool_choice", "Ollama can't be made to call a tool");
  }
}

function toOptions(sampling: Sampling | undefined, maxOutputTokens: number | undefined): Record<string, unknown> {
  const options = {
    num_predict: maxOutputTokens,
    temperature: sampling?.temperature,
    top_k: sampling?.topK,
    top_p: sampling?.topP,
    seed: sampling?.seed,
    stop: sampling?.stop.length ? sampling.stop : undefined,
    presence_penalty: sampling?.presencePenalty,
    frequency_penalty: sampling?.frequencyPenalty,
  };
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined));
}

function toFormat(format: ResponseFormat | undefined): string | undefined {
  switch (format?.kind) {
    case ResponseFormat_Kind.JSON_OBJECT:
      return '"json"';
    case ResponseFormat_Kind.JSON_SCHEMA:
      return objectText(format.jsonSchema, "response_format.json_schema.schema");
    default:
      return undefined;
  }
}

function toThink(effort: ReasoningOptions_Effort | undefined): string | undefined {
  switch (effort) {
    case ReasoningOptions_Effort.NONE:
      return "false";
    case ReasoningOptions_Effort.MINIMAL:
    case ReasoningOptions_Effort.LOW:
      return '"low"';
    case ReasoningOptions_Effort.MEDIUM:
      return '"medium"';
    case ReasoningOptions_Effort.HIGH:
    case ReasoningOptions_Effort.XHIGH:
      return '"high"';
    case ReasoningOptions_Effort.MAX:
      return '"max"';
    default:
      return undefined;
  }
}

function toTool(tool: Tool, index: number): string {
  const definition = jsonText({
    name: JSON.stringify(tool.name),
    description: tool.description === "" ? undefined : JSON.stringify(tool.description),
    parameters: parametersText(tool.parametersJsonSchema, `tools[${index}].function.parameters`),
  });
  return `{"type":"function","function":${definition}}`;
}

function toMessages(messages: readonly Message[], warnings: Warning[]): string {
  const texts = messages.flatMap((message, index) => {
    const field = `messages[${index}]`;
    if (message.name !== "") warnings.push(unsupported(`${field}.name`, "Ollama has no names for speakers"));
    switch (message.role) {
      case Role.SYSTEM:
        return [toMessage("system", message.content, field, warnings)];
      case Role.USER:
        return [toMessage("user", message.content, field, warnings)];
      case Role.ASSISTANT:
        return [toAssistantMessage(message, field)];
      case Role.TOOL:
        return toolResultsIn(message, field).map((result) => toToolMessage(result, field, warnings));
      default:
        throw invalid(`${field}.role`, "a message needs a role");
    }
  });
  return `[${texts.join(",")}]`;
}

function toMessage(role: string, content: readonly ContentPart[], field: string, warnings: Warning[]): string {
  return jsonText({ role: JSON.stringify(role), ...toContent(content, field, warnings) });
}

/** Ollama takes one text and, beside it, pictures in base64: https://docs.ollama.com/capabilities/vision */
function toContent(
  content: readonly ContentPart[],
  field: string,
  warnings: Warning[],
): Record<"content" | "images", string | undefined> {
  const texts: string[] = [];
  const images: string[] = [];
  for (const [index, contentPart] of content.entries()) {
    const { part } = contentPart;
    const partField = `${field}.content[${index}]`;
    switch (part?.$case) {
      case "text":
        texts.push(part.value);
        break;
      case "image": {
        const { source, detail } = part.value;
        // Ollama never goes out to the network for a request, and neither does an adapter: it could be sent anywhere.
        if (source?.$case === "url") throw refused(`${partField}.image_url.url`, "Ollama takes pictures as data only");
        if (source === undefined) throw invalid(`${partField}.image_url`, "an image needs data");
        if (detail !== "" && detail !== "auto") warnings.push(unsupported(`${partField}.image_url.detail`));
        images.push(base64(source.value));
        break;
      }
      case "audio":
        throw refused(`${partField}.input_audio`, "Ollama takes text and pictures only");
      case "file":
        throw refused(`${partField}.file`, "Ollama takes text and pictures only");
      default:
        throw misplaced(contentPart, partField, "here");
    }
  }
  return {
    content: JSON.stringify(texts.join("\n")),
    images: images.length === 0 ? undefined : JSON.stringify(images),
  };
}

function toAssistantMessage(message: Message, field: string): string {
  const texts: string[] = [];
  const calls: string[] = [];
  let thinking = "";
  for (const [index, content] of message.content.entries()) {
    const { part } = content;
    switch (part?.$case) {
      // Ollama knows no refusals; the words are what the model has said all the same.
      case "text":
      case "refusal":
        texts.push(part.value);
        break;
      case "reasoning":
        thinking += part.value.text;
        break;
      case "toolCall": {
        const { id, name, argumentsJson } = part.value;
        const argumentsField = `${field}.tool_calls[${calls.length}].function.arguments`;
        const called = jsonText({
          name: JSON.stringify(name),
          // An object here, not its text.
          arguments: argumentsJson === "" ? "{}" : objectText(argumentsJson, argumentsField),
        });
        calls.push(jsonText({ id: id === "" ? undefined : JSON.stringify(id), function: called }));
        break;
      }
      default:
        throw misplaced(content, `${field}.content[${index}]`, "in an answer");
    }
  }
  return jsonText({
    role: '"assistant"',
    content: JSON.stringify(texts.join("\n")),
    thinking: thinking === "" ? undefined : JSON.stringify(thinking),
    tool_calls: calls.length === 0 ? undefined : `[${calls.join(",")}]`,
  });
}

function toToolMessage(result: ToolResult, field: string, warnings: Warning[]): string {
  if (result.isError) {
    warnings.push(unsupported(`${field}.is_error`, "Ollama can't mark a tool's result as an error; its text was sent"));
  }
  return jsonText({
    role: '"tool"',
    ...toContent(result.content, field, warnings),
    tool_name: result.name === "" ? undefined : JSON.stringify(result.name),
    tool_call_id: result.toolCallId === "" ? undefined : JSON.stringify(result.toolCallId),
  });
}
