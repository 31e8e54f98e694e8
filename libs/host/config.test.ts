/** What a node is told, by the file and by the environment, and what it says when that is not right. */
// biome-ignore-all lint/suspicious/noTemplateCurlyInString: so cortex.yaml names variables.
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, describe, expect, it } from "vitest";
import { stringify } from "yaml";
import { type Configuration, ConfigurationError, loadConfiguration, readKeysVariable } from "./config.ts";

const PROVIDERS = ["ollama", "openai", "sim"];
const folder = mkdtempSync(join(tmpdir(), "cortex-config-"));
const file = join(folder, "cortex.yaml");

afterAll(() => rmSync(folder, { recursive: true }));

type Environment = Readonly<Record<string, string | undefined>>;

/** The configuration that this file and this environment come to. */
function load(yaml: string, environment: Environment = {}): Configuration {
  writeFileSync(file, yaml);
  return loadConfiguration({ file, providers: PROVIDERS, environment });
}

/** Without any file. */
function fromEnvironment(environment: Environment): Configuration {
  return loadConfiguration({ providers: [...PROVIDERS, "groq", "gemini", "anthropic", "cohere"], environment });
}

/** What is wrong, line by line, without the heading. */
function problemsOf(read: () => unknown): string[] {
  try {
    read();
  } catch (error) {
    expect(error).toBeInstanceOf(ConfigurationError);
    const [head, ...problems] = (error as Error).message.split("\n");
    expect(head).toMatch(/^the configuration.* is not right:$/);
    return problems.map((line) => {
      expect(line).toMatch(/^ {2}- \S/);
      return line.slice(4);
    });
  }
  throw new Error("nothing was wrong");
}

describe("cortex.yaml", () => {
  it("may be empty, or say nothing but comments", () => {
    for (const yaml of ["", "# nothing yet: ${NOT_SET}\n", "{}"]) {
      const configuration = load(yaml);
      expect(configuration).toMatchObject({ workers: [], workersFrom: "nothing", clients: [], file });
      expect(configuration.routing).toEqual({
        strategy: "local_first",
        models: {},
        attemptsMax: 8,
        waitMaxMs: 10_000,
        retryRatio: 0.2,
        continuation: true,
        hedging: { enabled: false, ratio: 0.02 },
        queue: { size: 1_000, waitMaxMs: 30_000 },
        timeoutMs: 1_800_000,
      });
    }
  });

  it("says what workers, routes and clients there are", () => {
    const configuration = load(
      `
workers:
  - name: groq-main
    provider: openai
    baseUrl: https://api.groq.com/openai/v1
    keys: [\${KEY_A}, "\${KEY_B}"]        # in a flow sequence, braces have a meaning of their own
    models: [llama-3.3-70b-versatile]
    priority: 50
    limits: { concurrent: 64 }
  - { name: ollama-local, provider: ollama }
routing:
  attemptsMax: 3
  models:
    fast: [groq-main/llama-3.3-70b-versatile, ollama-local/gemma3:4b]
clients:
  - { key: \${TEAM_KEY}, tenant: team-a }
  - key: "prefix-\${KEY_A}-\${KEY_B}"
node: { zone: eu, drainMs: 5 }
log: { level: warn }
`,
      { KEY_A: "a", KEY_B: "b", TEAM_KEY: "t", CORTEX_CLIENT_KEYS: "x, y,," },
    );
    expect(configuration.workersFrom).toBe("file");
    expect(configuration.workers).toEqual([
      {
        name: "groq-main",
        provider: "openai",
        baseUrl: "https://api.groq.com/openai/v1",
        keys: ["a", "b"],
        models: ["llama-3.3-70b-versatile"],
        priority: 50,
        limits: { concurrent: 64 },
      },
      { name: "ollama-local", provider: "ollama", keys: [] },
    ]);
    expect(configuration.routing).toMatchObject({
      attemptsMax: 3,
      models: { fast: { targets: ["groq-main/llama-3.3-70b-versatile", "ollama-local/gemma3:4b"] } },
    });
    expect(configuration.clients).toEqual([
      { key: "t", tenant: "team-a", admin: false },
      { key: "prefix-a-b", tenant: "default", admin: false },
      { key: "x", tenant: "default", admin: false },
      { key: "y", tenant: "default", admin: false },
    ]);
    expect(configuration.node).toEqual({ zone: "eu", drainMs: 5 });
    expect(configuration.log.level).toBe("warn");
  });

  it("does not read a variable's value as YAML, nor a variable within it", () => {
    const value = 'a: [b, "c"] # ${OTHER} {{\n- d';
    const [worker] = load("workers: [{ name: a, provider: sim, keys: [${ODD}] }]", { ODD: value, OTHER: "no" }).workers;
    expect(worker!.keys).toEqual([value]);
  });

  it("takes a worker's keys from the environment when it names none", () => {
    const yaml = "workers: [{ name: a, provider: openai }, { name: b, provider: openai, keys: [] }]";
    const [first, second] = load(yaml, { OPENAI_API_KEYS: "one, two" }).workers;
    expect([first!.keys, second!.keys]).toEqual([["one", "two"], []]);
  });

  it("wins over the workers of the environment", () => {
    expect(load("workers: []", { OPENAI_API_KEY: "k" })).toMatchObject({ workers: [], workersFrom: "file" });
    expect(load("log: { level: warn }", { OPENAI_API_KEY: "k" })).toMatchObject({ workersFrom: "environment" });
  });
});

describe("mistakes", () => {
  it("are told all at once, each with its field", () => {
    const problems = problemsOf(() =>
      load(
        `
workers:
  - { name: Bad_Name, provider: sim, priority: -1 }
  - { name: ok, provider: opneai, keys: [\${NOT_SET}], baseUrl: localhost:8080, pool: { conections: 5 } }
  - { name: ok, provider: sim, models: [] }
  - { provider: sim }
routing: { strategy: fastest, models: { fast: cheap, chat: { targets: [a], stratgy: cost } } }
clients: [{ key: same }, { key: same, tenant: b }]
colour: blue
`,
        { PORT: "eighty", CORTEX_GRPC_PORT: "65536", CORTEX_LOG_LEVEL: "loud" },
      ),
    );
    const fields = problems.map((problem) => problem.split(": ")[0]);
    expect(fields.sort()).toEqual(
      [
        "workers[0].name",
        "workers[0].priority",
        "workers[1].provider",
        "workers[1].keys[0]",
        "workers[1].baseUrl",
        "workers[1].pool.conections",
        "workers[2].name",
        "workers[2].models",
        "workers[3].name",
        "routing.strategy",
        "routing.models.fast",
        "routing.models.chat.stratgy",
        "clients[1].key",
        "colour",
        'the environment\'s PORT is "eighty"; it has to be a port from 0 (any free one) to 65535',
        'the environment\'s CORTEX_GRPC_PORT is "65536"; it has to be a port from 0 (any free one) to 65535',
        'the environment\'s CORTEX_LOG_LEVEL is "loud"; it has to be one of trace, debug, info, warn, error, silent',
      ].sort(),
    );
    const all = problems.join("\n");
    expect(all).toContain("workers[1].keys[0]: ${NOT_SET} is not set in the environment");
    expect(all).toContain("workers[1].baseUrl: has to be an address that begins with http:// or https://");
    expect(all).toContain("workers[1].pool.conections: there is no such field; there are connections, keepAliveMs");
    expect(all).toContain("colour: there is no such field; there are workers, routing, cache,");
    expect(all).toContain("routing.models.fast: expected a list of models, or targets with options");
    expect(all).toContain("routing.models.chat.stratgy: there is no such field; there are targets, strategy,");
    expect(all).toContain("workers[3].name: is missing; it has to be a text");
    expect(all).toContain("workers[2].name: workers[1] has it already");
    expect(all).toContain("workers[0].priority: has to be at least 0");
    expect(all).toContain("workers[2].models: must not be empty");
    expect(all).not.toMatch(/Too small|Too big|Invalid|expected (string|number|array)/);
    expect(all).toContain("clients[1].key: clients[0] has it already");
    expect(all).toContain(`there are ${PROVIDERS.join(", ")}`);
    expect(all).toContain("(use openai with a baseUrl for OpenAI-compatible servers)");
  });

  it("are told once: a variable that is missing is no empty key, and no wrong address", () => {
    const yaml = "workers: [{ name: a, provider: openai, baseUrl: ${HERE}/v1, keys: [${KEY}, ${KEY}] }]";
    expect(problemsOf(() => load(yaml)).sort()).toEqual([
      "workers[0].baseUrl: ${HERE} is not set in the environment",
      "workers[0].keys[0]: ${KEY} is not set in the environment",
    ]);
    expect(problemsOf(() => load("clients: [{ key: ${A} }, { key: ${B} }]"))).toHaveLength(2);
    // One that is set to nothing is.
    expect(problemsOf(() => load(yaml, { HERE: "http://h", KEY: "" }))[0]).toContain("workers[0].keys[0]");
  });

  it("name the file, if there is one", () => {
    expect(() => load("colour: blue")).toThrow(file);
    expect(() => fromEnvironment({ PORT: "x" })).toThrow(/^the configuration is not right:\n/);
    expect(() => loadConfiguration({ file: join(folder, "none.yaml"), providers: [], environment: {} })).toThrow(
      /none\.yaml is not right:\n {2}- it can't be read/,
    );
    const environment = { CORTEX_CONFIG: join(folder, "other.yaml") };
    expect(() => loadConfiguration({ providers: [], environment })).toThrow(
      /other\.yaml is not right:\n {2}- it can't be read/,
    );
  });

  it.each([
    ["what is no YAML", "workers: [", /line 1/],
    ["a key that comes twice", "log: {}\nlog: {}", /unique.* line 2/],
    ["a variable in the wrong place", "workers: [${KEY}", /line 1/],
    ["a variable as the name of a field", "${KEY}: 1", /^\$\{KEY\}: there is no such field/],
    ["a list where there should be fields", "- a", /the file: has to be an object, not a list/],
    ["aliases without end", `a: &a [x, x]\n${"bcdefghijk".replaceAll(/./g, (c) => chain(c))}`, /alias/],
  ])("include %s", (_name, yaml, expected) => {
    const problems = problemsOf(() => load(yaml, { KEY: "k" }));
    expect(problems.join("\n")).toMatch(expected);
  });

  function chain(letter: string): string {
    const before = String.fromCharCode(letter.charCodeAt(0) - 1);
    return `${letter}: &${letter} [${Array(9).fill(`*${before}`).join(", ")}]\n`;
  }

  it("include a port that is wanted twice", () => {
    expect(problemsOf(() => fromEnvironment({ PORT: "50051" }))).toEqual(["PORT and CORTEX_GRPC_PORT are both 50051"]);
    expect(fromEnvironment({ PORT: "0", CORTEX_GRPC_PORT: "0" })).toMatchObject({ restPort: 0, grpcPort: 0 });
  });

  it("are told without any secret, wherever it stands and whatever else is wrong", () => {
    const secret = "sk-canary-7f3a9b";
    const reference = fc.constantFrom("${SECRET}", "x-${SECRET}", secret);
    const value = fc.oneof(
      reference,
      fc.array(reference, { maxLength: 2 }),
      fc.constantFrom(1, -1, null, "sim", "${MISSING}"),
    );
    const worker = fc.record(
      {
        name: fc.oneof(value, fc.constant("a")),
        provider: fc.oneof(value, fc.constant("sim")),
        baseUrl: value,
        keys: value,
        models: value,
        priority: value,
        pool: fc.record({ connections: value }),
      },
      { requiredKeys: [] },
    );
    const anyFile = fc.record(
      {
        workers: fc.oneof(fc.array(worker, { maxLength: 3 }), value),
        routing: fc.record({ strategy: value, models: fc.record({ fast: value }) }, { requiredKeys: [] }),
        clients: fc.oneof(fc.array(fc.record({ key: value, tenant: value }, { requiredKeys: [] })), value),
        log: fc.record({ level: value }),
      },
      { requiredKeys: [] },
    );
    const broken = fc.constantFrom("", "\n  - [", "\n}", '\n"', "\n@a", ": :", "\n\tx: 1", " *none", " !tag");
    let wrong = 0;
    fc.assert(
      fc.property(anyFile, broken, (content, tail) => {
        try {
          load(stringify(content) + tail, { SECRET: secret });
        } catch (error) {
          wrong++;
          expect(error).toBeInstanceOf(ConfigurationError);
          expect((error as Error).message).not.toContain("canary");
        }
      }),
      { numRuns: 500 },
    );
    expect(wrong).toBeGreaterThan(100);
  });
});

describe("the environment", () => {
  it("says where to listen, what to use and where things are kept", () => {
    expect(fromEnvironment({ HOME: "/home/me" })).toMatchObject({
      host: "127.0.0.1",
      restPort: 8080,
      grpcPort: 50051,
      grpcPortGiven: false,
      natsUrl: undefined,
      natsBin: undefined,
      cacheDir: "/home/me/.cache/cortex",
      tracing: { enabled: false, share: 0.05 },
      file: undefined,
      log: { level: "info" },
    });
    expect(
      fromEnvironment({
        HOST: "0.0.0.0",
        PORT: "9000",
        CORTEX_GRPC_PORT: "9001",
        CORTEX_NATS_URL: "nats://n:4222",
        CORTEX_NATS_BIN: "/bin/nats",
        CORTEX_DATA: "/data",
        CORTEX_LOG_LEVEL: "debug",
        XDG_CACHE_HOME: "/cache",
        HOSTNAME: "pod-1",
        PATH: "/bin",
        OTEL_EXPORTER_OTLP_ENDPOINT: "http://collector:4318",
      }),
    ).toMatchObject({
      host: "0.0.0.0",
      restPort: 9000,
      grpcPort: 9001,
      grpcPortGiven: true,
      natsUrl: "nats://n:4222",
      natsBin: "/bin/nats",
      dataDir: "/data",
      cacheDir: "/cache/cortex",
      hostname: "pod-1",
      path: "/bin",
      tracing: { enabled: true, share: 0.05 },
      log: { level: "debug" },
    });
  });

  it("says nothing with a variable that is empty, as composed containers set them", () => {
    const names = [
      "HOST PORT CORTEX_GRPC_PORT CORTEX_CONFIG CORTEX_CLIENT_KEYS CORTEX_LOG_LEVEL CORTEX_NATS_URL CORTEX_NATS_BIN",
      "CORTEX_DATA OPENAI_API_KEYS OPENAI_API_KEY OPENAI_BASE_URL OTEL_EXPORTER_OTLP_ENDPOINT HOSTNAME XDG_CACHE_HOME",
    ].flatMap((line) => line.split(" "));
    const empty = Object.fromEntries(names.map((name) => [name, ""]));
    expect(fromEnvironment(empty)).toEqual(fromEnvironment({}));
  });

  it("does not trace where that is switched off", () => {
    const endpoint = { OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: "http://collector:4318/v1/traces" };
    expect(fromEnvironment(endpoint).tracing.enabled).toBe(true);
    expect(fromEnvironment({ ...endpoint, OTEL_EXPORTER_OTLP_ENDPOINT: "" }).tracing.enabled).toBe(true);
    expect(fromEnvironment({ ...endpoint, OTEL_SDK_DISABLED: "true" }).tracing.enabled).toBe(false);
  });

  it("says which traces are exported: OpenTelemetry's own variables come before the file", () => {
    const endpoint = { OTEL_EXPORTER_OTLP_ENDPOINT: "http://collector:4318" };
    const keep = ["error", "failover", "slow"];
    const sampled = (sampler: string, share?: string) =>
      fromEnvironment({ ...endpoint, OTEL_TRACES_SAMPLER: sampler, OTEL_TRACES_SAMPLER_ARG: share }).tracing;
    expect(fromEnvironment(endpoint).tracing).toMatchObject({
      share: 0.05,
      perSecondMax: 10,
      perSecondMin: 1,
      parentBased: true,
      keep,
    });
    expect(sampled("")).toEqual(fromEnvironment(endpoint).tracing);
    expect(sampled("always_on")).toMatchObject({
      share: 1,
      perSecondMax: Number.POSITIVE_INFINITY,
      perSecondMin: 0,
      parentBased: false,
      keep,
    });
    expect(sampled("parentbased_always_off")).toMatchObject({ share: 0, perSecondMin: 0, parentBased: true, keep });
    expect(sampled("parentbased_traceidratio", "0.25")).toMatchObject({ share: 0.25, parentBased: true });
    expect(sampled("traceidratio")).toMatchObject({ share: 1, parentBased: false });
    expect(() => sampled("traceidratio", "2")).toThrow(/OTEL_TRACES_SAMPLER_ARG is "2"/);
    expect(() => sampled("jaeger_remote")).toThrow(
      /OTEL_TRACES_SAMPLER is "jaeger_remote"; it has to be one of always_on/,
    );
  });

  it("turns providers on by their keys", () => {
    const { workers, workersFrom } = fromEnvironment({
      OPENAI_API_KEYS: " a, b,,c ",
      OPENAI_BASE_URL: "http://127.0.0.1:1/v1",
      MISTRAL_API_KEY: "m",
      GROQ_API_KEYS: "",
      GROQ_API_KEY: "g",
      DEEPSEEK_API_KEY: " ",
    });
    expect(workersFrom).toBe("environment");
    expect(workers.map(({ name, keys }) => [name, keys])).toEqual([
      ["openai", ["a", "b", "c"]],
      ["groq", ["g"]],
      ["mistral", ["m"]],
    ]);
    expect(workers[0]).toMatchObject({ provider: "openai", baseUrl: "http://127.0.0.1:1/v1" });
    expect(workers[2]!.baseUrl).toBe("https://api.mistral.ai/v1");
    expect(fromEnvironment({ OPENAI_API_KEYS: "a", OPENAI_API_KEY: "b" }).workers[0]!.keys).toEqual(["a"]);
    expect(fromEnvironment({ OPENAI_BASE_URL: "http://h/v1" })).toMatchObject({ workers: [], workersFrom: "nothing" });
  });

  it("is told when an address in it is none, if the address is used", () => {
    const environment = { OPENAI_API_KEY: "sk-canary", OPENAI_BASE_URL: "localhost:8000" };
    expect(problemsOf(() => fromEnvironment(environment))).toEqual([
      "the environment's OPENAI_BASE_URL has to be an http or https address",
    ]);
    expect(fromEnvironment({ OPENAI_BASE_URL: "localhost:8000" }).workers).toEqual([]);
  });
});

describe("the keys of a worker that is added at run time", () => {
  it("come from variables that were made for it", () => {
    expect(readKeysVariable("CORTEX_KEYS_TEAM", { CORTEX_KEYS_TEAM: "a, b" })).toEqual(["a", "b"]);
    expect(readKeysVariable("CORTEX_KEYS_TEAM", {})).toEqual([]);
  });

  it("are never another secret of the machine", () => {
    const environment = new Proxy({} as Record<string, string>, { get: () => "secret" });
    for (const variable of [
      "AWS_SECRET_ACCESS_KEY",
      "OPENAI_API_KEY",
      "GITHUB_TOKEN",
      "CORTEX_CLIENT_KEYS",
      "cortex_keys_a",
      "CORTEX_KEYS_",
      "CORTEX_KEYS_A\nB",
      "X_CORTEX_KEYS_A",
      "",
    ]) {
      expect(readKeysVariable(variable, environment)).toEqual([]);
    }
  });
});
