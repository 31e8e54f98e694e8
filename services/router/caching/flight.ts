/**
 * One answer on its way, for everybody who asks the same at the same time. All read it from its beginning, each at a pace of
 * its own: the fastest pulls, the others find what has come. Who leaves stops nobody; when the last one has left, it ends.
 */
import type { Part, Usage } from "../../../libs/gen/cortex/llm/v1/llm.ts";
import type { CacheStatus, StreamResponse } from "../../../libs/gen/cortex/router/v1/router.ts";
import { RpcError } from "../../../libs/rpc/index.ts";
import type { RequestAccount } from "../request-account.ts";
import { charactersOf, usageOf } from "./parts.ts";

/** What readers have not read yet, at most, about; whoever is slower is let go of. Far more than an answer has. */
const KEPT_CHARACTERS_MAX = 8 * 1024 * 1024;

const DONE: IteratorResult<StreamResponse> = { done: true, value: undefined };

/** How a flight has ended. */
export type FlightEnd =
  | { readonly kind: "whole"; readonly parts: readonly Part[] }
  /** It failed, everybody has left, or it was too long to be kept. */
  | { readonly kind: "broken" };

export interface FlightOptions {
  readonly tenant: string;
  /** It comes in one piece: streams don't join it. */
  readonly whole: boolean;
  readonly source: AsyncIterator<StreamResponse>;
  /** Called once. */
  readonly ended: (end: FlightEnd) => void;
}

export class Flight {
  readonly tenant: string;
  readonly whole: boolean;
  readonly #source: AsyncIterator<StreamResponse>;
  readonly #ended: (end: FlightEnd) => void;
  /** What has come, without what all have read once it is too much to be kept. */
  #chunks: StreamResponse[] = [];
  /** How many chunks came before those. */
  #dropped = 0;
  #characters = 0;
  #pending: Promise<IteratorResult<StreamResponse>> | undefined;
  readonly #readers = new Set<FlightReader>();
  #over = false;
  #failure: RpcError | undefined;
  /** What the answer says that it has used; known at its end. */
  #usage: Usage | undefined;

  constructor(options: FlightOptions) {
    this.tenant = options.tenant;
    this.whole = options.whole;
    this.#source = options.source;
    this.#ended = options.ended;
  }

  /** Whether one more may read it from its beginning. */
  get open(): boolean {
    return this.#dropped === 0 && !this.#over;
  }

  /** Everything from the beginning, as it comes. `status` is what this reader is told of the cache, `account` whose it is. */
  join(status: CacheStatus, account?: RequestAccount): AsyncIterator<StreamResponse> {
    const reader = new FlightReader(this, status, account);
    this.#readers.add(reader);
    return reader;
  }

  /** What `reader` reads at `position`, counted from the first chunk. */
  read(position: number, reader: FlightReader): Promise<IteratorResult<StreamResponse>> {
    const index = position - this.#dropped;
    const known = this.#chunks[index];
    if (known !== undefined) return Promise.resolve({ done: false, value: known });
    if (this.#over) reader.ended(this.#failure, this.#usage);
    if (this.#failure !== undefined) return Promise.reject(this.#failure);
    if (this.#over) return Promise.resolve(DONE);
    const isNext = index === this.#chunks.length;
    this.#pending ??= this.#source.next().then(this.#onResult, this.#onFailure);
    // Who asks for several at once is served in turn.
    return isNext ? this.#pending : this.#pending.then(() => this.read(position, reader));
  }

  leave(reader: FlightReader): void {
    if (!this.#readers.delete(reader) || this.#readers.size > 0 || this.#over) return;
    this.#end({ kind: "broken" });
    void this.#source.return?.();
  }

  readonly #onResult = (result: IteratorResult<StreamResponse>): IteratorResult<StreamResponse> => {
    this.#pending = undefined;
    if (result.done === true) {
      const kept = this.#dropped === 0 && !this.#over;
      for (const { parts } of this.#chunks) this.#usage = usageOf(parts) ?? this.#usage;
      this.#end(kept ? { kind: "whole", parts: this.#chunks.flatMap(({ parts }) => parts) } : { kind: "broken" });
      return DONE;
    }
    this.#chunks.push(result.value);
    this.#characters += lengthOf(result.value.parts);
    if (this.#characters > KEPT_CHARACTERS_MAX) this.#makeRoom();
    return result;
  };

  readonly #onFailure = (thrown: unknown): never => {
    this.#pending = undefined;
    this.#failure = RpcError.from(thrown);
    this.#end({ kind: "broken" });
    throw this.#failure;
  };

  #end(end: FlightEnd): void {
    if (this.#over) return;
    this.#over = true;
    this.#ended(end);
    // Those who wait for more have nothing left to read; the others are told when they come to the end.
    const chunks = this.#dropped + this.#chunks.length;
    for (const reader of this.#readers) if (reader.position > chunks) reader.ended(this.#failure, this.#usage);
  }

  /** Forgets what everybody has read, and lets go of who is too far behind. */
  #makeRoom(): void {
    const positions = [...this.#readers].map(({ position }) => position);
    const middle = this.#dropped + Math.floor(this.#chunks.length / 2);
    for (const reader of this.#readers) if (reader.position < middle && positions.length > 1) reader.letGo();
    const read = Math.min(...[...this.#readers].map(({ position }) => position), this.#dropped + this.#chunks.length);
    this.#chunks = this.#chunks.slice(read - this.#dropped);
    this.#dropped = read;
    this.#characters = 0;
    for (const { parts } of this.#chunks) this.#characters += lengthOf(parts);
  }
}

/** One of those who read a flight. */
class FlightReader implements AsyncIterator<StreamResponse> {
  /** The chunk that it reads next. */
  position = 0;
  readonly #flight: Flight;
  readonly #status: CacheStatus;
  readonly #account: RequestAccount | undefined;
  #left = false;
  #tooSlow = false;

  constructor(flight: Flight, status: CacheStatus, account: RequestAccount | undefined) {
    this.#flight = flight;
    this.#status = status;
    this.#account = account;
  }

  next(): Promise<IteratorResult<StreamResponse>> {
    if (this.#tooSlow) {
      const error = new RpcError("STREAM_INTERRUPTED", "the answer was read too slowly to be kept so long");
      this.ended(error);
      return Promise.reject(error);
    }
    if (this.#left) return Promise.resolve(DONE);
    const position = this.position++;
    const answer = this.#flight.read(position, this);
    return position === 0 ? answer.then(this.#first) : answer;
  }

  return(): Promise<IteratorResult<StreamResponse>> {
    this.#left = true;
    this.#account?.left();
    this.#flight.leave(this);
    return Promise.resolve(DONE);
  }

  letGo(): void {
    this.#tooSlow = true;
    this.#flight.leave(this);
  }

  /** It has read everything that there is: the whole answer, or what came before it failed. */
  ended(failure?: RpcError, usage?: Usage): void {
    this.#account?.end(failure, usage);
  }

  readonly #first = (result: IteratorResult<StreamResponse>): IteratorResult<StreamResponse> => {
    if (result.done === true) return result;
    this.#account?.firstContent();
    return { done: false, value: { ...result.value, cache: this.#status } };
  };
}

function lengthOf(parts: readonly Part[]): number {
  let characters = 0;
  for (const part of parts) characters += charactersOf(part);
  return characters;
}
