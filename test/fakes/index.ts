/** Simulated providers to test against, over real HTTP and true to the byte. */
export { type AnthropicSimulatorOptions, startAnthropicSimulator } from "./anthropic.ts";
export type { Behaviour, BehaviourLike, Fault, Point } from "./behaviour.ts";
export { BEHAVIOURS, parseBehaviour } from "./behaviour.ts";
export { type CohereSimulatorOptions, startCohereSimulator } from "./cohere.ts";
export { type GeminiSimulatorOptions, startGeminiSimulator } from "./gemini.ts";
export { GROQ_ERRORS, type GroqSimulatorOptions, startGroqSimulator } from "./groq.ts";
export { type OllamaSimulatorOptions, startOllamaSimulator } from "./ollama.ts";
export { type OpenAiSimulatorOptions, startOpenAiSimulator } from "./openai.ts";
export { FLAVORS, type FlavorName } from "./openai-flavors.ts";
export { PACES, type PaceName } from "./pace.ts";
export { type RedisKind, redisKinds, startRedis, type TestRedis } from "./redis.ts";
export { type Ending, type Script, type SimulatedRequest, type Simulator, unusedPort } from "./simulator.ts";
