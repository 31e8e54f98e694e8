/**
 * Starts a simulated provider by hand, until it is interrupted:
 *
 *   node test/fakes/main.ts openai 9101 "tokenMs:20,cut:10"
 */
import { startOllamaSimulator, startOpenAiSimulator } from "./index.ts";

const [provider = "", port = "0", behaviour] = process.argv.slice(2);
const start = { openai: startOpenAiSimulator, ollama: startOllamaSimulator }[provider];
if (start === undefined) {
  console.error("usage: node test/fakes/main.ts openai|ollama [PORT] [BEHAVIOUR]");
  process.exit(2);
}
const simulator = await start({ port: Number(port), behaviour });
console.log(`${provider} at ${simulator.url}`);
