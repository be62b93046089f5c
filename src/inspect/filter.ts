// Filter expressions, such as `source.namespace == "shop" && verdict == denied`: a small part of CEL, read once and applied to each record.
//
//   filter  = and { "||" and }          and = not { "&&" not }          not = "!" not | "(" filter ")" | test
//   test    = FIELD                     true, or there at all
//           | FIELD ("==" | "!=" | "<" | "<=" | ">" | ">=") value
//           | FIELD "in" "[" value { "," value } "]"
//           | FIELD ".startsWith(" value ")"  | ".endsWith(" … | ".contains(" …
//   value   = "text" | 'text' | number | true | false | null | a word, which is text
import { meshError } from "#mesh/error.ts";

export type Value = string | number | boolean | null | readonly string[];
export type Field<T> = { readonly kind: "text" | "number" | "flag" | "list"; readonly read: (record: T) => Value };
export type Fields<T> = Readonly<Record<string, Field<T>>>;
export type Filter<T> = (record: T) => boolean;

type Token = { readonly kind: "word" | "text" | "number" | "sign" | "end"; readonly text: string; readonly at: number };
type Literal = string | number | boolean | null;

/** Deeper nesting is no question of a person, and must not use up the stack. */
const DEPTH = 64;
const TOKEN =
  /\s*(?:(?<sign>&&|\|\||==|!=|<=|>=|[!<>()[\],])|(?<number>-?\d+(?:\.\d+)?(?![\w./-]))|(?<word>[\w][\w./:*-]*)|"(?<double>(?:[^"\\]|\\.)*)"|'(?<single>(?:[^'\\]|\\.)*)')/uy;
const METHODS = { startsWith: "startsWith", endsWith: "endsWith", contains: "includes" } as const;

/** An empty text lets everything through. Throws E_QUESTION, which names the character. */
export function parseFilter<T>(text: string, fields: Fields<T>): Filter<T> {
  const tokens = tokensOf(text);
  let next = 0;
  const peek = (): Token => tokens[next] ?? { kind: "end", text: "", at: text.length };
  const take = (): Token => {
    const token = peek();
    next++;
    return token;
  };
  const isSign = (sign: string): boolean => peek().kind === "sign" && peek().text === sign;
  const accept = (sign: string): boolean => isSign(sign) && take() !== undefined;
  const expect = (sign: string): void => {
    if (!accept(sign)) throw wrong(text, peek(), `expected ${sign}`);
  };

  function any(depth: number): Filter<T> {
    const parts = [all(depth)];
    while (accept("||")) parts.push(all(depth));
    return parts.length === 1 && parts[0] !== undefined ? parts[0] : (record) => parts.some((part) => part(record));
  }

  function all(depth: number): Filter<T> {
    const parts = [not(depth)];
    while (accept("&&")) parts.push(not(depth));
    return parts.length === 1 && parts[0] !== undefined ? parts[0] : (record) => parts.every((part) => part(record));
  }

  function not(depth: number): Filter<T> {
    if (depth === DEPTH) throw wrong(text, peek(), `nothing is nested deeper than ${DEPTH}`);
    if (accept("!")) {
      const inner = not(depth + 1);
      return (record) => !inner(record);
    }
    if (!accept("(")) return test();
    const inner = any(depth + 1);
    expect(")");
    return inner;
  }

  function test(): Filter<T> {
    const token = take();
    if (token.kind !== "word") throw wrong(text, token, "expected the name of a field");
    const called = /^(.+)\.(startsWith|endsWith|contains)$/.exec(token.text);
    if (called !== null && isSign("(")) return method(token, called[1] ?? "", called[2] as keyof typeof METHODS);
    const { kind, read } = fieldOf(token, token.text);
    if (accept("==")) return equal(kind, read, value(kind), true);
    if (accept("!=")) return equal(kind, read, value(kind), false);
    for (const [sign, holds] of ORDERS)
      if (accept(sign)) {
        if (kind !== "number") throw wrong(text, token, `${token.text} is not a number, and ${sign} compares numbers`);
        const than = Number(value(kind));
        return (record) => {
          const is = read(record);
          return typeof is === "number" && holds(is, than);
        };
      }
    if (peek().kind === "word" && peek().text === "in") return among(kind, read);
    return (record) => {
      const is = read(record);
      return is !== null && is !== false && !(Array.isArray(is) && is.length === 0);
    };
  }

  function among(kind: Field<T>["kind"], read: Field<T>["read"]): Filter<T> {
    take();
    expect("[");
    const tests = [equal(kind, read, value(kind), true)];
    while (accept(",")) tests.push(equal(kind, read, value(kind), true));
    expect("]");
    return (record) => tests.some((each) => each(record));
  }

  function method(token: Token, name: string, called: keyof typeof METHODS): Filter<T> {
    const { kind, read } = fieldOf(token, name);
    expect("(");
    const part = value(kind === "list" ? "list" : "text");
    expect(")");
    if (kind === "list" && called === "contains") return (record) => (read(record) as readonly string[]).includes(String(part));
    if (kind !== "text") throw wrong(text, token, `${name} is not a text`);
    return (record) => {
      const is = read(record);
      return typeof is === "string" && is[METHODS[called]](String(part));
    };
  }

  function value(kind: Field<T>["kind"]): Literal {
    const token = take();
    if (token.kind === "sign" || token.kind === "end") throw wrong(text, token, "expected a value");
    if (token.kind === "word" && token.text === "null") return null;
    if (kind === "number") {
      if (token.kind !== "number") throw wrong(text, token, "expected a number");
      return Number(token.text);
    }
    if (kind !== "flag") return token.text;
    if (token.kind !== "word" || (token.text !== "true" && token.text !== "false")) throw wrong(text, token, "expected true or false");
    return token.text === "true";
  }

  function fieldOf(token: Token, name: string): Field<T> {
    const field = Object.hasOwn(fields, name) ? fields[name] : undefined;
    if (field === undefined) throw wrong(text, token, `there is no field ${name}; there are ${Object.keys(fields).join(", ")}`);
    return field;
  }

  if (peek().kind === "end") return () => true;
  const whole = any(0);
  if (peek().kind !== "end") throw wrong(text, peek(), "expected && or || or the end");
  return whole;
}

const ORDERS: readonly (readonly [string, (a: number, b: number) => boolean])[] = [
  ["<=", (a, b) => a <= b],
  [">=", (a, b) => a >= b],
  ["<", (a, b) => a < b],
  [">", (a, b) => a > b],
];

function equal<T>(kind: Field<T>["kind"], read: Field<T>["read"], to: Literal, wanted: boolean): Filter<T> {
  if (kind === "list") {
    const listed = (is: Value): boolean =>
      to === null ? (is as readonly string[]).length === 0 : (is as readonly string[]).includes(String(to));
    return (record) => listed(read(record)) === wanted;
  }
  return (record) => (read(record) === to) === wanted;
}

function tokensOf(text: string): Token[] {
  const tokens: Token[] = [];
  const end = text.trimEnd().length;
  for (let at = 0; at < end; at = TOKEN.lastIndex) {
    TOKEN.lastIndex = at;
    const match = TOKEN.exec(text);
    if (match === null) throw wrong(text, { kind: "end", text: "", at }, "this is neither a name, a value nor an operator");
    const { sign, number, word, double, single } = match.groups ?? {};
    const start = at + (match[0].length - match[0].trimStart().length);
    if (sign !== undefined) tokens.push({ kind: "sign", text: sign, at: start });
    else if (number !== undefined) tokens.push({ kind: "number", text: number, at: start });
    else if (word !== undefined) tokens.push({ kind: "word", text: word, at: start });
    else tokens.push({ kind: "text", text: (double ?? single ?? "").replaceAll(/\\(.)/gu, "$1"), at: start });
  }
  return tokens;
}

function wrong(text: string, { at }: Token, what: string) {
  const rest = text.slice(at).trimStart();
  const place = rest === "" ? at + 1 : text.length - rest.length + 1;
  return meshError("E_QUESTION", `filter, character ${place}, at ${rest === "" ? "its end" : JSON.stringify(rest.slice(0, 24))}: ${what}`);
}
