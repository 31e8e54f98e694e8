/**
 * What a recorded answer holds, read without a dialect: the other opinion that a dialect's reading is compared with. It goes
 * by the shape of the JSON alone.
 */

/** Whose answers look like this. `other` is an answer to something that Cortex asks nobody. */
export type Shape = "openai" | "gemini" | "cohere" | "ollama" | "anthropic" | "error" | "other";

/** What is in it. */
export interface Recorded {
  shape: Shape;
  /** What the shape `other` is. */
  what: string;
  text: string;
  reasoning: string;
  refusal: string;
  readonly calls: { readonly key: string; name: string; arguments: string | object }[];
  finishes: number;
  /** There is a count of tokens that is not 0. */
  usage: boolean;
  /** The provider itself says that something went wrong. */
  failed: boolean;
  /** The last thing that its provider always says has come. */
  ended: boolean;
  /** Something in it can't be parsed; what follows was not looked at. */
  broken: boolean;
}

type Json = Readonly<Record<string, unknown>>;

/** The JSON documents of a body: one, or those of a stream. `broken` when one of them can't be parsed. */
export function documentsOf(body: Buffer, stream: boolean): { documents: unknown[]; broken: boolean } {
  const text = body.toString("utf8").replace(/^\ufeff/, "");
  const documents: unknown[] = [];
  for (const piece of stream ? piecesOf(text) : [text]) {
    try {
      documents.push(JSON.parse(piece));
    } catch {
      return { documents, broken: true };
    }
  }
  return { documents, broken: false };
}

/** Where a stream's JSON is: behind `data:`, or a line each, or (Gemini's errors) all that stands between. */
function piecesOf(text: string): string[] {
  if (!/^(data|event|id|retry)?:/m.test(text)) return text.split(/\r?\n/).filter((line) => line.trim() !== "");
  const pieces: string[] = [];
  for (const block of text.split(/\r\n\r\n|\n\n|\r\r/)) {
    const lines = block.split(/\r\n|\n|\r/);
    const data = lines.filter((line) => line.startsWith("data:")).map((line) => line.slice(5).replace(/^ /, ""));
    const stray = lines.filter((line) => line.trim() !== "" && !/^(data|event|id|retry)?:/.test(line));
    if (/^\s*[[{]/.test(stray[0] ?? "")) pieces.push(stray.join("\n"));
    if (data.length > 0 && data.join("\n").trim() !== "[DONE]") pieces.push(data.join("\n"));
  }
  return pieces.filter((piece) => piece.trim() !== "");
}

/** What `what` says of an answer that looks like nothing that is known here. */
export const UNKNOWN = "no answer of a model";

/** Looks at all documents of an answer. */
export function recordedIn(documents: readonly unknown[], broken: boolean, body: Buffer): Recorded {
  const found: Recorded = {
    shape: "other",
    what: UNKNOWN,
    text: "",
    reasoning: "",
    refusal: "",
    calls: [],
    finishes: 0,
    usage: false,
    failed: false,
    ended: false,
    broken,
  };
  for (const document of documents) look(document, found);
  if (found.shape === "openai") found.ended = found.finishes > 0 && (documents.length === 1 || hasDone(body));
  return found;
}

function hasDone(body: Buffer): boolean {
  return /\n?data: ?\[DONE\]\s*$/.test(body.subarray(-200).toString("utf8"));
}

function look(document: unknown, found: Recorded): void {
  const value = Array.isArray(document) ? document[0] : document;
  if (!isJson(value)) return;
  const type = textOf(value["type"]);
  const set = (shape: Shape, what = "") => {
    if (found.shape === "other" || found.shape === "error") Object.assign(found, { shape, what });
  };
  if (value["error"]) {
    found.failed = true;
    if (found.what === UNKNOWN) set("error");
  }
  if (value["object"] === "response" || type.startsWith("response.")) {
    set("other", "Responses API");
    return;
  }
  if (textOf(value["object"]).includes("batch") || "custom_id" in value) {
    set("other", "batch");
    return;
  }
  if (isLegacyCompletion(value)) {
    set("other", "legacy completions");
    return;
  }
  if (Array.isArray(value["results"]) && "relevance_score" in objectOf(value["results"][0])) {
    set("other", "rerank");
    return;
  }
  if (Array.isArray(value["choices"])) {
    set("openai");
    lookOpenAi(value, found);
  } else if ("candidates" in value || "promptFeedback" in value || "usageMetadata" in value) {
    set("gemini");
    lookGemini(value, found);
  } else if (isJson(value["message"]) && ("done" in value || "created_at" in value)) {
    set("ollama");
    lookOllama(value, found);
  } else if (/^(message|content|tool-plan|tool-call|citation)-(start|delta|end)$/.test(type)) {
    set("cohere");
    lookCohereEvent(value, type, found);
  } else if (isJson(value["message"]) && "finish_reason" in value) {
    set("cohere");
    lookCohere(value, found);
  } else if (/^(message|content_block)_(start|delta|stop)$/.test(type) || type === "message") {
    set("anthropic");
    lookAnthropic(value, type, found);
  } else if ("response" in value && "done" in value) set("other", "Ollama's generate");
  else if ((typeof value["message"] === "string" || "detail" in value) && !("models" in value)) {
    found.failed = true;
    set("error");
  }
}

function isLegacyCompletion(value: Json): boolean {
  const choice = Array.isArray(value["choices"]) ? objectOf(value["choices"][0]) : {};
  if (value["object"] === "text_completion") return true;
  return "text" in choice && !("message" in choice) && !("delta" in choice);
}

function lookOpenAi(value: Json, found: Recorded): void {
  for (const [at, choice] of (value["choices"] as unknown[]).filter(isJson).entries()) {
    const said = objectOf(choice["delta"] ?? choice["message"]);
    const number = choice["index"] ?? at;
    lookContent(said["content"], found);
    found.reasoning += textOf(said["reasoning_content"]) || textOf(said["reasoning"]);
    found.refusal += textOf(said["refusal"]);
    for (const [index, call] of arrayOf(said["tool_calls"]).entries()) {
      const { id, index: position = index, function: called } = objectOf(call);
      // Some servers have the same number for all calls, but each call then has its own id and comes whole.
      const known = found.calls.find(({ key }) => key.startsWith(`${number}/${position}/`));
      const another = textOf(id) !== "" && known !== undefined && known.key !== `${number}/${position}/${id}`;
      const key = known === undefined || another ? `${number}/${position}/${textOf(id)}` : known.key;
      addCall(found, key, objectOf(called)["name"], objectOf(called)["arguments"]);
    }
    const legacy = objectOf(said["function_call"]);
    if (textOf(legacy["name"]) !== "") addCall(found, `${number}/function`, legacy["name"], legacy["arguments"]);
    if (textOf(choice["finish_reason"]) !== "") found.finishes += 1;
    if (choice["finish_reason"] === "error" || choice["error"]) found.failed = true;
  }
  lookUsage(value["usage"] ?? objectOf(value["x_groq"])["usage"], found);
  if (objectOf(value["x_groq"])["error"]) found.failed = true;
}

/** A text, or parts of it. */
function lookContent(content: unknown, found: Recorded): void {
  if (typeof content === "string") found.text += content;
  for (const part of arrayOf(content).map(objectOf)) {
    if (part["type"] === "text" || part["type"] === "output_text") found.text += textOf(part["text"]);
    if (part["type"] === "refusal") found.refusal += textOf(part["refusal"]);
    if (part["type"] !== "thinking") continue;
    found.reasoning += textOf(part["thinking"]);
    for (const thought of arrayOf(part["thinking"]).map(objectOf)) found.reasoning += textOf(thought["text"]);
  }
}

function lookGemini(value: Json, found: Recorded): void {
  if (objectOf(value["promptFeedback"])["blockReason"]) found.failed = true;
  for (const candidate of arrayOf(value["candidates"]).map(objectOf)) {
    for (const part of arrayOf(objectOf(candidate["content"])["parts"]).map(objectOf)) {
      if (part["thought"] === true) found.reasoning += textOf(part["text"]);
      else found.text += textOf(part["text"]);
      const { name, args, partialArgs, willContinue } = objectOf(part["functionCall"]);
      const last = found.calls.at(-1);
      // Arguments that come in pieces are put together in a way of their own; that there is a call has to do.
      if (textOf(name) !== "") addCall(found, `${found.calls.length}`, name, partialArgs || willContinue ? "?" : args);
      else if (partialArgs !== undefined && last !== undefined) last.arguments = "?";
    }
    const reason = textOf(candidate["finishReason"]);
    if (reason !== "") {
      found.finishes += 1;
      found.ended = true;
    }
    if (reason !== "" && reason !== "STOP" && reason !== "MAX_TOKENS") found.failed = true;
  }
  lookUsage(value["usageMetadata"], found);
}

function lookOllama(value: Json, found: Recorded): void {
  const message = objectOf(value["message"]);
  found.text += textOf(message["content"]);
  found.reasoning += textOf(message["thinking"]);
  for (const call of arrayOf(message["tool_calls"])) {
    const called = objectOf(objectOf(call)["function"]);
    addCall(found, `${found.calls.length}`, called["name"], called["arguments"]);
  }
  if (value["done"] === true) {
    found.finishes += 1;
    found.ended = true;
  }
  lookUsage({ prompt: value["prompt_eval_count"], output: value["eval_count"] }, found);
}

function lookCohereEvent(value: Json, type: string, found: Recorded): void {
  const delta = objectOf(value["delta"]);
  const message = objectOf(delta["message"]);
  const content = objectOf(message["content"]);
  found.text += textOf(content["text"]);
  found.reasoning += textOf(content["thinking"]);
  if (type === "tool-plan-delta") found.reasoning += textOf(message["tool_plan"]);
  if (type.startsWith("tool-call")) {
    const called = objectOf(objectOf(message["tool_calls"])["function"]);
    if (type !== "tool-call-end") addCall(found, `${value["index"]}`, called["name"], called["arguments"]);
  }
  if (type === "message-end") lookCohereEnd(delta, found);
}

function lookCohere(value: Json, found: Recorded): void {
  const message = objectOf(value["message"]);
  found.reasoning += textOf(message["tool_plan"]);
  lookContent(message["content"], found);
  for (const [index, call] of arrayOf(message["tool_calls"]).map(objectOf).entries()) {
    addCall(found, `${index}`, objectOf(call["function"])["name"], objectOf(call["function"])["arguments"]);
  }
  lookCohereEnd(value, found);
}

function lookCohereEnd(value: Json, found: Recorded): void {
  found.ended = true;
  const reason = textOf(value["finish_reason"]);
  if (reason !== "") found.finishes += 1;
  if (/^(ERROR|TIMEOUT)/.test(reason)) found.failed = true;
  lookUsage(value["usage"], found);
}

function lookAnthropic(value: Json, type: string, found: Recorded): void {
  for (const [at, block] of arrayOf(value["content"]).entries()) lookBlock(objectOf(block), at, found);
  if (type === "content_block_start") lookBlock(objectOf(value["content_block"]), value["index"], found);
  if (type === "message" || type === "message_stop") found.ended = true;
  const delta = objectOf(value["delta"]);
  if (type === "content_block_delta") {
    found.text += textOf(delta["text"]);
    found.reasoning += textOf(delta["thinking"]);
    const open = found.calls.find(({ key }) => key === `${value["index"]}`);
    if (open !== undefined && typeof delta["partial_json"] === "string") {
      open.arguments = `${typeof open.arguments === "string" ? open.arguments : ""}${delta["partial_json"]}`;
    }
  }
  if (textOf(delta["stop_reason"]) !== "" || (type === "message" && textOf(value["stop_reason"]) !== "")) {
    found.finishes += 1;
  }
  // The words of a refusal, which are not the model's own.
  const details = objectOf(delta["stop_details"] ?? value["stop_details"]);
  if (details["type"] === "refusal") found.refusal += textOf(details["explanation"]);
  lookUsage(value["usage"] ?? objectOf(value["message"])["usage"], found);
}

function lookBlock(block: Json, index: unknown, found: Recorded): void {
  if (block["type"] === "text") found.text += textOf(block["text"]);
  if (block["type"] === "thinking") found.reasoning += textOf(block["thinking"]);
  if (block["type"] === "tool_use") addCall(found, `${index}`, block["name"], block["input"]);
}

function addCall(found: Recorded, key: string, name: unknown, given: unknown): void {
  const known = found.calls.find((call) => call.key === key);
  const argumentsGiven = typeof given === "string" ? given : isJson(given) ? given : "";
  if (known === undefined) found.calls.push({ key, name: textOf(name), arguments: argumentsGiven });
  else if (typeof known.arguments === "string" && typeof argumentsGiven === "string") {
    known.name ||= textOf(name);
    known.arguments += argumentsGiven;
  }
}

/** A count of what was read or written, whatever it is called, that is not 0. */
function lookUsage(usage: unknown, found: Recorded): void {
  const counted = /"(prompt|input|output|completion|candidates)\w*":[1-9]/i;
  if (counted.test(JSON.stringify(usage ?? null))) found.usage = true;
}

/** The lengths of all vectors in a document. */
export function vectorLengths(document: unknown): number[] {
  if (Array.isArray(document)) {
    if (document.length > 0 && document.every((value) => typeof value === "number")) return [document.length];
    return document.flatMap(vectorLengths);
  }
  if (!isJson(document)) return [];
  return Object.entries(document).flatMap(([name, value]) => {
    // Packed floats, four bytes each.
    if (name === "embedding" && typeof value === "string") return [Buffer.from(value, "base64").length / 4];
    return vectorLengths(value);
  });
}

/** How many models a document lists; undefined when it is no list. */
export function listedModels(document: unknown): number | undefined {
  const value = objectOf(document);
  const list = [document, value["data"], value["models"]].find(Array.isArray);
  return list?.length;
}

/** Whose error, vectors or list of models it looks like, where nothing else tells. */
export function guessProvider(document: unknown): string | undefined {
  const value = objectOf(Array.isArray(document) ? document[0] : document);
  const { error, message, type, embeddings, models, data } = value;
  const [first] = [models, data, embeddings].find(Array.isArray) ?? [];
  const entry = objectOf(first);
  if (Array.isArray(embeddings)) return "values" in entry ? "gemini" : "ollama";
  if (isJson(embeddings)) return "cohere";
  if (Array.isArray(models)) {
    if ("endpoints" in entry) return "cohere";
    return "supportedGenerationMethods" in entry ? "gemini" : "digest" in entry ? "ollama" : undefined;
  }
  if (Array.isArray(data)) return entry["type"] === "model" ? "anthropic" : "openai";
  if (type === "error" && isJson(error)) return "anthropic";
  if ("detail" in value) return "openai";
  if (isJson(error)) return typeof error["status"] === "string" && "code" in error ? "gemini" : "openai";
  if (typeof error === "string") return "code" in value ? "openai" : "ollama";
  return typeof message === "string" && "id" in value ? "cohere" : undefined;
}

/** The sentence that an error has, wherever it stands. */
export function errorSentence(document: unknown): string {
  const value = objectOf(Array.isArray(document) ? document[0] : document);
  const error = value["error"];
  return textOf(objectOf(error)["message"]) || textOf(value["message"]) || textOf(error) || textOf(value["detail"]);
}

export function isJson(value: unknown): value is Json {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

export function objectOf(value: unknown): Json {
  return isJson(value) ? value : {};
}

export function textOf(value: unknown): string {
  return typeof value === "string" ? value : "";
}

function arrayOf(value: unknown): readonly unknown[] {
  return Array.isArray(value) ? value : [];
}
