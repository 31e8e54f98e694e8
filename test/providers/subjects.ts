/** The providers that the document tells of: dialect, simulator and fixtures of each. */
import { join } from "node:path";
import type { Dialect } from "../../libs/adapter/index.ts";
import { SERVERS, type ServerName } from "../../libs/openai-protocol/servers.ts";
import { anthropic } from "../../services/adapter-anthropic/dialect.ts";
import { cohere } from "../../services/adapter-cohere/dialect.ts";
import { gemini } from "../../services/adapter-gemini/dialect.ts";
import { groqDialect } from "../../services/adapter-groq/dialect.ts";
import { ollama } from "../../services/adapter-ollama/dialect.ts";
import { openAiDialect } from "../../services/adapter-openai/dialect.ts";
import {
  type Simulator,
  startAnthropicSimulator,
  startCohereSimulator,
  startGeminiSimulator,
  startGroqSimulator,
  startOllamaSimulator,
  startOpenAiSimulator,
} from "../fakes/index.ts";

/** A dialect, and the model that it is asked for: some of what a provider takes depends on it. */
export interface Speaker {
  readonly title: string;
  readonly dialect: Dialect;
  readonly model: string;
}

/** A provider with an adapter of its own. */
export interface Subject extends Speaker {
  /** Its simulator, which takes any key. */
  readonly start: () => Promise<Simulator>;
  readonly fixtures: string;
  /** The fixture of the error for an account that has nothing left; absent where there is none. */
  readonly quota?: string;
}

const SERVICES = new URL("../../services/", import.meta.url).pathname;

function fixturesOf(provider: string): string {
  return join(SERVICES, `adapter-${provider}`, "fixtures");
}

/** In the order in which their workers are tried when nothing else is said. */
export const SUBJECTS: readonly Subject[] = [
  {
    title: "Ollama",
    dialect: ollama,
    model: "qwen3",
    start: () => startOllamaSimulator(),
    fixtures: fixturesOf("ollama"),
    quota: "cloud-usage.error.429",
  },
  {
    title: "Groq",
    dialect: groqDialect({}),
    model: "openai/gpt-oss-120b",
    start: () => startGroqSimulator(),
    fixtures: fixturesOf("groq"),
  },
  {
    title: "Gemini",
    dialect: gemini,
    model: "gemini-2.5-flash",
    start: () => startGeminiSimulator(),
    fixtures: fixturesOf("gemini"),
    quota: "quota-credits.error.429",
  },
  {
    title: "Anthropic",
    dialect: anthropic,
    model: "claude-sonnet-4-5",
    start: () => startAnthropicSimulator(),
    fixtures: fixturesOf("anthropic"),
    quota: "credit.error.400",
  },
  {
    title: "Cohere",
    dialect: cohere,
    model: "command-a-03-2025",
    start: () => startCohereSimulator(),
    fixtures: fixturesOf("cohere"),
    quota: "trial-month.error.429",
  },
  {
    title: "OpenAI",
    dialect: openAiDialect({}),
    model: "gpt-5-mini",
    start: () => startOpenAiSimulator(),
    fixtures: fixturesOf("openai"),
    quota: "quota.error.429",
  },
];

/** A model of each server that speaks OpenAI's protocol; any, where its name decides nothing. */
const MODELS: Partial<Record<ServerName, string>> = {
  azure: "gpt-5-mini",
  "azure-v1": "gpt-5-mini",
  deepseek: "deepseek-chat",
  mistral: "magistral-medium-latest",
  openrouter: "anthropic/claude-sonnet-4.5",
  perplexity: "sonar-reasoning-pro",
  together: "openai/gpt-oss-120b",
  xai: "grok-3-mini",
};

/** The other servers that the adapter of OpenAI knows. */
export const COMPATIBLE: readonly Speaker[] = (Object.keys(SERVERS) as ServerName[])
  .filter((server) => server !== "openai" && server !== "groq")
  .map((server) => {
    const { [server]: model = "any-model" } = MODELS;
    const baseUrl = "http://127.0.0.1:1";
    const title = server === "compatible" ? "any other" : server === "azure-v1" ? "Azure, v1" : SERVERS[server].title;
    return { title, model, dialect: openAiDialect({ baseUrl, models: [model], options: { server } }) };
  });
