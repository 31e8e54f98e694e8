/**
 * How many tokens a text has, roughly: without a tokenizer, by what is known of the scripts, and from samples of a long
 * text, so that it costs microseconds whatever the length.
 */

/** For limits and for what nobody has reported: rough, and the same for all models. */
export const CHARACTERS_PER_TOKEN = 4;

/** Longer texts are judged by samples of this many characters altogether. */
const SAMPLED_CHARACTERS_MAX = 4_096;
const SAMPLES = 16;

/** English and most languages in Latin letters. */
const TOKENS_PER_LATIN_CHARACTER = 0.25;
/** Cyrillic, Greek, Arabic, Hebrew, Devanagari, Thai, …; also accented Latin letters. */
const TOKENS_PER_OTHER_CHARACTER = 0.4;
/** Chinese, Japanese, Korean; also symbols and emoji. */
const TOKENS_PER_CJK_CHARACTER = 0.75;
/** A character that repeats the one before it: tokenizers have words for indentation and ruled lines. */
const TOKENS_PER_REPETITION = 0.012;

/** About how many tokens `text` has in a present-day tokenizer. */
export function estimateTokens(text: string): number {
  const { length } = text;
  if (length <= SAMPLED_CHARACTERS_MAX) return weigh(text, 0, length);
  const size = SAMPLED_CHARACTERS_MAX / SAMPLES;
  const stride = (length - size) / (SAMPLES - 1);
  let tokens = 0;
  for (let sample = 0; sample < SAMPLES; sample++) {
    const from = Math.floor(sample * stride);
    tokens += weigh(text, from, from + size);
  }
  return (tokens * length) / SAMPLED_CHARACTERS_MAX;
}

function weigh(text: string, from: number, to: number): number {
  let latin = 0;
  let other = 0;
  let cjk = 0;
  let repeated = 0;
  let previous = -1;
  for (let index = from; index < to; index++) {
    const code = text.charCodeAt(index);
    if (code === previous) repeated++;
    else if (code < 0x80) latin++;
    // 0x1100: Korean Jamo; then everything from the punctuation and kana of Chinese and Japanese on, but Arabic's forms.
    else if (code < 0x1100 || (code >= 0x1200 && code < 0x2e80) || (code >= 0xfb50 && code < 0xfe00)) other++;
    else cjk++;
    previous = code;
  }
  return (
    latin * TOKENS_PER_LATIN_CHARACTER +
    other * TOKENS_PER_OTHER_CHARACTER +
    cjk * TOKENS_PER_CJK_CHARACTER +
    repeated * TOKENS_PER_REPETITION
  );
}
