/** A trace is whole or of little use: which ones are kept, each node tells all others, who export what they hold of them. */
import { TracesKept } from "../gen/cortex/events/v1/events.ts";
import type { Mesh } from "../mesh/index.ts";
import { EVENT, NO_TRACE } from "../telemetry/index.ts";

/** How long ids are gathered: far shorter than spans are held. */
const GATHER_MS = 100;
/** So many are sent at once, without waiting for more. */
const GATHER_MAX = 1_000;
const ID_BYTES = 16;

/** The traces that the nodes of a mesh keep. */
export class KeptTraces {
  readonly #waiting: Buffer[] = [];
  #timer: NodeJS.Timeout | undefined;
  #mesh: Mesh | undefined;

  /** From now on the others hear of this node's traces, and `keep` of theirs, until the returned function is called. */
  share(mesh: Mesh, keep: (traceId: string) => void): () => void {
    this.#mesh = mesh;
    const stop = mesh.events.subscribe(EVENT.tracesKept, TracesKept, ({ node, traceIds }) => {
      if (node === mesh.nodeId) return;
      for (const id of traceIds) if (id.length === ID_BYTES) keep(id.toString("hex"));
    });
    return () => {
      stop();
      this.#tell();
      this.#mesh = undefined;
    };
  }

  /** This node keeps a trace. */
  add(traceId: string): void {
    const mesh = this.#mesh;
    if (mesh === undefined || mesh.directory.nodes().length <= 1) return;
    this.#waiting.push(Buffer.from(traceId, "hex"));
    if (this.#waiting.length >= GATHER_MAX) this.#tell();
    else this.#timer ??= setTimeout(() => this.#tell(), GATHER_MS).unref();
  }

  #tell(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    const traceIds = this.#waiting.splice(0);
    const mesh = this.#mesh;
    if (mesh === undefined || traceIds.length === 0) return;
    mesh.events.publish(EVENT.tracesKept, TracesKept, { node: mesh.nodeId, traceIds }, NO_TRACE);
  }
}
