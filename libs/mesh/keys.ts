/** Under which keys the directory's buckets keep what has a name. */

/**
 * The key of a name, or of several. NATS allows [-/_=.a-zA-Z0-9] in keys, and a dot divides them: every other byte is
 * written as =XX.
 */
export function keyOf(...names: readonly string[]): string {
  return names.map((name) => [...Buffer.from(name, "utf8")].map(keyByte).join("")).join(".");
}

/** The bucket of the workers that should run has, beside them, an entry for each drained one. No worker's own key has a dot. */
const DRAINED_PREFIX = "drained.";

/** The key under which it is noted that a worker is drained. */
export function drainedKeyOf(name: string): string {
  return `${DRAINED_PREFIX}${keyOf(name)}`;
}

/** Whether a key of cortex_workers is of a drained worker, not of one that should run. */
export function isDrainedKey(key: string): boolean {
  return key.startsWith(DRAINED_PREFIX);
}

function keyByte(byte: number): string {
  const character = String.fromCharCode(byte);
  return /[-_a-zA-Z0-9]/.test(character) ? character : `=${byte.toString(16).toUpperCase().padStart(2, "0")}`;
}
