// TLSRoute and TCPRoute documents: where whole connections go.
import { z } from "zod";
import type { StreamRule } from "#mesh/route.ts";
import { invalid, type Path } from "../problem.ts";
import { backendsOf, routeProjector, ruleName, weight } from "./document.ts";
import type { Notes } from "./filter.ts";
import { objectRefFields, readRef } from "./reference.ts";

const rule = z.strictObject({ name: ruleName, backendRefs: backendsOf(z.strictObject({ ...objectRefFields, weight })) });

function read({ name, backendRefs }: z.infer<typeof rule>, at: Path, notes: Notes): StreamRule {
  if (backendRefs.length === 0) notes.problems.push(invalid([...at, "backendRefs"], "must name at least one backend"));
  return {
    name,
    backends: backendRefs.map((ref, i) => ({
      ...readRef(ref, notes.namespace, [...at, "backendRefs", i]),
      weight: ref.weight,
      filters: [],
    })),
  };
}

export const projectTLSRoute = routeProjector({ kind: "TLSRoute", rule, rules: [], read });
export const projectTCPRoute = routeProjector({ kind: "TCPRoute", rule, rules: [], read });
