// Which regular expressions mean the same to everybody who reads them: the part of RE2's syntax that other engines of its family share.
// Routes are accepted here and matched elsewhere, so whatever a matcher could refuse or read in another way is refused before.

/** Longest pattern, in characters: route tables hold many, and each costs its matcher a multiple of this. */
export const PATTERN_CHARACTERS = 1024;
/** As RE2 has it: `x{1000}` is the longest repetition, also where repetitions are nested. */
const MOST_REPEATS = 1000;
/** Characters and ranges with all their repetitions: a matcher's program is so long, and tables hold many of them. */
const MOST_PARTS = 4000;
/** Deeper nesting is nobody's header value. */
const MOST_DEPTH = 32;

const CLASS_ESCAPES = "dDwWsS";
const ESCAPES = `${CLASS_ESCAPES}bBAztnrfva`;
const POSIX = /^\[:\^?(?:alnum|alpha|ascii|blank|cntrl|digit|graph|lower|print|punct|space|upper|word|xdigit):\]/;
/** Sets of sets in one engine, plain characters in another. */
const SET_OPERATION = /^(?:&&|--|~~|\[)/;

type Reader = { readonly text: string; at: number };

class Refused extends Error {}

/** Null when everybody reads it alike, otherwise why not. */
export function patternFault(pattern: string): string | null {
  if (pattern.length > PATTERN_CHARACTERS) return `is longer than ${PATTERN_CHARACTERS} characters`;
  const odd = /[^\x20-\x7e]/.exec(pattern);
  if (odd !== null) return `has a character beyond printable ASCII at position ${odd.index + 1}`;
  const reader: Reader = { text: pattern, at: 0 };
  try {
    const { parts } = alternatives(reader, 0);
    if (reader.at < pattern.length) return at(reader, "an unmatched )");
    return parts > MOST_PARTS ? `stands for more than ${MOST_PARTS} characters with its repetitions` : null;
  } catch (error) {
    if (error instanceof Refused) return error.message;
    throw error;
  }
}

const at = ({ at }: Reader, what: string): string => `has ${what} at position ${at + 1}`;

const refuse = (reader: Reader, what: string): never => {
  throw new Refused(at(reader, what));
};

const peek = ({ text, at }: Reader): string => text[at] ?? "";

const rest = ({ text, at }: Reader): string => text.slice(at);

/** What the next characters are, if the (sticky) pattern finds them; they are read then. */
function take(reader: Reader, pattern: RegExp): string | null {
  const found = pattern.exec(rest(reader))?.[0];
  if (found === undefined) return null;
  reader.at += found.length;
  return found;
}

/** How often something in it is repeated at most, and how many parts it is of. */
type Extent = { readonly repeats: number; readonly parts: number };

function alternatives(reader: Reader, depth: number): Extent {
  let [repeats, parts] = [1, 0];
  do {
    const one = sequence(reader, depth);
    [repeats, parts] = [Math.max(repeats, one.repeats), parts + one.parts + 1];
  } while (take(reader, /^\|/) !== null);
  return { repeats, parts };
}

function sequence(reader: Reader, depth: number): Extent {
  let [repeats, parts] = [1, 0];
  while (reader.at < reader.text.length && peek(reader) !== "|" && peek(reader) !== ")") {
    const inner = atom(reader, depth);
    const times = inner.repeatable ? repetition(reader, inner.repeats) : none(reader);
    [repeats, parts] = [Math.max(repeats, inner.repeats * times), parts + inner.parts * times];
  }
  return { repeats, parts };
}

type Atom = Extent & { readonly repeatable: boolean };

/** A letter is two where capitals count as well. */
const ONE: Atom = { repeats: 1, parts: 2, repeatable: true };
const NOTHING: Atom = { repeats: 1, parts: 1, repeatable: false };
/** The most ranges that a class with a name has. */
const CLASS_PARTS = 4;

function atom(reader: Reader, depth: number): Atom {
  const next = peek(reader);
  if (next === "(") return group(reader, depth);
  if (next === "[") return set(reader);
  if (next === "\\") return escaped(reader, ESCAPES);
  if ("*+?".includes(next)) return refuse(reader, "a repetition of nothing");
  if (next === "{") return refuse(reader, "a { that repeats nothing; write \\{");
  reader.at++;
  return next === "^" || next === "$" ? NOTHING : ONE;
}

function group(reader: Reader, depth: number): Atom {
  if (depth >= MOST_DEPTH) refuse(reader, `a group inside ${MOST_DEPTH} others`);
  reader.at++;
  if (take(reader, /^\?(?=[imsU-])(?:[imsU]+|[imsU]*-[imsU]+)\)/) !== null) return NOTHING;
  const opened = take(reader, /^\?(?:P?<[A-Za-z_][A-Za-z0-9_]*>|[imsU]*(?:-[imsU]+)?:)/);
  if (opened === null && peek(reader) === "?") refuse(reader, "a kind of group that is not RE2's");
  const inside = alternatives(reader, depth + 1);
  if (take(reader, /^\)/) === null) refuse(reader, "no ) where a group should end");
  return { ...inside, repeatable: true };
}

function set(reader: Reader): Atom {
  reader.at++;
  take(reader, /^\^/);
  let parts = 1;
  for (let first = true; first || peek(reader) !== "]"; first = false, parts += CLASS_PARTS) {
    if (reader.at >= reader.text.length) refuse(reader, "no ] where a set should end");
    if (take(reader, POSIX) !== null) continue;
    if (SET_OPERATION.test(rest(reader))) refuse(reader, "a set operation or an unescaped [ in a set");
    const low = member(reader);
    if (peek(reader) !== "-" || reader.text[reader.at + 1] === "]") continue;
    if (rest(reader).startsWith("--")) refuse(reader, "a set operation in a set");
    reader.at++;
    const high = member(reader);
    if (low === null || high === null || high < low) refuse(reader, "a range without order before here");
  }
  reader.at++;
  return { ...ONE, parts };
}

/** The character, null for a class of them. */
function member(reader: Reader): number | null {
  if (peek(reader) === "") return refuse(reader, "no ] where a set should end");
  if (peek(reader) !== "\\") return reader.text.charCodeAt(reader.at++);
  const from = reader.at;
  escaped(reader, `${CLASS_ESCAPES}tnrfva`);
  const written = reader.text.slice(from + 1, reader.at);
  if (written.length > 1) return Number.parseInt(written.replace(/^x\{?|\}$/g, ""), 16);
  if (CLASS_ESCAPES.includes(written)) return null;
  const control = "abtnvfr".includes(written) ? { a: 7, t: 9, n: 10, v: 11, f: 12, r: 13 }[written] : undefined;
  return control ?? written.charCodeAt(0);
}

function escaped(reader: Reader, letters: string): Atom {
  reader.at++;
  if (take(reader, /^x(?:[0-7][0-9a-fA-F]|\{0*[0-7]?[0-9a-fA-F]\})/) !== null) return ONE;
  const next = peek(reader);
  if (next === "" || (/[A-Za-z0-9]/.test(next) && !letters.includes(next))) refuse(reader, `an escape \\${next} that is not shared`);
  // Characters to RE2, ends of words to others.
  if (" <>".includes(next)) refuse(reader, `an escape \\${next} that is not shared`);
  reader.at++;
  return "bBAz".includes(next) ? NOTHING : { ...ONE, parts: CLASS_PARTS };
}

/** How often at most, as far as it counts for nesting. */
function repetition(reader: Reader, inner: number): number {
  if (take(reader, /^[*+?]/) !== null) return lazy(reader, 1);
  if (peek(reader) !== "{") return 1;
  const found = take(reader, /^\{[0-9]{1,4}(?:,(?:[0-9]{1,4})?)?\}/);
  if (found === null) return refuse(reader, "a { that is no repetition; write \\{");
  const [least = 0, most = least] = (found.match(/[0-9]+/g) ?? []).map(Number);
  if (most < least) refuse(reader, "a repetition whose end is below its start before here");
  if (most * inner > MOST_REPEATS) refuse(reader, `more than ${MOST_REPEATS} repetitions before here`);
  return lazy(reader, Math.max(most, 1));
}

function lazy(reader: Reader, repeats: number): number {
  take(reader, /^\?/);
  none(reader);
  return repeats;
}

/** What stands here must not be repeated, or not once more. */
function none(reader: Reader): 1 {
  if (peek(reader) !== "" && "*+?{".includes(peek(reader))) refuse(reader, "a repetition of what cannot be repeated");
  return 1;
}
