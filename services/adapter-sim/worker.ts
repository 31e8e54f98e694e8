/**
 * A worker without a provider: seeded text at a set pace, for demonstrations and for load. The same request always gets the
 * same answer, and every answer says that no model wrote it. A request that ends in the beginning of its answer gets the rest.
 */
import { createHash } from "node:crypto";
import { setTimeout as delay } from "node:timers/promises";
import {
  ActiveRequests,
  begunAnswer,
  propertiesOf,
  type Worker,
  type WorkerDependencies,
  type WorkerSettings,
} from "../../libs/adapter/index.ts";
import {
  ToolChoice_Mode as ChoiceMode,
  type Completion,
  type CompletionRequest,
  type ContentPart,
  FinishReason,
  ResponseFormat_Kind as FormatKind,
  Message,
  type Part,
  Role,
  type Served,
  type Usage,
  type Warning,
} from "../../libs/gen/cortex/llm/v1/llm.ts";
import { BreakerState, Health, type WorkerInfo } from "../../libs/gen/cortex/provider/v1/provider.ts";
import { abortReason, type Call, RpcError } from "../../libs/rpc/index.ts";
import { ATTRIBUTE, type Attributes, SPAN } from "../../libs/telemetry/index.ts";

/** The provider's name in configuration. */
export const SIM = "sim";

/** How a simulated worker paces its answers, from `options` in its settings. */
interface Pace {
  readonly firstTokenMs: number;
  readonly tokensPerSecond: number;
  readonly tokens: number;
}

const DEFAULT_PACE: Pace = { firstTokenMs: 120, tokensPerSecond: 60, tokens: 60 };
/** From, to, and whether it has to be a whole number. */
const PACE_BOUNDS: Readonly<Record<keyof Pace, readonly [number, number, boolean]>> = {
  firstTokenMs: [0, 3_600_000, false],
  tokensPerSecond: [0.001, 1_000_000, false],
  tokens: [1, 1_000_000, true],
};
const EMBEDDING_DIMENSIONS = 256;
/** The most that any provider gives; without a bound one request could ask for all of the node's memory. */
const EMBEDDING_DIMENSIONS_MAX = 4_096;

const OPENING = "This is a simulation: no language model wrote this answer. ";
const WORDS =
  "a quiet river carries small boats past the old mill while lanterns sway and somebody counts the stars again slowly until every window has its own light and the road home is easy to find even for those who left in a hurry with nothing but a map of the sea".split(
    " ",
  );

/** Makes a simulated worker. Throws INVALID_REQUEST for options that it can't keep. */
export function createSimWorker(settings: WorkerSettings, { tracer, clock = Date.now }: WorkerDependencies): Worker {
  const pace = readPace(settings);
  const models = settings.models ?? [SIM];
  const modelProperties = propertiesOf(settings, models, () => ({ capabilities: ["prefill"] }));
  const active = new ActiveRequests(settings.limits?.concurrent ?? 0);

  function served(request: CompletionRequest | { model: string }, seed: Buffer): Served {
    return {
      id: `sim-${seed.toString("hex", 0, 12)}`,
      model: request.model,
      worker: settings.name,
      provider: SIM,
      createdAtS: Math.floor(clock() / 1_000),
      systemFingerprint: "",
    };
  }

  const common: Attributes = {
    [ATTRIBUTE.operation]: "chat",
    [ATTRIBUTE.provider]: SIM,
    [ATTRIBUTE.worker]: settings.name,
  };

  async function* speak(request: CompletionRequest, streamed: boolean, call: Call) {
    active.check();
    const answer = simulate(request, pace.tokens);
    const span = tracer.startSpan(SPAN.provider("chat", request.model), call.trace, "client", common);
    span.set(ATTRIBUTE.requestModel, request.model);
    span.set(ATTRIBUTE.requestStream, streamed);
    active.begin();
    try {
      const head: Part[] = [{ part: { $case: "served", value: served(request, answer.seed) } }];
      for (const warning of answer.warnings) head.push({ part: { $case: "warning", value: warning } });
      await pause(pace.firstTokenMs, call);
      const gapMs = 1_000 / pace.tokensPerSecond;
      for (const [index, token] of answer.tokens.entries()) {
        const text: Part = { part: { $case: "text", value: { text: token, choice: 0, logprobs: [] } } };
        yield { key: "", parts: index === 0 ? [...head, text] : [text] };
        await pause(gapMs, call);
      }
      const end: Part[] = [
        { part: { $case: "finish", value: { choice: 0, reason: answer.finishReason } } },
        { part: { $case: "usage", value: answer.usage } },
      ];
      yield { key: "", parts: answer.tokens.length === 0 ? [...head, ...end] : end };
      span.set(ATTRIBUTE.inputTokens, answer.usage.inputTokens);
      span.set(ATTRIBUTE.outputTokens, answer.usage.outputTokens);
    } catch (thrown) {
      const error = RpcError.from(thrown);
      span.fail(error.reason, error.message);
      throw error;
    } finally {
      active.end();
      span.end();
    }
  }

  return {
    name: settings.name,
    info: (): WorkerInfo => ({
      ...(active.full ? { reason: "WORKER_BUSY", message: active.whyFull() } : { reason: "", message: "" }),
      name: settings.name,
      provider: SIM,
      priority: settings.priority ?? 1_000,
      baseUrl: "",
      models,
      capabilities: settings.capabilities ?? [],
      health: Health.AVAILABLE,
      breaker: BreakerState.CLOSED,
      pool: undefined,
      activeRequests: active.count,
      concurrentRequestsMax: active.max,
      simulated: true,
      keys: [],
      weight: settings.weight ?? 1,
      modelProperties,
      draining: false,
      tokensPerSecondMin: settings.limits?.tokensPerSecondMin ?? 0,
    }),
    checkHealth: async () => ({ health: Health.AVAILABLE, latencyMs: 0, message: "", ageMs: 0 }),
    async complete(request, call) {
      const answer = simulate(request, pace.tokens);
      for await (const _ of speak(request, false, call));
      const text = answer.tokens.join("");
      const completion: Completion = {
        served: served(request, answer.seed),
        choices: [
          {
            index: 0,
            message: { role: Role.ASSISTANT, name: "", content: [{ part: { $case: "text", value: text } }] },
            finishReason: answer.finishReason,
            logprobs: [],
          },
        ],
        usage: answer.usage,
        warnings: answer.warnings,
      };
      return { completion, key: "" };
    },
    // It has no breaker and no key: a last resort is a request like any other.
    stream: (request, call) => speak(request, true, call),
    async embed(request) {
      const { dimensions = EMBEDDING_DIMENSIONS } = request;
      if (dimensions < 1 || dimensions > EMBEDDING_DIMENSIONS_MAX) {
        throw unsupported("dimensions", `has vectors of 1 to ${EMBEDDING_DIMENSIONS_MAX}`);
      }
      const embedding = {
        served: served(request, seedOf(request.inputs)),
        embeddings: request.inputs.map((input) => ({ values: vectorOf(input, dimensions) })),
        usage: { inputTokens: estimate(...request.inputs) },
        warnings: [SIMULATED],
      };
      return { embedding, key: "" };
    },
    listModels: async () => models.map((id) => ({ id, workers: [], createdAtS: 0, ownedBy: SIM })),
    onChange: () => () => {},
    onLoad: (listener) => active.onChange(listener),
    close: async () => {},
  };
}

const SIMULATED: Warning = {
  code: "SIMULATED",
  message: "no language model wrote this answer: the worker is a simulation",
  parameter: "",
};

interface Answer {
  readonly seed: Buffer;
  readonly tokens: readonly string[];
  readonly finishReason: FinishReason;
  readonly usage: Usage;
  readonly warnings: readonly Warning[];
}

/** The whole answer, before it is paced. Refuses what would need a mind; warns of what it leaves out. */
function simulate(request: CompletionRequest, tokens: number): Answer {
  const mode = request.toolChoice?.mode;
  if (mode === ChoiceMode.REQUIRED || mode === ChoiceMode.NAMED) throw unsupported("tool_choice", "can't call tools");
  if (request.responseFormat?.kind === FormatKind.JSON_SCHEMA) {
    throw unsupported("response_format", "can't follow a JSON schema");
  }
  if ((request.choiceCount ?? 1) > 1) throw unsupported("n", "gives one answer at a time");
  const warnings = [SIMULATED];
  if (request.tools.length > 0) warnings.push(leftOut("tools", "a simulation calls no tools"));
  if (request.logprobs) warnings.push(leftOut("logprobs", "a simulation has no probabilities"));
  if ((request.sampling?.stop ?? []).length > 0) warnings.push(leftOut("stop", "a simulation does not look for it"));
  const begun = begunAnswer(request.messages);
  const asked = begun === undefined ? request.messages : request.messages.slice(0, -1);
  const seed = seedOf([...asked.map(bytesOf), String(request.sampling?.seed ?? "")]);
  const json = request.responseFormat?.kind === FormatKind.JSON_OBJECT;
  const all = after(begun ?? "", json ? ['{"simulation":', " true}"] : textTokens(seed, tokens));
  const limit = Math.min(all.length, request.maxOutputTokens ?? all.length);
  const chosen = all.slice(0, limit);
  return {
    seed,
    tokens: chosen,
    finishReason: limit < all.length ? FinishReason.LENGTH : FinishReason.STOP,
    usage: {
      inputTokens: estimate(...request.messages.map(({ content }) => textOf(content))),
      outputTokens: chosen.length,
    },
    warnings,
  };
}

function leftOut(parameter: string, message: string): Warning {
  return { code: "UNSUPPORTED_PARAMETER", message, parameter };
}

function unsupported(parameter: string, what: string): RpcError {
  return new RpcError("UNSUPPORTED_PARAMETER", `${parameter}: the simulation ${what}`, { field: parameter });
}

/** What of the answer comes after as many characters as it has begun with, whether they are its own or another model's. */
function after(begun: string, tokens: readonly string[]): string[] {
  let skipped = begun.length;
  return tokens.flatMap((token) => {
    const rest = token.slice(skipped);
    skipped = Math.max(skipped - token.length, 0);
    return rest === "" ? [] : [rest];
  });
}

function textTokens(seed: Buffer, count: number): string[] {
  const opening = OPENING.split(/(?<= )/);
  const tokens = opening.slice(0, count);
  for (let index = tokens.length; index < count; index++) {
    const word = WORDS[(seed[index % seed.length]! + index * 7) % WORDS.length]!;
    tokens.push(index === count - 1 ? `${word}.` : `${word} `);
  }
  return tokens;
}

function seedOf(pieces: readonly (string | Uint8Array)[]): Buffer {
  const hash = createHash("sha256");
  for (const piece of pieces) hash.update(piece).update("\0");
  return hash.digest();
}

function bytesOf(message: Message): Uint8Array {
  return Message.encode(message).finish();
}

function textOf(content: readonly ContentPart[]): string {
  let text = "";
  for (const { part } of content) {
    if (part?.$case === "text") text += part.value;
    else if (part?.$case === "toolResult") text += textOf(part.value.content);
  }
  return text;
}

function vectorOf(input: string, dimensions: number): number[] {
  const seed = seedOf([input]);
  const values = Array.from({ length: dimensions }, (_, index) =>
    Math.sin(seed.readUInt16LE((index * 2) % 30) + index),
  );
  const length = Math.hypot(...values);
  return values.map((value) => value / length);
}

/** Four characters a token, as everywhere where nothing better is known. */
function estimate(...texts: readonly string[]): number {
  return Math.ceil(texts.reduce((sum, text) => sum + text.length, 0) / 4);
}

async function pause(ms: number, { signal }: Call): Promise<void> {
  if (signal.aborted) throw abortReason(signal);
  if (ms <= 0) return;
  try {
    await delay(ms, undefined, { signal });
  } catch {
    throw abortReason(signal);
  }
}

function readPace({ options = {} }: WorkerSettings): Pace {
  const pace: { -readonly [K in keyof Pace]: Pace[K] } = { ...DEFAULT_PACE };
  for (const [key, value] of Object.entries(options)) {
    const field = `options.${key}`;
    if (!isPace(key)) {
      const known = Object.keys(DEFAULT_PACE).join(", ");
      throw new RpcError("INVALID_REQUEST", `${field} is not one of ${known}`, { field });
    }
    const [min, max, whole] = PACE_BOUNDS[key];
    if (typeof value !== "number" || !(value >= min && value <= max) || (whole && !Number.isInteger(value))) {
      const wanted = `a ${whole ? "whole " : ""}number from ${min} to ${max}`;
      throw new RpcError("INVALID_REQUEST", `${field} has to be ${wanted}`, { field });
    }
    pace[key] = value;
  }
  return pace;
}

function isPace(key: string): key is keyof Pace {
  return Object.hasOwn(DEFAULT_PACE, key);
}
