/** Cortex's requests in the words of the OpenAI API: https://platform.openai.com/docs/api-reference/chat/create */
import { invalid, objectText, type ProviderRequest, refused } from "../adapter/index.ts";
import {
  type CompletionRequest,
  type EmbeddingRequest,
  type ReasoningOptions,
  ReasoningOptions_Effort,
  type ResponseFormat,
  ResponseFormat_Kind,
  type Tool,
  type ToolChoice,
  ToolChoice_Mode,
} from "../gen/cortex/llm/v1/llm.ts";
import { JsonFields, RequestBody } from "./fields.ts";
import { toMessages } from "./messages.ts";
import type { EffortWord, Server } from "./server.ts";

/** The request for a chat. */
export function toChatRequest(
  request: CompletionRequest,
  model: string,
  stream: boolean,
  server: Server,
): ProviderRequest {
  const { sampling, extraJson } = request;
  const alone = isJsonAlone(request, server);
  // The shell makes a stream of a whole answer, so nothing is lost but the first token's early arrival.
  const streamed = stream && !alone;
  // What can't be called need not be there.
  const tools = alone ? [] : request.tools;
  const body = new RequestBody(server, server.parameters, model);
  body
    .set("model", model)
    .set("messages", toMessages(request.messages, server, body.warnings))
    .set("stream", streamed)
    .set("stream_options", streamed && server.usageOnRequest ? { include_usage: true } : undefined)
    .set(server.maxTokensField, request.maxOutputTokens)
    .set("temperature", sampling?.temperature)
    .set("top_p", sampling?.topP)
    .set("frequency_penalty", sampling?.frequencyPenalty)
    .set("presence_penalty", sampling?.presencePenalty)
    .set("seed", sampling?.seed)
    .set("stop", sampling?.stop.length ? sampling.stop : undefined)
    .set("logit_bias", toLogitBias(sampling?.logitBias))
    // One answer is what every server gives; some refuse the field itself.
    .set("n", request.choiceCount === 1 ? undefined : request.choiceCount)
    .set("logprobs", request.logprobs || undefined)
    .set("top_logprobs", request.topLogprobs);
  addReasoning(body, request.reasoning, model, server);
  body
    .set("tool_choice", alone ? undefined : toToolChoice(request.toolChoice))
    .set("parallel_tool_calls", alone ? undefined : request.parallelToolCalls)
    .set("user", request.user || undefined)
    .setText("tools", tools.length > 0 ? `[${tools.map(toTool).join(",")}]` : undefined)
    .setText("response_format", toResponseFormat(request.responseFormat, server))
    .set("top_k", sampling?.topK);
  refuseAudioOutput(extraJson);
  for (const { models, fields, unless } of server.additions) {
    if (models.test(model) && !unless.some((name) => name in extraJson)) body.setOwn(fields);
  }
  return body.addExtra(extraJson).toRequest(server.paths.chat.replace("{model}", encodeURIComponent(model)));
}

/** The request for embeddings, to a server that has them at `path`. */
export function toEmbeddingRequest(
  request: EmbeddingRequest,
  model: string,
  server: Server,
  path: string,
): ProviderRequest {
  return new RequestBody(server, server.embeddingParameters, model)
    .set("model", model)
    .set("input", request.inputs)
    .set("encoding_format", "float")
    .set("dimensions", request.dimensions)
    .set("user", request.user || undefined)
    .addExtra(request.extraJson)
    .toRequest(path.replace("{model}", encodeURIComponent(model)));
}

/** Whether JSON is wanted of a server that writes it neither into a stream nor when tools may be called. */
function isJsonAlone({ responseFormat, tools, toolChoice }: CompletionRequest, server: Server): boolean {
  const kind = responseFormat?.kind;
  const json = kind === ResponseFormat_Kind.JSON_OBJECT || kind === ResponseFormat_Kind.JSON_SCHEMA;
  if (!json || server.jsonAlone !== true) return false;
  if (tools.length > 0 && toolChoice?.mode !== ToolChoice_Mode.NONE) {
    throw refused("response_format", `${server.title} can't be held to JSON and be given tools in one request`);
  }
  return true;
}

function toLogitBias(bias: Readonly<Record<string, number>> | undefined): Readonly<Record<string, number>> | undefined {
  return bias === undefined || Object.keys(bias).length === 0 ? undefined : bias;
}

function addReasoning(
  body: RequestBody,
  reasoning: ReasoningOptions | undefined,
  model: string,
  { title, efforts, budget }: Server,
): void {
  const word = toEffortWord(reasoning?.effort);
  const tokens = reasoning?.budgetTokens;
  if (tokens !== undefined) {
    if (budget === undefined) {
      body.warn("reasoning.budget_tokens", "The OpenAI API has no bound for reasoning; it was left out");
    } else {
      body.setOwn({ [budget.object]: { [budget.field]: tokens } });
      if (word !== undefined) {
        body.warn("reasoning_effort", `${title} takes an effort or a bound for reasoning; the effort was left out`);
      }
      return;
    }
  }
  if (word === undefined) return;
  const found = efforts.find(({ models }) => models?.test(model) ?? true)?.efforts[word];
  if (found === undefined) {
    body.warn("reasoning_effort", `${title} has no effort ${word} for this model; it was left out`);
    return;
  }
  body.setOwn(found.fields);
  if (found.nearest !== undefined) {
    body.warn("reasoning_effort", `${title} has no effort ${word} for this model; ${found.nearest} was asked for`);
  }
}

function toEffortWord(effort: ReasoningOptions_Effort | undefined): EffortWord | undefined {
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
    case ReasoningOptions_Effort.XHIGH:
      return "xhigh";
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
    definition.setText("parameters", objectText(tool.parametersJsonSchema, `tools[${index}].function.parameters`));
  }
  definition.set("strict", tool.strict || undefined);
  return `{"type":"function","function":${definition}}`;
}

function toResponseFormat(format: ResponseFormat | undefined, { title, jsonSchema }: Server): string | undefined {
  switch (format?.kind) {
    case ResponseFormat_Kind.TEXT:
      return '{"type":"text"}';
    case ResponseFormat_Kind.JSON_OBJECT:
      return '{"type":"json_object"}';
    case ResponseFormat_Kind.JSON_SCHEMA: {
      if (!jsonSchema) throw refused("response_format", `${title} can't be held to a JSON schema`);
      // The name is required, but means nothing to the model.
      const schema = new JsonFields()
        .set("name", format.name || "answer")
        .set("description", format.description || undefined)
        .setText("schema", objectText(format.jsonSchema, "response_format.json_schema.schema"))
        .set("strict", format.strict || undefined);
      return `{"type":"json_schema","json_schema":${schema}}`;
    }
    default:
      return undefined;
  }
}

/** The vocabulary has no sound in answers, so an answer of sound alone would come out empty. */
function refuseAudioOutput(extra: Readonly<Record<string, string>>): void {
  for (const field of ["audio", "modalities"]) {
    if (extra[field]?.includes(field === "audio" ? "{" : '"audio"')) {
      throw refused(field, "answers as sound are not supported");
    }
  }
}
