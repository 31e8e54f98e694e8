/** A conversation in the words of the OpenAI API, as far as the server has a place for what is said. */
import { createHash } from "node:crypto";
import { base64, dataUrl, invalid, misplaced, refused, textIn, toolResultsIn } from "../adapter/index.ts";
import { type ContentPart, type Message, Role, type ToolResult, type Warning } from "../gen/cortex/llm/v1/llm.ts";
import { unsupported } from "./fields.ts";
import type { MessageFeature, Server, ToolCallIds } from "./server.ts";

/** What the writing of one conversation needs to know. */
interface Writing {
  readonly server: Server;
  readonly warnings: Warning[];
  readonly toolCallId: (id: string) => string;
}

/** The field `messages`. What the client has to be warned about goes to `warnings`. */
export function toMessages(messages: readonly Message[], server: Server, warnings: Warning[]): unknown[] {
  const writing: Writing = { server, warnings, toolCallId: createToolCallIds(server.toolCallIds) };
  return messages.flatMap((message, index) => {
    const field = `messages[${index}]`;
    const name = toName(message, field, writing);
    switch (message.role) {
      case Role.SYSTEM:
        return [{ role: "system", content: toContent(message.content, field, toTextPart), name }];
      case Role.USER:
        return [{ role: "user", content: toContent(message.content, field, toUserPart(server)), name }];
      case Role.ASSISTANT:
        return [{ ...toAssistantMessage(message, field, writing, index === messages.length - 1), name }];
      case Role.TOOL:
        return toolResultsIn(message, field).map((result) => toToolMessage(result, field, writing));
      default:
        throw invalid(`${field}.role`, "a message needs a role");
    }
  });
}

function toName(message: Message, field: string, { server, warnings }: Writing): string | undefined {
  if (message.name === "") return undefined;
  if (server.messages.includes("name")) return message.name;
  warnings.push(unsupported(`${field}.name`, `${server.title} has no names for speakers`));
  return undefined;
}

/**
 * The ids of tool calls as the server takes them. An id that it does not take, because the call was another provider's, is
 * replaced by one that is made of it: the same for the call and its result, and the same whenever the conversation is sent.
 */
function createToolCallIds(rule: ToolCallIds | undefined): (id: string) => string {
  if (rule === undefined) return (id) => id;
  const taken = new Map<string, string>();
  const written = new Map<string, string>();
  return (id) => {
    const known = written.get(id);
    if (known !== undefined) return known;
    let chosen = rule.valid.test(id) ? id : shortened(id, rule.length);
    // Another call has it: as good as impossible, unless somebody tries.
    for (let salt = 1; taken.has(chosen); salt += 1) chosen = shortened(`${salt}:${id}`, rule.length);
    taken.set(chosen, id);
    written.set(id, chosen);
    return chosen;
  };
}

function shortened(id: string, length: number): string {
  const digits = BigInt(`0x${createHash("sha256").update(id).digest("hex")}`).toString(36);
  return digits.slice(-length).padStart(length, "0");
}

type ToPart = (part: ContentPart, field: string) => unknown;

/** One text is sent as a string, which every server understands; anything else as an array of parts. */
function toContent(content: readonly ContentPart[], field: string, toPart: ToPart): unknown {
  const [first] = content;
  if (first === undefined) return "";
  if (content.length === 1 && first.part?.$case === "text") return first.part.value;
  return content.map((part, index) => toPart(part, `${field}.content[${index}]`));
}

function toTextPart(part: ContentPart, field: string): unknown {
  return { type: "text", text: textIn(part, field) };
}

function toUserPart({ title, messages }: Server): ToPart {
  const need = (feature: MessageFeature, field: string, what: string) => {
    if (!messages.includes(feature)) throw refused(field, `${title} takes no ${what}`);
  };
  return (content, field) => {
    const { part } = content;
    switch (part?.$case) {
      case "text":
        return { type: "text", text: part.value };
      case "image": {
        const { source, mediaType, detail } = part.value;
        need("image", `${field}.image_url`, "pictures");
        if (source === undefined) throw invalid(`${field}.image_url`, "an image needs a url or data");
        const url = source.$case === "url" ? source.value : dataUrl(source.value, mediaType, `${field}.image_url`);
        return { type: "image_url", image_url: { url, detail: detail || undefined } };
      }
      case "audio": {
        need("audio", `${field}.input_audio`, "sound");
        const format = toAudioFormat(part.value.mediaType, `${field}.input_audio.format`);
        return { type: "input_audio", input_audio: { data: base64(part.value.data), format } };
      }
      case "file": {
        const { source, mediaType, filename } = part.value;
        need("file", `${field}.file`, "files");
        if (source === undefined) throw invalid(`${field}.file`, "a file needs data or an id");
        if (source.$case === "providerFileId") return { type: "file", file: { file_id: source.value } };
        const data = dataUrl(source.value, mediaType, `${field}.file`);
        return { type: "file", file: { filename: filename || undefined, file_data: data } };
      }
      default:
        throw misplaced(content, field, "in a user's message");
    }
  };
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
      throw refused(field, "only wav and mp3 are supported");
  }
}

function toAssistantMessage(
  message: Message,
  field: string,
  { server, warnings, toolCallId }: Writing,
  last: boolean,
): object {
  const said: ContentPart[] = [];
  const calls: unknown[] = [];
  let reasoning = "";
  for (const [index, content] of message.content.entries()) {
    const { part } = content;
    switch (part?.$case) {
      case "text":
        said.push(content);
        break;
      case "refusal":
        // Where refusals are not known, the words are what the model has said all the same.
        said.push(server.messages.includes("refusal") ? content : { part: { $case: "text", value: part.value } });
        break;
      case "toolCall": {
        const { id, name, argumentsJson } = part.value;
        calls.push({ id: toolCallId(id), type: "function", function: { name, arguments: argumentsJson } });
        break;
      }
      case "reasoning":
        reasoning += part.value.text;
        break;
      default:
        throw misplaced(content, `${field}.content[${index}]`, "in an answer");
    }
  }
  // DeepSeek wants the reasoning back within a loop of tool calls and nowhere else; OpenAI has no place for it.
  // https://api-docs.deepseek.com/guides/thinking_mode
  const back = reasoning !== "" && calls.length > 0 ? server.reasoningBack : undefined;
  if (reasoning !== "" && back === undefined) {
    const parameter = `${field}.reasoning_content`;
    warnings.push(unsupported(parameter, "The reasoning of an earlier turn was left out: the API has no place for it"));
  }
  // Null is allowed with tool calls only.
  const content = said.length === 0 && calls.length > 0 ? null : toContent(said, field, toSaidPart);
  return {
    role: "assistant",
    content:
      back === "thinking" ? [toThinkingPart(reasoning), ...said.map((part) => toSaidPart(part, field))] : content,
    ...(back !== undefined && back !== "thinking" && { [back]: reasoning }),
    tool_calls: calls.length > 0 ? calls : undefined,
    ...(last && calls.length === 0 && server.begunField !== undefined && { [server.begunField]: true }),
  };
}

/** https://docs.mistral.ai/capabilities/reasoning */
function toThinkingPart(reasoning: string): unknown {
  return { type: "thinking", thinking: [{ type: "text", text: reasoning }] };
}

function toSaidPart(content: ContentPart, field: string): unknown {
  const { part } = content;
  return part?.$case === "refusal" ? { type: "refusal", refusal: part.value } : toTextPart(content, field);
}

function toToolMessage(result: ToolResult, field: string, { warnings, toolCallId }: Writing): unknown {
  if (result.isError) {
    const parameter = `${field}.is_error`;
    warnings.push(unsupported(parameter, "The API can't mark a tool's result as an error; only its text was sent"));
  }
  const content = toContent(result.content, field, (part, partField) => {
    if (part.part?.$case !== "image") return toTextPart(part, partField);
    // Without the picture the model would answer about something that it has not seen.
    throw refused(partField, "a tool's result can't be a picture in the OpenAI API");
  });
  return { role: "tool", tool_call_id: toolCallId(result.toolCallId), content };
}
