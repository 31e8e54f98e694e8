/**
 * Going on with an answer whose worker, or router, was lost in the middle of it: what the client has seen, the request that
 * makes another worker go on, and the joint between the two. Pure; router and gateway both stand on it.
 *
 * One promise: the joined text is the answer without a repetition or a hole, or CONTINUATION_MISMATCH is thrown. Where what
 * comes can be read in two ways it is thrown too: nothing is ever guessed.
 */
export { AnswerSoFar } from "./answer-so-far.ts";
export { type ContinuationMode, continuationRequest } from "./request.ts";
export { Seam } from "./seam.ts";
