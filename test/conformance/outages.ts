/** Providers that limit, go down and come back: who is asked again when, and what clients are told when nobody is left. */
import type { Behaviour } from "../fakes/index.ts";
import type { Seen } from "./client.ts";
import { pause, type Scenario } from "./scenario.ts";
import type { Stage } from "./stage.ts";
import { describe, Mismatch, must, mustBeRefused, mustBeWhole } from "./verdict.ts";

/** How long clients may have to wait until they hear that nobody can serve them. */
const REFUSED_WITHIN_MS = 20_000;
const RETURNS_WITHIN_MS = 12_000;
/** A provider that always fails is asked at most so often by 40 requests: until it is given up, and for a trial now and then. */
const CALLS_MAX = 14;

/** Asks until the first provider is asked again; every answer has to be whole. How long it was left alone. */
async function askUntilAskedAgain(stage: Stage, calls: number): Promise<number> {
  const { generations } = stage.first;
  const deadlineMs = performance.now() + RETURNS_WITHIN_MS;
  while (generations.length < calls) {
    must(performance.now() < deadlineMs, () => "the provider was not asked again after it had recovered");
    mustBeWhole(await stage.whole(), stage.expected());
    await pause(40);
  }
  return generations[calls - 1]!.receivedAtMs - generations[calls - 2]!.receivedAtMs;
}

interface Wait {
  readonly name: string;
  readonly limited: () => Behaviour;
  readonly restMs: number;
}

const WAITS: readonly Wait[] = [
  { name: "429 with retry-after: 2", limited: () => ({ status: 429, retryAfter: 2 }), restMs: 2_000 },
  {
    name: "429 with retry-after as a date",
    // A date has no fractions of a second.
    limited: () => ({ status: 429, headers: { "retry-after": new Date(Date.now() + 3_000).toUTCString() } }),
    restMs: 2_000,
  },
  {
    name: "429 with retry-after-ms: 1500",
    limited: () => ({ status: 429, headers: { "retry-after-ms": "1500" } }),
    restMs: 1_500,
  },
  {
    name: "429 with OpenAI's x-ratelimit-reset-requests: 2s",
    limited: () => ({
      status: 429,
      headers: { "x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "2s" },
    }),
    restMs: 2_000,
  },
];

const LIMITS: readonly Scenario[] = [
  ...WAITS.map(
    ({ name, limited, restMs }): Scenario => ({
      group: "limits",
      name,
      must: "the other provider's answers; the one that limits is left alone as long as it wants, and then asked again",
      run: async (stage) => {
        stage.first.behave((index) => (index === 0 ? limited() : undefined));
        const restedMs = await askUntilAskedAgain(stage, 2);
        must(restedMs >= restMs - 100, () => `the whole text, but asked again after ${Math.round(restedMs)} ms`);
        return `the whole text; asked again after ${(restedMs / 1000).toFixed(1)} s`;
      },
    }),
  ),
  {
    group: "limits",
    name: "429 without a wait",
    must: "the other provider's answer, streamed and not",
    stages: 2,
    run: async (streamed, whole) => {
      for (const stage of [streamed!, whole!]) {
        stage.first.behave("status:429");
      }
      const seen = await Promise.all([streamed!.stream(), whole!.whole()]);
      mustBeWhole(seen[0], streamed!.expected());
      mustBeWhole(seen[1], whole!.expected());
      for (const stage of [streamed!, whole!]) stage.mustHaveAsked(stage.first);
      return "the whole text";
    },
  },
  {
    group: "limits",
    name: "429 with a retry-after of a day",
    must: "the other provider's answers; the one that limits is not asked again",
    run: async (stage) => {
      stage.first.behave("status:429,retryAfter:86400");
      for (let count = 0; count < 20; count += 1) {
        mustBeWhole(await stage.whole(), stage.expected());
        await pause(100);
      }
      const calls = stage.first.generations.length;
      must(calls === 1, () => `the whole text, but the provider was asked ${calls} times`);
      return "the whole text; asked once";
    },
  },
  {
    group: "limits",
    name: "the only provider wants to be left alone for a second",
    must: "the whole answer, after that second",
    providers: 1,
    stages: 2,
    run: async (streamed, whole) => {
      for (const stage of [streamed!, whole!]) stage.first.behave(["status:429,retryAfter:1"]);
      const seen = await Promise.all([streamed!.stream(), whole!.whole()]);
      mustBeWhole(seen[0], streamed!.expected());
      mustBeWhole(seen[1], whole!.expected());
      return "the whole text";
    },
  },
  {
    group: "limits",
    name: "both providers want to be left alone for minutes",
    must: "429 or 503 within 5 s, with a Retry-After between the shorter wait and the longer one",
    stages: 2,
    run: async (streamed, whole) => {
      for (const stage of [streamed!, whole!]) {
        stage.first.behave("status:429,retryAfter:120");
        stage.second.behave("status:429,retryAfter:300");
      }
      const seen = await Promise.all([streamed!.stream(), whole!.whole()]);
      for (const one of seen) mustTellWait(one, 118, 301, 5_000);
      return `${describe(seen[0])}, Retry-After ${seen[0].headers["retry-after"]}`;
    },
  },
  {
    group: "limits",
    name: "12 requests at once where each provider serves 2",
    must: "every one of them: the whole text",
    concurrent: 2,
    run: async (stage) => {
      const running = stage.providers.map(() => 0);
      const refused = stage.providers.map(() => 0);
      for (const [index, provider] of stage.providers.entries()) {
        provider.behave((_number, request) => {
          running[index]! += 1;
          void request.ended.then(() => {
            running[index]! -= 1;
          });
          if (running[index]! <= 2) return "tokens:12,tokenMs:20";
          refused[index]! += 1;
          return "status:429,retryAfter:1";
        });
      }
      const seen = await Promise.all(
        Array.from({ length: 12 }, (_, index) => (index % 2 === 0 ? stage.stream() : stage.whole())),
      );
      for (const one of seen) mustBeWhole(one, stage.expected({ tokens: 12 }));
      return `12 times the whole text; the providers had to refuse ${refused.reduce((sum, count) => sum + count, 0)}`;
    },
  },
];

function mustTellWait(seen: Seen, leastS: number, mostS: number, withinMs: number): void {
  mustBeRefused(seen, (status) => status === 429 || status === 503);
  const waitS = Number(seen.headers["retry-after"] ?? Number.NaN);
  must(waitS >= leastS && waitS <= mostS, () => `${describe(seen)}, Retry-After ${seen.headers["retry-after"]}`);
  must(seen.durationMs <= withinMs, () => `${describe(seen)}, but only after ${Math.round(seen.durationMs)} ms`);
}

/** Everybody fails. */
function allDown(name: string, down: (stage: Stage) => unknown): Scenario {
  return {
    group: "outage",
    name,
    must: `a status of 500 or more, or 408, and an error object with a message, within ${REFUSED_WITHIN_MS / 1000} s, streamed and not`,
    stages: 2,
    run: async (streamed, whole) => {
      for (const stage of [streamed!, whole!]) await down(stage);
      const seen = await Promise.all([streamed!.stream(), whole!.whole()]);
      for (const one of seen) {
        mustBeRefused(one, (status) => status >= 500 || status === 408);
        must(one.durationMs <= REFUSED_WITHIN_MS, () => `${describe(one)}, but only after ${one.durationMs} ms`);
      }
      return describe(seen[0]);
    },
  };
}

function behaveAll(stage: Stage, behaviour: string | undefined): void {
  for (const provider of stage.providers) provider.behave(behaviour, { everywhere: true });
}

const OUTAGES: readonly Scenario[] = [
  allDown("both providers answer 500", (stage) => behaveAll(stage, "status:500")),
  allDown("both providers refuse connections", (stage) => stage.stop()),
  allDown("both providers say nothing", (stage) => behaveAll(stage, "stall")),
  allDown("both providers close the connection", (stage) => behaveAll(stage, "cut")),
  {
    group: "outage",
    name: "one provider recovers",
    must: "the whole text all along, and the provider is asked again soon after it has recovered",
    run: async (stage) => {
      stage.first.behave("status:500", { everywhere: true });
      for (let count = 0; count < 8; count += 1) mustBeWhole(await stage.whole(), stage.expected());
      stage.first.behave(undefined);
      const recoveredAtMs = performance.now();
      await askUntilAskedAgain(stage, stage.first.generations.length + 1);
      mustBeWhole(await stage.stream(), stage.expected());
      return `the whole text; asked again ${((performance.now() - recoveredAtMs) / 1000).toFixed(1)} s after it recovered`;
    },
  },
  {
    group: "outage",
    name: "both providers fail for a while and one recovers",
    must: "the whole text again within 5 s of the recovery",
    run: async (stage) => {
      behaveAll(stage, "status:500");
      await Promise.all(Array.from({ length: 6 }, () => stage.whole()));
      stage.second.behave(undefined);
      const recoveredAtMs = performance.now();
      let seen = await stage.whole();
      while (seen.status !== 200 && performance.now() - recoveredAtMs < 5_000) {
        await pause(50);
        seen = await stage.whole();
      }
      return mustBeWhole(seen, stage.expected());
    },
  },
  {
    group: "outage",
    name: "a provider fails every other time",
    must: "the whole text each time, streamed and not",
    run: async (stage) => {
      stage.first.behave((index) => (index % 2 === 0 ? "status:500" : undefined));
      for (let count = 0; count < 30; count += 1) {
        mustBeWhole(await (count % 2 === 0 ? stage.whole() : stage.stream()), stage.expected());
      }
      return "30 times the whole text";
    },
  },
  ...(
    [
      ["a provider answers 500 without end", { status: 500 }],
      ["a provider cuts every stream off after 3 tokens", { fault: "cut", at: 3 }],
      ["a provider ends every answer before the first word", { fault: "end", at: "headers" }],
    ] as const
  ).map(
    ([name, behaviour]): Scenario => ({
      group: "outage",
      name,
      must: `40 times the whole text, and the provider leaves the rotation: at most ${CALLS_MAX} calls reach it`,
      run: async (stage) => {
        stage.first.behave(behaviour);
        for (let count = 0; count < 40; count += 1) mustBeWhole(await stage.stream(), stage.expected());
        const calls = stage.first.generations.length;
        must(calls > 0 && calls <= CALLS_MAX, () => `40 times the whole text, but it was asked ${calls} times`);
        return `40 times the whole text; it was asked ${calls} times`;
      },
    }),
  ),
  {
    group: "outage",
    name: "a provider is down and comes back on the same address",
    must: "the whole text all along",
    run: async (stage) => {
      mustBeWhole(await stage.whole(), stage.expected());
      await stage.first.stop();
      for (let count = 0; count < 5; count += 1) mustBeWhole(await stage.stream(), stage.expected());
      await stage.reviveFirst();
      const returned = async () => {
        mustBeWhole(await stage.stream(), stage.expected());
        return stage.first.generations.length > 0;
      };
      const deadlineMs = performance.now() + RETURNS_WITHIN_MS;
      while (!(await returned())) {
        if (performance.now() > deadlineMs)
          throw new Mismatch("the provider was not asked again after it had come back");
        await pause(50);
      }
      return "the whole text; the provider is asked again";
    },
  },
];

/** All of them. */
export const OUTAGE_SCENARIOS: readonly Scenario[] = [...LIMITS, ...OUTAGES];
