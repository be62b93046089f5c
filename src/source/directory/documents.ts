// The YAML documents of one file, each with the way from a field's path back to its line.
import { type Document, isMap, isScalar, isSeq, LineCounter, type ParsedNode, parseAllDocuments } from "yaml";
import { invalid, type Path, type Problem } from "../project/problem.ts";

export type TextDocument = {
  /** Where the document (or the item of a List) is inside its YAML document. */
  readonly base: Path;
  readonly value: unknown;
  readonly problems: readonly Problem[];
  /** 1-based line of the deepest part of the path that exists. */
  readonly lineOf: (path: Path) => number;
};

/** Longest reach of YAML aliases: more is an attempt to blow up, not a document. */
const MAX_ALIASES = 100;
/** A file of many broken documents is reported by its first few. */
const MAX_SYNTAX_PROBLEMS = 20;

export type FileText = {
  readonly documents: readonly TextDocument[];
  readonly syntax: readonly { readonly problem: Problem; readonly line: number }[];
};

/** Documents that are not well-formed are not among `documents`; then `syntax` says why. */
export function parseText(text: string): FileText {
  const lines = new LineCounter();
  const documents: TextDocument[] = [];
  const syntax: { problem: Problem; line: number }[] = [];
  const refuse = (offset: number, reason: string): void => {
    if (syntax.length < MAX_SYNTAX_PROBLEMS) syntax.push({ problem: invalid([], reason), line: Math.max(1, lines.linePos(offset).line) });
  };
  try {
    for (const document of parsed(text, lines)) {
      const errors = [...document.errors, ...document.warnings];
      for (const error of errors) refuse(error.pos[0], (error.message.split("\n")[0] ?? "").replace(/ at line \d+, column \d+:?$/, ""));
      if (errors.length === 0 && document.contents !== null) documents.push(...items(document, lines));
    }
  } catch (error) {
    // Aliases beyond the bound and nesting beyond the stack are thrown, not collected.
    refuse(0, error instanceof Error ? error.message : String(error));
  }
  return { documents, syntax };
}

function parsed(text: string, lineCounter: LineCounter): Document.Parsed<ParsedNode>[] {
  const documents = parseAllDocuments(text, { lineCounter, strict: true, uniqueKeys: true });
  return Array.isArray(documents) ? documents : [];
}

/** `kubectl get -o yaml` writes one List; its items count as documents. */
function items(document: Document.Parsed, lines: LineCounter): TextDocument[] {
  const value: unknown = document.toJS({ maxAliasCount: MAX_ALIASES });
  const one = (base: Path, item: unknown): TextDocument => ({
    base,
    value: item,
    problems: [],
    lineOf: (path) => lines.linePos(offsetOf(document, [...base, ...path])).line,
  });
  if (
    typeof value === "object" &&
    value !== null &&
    "kind" in value &&
    value.kind === "List" &&
    "items" in value &&
    Array.isArray(value.items)
  )
    return value.items.map((item: unknown, i) => one(["items", i], item));
  return value === null ? [] : [one([], value)];
}

function offsetOf(document: Document.Parsed, path: Path): number {
  let node: unknown = document.contents;
  let offset = document.contents?.range[0] ?? 0;
  for (const part of path) {
    if (isMap(node)) {
      const pair = node.items.find(({ key }) => isScalar(key) && String(key.value) === String(part));
      if (pair === undefined) break;
      if (isScalar(pair.key)) offset = pair.key.range?.[0] ?? offset;
      node = pair.value;
    } else if (isSeq(node) && typeof part === "number") {
      node = node.items[part];
      if (node === undefined) break;
      offset = (node as { range?: readonly number[] | null }).range?.[0] ?? offset;
    } else break;
  }
  return offset;
}
