/**
 * Signatures of thoughts carry the name of who gave them. A conversation may go on at another provider, and each refuses a
 * signature that is not its own. Thoughts that Anthropic has encrypted have nothing but what stands in a signature's place.
 */
const MARK = "anthropic:";
const REDACTED_MARK = "anthropic-redacted:";

/** A signature as it goes to the client. */
export function fromOwnSignature(signature: string): string {
  return signature === "" ? "" : `${MARK}${signature}`;
}

/** Encrypted thoughts as they go to the client. */
export function fromRedacted(data: string): string {
  return data === "" ? "" : `${REDACTED_MARK}${data}`;
}

/** What a signature is to Anthropic; undefined for none and for another provider's. One without a name is taken as it is. */
export function toOwnSignature(
  signature: string,
): { readonly kind: "signature" | "redacted"; readonly value: string } | undefined {
  if (signature.startsWith(MARK)) return { kind: "signature", value: signature.slice(MARK.length) };
  if (signature.startsWith(REDACTED_MARK)) return { kind: "redacted", value: signature.slice(REDACTED_MARK.length) };
  // No base64 has a colon.
  return signature === "" || signature.includes(":") ? undefined : { kind: "signature", value: signature };
}
