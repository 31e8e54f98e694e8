/** What every request needs, and how it is told what can't be. */
import { unsupportedBy } from "../../libs/adapter/index.ts";

/** A warning that something was left out, or became something else. */
export const unsupported = unsupportedBy("Anthropic");

/** Required with every request: https://platform.claude.com/docs/en/api/versioning */
export const VERSION_HEADER = { "anthropic-version": "2023-06-01" } as const;
