// HTTPRoute documents.
import { z } from "zod";
import type { BackendRef, HttpRule } from "#mesh/route.ts";
import { duration } from "../duration.ts";
import { formatPath, invalid, type Path } from "../problem.ts";
import { backendsOf, routeProjector, ruleName, weight } from "./document.ts";
import { filtersOf, httpFilter, type Notes, readFilters } from "./filter.ts";
import { httpMatches, readHttpMatches } from "./match.ts";
import { objectRefFields, readRef } from "./reference.ts";

/** More attempts than these only multiply the load of a backend that fails. */
const MOST_ATTEMPTS = 100;

const rule = z.strictObject({
  name: ruleName,
  matches: httpMatches,
  filters: filtersOf(httpFilter),
  backendRefs: backendsOf(z.strictObject({ ...objectRefFields, weight, filters: filtersOf(httpFilter) })),
  timeouts: z.strictObject({ request: duration.optional(), backendRequest: duration.optional() }).default({}),
  retry: z
    .strictObject({
      codes: z.array(z.int().min(400).max(599)).default([]),
      attempts: z.int().min(0).max(MOST_ATTEMPTS).optional(),
      backoff: duration.optional(),
    })
    .optional(),
});

type Written = z.infer<typeof rule>;

export const projectHTTPRoute = routeProjector({ kind: "HTTPRoute", rule, rules: [{}], read });

function read(written: Written, at: Path, notes: Notes): HttpRule {
  const { name, timeouts, retry } = written;
  checkFilters(written, at, notes);
  const { request = 0, backendRequest = 0 } = timeouts;
  if (request > 0 && backendRequest > request)
    notes.problems.push(invalid([...at, "timeouts", "backendRequest"], "must not be above timeouts.request"));
  return {
    name,
    matches: readHttpMatches(written.matches, [...at, "matches"], notes),
    filters: readFilters(written.filters, [...at, "filters"], notes),
    backends: written.backendRefs.map((ref, i) => readBackend(ref, [...at, "backendRefs", i], notes)),
    requestTimeoutMilliseconds: request,
    backendTimeoutMilliseconds: backendRequest,
    retry:
      retry === undefined ? null : { codes: retry.codes, attempts: retry.attempts ?? null, backoffMilliseconds: retry.backoff ?? null },
  };
}

function readBackend(ref: Written["backendRefs"][number], at: Path, notes: Notes): BackendRef {
  const redirect = ref.filters.findIndex(({ type }) => type === "RequestRedirect");
  // A redirect answers before a backend is chosen, so one for a single backend means nothing that everybody agrees on.
  if (redirect >= 0)
    notes.unsupported.push({ field: formatPath([...at, "filters", redirect]), reason: "a redirect is supported for whole rules only" });
  return { ...readRef(ref, notes.namespace, at), weight: ref.weight, filters: readFilters(ref.filters, [...at, "filters"], notes) };
}

/** What the API's own rules say of filters beside matches and backends. */
function checkFilters({ filters, backendRefs, matches }: Written, at: Path, notes: Notes): void {
  if (filters.some(({ type }) => type === "RequestRedirect") && backendRefs.length > 0)
    notes.problems.push(invalid([...at, "backendRefs"], "a rule that redirects has no backends"));
  const all = [...filters, ...backendRefs.flatMap((ref) => ref.filters)];
  const prefixed = all.some(({ requestRedirect, urlRewrite }) => (requestRedirect ?? urlRewrite)?.path?.replacePrefixMatch !== undefined);
  if (prefixed && !(matches.length === 1 && matches[0]?.path.type === "PathPrefix"))
    notes.problems.push(invalid([...at, "matches"], "replacePrefixMatch needs one match, of type PathPrefix"));
}
