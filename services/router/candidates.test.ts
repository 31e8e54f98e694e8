/** Which workers are tried for a model's name, and in which order. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { RunningWorker } from "../../libs/gen/cortex/mesh/v1/mesh.ts";
import { BreakerState, Health, WorkerInfo } from "../../libs/gen/cortex/provider/v1/provider.ts";
import { RpcError } from "../../libs/rpc/index.ts";
import { AUTO, type Candidate, type Resolution, type Route, rankOf, WorkerIndex } from "./candidates.ts";

type Targets = Readonly<Record<string, readonly string[] | Route>>;

/** A worker that is well, unless it is said otherwise. */
function running(name: string, info: Partial<WorkerInfo> = {}, node = "here"): RunningWorker {
  const well = { health: Health.AVAILABLE, breaker: BreakerState.CLOSED, provider: "p", models: ["m"] };
  return { node, added: false, info: { ...WorkerInfo.decode(new Uint8Array()), ...well, ...info, name } };
}

function resolve(name: string, workers: readonly RunningWorker[], routes: Targets = {}): Resolution {
  const whole = Object.entries(routes).map(([route, targets]) => [route, "targets" in targets ? targets : { targets }]);
  return new WorkerIndex(workers, Object.fromEntries(whole) as Readonly<Record<string, Route>>).resolve(name);
}

/** The candidates as `worker/model`. */
function resolved(name: string, workers: readonly RunningWorker[], routes: Targets = {}): string[] {
  return resolve(name, workers, routes).candidates.map(({ worker, model }) => `${worker}/${model}`);
}

function refusalOf(name: string, workers: readonly RunningWorker[], routes: Targets = {}): RpcError {
  try {
    resolve(name, workers, routes);
  } catch (error) {
    expect(error).toBeInstanceOf(RpcError);
    return error as RpcError;
  }
  throw new Error(`${name} was found`);
}

describe("the order of candidates", () => {
  it("is by priority, lowest number first, then by name", () => {
    const workers = [
      running("cloud", { priority: 100 }),
      running("b", { priority: 10 }),
      running("a", { priority: 10 }),
      running("first", { priority: 0 }),
    ];
    expect(resolved("m", workers)).toEqual(["first/m", "a/m", "b/m", "cloud/m"]);
    expect(resolved(AUTO, workers)).toEqual(["first/m", "a/m", "b/m", "cloud/m"]);
  });

  it("ranks a busy worker after free ones, simulations after models, and what is down last of all, but leaves none out", () => {
    const workers = [
      running("down-sim", { health: Health.UNAVAILABLE, simulated: true, priority: 0 }),
      running("down", { health: Health.UNAVAILABLE, priority: 1 }),
      running("resting", { breaker: BreakerState.OPEN, priority: 2 }),
      running("sim", { simulated: true, priority: 3 }),
      running("busy", { health: Health.BUSY, priority: 4 }),
      running("trying", { breaker: BreakerState.HALF_OPEN, priority: 5 }),
      running("well", { priority: 9 }),
    ];
    const ranks = Object.fromEntries(
      resolve("m", workers.toReversed()).candidates.map(({ worker, info }) => [worker, rankOf(info)]),
    );
    expect(ranks).toEqual({ well: 0, trying: 0, busy: 1, sim: 2, down: 4, resting: 4, "down-sim": 6 });
  });

  it("takes a worker that runs on several nodes as one, as well as the healthiest of them", () => {
    const workers = [
      running("shared", { health: Health.UNAVAILABLE, models: [], priority: 1 }, "n1"),
      running("shared", { health: Health.AVAILABLE, models: ["m", "n"], priority: 1 }, "n2"),
      running("shared", { health: Health.BUSY, priority: 1 }, "n3"),
      running("other", { priority: 2 }, "n1"),
    ];
    expect(resolve("m", workers).candidates).toEqual([
      expect.objectContaining({ worker: "shared", provider: "p", model: "m", nodes: ["n1", "n2", "n3"] }),
      expect.objectContaining({ worker: "other", provider: "p", model: "m", nodes: ["n1"] }),
    ]);
    expect(resolved("n", workers)).toEqual(["shared/n"]);
    expect(new WorkerIndex(workers, {}).workers).toHaveLength(2);
    // One that has only begun has not been asked for its models yet, whichever of them is heard of first.
    const begun = running("w", { models: [], health: Health.UNSPECIFIED }, "n1");
    const asked = running("w", { models: ["m"] }, "n2");
    expect([resolved("m", [begun, asked]), resolved(AUTO, [asked, begun])]).toEqual([["w/m"], ["w/m"]]);
    // A model that is named twice is still one.
    expect(resolved("m", [running("w", { models: ["m", "m"] })])).toEqual(["w/m"]);
  });
});

describe("a name", () => {
  const workers = [
    running("local", { provider: "ollama", models: ["llama3.2:latest", "gemma3:4b"], priority: 10 }),
    running("cloud", { provider: "openai", models: ["gpt-4o", "gemma3:4b"], priority: 100 }),
  ];

  it("of a model means every worker that has it", () => {
    expect(resolved("gemma3:4b", workers)).toEqual(["local/gemma3:4b", "cloud/gemma3:4b"]);
    expect(resolved("gpt-4o", workers)).toEqual(["cloud/gpt-4o"]);
  });

  it("of a worker and a model means that worker and no other", () => {
    expect(resolved("cloud/gemma3:4b", workers)).toEqual(["cloud/gemma3:4b"]);
    expect(refusalOf("local/gpt-4o", workers).reason).toBe("MODEL_NOT_FOUND");
  });

  it("without a tag means Ollama's latest", () => {
    expect(resolved("llama3.2", workers)).toEqual(["local/llama3.2:latest"]);
    expect(resolved("local/llama3.2", workers)).toEqual(["local/llama3.2:latest"]);
    // The exact name comes first where there are both.
    expect(resolved("a", [running("w", { models: ["a:latest", "a"] })])).toEqual(["w/a"]);
    const both = [running("exact", { priority: 2 }), running("tagged", { models: ["m:latest"], priority: 1 })];
    expect(resolved("m", both)).toEqual(["tagged/m:latest", "exact/m"]);
  });

  it("of a worker that could not be asked for its models is believed", () => {
    const silent = [running("silent", { models: [], health: Health.UNAVAILABLE })];
    expect(resolved("silent/anything:1b", silent)).toEqual(["silent/anything:1b"]);
    expect(refusalOf("silent/", silent).reason).toBe("MODEL_NOT_FOUND");
    expect(refusalOf("anything", silent).reason).toBe("MODEL_NOT_FOUND");
  });

  it("may have slashes of its own, even where its first part is the name of a worker", () => {
    const many = [
      running("groq", { models: ["groq/compound", "openai/gpt-oss-20b", "m"], priority: 50 }),
      running("openai", { models: ["gpt-4o"], priority: 100 }),
      running("openrouter", { models: ["openai/gpt-oss-20b", "openai/gpt-4o", "a/b/c"], priority: 110 }),
    ];
    expect(resolved("groq/compound", many)).toEqual(["groq/groq/compound"]);
    expect(resolved("groq/groq/compound", many)).toEqual(["groq/groq/compound"]);
    expect(resolved("openai/gpt-oss-20b", many)).toEqual(["groq/openai/gpt-oss-20b", "openrouter/openai/gpt-oss-20b"]);
    expect(resolved("openrouter/openai/gpt-4o", many)).toEqual(["openrouter/openai/gpt-4o"]);
    expect(resolved("a/b/c", many)).toEqual(["openrouter/a/b/c"]);
    // Where it can be both, it is the worker's.
    expect(resolved("openai/gpt-4o", many)).toEqual(["openai/gpt-4o"]);
    expect(refusalOf("/m", many).reason).toBe("MODEL_NOT_FOUND");
  });

  it("that is auto leaves the choice to Cortex: each worker's first model that holds conversations", () => {
    const mixed = [
      running("empty", { models: [], priority: 0 }),
      running("local", { models: ["nomic-embed-text:latest", "llama3.2:latest"], priority: 10 }),
      running("cloud", { models: ["whisper-1", "text-embedding-3-small", "dall-e-3", "gpt-4o"], priority: 100 }),
      running("vectors", { models: ["text-embedding-3-large"], priority: 200 }),
    ];
    expect(resolved(AUTO, mixed)).toEqual(["local/llama3.2:latest", "cloud/gpt-4o", "vectors/text-embedding-3-large"]);
    expect(refusalOf(AUTO, [running("empty", { models: [] })]).reason).toBe("NO_WORKERS_AVAILABLE");
    expect(refusalOf(AUTO, []).reason).toBe("NO_WORKERS_AVAILABLE");
  });

  it("of a route means its models in its order, whatever the workers' priorities", () => {
    const routes = { fast: ["cloud/gpt-4o", "gemma3:4b", "nowhere/m", "cloud/gemma3:4b"], auto: ["gpt-4o"] };
    expect(resolved("fast", workers, routes)).toEqual(["cloud/gpt-4o", "local/gemma3:4b", "cloud/gemma3:4b"]);
    expect(resolved(AUTO, workers, routes)).toEqual(["cloud/gpt-4o"]);
    // A route wins over a model of the same name.
    expect(resolved("gpt-4o", workers, { "gpt-4o": ["gemma3:4b"] })).toEqual(["local/gemma3:4b", "cloud/gemma3:4b"]);
  });

  it("of a route none of whose workers runs is no mistake of the client's", () => {
    const error = refusalOf("slow", workers, { slow: ["nowhere/m"] });
    expect(error.reason).toBe("NO_WORKERS_AVAILABLE");
    expect(error.message).toContain('"slow"');
  });

  it("of a pattern means the models that fit, under the names that the targets make of it", () => {
    const two = [
      running("direct", { models: ["claude-opus-4", "other"], priority: 5 }),
      running("resold", { models: ["anthropic/claude-opus-4", "x-large"], priority: 1 }),
    ];
    const routes = { "claude-*": ["direct/claude-*", "resold/anthropic/claude-*"], "*-large": ["resold/x-large"] };
    expect(resolved("claude-opus-4", two, routes)).toEqual(["direct/claude-opus-4", "resold/anthropic/claude-opus-4"]);
    expect(resolve("claude-opus-4", two, routes).resolved).toBe("pattern claude-*");
    expect(resolved("any-large", two, routes)).toEqual(["resold/x-large"]);
    // Whoever names the worker means the worker.
    expect(resolved("direct/claude-opus-4", two, routes)).toEqual(["direct/claude-opus-4"]);
    expect(refusalOf("claude-opus-5", two, routes).reason).toBe("NO_WORKERS_AVAILABLE");
    // The longest pattern that fits; one that fits everything only when nothing else has the name.
    const wide = { "c*": ["other"], "claude-*": ["direct/claude-*"], "*": ["resold/x-large"] };
    expect(resolved("claude-opus-4", two, wide)).toEqual(["direct/claude-opus-4"]);
    expect(resolved("cat", two, wide)).toEqual(["direct/other"]);
    expect(resolved("other", two, { "*": ["resold/x-large"] })).toEqual(["direct/other"]);
    expect(resolved("unheard-of", two, wide)).toEqual(["resold/x-large"]);
  });

  it("with a star in it means every model that fits, of all workers or of those that it names", () => {
    expect(resolved("g*", workers)).toEqual(["local/gemma3:4b", "cloud/gemma3:4b", "cloud/gpt-4o"]);
    expect(resolved("cloud/*", workers)).toEqual(["cloud/gemma3:4b", "cloud/gpt-4o"]);
    expect(refusalOf("zzz*", workers).reason).toBe("MODEL_NOT_FOUND");
    expect(refusalOf("*", workers).reason).toBe("MODEL_NOT_FOUND");
  });

  it("of a route keeps its order, unless the route has a strategy of its own", () => {
    const targets = ["cloud/gpt-4o", "gemma3:4b"];
    const ordered = resolve("fast", workers, { fast: targets });
    expect([...ordered.targets!].map(([{ worker, model }, target]) => [`${worker}/${model}`, target])).toEqual([
      ["cloud/gpt-4o", 0],
      ["local/gemma3:4b", 1],
      ["cloud/gemma3:4b", 1],
    ]);
    expect(resolve("fast", workers, { fast: { targets, strategy: "latency" } }).targets).toBeUndefined();
  });

  it("that is auto stands for one model of each ability that a worker has", () => {
    const able = (capabilities: string[]) => ({ capabilities });
    const modelProperties = { seeing: able(["vision"]), "seeing-too": able(["vision"]), "*": able(["tools"]) };
    const mixed = [running("w", { models: ["plain", "seeing", "seeing-too", "plain-too"], modelProperties })];
    expect(resolved(AUTO, mixed)).toEqual(["w/plain", "w/seeing"]);
  });

  it.each(["constructor", "__proto__", "toString", "hasOwnProperty", ""])("%j is not found in any object", (name) => {
    expect(refusalOf(name, workers).reason).toBe("MODEL_NOT_FOUND");
  });
});

describe("a name that is not known", () => {
  const workers = [
    running("main", { models: ["gpt-4o", "gpt-4o-mini", "o3"] }),
    running("local", { models: ["llama3.2:latest"] }),
  ];
  const suggestions = (name: string, routes: Targets = {}) =>
    [...(refusalOf(name, workers, routes).message.split("did you mean")[1] ?? "").matchAll(/"([^"]+)"/g)].map(
      ([, suggested]) => suggested,
    );

  it("is refused by the field, with the closest names", () => {
    const error = refusalOf("gpt-4oo", workers);
    expect(error).toMatchObject({ reason: "MODEL_NOT_FOUND", field: "model" });
    expect(error.message).toMatch(/"gpt-4oo" does not exist; did you mean "gpt-4o"/);
    expect(suggestions("GPT-4O")[0]).toBe("gpt-4o");
    expect(suggestions("llama3")).toEqual(["llama3.2:latest"]);
    expect(suggestions("main/gpt-4oo")[0]).toBe("main/gpt-4o");
    expect(suggestions("fasst", { fast: ["gpt-4o"] })).toEqual(["fast"]);
  });

  it("gets no suggestion that has nothing to do with it", () => {
    for (const name of ["claude", "zzz", "x", "an entirely different thing"]) {
      expect(suggestions(name)).toEqual([]);
      expect(refusalOf(name, workers).message).toContain("GET /v1/models");
    }
  });

  it("is not repeated at any length", () => {
    expect(refusalOf("x".repeat(100_000), workers).message.length).toBeLessThan(400);
  });
});

describe("whatever runs and whatever is asked for", () => {
  const NAMES = ["a", "b", "a/b", "a/a", "b:latest", "b", "auto", "c", "__proto__"];
  const name = fc.constantFrom(...NAMES);
  const worker = fc
    .record({
      name: fc.constantFrom("a", "b", "c"),
      node: fc.constantFrom("n1", "n2"),
      models: fc.array(name, { maxLength: 4 }),
      priority: fc.nat({ max: 3 }),
      health: fc.constantFrom(Health.AVAILABLE, Health.BUSY, Health.UNAVAILABLE, Health.UNSPECIFIED),
      breaker: fc.constantFrom(BreakerState.CLOSED, BreakerState.OPEN),
      simulated: fc.boolean(),
    })
    .map(({ name, node, ...info }) => running(name, info, node));
  const workers = fc.uniqueArray(worker, { selector: ({ node, info }) => `${node} ${info!.name}`, maxLength: 6 });
  const routes = fc.dictionary(fc.constantFrom("r", "auto", "a"), fc.array(name, { minLength: 1, maxLength: 4 }));
  const asked = fc.oneof(name, fc.constantFrom("r", "", "/"), fc.string());

  it("every candidate exists, runs somewhere, and is there once", () => {
    fc.assert(
      fc.property(workers, routes, asked, (mesh, known, name) => {
        let candidates: readonly Candidate[];
        try {
          candidates = resolve(name, mesh, known).candidates;
        } catch (error) {
          expect(error).toBeInstanceOf(RpcError);
          expect(["MODEL_NOT_FOUND", "NO_WORKERS_AVAILABLE"]).toContain((error as RpcError).reason);
          return;
        }
        expect(candidates.length).toBeGreaterThan(0);
        expect(new Set(candidates.map(({ worker, model }) => JSON.stringify([worker, model]))).size).toBe(
          candidates.length,
        );
        for (const candidate of candidates) {
          const replicas = mesh.filter(({ info }) => info!.name === candidate.worker);
          expect(candidate.nodes).toEqual(replicas.map(({ node }) => node));
          expect(candidate.nodes.length).toBeGreaterThan(0);
          const has = replicas.some(({ info }) => info!.models.includes(candidate.model));
          const unasked = replicas.some(({ info }) => info!.models.length === 0);
          expect(has || unasked).toBe(true);
          expect(candidate.model).not.toBe("");
        }
      }),
      { numRuns: 2_000 },
    );
  });

  it("the order does not depend on the order in which workers became known", () => {
    fc.assert(
      fc.property(workers, asked, (mesh, name) => {
        const outcome = (known: readonly RunningWorker[]) => {
          try {
            return resolved(name, known).join();
          } catch (error) {
            return (error as RpcError).reason;
          }
        };
        const distinct = mesh.filter(
          ({ info }, position) => mesh.findIndex((other) => other.info!.name === info!.name) === position,
        );
        expect(outcome(distinct.toReversed())).toBe(outcome(distinct));
      }),
    );
  });
});
