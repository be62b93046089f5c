// Rules of TLSRoutes and TCPRoutes as a waypoint executes them: for whole connections.
import type { MessageInitShape } from "@bufbuild/protobuf";
import type { StreamRulesSchema } from "#contract/gen/route_pb.ts";
import { compareAge } from "#mesh/age.ts";
import type { TCPRoute, TLSRoute } from "#mesh/route.ts";
import { type BackendFault, type Known, refusal, weighted } from "./backend.ts";
import { type Asking, backendOf, idOf } from "./http.ts";

type Stream = TLSRoute | TCPRoute;

/**
 * Server names by their precision: whole names before "*.example", the longer of two before the shorter, no name at all last. A rule stands
 * once for each of its names, since another route's name may come in between; of equal ones the older route's rule wins.
 */
export function compileStream<R extends Stream>(
  routes: readonly R[],
  known: Known,
  tell: (route: R, fault: BackendFault) => void,
): MessageInitShape<typeof StreamRulesSchema> {
  const asking = (route: R): Asking => ({ known, namespace: route.metadata.namespace, tell: (fault) => tell(route, fault) });
  const places = routes.flatMap((route) =>
    route.rules.flatMap((rule, index) => namesOf(route).map((name) => ({ route, rule, index, name }))),
  );
  places.sort((a, b) => precision(b.name) - precision(a.name) || compareAge(a.route, b.route) || a.index - b.index);
  return {
    rules: places.map(({ route, rule, index, name }) => ({
      id: idOf(route, rule.name, index),
      serverNames: name === "" ? [] : [name],
      backends: route.unsupported.length > 0 ? [refusal()] : [...weighted(rule.backends.map((ref) => backendOf(ref, asking(route))))],
    })),
  };
}

const namesOf = ({ kind, hostnames }: Stream): readonly string[] => (kind === "TLSRoute" && hostnames.length > 0 ? hostnames : [""]);

/** Longer than any name. */
const WHOLE = 1000;

const precision = (name: string): number => (name === "" ? 0 : name.startsWith("*.") ? name.length : WHOLE + name.length);
