/**
 * Which node a key belongs to: every node that sees the same directory names the same one, without asking anybody, and when
 * nodes come or go only the keys move that have to.
 */
import type { NodeRecord } from "../gen/cortex/mesh/v1/mesh.ts";
import type { Directory } from "./directory.ts";

interface Replicas {
  readonly nodes: readonly NodeRecord[];
  /** By place in `nodes`. */
  readonly hashes: Uint32Array;
}

/**
 * Rendezvous hashing over the replicas of a service: a key belongs to the replica with the highest score for it. Nodes of
 * different versions share a mesh, so the numbers in here are part of what they agree on.
 */
export class Ownership {
  readonly #directory: Pick<Directory, "nodesServing">;
  readonly #known = new Map<string, Replicas>();

  constructor(directory: Pick<Directory, "nodesServing">) {
    this.#directory = directory;
  }

  /** The id of the node that owns `key` among those that serve the interface; undefined when nobody does. */
  ownerOf(interfaceName: string, key: string): string | undefined {
    const { nodes, hashes } = this.#replicas(interfaceName);
    if (nodes.length <= 1) return nodes[0]?.id;
    const keyHash = hashOf(key);
    let owner = 0;
    let highest = -1;
    for (let place = 0; place < hashes.length; place++) {
      const score = mix(keyHash ^ hashes[place]!);
      // Of two with the same score the first has it; the order is by id, and so the same everywhere.
      if (score > highest) {
        highest = score;
        owner = place;
      }
    }
    return nodes[owner]!.id;
  }

  #replicas(interfaceName: string): Replicas {
    const nodes = this.#directory.nodesServing(interfaceName);
    const known = this.#known.get(interfaceName);
    // The directory returns the same array until something has changed.
    if (known?.nodes === nodes) return known;
    const replicas = { nodes, hashes: Uint32Array.from(nodes, ({ id }) => hashOf(id)) };
    this.#known.set(interfaceName, replicas);
    return replicas;
  }
}

/** FNV-1a over UTF-16 code units, mixed: its own low bits say too little of the first characters. */
function hashOf(text: string): number {
  let hash = 0x811c9dc5;
  for (let index = 0; index < text.length; index++) hash = Math.imul(hash ^ text.charCodeAt(index), 0x01000193);
  return mix(hash);
}

/** The finalizer of MurmurHash3: every bit of the input turns half of the output's. */
function mix(bits: number): number {
  let hash = bits ^ (bits >>> 16);
  hash = Math.imul(hash, 0x85ebca6b);
  hash ^= hash >>> 13;
  hash = Math.imul(hash, 0xc2b2ae35);
  return (hash ^ (hash >>> 16)) >>> 0;
}
