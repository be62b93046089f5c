// GRPCRoute documents.
import { z } from "zod";
import { backendsOf, routeProjector, ruleName, weight } from "./document.ts";
import { filtersOf, grpcFilter, readFilters } from "./filter.ts";
import { grpcMatches, readGrpcMatches } from "./match.ts";
import { objectRefFields, readRef } from "./reference.ts";

const rule = z.strictObject({
  name: ruleName,
  matches: grpcMatches,
  filters: filtersOf(grpcFilter),
  backendRefs: backendsOf(z.strictObject({ ...objectRefFields, weight, filters: filtersOf(grpcFilter) })),
});

export const projectGRPCRoute = routeProjector({
  kind: "GRPCRoute",
  rule,
  rules: [],
  read: ({ name, matches, filters, backendRefs }, at, notes) => ({
    name,
    matches: readGrpcMatches(matches, [...at, "matches"], notes),
    filters: readFilters(filters, [...at, "filters"], notes),
    backends: backendRefs.map((ref, i) => ({
      ...readRef(ref, notes.namespace, [...at, "backendRefs", i]),
      weight: ref.weight,
      filters: readFilters(ref.filters, [...at, "backendRefs", i, "filters"], notes),
    })),
  }),
});
