/** What requests and attempts come to: routers count them, the metrics service adds up what routers have counted. */
export { latencyOf, Tally } from "./tally.ts";
export { DIMENSIONS, type EncodedTraffic, NAME_CHARACTERS_MAX, Traffic } from "./traffic.ts";
