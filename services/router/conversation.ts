/** Which conversation a request belongs to, told from how it begins. */
import { type CompletionRequest, type ContentPart, Role } from "../../libs/gen/cortex/llm/v1/llm.ts";

/** Characters read of each message's texts: the first ones, so that a long prompt costs no more than a short one. */
const MESSAGE_CHARACTERS_MAX = 2_048;
/** System messages read. */
const SYSTEM_MESSAGES_MAX = 4;
/** Bytes read of each image or document, beside its length. */
const CONTENT_BYTES_MAX = 64;

/**
 * The same 32 bits for all turns of one conversation: of the tenant, the system messages it begins with, and the first message of
 * the user. A client that names its provider's cache itself (OpenAI's `prompt_cache_key`) is believed instead.
 */
export function conversationOf(request: CompletionRequest, tenant: string): number {
  const named = Object.hasOwn(request.extraJson, "prompt_cache_key")
    ? request.extraJson["prompt_cache_key"]
    : undefined;
  let hash = hashText(BASIS, tenant, tenant.length);
  if (named !== undefined) return finish(hashText(hash, named, MESSAGE_CHARACTERS_MAX));
  let systemMessages = 0;
  for (const { role, content } of request.messages) {
    if (role === Role.SYSTEM && systemMessages < SYSTEM_MESSAGES_MAX) {
      systemMessages += 1;
      hash = hashContent(hash, content);
    }
    if (role === Role.USER) return finish(hashContent(hash, content));
  }
  return finish(hash);
}

function hashContent(hash: number, content: readonly ContentPart[]): number {
  let charactersLeft = MESSAGE_CHARACTERS_MAX;
  let hashed = mix(hash, content.length);
  for (const { part } of content) {
    if (charactersLeft <= 0) break;
    if (part?.$case === "text") {
      hashed = hashText(hashed, part.value, charactersLeft);
      charactersLeft -= part.value.length;
    } else if (part?.$case === "image" || part?.$case === "file") {
      const { source } = part.value;
      if (source?.$case === "data") hashed = hashBytes(hashed, source.value);
      else if (source !== undefined) hashed = hashText(hashed, source.value, MESSAGE_CHARACTERS_MAX);
    } else if (part?.$case === "audio") {
      hashed = hashBytes(hashed, part.value.data);
    }
    // So that many small parts cost no more than one long text.
    charactersLeft -= 1;
  }
  return hashed;
}

/** Of a text, its length and its beginning: what was said first does not change as the conversation goes on. */
function hashText(hash: number, text: string, charactersMax: number): number {
  let hashed = mix(hash, text.length);
  const length = Math.min(text.length, charactersMax);
  for (let index = 0; index < length; index += 1) hashed = mix(hashed, text.charCodeAt(index));
  return hashed;
}

function hashBytes(hash: number, bytes: Uint8Array): number {
  let hashed = mix(hash, bytes.length);
  const length = Math.min(bytes.length, CONTENT_BYTES_MAX);
  for (let index = 0; index < length; index += 1) hashed = mix(hashed, bytes[index]!);
  return hashed;
}

/** FNV-1a, by numbers instead of bytes. */
const BASIS = 0x811c9dc5;

function mix(hash: number, value: number): number {
  return Math.imul(hash ^ value, 0x01000193);
}

/** Spreads what the last values have changed over all 32 bits. */
function finish(hash: number): number {
  let hashed = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  hashed = Math.imul(hashed ^ (hashed >>> 13), 0xc2b2ae35);
  return (hashed ^ (hashed >>> 16)) >>> 0;
}
