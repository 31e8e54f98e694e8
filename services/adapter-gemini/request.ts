/** Cortex's requests in the words of the Gemini API: https://ai.google.dev/api/generate-content */
import { invalid, jsonText, objectText, type ProviderRequest, refused } from "../../libs/adapter/index.ts";
import {
  type CompletionRequest,
  type EmbeddingRequest,
  type ResponseFormat,
  ResponseFormat_Kind,
  type Tool,
  type ToolChoice,
  ToolChoice_Mode,
  type Warning,
} from "../../libs/gen/cortex/llm/v1/llm.ts";
import { toContents } from "./contents.ts";
import { generationOf, toThinking } from "./generation.ts";
import { unsupported } from "./wording.ts";

/** https://ai.google.dev/api/generate-content#generationconfig */
const STOP_SEQUENCES_MAX = 5;
const SEED_MAX = 2 ** 31 - 1;

/** The request for `POST /models/MODEL:generateContent` and `:streamGenerateContent`. */
export function toChatRequest(request: CompletionRequest, model: string, stream: boolean): ProviderRequest {
  refuse(request, model);
  const warnings = toWarnings(request);
  const { systemInstruction, contents } = toContents(request.messages, model, warnings);
  const body = jsonText({
    contents,
    systemInstruction,
    tools: request.tools.length > 0 ? toTools(request.tools) : undefined,
    toolConfig: toToolConfig(request, model, warnings),
    generationConfig: toGenerationConfig(request, model, warnings),
  });
  // Without alt=sse the stream would be one JSON array.
  const method = stream ? "streamGenerateContent?alt=sse" : "generateContent";
  return { method: "POST", path: `/${resourceOf(model)}:${method}`, body, warnings };
}

/** The request for `POST /models/MODEL:batchEmbedContents`: https://ai.google.dev/api/embeddings */
export function toEmbeddingRequest(request: EmbeddingRequest, model: string): ProviderRequest {
  const warnings = Object.keys(request.extraJson).map((name) => unsupported(name));
  if (request.user !== "") warnings.push(unsupported("user"));
  const resource = resourceOf(model);
  const requests = request.inputs.map((text) => ({
    model: resource,
    content: { parts: [{ text }] },
    outputDimensionality: request.dimensions,
  }));
  return { method: "POST", path: `/${resource}:batchEmbedContents`, body: JSON.stringify({ requests }), warnings };
}

/** The model's name in a path. It may come from a client, so nothing in it may lead elsewhere. */
function resourceOf(model: string): string {
  const [, collection = "models", name = model] = /^(models|tunedModels)\/(.*)$/s.exec(model) ?? [];
  return `${collection}/${encodeURIComponent(name.toWellFormed())}`;
}

/** What changes the answer's quality or bookkeeping, but not what it is. */
function toWarnings(request: CompletionRequest): Warning[] {
  const warnings = Object.keys(request.extraJson).map((name) => unsupported(name));
  if (Object.keys(request.sampling?.logitBias ?? {}).length > 0) warnings.push(unsupported("logit_bias"));
  if (request.user !== "") warnings.push(unsupported("user"));
  if (request.parallelToolCalls === false && request.tools.length > 0) {
    warnings.push(unsupported("parallel_tool_calls", "Gemini can't be kept from calling several tools at once"));
  }
  return warnings;
}

/** What the caller would miss in the answer; another provider may have it. */
function refuse(request: CompletionRequest, model: string): void {
  const { sampling, responseFormat, tools, toolChoice } = request;
  if ((sampling?.stop.length ?? 0) > STOP_SEQUENCES_MAX) {
    throw refused("stop", `Gemini takes at most ${STOP_SEQUENCES_MAX} sequences`);
  }
  if (sampling?.seed !== undefined && Math.abs(sampling.seed) > SEED_MAX) {
    throw refused("seed", "Gemini takes a 32-bit number");
  }
  const json = responseFormat !== undefined && responseFormat.kind >= ResponseFormat_Kind.JSON_OBJECT;
  const called = tools.length > 0 && toolChoice?.mode !== ToolChoice_Mode.NONE;
  // https://ai.google.dev/gemini-api/docs/structured-output: together from Gemini 3 on.
  if (json && called && generationOf(model).number < 3) {
    throw refused("response_format", `${model} can't answer in JSON while it has tools`);
  }
}

function toGenerationConfig(request: CompletionRequest, model: string, warnings: Warning[]): string | undefined {
  const { sampling, responseFormat } = request;
  const thinking = toThinking(request.reasoning, model);
  for (const [parameter, message] of thinking.notes) warnings.push(unsupported(parameter, message));
  const values = {
    temperature: sampling?.temperature,
    topP: sampling?.topP,
    topK: sampling?.topK,
    maxOutputTokens: request.maxOutputTokens,
    stopSequences: sampling?.stop.length ? sampling.stop : undefined,
    candidateCount: request.choiceCount === 1 ? undefined : request.choiceCount,
    seed: sampling?.seed,
    presencePenalty: sampling?.presencePenalty,
    frequencyPenalty: sampling?.frequencyPenalty,
    responseLogprobs: request.logprobs || undefined,
    logprobs: request.logprobs ? request.topLogprobs : undefined,
    thinkingConfig: thinking.config,
  };
  const texts: Record<string, string | undefined> = { ...toFormat(responseFormat, warnings) };
  for (const [name, value] of Object.entries(values)) if (value !== undefined) texts[name] = JSON.stringify(value);
  return Object.values(texts).some((text) => text !== undefined) ? jsonText(texts) : undefined;
}

/**
 * Schemas travel as JSON Schema, in the fields that the API has for it. Its older `responseSchema` and `parameters` are a
 * subset of OpenAPI that refuses `additionalProperties` and `$ref`, so a schema would have to be altered for them.
 */
function toFormat(format: ResponseFormat | undefined, warnings: Warning[]): Record<string, string | undefined> {
  switch (format?.kind) {
    case ResponseFormat_Kind.JSON_OBJECT:
      return { responseMimeType: '"application/json"' };
    case ResponseFormat_Kind.JSON_SCHEMA: {
      const parameter = "response_format.json_schema.description";
      if (format.description !== "") {
        warnings.push(unsupported(parameter, "Gemini has no place for a schema's description; it was left out"));
      }
      const schema = objectText(format.jsonSchema, "response_format.json_schema.schema");
      return { responseMimeType: '"application/json"', responseJsonSchema: schema };
    }
    default:
      return {};
  }
}

function toTools(tools: readonly Tool[]): string {
  const declarations = tools.map((tool, index) =>
    jsonText({
      name: JSON.stringify(tool.name),
      description: tool.description === "" ? undefined : JSON.stringify(tool.description),
      parametersJsonSchema:
        tool.parametersJsonSchema === ""
          ? undefined
          : objectText(tool.parametersJsonSchema, `tools[${index}].function.parameters`),
    }),
  );
  return `[{"functionDeclarations":[${declarations.join(",")}]}]`;
}

/** Without tools even the mode NONE is refused. */
function toToolConfig(
  { tools, toolChoice }: CompletionRequest,
  model: string,
  warnings: Warning[],
): string | undefined {
  if (tools.length === 0) return undefined;
  const mode = toMode(toolChoice, tools, model, warnings);
  if (mode === undefined) return undefined;
  const names = toolChoice?.mode === ToolChoice_Mode.NAMED ? [toolChoice.name] : undefined;
  return JSON.stringify({ functionCallingConfig: { mode, allowedFunctionNames: names } });
}

/** https://ai.google.dev/gemini-api/docs/function-calling#function_calling_modes */
function toMode(
  choice: ToolChoice | undefined,
  tools: readonly Tool[],
  model: string,
  warnings: Warning[],
): string | undefined {
  switch (choice?.mode) {
    case ToolChoice_Mode.NONE:
      return "NONE";
    // Arguments are held to the schema in this mode.
    case ToolChoice_Mode.REQUIRED:
      return "ANY";
    case ToolChoice_Mode.NAMED:
      if (choice.name === "") throw invalid("tool_choice.function.name", "a named tool choice needs a name");
      return "ANY";
    default: {
      const strict = tools.findIndex((tool) => tool.strict);
      if (strict === -1) return choice?.mode === ToolChoice_Mode.AUTO ? "AUTO" : undefined;
      if (generationOf(model).number >= 2.5) return "VALIDATED";
      const parameter = `tools[${strict}].function.strict`;
      warnings.push(unsupported(parameter, `${model} does not hold arguments to the schema`));
      return "AUTO";
    }
  }
}
