// What a rule of an HTTPRoute or GRPCRoute matches.
import { z } from "zod";
import { PATTERN_CHARACTERS, patternFault } from "#mesh/pattern.ts";
import type { GrpcMatch, HttpMatch, NamedMatch, PathMatch, ValueMatch } from "#mesh/route.ts";
import { formatPath, invalid, type Path } from "../problem.ts";
import { headerName, type Notes } from "./filter.ts";

/** Bounds of the API's schema. */
const MOST = { matches: 64, named: 16, pathCharacters: 1024, valueCharacters: 4096 };
const METHODS = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];

const named = z.strictObject({ type: z.string().default("Exact"), name: headerName, value: z.string().min(1).max(MOST.valueCharacters) });
const several = z.array(named).max(MOST.named).default([]);
const path = z.strictObject({ type: z.string().default("PathPrefix"), value: z.string().max(MOST.pathCharacters).default("/") });
const httpMatch = z.strictObject({
  path: path.prefault({}),
  method: z.string().default(""),
  headers: several,
  queryParams: several,
});
/** What the API fills in where a rule says nothing: every request. */
export const httpMatches = z.array(httpMatch).max(MOST.matches).prefault([{}]);

const grpcMethod = z.strictObject({
  type: z.string().default("Exact"),
  service: z.string().max(MOST.pathCharacters).default(""),
  method: z.string().max(MOST.pathCharacters).default(""),
});
export const grpcMatches = z
  .array(z.strictObject({ method: grpcMethod.optional(), headers: several }))
  .max(MOST.matches)
  .default([]);

export const readHttpMatches = (matches: z.infer<typeof httpMatches>, at: Path, notes: Notes): HttpMatch[] =>
  (matches.length === 0 ? httpMatches.parse(undefined) : matches).map((match, i) => ({
    path: readPath(match.path, [...at, i, "path"], notes),
    method: readMethod(match.method, [...at, i, "method"], notes),
    headers: readNamed(match.headers, [...at, i, "headers"], notes),
    query: readNamed(match.queryParams, [...at, i, "queryParams"], notes),
  }));

export const readGrpcMatches = (matches: z.infer<typeof grpcMatches>, at: Path, notes: Notes): GrpcMatch[] =>
  (matches.length === 0 ? [{ headers: [] }] : matches).map(({ method, headers }, i) => ({
    method: method === undefined ? null : readGrpcMethod(method, [...at, i, "method"], notes),
    headers: readNamed(headers, [...at, i, "headers"], notes),
  }));

function readMethod(method: string, at: Path, notes: Notes): string {
  if (method !== "" && !METHODS.includes(method)) unsupported(notes, at, `${JSON.stringify(method)} is not one of ${METHODS.join(", ")}`);
  return method;
}

function readNamed(matches: z.infer<typeof several>, at: Path, notes: Notes): NamedMatch[] {
  return matches.map(({ type, name, value }, i) => ({ name, ...readValue(type, value, [...at, i], notes) }));
}

function readValue(type: string, value: string, at: Path, notes: Notes): ValueMatch {
  if (type === "Exact") return { type, value };
  if (type !== "RegularExpression") unsupported(notes, [...at, "type"], `match ${JSON.stringify(type)} is not supported`);
  else pattern(value, [...at, "value"], notes);
  return { type: "RegularExpression", value };
}

function readPath({ type, value }: z.infer<typeof path>, at: Path, notes: Notes): PathMatch {
  if (type === "RegularExpression") pattern(value, [...at, "value"], notes);
  if (type !== "Exact" && type !== "PathPrefix") {
    if (type !== "RegularExpression") unsupported(notes, [...at, "type"], `match ${JSON.stringify(type)} is not supported`);
    return { type: "RegularExpression", value };
  }
  const fault = pathFault(value);
  if (fault !== null) notes.problems.push(invalid([...at, "value"], fault));
  return { type, value };
}

/** As the API has it: a path that a request could not have after it was normalised would never match, or match another. */
function pathFault(value: string): string | null {
  if (!value.startsWith("/")) return "must begin with /";
  if (/\/\/|\/\.{1,2}(?:\/|$)|%2f|#/i.test(value)) return "must not hold //, /./, /../, %2F or #";
  if (!/^(?:[-A-Za-z0-9/._~!$&'()*+,;=:@]|%[0-9a-fA-F]{2})+$/.test(value)) return "must be a path";
  return null;
}

function readGrpcMethod({ type, service, method }: z.infer<typeof grpcMethod>, at: Path, notes: Notes): GrpcMatch["method"] {
  if (service === "" && method === "") notes.problems.push(invalid(at, "needs service or method"));
  if (type === "RegularExpression") {
    pattern(service, [...at, "service"], notes);
    pattern(method, [...at, "method"], notes);
  } else if (type !== "Exact") unsupported(notes, [...at, "type"], `match ${JSON.stringify(type)} is not supported`);
  else {
    for (const [field, name] of Object.entries({ service, method }))
      if (!/^[A-Za-z0-9_.]*$/.test(name)) notes.problems.push(invalid([...at, field], "must be a name of gRPC"));
  }
  return { type: type === "Exact" ? type : "RegularExpression", service, method };
}

function pattern(value: string, at: Path, notes: Notes): void {
  const fault = patternFault(value);
  if (fault === null) return;
  unsupported(notes, at, `the pattern ${fault}; patterns are RE2's, of printable ASCII, at most ${PATTERN_CHARACTERS} characters`);
}

const unsupported = (notes: Notes, at: Path, reason: string): void => void notes.unsupported.push({ field: formatPath(at), reason });
