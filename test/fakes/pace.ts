/**
 * How fast a provider is: recorded latencies and speeds as named profiles, with the scatter that they have. A simulator has
 * no pace unless it is told one, so that tests take no time.
 */

/** The pace of one provider. */
export interface Pace {
  /** Until the first token, log-normal: the median, and what one request in a hundred exceeds. */
  readonly firstTokenMs: readonly [median: number, p99: number];
  readonly tokensPerS: number;
  /** By how much the gap between two tokens differs, as a share of it. */
  readonly jitter: number;
  /** What is read of the prompt in a second, where it is slow enough to be felt. */
  readonly promptTokensPerS?: number;
  /** Silence before the first answer of all, while the model is loaded. */
  readonly coldMs?: readonly [least: number, most: number];
}

/** Medians of recorded requests of 2024 to 2026 with short prompts. */
export const PACES = {
  groq: { firstTokenMs: [130, 1_500], tokensPerS: 450, jitter: 0.1 },
  gemini: { firstTokenMs: [860, 7_000], tokensPerS: 200, jitter: 0.1 },
  cohere: { firstTokenMs: [400, 2_000], tokensPerS: 70, jitter: 0.1 },
  openai: { firstTokenMs: [300, 3_000], tokensPerS: 90, jitter: 0.1 },
  anthropic: { firstTokenMs: [700, 3_000], tokensPerS: 80, jitter: 0.1 },
  mistral: { firstTokenMs: [220, 1_300], tokensPerS: 120, jitter: 0.1 },
  "ollama-gpu": { firstTokenMs: [50, 300], tokensPerS: 31, jitter: 0.03 },
  "ollama-cpu": {
    firstTokenMs: [300, 600],
    tokensPerS: 8,
    jitter: 0.05,
    promptTokensPerS: 60,
    coldMs: [5_000, 15_000],
  },
} as const satisfies Readonly<Record<string, Pace>>;

/** A name of {@link PACES}. */
export type PaceName = keyof typeof PACES;

/** Whether `name` is a pace's. */
export function isPaceName(name: string): name is PaceName {
  return Object.hasOwn(PACES, name);
}

/** The waits of one answer. `random` gives numbers from 0 to below 1. */
export class Paced {
  readonly #pace: Pace;
  readonly #random: () => number;

  constructor(name: PaceName, random: () => number = Math.random) {
    this.#pace = PACES[name];
    this.#random = random;
  }

  /** Before anything is answered; `cold` for the first request that a server gets. */
  headersMs(cold: boolean): number {
    const { coldMs } = this.#pace;
    return coldMs === undefined || !cold ? 0 : coldMs[0] + this.#random() * (coldMs[1] - coldMs[0]);
  }

  firstTokenMs(promptTokens: number): number {
    const { firstTokenMs, promptTokensPerS = Number.POSITIVE_INFINITY } = this.#pace;
    const [median, p99] = firstTokenMs;
    // 2.326: so many standard deviations above the median is the 99th percentile.
    const sigma = Math.log(p99 / median) / 2.326;
    return Math.min(median * Math.exp(sigma * this.#normal()), 2 * p99) + (promptTokens / promptTokensPerS) * 1_000;
  }

  tokenMs(): number {
    const { tokensPerS, jitter } = this.#pace;
    return (1_000 / tokensPerS) * (1 + jitter * (2 * this.#random() - 1));
  }

  /** By Box and Muller. */
  #normal(): number {
    return Math.sqrt(-2 * Math.log(1 - this.#random())) * Math.cos(2 * Math.PI * this.#random());
  }
}
