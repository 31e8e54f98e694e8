/** What of a request matters for choosing a worker. What costs something is found out when it is first asked for. */
import type { CompletionRequest } from "../../libs/gen/cortex/llm/v1/llm.ts";
import { hashOf } from "./candidates.ts";
import { conversationOf } from "./conversation.ts";
import { type Needs, needsOf } from "./needs.ts";
import { CHARACTERS_PER_TOKEN } from "./token-estimate.ts";

/** What the strategies may know of a request. */
export interface RequestTraits {
  readonly tenant: string;
  /** Estimated from its length. */
  readonly inputTokens: number;
  /** The most that it asks for; undefined when it leaves that to the provider. */
  readonly outputTokensMax: number | undefined;
  /** The same 32 bits for all turns of one conversation. */
  readonly conversation: number;
}

/** What a plan has to know of a request. */
export interface PlanTraits extends RequestTraits {
  /** What it needs of a worker; undefined when nothing is known to matter. */
  readonly needs: Needs | undefined;
  /** The same where somebody had to know it: for whoever only tells of it, as finding out takes longer than telling. */
  readonly foundNeeds: Needs | undefined;
}

/** The traits of a request for vectors. */
export function embeddingTraits(inputs: readonly string[], tenant: string): PlanTraits {
  const characters = inputs.reduce((sum, { length }) => sum + length, 0);
  const inputTokens = Math.ceil(characters / CHARACTERS_PER_TOKEN);
  return {
    tenant,
    inputTokens,
    outputTokensMax: 0,
    conversation: hashOf(tenant),
    needs: undefined,
    foundNeeds: undefined,
  };
}

/** The traits of a chat request. */
export class ChatTraits implements PlanTraits {
  readonly tenant: string;
  readonly #request: CompletionRequest;
  #needs: Needs | undefined;
  #conversation: number | undefined;

  constructor(request: CompletionRequest, tenant: string) {
    this.#request = request;
    this.tenant = tenant;
  }

  /** What it needs of a worker. */
  get needs(): Needs {
    this.#needs ??= needsOf(this.#request);
    return this.#needs;
  }

  get foundNeeds(): Needs | undefined {
    return this.#needs;
  }

  get inputTokens(): number {
    return this.needs.inputTokens;
  }

  get outputTokensMax(): number | undefined {
    return this.#request.maxOutputTokens;
  }

  get conversation(): number {
    this.#conversation ??= conversationOf(this.#request, this.tenant);
    return this.#conversation;
  }
}
