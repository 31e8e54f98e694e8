/** The simulated Ollama, used by Ollama's own client. */
import { Ollama } from "ollama";
import { afterEach, describe, expect, it } from "vitest";
import { type Simulator, startOllamaSimulator } from "./index.ts";

const running: Simulator[] = [];
afterEach(async () => {
  for (const simulator of running.splice(0)) await simulator.stop();
});

async function client(options?: Parameters<typeof startOllamaSimulator>[0]): Promise<Ollama> {
  const simulator = await startOllamaSimulator(options);
  running.push(simulator);
  return new Ollama({ host: simulator.url });
}

const hello = [{ role: "user", content: "hello there" }];
const tool = (name: string, properties: Record<string, { type: string }>) => ({
  type: "function",
  function: { name, description: "", parameters: { type: "object", properties } },
});
const tools = [tool("weather", { city: { type: "string" } }), tool("time", {})];

async function collect<T>(stream: AsyncIterable<T>): Promise<T[]> {
  const lines: T[] = [];
  for await (const line of stream) lines.push(line);
  return lines;
}

describe("Ollama's client against the simulated Ollama", () => {
  it("chats, whole and in a stream", async () => {
    const ollama = await client();
    const whole = await ollama.chat({ model: "llama3.2", messages: hello });
    expect(whole).toMatchObject({
      message: { role: "assistant", content: "You said: hello there" },
      done: true,
      done_reason: "stop",
      prompt_eval_count: 2,
      eval_count: 4,
    });
    const lines = await collect(await ollama.chat({ model: "llama3.2@tokens:50", messages: hello, stream: true }));
    expect(lines.map(({ message }) => message.content).join("")).toMatch(/^You said: hello there and so it goes on/);
    expect(lines.at(-1)).toMatchObject({ done: true, done_reason: "stop", eval_count: 50 });
  });

  it("thinks when it is asked to", async () => {
    const ollama = await client();
    const whole = await ollama.chat({ model: "llama3.2", messages: hello, think: "high" });
    expect(whole.message.thinking).toBe("Let me think.");
    const lines = await collect(await ollama.chat({ model: "llama3.2", messages: hello, think: true, stream: true }));
    expect(lines.map(({ message }) => message.thinking ?? "").join("")).toBe("Let me think.");
  });

  it("calls tools with arguments that are objects, and answers after their results", async () => {
    const ollama = await client();
    const asked = { role: "user", content: "call tools" };
    const whole = await ollama.chat({ model: "llama3.2", messages: [asked], tools });
    const calls = whole.message.tool_calls ?? [];
    const functions = [
      { name: "weather", arguments: { city: "text" } },
      { name: "time", arguments: {} },
    ];
    expect(calls).toMatchObject(functions.map((called) => ({ function: called })));
    // As the server does.
    expect(whole.done_reason).toBe("stop");
    const lines = await collect(await ollama.chat({ model: "llama3.2", messages: [asked], tools, stream: true }));
    const streamed = lines.flatMap(({ message }) => message.tool_calls ?? []);
    expect(streamed).toMatchObject(functions.map((called) => ({ function: called })));
    const messages = [asked, whole.message, { role: "tool", tool_name: "weather", content: "sunny" }];
    const after = await ollama.chat({ model: "llama3.2", messages, tools });
    expect(after.message.content).toBe("You said: call tools");
  });

  it("answers in JSON, to a limit, and up to a stop sequence", async () => {
    const ollama = await client();
    const format = { type: "object", properties: { age: { type: "integer" } } };
    const json = await ollama.chat({ model: "llama3.2", messages: hello, format });
    expect(JSON.parse(json.message.content)).toEqual({ age: 1 });
    const long = await ollama.chat({ model: "llama3.2", messages: hello, options: { num_predict: 2 } });
    expect(long).toMatchObject({ message: { content: "You said:" }, done_reason: "length" });
    const stopped = await ollama.chat({ model: "llama3.2", messages: hello, options: { stop: ["there"] } });
    expect(stopped.message.content).toBe("You said: hello ");
  });

  it("embeds, lists what it has, and tells its version", async () => {
    const ollama = await client({ models: ["llama3.2:1b", "nomic-embed-text"] });
    const { embeddings } = await ollama.embed({ model: "nomic-embed-text", input: ["a", "b"], dimensions: 4 });
    expect(embeddings.map(({ length }) => length)).toEqual([4, 4]);
    expect((await ollama.list()).models.map(({ name }) => name)).toEqual(["llama3.2:1b", "nomic-embed-text"]);
    expect((await ollama.version()).version).toMatch(/^\d+\.\d+\.\d+$/);
  });

  it("gives the client its errors, also in the middle of a stream", async () => {
    const ollama = await client({ models: ["llama3.2"] });
    const ask = (model: string) => ollama.chat({ model, messages: hello });
    await expect(ask("none")).rejects.toMatchObject({ status_code: 404, error: "model 'none' not found" });
    await expect(ask("llama3.2@status:503")).rejects.toMatchObject({ status_code: 503 });
    await expect(ask("llama3.2@status:502,html")).rejects.toMatchObject({ status_code: 502 });
    const broken = await ollama.chat({ model: "llama3.2@error:1", messages: hello, stream: true });
    await expect(collect(broken)).rejects.toThrow("an error was encountered while running the model");
    const cut = await ollama.chat({ model: "llama3.2@cut:1", messages: hello, stream: true });
    await expect(collect(cut)).rejects.toThrow();
  });
});
