/** Ollama, simulated to the byte: https://docs.ollama.com/api. Compact JSON in the order of the server's own structs. */
import { type Behaviour, splitModel } from "./behaviour.ts";
import { answer, countWords, embed, type Question, type Said } from "./model.ts";
import { bearerOf, functionTools, isJson, type Json, modelOf, turnsOf } from "./request.ts";
import {
  inHalves,
  type Provider,
  type ProviderOptions,
  type Reply,
  type SimulatedRequest,
  type Simulator,
  startSimulator,
} from "./simulator.ts";

/** What a simulated Ollama can be told; keys are its cloud's. */
export type OllamaSimulatorOptions = ProviderOptions;

/** Starts one. */
export function startOllamaSimulator(options: OllamaSimulatorOptions = {}): Promise<Simulator> {
  return startSimulator(new Ollama(options), options);
}

const DIMENSIONS = 8;
const VERSION = "0.13.5";
const JSON_TYPE = { "content-type": "application/json; charset=utf-8" };

class Ollama implements Provider {
  readonly basePath = "";
  readonly #options: OllamaSimulatorOptions;
  #count = 0;

  constructor(options: OllamaSimulatorOptions) {
    this.#options = options;
  }

  isGeneration(request: SimulatedRequest): boolean {
    return request.method === "POST";
  }

  behaviourOf(request: SimulatedRequest): Behaviour | undefined {
    return splitModel(modelOf(request)).behaviour;
  }

  failure(status: number): Reply {
    return failure(status, FAILURES[status] ?? "llama runner process has terminated: exit status 2");
  }

  reply(request: SimulatedRequest, behaviour: Behaviour): Reply {
    const { apiKeys, models } = this.#options;
    const key = bearerOf(request);
    if (apiKeys !== undefined && (key === undefined || !apiKeys.includes(key))) return failure(401, "unauthorized");
    if (request.method === "GET" || request.method === "HEAD") return this.#look(request.path);
    if (!isJson(request.body)) return failure(400, "missing request body");
    const { model } = splitModel(modelOf(request));
    if (model === "") return failure(400, "model is required");
    if (models !== undefined && !models.includes(model)) return failure(404, `model '${model}' not found`);
    if (request.path === "/api/chat") return this.#chat(request.body, model, behaviour);
    if (request.path === "/api/embed") return embeddings(request.body, model);
    return plain(404, "404 page not found");
  }

  #look(path: string): Reply {
    switch (path) {
      case "/":
        return plain(200, "Ollama is running");
      case "/api/version":
        return whole({ version: VERSION });
      case "/api/tags":
        return whole({ models: (this.#options.models ?? ["llama3.2:latest"]).map(toTag) });
      default:
        return plain(404, "404 page not found");
    }
  }

  #chat(body: Json, model: string, behaviour: Behaviour): Reply {
    const question = toQuestion(body);
    const said = answer(question, behaviour);
    this.#count += 1;
    const stamp = { model, created_at: new Date().toISOString().replace("Z", "021Z") };
    const thinking = body["think"] !== undefined && body["think"] !== false ? "Let me think." : "";
    const calls = said.calls.map(({ name, arguments: given }, index) => ({
      id: `call_${(this.#count * 1296 + index).toString(36).padStart(8, "s")}`,
      function: { index, name, arguments: given },
    }));
    const last = { done: true, done_reason: said.reason === "length" ? "length" : "stop" };
    const logprobs = (tokens: readonly string[]) => (body["logprobs"] === true ? { logprobs: toLogprobs(tokens) } : {});
    if (body["stream"] === false) {
      const content = said.tokens.join("");
      const message = {
        role: "assistant",
        content,
        ...(thinking && { thinking }),
        ...(calls.length > 0 && { tool_calls: calls }),
      };
      return whole({ ...stamp, message, ...last, ...logprobs(said.tokens), ...metrics(said) });
    }
    const line = (message: Json, rest: Json): string =>
      `${JSON.stringify({ ...stamp, message: { role: "assistant", content: "", ...message }, ...rest })}\n`;
    const thoughts = (thinking.match(/\s*\S+/g) ?? []).map((token) => line({ thinking: token }, { done: false }));
    const texts = said.tokens.map((token) => line({ content: token }, { done: false, ...logprobs([token]) }));
    const called = calls.length > 0 ? [line({ tool_calls: calls }, { done: false })] : [];
    return {
      status: 200,
      headers: { "content-type": "application/x-ndjson" },
      head: [],
      tokens: [...thoughts, ...texts, ...called],
      tail: [line({}, { ...last, ...metrics(said) })],
      error: `${JSON.stringify({ error: "an error was encountered while running the model: unexpected EOF" })}\n`,
      malformed: `{"model":"${model}","created_at":"2025-11-2\n`,
    };
  }
}

/** As the server words them: https://docs.ollama.com/api/errors */
const FAILURES: Readonly<Record<number, string>> = {
  400: "missing request body",
  401: "unauthorized",
  403: "ollama cloud is disabled",
  404: "model 'none' not found",
  429: "rate limit exceeded",
  // Two blanks: so it is written there.
  503: "server busy, please try again.  maximum pending requests exceeded",
};

function failure(status: number, error: string): Reply {
  return { ...whole({ error }), status };
}

function plain(status: number, text: string): Reply {
  const headers = { "content-type": "text/plain; charset=utf-8" };
  return { ...whole({}), status, headers, tokens: [text], tail: [] };
}

/** Without a line end, unlike most. */
function whole(body: Json): Reply {
  return {
    status: 200,
    headers: JSON_TYPE,
    ...inHalves(JSON.stringify(body)),
    error: JSON.stringify({ error: "an error was encountered while running the model: unexpected EOF" }),
    malformed: "}{",
  };
}

/** In nanoseconds. */
function metrics(said: Said): Json {
  return {
    total_duration: 174_560_334,
    load_duration: 101_397_084,
    prompt_eval_count: said.usage.input,
    prompt_eval_duration: 13_074_791,
    eval_count: said.usage.output,
    eval_duration: 52_479_709,
  };
}

function toLogprobs(tokens: readonly string[]): Json[] {
  return tokens.map((token) => ({ token, logprob: -0.125, bytes: [...Buffer.from(token)] }));
}

function toTag(model: string): Json {
  return {
    name: model,
    model,
    modified_at: "2025-05-04T17:37:44.706015396-07:00",
    size: 2_019_393_189,
    digest: "51b0a7e0d51b0a7e0d51b0a7e0d51b0a7e0d51b0a7e0d51b0a7e0d51b0a7e0d5",
    details: {
      parent_model: "",
      format: "gguf",
      family: "llama",
      families: ["llama"],
      parameter_size: "3.2B",
      quantization_level: "Q4_K_M",
    },
  };
}

function embeddings(body: Json, model: string): Reply {
  const inputs = Array.isArray(body["input"]) ? body["input"] : [body["input"]];
  const dimensions = Number(body["dimensions"] ?? DIMENSIONS);
  return whole({
    model,
    embeddings: inputs.map((input) => embed(String(input), dimensions)),
    total_duration: 14_143_917,
    load_duration: 1_019_500,
    prompt_eval_count: inputs.reduce((sum, input) => sum + countWords(String(input)), 0),
  });
}

function toQuestion(body: Json): Question {
  const messages = (Array.isArray(body["messages"]) ? body["messages"] : []).filter(isJson);
  const options = isJson(body["options"]) ? body["options"] : {};
  const format = body["format"];
  const max = options["num_predict"];
  return {
    turns: turnsOf(messages),
    words: messages.reduce((sum, message) => sum + countWords(String(message["content"] ?? "")), 0),
    tools: functionTools(body["tools"]),
    toolWanted: false,
    afterTool: messages.at(-1)?.["role"] === "tool",
    json: format === "json" ? { schema: undefined } : isJson(format) ? { schema: format } : undefined,
    tokensMax: typeof max === "number" && max >= 0 ? max : undefined,
    stop: Array.isArray(options["stop"]) ? options["stop"].map(String) : [],
  };
}
