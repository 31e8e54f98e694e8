/** The simulated model goes on with an answer, in whichever provider's form it is asked to. */
import fc from "fast-check";
import { afterEach, describe, expect, it } from "vitest";
import { type ContinuationMode, continuationRequest, Seam } from "../../libs/continuation/index.ts";
import { CompletionRequest, type Message, Role } from "../../libs/gen/cortex/llm/v1/llm.ts";
import { RpcError } from "../../libs/rpc/index.ts";
import type { Continuation } from "./behaviour.ts";
import {
  type Simulator,
  startAnthropicSimulator,
  startCohereSimulator,
  startGeminiSimulator,
  startGroqSimulator,
  startOllamaSimulator,
  startOpenAiSimulator,
} from "./index.ts";
import { answer, type Question, type Turn } from "./model.ts";

const running: Simulator[] = [];
afterEach(async () => {
  for (const simulator of running.splice(0)) await simulator.stop();
});

/** The conversation after an answer to `question` was cut off behind `said`, as a worker is asked to go on with it. */
function turnsTo(question: string, said: string, mode: ContinuationMode): Turn[] {
  const messages: Message[] = [{ role: Role.USER, content: [{ part: { $case: "text", value: question } }], name: "" }];
  return continuationRequest(CompletionRequest.create({ messages }), said, mode).messages.map((message) => ({
    speaker: message.role === Role.USER ? "user" : "assistant",
    text: message.content.map(({ part }) => (part?.$case === "text" ? part.value : "")).join(""),
  }));
}

const question: Omit<Question, "turns"> = {
  words: 1,
  tools: [],
  toolWanted: false,
  afterTool: false,
  json: undefined,
  tokensMax: undefined,
  stop: [],
};

/** What the client has in the end. */
function goOn(asked: string, said: string, mode: ContinuationMode, continues?: Continuation): string {
  const behaviour = continues === undefined ? {} : { continues };
  const { tokens } = answer({ ...question, turns: turnsTo(asked, said, mode) }, behaviour);
  try {
    const seam = new Seam(said, mode);
    return said + tokens.map((token) => seam.push(token)).join("") + seam.end();
  } catch (thrown) {
    return RpcError.from(thrown).reason;
  }
}

function cutsOf(full: string): string[] {
  const tokens = full.match(/\s*\S+|\s+$/g) ?? [];
  return tokens.map((_, index) => tokens.slice(0, index + 1).join(""));
}

describe("the simulated model", () => {
  const words = fc.array(fc.oneof(fc.constantFrom("la", "la", "very", "the"), fc.stringMatching(/^\S{1,6}$/)), {
    minLength: 1,
    maxLength: 20,
  });

  it("goes on to the letter when it is told to, wherever it was cut off", () => {
    fc.assert(
      fc.property(words, (said) => {
        const full = `You said: ${said.join(" ")}`;
        for (const cut of cutsOf(full)) expect(goOn(said.join(" "), cut, "instruction")).toBe(full);
      }),
    );
  });

  it.each([undefined, "exact", "tail", "whole", "preamble", "paraphrase", "ignore"] as const)(
    "is never heard twice and leaves nothing out: continues %s",
    (continues) => {
      fc.assert(
        fc.property(words, fc.constantFrom("prefill", "instruction"), (said, mode) => {
          const full = `You said: ${said.join(" ")}`;
          for (const cut of cutsOf(full)) {
            expect([full, "CONTINUATION_MISMATCH"]).toContain(goOn(said.join(" "), cut, mode, continues));
          }
        }),
      );
    },
  );

  it.each([
    ["instruction", "exact", false],
    ["instruction", "tail", true],
    ["instruction", "whole", true],
    ["instruction", "preamble", true],
    ["instruction", "paraphrase", false],
    ["instruction", "ignore", false],
    ["prefill", "exact", true],
    ["prefill", "tail", true],
    ["prefill", "whole", true],
    ["prefill", "preamble", false],
    ["prefill", "paraphrase", false],
    ["prefill", "ignore", false],
  ] as const)("asked by %s, is understood when it continues %s: %s", (mode, continues, understood) => {
    const asked = "one two three four five six seven eight nine ten eleven twelve";
    const joined = goOn(asked, "You said: one two three four five six seven eight nine ten", mode, continues);
    expect(joined).toBe(understood ? `You said: ${asked}` : "CONTINUATION_MISMATCH");
  });
});

interface Form {
  readonly start: () => Promise<Simulator>;
  readonly path: string;
  readonly body: (turns: readonly Turn[]) => object;
  /** The text in an answer. */
  readonly read: (answer: never) => string;
}

const messages = (turns: readonly Turn[]) => turns.map(({ speaker, text }) => ({ role: speaker, content: text }));
const openAiForm = {
  path: "/chat/completions",
  body: (turns: readonly Turn[]) => ({ model: "m", messages: messages(turns) }),
  read: ({ choices }: { choices: [{ message: { content: string } }] }) => choices[0].message.content,
};
const FORMS: Record<string, Form> = {
  openai: { ...openAiForm, start: () => startOpenAiSimulator() },
  groq: { ...openAiForm, start: () => startGroqSimulator() },
  ollama: {
    start: () => startOllamaSimulator(),
    path: "/api/chat",
    body: (turns) => ({ model: "m", messages: messages(turns), stream: false }),
    read: ({ message }: { message: { content: string } }) => message.content,
  },
  anthropic: {
    start: () => startAnthropicSimulator(),
    path: "/v1/messages",
    body: (turns) => ({ model: "claude-haiku-4-5", max_tokens: 100, messages: messages(turns) }),
    read: ({ content }: { content: [{ text: string }] }) => content[0].text,
  },
  cohere: {
    start: () => startCohereSimulator(),
    path: "/v2/chat",
    body: (turns) => ({ model: "command-r", messages: messages(turns) }),
    read: ({ message }: { message: { content: [{ text: string }] } }) => message.content[0].text,
  },
  gemini: {
    start: () => startGeminiSimulator(),
    path: "/v1beta/models/gemini-2.5-flash:generateContent",
    body: (turns) => ({
      contents: turns.map(({ speaker, text }) => ({
        role: speaker === "assistant" ? "model" : "user",
        parts: [{ text }],
      })),
    }),
    read: ({ candidates }: { candidates: [{ content: { parts: { text: string }[] } }] }) =>
      candidates[0].content.parts.map(({ text }) => text).join(""),
  },
};

describe("a simulated provider", () => {
  it.each(Object.entries(FORMS))("of the form of %s goes on with an answer", async (_name, form) => {
    const simulator = await form.start();
    running.push(simulator);
    const ask = async (turns: readonly Turn[]) => {
      const url = new URL(simulator.url);
      const base = form.path.startsWith("/chat") ? simulator.url : url.origin;
      const response = await fetch(base + form.path, {
        method: "POST",
        headers: { "content-type": "application/json", authorization: "Bearer k", "anthropic-version": "2023-06-01" },
        body: JSON.stringify(form.body(turns)),
      });
      const body = await response.json();
      expect(response.status, JSON.stringify(body)).toBe(200);
      return form.read(body as never);
    };
    expect(await ask(turnsTo("one two three", "You said: one", "prefill"))).toBe(" two three");
    expect(await ask(turnsTo("one two three", "You said: one", "instruction"))).toBe(
      "[[CONTINUE]] You said: one two three",
    );
    expect(await ask(turnsTo("one two three", "Something else", "prefill"))).toBe("You said: one two three");
  });

  it("refuses a prefill as Anthropic does", async () => {
    const simulator = await startAnthropicSimulator();
    running.push(simulator);
    const ask = async (model: string, content: string) => {
      const response = await fetch(`${new URL(simulator.url).origin}/v1/messages`, {
        method: "POST",
        headers: { "content-type": "application/json", "x-api-key": "k", "anthropic-version": "2023-06-01" },
        body: JSON.stringify({
          model,
          max_tokens: 9,
          messages: [
            { role: "user", content: "Hi" },
            { role: "assistant", content },
          ],
        }),
      });
      return [response.status, ((await response.json()) as { error?: { message: string } }).error?.message];
    };
    expect(await ask("claude-opus-4-6", "You")).toEqual([400, expect.stringMatching(/does not support.* prefill/)]);
    expect(await ask("claude-haiku-4-5", "You ")).toEqual([400, expect.stringMatching(/trailing whitespace/)]);
    expect(await ask("claude-haiku-4-5", "You")).toEqual([200, undefined]);
  });
});
