/** What becomes of a request when the workers that could serve it fail, rest, are full, or can't do what it needs. */
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { AttemptKind, AttemptOutcome } from "../../libs/gen/cortex/events/v1/events.ts";
import { ToolChoice_Mode as ToolMode } from "../../libs/gen/cortex/llm/v1/llm.ts";
import { BreakerState, Health, KeyState } from "../../libs/gen/cortex/provider/v1/provider.ts";
import { type RouterServiceDefinition, Strategy } from "../../libs/gen/cortex/router/v1/router.ts";
import { type OwnedCall, RpcError, type Service, startCall } from "../../libs/rpc/index.ts";
import { EVENT, NO_TRACE } from "../../libs/telemetry/index.ts";
import { type Behaviour, FakeMesh, failing, failureOf, overloaded, request, saying } from "./test-mesh.ts";

type RouterService = Service<typeof RouterServiceDefinition>;

const calls: OwnedCall[] = [];

function callOf(tenant = "team-a", deadlineMs?: number): OwnedCall {
  const deadline = deadlineMs === undefined ? {} : { deadlineAtMs: Date.now() + deadlineMs };
  const call = startCall({ tenant, requestId: `request-${calls.length}`, trace: NO_TRACE, ...deadline });
  calls.push(call);
  return call;
}

let call: OwnedCall;

beforeEach(() => {
  call = callOf();
});

afterEach(() => {
  for (const made of calls.splice(0)) made.finish();
});

const complete = (router: RouterService, completion = request, made: OwnedCall = call) =>
  router.complete({ completion }, made);

/** Fails so often, then serves. */
function recovering(failures: readonly Error[]): Behaviour {
  const left = [...failures];
  const good = saying("hi");
  return {
    complete: (asked, made, node) => {
      const failure = left.shift();
      return failure === undefined ? good.complete!(asked, made, node) : Promise.reject(failure);
    },
  };
}

/** Serves when it is told to. */
class Held implements Behaviour {
  readonly waiting: (() => void)[] = [];
  readonly tenants: string[] = [];
  readonly info = { concurrentRequestsMax: 1 };

  complete(_request: unknown, made: { readonly tenant: string }): Promise<undefined> {
    this.tenants.push(made.tenant);
    return new Promise((resolve) => this.waiting.push(() => resolve(undefined)));
  }

  release(): void {
    this.waiting.shift()!();
  }
}

describe("a worker that has failed", () => {
  it("is asked again after a pause when nobody else is left, and the failure was one that passes", async () => {
    const mesh = new FakeMesh({ a: recovering([overloaded, new RpcError("PROVIDER_UNREACHABLE", "reset")]) });
    mesh.timePasses = true;
    expect((await complete(mesh.router({ waitMaxMs: 5_000 }))).attempts).toBe(3);
    expect(mesh.events.map(({ kind }) => kind)).toEqual([
      AttemptKind.FIRST,
      AttemptKind.FAILOVER,
      AttemptKind.FAILOVER,
    ]);
  });

  it("is asked again only after everybody else was", async () => {
    const mesh = new FakeMesh({ a: recovering([overloaded]), b: failing(overloaded) });
    mesh.timePasses = true;
    await complete(mesh.router({ waitMaxMs: 5_000 }));
    expect(mesh.asked).toEqual(["a@here", "b@here", "a@here"]);
  });

  it("and was silent is asked once more, after all others", async () => {
    const mesh = new FakeMesh({ a: recovering([new RpcError("PROVIDER_TIMEOUT", "silent")]), b: failing(overloaded) });
    mesh.timePasses = true;
    await complete(mesh.router({ waitMaxMs: 5_000 }));
    expect(mesh.asked).toEqual(["a@here", "b@here", "b@here", "b@here", "a@here"]);
  });

  it("for its breaker on one node is asked on another one, which finds out for itself", async () => {
    const open = new RpcError("BREAKER_OPEN", "rests", { retryAfterMs: 20_000 });
    const good = saying("hi");
    const mesh = new FakeMesh({
      a: {
        nodes: ["n1", "n2"],
        complete: (asked, made, node) => (node === "n1" ? Promise.reject(open) : good.complete!(asked, made, node)),
      },
    });
    expect((await complete(mesh.router())).attempts).toBe(2);
    expect(mesh.asked).toEqual(["a@n1", "a@n2"]);
    expect(mesh.lastResorts).toEqual([]);
  });

  it.each(["PROVIDER_REFUSED_KEY", "PROVIDER_QUOTA_EXHAUSTED", "PROVIDER_MODEL_NOT_FOUND", "INTERNAL"] as const)(
    "with %s is not asked again",
    async (reason) => {
      const mesh = new FakeMesh({ a: failing(new RpcError(reason, "no")) });
      await failureOf(complete(mesh.router({ waitMaxMs: 5_000 })));
      expect(mesh.asked).toEqual(["a@here"]);
    },
  );

  it("is waited for as long as its provider said, if that is soon enough", async () => {
    const limited = new RpcError("PROVIDER_RATE_LIMITED", "slow down", { retryAfterMs: 60 });
    const mesh = new FakeMesh({ a: recovering([limited]), b: failing(new RpcError("PROVIDER_REFUSED_KEY", "no")) });
    mesh.timePasses = true;
    const startedAtMs = performance.now();
    expect((await complete(mesh.router({ waitMaxMs: 5_000 }))).attempts).toBe(3);
    expect(performance.now() - startedAtMs).toBeGreaterThan(55);
    expect(mesh.asked).toEqual(["a@here", "b@here", "a@here"]);
  });

  it("is not waited for beyond the bound, nor beyond the deadline; then the error says how long it takes", async () => {
    const limited = new RpcError("PROVIDER_RATE_LIMITED", "slow down", { retryAfterMs: 3_000 });
    const mesh = new FakeMesh({ a: failing(limited) });
    const refused = await failureOf(complete(mesh.router({ waitMaxMs: 1_000 })));
    expect(refused.reason).toBe("PROVIDER_RATE_LIMITED");
    expect(refused.retryAfterMs).toBeGreaterThan(2_000);
    const late = await failureOf(complete(mesh.router({ waitMaxMs: 10_000 }), request, callOf("team-a", 1_000)));
    expect(late.reason).toBe("PROVIDER_RATE_LIMITED");
    expect(mesh.asked).toEqual(["a@here", "a@here"]);
  });

  it("is not asked again once the budget of retries is used up", async () => {
    const mesh = new FakeMesh({ a: failing(overloaded) });
    mesh.timePasses = true;
    const router = mesh.router({ waitMaxMs: 5_000, retryRatio: 0 });
    await Promise.all(Array.from({ length: 30 }, () => failureOf(complete(router, request, callOf()))));
    // 30 first attempts, and what was saved up at the start.
    expect(mesh.asked.length).toBe(50);
  });

  it("is not asked again without that budget because it is full when its turn comes", async () => {
    const held = new Held();
    const failures = [overloaded];
    const mesh = new FakeMesh({
      a: {
        info: { concurrentRequestsMax: 1 },
        complete: (asked, made) =>
          failures.length > 0 ? Promise.reject(failures.pop()) : held.complete(asked, made).then(() => undefined),
      },
      spendthrift: failing(overloaded),
    });
    mesh.timePasses = true;
    const router = mesh.router({ waitMaxMs: 5_000, retryRatio: 0 });
    const spend = { ...request, model: "spendthrift/m" };
    await Promise.all(Array.from({ length: 30 }, () => failureOf(complete(router, spend, callOf()))));
    mesh.asked.length = 0;
    const wanted = { ...request, model: "a/m" };
    const unlucky = failureOf(complete(router, wanted, callOf()));
    await vi.waitFor(() => expect(mesh.asked).toHaveLength(1));
    const other = complete(router, wanted, callOf());
    await vi.waitFor(() => expect(mesh.asked).toHaveLength(2));
    expect((await unlucky).reason).toBe("NO_WORKERS_AVAILABLE");
    held.release();
    await other;
    expect(mesh.asked).toHaveLength(2);
  });

  it.each([
    ["PROVIDER_REFUSED_KEY", ["a@here", "b@here"]],
    ["PROVIDER_MODEL_NOT_FOUND", ["a@here", "a@here", "b@here"]],
  ] as const)("with %s is asked for its other models only if they may be better off", async (reason, asked) => {
    const a = { ...failing(new RpcError(reason, "no")), models: ["m1", "m2"] };
    const mesh = new FakeMesh({ a, b: saying("hi") });
    const router = mesh.router({ routes: { fast: ["a/m1", "a/m2", "b/m"] } });
    await complete(router, { ...request, model: "fast" });
    expect(mesh.asked).toEqual(asked);
  });

  it("for its breaker is asked again as soon as that has closed", async () => {
    const limited = new RpcError("PROVIDER_RATE_LIMITED", "slow down", { retryAfterMs: 5_000 });
    const open = new RpcError("BREAKER_OPEN", "rests", { retryAfterMs: 20_000 });
    const mesh = new FakeMesh({ a: recovering([open]), b: failing(limited) });
    mesh.timePasses = true;
    const answer = complete(mesh.router({ waitMaxMs: 10_000 }));
    await vi.waitFor(() => expect(mesh.asked).toEqual(["a@here", "b@here"]));
    await vi.waitFor(() => expect(mesh.listeners.size).toBeGreaterThan(1));
    mesh.change();
    await answer;
    expect(mesh.asked).toEqual(["a@here", "b@here", "a@here"]);
  });

  it("makes room for one that has come up meanwhile", async () => {
    const limited = new RpcError("PROVIDER_RATE_LIMITED", "slow down", { retryAfterMs: 5_000 });
    const mesh = new FakeMesh({ a: failing(limited) });
    mesh.timePasses = true;
    const answer = complete(mesh.router({ waitMaxMs: 10_000 }));
    await vi.waitFor(() => expect(mesh.asked).toEqual(["a@here"]));
    await vi.waitFor(() => expect(mesh.listeners.size).toBeGreaterThan(1));
    mesh.workers = { ...mesh.workers, b: saying("hi") };
    mesh.change();
    await answer;
    expect(mesh.asked).toEqual(["a@here", "b@here"]);
  });

  it("does not keep a caller who has left", async () => {
    const limited = new RpcError("PROVIDER_RATE_LIMITED", "slow down", { retryAfterMs: 5_000 });
    const mesh = new FakeMesh({ a: failing(limited) });
    const failure = failureOf(complete(mesh.router({ waitMaxMs: 10_000 })));
    await vi.waitFor(() => expect(mesh.listeners.size).toBeGreaterThan(1));
    call.cancel();
    expect((await failure).reason).toBe("CANCELLED");
    expect(mesh.listeners.size).toBe(1);
  });
});

describe("when every breaker is open", () => {
  const resting = (retryAfterMs: number) => new RpcError("BREAKER_OPEN", "rests", { retryAfterMs });

  it("the one that has rested longest is asked all the same, once", async () => {
    const mesh = new FakeMesh({
      a: recovering([resting(20_000)]),
      b: recovering([resting(5_000)]),
      c: recovering([resting(9_000)]),
    });
    expect((await complete(mesh.router())).attempts).toBe(4);
    expect(mesh.asked).toEqual(["a@here", "b@here", "c@here", "b@here"]);
    expect(mesh.lastResorts).toEqual(["b"]);

    const down = new FakeMesh({ a: failing(resting(20_000)) });
    const error = await failureOf(complete(down.router()));
    expect(error.reason).toBe("NO_WORKERS_AVAILABLE");
    expect(error.retryAfterMs).toBeGreaterThan(10_000);
    expect(down.asked).toEqual(["a@here", "a@here"]);
  });

  it("but not when one has been asked and has failed", async () => {
    const mesh = new FakeMesh({ a: failing(resting(20_000)), b: failing(new RpcError("PROVIDER_TIMEOUT", "late")) });
    await failureOf(complete(mesh.router()));
    expect(mesh.lastResorts).toEqual([]);
  });
});

describe("when every worker is full", () => {
  const settled = () => new Promise((resolve) => setImmediate(resolve));

  it("a request waits for the first slot of any of them", async () => {
    const [a, b] = [new Held(), new Held()];
    const mesh = new FakeMesh({ a, b });
    const router = mesh.router();
    const answers = [1, 2, 3].map(() => complete(router, request, callOf()));
    await vi.waitFor(() => expect(mesh.asked).toEqual(["a@here", "b@here"]));
    b.release();
    await vi.waitFor(() => expect(mesh.asked).toEqual(["a@here", "b@here", "b@here"]));
    a.release();
    b.release();
    expect((await Promise.all(answers)).map(({ attempts }) => attempts)).toEqual([1, 1, 1]);
  });

  it("one that is well and free is preferred to waiting, one that is down is not", async () => {
    const a = new Held();
    const mesh = new FakeMesh({ a, down: { ...saying("no"), info: { health: Health.UNAVAILABLE } } });
    const router = mesh.router();
    const first = complete(router, request, callOf());
    const second = complete(router, request, callOf());
    await vi.waitFor(() => expect(mesh.asked).toEqual(["a@here"]));
    mesh.workers = { ...mesh.workers, free: saying("hi") };
    mesh.change();
    expect((await complete(router, request, callOf())).attempts).toBe(1);
    expect(mesh.asked).toEqual(["a@here", "free@here"]);
    a.release();
    await vi.waitFor(() => expect(mesh.asked).toHaveLength(3));
    a.release();
    await Promise.all([first, second]);
    expect(mesh.asked).toEqual(["a@here", "free@here", "a@here"]);
  });

  it("a simulation is no way around the queue, but has one of its own", async () => {
    const [a, sim] = [new Held(), new Held()];
    const mesh = new FakeMesh({ a, sim: { complete: sim.complete.bind(sim), info: { ...sim.info, simulated: true } } });
    const router = mesh.router();
    const real = [1, 2].map(() => complete(router, request, callOf()));
    const simulated = [1, 2].map(() => complete(router, { ...request, model: "sim/m" }, callOf()));
    await vi.waitFor(() => expect(mesh.asked).toEqual(["a@here", "sim@here"]));
    a.release();
    sim.release();
    await vi.waitFor(() => expect(mesh.asked).toEqual(["a@here", "sim@here", "a@here", "sim@here"]));
    a.release();
    sim.release();
    await Promise.all([...real, ...simulated]);
  });

  it("tenants take turns, however many requests one of them has", async () => {
    const a = new Held();
    const mesh = new FakeMesh({ a });
    const router = mesh.router();
    const answers = ["loud", "loud", "loud", "loud", "quiet", "other"].map((tenant) =>
      complete(router, request, callOf(tenant)),
    );
    for (let served = 1; served <= answers.length; served++) {
      await vi.waitFor(() => expect(a.tenants).toHaveLength(served));
      a.release();
    }
    await Promise.all(answers);
    expect(a.tenants).toEqual(["loud", "loud", "quiet", "other", "loud", "loud"]);
  });

  it("a full queue refuses at once and says when to come back; a tenant with less gets room all the same", async () => {
    const a = new Held();
    const mesh = new FakeMesh({ a });
    const router = mesh.router({ queue: { size: 2, waitMaxMs: 10_000 } });
    const loud = [1, 2, 3].map(() => complete(router, request, callOf("loud")));
    const outcomes = loud.map((answer) =>
      answer.then(
        () => "served",
        (error: RpcError) => error.reason,
      ),
    );
    await settled();
    const refused = await failureOf(complete(router, request, callOf("loud")));
    expect(refused.reason).toBe("OVERLOADED");
    expect(refused.retryAfterMs).toBeGreaterThanOrEqual(1_000);
    const quiet = complete(router, request, callOf("quiet"));
    expect(await outcomes[2]).toBe("OVERLOADED");
    for (let served = 1; served <= 3; served++) {
      await vi.waitFor(() => expect(a.tenants).toHaveLength(served));
      a.release();
    }
    await quiet;
    expect(await Promise.all(outcomes)).toEqual(["served", "served", "OVERLOADED"]);
  });

  it("nobody waits longer than the queue allows, or the caller stays", async () => {
    const a = new Held();
    const mesh = new FakeMesh({ a });
    const router = mesh.router({ queue: { size: 10, waitMaxMs: 20 } });
    const first = complete(router);
    const late = await failureOf(complete(router, request, callOf()));
    expect(late.reason).toBe("OVERLOADED");
    const leaving = callOf();
    const left = failureOf(complete(mesh.router(), request, leaving));
    leaving.cancel();
    expect((await left).reason).toBe("CANCELLED");
    a.release();
    await first;
    expect(mesh.events.every(({ worker }) => worker === "a")).toBe(true);
  });

  it("a slot that another router has taken is waited for too", async () => {
    const mesh = new FakeMesh({
      a: { ...recovering([new RpcError("WORKER_BUSY", "full")]), info: { concurrentRequestsMax: 1 } },
    });
    mesh.timePasses = true;
    expect((await complete(mesh.router({ waitMaxMs: 5_000 }))).attempts).toBe(2);
  });
});

describe("what a request needs", () => {
  const tools = [{ name: "f", description: "", parametersJsonSchema: "", strict: false }];
  const withTools = { ...request, tools };
  const able = (...capabilities: string[]): Behaviour => ({ ...saying("hi"), info: { capabilities } });

  it("keeps it from workers that are known to lack it", async () => {
    const mesh = new FakeMesh({ blind: able("vision"), able: able("vision", "tools"), unknown: saying("hi") });
    await complete(mesh.router(), withTools);
    expect(mesh.asked).toEqual(["able@here"]);
    await complete(mesh.router(), { ...withTools, toolChoice: { mode: ToolMode.NONE, name: "" } }, callOf());
    expect(mesh.asked[1]).toBe("blind@here");
  });

  it("is refused, naming the field, when every worker lacks it", async () => {
    const error = await failureOf(complete(new FakeMesh({ a: able("vision"), b: able("audio") }).router(), withTools));
    expect(error).toMatchObject({ reason: "UNSUPPORTED_PARAMETER", field: "tools" });
    expect(error.message).toMatch(/a .*tools.*; b .*tools/);
  });

  it("is refused when it is longer than every model's context", async () => {
    const short: Behaviour = {
      ...saying("hi"),
      info: { modelProperties: { "*": { capabilities: [], contextTokensMax: 10 } } },
    };
    const long = { ...request, messages: [{ ...request.messages[0]!, content: textOf("word ".repeat(1_000)) }] };
    const error = await failureOf(complete(new FakeMesh({ short }).router(), long));
    expect(error.reason).toBe("CONTEXT_LENGTH_EXCEEDED");
    const mesh = new FakeMesh({ short, wide: saying("hi") });
    await complete(mesh.router(), long);
    expect(mesh.asked).toEqual(["wide@here"]);
  });

  it("as far as it is guessed, only changes the order", async () => {
    const code = { ...request, model: "auto", messages: [{ ...request.messages[0]!, content: textOf(CODE_QUESTION) }] };
    const mesh = new FakeMesh({ talker: able("translation"), coder: able("code") });
    await complete(mesh.router(), code);
    expect(mesh.asked).toEqual(["coder@here"]);
    const only = new FakeMesh({ talker: able("translation") });
    await complete(only.router(), code);
    expect(only.asked).toEqual(["talker@here"]);
  });
});

const textOf = (value: string) => [{ part: { $case: "text" as const, value } }];
const CODE_QUESTION =
  "Fix this function:\n```python\ndef add(a, b):\n    return a - b\n```\nIt raises a TypeError in tests.";

describe("a worker that is being drained", () => {
  const drained: Behaviour = { ...saying("no"), info: { draining: true } };

  it("gets no request, even when nobody else is there", async () => {
    const mesh = new FakeMesh({ drained, b: saying("hi") });
    await complete(mesh.router());
    expect(mesh.asked).toEqual(["b@here"]);
    const error = await failureOf(complete(new FakeMesh({ drained }).router()));
    expect(error.reason).toBe("NO_WORKERS_AVAILABLE");
    expect(error.message).toContain("drained");
  });
});

describe("a model whose workers were lost a moment ago", () => {
  it("is waited for, and then not there rather than unknown", async () => {
    const mesh = new FakeMesh({ a: saying("hi") });
    mesh.timePasses = true;
    const router = mesh.router({ waitMaxMs: 5_000 });
    await complete(router);
    const { workers } = mesh;
    mesh.workers = {};
    mesh.change();
    const answer = complete(router, request, callOf());
    const named = complete(router, { ...request, model: "a/m" }, callOf());
    await vi.waitFor(() => expect(mesh.listeners.size).toBe(3));
    mesh.workers = workers;
    mesh.change();
    await Promise.all([answer, named]);

    const impatient = new FakeMesh({ a: saying("hi") });
    const hurried = impatient.router({ waitMaxMs: 0 });
    await complete(hurried, request, callOf());
    impatient.workers = {};
    impatient.change();
    const error = await failureOf(complete(hurried, request, callOf()));
    expect(error.reason).toBe("NO_WORKERS_AVAILABLE");
    expect(error.retryAfterMs).toBeGreaterThan(0);
    expect((await failureOf(complete(hurried, { ...request, model: "x" }, callOf()))).reason).toBe("MODEL_NOT_FOUND");
  });

  it.each(["m", "auto"])("is waited for no longer than it is likely to come back: %s", async (model) => {
    const mesh = new FakeMesh({ a: saying("hi") });
    const router = mesh.router();
    const asked = { ...request, model };
    await complete(router, asked, callOf());
    mesh.workers = {};
    mesh.change();
    expect((await failureOf(complete(router, asked, callOf()))).retryAfterMs).toBeGreaterThan(0);
    mesh.nowMs += 61_000;
    expect((await failureOf(complete(router, asked, callOf()))).retryAfterMs).toBeUndefined();
  });
});

describe("a model whose worker was taken away on purpose", () => {
  it("is unknown at once", async () => {
    const mesh = new FakeMesh({ a: saying("hi") });
    mesh.alive.add("here");
    const router = mesh.router({ waitMaxMs: 5_000 });
    await complete(router);
    mesh.workers = {};
    mesh.change();
    expect((await failureOf(complete(router, request, callOf()))).reason).toBe("MODEL_NOT_FOUND");
  });
});

describe("the strategy", () => {
  const free = { ...saying("hi"), info: { priority: 9 } };
  const busy = new Held();

  it("is the request's, else the route's, else the configured one", async () => {
    const mesh = new FakeMesh({ a: saying("hi"), b: saying("hi") });
    const router = mesh.router({ strategy: "round_robin" });
    for (let index = 0; index < 4; index++) await complete(router, request, callOf());
    expect([...mesh.asked].sort()).toEqual(["a@here", "a@here", "b@here", "b@here"]);
    mesh.asked.length = 0;
    const routing = { strategy: Strategy.LOCAL_FIRST };
    for (let index = 0; index < 3; index++) await router.complete({ completion: request, routing }, callOf());
    expect(mesh.asked).toEqual(["a@here", "a@here", "a@here"]);
    expect(mesh.events.at(-1)!.strategy).toBe("local_first");
    expect(mesh.events[0]!.strategy).toBe("round_robin");
  });

  it("looks at the load of the whole mesh", async () => {
    const mesh = new FakeMesh({ busy: { complete: busy.complete.bind(busy) }, free });
    const router = mesh.router({ strategy: "least_loaded" });
    mesh.randoms = [0];
    const running = router.complete({ completion: { ...request, model: "busy/m" } }, callOf());
    await vi.waitFor(() => expect(mesh.asked).toEqual(["busy@here"]));
    await complete(router, request, callOf());
    expect(mesh.asked[1]).toBe("free@here");
    busy.release();
    await running;
  });

  it("does not look at what a node says that has left", async () => {
    const mesh = new FakeMesh({ a: { ...saying("hi"), nodes: ["n1", "left"] }, b: saying("hi") });
    for (const id of ["here", "n1", "n2"]) mesh.alive.add(id);
    mesh.gone.add("left");
    const router = mesh.router({ strategy: "least_loaded" });
    const say = (node: string, activeRequests: number) =>
      mesh.heard.get(EVENT.workerLoad)!({ node, loads: [{ worker: "a", activeRequests }] });
    say("left", 5);
    mesh.randoms = [0];
    await complete(router);
    expect(mesh.asked.pop()).toMatch(/^a@/);
    say("n1", 5);
    await complete(router);
    expect(mesh.asked.pop()).toBe("b@here");
  });

  it("keeps the order of a route's targets, and works within each", async () => {
    const mesh = new FakeMesh({ a: failing(overloaded), b: failing(overloaded), c: saying("hi") });
    await complete(mesh.router({ routes: { ordered: ["c/m", "a/m"] } }), { ...request, model: "ordered" });
    expect(mesh.asked).toEqual(["c@here"]);
  });
});

describe("an explanation", () => {
  it("tells what the request needs, and where each worker stands and why, without asking any", async () => {
    const mesh = new FakeMesh({
      far: { ...saying("hi"), info: { priority: 7, capabilities: ["tools"] } },
      near: { ...saying("hi"), info: { priority: 2, capabilities: ["tools"] } },
      blind: { ...saying("hi"), info: { capabilities: ["vision"] } },
      down: { ...saying("hi"), info: { breaker: BreakerState.OPEN, reason: "BREAKER_OPEN", message: "it rests" } },
    });
    const tool = { name: "f", description: "", parametersJsonSchema: "", strict: false };
    const answer = await mesh.router().explain({ completion: { ...request, tools: [tool] } }, call);
    expect(answer).toMatchObject({ resolved: "model m", strategy: Strategy.LOCAL_FIRST });
    expect(answer.needs).toContainEqual(expect.objectContaining({ capability: "tools", certain: true }));
    expect(answer.candidates.map(({ worker }) => worker)).toEqual(["near", "far", "down", "blind"]);
    expect(answer.candidates.map(({ refused }) => refused !== "")).toEqual([false, false, false, true]);
    expect(answer.candidates[0]!.why).toContain("priority 2");
    expect(answer.candidates[2]!.why).toContain("it is down: BREAKER_OPEN");
    const toAdmin = await mesh.router().explain({ completion: request }, { ...call, admin: true });
    expect(toAdmin.candidates.find(({ worker }) => worker === "down")!.why).toContain(
      "it is down: it rests (BREAKER_OPEN)",
    );
    expect(mesh.asked).toEqual([]);
    expect(mesh.events).toEqual([]);
  });

  it("shows why each worker is refused when none can serve", async () => {
    const mesh = new FakeMesh({
      blind: { ...saying("hi"), info: { capabilities: ["vision"] } },
      drained: { ...saying("hi"), info: { capabilities: ["tools"], draining: true } },
    });
    const tool = { name: "f", description: "", parametersJsonSchema: "", strict: false };
    const { candidates } = await mesh.router().explain({ completion: { ...request, tools: [tool] } }, call);
    expect(candidates.map(({ worker, refused }) => [worker, refused])).toEqual([
      ["blind", "lacks the capability tools"],
      ["drained", "it is being drained"],
    ]);
  });
});

describe("the ledger", () => {
  it("has the key, the cost and the kind of every attempt", async () => {
    const prices = { capabilities: [], inputCostUsdPerMillion: 1_000_000, outputCostUsdPerMillion: 2_000_000 };
    const key = {
      fingerprint: "abcd0123",
      state: KeyState.AVAILABLE,
      restingUntilMs: 0,
      requests: 0,
      inFlight: 0,
      reason: "",
    };
    const mesh = new FakeMesh({
      a: { ...failing(new RpcError("PROVIDER_ERROR", "broken", { key: "ffff0000" })), info: { keys: [key, key] } },
      b: { ...saying("hi"), info: { modelProperties: { m: prices }, keys: [key] } },
    });
    await complete(mesh.router());
    expect(mesh.events).toMatchObject([
      { worker: "a", outcome: AttemptOutcome.FAILED, kind: AttemptKind.FIRST, key: "ffff0000", costUsd: undefined },
      { worker: "b", outcome: AttemptOutcome.SERVED, kind: AttemptKind.FAILOVER, key: "abcd0123", costUsd: 5 },
    ]);
    expect(mesh.events[0]!.routerNode).toBe("here");
  });
});
