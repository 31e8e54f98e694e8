/** What a provider says when it fails, as far as it is read and as it is told to the client. */
import type { Reason } from "../rpc/index.ts";

/** As much of an error as is looked at, so that no text can keep a dialect's patterns busy. */
export const READ_CHARS_MAX = 4096;

/** Longer messages are cut: some servers repeat the request in them. */
const MESSAGE_CHARS_MAX = 500;

/** What an error body that is no JSON has to say: a text, or a front end's or proxy's page, of which the title says most. */
export function pageText(body: string): string {
  const start = body.slice(0, READ_CHARS_MAX);
  const title = /<title[^>]*>([^<]*)<\/title>/i.exec(start)?.[1];
  return title ?? (/<[a-z!]/i.test(start) ? "" : start);
}

/** Without line ends, indentation and the like. */
export function oneLine(text: string): string {
  return text.replace(/\s+/g, " ").trim();
}

/** Not longer than a message may be. */
export function shortened(text: string): string {
  return text.length > MESSAGE_CHARS_MAX ? `${text.slice(0, MESSAGE_CHARS_MAX).toWellFormed()}…` : text;
}

/**
 * The message of an error: what the provider `said`, on one line and not too long, and the status where the words alone
 * would not do. `code` is the provider's own, told when it has said nothing else.
 */
export function failureMessage(status: number, said: string, reason: Reason, code = ""): string {
  const line = oneLine(said);
  // Whoever answered so is not who was meant: what it said may be anything.
  if (reason === "PROVIDER_INVALID_ANSWER") return `the provider answered ${status}`;
  if (line === "") return `the provider answered ${status}${code === "" ? "" : ` (${code})`}`;
  return shortened(line);
}
