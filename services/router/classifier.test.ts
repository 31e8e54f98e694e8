import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { confusionOf, LABELS, PROMPTS, textOf } from "../../test/classification.ts";
import { classify } from "./classifier.ts";

const kindsOf = (prompt: string, context: readonly string[] = []) => classify(prompt, context).map(({ kind }) => kind);

describe("the labelled prompts", () => {
  it("are many, in many languages, half of them held out, each there once", () => {
    expect(PROMPTS.length).toBeGreaterThanOrEqual(220);
    expect(new Set(PROMPTS.map(({ language }) => language)).size).toBeGreaterThanOrEqual(8);
    expect(new Set(PROMPTS.map(({ prompt }) => prompt)).size).toBe(PROMPTS.length);
    for (const label of LABELS) {
      const held = PROMPTS.filter((prompt) => prompt.label === label && prompt.held).length;
      const all = PROMPTS.filter((prompt) => prompt.label === label).length;
      expect(Math.abs(all - 2 * held)).toBeLessThanOrEqual(4);
    }
  });

  it("are guessed right, those that the rules were not fitted to as well", () => {
    expect(confusionOf(PROMPTS.filter(({ held }) => held)).accuracy).toBeGreaterThanOrEqual(0.9);
    expect(confusionOf(PROMPTS.filter(({ held }) => !held)).accuracy).toBeGreaterThanOrEqual(0.97);
  });

  it.each(LABELS)("of the held-out ones that are %s, few are missed, and few others are taken for it", (label) => {
    const confusion = confusionOf(PROMPTS.filter(({ held }) => held));
    expect(confusion.recall(label)).toBeGreaterThanOrEqual(0.85);
    // What is missed is taken for nothing in particular, which does no harm.
    expect(confusion.precision(label)).toBeGreaterThanOrEqual(label === "none" ? 0.8 : 0.95);
  });

  it("are guessed right in every language", () => {
    const languages = [...new Set(PROMPTS.map(({ language }) => language))];
    const poor = languages.filter(
      (language) => confusionOf(PROMPTS.filter((prompt) => prompt.language === language)).accuracy < 0.85,
    );
    expect(poor).toEqual([]);
  });
});

describe("a guess", () => {
  it("is none where words of programmers, translators and mathematicians mean something else", () => {
    expect(
      kindsOf("Help me translate this business idea into action, with a plan for the first three months."),
    ).toEqual([]);
    expect(kindsOf("What is in our code of conduct, and whom do I tell when somebody breaks it?")).toEqual([]);
    expect(kindsOf("Write a poem about Python snakes in the outback.")).toEqual([]);
    expect(kindsOf("Solve my biggest problem: I never finish the books I start.")).toEqual([]);
  });

  it("takes what was said before into account, for less", () => {
    const before = "Here it is:\n```python\ndef total(rows):\n    return sum(rows)\n```";
    expect(kindsOf("make it faster please")).toEqual([]);
    const [guess] = classify("make it faster please", [before]);
    expect(guess).toEqual({
      kind: "code",
      confidence: expect.any(Number),
      why: "a block of code, earlier in the conversation",
    });
    expect(guess!.confidence).toBeLessThan(classify(before)[0]!.confidence);
    expect(kindsOf("Guten Morgen", ["You translate everything that the user says into French."])).toEqual([
      "translation",
    ]);
  });

  it("may be two, the surer one first", () => {
    const both = classify("Prove step by step that this is O(n):\n```c\nfor (int i = 0; i < n; i++) sum += a[i];\n```");
    expect(both.map(({ kind }) => kind)).toEqual(["code", "reasoning"]);
    expect(both[0]!.confidence).toBeGreaterThan(both[1]!.confidence);
  });

  it("finds what is asked at the end of a long text too", () => {
    const text = "The committee met again in spring and heard the reports of the regional offices. ".repeat(100);
    expect(kindsOf(text)).toEqual([]);
    expect(kindsOf(`${text}\n\nTranslate this into Polish.`)).toEqual(["translation"]);
  });

  it("says why without quoting the prompt", () => {
    for (const prompt of PROMPTS.slice(0, 400)) {
      for (const { why } of classify(textOf(prompt))) {
        const quoted = why.split(" ").filter((word) => word.length > 3 && !/^[a-z,]+$/.test(word));
        expect(quoted).toEqual([]);
      }
    }
    const canary = "zx81canary";
    expect(
      JSON.stringify(classify(`Fix ${canary}.py: TypeError in ${canary}(), translate ${canary} to French`)),
    ).not.toContain(canary);
  });

  it("is the same for a prompt in capitals or with a dotted capital I", () => {
    expect(kindsOf("TRANSLATE TO GERMAN: GOOD MORNING")).toEqual(["translation"]);
    expect(kindsOf("İNGİLİZCEYE ÇEVİR: Yarın geliyorum")).toEqual(["translation"]);
  });
});

describe("whatever the text", () => {
  const pieces = fc.constantFrom(
    "`", "```", "(", ")", "{", "}", ";", "=", " ", "\n", "a", "A", "_", ".", ":", '"', "'", "SELECT ", "FROM ", "if (",
    "def ", "public ", "export ", "class ", "import ", 'File "', "at ", "1", "x^", "=", "->", "en", "İ", "е", "你", "भ", "\ud800",
    "\u0000", "how do you say ", "step by step ",
  ); // biome-ignore format: a list of pieces
  const text = fc
    .array(pieces, { maxLength: 300 })
    .chain((some) => fc.integer({ min: 1, max: 40 }).map((times) => some.join("").repeat(times)));

  it("guesses are few, sure to a share of 1, and sorted", () => {
    fc.assert(
      fc.property(fc.oneof(fc.string({ unit: "binary", maxLength: 3_000 }), text), (prompt) => {
        const guesses = classify(prompt, [prompt.slice(0, 600)]);
        expect(guesses.length).toBeLessThanOrEqual(3);
        expect(new Set(guesses.map(({ kind }) => kind)).size).toBe(guesses.length);
        for (const { confidence, why } of guesses) {
          expect(confidence).toBeGreaterThanOrEqual(0.5);
          expect(confidence).toBeLessThanOrEqual(1);
          expect(why).not.toBe("");
        }
        expect(guesses.map(({ confidence }) => confidence)).toEqual(
          guesses.map(({ confidence }) => confidence).sort((a, b) => b - a),
        );
      }),
      { numRuns: 400 },
    );
  });

  /** The shortest of some runs, so that whatever else the machine does counts for little. */
  function fastestMs(run: () => unknown, runs = 15): number {
    let fastest = Number.POSITIVE_INFINITY;
    for (let round = 0; round < runs; round++) {
      const startedAtMs = performance.now();
      run();
      fastest = Math.min(fastest, performance.now() - startedAtMs);
    }
    return fastest;
  }

  it("no text of 4,000 characters takes much longer than prose of that length", () => {
    const prose = "The committee met again in spring, and heard the reports of the regional offices. "
      .repeat(60)
      .slice(0, 4_000);
    for (let round = 0; round < 200; round++) classify(prose);
    const proseMs = fastestMs(() => classify(prose));
    fc.assert(
      fc.property(text, (piece) => {
        const adversarial = piece.repeat(Math.ceil(4_000 / Math.max(1, piece.length))).slice(0, 4_000);
        // A pattern that runs wild takes a thousand times as long.
        expect(fastestMs(() => classify(adversarial), 5) / proseMs).toBeLessThan(60);
      }),
      { numRuns: 150 },
    );
  });

  it("guessing takes a small multiple of what parsing the request's JSON takes", () => {
    const prompts = PROMPTS.filter(({ followedBy }) => followedBy === undefined).map(({ prompt }) => prompt);
    const bodies = prompts.map((content) =>
      JSON.stringify({ model: "auto", stream: true, messages: [{ role: "user", content }] }),
    );
    const guess = () => prompts.forEach((prompt) => void classify(prompt));
    const parse = () => bodies.forEach((body) => void JSON.parse(body));
    for (let round = 0; round < 20; round++) {
      guess();
      parse();
    }
    const [guessMs, parseMs] = [fastestMs(guess), fastestMs(parse)];
    const each = ((guessMs / prompts.length) * 1_000).toFixed(1);
    process.stdout.write(
      `a guess takes ${each} µs, ${(guessMs / parseMs).toFixed(1)} times JSON.parse of its request\n`,
    );
    expect(guessMs / parseMs).toBeLessThan(60);
  });
});
