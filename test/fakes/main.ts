/**
 * Starts a simulated provider by hand, until it is interrupted:
 *
 *   node test/fakes/main.ts openai 9101 "tokenMs:20,cut:10"
 */
import { startGeminiSimulator, startOllamaSimulator, startOpenAiSimulator } from "./index.ts";

const STARTS = {
  openai: startOpenAiSimulator,
  ollama: startOllamaSimulator,
  gemini: startGeminiSimulator,
};

const [provider = "", port = "0", behaviour] = process.argv.slice(2);
const start = Object.entries(STARTS).find(([name]) => name === provider)?.[1];
if (start === undefined) {
  console.error(`usage: node test/fakes/main.ts ${Object.keys(STARTS).join("|")} [PORT] [BEHAVIOUR]`);
  process.exit(2);
}
const simulator = await start({ port: Number(port), behaviour });
console.log(`${provider} at ${simulator.url}`);
