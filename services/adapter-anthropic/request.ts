/** Cortex's requests in the words of the Messages API: https://platform.claude.com/docs/en/api/messages/create */
import {
  invalid,
  jsonText,
  objectText,
  type ProviderRequest,
  parametersText,
  refused,
} from "../../libs/adapter/index.ts";
import {
  type CompletionRequest,
  ResponseFormat_Kind,
  type Tool,
  ToolChoice_Mode,
  type Warning,
} from "../../libs/gen/cortex/llm/v1/llm.ts";
import { generationOf, outputTokensMax, STRUCTURED, type Thinking, toThinking, UNSAMPLED } from "./generation.ts";
import { toConversation } from "./messages.ts";
import { unsupported, VERSION_HEADER } from "./wording.ts";

/** The request for `POST /v1/messages`. */
export function toChatRequest(request: CompletionRequest, model: string, stream: boolean): ProviderRequest {
  refuse(request, model);
  const warnings = toWarnings(request);
  const maxTokens = toMaxTokens(request, model, warnings);
  const { system, messages, files, unthinking, begun } = toConversation(request.messages, warnings);
  const thinking = allowed(toThinking(request, model, maxTokens), unthinking, begun);
  for (const [parameter, message] of thinking.notes) warnings.push(unsupported(parameter, message));
  const body = jsonText({
    model: JSON.stringify(model),
    max_tokens: JSON.stringify(maxTokens),
    system,
    messages,
    tools: request.tools.length > 0 ? toTools(request.tools, model, warnings) : undefined,
    tool_choice: toToolChoice(request),
    thinking: thinking.thinking && JSON.stringify(thinking.thinking),
    output_config: toOutputConfig(request, thinking.effort, warnings),
    ...toSampling(request, model, thinking, warnings),
    stop_sequences: request.sampling?.stop.length ? JSON.stringify(request.sampling.stop) : undefined,
    metadata: request.user === "" ? undefined : JSON.stringify({ user_id: request.user }),
    stream: stream ? "true" : undefined,
  });
  // https://platform.claude.com/docs/en/build-with-claude/files
  const headers = { ...VERSION_HEADER, ...(files && { "anthropic-beta": "files-api-2025-04-14" }) };
  return { method: "POST", path: "/v1/messages", headers, body, warnings };
}

/** What changes the answer's quality or bookkeeping, but not what it is. */
function toWarnings(request: CompletionRequest): Warning[] {
  const { sampling } = request;
  const warnings = Object.keys(request.extraJson).map((name) => unsupported(name));
  if (Object.keys(sampling?.logitBias ?? {}).length > 0) warnings.push(unsupported("logit_bias"));
  if (sampling?.seed !== undefined) warnings.push(unsupported("seed"));
  if (sampling?.frequencyPenalty) warnings.push(unsupported("frequency_penalty"));
  if (sampling?.presencePenalty) warnings.push(unsupported("presence_penalty"));
  return warnings;
}

/** What the caller would miss in the answer; another provider may have it. */
function refuse({ sampling, choiceCount, logprobs, responseFormat }: CompletionRequest, model: string): void {
  if ((choiceCount ?? 1) > 1) throw refused("n", "Anthropic gives one answer");
  if (logprobs) throw refused("logprobs", "Anthropic gives no log probabilities");
  if (sampling?.stop.some((sequence) => sequence.trim() === "")) {
    throw refused("stop", "Anthropic takes no sequence of white space alone");
  }
  if (responseFormat?.kind === ResponseFormat_Kind.JSON_OBJECT) {
    // To ask for it in words would be to write into the prompt.
    throw refused("response_format", "Anthropic has no JSON mode without a schema");
  }
  if (responseFormat?.kind === ResponseFormat_Kind.JSON_SCHEMA && generationOf(model) < STRUCTURED) {
    throw refused("response_format", `${model} can't be held to a schema`);
  }
}

/** It is required. Without a bound the answer may be as long as the model's answers get. */
function toMaxTokens({ maxOutputTokens }: CompletionRequest, model: string, warnings: Warning[]): number {
  if (maxOutputTokens !== undefined) return maxOutputTokens;
  const most = outputTokensMax(model);
  const message = `Anthropic wants a bound; ${most} was sent, the model's own`;
  warnings.push({ code: "PARAMETER_DEFAULTED", message, parameter: "max_tokens" });
  return most;
}

/** With a budget for thoughts, the model's turn has to begin with thoughts; not so with an effort. */
function allowed(thinking: Thinking, unthinking: boolean, begun: boolean): Thinking {
  if ((!unthinking && !begun) || thinking.thinking?.["type"] !== "enabled") return thinking;
  const message = begun
    ? "Claude can't begin to think in an answer that has begun; the wish was left out"
    : "Claude can't begin to think between a tool call and its result; the wish was left out";
  return { notes: [...thinking.notes, ["reasoning_effort", message]] };
}

function toSampling(
  { sampling }: CompletionRequest,
  model: string,
  { thinking }: Thinking,
  warnings: Warning[],
): Record<string, string | undefined> {
  const { temperature, topP, topK } = sampling ?? {};
  const given: Record<string, number | undefined> = { temperature, top_p: topP, top_k: topK };
  const generation = generationOf(model);
  const drop = (name: string, message: string): void => {
    // 1 is what it is anyway.
    if (given[name] !== undefined && (name === "top_k" || given[name] !== 1)) warnings.push(unsupported(name, message));
    delete given[name];
  };
  if (generation >= UNSAMPLED) {
    for (const name of Object.keys(given)) drop(name, `${model} chooses its tokens by itself; ${name} was left out`);
  } else if (thinking !== undefined) {
    for (const name of ["temperature", "top_k"]) drop(name, `Claude takes no ${name} while it thinks; it was left out`);
    if (topP !== undefined && topP < 0.95)
      drop("top_p", "Claude takes no top_p below 0.95 while it thinks; it was left out");
  } else {
    if (temperature !== undefined && generation > 4) {
      drop("top_p", "Claude takes temperature or top_p, not both; the temperature was sent");
    }
    if (temperature !== undefined && temperature > 1) {
      warnings.push(unsupported("temperature", "Anthropic takes no temperature above 1; 1 was sent"));
      given["temperature"] = 1;
    }
  }
  return Object.fromEntries(
    Object.entries(given).map(([name, value]) => [name, value === undefined ? undefined : JSON.stringify(value)]),
  );
}

/** https://platform.claude.com/docs/en/build-with-claude/structured-outputs */
function toOutputConfig(
  { responseFormat }: CompletionRequest,
  effort: string | undefined,
  warnings: Warning[],
): string | undefined {
  const schema =
    responseFormat?.kind === ResponseFormat_Kind.JSON_SCHEMA
      ? objectText(responseFormat.jsonSchema, "response_format.json_schema.schema")
      : undefined;
  if (schema === undefined && effort === undefined) return undefined;
  if (schema !== undefined && responseFormat?.description) {
    const parameter = "response_format.json_schema.description";
    warnings.push(unsupported(parameter, "Anthropic has no place for a schema's description; it was left out"));
  }
  return jsonText({
    effort: effort && JSON.stringify(effort),
    format: schema && jsonText({ type: '"json_schema"', schema }),
  });
}

function toTools(tools: readonly Tool[], model: string, warnings: Warning[]): string {
  const texts = tools.map((tool, index) => {
    const field = `tools[${index}].function`;
    const strict = tool.strict && generationOf(model) >= STRUCTURED;
    if (tool.strict && !strict) {
      warnings.push(unsupported(`${field}.strict`, `${model} does not hold arguments to the schema`));
    }
    return jsonText({
      name: JSON.stringify(tool.name),
      description: tool.description === "" ? undefined : JSON.stringify(tool.description),
      input_schema: parametersText(tool.parametersJsonSchema, `${field}.parameters`),
      strict: strict ? "true" : undefined,
    });
  });
  return `[${texts.join(",")}]`;
}

/** https://platform.claude.com/docs/en/agents-and-tools/tool-use/implement-tool-use#controlling-claudes-output */
function toToolChoice({ tools, toolChoice, parallelToolCalls }: CompletionRequest): string | undefined {
  if (tools.length === 0) return undefined;
  const one = parallelToolCalls === false ? { disable_parallel_tool_use: true } : {};
  switch (toolChoice?.mode) {
    case ToolChoice_Mode.NONE:
      return '{"type":"none"}';
    case ToolChoice_Mode.REQUIRED:
      return JSON.stringify({ type: "any", ...one });
    case ToolChoice_Mode.NAMED:
      if (toolChoice.name === "") throw invalid("tool_choice.function.name", "a named tool choice needs a name");
      return JSON.stringify({ type: "tool", name: toolChoice.name, ...one });
    case ToolChoice_Mode.AUTO:
      return JSON.stringify({ type: "auto", ...one });
    default:
      return parallelToolCalls === false ? JSON.stringify({ type: "auto", ...one }) : undefined;
  }
}
