/** Gives vi.waitFor the patience that expect.poll has: a condition that comes late on a busy machine has come all the same. */
import { vi } from "vitest";

const TIMEOUT_MS = 15_000;
const waitFor = vi.waitFor.bind(vi);

vi.waitFor = (condition, options) => waitFor(condition, options ?? TIMEOUT_MS);
