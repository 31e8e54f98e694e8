/** The status page, and the sentences of those who may not know names. */
import { describe, expect, it } from "vitest";
import { CheckResponse, GetReportResponse, Status } from "../../libs/gen/cortex/health/v1/health.ts";
import { BreakerState, Health } from "../../libs/gen/cortex/provider/v1/provider.ts";
import { namelessProblems, writeVerdict } from "./health-answer.ts";
import { writeHealthPage } from "./health-page.ts";

const EVIL = `<img src=x onerror="alert('x')">&`;
const shown = { refusal: undefined, nowMs: 0, reload: true };

function stateWith(fields: Parameters<typeof CheckResponse.fromPartial>[0]): CheckResponse {
  return CheckResponse.fromPartial({ status: Status.HEALTHY, natsConnected: true, nodes: 1, ...fields });
}

describe("the status page", () => {
  it("shows as text whatever names and sentences are made of", () => {
    const state = stateWith({ status: Status.DEGRADED, version: EVIL, problems: [EVIL] });
    const report = GetReportResponse.fromPartial({
      nodes: [{ id: EVIL, name: EVIL, services: [EVIL], zone: EVIL }],
      workers: [{ node: EVIL, info: { name: EVIL, provider: EVIL, health: Health.UNAVAILABLE } }],
      silentNodes: [EVIL],
      metrics: { unavailable: EVIL },
      cache: { unavailable: EVIL },
    });
    for (const page of [
      writeHealthPage({ ...shown, state, report }),
      writeHealthPage({ ...shown, state, report: undefined, refusal: EVIL }),
    ]) {
      expect(page).not.toContain("<img");
      expect(page).not.toContain("'x'");
      expect(page).toContain("&#60;img src=x onerror=&#34;alert(&#39;x&#39;)&#34;&#62;&#38;");
    }
  });

  it("says the verdict in words, and never by colour alone", () => {
    const words: readonly [Status, string][] = [
      [Status.HEALTHY, "Everything works"],
      [Status.DEGRADED, "Requests are served, but something is missing"],
      [Status.UNHEALTHY, "Requests can&#39;t be served"],
    ];
    for (const [status, headline] of words) {
      const page = writeHealthPage({ ...shown, state: stateWith({ status }), report: undefined });
      expect(page).toContain(`<h1>${headline}</h1>`);
    }
  });

  it("has the worst provider first, with its score", () => {
    const running = (provider: string) => ({
      node: "n",
      info: { name: `w-${provider}`, provider, health: Health.AVAILABLE },
    });
    const score = (name: string, points: number, success: number) => {
      return { name, score: points, success, meanMs: 400, attempts: 10 };
    };
    const report = GetReportResponse.fromPartial({
      workers: ["groq", "openai", "ollama"].map(running),
      metrics: {
        summary: { total: { requests: 20 } },
        scores: { providers: [score("openai", 100, 1), score("groq", 20, 0.5)] },
      },
    });
    const page = writeHealthPage({ ...shown, state: stateWith({}), report });
    const order = [...page.matchAll(/<th scope="row">(groq|openai|ollama)<\/th>/g)].map(([, name]) => name);
    expect(order).toEqual(["groq", "openai", "ollama"]);
    expect(page).toMatch(/20 · failing.*50\.0 %/s);
    expect(page).toMatch(/100 · well.*100\.0 %/s);
    expect(page).toContain("no data");
  });

  it("says why a worker does not serve", () => {
    const info = { name: "w", provider: "p", health: Health.UNAVAILABLE };
    const why = { reason: "PROVIDER_UNREACHABLE", message: "no answer from <b>" };
    const report = GetReportResponse.fromPartial({ workers: [{ node: "n", info: { ...info, ...why } }] });
    const page = writeHealthPage({ ...shown, state: stateWith({}), report });
    expect(page).toContain('data-label="Why">no answer from &#60;b&#62; (PROVIDER_UNREACHABLE)</td>');
  });

  it("stays short when a thousand workers are down", () => {
    const workers = Array.from({ length: 1_000 }, (_, index) => ({
      node: "n",
      info: { name: `w-${index}`, provider: "p", health: Health.UNAVAILABLE, breaker: BreakerState.OPEN },
    }));
    const problems = workers.map(({ info }) => `worker ${info.name} is unavailable`);
    const state = stateWith({ status: Status.UNHEALTHY, problems, workersUnavailable: 1_000 });
    const page = writeHealthPage({ ...shown, state, report: GetReportResponse.fromPartial({ workers }) });
    expect(page.length).toBeLessThan(40_000);
    expect(page.match(/and 950 more/g)).toHaveLength(2);
  });
});

describe("the problems as everybody may read them", () => {
  it("count what is down and name nobody", () => {
    const state = stateWith({
      status: Status.DEGRADED,
      natsConnected: false,
      workersAvailable: 3,
      workersUnavailable: 2,
      problems: [
        "node host-a: cortex.yaml has a mistake",
        "worker secret-1 is unavailable",
        "worker secret-2 is unavailable",
        "NATS is away: the directory is as it was, and changes are not seen",
      ],
    });
    expect(namelessProblems(state)).toEqual([
      "2 of 5 workers are unavailable",
      "NATS is away: the directory is as it was, and changes are not seen",
      "1 more that only administrators may read",
    ]);
    expect(writeVerdict(state, { names: true })["problems"]).toEqual(state.problems);
    expect(namelessProblems(stateWith({ workersAvailable: 1 }))).toEqual([]);
    const none = stateWith({ status: Status.UNHEALTHY, problems: ["no worker is running"] });
    expect(namelessProblems(none)).toEqual(["no worker is running"]);
  });
});
