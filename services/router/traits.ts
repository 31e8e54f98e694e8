/** What of a request matters for choosing a worker. */
export interface RequestTraits {
  readonly tenant: string;
  /** Estimated from its length. */
  readonly inputTokens: number;
  /** The most that it asks for; undefined when it leaves that to the provider. */
  readonly outputTokensMax: number | undefined;
  /** The same 32 bits for all turns of one conversation. */
  readonly conversation: number;
}
