/** What all levels of the cache have in common: how keys name what an answer is for, and what operators ask of a node's levels. */
export { isInvalidated, keyPart } from "./keys.ts";
export { type CacheLevel, createNodeCache, type NodeCache } from "./node-cache.ts";
