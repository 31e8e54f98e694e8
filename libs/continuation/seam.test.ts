import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { CompletionRequest, Role } from "../gen/cortex/llm/v1/llm.ts";
import { RpcError } from "../rpc/index.ts";
import { type ContinuationMode, continuationRequest, Seam } from "./index.ts";
import { MARKER } from "./request.ts";

const MISMATCH = "CONTINUATION_MISMATCH";

/** The last words that the instruction asks to be repeated, as a worker reads them. */
function anchorOf(said: string): string {
  const request = CompletionRequest.create({
    messages: [{ role: Role.USER, content: [{ part: { $case: "text", value: "Go" } }] }],
  });
  const last = continuationRequest(request, said, "instruction").messages.at(-1)?.content[0]?.part;
  return last?.$case === "text" ? last.value.slice(last.value.indexOf("\n\n") + 2) : "";
}

/** What the client has in the end, or that it was refused. */
function join(said: string, mode: ContinuationMode, pieces: readonly string[]): string {
  try {
    const seam = new Seam(said, mode);
    return said + pieces.map((piece) => seam.push(piece)).join("") + seam.end();
  } catch (thrown) {
    return RpcError.from(thrown).reason;
  }
}

/** A text so far, and all of it. */
interface Cut {
  readonly said: string;
  readonly full: string;
}

/** What a worker makes of a cut. The prefill reaches it without the blanks at its end. */
type Worker = (cut: Cut) => string;

function restOf({ said, full }: Cut): string {
  return full.slice(said.trimEnd().length);
}

function lastWords(text: string, count: number): string {
  return text.trimEnd().match(new RegExp(`(?:\\S+\\s+){0,${count - 1}}\\S+$`))?.[0] ?? "";
}

function wordCount(text: string): number {
  return text.split(/\s+/).length;
}

const obedient: Worker = (cut) => `${MARKER} ${anchorOf(cut.said)}${restOf(cut)}`;
const paraphrases: Worker = ({ full }) => `In other words, ${full.split(/\s+/).toReversed().join(" ")}`;
const ignores: Worker = () => "I would rather talk about the weather, which is fine.";
const silent: Worker = () => "";

const words = fc.oneof(
  fc.constantFrom("la", "very", "the", "The", "a", "no", "no.", "re", "read", "- x", "la,", "ha!"),
  fc.constantFrom(
    "Größe",
    "naïve",
    "don’t",
    '"quoted"',
    "`code()`",
    "**bold**",
    "👩‍👩‍👧",
    "🙂🙃",
    "1.",
    "3.14",
    "getUser()",
  ),
  fc.constantFrom("你好", "天天", "，世界", "ภาษาไทย"),
  fc.string({ unit: "grapheme-composite", minLength: 1, maxLength: 8 }).filter((word) => /^\S+$/.test(word)),
);
const blanks = fc.oneof(
  { weight: 8, arbitrary: fc.constant(" ") },
  fc.constantFrom("\n", "\n\n", "\r\n", "  ", "\n- ", "\t"),
);
const ordinary = fc.array(fc.tuple(words, blanks), { minLength: 1, maxLength: 30 });
/** A refrain, said again and again. */
const repetitive = fc
  .tuple(fc.array(fc.tuple(words, blanks), { minLength: 1, maxLength: 5 }), fc.integer({ min: 2, max: 8 }))
  .map(([refrain, times]) => Array.from({ length: times }, () => refrain).flat());
const text = fc
  .oneof(
    ordinary,
    repetitive,
    fc.tuple(ordinary, repetitive).map(([before, after]) => [...before, ...after]),
  )
  .map((pairs) => pairs.flat().join("").trimEnd());

/** Where a model's token ends: before each blank that a word follows. */
function tokenCuts(full: string): Cut[] {
  const tokens = full.match(/\s*\S+|\s+$/g) ?? [];
  return tokens.map((_, index) => ({ said: tokens.slice(0, index + 1).join(""), full }));
}

function everyCut(full: string): Cut[] {
  return Array.from({ length: full.length }, (_, index) => ({ said: full.slice(0, index + 1), full }));
}

function inPieces(answer: string, borders: readonly number[]): string[] {
  const cuts = [0, ...borders.map((border) => border % (answer.length + 1)), answer.length].sort((a, b) => a - b);
  return cuts.slice(1).map((end, index) => answer.slice(cuts[index], end));
}

const borders = fc.array(fc.nat(), { maxLength: 12 });

/** Holds for a worker at each cut of any text, however its answer is cut. */
function always(
  worker: Worker,
  mode: ContinuationMode,
  cutsOf: (full: string) => Cut[],
  allowed: "both" | "full" | "refused",
) {
  fc.assert(
    fc.property(text, borders, (full, at) => {
      for (const cut of cutsOf(full)) {
        const joined = join(cut.said, mode, inPieces(worker(cut), at));
        const right = { both: [full, MISMATCH], full: [full], refused: [MISMATCH] }[allowed];
        if (!right.includes(joined)) expect({ ...cut, answer: worker(cut), joined }).toEqual({ ...cut, joined: right });
      }
    }),
    { numRuns: 60 },
  );
}

describe("the seam after an instruction", () => {
  it.each([
    ["a word", "The cat", " sat on", `${MARKER} The cat sat on`, "The cat sat on"],
    ["the inside of a word", "Made for inter", "national use", `${MARKER} Made for international use`, ""],
    ["a token alone", "You", " said", `${MARKER}You said`, ""],
    ["a blank", "A list:\n", "- one", `${MARKER} A list:\n- one`, ""],
    ["a line end of another kind", "A list:\r\n", "- one", `${MARKER} A list:\n- one`, "A list:\r\n- one"],
    ["half of an emoji", "Hi \ud83d", "\ude42 you", `${MARKER} Hi 🙂 you`, "Hi 🙂 you"],
    ["curled quotation marks", "It’s “so", "” he said", `${MARKER} It's "so” he said`, "It’s “so” he said"],
    ["a repetition", "la la la", " la la end", `${MARKER} la la la la la end`, ""],
  ])("joins after %s", (_name, said, rest, answer, full) => {
    expect(join(said, "instruction", [...answer])).toBe(full === "" ? said + rest : full);
  });

  it("hands text on as soon as the last words have come, and is closed from then on", () => {
    const seam = new Seam("The cat sat", "instruction");
    const handedOut = ["Sure: ", `${MARKER} the c`, "at sat", " on", " a mat"].map((piece) => [
      seam.push(piece),
      seam.open,
    ]);
    expect(handedOut).toEqual([
      ["", true],
      ["", true],
      ["", false],
      [" on", false],
      [" a mat", false],
    ]);
    expect(seam.end()).toBe("");
  });

  it("ends where the text had already ended", () => {
    expect(join("All is said.", "instruction", [`${MARKER} All is said.`])).toBe("All is said.");
  });

  it.each([
    [
      "may have repeated all, or the last words and more",
      "go on. a b c d e f g h i j go on.",
      "go on. a b c d e f g h i j go on. end",
    ],
    ["leaves out a blank that was sent", "A list:\n", "A list:- one"],
    ["repeats fewer words than it was told to", "one two three four five six", "five six seven"],
    ["breaks off in the last words", "one two three", "one two"],
  ])("refuses a worker that %s", (_name, said, repeated) => {
    expect(join(said, "instruction", [...`${MARKER} ${repeated}`])).toBe(MISMATCH);
  });

  it("does not wait for the marker forever", () => {
    const seam = new Seam("The cat", "instruction");
    expect(() => {
      for (let count = 0; count < 1_000; count++) seam.push("and so on ");
    }).toThrow(expect.objectContaining({ reason: MISMATCH }));
  });

  it("gives up on a text that says the same over thousands of characters", () => {
    const said = "la ".repeat(5_000).trimEnd();
    expect(join(said, "instruction", [`${MARKER} ${said} la`])).toBe(MISMATCH);
  });

  it("finds the place in a long text that says much twice", () => {
    const verse = "And so it goes, on and on, until the end of the very last line of all.\n";
    const cut = { said: verse.repeat(20) + verse.slice(0, 31), full: verse.repeat(30) };
    expect(join(cut.said, "instruction", [...obedient(cut)])).toBe(cut.full);
  });
});

describe("the seam after an instruction, without the marker", () => {
  const said = "The quick brown fox jumps over the lazy";
  it("takes a repetition for one where it can be nothing else", () => {
    expect(join(said, "instruction", [`${said} dog.`])).toBe(`${said} dog.`);
    expect(join(said, "instruction", [...`fox jumps over the lazy dog.`])).toBe(`${said} dog.`);
  });

  it("refuses what may be one, or may be none", () => {
    for (const answer of [" dog.", ` ${said} dog.`, "lazy dog.", "The quick brown bear.", "A fox did."]) {
      expect(join(said, "instruction", [answer])).toBe(MISMATCH);
    }
    expect(join(`${said} `, "instruction", [`${said} dog.`])).toBe(MISMATCH);
    expect(join("no no no no", "instruction", ["no no no no no"])).toBe(MISMATCH);
  });
});

describe("the seam after an instruction, for any text cut anywhere", () => {
  it("joins without a repetition or a hole what a worker says that does as it was told", () => {
    always(obedient, "instruction", everyCut, "full");
  });

  const understood: Record<string, Worker> = {
    "begins with a preamble": (cut) => `Sure, here it goes:\n\n${obedient(cut)}`,
    "repeats the whole text": (cut) => `${MARKER}\n${cut.full}`,
    "repeats more than it was asked to": (cut) =>
      `${MARKER} ${lastWords(cut.said, wordCount(anchorOf(cut.said)) + 4)}${restOf(cut)}`,
    "repeats the last words without the marker": (cut) => lastWords(cut.said, 8) + restOf(cut),
    "repeats everything without the marker": ({ full }) => full,
    "repeats in capitals": (cut) => `${MARKER} ${anchorOf(cut.said).toUpperCase()}${restOf(cut)}`,
  };
  it.each(Object.entries(understood))("joins or refuses a worker that %s", (_name, worker) => {
    always(worker, "instruction", everyCut, "both");
  });

  const misunderstood: Record<string, Worker> = {
    "goes on without the marker": restOf,
    "says it in other words": paraphrases,
    "says it in other words, after the marker": (cut) => `${MARKER} ${paraphrases(cut)}`,
    "says something else": ignores,
    "says nothing": silent,
    "writes the marker alone": () => MARKER,
  };
  it.each(Object.entries(misunderstood))("refuses a worker that %s", (_name, worker) => {
    always(worker, "instruction", everyCut, "refused");
  });
});

describe("the seam after a prefill", () => {
  it.each([
    ["goes on", "The cat", " sat", "The cat sat"],
    [
      "goes on inside a word",
      "Made for inter",
      "national use, and more of it",
      "Made for international use, and more of it",
    ],
    ["goes on with a sign", "Hello", ", world", "Hello, world"],
    ["goes on in a script without blanks", "你好，世", "界。今天很好。", "你好，世界。今天很好。"],
    ["repeats a word because it is meant", "This is very", " very good", "This is very very good"],
    ["repeats everything", "The cat sat on", "The cat sat on a mat", "The cat sat on a mat"],
    ["repeats the last words", "I saw that the cat sat on", "the cat sat on a mat", "I saw that the cat sat on a mat"],
    ["goes on after a line end", "A list:\n", "\n- one", "A list:\n- one"],
    ["repeats everything up to a line end", "Here is a list:\n", "Here is a list:\n- one", "Here is a list:\n- one"],
    ["leaves out a blank that was sent", "A list:\n", "- one", MISMATCH],
    ["may repeat or mean it", "la la la", "la la la end", MISMATCH],
    ["may repeat or mean it, after a blank", "I must not talk.", " I must not talk.", MISMATCH],
    ["may repeat two words or mean them", "I said la la", " la la end", MISMATCH],
    ["may repeat one long word or mean it", "On internationalisation", "internationalisation of", MISMATCH],
    ["begins again in other words without blanks", "你好，我是助手。今天", "你好，我是一个模型", MISMATCH],
    ["may repeat a word or end one", "He must re", "read it", MISMATCH],
    ["begins again in other words", "The cat sat on", "The dog lay under a table, as it always did.", MISMATCH],
    ["begins again in small letters", "the cat sat on", "well, the cat sat down on a mat in the hall", MISMATCH],
    [
      "begins again for long",
      "It was a dark and stormy night at sea when",
      " It was a dark and stormy night on land",
      "",
    ],
    ["answers otherwise", "The cat sat on", "I can't help with that.", MISMATCH],
    ["says nothing", "The cat", "", MISMATCH],
    ["says nothing but blanks", "The cat", " \n", MISMATCH],
  ])("when the worker %s", (_name, said, answer, joined) => {
    expect(join(said, "prefill", [...answer])).toBe(joined === "" ? MISMATCH : joined);
  });

  it("takes the answer as it comes where only blanks were seen", () => {
    expect(join("\n", "prefill", ["\n", "Hello"])).toBe("\nHello");
    expect(join(" ", "instruction", ["Hello"])).toBe(" Hello");
    expect(join(" ", "instruction", [])).toBe(MISMATCH);
  });

  it("holds no more back than it needs", () => {
    const seam = new Seam("The cat", "prefill");
    expect([seam.push(" s"), seam.open]).toEqual([" s", false]);
  });
});

describe("the seam after a prefill, for any text cut anywhere", () => {
  const workers: Record<string, Worker> = {
    "goes on": restOf,
    "repeats the last word": (cut) => lastWords(cut.said, 1) + restOf(cut),
    "repeats the last words": (cut) => lastWords(cut.said, 4) + restOf(cut),
    "repeats everything": ({ full }) => full,
  };
  it.each(Object.entries(workers))("joins or refuses a worker that %s, at each token", (_name, worker) => {
    always(worker, "prefill", tokenCuts, "both");
  });
  it.each(Object.entries(workers))("joins or refuses a worker that %s, at each character", (_name, worker) => {
    always(worker, "prefill", everyCut, "both");
  });

  it.each(Object.entries({ paraphrases, ignores, silent }))("refuses a worker that %s", (_name, worker) => {
    always(worker, "prefill", everyCut, "refused");
  });

  it("joins what goes on with an ordinary text, wherever a token ends", () => {
    const distinct = fc.uniqueArray(fc.stringMatching(/^[a-z]{2,9}[,.]?$/), { minLength: 2, maxLength: 40 });
    fc.assert(
      fc.property(distinct, borders, (tokens, at) => {
        // The first word alone may be the beginning of the second.
        for (const cut of tokenCuts(tokens.join(" ")).slice(1, -1)) {
          expect(join(cut.said, "prefill", inPieces(restOf(cut), at))).toBe(cut.full);
        }
      }),
    );
  });
});
