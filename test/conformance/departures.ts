/** Clients that go away, in every phase: the provider feels it at once, and nobody pays for an answer that nobody reads. */
import type { Behaviour } from "../fakes/index.ts";
import { pause, type Scenario, until } from "./scenario.ts";
import type { Stage } from "./stage.ts";
import { must, mustBeWhole } from "./verdict.ts";

const DEPARTED = "nothing: it has gone. The provider's connection is closed within a second, and nobody else is asked";

interface Departure {
  readonly name: string;
  readonly behaviour: Behaviour;
  readonly stream: boolean;
  /** The client has seen something before it leaves. */
  readonly reads?: boolean;
}

const DEPARTURES: readonly Departure[] = [
  { name: "before the headers of a stream", behaviour: { fault: "stall", at: "request" }, stream: true },
  { name: "before the first token of a stream", behaviour: { fault: "stall", at: "headers" }, stream: true },
  { name: "in the middle of a stream", behaviour: { tokens: 5_000, tokenMs: 10 }, stream: true, reads: true },
  { name: "while a stream stalls", behaviour: { tokens: 20, fault: "stall", at: 3 }, stream: true, reads: true },
  { name: "while it waits for a whole answer", behaviour: { fault: "stall", at: "request" }, stream: false },
  { name: "in the middle of the body of a whole answer", behaviour: { fault: "stall", at: 1 }, stream: false },
];

async function mustStayAlone(stage: Stage, forMs: number): Promise<void> {
  const calls = () => stage.providers.reduce((sum, { generations }) => sum + generations.length, 0);
  const again = await until(() => calls() > 1, forMs);
  must(!again, () => "a provider was asked after the client had left");
}

/** All of them. */
export const DEPARTURE_SCENARIOS: readonly Scenario[] = [
  ...DEPARTURES.map(
    ({ name, behaviour, stream, reads = false }): Scenario => ({
      group: "departure",
      name,
      must: DEPARTED,
      run: async (stage) => {
        stage.first.behave(behaviour);
        const asked = stage.open(stream);
        const arrival = await stage.arrival(stage.first);
        if (reads) await asked.begun.catch(() => {});
        else await pause(100);
        asked.leave();
        const verdict = await stage.mustBeReleased(arrival, performance.now());
        // Long enough for the time-outs to pass that would have made the gateway ask the next one.
        await mustStayAlone(stage, 2_000);
        return verdict;
      },
    }),
  ),
  {
    group: "departure",
    name: "while the gateway waits for a provider that limits",
    must: "nothing: it has gone. The provider is not asked again",
    providers: 1,
    run: async (stage) => {
      stage.first.behave(["status:429,retryAfter:1"]);
      const asked = stage.open(false);
      const arrival = await stage.arrival(stage.first);
      await arrival.ended;
      await pause(200);
      asked.leave();
      await mustStayAlone(stage, 2_500);
      return "the provider was not asked again";
    },
  },
  {
    group: "departure",
    name: "ten clients that leave do not take a provider out",
    must: "the whole text of the provider that they left",
    run: async (stage) => {
      stage.first.behave({ tokens: 5_000, tokenMs: 10 });
      for (let count = 0; count < 10; count += 1) {
        const asked = stage.open(true);
        const arrival = await stage.arrival(stage.first, count);
        await asked.begun.catch(() => {});
        asked.leave();
        await stage.mustBeReleased(arrival, performance.now());
      }
      stage.first.behave(undefined);
      mustBeWhole(await stage.stream(), stage.expected());
      stage.mustHaveAsked(stage.second, 0);
      return "the whole text";
    },
  },
];
