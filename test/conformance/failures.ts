/** One provider fails, before or after the first word, and another one could serve. */
import type { Behaviour, Simulator } from "../fakes/index.ts";
import type { Scenario } from "./scenario.ts";
import type { Stage } from "./stage.ts";
import { describe, must, mustBeTold, mustBeWhole } from "./verdict.ts";

const UNSEEN = "the whole answer of the other provider, streamed and not, as if nothing had been";

/** What the first provider does. With a function it is done to it before anybody asks. */
type Failing = Behaviour | ((provider: Simulator) => Promise<void> | void);

interface Failure {
  readonly name: string;
  readonly failing: Failing;
  /** It can't be seen in one of the two forms of an answer. */
  readonly only?: "stream" | "whole";
  /** Nothing of it reaches the provider's log. */
  readonly unheard?: boolean;
}

const FAILURES: readonly Failure[] = [
  { name: "refuses connections", failing: (provider) => provider.stop(), unheard: true },
  {
    name: "resets new connections",
    failing: (provider) => {
      provider.accept = "reset";
    },
    unheard: true,
  },
  { name: "resets the connection instead of answering", failing: { fault: "reset", at: "request" } },
  { name: "closes the connection before the headers", failing: { fault: "cut", at: "request" } },
  { name: "says nothing at all", failing: { fault: "stall", at: "request" } },
  { name: "says nothing after the headers", failing: { fault: "stall", at: "headers" } },
  { name: "closes the connection after the headers", failing: { fault: "cut", at: "headers" } },
  { name: "answers 401", failing: { status: 401 } },
  { name: "answers 403", failing: { status: 403 } },
  { name: "answers 404, it has no such model", failing: { status: 404 } },
  { name: "answers 500", failing: { status: 500 } },
  { name: "answers 502 with a page of HTML", failing: { status: 502, html: true } },
  { name: "answers 503", failing: { status: 503 } },
  { name: "answers 529, overloaded", failing: { status: 529 } },
  {
    name: "answers 429, its quota is used up",
    failing: {
      status: 429,
      body: {
        error: {
          message: "You exceeded your current quota, please check your plan and billing details.",
          type: "insufficient_quota",
          param: null,
          code: "insufficient_quota",
        },
      },
    },
  },
  { name: "answers 200 with a page of HTML", failing: { status: 200, html: true } },
  { name: "answers 200 and nothing", failing: { fault: "end", at: "headers" } },
  { name: "answers 200 with an error in it", failing: { fault: "error", at: "headers" } },
  { name: "answers 200 and a line that is no JSON", failing: { fault: "malformed", at: "headers" } },
  { name: "answers something that is no HTTP", failing: { fault: "garbage", at: "request" } },
  { name: "answers garbage after the headers", failing: { fault: "garbage", at: "headers" } },
  { name: "ends the stream before the first token", failing: { fault: "end", at: 0 }, only: "stream" },
  { name: "stalls before the first token", failing: { fault: "stall", at: 0 }, only: "stream" },
  { name: "is late with the first token by far", failing: { firstTokenMs: 60_000 } },
  { name: "closes the connection in the middle of a JSON answer", failing: { fault: "cut", at: 1 }, only: "whole" },
  { name: "ends a JSON answer in its middle", failing: { fault: "end", at: 1 }, only: "whole" },
  { name: "stalls in the middle of a JSON answer", failing: { fault: "stall", at: 1 }, only: "whole" },
];

function beforeContent({ name, failing, only, unheard = false }: Failure): Scenario {
  const forms = only === undefined ? (["stream", "whole"] as const) : [only];
  return {
    group: "before",
    name,
    must: only === undefined ? UNSEEN : UNSEEN.replace(", streamed and not,", ","),
    stages: forms.length,
    run: async (...stages) => {
      const seen = await Promise.all(stages.map((stage, index) => askFailing(stage, failing, forms[index]!)));
      for (const [index, stage] of stages.entries()) {
        const verdict = () => mustBeWhole(seen[index]!, stage.expected());
        naming(forms.length > 1 ? forms[index] : undefined, verdict);
        if (!unheard) stage.mustHaveAsked(stage.first);
      }
      return "the whole text";
    },
  };
}

async function askFailing(stage: Stage, failing: Failing, form: "stream" | "whole") {
  if (typeof failing === "function") await failing(stage.first);
  else stage.first.behave(failing);
  return stage[form]();
}

function naming(form: "stream" | "whole" | undefined, verdict: () => unknown): void {
  try {
    verdict();
  } catch (error) {
    if (form !== undefined)
      (error as Error).message = `${form === "stream" ? "streamed" : "whole"}: ${(error as Error).message}`;
    throw error;
  }
}

const TOKENS = 20;
/** So that what came before a failure is under way when it happens. */
const TOKEN_MS = 10;
const CONTINUED = "the whole text exactly once, one finish reason, a clean end";

/** What a model does that is asked to go on with the text of another one. */
const WAYS_TO_GO_ON = {
  whole: "begins again from the beginning",
  preamble: "says a few words before it goes on",
  tail: "repeats more of the end than it was asked to",
  paraphrase: "says the same in other words instead of going on",
  ignore: "says something else instead of going on",
} as const;

interface Interruption {
  readonly name: string;
  readonly behaviour: Behaviour;
}

const INTERRUPTIONS: readonly Interruption[] = [
  ...[1, 2, 5, 10, 19].map((at) => ({
    name: `closes the connection after ${at} of ${TOKENS} tokens`,
    behaviour: { fault: "cut", at } as const,
  })),
  { name: "closes the connection after the last token, before the end", behaviour: { fault: "cut", at: 20 } },
  { name: "resets the connection after 7 tokens", behaviour: { fault: "reset", at: 7 } },
  { name: "ends the stream after 7 tokens as if that were all", behaviour: { fault: "end", at: 7 } },
  { name: "stalls after 7 tokens", behaviour: { fault: "stall", at: 7 } },
  { name: "reports an error after 7 tokens", behaviour: { fault: "error", at: 7 } },
  { name: "sends a line that is no JSON after 7 tokens", behaviour: { fault: "malformed", at: 7 } },
  { name: "sends garbage after 7 tokens", behaviour: { fault: "garbage", at: 7 } },
];

function afterContent({ name, behaviour }: Interruption): Scenario {
  return {
    group: "after",
    name,
    must: CONTINUED,
    run: async (stage) => {
      stage.first.behave({ tokens: TOKENS, tokenMs: TOKEN_MS, ...behaviour });
      stage.second.behave({ tokens: TOKENS, tokenMs: TOKEN_MS });
      const seen = await stage.stream();
      stage.mustHaveAsked(stage.first);
      return mustBeWhole(seen, stage.expected({ tokens: TOKENS }));
    },
  };
}

const SPECIAL: readonly Scenario[] = [
  {
    group: "control",
    name: "both providers work",
    must: "the whole answer of the first provider, streamed and not; the second is not asked",
    run: async (stage) => {
      const seen = [await stage.stream(), await stage.whole()];
      for (const one of seen) mustBeWhole(one, stage.expected());
      stage.mustHaveAsked(stage.first, 2);
      stage.mustHaveAsked(stage.second, 0);
      return "the whole text";
    },
  },
  {
    group: "before",
    name: "two of three providers fail",
    must: UNSEEN,
    stages: 2,
    providers: 3,
    run: async (streamed, whole) => {
      for (const stage of [streamed!, whole!]) {
        stage.first.behave("status:500");
        stage.second.behave("cut:request");
      }
      const seen = await Promise.all([streamed!.stream(), whole!.whole()]);
      mustBeWhole(seen[0], streamed!.expected());
      return mustBeWhole(seen[1], whole!.expected());
    },
  },
  {
    group: "before",
    name: "the usage after a failure",
    must: "the whole text, and the tokens that were used when the client asks for them",
    run: async (stage) => {
      stage.first.behave("status:500");
      stage.second.behave({ tokens: TOKENS });
      const seen = await stage.stream({ fields: { stream_options: { include_usage: true } } });
      mustBeWhole(seen, stage.expected({ tokens: TOKENS }));
      const used = seen.usage?.["completion_tokens"];
      must(used === TOKENS, () => `the whole text, but ${used} completion tokens instead of ${TOKENS}`);
      return `the whole text, ${used} completion tokens`;
    },
  },
  {
    group: "after",
    name: "the provider's process ends in the middle",
    must: CONTINUED,
    run: async (stage) => {
      for (const provider of stage.providers) provider.behave({ tokens: 40, tokenMs: 15 });
      const asked = stage.open(true);
      const arrival = await stage.arrival(stage.first);
      await asked.begun;
      while (arrival.tokensSent < 10) await new Promise((resolve) => setTimeout(resolve, 5));
      await stage.first.stop();
      return mustBeWhole(await asked.seen, stage.expected({ tokens: 40 }));
    },
  },
  {
    group: "after",
    name: "two of three providers are cut off one after the other",
    must: CONTINUED,
    providers: 3,
    run: async (stage) => {
      stage.first.behave({ tokens: 30, tokenMs: TOKEN_MS, fault: "cut", at: 6 });
      stage.second.behave({ tokens: 30, fault: "cut", at: 9 });
      stage.providers[2]!.behave({ tokens: 30 });
      return mustBeWhole(await stage.stream(), stage.expected({ tokens: 30 }));
    },
  },
  {
    group: "after",
    name: "the next provider refuses before the one after it goes on",
    must: CONTINUED,
    providers: 3,
    run: async (stage) => {
      stage.first.behave({ tokens: 30, tokenMs: TOKEN_MS, fault: "cut", at: 6 });
      stage.second.behave("status:500");
      stage.providers[2]!.behave({ tokens: 30 });
      return mustBeWhole(await stage.stream(), stage.expected({ tokens: 30 }));
    },
  },
  ...(["whole", "preamble", "tail"] as const).map(
    (continues): Scenario => ({
      group: "after",
      name: `the next provider ${WAYS_TO_GO_ON[continues]}`,
      must: CONTINUED,
      run: async (stage) => {
        stage.first.behave({ tokens: TOKENS, tokenMs: TOKEN_MS, fault: "cut", at: 9 });
        stage.second.behave({ tokens: TOKENS, continues });
        return mustBeWhole(await stage.stream(), stage.expected({ tokens: TOKENS }));
      },
    }),
  ),
  ...(["paraphrase", "ignore"] as const).map(
    (continues): Scenario => ({
      group: "open",
      name: `the next provider ${WAYS_TO_GO_ON[continues]}`,
      must: "the beginning and then an explicit error; never a text that is sewn together of two",
      run: async (stage) => {
        stage.first.behave({ tokens: TOKENS, tokenMs: TOKEN_MS, fault: "cut", at: 9 });
        stage.second.behave({ tokens: TOKENS, continues });
        const expected = stage.expected({ tokens: TOKENS });
        const seen = await stage.stream();
        must(expected.startsWith(seen.text), () => describe(seen, expected));
        return mustBeTold(seen, expected);
      },
    }),
  ),
  {
    group: "after",
    name: "20 streams at once lose their provider",
    must: "every one of them: the whole text exactly once, one finish reason, a clean end",
    run: async (stage) => {
      for (const provider of stage.providers) provider.behave({ tokens: 60, tokenMs: 25 });
      const open = Array.from({ length: 20 }, () => stage.open(true));
      await Promise.all(open.map(({ begun }) => begun.catch(() => {})));
      await stage.first.stop();
      const seen = await Promise.all(open.map((one) => one.seen));
      for (const one of seen) mustBeWhole(one, stage.expected({ tokens: 60 }));
      return "20 times the whole text";
    },
  },
  {
    group: "after",
    name: "the official SDK reads a stream that is cut after 7 tokens",
    must: "the SDK gives out the whole text and a finish reason, and throws nothing",
    run: async (stage) => {
      stage.first.behave({ tokens: TOKENS, tokenMs: TOKEN_MS, fault: "cut", at: 7 });
      stage.second.behave({ tokens: TOKENS });
      const expected = stage.expected({ tokens: TOKENS });
      let text = "";
      let finish: string | null = null;
      const question = { model: stage.model, messages: [{ role: "user", content: stage.said }], stream: true } as const;
      try {
        for await (const { choices } of await stage
          .sdk()
          .chat.completions.create({ ...question, messages: [...question.messages] })) {
          text += choices[0]?.delta.content ?? "";
          finish = choices[0]?.finish_reason ?? finish;
        }
      } catch (error) {
        must(
          false,
          () => `after ${text.length} of ${expected.length} characters it threw: ${(error as Error).message}`,
        );
      }
      must(text === expected && finish === "stop", () =>
        text === expected
          ? `the whole text, but finish ${finish}`
          : `${text.length} of ${expected.length} characters, finish ${finish}`,
      );
      return "the whole text";
    },
  },
  {
    group: "after",
    name: "the usage of a text that two providers wrote",
    must: "the whole text, and the tokens of both when the client asks for them",
    run: async (stage) => {
      stage.first.behave({ tokens: 40, tokenMs: TOKEN_MS, fault: "cut", at: 20 });
      stage.second.behave({ tokens: 40 });
      const seen = await stage.stream({ fields: { stream_options: { include_usage: true } } });
      mustBeWhole(seen, stage.expected({ tokens: 40 }));
      const used = Number(seen.usage?.["completion_tokens"] ?? 0);
      // What the first one wrote can only be estimated: it never said.
      must(used >= 30, () => `the whole text, but ${used} completion tokens for 40`);
      return `the whole text, ${used} completion tokens`;
    },
  },
  {
    group: "before",
    name: "closes the connection after its first, empty event",
    must: "the whole answer of the other provider, all of it under one id",
    run: async (stage) => {
      stage.first.behave({ fault: "cut", at: 0 });
      const seen = await stage.stream();
      mustBeWhole(seen, stage.expected());
      const ids = new Set(seen.events.map(({ id }) => id));
      must(ids.size === 1, () => `the whole text under ${ids.size} different ids`);
      return "the whole text";
    },
  },
];

/** All of them. */
export const FAILURE_SCENARIOS: readonly Scenario[] = [
  ...FAILURES.map(beforeContent),
  ...INTERRUPTIONS.map(afterContent),
  ...SPECIAL,
];
