/** The gateways that the suite can ask: Cortex in its two shapes, Portkey's, a bare pipe, and whatever has an address. */
import { mkdtemp, rm } from "node:fs/promises";
import { createServer, request as httpRequest } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { PORTKEY_VERSION, portkeyProgram } from "../bench/portkey.ts";
import { Processes } from "../bench/processes.ts";
import { CACHE_OFF, type Shape, startMesh, type TestWorker } from "../mesh.ts";
import type { Door } from "./client.ts";
import { SETTINGS, type StagePlan } from "./stage.ts";

/** A gateway that runs, with the providers of all stages behind it. */
export interface Gateway {
  readonly name: string;
  doorTo(stage: StagePlan): Door;
  stop(): Promise<void>;
}

/** How the suite names them. */
export const GATEWAYS = {
  one: "Cortex, one node",
  many: "Cortex, many nodes",
  portkey: `Portkey ${PORTKEY_VERSION}`,
  pipe: "no gateway",
} as const;
export type GatewayKey = keyof typeof GATEWAYS;

/** Workers of Cortex for all stages. */
function workersFor(stages: readonly StagePlan[]): TestWorker[] {
  return stages.flatMap(({ model, providers, concurrent }) =>
    providers.map((baseUrl, index) => ({
      name: `${model}-${index + 1}`,
      provider: "openai",
      baseUrl,
      keys: ["conformance"],
      models: [model],
      priority: index + 1,
      timeouts: { connectMs: SETTINGS.connectMs, firstTokenMs: SETTINGS.firstTokenMs, stallMs: SETTINGS.stallMs },
      breaker: { resetMs: SETTINGS.restMs },
      ...(concurrent === undefined ? {} : { limits: { concurrent } }),
    })),
  );
}

/** The configuration that makes a Cortex elsewhere ready for the suite. */
export function cortexConfiguration(stages: readonly StagePlan[]): string {
  return `${JSON.stringify({ workers: workersFor(stages), cache: CACHE_OFF }, undefined, 2)}\n`;
}

async function startCortex(shape: Shape, stages: readonly StagePlan[]): Promise<Gateway> {
  const mesh = await startMesh(shape, { workers: workersFor(stages) });
  return {
    name: shape === "one node" ? GATEWAYS.one : GATEWAYS.many,
    doorTo: () => ({ baseUrl: `${mesh.rest}/v1`, headers: {} }),
    stop: async () => mesh[Symbol.asyncDispose](),
  };
}

/** The statuses on which it is to ask the next provider: not those that are the request's own fault. */
const PORTKEY_FALLBACK_STATUSES = [401, 403, 404, 408, 409, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529];

/**
 * Portkey's gateway has no configuration of its own: each request brings it along. Everything that it offers against failing
 * providers is on: https://portkey.ai/docs/product/ai-gateway/fallbacks, …/automatic-retries, …/request-timeouts.
 */
function portkeyConfiguration({ providers }: StagePlan): string {
  return JSON.stringify({
    strategy: { mode: "fallback", on_status_codes: PORTKEY_FALLBACK_STATUSES },
    targets: providers.map((url) => ({
      provider: "openai",
      api_key: "conformance",
      custom_host: url,
      request_timeout: SETTINGS.firstTokenMs,
      retry: { attempts: 2, on_status_codes: [429], use_retry_after_header: true },
    })),
  });
}

async function startPortkey(): Promise<Gateway> {
  const folder = await mkdtemp(join(tmpdir(), "cortex-conformance-"));
  const processes = new Processes(folder);
  const stop = async () => {
    await processes.endAll();
    await rm(folder, { recursive: true, force: true });
  };
  try {
    const preloads = ["../bench/loopback.ts", "./portkey-retries.ts"].flatMap((path) => [
      "--import",
      fileURLToPath(new URL(path, import.meta.url)),
    ]);
    const args = [...preloads, await portkeyProgram(), "--headless", "--port=0"];
    const { ready } = await processes.start({ name: "portkey", command: process.execPath, args, ipc: true });
    return {
      name: GATEWAYS.portkey,
      doorTo: (stage) => ({
        baseUrl: `${ready.rest}/v1`,
        headers: { "x-portkey-config": portkeyConfiguration(stage) },
      }),
      stop,
    };
  } catch (error) {
    await stop();
    throw error;
  }
}

/** What a client sees that has no gateway: every request goes to the first provider, and what comes is passed on unread. */
async function startPipe(): Promise<Gateway> {
  const server = createServer((incoming, outgoing) => {
    const { "x-provider": provider, host: _host, connection: _connection, ...headers } = incoming.headers;
    const request = httpRequest(`${provider}${incoming.url!.replace(/^\/v1/, "")}`, {
      method: "POST",
      headers,
      agent: false,
    });
    request.on("error", () => outgoing.destroy());
    request.on("response", (response) => {
      outgoing.writeHead(response.statusCode!, response.headers);
      outgoing.flushHeaders();
      response.on("error", () => outgoing.destroy());
      response.pipe(outgoing);
    });
    outgoing.on("close", () => request.destroy());
    incoming.pipe(request);
  });
  server.listen(0, "127.0.0.1");
  await new Promise((resolve) => server.once("listening", resolve));
  const { port } = server.address() as AddressInfo;
  return {
    name: GATEWAYS.pipe,
    doorTo: ({ providers }) => ({ baseUrl: `http://127.0.0.1:${port}/v1`, headers: { "x-provider": providers[0]! } }),
    stop: async () => {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

/** A gateway that somebody else runs and has set up for the stages. */
export function gatewayAt(url: string): Gateway {
  const baseUrl = url.replace(/\/$/, "").replace(/(\/v1)?$/, "/v1");
  return { name: url, doorTo: () => ({ baseUrl, headers: {} }), stop: async () => {} };
}

/** Starts one, with the providers of these stages. */
export function startGateway(key: GatewayKey, stages: readonly StagePlan[]): Promise<Gateway> {
  if (key === "portkey") return startPortkey();
  if (key === "pipe") return startPipe();
  return startCortex(key === "one" ? "one node" : "many nodes", stages);
}
