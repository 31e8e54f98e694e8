/**
 * Thought signatures carry the name of who gave them. A conversation may go on at another provider, and each refuses a
 * signature that is not its own.
 */
const MARK = "gemini:";

/** The signature as it goes to the client. */
export function fromOwnSignature(signature: string): string {
  return signature === "" ? "" : `${MARK}${signature}`;
}

/** The signature as Gemini gave it; undefined for none and for another provider's. One without a name is taken as it is. */
export function toOwnSignature(signature: string): string | undefined {
  if (signature.startsWith(MARK)) return signature.slice(MARK.length);
  // No base64 has a colon.
  return signature === "" || signature.includes(":") ? undefined : signature;
}
