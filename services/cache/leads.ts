/**
 * Who is getting which answer. The first router that asks for an answer which nobody has leads; routers that ask while it is at
 * it follow. A lead ends when its answer has come or won't come, when its router is gone, and when nobody renews it.
 */
import { isInvalidated } from "../../libs/caching/index.ts";
import type { CacheInvalidated } from "../../libs/gen/cortex/events/v1/events.ts";

/** What a router that asks is to do. */
export type Role = { readonly kind: "lead" } | { readonly kind: "follow"; readonly node: string };

interface Lead {
  readonly node: string;
  renewedAtMs: number;
}

export interface LeadsOptions {
  /** Whether the router of that node can be followed. */
  readonly isThere: (node: string) => boolean;
  readonly nowMs: () => number;
  /** Leads that are known at a time; 100,000 by default. Beyond that routers lead without being followed. */
  readonly max?: number;
}

/** For so long a lead lasts without being renewed. */
export const LEASE_MS = 60_000;
const LEADS_MAX = 100_000;
const LEAD: Role = { kind: "lead" };
/** Behind a key for those who get the answer whole. No key ends so. */
const WHOLE = " whole";

/** The leads that the owner of their keys knows. */
export class Leads {
  readonly #options: LeadsOptions;
  /** Those that were renewed longest ago come first. */
  readonly #leads = new Map<string, Lead>();

  constructor(options: LeadsOptions) {
    this.#options = options;
  }

  get size(): number {
    return this.#leads.size;
  }

  /** What the router of `node` is to do when somebody leads; its own lead it renews. Undefined when nobody does. */
  roleOf(key: string, node: string, whole: boolean): Role | undefined {
    const streamed = this.#led(key);
    // Whoever wants it whole may follow a stream, but a stream would wait for the whole.
    const lead = whole ? (this.#own(`${key}${WHOLE}`, node) ?? streamed ?? this.#led(`${key}${WHOLE}`)) : streamed;
    if (lead === undefined) return undefined;
    if (lead.node !== node) return { kind: "follow", node: lead.node };
    const place = lead === streamed ? key : `${key}${WHOLE}`;
    lead.renewedAtMs = this.#options.nowMs();
    this.#leads.delete(place);
    this.#leads.set(place, lead);
    return LEAD;
  }

  /** The same, but when nobody leads, the router of `node` does from now on. */
  take(key: string, node: string, whole: boolean): Role {
    const role = this.roleOf(key, node, whole);
    if (role !== undefined) return role;
    this.#sweep();
    if (this.#leads.size < (this.#options.max ?? LEADS_MAX)) {
      const place = whole ? `${key}${WHOLE}` : key;
      // What stood there can't be followed, and must not keep its place in the order.
      this.#leads.delete(place);
      this.#leads.set(place, { node, renewedAtMs: this.#options.nowMs() });
    }
    return LEAD;
  }

  /** The router of `node` leads no more. */
  end(key: string, node: string): void {
    for (const place of [key, `${key}${WHOLE}`]) {
      if (this.#leads.get(place)?.node === node) this.#leads.delete(place);
    }
  }

  /** Nobody follows what was begun before this moment: it is not to be taken any more. */
  drop(invalidated: CacheInvalidated): void {
    for (const place of this.#leads.keys()) {
      const key = place.endsWith(WHOLE) ? place.slice(0, -WHOLE.length) : place;
      if (isInvalidated(key, invalidated)) this.#leads.delete(place);
    }
  }

  /** The lead that can be followed, or renewed. */
  #led(place: string): Lead | undefined {
    const lead = this.#leads.get(place);
    const holds = lead !== undefined && !this.#expired(lead) && this.#options.isThere(lead.node);
    return holds ? lead : undefined;
  }

  #own(place: string, node: string): Lead | undefined {
    const lead = this.#led(place);
    return lead?.node === node ? lead : undefined;
  }

  #sweep(): void {
    for (const [place, lead] of this.#leads) {
      if (!this.#expired(lead)) return;
      this.#leads.delete(place);
    }
  }

  #expired({ renewedAtMs }: Lead): boolean {
    return this.#options.nowMs() - renewedAtMs >= LEASE_MS;
  }
}
