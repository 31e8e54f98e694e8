/**
 * A real Prometheus scrapes a mesh of two nodes that it finds by itself, after traffic of every kind: every metric of the catalogue is
 * there, every query of every dashboard has data, and examples lead to traces.
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it, vi } from "vitest";
import { parse } from "yaml";
import { RouterServiceDefinition } from "../../libs/gen/cortex/router/v1/router.ts";
import { METRIC, type MetricDefinition } from "../../libs/telemetry/index.ts";
import { see } from "../asking.ts";
import { type Simulator, startOpenAiSimulator, unusedPort } from "../fakes/index.ts";
import { type OtlpReceiver, startOtlpReceiver } from "../fakes/otlp.ts";
import { ask, startMesh, type TestMesh, type TestNode } from "../mesh.ts";
import { describeWith, requireProgram } from "../programs.ts";
import { DASHBOARDS } from "./dashboards.ts";

const ROOT = new URL("../..", import.meta.url).pathname;
const ADMIN = "an-administrators-key";
const CLIENT = "a-clients-key";
const TOKEN = "the-scrapers-token";
const catalogue: readonly MetricDefinition[] = Object.values(METRIC);

/** A Prometheus that runs. */
interface Prometheus {
  /** What its API answers, or the reason why not. */
  get<T>(path: string, parameters: Readonly<Record<string, string>>): Promise<T>;
  stop(): Promise<void>;
}

/** Starts Prometheus with the project's own configuration, in a hurry. */
async function startPrometheus(rest: string): Promise<Prometheus> {
  const folder = await mkdtemp(join(tmpdir(), "cortex-prometheus-"));
  const configuration = parse(await readFile(`${ROOT}deploy/prometheus/prometheus.yml`, "utf8"));
  configuration.global = { scrape_interval: "1s", evaluation_interval: "1s" };
  configuration.rule_files = [`${ROOT}deploy/prometheus/rules.yml`];
  const [job] = configuration.scrape_configs;
  const authorization = { type: "Bearer", credentials: TOKEN };
  job.authorization = authorization;
  job.http_sd_configs = [{ url: `${rest}/metrics/targets`, refresh_interval: "1s", authorization }];
  await writeFile(join(folder, "prometheus.yml"), JSON.stringify(configuration));
  const port = await unusedPort();
  const child = spawn(
    requireProgram("prometheus"),
    [
      `--config.file=${join(folder, "prometheus.yml")}`,
      `--storage.tsdb.path=${join(folder, "data")}`,
      `--web.listen-address=127.0.0.1:${port}`,
      "--enable-feature=exemplar-storage",
      "--log.level=warn",
    ],
    { stdio: ["ignore", "ignore", "pipe"] },
  );
  const ended = once(child, "close");
  let said = "";
  child.stderr.setEncoding("utf8").on("data", (piece: string) => {
    said += piece;
  });
  const base = `http://127.0.0.1:${port}`;
  await vi.waitFor(async () => expect((await fetch(`${base}/-/ready`)).status, said).toBe(200));
  return {
    async get<T>(path: string, parameters: Readonly<Record<string, string>>) {
      const response = await fetch(`${base}/api/v1/${path}?${new URLSearchParams(parameters)}`);
      const body = (await response.json()) as { status: string; error?: string; data: T };
      if (body.status !== "success") throw new Error(`${parameters["query"]}: ${body.error}`);
      return body.data;
    },
    async stop() {
      child.kill("SIGTERM");
      await ended;
      await rm(folder, { recursive: true, force: true });
    },
  };
}

describeWith(["prometheus"], "a Prometheus that scrapes a mesh of two nodes", () => {
  let good: Simulator;
  let bad: Simulator;
  let otlp: OtlpReceiver;
  let mesh: TestMesh;
  let second: TestNode;
  let prometheus: Prometheus;

  beforeAll(async () => {
    good = await startOpenAiSimulator({ behaviour: "tokenMs:10" });
    bad = await startOpenAiSimulator({ behaviour: "status:500" });
    otlp = await startOtlpReceiver();
    const prices = { inputCostUsdPerMillion: 1, outputCostUsdPerMillion: 2 };
    const worker = { provider: "openai", keys: ["key-a", "key-b"], modelProperties: { "*": prices } };
    mesh = await startMesh("one node", {
      workers: [
        { ...worker, name: "bad", baseUrl: bad.url, models: ["m"], priority: 1, breaker: { failures: 2 } },
        { ...worker, name: "good", baseUrl: good.url, models: ["m"], priority: 2, limits: { concurrent: 50 } },
        { ...worker, name: "down", baseUrl: `http://127.0.0.1:${await unusedPort()}/v1`, models: ["d"], priority: 3 },
      ],
      settings: {
        cache: { enabled: true },
        gateway: { bodyBytesMax: 10_000 },
        clients: [
          { key: ADMIN, tenant: "operators", admin: true },
          { key: CLIENT, tenant: "team-a" },
        ],
        metrics: { token: TOKEN },
      },
      environment: otlp.environment,
    });
    second = await mesh.run("router", "cache", "adapter-openai");
    prometheus = await startPrometheus(mesh.rest);
  });

  afterAll(async () => {
    await prometheus?.stop();
    await mesh?.[Symbol.asyncDispose]();
    await Promise.all([good?.stop(), bad?.stop(), otlp?.stop()]);
  });

  const headers = { authorization: `Bearer ${CLIENT}` };
  const messages = (content: string) => [{ role: "user", content }];
  let asked = 0;

  /** What happens in a mesh, in small: answers, hits, failovers, errors, refusals. */
  async function traffic(): Promise<void> {
    const fresh = `question ${++asked}`;
    const streamed = await see(mesh.rest, { model: "m", stream: true, messages: messages(fresh) }, { headers });
    expect(streamed.error).toBeUndefined();
    await see(mesh.rest, { model: "m", stream: true, messages: messages(fresh) }, { headers });
    await see(mesh.rest, { model: "m", messages: messages(`${fresh}, whole`) }, { headers });
    expect((await see(mesh.rest, { model: "nobody-has-it", messages: messages(fresh) }, { headers })).status).toBe(404);
    expect((await see(mesh.rest, { model: "d", messages: messages(fresh) }, { headers })).status).toBe(503);
    expect((await see(mesh.rest, { model: "m", messages: messages(fresh) })).status).toBe(401);
    await see(mesh.rest, { model: "m", messages: messages("x".repeat(20_000)) }, { headers });
    await fetch(`${mesh.rest}/v1/embeddings`, {
      method: "POST",
      headers: { ...headers, "content-type": "application/json" },
      body: JSON.stringify({ model: "m", input: fresh }),
    });
    const list = (key: string) =>
      ask(second.grpc, (channel, call) => channel.client(RouterServiceDefinition).listModels({}, call), key);
    await list(CLIENT);
    await expect(list("a-wrong-key")).rejects.toMatchObject({ reason: "UNAUTHENTICATED" });
    // What the breaker has opened for is tried again.
    if (asked % 5 === 0) bad.behave(asked % 10 === 0 ? "status:500" : "tokenMs:10");
  }

  it("finds both nodes, and can scrape them", async () => {
    type Targets = { activeTargets: { health: string; lastError: string; labels: Record<string, string> }[] };
    await expect
      .poll(async () => {
        const { activeTargets } = await prometheus.get<Targets>("targets", { state: "active" });
        return activeTargets
          .map(({ health, lastError, labels }) => `${labels["services"]}: ${health} ${lastError}`)
          .sort();
      })
      .toEqual([expect.stringMatching(/^gateway,router,.*: up $/), "router,cache,adapter-openai: up "]);
  });

  it("sees every metric of the catalogue", async () => {
    await expect
      .poll(async () => {
        await traffic();
        const texts = await Promise.all(
          [mesh.node("gateway"), second].map(async (node) => {
            const response = await fetch(node.metrics!, { headers: { authorization: `Bearer ${TOKEN}` } });
            return response.text();
          }),
        );
        for (const secret of [ADMIN, CLIENT, TOKEN, "key-a", "key-b", "question"]) {
          for (const text of texts) expect(text).not.toContain(secret);
        }
        const told = new Set(texts.flatMap((text) => [...text.matchAll(/^([a-z_0-9]+)/gm)].map(([name]) => name)));
        return catalogue
          .map(({ name, kind }) => (kind === "histogram" ? `${name}_count` : name))
          .filter((name) => !told.has(name));
      })
      .toEqual([]);
  });

  it("has data for every query of every dashboard", { timeout: 120_000 }, async () => {
    const queries = Object.entries(DASHBOARDS).flatMap(([name, { rows }]) =>
      rows.flatMap((row) =>
        row.panels.flatMap((panel) =>
          panel.queries.map(({ expr }) => ({
            panel: `${name}: ${panel.title}`,
            query: expr.replaceAll("$__rate_interval", "15s").replaceAll(/\$\w+/g, ".*"),
          })),
        ),
      ),
    );
    // What happens now and then is in its window now and then: on a busy machine not all of it at the same moment.
    let without = queries;
    await expect
      .poll(
        async () => {
          await traffic();
          const answers = await Promise.all(
            without.map(async (asked) => {
              const { query } = asked;
              const { result } = await prometheus.get<{ result: { value: [number, string] }[] }>("query", { query });
              return result.some(({ value: [, number] }) => number !== "NaN") ? [] : [asked];
            }),
          );
          without = answers.flat();
          return without.map(({ panel, query }) => `${panel}: ${query}`);
        },
        { timeout: 90_000, interval: 200 },
      )
      .toEqual([]);
  });

  it("has the filters' values", async () => {
    for (const { filters = [] } of Object.values(DASHBOARDS)) {
      for (const { name, metric } of filters) {
        const values = await prometheus.get<string[]>(`label/${name}/values`, { "match[]": metric });
        expect(values.length, name).toBeGreaterThan(0);
      }
    }
  });

  it("keeps examples that lead to traces", async () => {
    type Exemplars = { exemplars: { labels: { trace_id: string } }[] }[];
    const { name } = METRIC.requestDuration;
    await expect
      .poll(async () => {
        await traffic();
        const end = String(Date.now() / 1_000);
        const parameters = { query: `${name}_bucket`, start: String(Date.now() / 1_000 - 600), end };
        const found = await prometheus.get<Exemplars>("query_exemplars", parameters);
        const ids = found.flatMap(({ exemplars }) => exemplars.map(({ labels }) => labels.trace_id));
        return ids.some((id) => otlp.spans.some(({ traceId }) => traceId === id));
      })
      .toBe(true);
  });

  it("sees the alerts that fit", async () => {
    await expect
      .poll(async () => {
        await traffic();
        const query = 'ALERTS{alertname=~"CortexErrorRateHigh|CortexWorkerDown"}';
        const { result } = await prometheus.get<{ result: { metric: Record<string, string> }[] }>("query", { query });
        return result.map(({ metric }) => `${metric["alertname"]} ${metric["worker"] ?? ""}`.trim()).sort();
      })
      .toEqual(expect.arrayContaining(["CortexErrorRateHigh", "CortexWorkerDown down"]));
  });

  it("is let in by the token or an administrator's key, and by nothing else", async () => {
    const statusOf = async (address: string, key?: string) => {
      const authorization = key === undefined ? {} : { authorization: `Bearer ${key}` };
      return (await fetch(address, { headers: authorization })).status;
    };
    for (const address of [mesh.node("gateway").metrics!, `${mesh.rest}/metrics/targets`, second.metrics!]) {
      expect(await statusOf(address)).toBe(401);
      expect(await statusOf(address, "a-wrong-key")).toBe(401);
      expect(await statusOf(address, CLIENT)).toBe(403);
      expect(await statusOf(address, ADMIN)).toBe(200);
      expect(await statusOf(address, TOKEN)).toBe(200);
    }
  });
});
