/** One call and one stream, each checked in full: status, every word, the finish reason, the usage, the end mark. */
import { StringDecoder } from "node:string_decoder";
import { type Connection, type Head, post } from "./client.ts";
import { answerText, requestBody, type Wish } from "./exchange.ts";

const PATH = "/v1/chat/completions";
const MAX_SHOWN = 200;

export type Door = { port: number; headers: Record<string, string> };

type Completion = {
  choices: { message?: { content?: string }; delta?: { content?: string }; finish_reason?: string | null }[];
  usage?: { completion_tokens?: number } | null;
};

function expectStatus(head: Head, body: () => string): void {
  if (head.status !== 200) throw new Error(`status ${head.status}: ${body().slice(0, MAX_SHOWN)}`);
}

function expectText(wish: Wish, text: string): void {
  if (text === answerText(wish)) return;
  throw new Error(`another text than expected for ${wish.id}: ${text.slice(0, MAX_SHOWN) || "(none)"}`);
}

export async function callChecked(connection: Connection, door: Door, wish: Wish): Promise<void> {
  const pieces: Buffer[] = [];
  const request = post({ path: PATH, headers: door.headers, body: requestBody(wish, { stream: false }) });
  const head = await connection.exchange(request, (piece) => pieces.push(piece));
  const body = Buffer.concat(pieces).toString("utf8");
  expectStatus(head, () => body);
  const completion = JSON.parse(body) as Completion;
  expectText(wish, completion.choices[0]?.message?.content ?? "");
  if (completion.choices[0]?.finish_reason !== "stop") throw new Error("a call without its finish reason");
  if (completion.usage?.completion_tokens !== wish.tokens) throw new Error("a call without its usage");
}

/** The number of words that came with one read of the socket: more than one means that words were batched. */
export type OnWords = (count: number) => void;

/** Gathers what a stream said; `feed` takes the body however it is cut. */
class Said {
  readonly #decoder = new StringDecoder("utf8");
  #rest = "";
  /** The start of the body as it came, to show when the answer is an error. */
  beginning = "";
  text = "";
  finish: string | undefined;
  completionTokens: number | undefined;
  done = false;

  /** Returns how many words came. */
  feed(piece: Buffer): number {
    const data = this.#decoder.write(piece);
    if (this.beginning.length < MAX_SHOWN) this.beginning += data;
    const lines = (this.#rest + data).split("\n");
    this.#rest = lines.pop() ?? "";
    let words = 0;
    for (const line of lines) if (line.startsWith("data:")) words += this.#event(line.slice("data:".length).trim());
    return words;
  }

  #event(data: string): number {
    if (this.done) throw new Error("an event after [DONE]");
    if (data === "[DONE]") {
      this.done = true;
      return 0;
    }
    const { choices, usage } = JSON.parse(data) as Completion;
    if (usage) this.completionTokens = usage.completion_tokens;
    const [choice] = choices ?? [];
    if (choice?.finish_reason) this.finish = choice.finish_reason;
    const content = choice?.delta?.content;
    if (!content) return 0;
    this.text += content;
    return 1;
  }
}

export async function streamChecked(connection: Connection, door: Door, wish: Wish, onWords: OnWords): Promise<void> {
  const said = new Said();
  const request = post({ path: PATH, headers: door.headers, body: requestBody(wish, { stream: true }) });
  const head = await connection.exchange(request, (piece) => {
    const words = said.feed(piece);
    if (words > 0) onWords(words);
  });
  expectStatus(head, () => said.beginning);
  if (!head.contentType.startsWith("text/event-stream")) throw new Error(`a stream of type ${head.contentType}`);
  expectText(wish, said.text);
  if (said.finish !== "stop") throw new Error("a stream without its finish reason");
  if (said.completionTokens !== wish.tokens) throw new Error("a stream without its usage");
  if (!said.done) throw new Error("a stream without [DONE]");
}
