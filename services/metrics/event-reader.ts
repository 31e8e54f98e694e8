/** Reads events: thousands a second, whose names of workers, models, tenants and nodes are a few dozen, again and again. */
import { BinaryReader } from "@bufbuild/protobuf/wire";

/** Longer ones are ids, each of them another one. */
const LENGTH_MAX = 31;
/** A power of two. A string has one place; of two for the same place the later one stays. */
const PLACES = 1_024;

/** Of ASCII strings only. */
const known: (string | undefined)[] = new Array(PLACES).fill(undefined);

/** As BinaryReader, but a short string that has been read before is the same string, found without making another. */
export class EventReader extends BinaryReader {
  readonly #bytes: Buffer;

  constructor(bytes: Uint8Array) {
    super(bytes);
    this.#bytes = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  override string(strict?: boolean): string {
    const before = this.pos;
    const length = this.uint32();
    const start = this.pos;
    const end = start + length;
    const bytes = this.#bytes;
    if (end > bytes.length) {
      this.pos = before;
      return super.string(strict);
    }
    if (length > LENGTH_MAX) {
      this.pos = end;
      return bytes.toString("utf8", start, end);
    }
    let hash = length;
    for (let at = start; at < end; at++) hash = (Math.imul(hash, 31) + bytes[at]!) | 0;
    const place = hash & (PLACES - 1);
    const candidate = known[place];
    if (candidate !== undefined && isText(candidate, bytes, start, length)) {
      this.pos = end;
      return candidate;
    }
    this.pos = before;
    const read = super.string(strict);
    // Others have fewer letters than bytes.
    if (read.length === length) known[place] = read;
    return read;
  }
}

/** What is generated for a message: how to take it off the wire. */
interface MessageType<T> {
  decode(reader: BinaryReader, length: number): T;
}

/**
 * Calls `handle` for each event of a message that has several, in its only field. One after the other: a list of them all would live
 * long enough to be moved about in memory.
 */
export function eachEvent<T>(message: Uint8Array, type: MessageType<T>, handle: (event: T) => void): void {
  const reader = new EventReader(message);
  while (reader.pos < reader.len) {
    const tag = reader.uint32();
    if (tag === EVENTS_TAG) handle(type.decode(reader, reader.uint32()));
    else reader.skip(tag & 7);
  }
}

/** Field 1, length-delimited. */
const EVENTS_TAG = 10;

/** Whether the bytes are that text, which is ASCII. */
function isText(text: string, bytes: Uint8Array, start: number, length: number): boolean {
  if (text.length !== length) return false;
  for (let at = 0; at < length; at++) if (text.charCodeAt(at) !== bytes[start + at]) return false;
  return true;
}
