/** `cortex chat`: asks a model; the answer comes word by word for people, and as one JSON object for programs. */
import { FinishReason, type Part, Role, type Served, type Usage, type Warning } from "../gen/cortex/llm/v1/llm.ts";
import { RouterServiceDefinition } from "../gen/cortex/router/v1/router.ts";
import { RpcError } from "../rpc/index.ts";
import { type ClientOptions, withNode } from "./client.ts";

const TIMEOUT_MS = 3_600_000;

/** What has come of an answer. */
interface Answer {
  text: string;
  served: Served | undefined;
  usage: Usage | undefined;
  finishReason: FinishReason;
  readonly warnings: Warning[];
  firstTokenMs: number | undefined;
}

/** Asks, and prints the answer; who served it and how fast goes to standard error, or into the object. */
export async function chat(prompt: string, options: ClientOptions & { readonly model: string }): Promise<number> {
  const json = options.json === true;
  const startedAtMs = performance.now();
  const answer: Answer = {
    text: "",
    served: undefined,
    usage: undefined,
    finishReason: FinishReason.UNSPECIFIED,
    warnings: [],
    firstTokenMs: undefined,
  };
  const message = { role: Role.USER, name: "", content: [{ part: { $case: "text" as const, value: prompt } }] };
  const plain = { tools: [], logprobs: false, user: "", extraJson: {} };
  const completion = { model: options.model, messages: [message], ...plain };
  try {
    await withNode(options, TIMEOUT_MS, async (channel, call) => {
      for await (const { parts } of channel.client(RouterServiceDefinition).stream({ completion }, call)) {
        for (const part of parts) {
          const text = take(part, answer);
          if (text === "") continue;
          answer.firstTokenMs ??= performance.now() - startedAtMs;
          if (!json) process.stdout.write(text);
        }
      }
    });
  } catch (thrown) {
    const error = RpcError.from(thrown);
    if (!json || error.reason === "CANCELLED" || error.reason === "INTERNAL") throw thrown;
    process.stdout.write(`${JSON.stringify(plainFailure(error, answer))}\n`);
    return 1;
  }
  const durationMs = performance.now() - startedAtMs;
  if (json) process.stdout.write(`${JSON.stringify(plainAnswer(answer, durationMs))}\n`);
  else tellAbout(answer, durationMs);
  return 0;
}

/** Notes what a part says; returns what of it is text for people. */
function take({ part }: Part, answer: Answer): string {
  switch (part?.$case) {
    case "served":
      answer.served = part.value;
      return "";
    case "usage":
      answer.usage = part.value;
      return "";
    case "finish":
      answer.finishReason = part.value.reason;
      return "";
    case "warning":
      answer.warnings.push(part.value);
      return "";
    case "text":
    case "refusal":
      answer.text += part.value.text;
      return part.value.text;
    default:
      return "";
  }
}

function tellAbout({ served, usage, finishReason, firstTokenMs = 0 }: Answer, durationMs: number): void {
  if (finishReason === FinishReason.LENGTH) process.stderr.write("\n(cut off at the model's limit)");
  const tokens = usage?.outputTokens;
  const rate = tokens === undefined ? "" : `, ${tokens} tokens, ${(tokens / (durationMs / 1_000)).toFixed(0)} tokens/s`;
  process.stdout.write("\n");
  process.stderr.write(
    `\n${served?.worker}/${served?.model}: first token after ${(firstTokenMs / 1_000).toFixed(2)} s${rate}\n`,
  );
}

const FINISH_REASONS: Readonly<Record<FinishReason, string | null>> = {
  [FinishReason.UNSPECIFIED]: null,
  [FinishReason.STOP]: "stop",
  [FinishReason.LENGTH]: "length",
  [FinishReason.TOOL_CALLS]: "tool_calls",
  [FinishReason.CONTENT_FILTER]: "content_filter",
};

/** In the names of the short form of REST (docs/api.md). */
function plainAnswer(
  { text, served, usage, finishReason, warnings, firstTokenMs }: Answer,
  durationMs: number,
): object {
  const { inputTokens = 0, outputTokens = 0 } = usage ?? {};
  return {
    text,
    model: served?.model ?? "",
    worker: served?.worker ?? "",
    provider: served?.provider ?? "",
    finish_reason: FINISH_REASONS[finishReason],
    ...(usage === undefined
      ? {}
      : {
          usage: {
            prompt_tokens: inputTokens,
            completion_tokens: outputTokens,
            total_tokens: inputTokens + outputTokens,
          },
        }),
    warnings: warnings.map(({ code, message, parameter }) => ({ code, message, parameter: parameter || null })),
    first_token_ms: firstTokenMs === undefined ? null : Math.round(firstTokenMs),
    duration_ms: Math.round(durationMs),
  };
}

/** What went wrong, and what had come until then. */
function plainFailure({ message, reason, field, retryAfterMs, attempts }: RpcError, { text }: Answer): object {
  return {
    error: {
      message,
      reason,
      param: field ?? null,
      retry_after_ms: retryAfterMs === undefined ? null : Math.ceil(retryAfterMs),
      attempts,
    },
    ...(text === "" ? {} : { text }),
  };
}
