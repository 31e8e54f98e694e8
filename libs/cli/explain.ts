/** `cortex explain`: how a prompt would be routed now, and why. No worker is asked. */
import { readFile } from "node:fs/promises";
import { extname } from "node:path";
import Table from "cli-table3";
import { type ContentPart, Role } from "../gen/cortex/llm/v1/llm.ts";
import { type ExplainResponse, RouterServiceDefinition, Strategy } from "../gen/cortex/router/v1/router.ts";
import type { StrategyName } from "../host/index.ts";
import { RpcError } from "../rpc/index.ts";
import { type ClientOptions, QUESTION_TIMEOUT_MS, withNode } from "./client.ts";

export interface ExplainOptions extends ClientOptions {
  readonly model: string;
  readonly strategy?: StrategyName | undefined;
  /** Files of pictures that go along with the prompt. */
  readonly image?: readonly string[] | undefined;
}

/** Asks the router how it would route `prompt`, and prints the answer. */
export async function explainRouting(prompt: string, options: ExplainOptions): Promise<number> {
  const images = await Promise.all((options.image ?? []).map(readImage));
  const content = [...images, { part: { $case: "text" as const, value: prompt } }];
  const completion = {
    model: options.model,
    messages: [{ role: Role.USER, name: "", content }],
    tools: [],
    logprobs: false,
    user: "",
    extraJson: {},
  };
  const strategy = options.strategy === undefined ? Strategy.UNSPECIFIED : strategyOf(options.strategy);
  const explained = await withNode(options, QUESTION_TIMEOUT_MS, (channel, call) =>
    channel.client(RouterServiceDefinition).explain({ completion, routing: { strategy } }, call),
  );
  const plain = { ...explained, strategy: strategyName(explained.strategy) };
  process.stdout.write(options.json === true ? `${JSON.stringify(plain, null, 2)}\n` : formatExplanation(explained));
  return 0;
}

/** The explanation for people. */
export function formatExplanation({ resolved, strategy, needs, candidates, durationUs }: ExplainResponse): string {
  const style = { head: [], border: [] };
  const lines = [`${resolved}, strategy ${strategyName(strategy)}; chosen in ${Math.round(durationUs)} µs`, ""];
  if (needs.length === 0) lines.push("It needs nothing in particular.");
  else {
    const table = new Table({ head: ["it needs", "", "because"], style });
    for (const { capability, certain, confidence, why } of needs) {
      table.push([capability, certain ? "certain" : `guessed, ${Math.round(confidence * 100)} %`, why]);
    }
    lines.push(table.toString());
  }
  lines.push("");
  const able = candidates.filter(({ refused }) => refused === "");
  const unable = candidates.filter(({ refused }) => refused !== "");
  if (able.length === 0) lines.push("No worker can serve it.");
  else {
    const table = new Table({ head: ["", "tried in this order", "provider", "nodes", "because"], style });
    for (const [index, { worker, provider, model, nodes, why }] of able.entries()) {
      table.push([index + 1, `${worker}/${model}`, provider, nodes.join(", "), why.join("; ")]);
    }
    lines.push(table.toString());
  }
  if (unable.length > 0) {
    const table = new Table({ head: ["never tried", "provider", "because"], style });
    for (const { worker, provider, model, refused } of unable) table.push([`${worker}/${model}`, provider, refused]);
    lines.push("", table.toString());
  }
  return `${lines.join("\n")}\n`;
}

function strategyOf(name: StrategyName): Strategy {
  return Strategy[name.toUpperCase() as keyof typeof Strategy];
}

function strategyName(strategy: Strategy): string {
  const [name] = Object.entries(Strategy).find(([, value]) => value === strategy) ?? ["UNSPECIFIED"];
  return name.toLowerCase();
}

const MEDIA_TYPES: Readonly<Record<string, string>> = {
  ".png": "image/png",
  ".jpg": "image/jpeg",
  ".jpeg": "image/jpeg",
  ".gif": "image/gif",
  ".webp": "image/webp",
};

async function readImage(file: string): Promise<ContentPart> {
  const mediaType = MEDIA_TYPES[extname(file).toLowerCase()];
  if (mediaType === undefined) {
    const known = Object.keys(MEDIA_TYPES).join(", ");
    throw new RpcError("INVALID_REQUEST", `${file} is no picture: its name has to end in one of ${known}`);
  }
  const data = await readFile(file).catch((error: NodeJS.ErrnoException) => {
    throw new RpcError("INVALID_REQUEST", `can't read ${file}: ${error.code ?? error.message}`);
  });
  return { part: { $case: "image", value: { source: { $case: "data", value: data }, mediaType, detail: "" } } };
}
