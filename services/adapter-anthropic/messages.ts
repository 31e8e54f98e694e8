/** A conversation as Anthropic's messages: https://platform.claude.com/docs/en/api/messages/create */
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
import { toOwnSignature } from "./signature.ts";
import { unsupported } from "./wording.ts";

/** Two fields of a request, as JSON text, and what they need. */
export interface Conversation {
  readonly system: string | undefined;
  readonly messages: string;
  /** It refers to a file of the Files API, which has to be asked for. */
  readonly files: boolean;
  /** The model is in a loop of tool calls that began without thoughts it would recognise. */
  readonly unthinking: boolean;
  /** It ends in the beginning of the answer, which the model is to go on with. */
  readonly begun: boolean;
}

interface Turn {
  readonly role: "user" | "assistant";
  readonly blocks: string[];
}

export function toConversation(messages: readonly Message[], warnings: Warning[]): Conversation {
  return new Writer(messages, warnings).write();
}

class Writer {
  readonly #messages: readonly Message[];
  readonly #warnings: Warning[];
  readonly #turns: Turn[] = [];
  readonly #system: string[] = [];
  readonly #ids = new ToolIds();
  #files = false;
  /** Since the user last spoke the model has called tools. */
  #inLoop = false;
  #unthinking = false;
  #lastRole: Role = Role.UNSPECIFIED;

  constructor(messages: readonly Message[], warnings: Warning[]) {
    this.#messages = messages;
    this.#warnings = warnings;
  }

  write(): Conversation {
    for (const [index, message] of this.#messages.entries()) this.#add(message, `messages[${index}]`);
    if (this.#turns[0]?.role !== "user") throw refused("messages", "Anthropic needs the user to speak first");
    this.#trimEnd();
    const turns = this.#turns.map(({ role, blocks }) => `{"role":"${role}","content":[${blocks.join(",")}]}`);
    return {
      system: this.#system.length > 0 ? `[${this.#system.join(",")}]` : undefined,
      messages: `[${turns.join(",")}]`,
      files: this.#files,
      unthinking: this.#inLoop && this.#unthinking,
      begun: this.#turns.at(-1)?.role === "assistant",
    };
  }

  #add(message: Message, field: string): void {
    if (message.name !== "") this.#warn(`${field}.name`, "Anthropic has no names for speakers");
    switch (message.role) {
      case Role.SYSTEM:
        if (this.#turns.length > 0) {
          this.#warn(field, "Anthropic has one system prompt; this message was moved to the beginning");
        }
        this.#system.push(...each(message.content, field, textBlock));
        break;
      case Role.USER:
        this.#turn(
          "user",
          each(message.content, field, (part, at) => this.#userBlock(part, at)),
          field,
        );
        // Words that come with the results of tools end no loop.
        if (this.#lastRole !== Role.TOOL) this.#inLoop = false;
        break;
      case Role.ASSISTANT:
        this.#turn("assistant", this.#answerBlocks(message, field), field);
        break;
      case Role.TOOL:
        this.#turn(
          "user",
          toolResultsIn(message, field).map((result) => this.#toolResult(result, field)),
          field,
        );
        break;
      default:
        throw invalid(`${field}.role`, "a message needs a role");
    }
    this.#lastRole = message.role;
  }

  /** Roles have to alternate, so that what follows from the same one is joined; empty turns and texts are refused. */
  #turn(role: Turn["role"], blocks: readonly string[], field: string): void {
    if (blocks.length === 0) {
      this.#warn(field, "Anthropic takes no empty message; it was left out");
      return;
    }
    const last = this.#turns.at(-1);
    if (last?.role === role) last.blocks.push(...blocks);
    else this.#turns.push({ role, blocks: [...blocks] });
  }

  /** An answer that has begun must not end in white space. */
  #trimEnd(): void {
    const last = this.#turns.at(-1);
    if (last?.role !== "assistant") return;
    const { type, text } = JSON.parse(last.blocks.at(-1)!) as { readonly type: string; readonly text: string };
    if (type !== "text" || text === text.trimEnd()) return;
    const field = `messages[${this.#messages.length - 1}]`;
    this.#warn(field, "Anthropic takes no white space at the end of an answer that it goes on with; it was left out");
    last.blocks.pop();
    if (text.trimEnd() !== "") last.blocks.push(textOnly(text.trimEnd()));
    else if (last.blocks.length === 0) this.#turns.pop();
  }

  #userBlock(content: ContentPart, field: string): string[] {
    const { part } = content;
    switch (part?.$case) {
      case "text":
        return textBlock(content, field);
      case "image":
        return [this.#image(part.value, field)];
      case "audio":
        throw refused(`${field}.input_audio`, "Anthropic takes no sound");
      case "file":
        return [this.#document(part.value, `${field}.file`)];
      default:
        throw misplaced(content, field, "in a user's message");
    }
  }

  #image({ source, mediaType, detail }: Image, field: string): string {
    if (detail !== "" && detail !== "auto") this.#warn(`${field}.image_url.detail`);
    if (source === undefined) throw invalid(`${field}.image_url`, "an image needs a url or data");
    if (source.$case === "url") return block("image", { type: "url", url: source.value });
    if (mediaType === "") throw invalid(`${field}.image_url`, "data needs a media type");
    // It knows the one name only.
    const media = mediaType === "image/jpg" ? "image/jpeg" : mediaType;
    return block("image", { type: "base64", media_type: media, data: base64(source.value) });
  }

  #document({ source, mediaType, filename }: File, field: string): string {
    if (source === undefined) throw invalid(field, "a file needs data or an id");
    const title = filename === "" ? undefined : JSON.stringify(filename);
    if (source.$case === "providerFileId") {
      if (!source.value.startsWith("file_")) throw refused(`${field}.file_id`, "this is no file of Anthropic's");
      this.#files = true;
      return block("document", { type: "file", file_id: source.value }, { title });
    }
    if (mediaType === "application/pdf") {
      return block("document", { type: "base64", media_type: mediaType, data: base64(source.value) }, { title });
    }
    if (!mediaType.startsWith("text/plain")) throw refused(field, "Anthropic takes PDF and plain text only");
    const data = Buffer.from(source.value).toString("utf8");
    return block("document", { type: "text", media_type: "text/plain", data }, { title });
  }

  #answerBlocks(message: Message, field: string): string[] {
    const blocks: string[] = [];
    let calls = 0;
    for (const [index, content] of message.content.entries()) {
      const { part } = content;
      switch (part?.$case) {
        case "text":
          blocks.push(...textBlock(content, `${field}.content[${index}]`));
          break;
        // It knows no refusals; the words are what the model has said all the same.
        case "refusal":
          if (part.value !== "") blocks.push(textOnly(part.value));
          break;
        case "reasoning":
          blocks.push(...this.#thoughts(part.value, field));
          break;
        case "toolCall":
          if (!this.#inLoop) this.#beginLoop(blocks);
          blocks.push(this.#toolUse(part.value, `${field}.tool_calls[${calls}].function.arguments`));
          calls += 1;
          break;
        default:
          throw misplaced(content, `${field}.content[${index}]`, "in an answer");
      }
    }
    return blocks;
  }

  /** It is the first block of its first turn that tells whether a loop began with thoughts. */
  #beginLoop(blocks: readonly string[]): void {
    const last = this.#turns.at(-1);
    const first = last?.role === "assistant" ? last.blocks[0] : blocks[0];
    this.#inLoop = true;
    this.#unthinking = first === undefined || !/^\{"type":"(redacted_)?thinking"/.test(first);
  }

  #thoughts({ text, signature }: { readonly text: string; readonly signature: string }, field: string): string[] {
    const own = toOwnSignature(signature);
    if (own === undefined) {
      const message = "The reasoning of an earlier turn was left out: Anthropic takes only its own, with its signature";
      this.#warn(`${field}.reasoning_content`, message);
      return [];
    }
    if (own.kind === "redacted") return [JSON.stringify({ type: "redacted_thinking", data: own.value })];
    return [JSON.stringify({ type: "thinking", thinking: text, signature: own.value })];
  }

  #toolUse({ id, name, argumentsJson }: ToolCall, argumentsField: string): string {
    return jsonText({
      type: '"tool_use"',
      id: JSON.stringify(this.#ids.of(id)),
      name: JSON.stringify(name),
      // An object here, not its text.
      input: argumentsJson.trim() === "" ? "{}" : objectText(argumentsJson, argumentsField),
    });
  }

  #toolResult(result: ToolResult, field: string): string {
    const blocks = each(result.content, field, (content, at) => {
      if (content.part?.$case === "image") return [this.#image(content.part.value, at)];
      return textBlock(content, at);
    });
    return jsonText({
      type: '"tool_result"',
      tool_use_id: JSON.stringify(this.#ids.of(result.toolCallId)),
      content: blocks.length === 0 ? undefined : `[${blocks.join(",")}]`,
      is_error: result.isError ? "true" : undefined,
    });
  }

  #warn(parameter: string, message?: string): void {
    this.#warnings.push(unsupported(parameter, message));
  }
}

/** Ids in letters that Anthropic takes: those of other providers have dots and colons in them. */
class ToolIds {
  readonly #known = new Map<string, string>();
  readonly #taken = new Set<string>();

  of(id: string): string {
    const known = this.#known.get(id);
    if (known !== undefined) return known;
    const plain = id.replace(/[^a-zA-Z0-9_-]/g, "_") || "call";
    let own = plain;
    for (let count = 2; this.#taken.has(own); count += 1) own = `${plain}_${count}`;
    this.#known.set(id, own);
    this.#taken.add(own);
    return own;
  }
}

function each(
  content: readonly ContentPart[],
  field: string,
  toBlocks: (part: ContentPart, field: string) => string[],
): string[] {
  return content.flatMap((part, index) => toBlocks(part, `${field}.content[${index}]`));
}

function textBlock(part: ContentPart, field: string): string[] {
  const text = textIn(part, field);
  return text === "" ? [] : [textOnly(text)];
}

function textOnly(text: string): string {
  return JSON.stringify({ type: "text", text });
}

function block(type: string, source: object, more: Readonly<Record<string, string | undefined>> = {}): string {
  return jsonText({ type: JSON.stringify(type), source: JSON.stringify(source), ...more });
}
