// Which of several matches comes first, as the Gateway API ranks them: settled here, so that nobody who executes a table has to sort.
import { compareAge } from "#mesh/age.ts";
import type { GRPCRoute, GrpcMatch, HTTPRoute, HttpMatch } from "#mesh/route.ts";

/** One match of a rule, and where it stands. */
export type Candidate<R, M> = { readonly route: R; readonly rule: number; readonly index: number; readonly match: M };

/** For sort. The first number that differs decides, greater before smaller; then the older route, then its rules and matches in order. */
function compare<R extends HTTPRoute | GRPCRoute, M>(rank: (match: M) => readonly number[]) {
  return (a: Candidate<R, M>, b: Candidate<R, M>): number => {
    const [left, right] = [rank(a.match), rank(b.match)];
    const at = left.findIndex((value, i) => value !== right[i]);
    if (at >= 0) return (right[at] ?? 0) - (left[at] ?? 0);
    return compareAge(a.route, b.route) || a.rule - b.rule || a.index - b.index;
  };
}

/** The API leaves patterns open: whoever writes one means less than a prefix would. */
const PATHS: Readonly<Record<HttpMatch["path"]["type"], number>> = { Exact: 3, RegularExpression: 2, PathPrefix: 1 };

export const compareHttp = compare<HTTPRoute, HttpMatch>(({ path, method, headers, query }) => [
  PATHS[path.type],
  path.type === "Exact" ? 0 : prefixOf(path.value).length,
  method === "" ? 0 : 1,
  headersOf(headers).length,
  queryOf(query).length,
]);

export const compareGrpc = compare<GRPCRoute, GrpcMatch>(({ method, headers }) => [
  method?.type === "Exact" ? 1 : 0,
  method?.service.length ?? 0,
  method?.method.length ?? 0,
  headersOf(headers).length,
]);

/** A slash at its end says nothing. */
export const prefixOf = (path: string): string => (path.length > 1 && path.endsWith("/") ? path.slice(0, -1) : path);

/** Of several that mean the same name the first counts, by the API. */
const firsts = <T extends { readonly name: string }>(items: readonly T[]): T[] =>
  items.filter(({ name }, i) => items.findIndex((other) => other.name === name) === i);

const lowered = <T extends { readonly name: string }>(items: readonly T[]): T[] =>
  items.map((item) => ({ ...item, name: item.name.toLowerCase() }));

export const headersOf = <T extends { readonly name: string }>(items: readonly T[]): T[] => firsts(lowered(items));

export const queryOf = <T extends { readonly name: string }>(items: readonly T[]): T[] => firsts(items);
