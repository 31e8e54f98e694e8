/**
 * Starts a simulated provider by hand, until it is interrupted:
 *
 *   node test/fakes/main.ts openai 9101 "tokenMs:20,cut:10"
 */
import {
  FLAVORS,
  type FlavorName,
  type Simulator,
  startAnthropicSimulator,
  startCohereSimulator,
  startGeminiSimulator,
  startGroqSimulator,
  startOllamaSimulator,
  startOpenAiSimulator,
} from "./index.ts";

type Start = (options: { port: number; behaviour: string | undefined }) => Promise<Simulator>;

const COMPATIBLE = (Object.keys(FLAVORS) as FlavorName[]).map((flavor): [string, Start] => [
  flavor,
  (options) => startOpenAiSimulator({ ...options, flavor }),
]);

const STARTS: Readonly<Record<string, Start>> = {
  ...Object.fromEntries(COMPATIBLE),
  groq: startGroqSimulator,
  ollama: startOllamaSimulator,
  gemini: startGeminiSimulator,
  anthropic: startAnthropicSimulator,
  cohere: startCohereSimulator,
};

const [provider = "", port = "0", behaviour] = process.argv.slice(2);
const start = Object.hasOwn(STARTS, provider) ? STARTS[provider] : undefined;
if (start === undefined) {
  console.error(`usage: node test/fakes/main.ts ${Object.keys(STARTS).join("|")} [PORT] [BEHAVIOUR]`);
  process.exit(2);
}
const simulator = await start({ port: Number(port), behaviour });
console.log(`${provider} at ${simulator.url}`);
