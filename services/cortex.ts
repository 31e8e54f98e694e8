/**
 * The composition: which services there are, and the command `cortex` that runs them. `cortex up` runs all of them in one
 * node; `cortex run router cache` runs those. The code of a service is the same either way.
 */
import { runCommandLine } from "../libs/cli/index.ts";
import { adapterAnthropic } from "./adapter-anthropic/start.ts";
import { adapterCohere } from "./adapter-cohere/start.ts";
import { adapterGemini } from "./adapter-gemini/start.ts";
import { adapterGroq } from "./adapter-groq/start.ts";
import { adapterOllama } from "./adapter-ollama/start.ts";
import { adapterOpenAi } from "./adapter-openai/start.ts";
import { adapterSim } from "./adapter-sim/start.ts";
import { cache } from "./cache/start.ts";
import { gateway } from "./gateway/start.ts";
import { health } from "./health/start.ts";
import { metrics } from "./metrics/start.ts";
import { router } from "./router/start.ts";

const SERVICES = [
  gateway,
  router,
  cache,
  health,
  metrics,
  adapterOllama,
  adapterOpenAi,
  adapterGroq,
  adapterGemini,
  adapterCohere,
  adapterAnthropic,
  adapterSim,
];

process.exitCode = await runCommandLine(process.argv.slice(2), SERVICES);
