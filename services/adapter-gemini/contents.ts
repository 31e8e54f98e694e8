/** A conversation as Gemini's contents: https://ai.google.dev/api/caching#Content */
import {
  base64,
  invalid,
  jsonText,
  misplaced,
  objectText,
  refused,
  textIn,
  toolResultsIn,
} from "../../libs/adapter/index.ts";
import {
  type ContentPart,
  type File,
  type Image,
  type Message,
  Role,
  type ToolCall,
  type ToolResult,
  type Warning,
} from "../../libs/gen/cortex/llm/v1/llm.ts";
import { generationOf } from "./generation.ts";
import { toOwnSignature } from "./signature.ts";
import { unsupported } from "./wording.ts";

/** Two fields of a request, as JSON text. */
interface Contents {
  readonly systemInstruction: string | undefined;
  readonly contents: string;
}

/** One turn. Results of tools are turns of the user's, but stay apart from what the user says. */
interface Turn {
  readonly role: "user" | "model";
  readonly from: Role;
  readonly parts: string[];
}

/**
 * Gemini 3 refuses a call whose signature is missing, and clients of the OpenAI API have no place for one. This is the value
 * that Google gives for calls that did not come from the model: https://ai.google.dev/gemini-api/docs/thought-signatures
 */
const NO_SIGNATURE = "skip_thought_signature_validator";

export function toContents(messages: readonly Message[], model: string, warnings: Warning[]): Contents {
  return new Conversation(messages, model, warnings).write();
}

class Conversation {
  readonly #messages: readonly Message[];
  readonly #model: string;
  readonly #warnings: Warning[];
  readonly #turns: Turn[] = [];
  readonly #system: string[] = [];
  /** The names of the tools that were called, by the call's id. */
  readonly #called = new Map<string, string>();

  constructor(messages: readonly Message[], model: string, warnings: Warning[]) {
    this.#messages = messages;
    this.#model = model;
    this.#warnings = warnings;
  }

  write(): Contents {
    for (const [index, message] of this.#messages.entries()) this.#add(message, `messages[${index}]`);
    if (this.#turns.length === 0) throw refused("messages", "Gemini needs a message besides the system's");
    const instruction = this.#system.length > 0 ? `{"parts":[${this.#system.join(",")}]}` : undefined;
    // Gemma has no system instruction: https://ai.google.dev/gemma/docs/core/prompt-structure
    const { kind, number } = generationOf(this.#model);
    const inTurn = instruction !== undefined && kind === "gemma" && number < 4;
    if (inTurn) this.#turns.unshift({ role: "user", from: Role.USER, parts: this.#system });
    const contents = merged(this.#turns).map(({ role, parts }) => `{"role":"${role}","parts":[${parts.join(",")}]}`);
    return { systemInstruction: inTurn ? undefined : instruction, contents: `[${contents.join(",")}]` };
  }

  #add(message: Message, field: string): void {
    if (message.name !== "") this.#warn(`${field}.name`, "Gemini has no names for speakers");
    const parts: string[] = [];
    switch (message.role) {
      case Role.SYSTEM:
        if (this.#turns.length > 0) {
          this.#warn(field, "Gemini has one system instruction; this message was moved to the beginning");
        }
        for (const [index, part] of message.content.entries()) {
          this.#system.push(toTextPart(part, `${field}.content[${index}]`));
        }
        return;
      case Role.USER:
        for (const [index, part] of message.content.entries()) {
          parts.push(this.#userPart(part, `${field}.content[${index}]`));
        }
        break;
      case Role.ASSISTANT:
        this.#addAnswer(message, field, parts);
        break;
      case Role.TOOL:
        for (const result of toolResultsIn(message, field)) parts.push(this.#toolResult(result, field));
        break;
      default:
        throw invalid(`${field}.role`, "a message needs a role");
    }
    // A turn without parts is refused.
    if (parts.length === 0) parts.push('{"text":""}');
    this.#turns.push({ role: message.role === Role.ASSISTANT ? "model" : "user", from: message.role, parts });
  }

  #userPart(content: ContentPart, field: string): string {
    const { part } = content;
    switch (part?.$case) {
      case "text":
        return toTextPart(content, field);
      case "image":
        return this.#image(part.value, field);
      case "audio":
        return inlineData(part.value.data, part.value.mediaType, `${field}.input_audio`);
      case "file":
        return this.#file(part.value, `${field}.file`);
      default:
        throw misplaced(content, field, "in a user's message");
    }
  }

  #image({ source, mediaType, detail }: Image, field: string): string {
    if (detail !== "" && detail !== "auto") this.#warn(`${field}.image_url.detail`);
    if (source === undefined) throw invalid(`${field}.image_url`, "an image needs a url or data");
    if (source.$case === "data") return inlineData(source.value, mediaType, `${field}.image_url`);
    const urlField = `${field}.image_url.url`;
    // Google fetches it: https://ai.google.dev/gemini-api/docs/file-input-methods. An adapter never does: it could be sent
    // anywhere.
    if (!source.value.startsWith("https://")) throw refused(urlField, "Gemini takes https addresses and data only");
    if (generationOf(this.#model).number < 2.5) throw refused(urlField, `${this.#model} takes pictures as data only`);
    return fileData(source.value, mediaType || typeByName(source.value));
  }

  #file({ source, mediaType, filename }: File, field: string): string {
    if (source === undefined) throw invalid(field, "a file needs data or an id");
    if (source.$case === "data") {
      if (filename !== "") this.#warn(`${field}.filename`, "Gemini has no place for a file's name; it was left out");
      return inlineData(source.value, mediaType, field);
    }
    // What its Files API gives: https://ai.google.dev/api/files
    const id = source.value;
    if (/^files\/[\w-]+$/.test(id)) {
      return fileData(`https://generativelanguage.googleapis.com/v1beta/${id}`, mediaType);
    }
    if (!/^(https|gs):\/\//.test(id)) throw refused(`${field}.file_id`, "this is no file of Gemini's");
    return fileData(id, mediaType);
  }

  #addAnswer(message: Message, field: string, parts: string[]): void {
    const signatures = new PendingSignature();
    let calls = 0;
    for (const [index, content] of message.content.entries()) {
      const { part } = content;
      switch (part?.$case) {
        case "text":
        case "refusal":
          parts.push(jsonText({ text: JSON.stringify(part.value), thoughtSignature: signatures.take() }));
          break;
        case "reasoning": {
          const { text, signature } = part.value;
          if (text !== "") parts.push(jsonText({ text: JSON.stringify(text), thought: "true" }));
          signatures.put(signature, parts);
          break;
        }
        case "toolCall":
          signatures.flush(parts);
          parts.push(this.#toolCall(part.value, `${field}.tool_calls[${calls}].function.arguments`, calls === 0));
          calls += 1;
          break;
        default:
          throw misplaced(content, `${field}.content[${index}]`, "in an answer");
      }
    }
    signatures.flush(parts);
  }

  /** Of several calls at once only the first has a signature. */
  #toolCall({ id, name, argumentsJson, signature }: ToolCall, argumentsField: string, first: boolean): string {
    this.#called.set(id, name);
    const needed = first && generationOf(this.#model).number >= 3;
    const own = toOwnSignature(signature) ?? (needed ? NO_SIGNATURE : undefined);
    const call = jsonText({
      id: id === "" ? undefined : JSON.stringify(id),
      name: JSON.stringify(name),
      // An object here, not its text.
      args: argumentsJson.trim() === "" ? "{}" : objectText(argumentsJson, argumentsField),
    });
    return jsonText({ functionCall: call, thoughtSignature: own && JSON.stringify(own) });
  }

  /** https://ai.google.dev/api/caching#FunctionResponse: what was found under `output`, what went wrong under `error`. */
  #toolResult(result: ToolResult, field: string): string {
    const name = result.name || this.#called.get(result.toolCallId);
    if (name === undefined || name === "") {
      throw invalid(`${field}.tool_call_id`, "no tool call before it has this id");
    }
    const texts: string[] = [];
    const pictures: string[] = [];
    for (const [index, content] of result.content.entries()) {
      const partField = `${field}.content[${index}]`;
      if (content.part?.$case === "image") pictures.push(this.#resultImage(content.part.value, partField));
      else if (content.part?.$case === "text") texts.push(content.part.value);
      else throw invalid(partField, "only text and pictures can stand in a tool's result");
    }
    const response = jsonText({ [result.isError ? "error" : "output"]: toValue(texts.join("\n")) });
    const answer = jsonText({
      id: result.toolCallId === "" ? undefined : JSON.stringify(result.toolCallId),
      name: JSON.stringify(name),
      response,
      parts: pictures.length === 0 ? undefined : `[${pictures.join(",")}]`,
    });
    return jsonText({ functionResponse: answer });
  }

  #resultImage({ source, mediaType }: Image, field: string): string {
    if (source?.$case !== "data" || generationOf(this.#model).number < 3) {
      throw refused(field, "a tool's result takes pictures only as data, and from Gemini 3 on");
    }
    return inlineData(source.value, mediaType, field);
  }

  #warn(parameter: string, message?: string): void {
    this.#warnings.push(unsupported(parameter, message));
  }
}

/**
 * A signature that came with a text, and so goes back with one: with the next, or else with an empty one, as Gemini itself
 * sends it at the end of a stream.
 */
class PendingSignature {
  #json: string | undefined;

  put(signature: string, parts: string[]): void {
    const own = toOwnSignature(signature);
    if (own === undefined) return;
    this.flush(parts);
    this.#json = JSON.stringify(own);
  }

  take(): string | undefined {
    const json = this.#json;
    this.#json = undefined;
    return json;
  }

  flush(parts: string[]): void {
    const thoughtSignature = this.take();
    if (thoughtSignature !== undefined) parts.push(jsonText({ text: '""', thoughtSignature }));
  }
}

/** Turns of the same kind that follow each other become one. */
function merged(turns: readonly Turn[]): readonly Turn[] {
  const result: Turn[] = [];
  for (const turn of turns) {
    const last = result.at(-1);
    if (last?.from === turn.from) last.parts.push(...turn.parts);
    else result.push({ ...turn, parts: [...turn.parts] });
  }
  return result;
}

function toTextPart(part: ContentPart, field: string): string {
  return jsonText({ text: JSON.stringify(textIn(part, field)) });
}

/** A JSON object or array as itself, anything else as a text. */
function toValue(text: string): string {
  if (!/^\s*[[{]/.test(text)) return JSON.stringify(text);
  try {
    JSON.parse(text);
    return text;
  } catch {
    return JSON.stringify(text);
  }
}

function inlineData(data: Uint8Array, mediaType: string, field: string): string {
  if (mediaType === "") throw invalid(field, "data needs a media type");
  return `{"inlineData":{"mimeType":${JSON.stringify(mediaType)},"data":"${base64(data)}"}}`;
}

function fileData(uri: string, mediaType: string | undefined): string {
  return jsonText({ fileData: JSON.stringify({ mimeType: mediaType || undefined, fileUri: uri }) });
}

const TYPES: Readonly<Record<string, string>> = {
  png: "image/png",
  jpg: "image/jpeg",
  jpeg: "image/jpeg",
  webp: "image/webp",
  gif: "image/gif",
  heic: "image/heic",
  heif: "image/heif",
};

/** What a picture's address says of its type; Google finds out by itself when it says nothing. */
function typeByName(url: string): string | undefined {
  const extension = /\.(\w+)$/.exec(URL.parse(url)?.pathname ?? "")?.[1];
  return extension === undefined ? undefined : TYPES[extension.toLowerCase()];
}
