/**
 * The bench's own HTTP/1.1 client: one exchange at a time on one keep-alive connection, answers with a length or in
 * chunks. It does no more than the load generator needs, so that the generator is never what a run waits for.
 */
import { connect, type Socket } from "node:net";

/** A connection silent for so long fails its exchange. Longer than any held stream is held. */
const SILENCE_MS = 30_000;
const MAX_HEAD_BYTES = 32 * 1024;
const CRLF = "\r\n";

export type Head = { status: number; contentType: string };

/** What the reader of one answer expects next. */
type Part = "head" | "length" | "chunk-size" | "chunk" | "chunk-end" | "trailer" | "done";

/** Reads one answer, however it is cut into pieces. */
class Answer {
  #part: Part = "head";
  #rest: Buffer = Buffer.alloc(0);
  /** Bytes of the body, or of the chunk, that are still to come. */
  #left = 0;
  readonly #onBody: (piece: Buffer) => void;
  head: Head | undefined;

  constructor(onBody: (piece: Buffer) => void) {
    this.#onBody = onBody;
  }

  /** True once the answer is complete. */
  feed(data: Buffer): boolean {
    this.#rest = this.#rest.length > 0 ? Buffer.concat([this.#rest, data]) : data;
    while (this.#part !== "done" && this.#step());
    if (this.#part === "done" && this.#rest.length > 0) throw new Error("bytes after the end of the answer");
    return this.#part === "done";
  }

  /** False when more bytes are needed. */
  #step(): boolean {
    switch (this.#part) {
      case "head":
        return this.#readHead();
      case "length":
        return this.#readBody("done");
      case "chunk":
        return this.#readBody("chunk-end");
      case "chunk-size": {
        const line = this.#line();
        if (line === undefined) return false;
        this.#left = Number.parseInt(line, 16);
        if (Number.isNaN(this.#left)) throw new Error(`not a chunk size: ${line.slice(0, 20)}`);
        this.#part = this.#left === 0 ? "trailer" : "chunk";
        return true;
      }
      case "chunk-end": {
        const line = this.#line();
        if (line !== undefined) this.#part = "chunk-size";
        return line !== undefined;
      }
      default: {
        const line = this.#line();
        if (line === "") this.#part = "done";
        return line !== undefined;
      }
    }
  }

  #line(): string | undefined {
    const end = this.#rest.indexOf(CRLF);
    if (end < 0) return undefined;
    const line = this.#rest.toString("latin1", 0, end);
    this.#rest = this.#rest.subarray(end + CRLF.length);
    return line;
  }

  #readHead(): boolean {
    const end = this.#rest.indexOf(CRLF + CRLF);
    if (end < 0 && this.#rest.length > MAX_HEAD_BYTES) throw new Error("the head of the answer never ends");
    if (end < 0) return false;
    const [first = "", ...lines] = this.#rest.toString("latin1", 0, end).split(CRLF);
    this.#rest = this.#rest.subarray(end + 2 * CRLF.length);
    const headers = new Map(lines.map((line) => [line.slice(0, line.indexOf(":")).toLowerCase(), line]));
    const value = (name: string): string =>
      headers
        .get(name)
        ?.slice(name.length + 1)
        .trim() ?? "";

    this.head = { status: Number(first.split(" ")[1]), contentType: value("content-type") };
    if (value("transfer-encoding").toLowerCase() === "chunked") {
      this.#part = "chunk-size";
      return true;
    }
    this.#left = Number.parseInt(value("content-length"), 10);
    if (Number.isNaN(this.#left)) throw new Error("an answer without a length");
    this.#part = this.#left === 0 ? "done" : "length";
    return true;
  }

  #readBody(next: Part): boolean {
    if (this.#rest.length === 0) return false;
    const piece = this.#rest.subarray(0, this.#left);
    this.#rest = this.#rest.subarray(piece.length);
    this.#left -= piece.length;
    if (this.#left === 0) this.#part = next;
    this.#onBody(piece);
    return true;
  }
}

/** A request made ready to send: the head is the same for all, only the length and the body differ. */
export function post(options: { path: string; headers: Record<string, string>; body: string }): string {
  const lines = [`POST ${options.path} HTTP/1.1`, "host: 127.0.0.1", "content-type: application/json"];
  for (const [name, value] of Object.entries(options.headers)) lines.push(`${name}: ${value}`);
  lines.push(`content-length: ${Buffer.byteLength(options.body)}`);
  return lines.join(CRLF) + CRLF + CRLF + options.body;
}

/** Owned by whoever opened it, who closes it; after a failed exchange it is closed already. */
export class Connection {
  readonly #socket: Socket;
  #onData: ((data: Buffer) => void) | undefined;
  #onFailure: ((error: Error) => void) | undefined;

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.on("data", (data: Buffer) => this.#onData?.(data));
    socket.on("error", (error) => this.#onFailure?.(error));
    socket.on("close", () => this.#onFailure?.(new Error("connection closed before the answer was complete")));
    socket.setTimeout(SILENCE_MS, () => socket.destroy(new Error(`silent for ${SILENCE_MS / 1000} s`)));
  }

  static open(port: number): Promise<Connection> {
    return new Promise((resolve, reject) => {
      const socket = connect({ port, host: "127.0.0.1", noDelay: true });
      socket.once("error", reject);
      socket.once("connect", () => {
        socket.off("error", reject);
        resolve(new Connection(socket));
      });
    });
  }

  /** Resolves at the end of the answer; the body goes to `onBody` piece by piece, as it comes. */
  exchange(request: string, onBody: (piece: Buffer) => void): Promise<Head> {
    return new Promise((resolve, reject) => {
      const answer = new Answer(onBody);
      const settle = (finish: () => void): void => {
        this.#onData = undefined;
        this.#onFailure = undefined;
        finish();
      };
      this.#onFailure = (error) => settle(() => reject(error));
      this.#onData = (data) => {
        try {
          if (answer.feed(data)) settle(() => resolve(answer.head as Head));
        } catch (error) {
          this.#socket.destroy();
          settle(() => reject(error));
        }
      };
      this.#socket.write(request);
    });
  }

  close(): void {
    this.#socket.destroy();
  }
}
