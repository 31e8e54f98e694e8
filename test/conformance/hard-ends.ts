/** Answers that nobody else can finish, and answers that only look as if they were broken. */
import type { Scenario } from "./scenario.ts";
import { describe, must, mustBeTold, mustBeWhole, mustBeWholeOrTold } from "./verdict.ts";

const TOLD = "an explicit error, or a connection that is lost; never a short answer with a clean end";

const WEATHER = {
  type: "function",
  function: {
    name: "weather",
    parameters: { type: "object", properties: { city: { type: "string" }, country: { type: "string" } } },
  },
};
const FORECAST = {
  type: "json_schema",
  json_schema: {
    name: "forecast",
    strict: true,
    schema: {
      type: "object",
      properties: { city: { type: "string" }, days: { type: "array", items: { type: "integer" } } },
    },
  },
};

/** What the simulated models think. */
const THOUGHTS = "Let me think.";

/** The only provider fails in the middle. */
function alone(name: string, fault: "cut" | "end" | "stall" | "error"): Scenario {
  return {
    group: "open",
    name,
    must: TOLD,
    providers: 1,
    run: async (stage) => {
      stage.first.behave({ tokens: 20, tokenMs: 10, fault, at: 7 });
      return mustBeWholeOrTold(await stage.stream(), stage.expected({ tokens: 20 }));
    },
  };
}

const OPEN: readonly Scenario[] = [
  alone("the only provider closes the connection after 7 tokens", "cut"),
  alone("the only provider ends the stream after 7 tokens as if that were all", "end"),
  alone("the only provider stalls after 7 tokens", "stall"),
  alone("the only provider reports an error after 7 tokens", "error"),
  ...(["cut", "end"] as const).map((fault): Scenario => {
    const how = fault === "cut" ? "the connection is closed" : "the stream ends as if that were all";
    return {
      group: "open",
      name: `${how} in the middle of a tool call`,
      must: `${TOLD}; never a tool call whose arguments are cut off`,
      run: async (stage) => {
        stage.first.behave({ tokenMs: 10, fault, at: 3 });
        const seen = await stage.stream({ said: "call tool please", fields: { tools: [WEATHER] } });
        const whole = seen.toolArguments === JSON.stringify({ city: "text", country: "text" });
        if (whole && seen.finishes.join() === "tool_calls" && seen.error === undefined) return "the whole tool call";
        return mustBeTold(seen);
      },
    };
  }),
  {
    group: "open",
    name: "the connection is closed in the middle of an answer in JSON",
    must: `${TOLD}; never JSON that is cut off or that two providers wrote`,
    run: async (stage) => {
      stage.first.behave({ tokenMs: 10, fault: "cut", at: 3 });
      const seen = await stage.stream({ fields: { response_format: FORECAST } });
      if (seen.error === undefined && seen.end === "clean" && seen.finishes.join() === "stop") {
        must(isForecast(seen.text), () => `finish stop after ${JSON.stringify(seen.text)}`);
        return "the whole JSON";
      }
      return mustBeTold(seen);
    },
  },
  {
    group: "open",
    name: "the connection is closed while the model still thinks",
    must: `${TOLD}; or the whole text, and no thought twice`,
    flavor: "deepseek",
    run: async (stage) => {
      const thinking = { fields: { reasoning_effort: "high" } };
      stage.first.behave({ tokenMs: 10, fault: "cut", at: 2 });
      const seen = await stage.stream(thinking);
      if (seen.text === "") return mustBeTold(seen);
      must(seen.reasoning === THOUGHTS, () => `the text after the thoughts ${JSON.stringify(seen.reasoning)}`);
      return mustBeWhole(seen, stage.expected());
    },
  },
  {
    group: "open",
    name: "two choices were asked for and the connection is closed in the middle",
    must: TOLD,
    run: async (stage) => {
      stage.first.behave({ tokens: 20, tokenMs: 10, fault: "cut", at: 7 });
      stage.second.behave({ tokens: 20 });
      const seen = await stage.stream({ fields: { n: 2 } });
      const whole = stage.expected({ tokens: 20 }).length * 2;
      if (seen.finishes.join() === "stop,stop" && seen.text.length === whole && seen.error === undefined)
        return "both whole";
      return mustBeTold(seen);
    },
  },
];

function isForecast(text: string): boolean {
  try {
    const { city, days } = JSON.parse(text) as { city?: unknown; days?: unknown };
    return city === "text" && JSON.stringify(days) === "[1]";
  } catch {
    return false;
  }
}

const ALIVE: readonly Scenario[] = [
  {
    group: "alive",
    name: "a token every 400 ms",
    must: "the whole text of the provider that is slow; the other one is not asked",
    run: async (stage) => {
      stage.first.behave({ tokens: 12, tokenMs: 400 });
      const seen = await stage.stream();
      mustBeWhole(seen, stage.expected({ tokens: 12 }));
      stage.mustHaveAsked(stage.first, 1);
      stage.mustHaveAsked(stage.second, 0);
      return "the whole text";
    },
  },
  {
    group: "alive",
    name: "the first token after 800 ms",
    must: "the whole text of the provider that is slow; the other one is not asked",
    stages: 2,
    run: async (streamed, whole) => {
      for (const stage of [streamed!, whole!]) stage.first.behave({ firstTokenMs: 800 });
      const seen = await Promise.all([streamed!.stream(), whole!.whole()]);
      mustBeWhole(seen[0], streamed!.expected());
      mustBeWhole(seen[1], whole!.expected());
      for (const stage of [streamed!, whole!]) {
        stage.mustHaveAsked(stage.first, 1);
        stage.mustHaveAsked(stage.second, 0);
      }
      return "the whole text";
    },
  },
  ...[
    ["each byte on its own", { byteMs: 0 }],
    ["lines that end with CRLF", { crlf: true }],
    ["each byte on its own, and lines that end with CRLF", { byteMs: 0, crlf: true }],
  ].map(
    ([name, behaviour]): Scenario => ({
      group: "alive",
      name: name as string,
      must: "the whole text of that provider; the other one is not asked",
      run: async (stage) => {
        stage.first.behave(behaviour as object);
        const seen = await stage.stream();
        mustBeWhole(seen, stage.expected());
        stage.mustHaveAsked(stage.first, 1);
        stage.mustHaveAsked(stage.second, 0);
        return "the whole text";
      },
    }),
  ),
];

/** Whether the error's body is for a client to act on: status, code, and nobody else was asked. */
const REQUESTS: readonly Scenario[] = [
  {
    group: "request",
    name: "the provider refuses the request with 400",
    must: "status 400 with the provider's reason at once; exactly one call to exactly one provider",
    stages: 2,
    run: async (streamed, whole) => {
      for (const stage of [streamed!, whole!]) stage.first.behave("status:400");
      const seen = await Promise.all([streamed!.stream(), whole!.whole()]);
      for (const one of seen) {
        must(one.status === 400 && one.error !== undefined, () => describe(one));
        must(/temperature/.test(one.body), () => "400, but not the provider's reason");
      }
      for (const stage of [streamed!, whole!]) {
        const calls = stage.first.generations.length + stage.second.generations.length;
        must(calls === 1, () => `400 after ${calls} calls`);
      }
      return "400 after one call";
    },
  },
  {
    group: "request",
    name: "the prompt is longer than the model's context",
    must: "status 400 with the code context_length_exceeded; exactly one call to exactly one provider",
    run: async (stage) => {
      const message =
        "This model's maximum context length is 8192 tokens. However, your messages resulted in 9000 tokens.";
      const error = { message, type: "invalid_request_error", param: "messages", code: "context_length_exceeded" };
      for (const provider of stage.providers) provider.behave({ status: 400, body: { error } });
      const seen = await stage.whole();
      const calls = stage.first.generations.length + stage.second.generations.length;
      must(seen.status === 400 && seen.error?.["code"] === error.code, () => describe(seen));
      must(calls === 1, () => `${describe(seen)} after ${calls} calls`);
      return describe(seen);
    },
  },
  {
    group: "request",
    name: "bad requests do not take a provider out",
    must: "400 each time; the provider that refused them goes on serving the good ones",
    run: async (stage) => {
      stage.first.behave("status:400");
      for (let count = 0; count < 10; count += 1) {
        const seen = await stage.whole();
        must(seen.status === 400, () => describe(seen));
      }
      stage.first.behave(undefined);
      mustBeWhole(await stage.whole(), stage.expected());
      stage.mustHaveAsked(stage.second, 0);
      return "ten times 400, then the whole text";
    },
  },
];

/** All of them. */
export const HARD_END_SCENARIOS: readonly Scenario[] = [...OPEN, ...ALIVE, ...REQUESTS];
