/** A conversation in the words of Cohere's API. */
import { dataUrl, invalid, jsonText, misplaced, refused, textIn, toolResultsIn } from "../../libs/adapter/index.ts";
import {
  type ContentPart,
  type Message,
  Role,
  type ToolResult,
  type Warning,
} from "../../libs/gen/cortex/llm/v1/llm.ts";
import { unsupported } from "./wording.ts";

/** The field `messages`. What the client has to be warned about goes to `warnings`. */
export function toMessages(messages: readonly Message[], warnings: Warning[]): string {
  const texts = messages.flatMap((message, index) => {
    const field = `messages[${index}]`;
    if (message.name !== "") warnings.push(unsupported(`${field}.name`, "Cohere has no names for speakers"));
    switch (message.role) {
      case Role.SYSTEM:
        return [jsonText({ role: '"system"', content: toContent(message.content, field, toTextPart) })];
      case Role.USER:
        return [jsonText({ role: '"user"', content: toContent(message.content, field, toUserPart) })];
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

type ToPart = (part: ContentPart, field: string) => unknown;

/** One text is sent as a string, anything else as an array of parts. */
function toContent(content: readonly ContentPart[], field: string, toPart: ToPart): string {
  const [first] = content;
  if (first === undefined) return '""';
  if (content.length === 1 && first.part?.$case === "text") return JSON.stringify(first.part.value);
  return JSON.stringify(content.map((part, index) => toPart(part, `${field}.content[${index}]`)));
}

function toTextPart(part: ContentPart, field: string): unknown {
  return { type: "text", text: textIn(part, field) };
}

/** https://docs.cohere.com/docs/image-inputs */
function toUserPart(content: ContentPart, field: string): unknown {
  const { part } = content;
  switch (part?.$case) {
    case "text":
      return { type: "text", text: part.value };
    case "image": {
      const { source, mediaType, detail } = part.value;
      if (source === undefined) throw invalid(`${field}.image_url`, "an image needs a url or data");
      const url = source.$case === "url" ? source.value : dataUrl(source.value, mediaType, `${field}.image_url`);
      return { type: "image_url", image_url: { url, detail: detail || undefined } };
    }
    case "audio":
      throw refused(`${field}.input_audio`, "Cohere takes text and pictures only");
    case "file":
      throw refused(`${field}.file`, "Cohere takes text and pictures only");
    default:
      throw misplaced(content, field, "in a user's message");
  }
}

/**
 * What the model thought goes back as it came: before tool calls as the plan, which every model understands, and else as the
 * thinking that it was.
 */
function toAssistantMessage(message: Message, field: string): string {
  const said: unknown[] = [];
  const texts: string[] = [];
  const calls: string[] = [];
  let reasoning = "";
  for (const [index, content] of message.content.entries()) {
    const { part } = content;
    switch (part?.$case) {
      // Cohere knows no refusals; the words are what the model has said all the same.
      case "text":
      case "refusal":
        texts.push(part.value);
        said.push({ type: "text", text: part.value });
        break;
      case "reasoning":
        reasoning += part.value.text;
        break;
      case "toolCall": {
        const { id, name, argumentsJson } = part.value;
        const called = { id, type: "function", function: { name, arguments: argumentsJson || "{}" } };
        calls.push(JSON.stringify(called));
        break;
      }
      default:
        throw misplaced(content, `${field}.content[${index}]`, "in an answer");
    }
  }
  const plan = calls.length > 0 ? reasoning : "";
  if (plan === "" && reasoning !== "") said.unshift({ type: "thinking", thinking: reasoning });
  const alone = said.length === 1 && texts.length === 1;
  const content = said.length === 0 ? undefined : JSON.stringify(alone ? texts[0] : said);
  return jsonText({
    role: '"assistant"',
    // Only where there are tool calls may it be missing.
    content: content ?? (calls.length > 0 ? undefined : '""'),
    tool_plan: plan === "" ? undefined : JSON.stringify(plan),
    tool_calls: calls.length === 0 ? undefined : `[${calls.join(",")}]`,
  });
}

function toToolMessage(result: ToolResult, field: string, warnings: Warning[]): string {
  if (result.isError) {
    const message = "Cohere can't mark a tool's result as an error; only its text was sent";
    warnings.push(unsupported(`${field}.is_error`, message));
  }
  const content = toContent(result.content, field, (part, partField) => {
    // Without the picture the model would answer about something that it has not seen.
    if (part.part?.$case === "image") throw refused(partField, "Cohere takes no pictures from tools");
    return toTextPart(part, partField);
  });
  return jsonText({ role: '"tool"', tool_call_id: JSON.stringify(result.toolCallId), content });
}
