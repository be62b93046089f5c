// Filters of HTTP and gRPC rules. One that this version does not have is remembered: a request that should have passed it is refused.
import { z } from "zod";
import type { Unsupported } from "#mesh/gateway.ts";
import type { Filter, PathChange } from "#mesh/route.ts";
import { port, subdomain } from "../fields.ts";
import { formatPath, invalid, type Path, type Problem } from "../problem.ts";
import { objectRef, readRef } from "./reference.ts";

/** Bounds of the API's schema. */
const MOST = { filters: 16, headers: 16, pathCharacters: 1024, origins: 64 };

export const headerName = z
  .string()
  .min(1)
  .max(256)
  .regex(/^[A-Za-z0-9!#$%&'*+\-.^_\x60|~]+$/, "must be the name of an HTTP header");
/** What could end the line early, or be read as another one, is no value. */
const headerValue = z
  .string()
  .min(1)
  .max(4096)
  .regex(/^[^\r\n\0]*$/, "must be one line");
const headers = z
  .array(z.strictObject({ name: headerName, value: headerValue }))
  .max(MOST.headers)
  .default([]);
const headerChange = z.strictObject({ set: headers, add: headers, remove: z.array(headerName).max(MOST.headers).default([]) });

const changedPath = z
  .string()
  .max(MOST.pathCharacters)
  .regex(/^[^\s#?]*$/, "must be a path");
const pathChange = z.strictObject({
  type: z.string(),
  replaceFullPath: changedPath.optional(),
  replacePrefixMatch: changedPath.optional(),
});
const redirect = z.strictObject({
  scheme: z.string().optional(),
  hostname: subdomain.optional(),
  path: pathChange.optional(),
  port: port.optional(),
  statusCode: z.int().default(302),
});
const rewrite = z.strictObject({ hostname: subdomain.optional(), path: pathChange.optional() });
const count = z.int().min(0);
const mirror = z.strictObject({
  backendRef: objectRef,
  percent: count.max(100).optional(),
  fraction: z.strictObject({ numerator: count, denominator: z.int().min(1).default(100) }).optional(),
});
const origin = z
  .string()
  .min(1)
  .max(253)
  .regex(/^(?:\*|[a-z]+:\/\/(?:\*\.)?[A-Za-z0-9.\-[\]:]+)$/, 'must be an origin ("https://shop.example", "https://*.shop.example") or "*"');
const token = z
  .string()
  .max(256)
  .regex(/^(?:\*|[A-Za-z0-9!#$%&'*+\-.^_\x60|~]+)$/, "must be a name");
const cors = z.strictObject({
  allowOrigins: z.array(origin).max(MOST.origins).default([]),
  allowCredentials: z.boolean().default(false),
  allowMethods: z.array(token).default([]),
  allowHeaders: z.array(token).max(MOST.origins).default([]),
  exposeHeaders: z.array(token).max(MOST.origins).default([]),
  maxAge: z.int().min(1).default(5),
});

const bodies = {
  requestHeaderModifier: headerChange.optional(),
  responseHeaderModifier: headerChange.optional(),
  requestMirror: mirror.optional(),
};
export const grpcFilter = z.strictObject({ type: z.string(), ...bodies });
export const httpFilter = z.strictObject({
  ...grpcFilter.shape,
  requestRedirect: redirect.optional(),
  urlRewrite: rewrite.optional(),
  cors: cors.optional(),
});
export const filtersOf = <T extends z.ZodType>(filter: T) => z.array(filter).max(MOST.filters).default([]);

export type WrittenFilter = z.infer<typeof httpFilter>;

const FIELDS: Readonly<Record<string, Exclude<keyof WrittenFilter, "type">>> = {
  RequestHeaderModifier: "requestHeaderModifier",
  ResponseHeaderModifier: "responseHeaderModifier",
  RequestMirror: "requestMirror",
  RequestRedirect: "requestRedirect",
  URLRewrite: "urlRewrite",
  CORS: "cors",
};
/** By the API: a mirror may stand several times, everything else once. */
const REPEATABLE = "RequestMirror";

/** Where a filter stands, and where what is wrong with it is told. */
export type Notes = { readonly namespace: string; readonly unsupported: Unsupported[]; readonly problems: Problem[] };

export function readFilters(filters: readonly WrittenFilter[], path: Path, notes: Notes): Filter[] {
  const types = filters.map(({ type }) => type);
  const twice = types.find((type, i) => type !== REPEATABLE && types.indexOf(type) !== i);
  if (twice !== undefined) notes.problems.push(invalid(path, `${twice} must not stand twice`));
  if (types.includes("RequestRedirect") && types.includes("URLRewrite"))
    notes.problems.push(invalid(path, "RequestRedirect and URLRewrite exclude each other"));
  return filters.flatMap((filter, i) => readFilter(filter, [...path, i], notes));
}

function readFilter(filter: WrittenFilter, path: Path, notes: Notes): Filter[] {
  const { type, ...written } = filter;
  const field = Object.hasOwn(FIELDS, type) ? FIELDS[type] : undefined;
  if (field === undefined) return unsupported(notes, [...path, "type"], `filter ${JSON.stringify(type)} is not supported`);
  const stray = Object.keys(written).find((name) => name !== field);
  if (stray !== undefined) notes.problems.push(invalid([...path, stray], `is not for a filter of type ${type}`));
  if (written[field] === undefined) {
    notes.problems.push(invalid(path, `a filter of type ${type} needs ${field}`));
    return [];
  }
  if (written.requestHeaderModifier !== undefined) return [{ type: "RequestHeaderModifier", change: written.requestHeaderModifier }];
  if (written.responseHeaderModifier !== undefined) return [{ type: "ResponseHeaderModifier", change: written.responseHeaderModifier }];
  if (written.requestMirror !== undefined) return readMirror(written.requestMirror, [...path, field], notes);
  if (written.requestRedirect !== undefined) return readRedirect(written.requestRedirect, [...path, field], notes);
  if (written.urlRewrite !== undefined) {
    const { hostname = "", path: change } = written.urlRewrite;
    return [{ type: "URLRewrite", hostname, path: readPath(change, [...path, field, "path"], notes) }];
  }
  if (written.cors === undefined) return [];
  const { maxAge, ...rest } = written.cors;
  return [{ type: "CORS", ...rest, maxAgeSeconds: maxAge }];
}

function readMirror({ backendRef, percent, fraction }: z.infer<typeof mirror>, path: Path, notes: Notes): Filter[] {
  if (percent !== undefined && fraction !== undefined) notes.problems.push(invalid(path, "percent and fraction exclude each other"));
  if (fraction !== undefined && fraction.numerator > fraction.denominator)
    notes.problems.push(invalid([...path, "fraction"], "the numerator must not be above the denominator"));
  const { numerator, denominator } = fraction ?? { numerator: percent ?? 100, denominator: 100 };
  return [{ type: "RequestMirror", backend: readRef(backendRef, notes.namespace, [...path, "backendRef"]), numerator, denominator }];
}

const SCHEMES = ["http", "https"];
const REDIRECTS = [301, 302, 303, 307, 308];

function readRedirect(written: z.infer<typeof redirect>, path: Path, notes: Notes): Filter[] {
  const { scheme = "", hostname = "", path: change, port: to, statusCode } = written;
  if (scheme !== "" && !SCHEMES.includes(scheme))
    return unsupported(notes, [...path, "scheme"], `${JSON.stringify(scheme)} is not one of ${SCHEMES.join(", ")}`);
  if (!REDIRECTS.includes(statusCode))
    return unsupported(notes, [...path, "statusCode"], `${statusCode} is not one of ${REDIRECTS.join(", ")}`);
  const changed = readPath(change, [...path, "path"], notes);
  return [{ type: "RequestRedirect", scheme, hostname, path: changed, port: to ?? null, status: statusCode }];
}

function readPath(change: z.infer<typeof pathChange> | undefined, path: Path, notes: Notes): PathChange | null {
  if (change === undefined) return null;
  const { type, replaceFullPath, replacePrefixMatch } = change;
  if (type !== "ReplaceFullPath" && type !== "ReplacePrefixMatch") {
    unsupported(notes, [...path, "type"], `${JSON.stringify(type)} is not supported`);
    return null;
  }
  const value = type === "ReplaceFullPath" ? replaceFullPath : replacePrefixMatch;
  const other = type === "ReplaceFullPath" ? replacePrefixMatch : replaceFullPath;
  if (value === undefined || other !== undefined) {
    notes.problems.push(invalid(path, `a change of type ${type} needs its own value and no other`));
    return null;
  }
  return { type, value };
}

function unsupported(notes: Notes, path: Path, reason: string): [] {
  notes.unsupported.push({ field: formatPath(path), reason });
  return [];
}
