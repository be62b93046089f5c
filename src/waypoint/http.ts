// Rules of HTTPRoutes and GRPCRoutes as a waypoint executes them: one list of matches in order of precedence, and the rules that they lead to.
import type { MessageInitShape } from "@bufbuild/protobuf";
import type { FilterSchema, HttpMatchSchema, HttpRuleSchema, HttpRulesSchema, TextSchema } from "#contract/gen/route_pb.ts";
import type {
  BackendRef,
  Filter,
  GRPCRoute,
  GrpcMatch,
  Header,
  HeaderChange,
  HTTPRoute,
  HttpMatch,
  PathChange,
  Retry,
  ValueMatch,
} from "#mesh/route.ts";
import { type BackendFault, isFault, type Known, REFUSED, refusal, resolve, type WireBackend, weighted } from "./backend.ts";
import { type Candidate, compareGrpc, compareHttp, headersOf, prefixOf, queryOf } from "./precedence.ts";

type WireMatch = MessageInitShape<typeof HttpMatchSchema>;
type WireRule = MessageInitShape<typeof HttpRuleSchema>;
type WireFilter = MessageInitShape<typeof FilterSchema>;
type WireText = MessageInitShape<typeof TextSchema>;
export type WireHttpRules = MessageInitShape<typeof HttpRulesSchema>;

/** Where the API leaves it open: enough to hide one endpoint that fails, and one more. */
const DEFAULT_ATTEMPTS = 2;

/** Whoever asks hears of each reference that cannot be used. */
export type Tell = (fault: BackendFault) => void;

/** Whose references are resolved: what may be asked, from which namespace, and who hears of those that cannot be used. */
export type Asking = { readonly known: Known; readonly namespace: string; readonly tell: Tell };

export function compileHttp(
  routes: readonly HTTPRoute[],
  known: Known,
  tell: (route: HTTPRoute, fault: BackendFault) => void,
): WireHttpRules {
  return tableOf(routes, compareHttp, httpMatch, (route, rule, index) => ({
    id: idOf(route, rule.name, index),
    requestTimeoutMilliseconds: rule.requestTimeoutMilliseconds,
    backendTimeoutMilliseconds: rule.backendTimeoutMilliseconds,
    ...(rule.retry === null ? {} : { retry: retryOf(rule.retry) }),
    ...actionsOf(rule.filters, rule.backends, { known, namespace: route.metadata.namespace, tell: (fault) => tell(route, fault) }),
  }));
}

export function compileGrpc(
  routes: readonly GRPCRoute[],
  known: Known,
  tell: (route: GRPCRoute, fault: BackendFault) => void,
): WireHttpRules {
  return tableOf(routes, compareGrpc, grpcMatch, (route, rule, index) => ({
    id: idOf(route, rule.name, index),
    ...actionsOf(rule.filters, rule.backends, { known, namespace: route.metadata.namespace, tell: (fault) => tell(route, fault) }),
  }));
}

type Rules<R extends HTTPRoute | GRPCRoute> = R["rules"][number];

/** A rule of a route that is not in force as written is refused to whom it matches: what it should have done must not be left out. */
function tableOf<
  M,
  R extends (HTTPRoute | GRPCRoute) & { readonly rules: readonly { readonly name: string; readonly matches: readonly M[] }[] },
>(
  routes: readonly R[],
  compare: (a: Candidate<R, M>, b: Candidate<R, M>) => number,
  match: (match: M) => WireMatch,
  compileRule: (route: R, rule: Rules<R>, index: number) => WireRule,
): WireHttpRules {
  const candidates: Candidate<R, M>[] = [];
  const rules: WireRule[] = [];
  const numbers = new Map<object, number>();
  for (const route of routes)
    route.rules.forEach((rule, index) => {
      numbers.set(rule, rules.length);
      rules.push(
        route.unsupported.length > 0
          ? { id: idOf(route, rule.name, index), backends: [refusal()] }
          : compileRule(route, rule as Rules<R>, index),
      );
      candidates.push(...rule.matches.map((one, i) => ({ route, rule: index, index: i, match: one })));
    });
  const entries = candidates.sort(compare).map((one) => ({
    match: match(one.match),
    rule: numbers.get(one.route.rules[one.rule] ?? {}) ?? 0,
  }));
  return { entries, rules };
}

export const idOf = (
  { kind, metadata }: { readonly kind: string; readonly metadata: { readonly namespace: string; readonly name: string } },
  ruleName: string,
  index: number,
) => ({ kind, namespace: metadata.namespace, name: metadata.name, index, ruleName });

const text = ({ type, value }: ValueMatch): WireText =>
  type === "Exact" ? { kind: { case: "exact", value } } : { kind: { case: "regex", value } };

const named = (match: ValueMatch & { readonly name: string }) => ({ name: match.name, value: text(match) });

export function httpMatch({ path, method, headers, query }: HttpMatch): WireMatch {
  const wanted: WireText =
    path.type === "PathPrefix"
      ? { kind: { case: "pathPrefix", value: prefixOf(path.value) } }
      : text({ type: path.type, value: path.value });
  return { path: wanted, method, headers: headersOf(headers).map(named), query: queryOf(query).map(named) };
}

/** gRPC's path is "/package.Service/Method". */
function grpcMatch({ method, headers }: GrpcMatch): WireMatch {
  return { ...(method === null ? {} : { path: grpcPath(method) }), headers: headersOf(headers).map(named) };
}

function grpcPath({ type, service, method }: NonNullable<GrpcMatch["method"]>): WireText {
  if (type === "Exact" && method === "") return { kind: { case: "pathPrefix", value: `/${service}` } };
  if (type === "Exact" && service !== "") return { kind: { case: "exact", value: `/${service}/${method}` } };
  const part = (name: string): string => (name === "" ? "[^/]+" : type === "Exact" ? name.replaceAll(".", "\\.") : `(?:${name})`);
  return { kind: { case: "regex", value: `/${part(service)}/${part(method)}` } };
}

const retryOf = ({ codes, attempts, backoffMilliseconds }: Retry) => ({
  codes: [...codes],
  attempts: attempts ?? DEFAULT_ATTEMPTS,
  backoffMilliseconds: backoffMilliseconds ?? 0,
  // GEP-1731: whoever asks for retries means lost connections, too.
  onConnectionError: true,
});

function actionsOf(filters: readonly Filter[], refs: readonly BackendRef[], from: Asking) {
  const redirects = filters.some(({ type }) => type === "RequestRedirect");
  const backends = refs.map((ref) => backendOf(ref, from));
  return {
    filters: filtersOf(filters, from),
    backends: backends.length === 0 && !redirects ? [refusal()] : [...weighted(backends)],
  };
}

export function backendOf(ref: BackendRef, from: Asking): WireBackend {
  const resolved = resolve(ref, from.namespace, from.known);
  if (isFault(resolved)) {
    from.tell(resolved);
    return { weight: ref.weight, refuseStatus: REFUSED };
  }
  return { ...resolved, weight: ref.weight, filters: filtersOf(ref.filters, from) };
}

const filtersOf = (filters: readonly Filter[], from: Asking): WireFilter[] => filters.flatMap((filter) => filterOf(filter, from));

function filterOf(filter: Filter, { known, namespace, tell }: Asking): WireFilter[] {
  switch (filter.type) {
    case "RequestHeaderModifier":
      return [{ kind: { case: "requestHeaders", value: headerChange(filter.change) } }];
    case "ResponseHeaderModifier":
      return [{ kind: { case: "responseHeaders", value: headerChange(filter.change) } }];
    case "RequestRedirect": {
      const { scheme, hostname, path, port, status } = filter;
      return [{ kind: { case: "redirect", value: { scheme, hostname, ...pathChange(path), port: port ?? 0, status } } }];
    }
    case "URLRewrite":
      return [{ kind: { case: "rewrite", value: { hostname: filter.hostname, ...pathChange(filter.path) } } }];
    case "CORS": {
      const { type: _, ...rest } = filter;
      return [
        { kind: { case: "cors", value: { ...copied(rest), allowCredentials: rest.allowCredentials, maxAgeSeconds: rest.maxAgeSeconds } } },
      ];
    }
    case "RequestMirror": {
      const { backend, numerator, denominator } = filter;
      const resolved = resolve(backend, namespace, known);
      // By the API a mirror that leads nowhere is left out, and the status says so.
      if (isFault(resolved)) tell(resolved);
      if (isFault(resolved) || numerator === 0) return [];
      return [{ kind: { case: "mirror", value: { backend: { ...resolved, weight: 1 }, numerator, denominator } } }];
    }
  }
}

const copied = ({ allowOrigins, allowMethods, allowHeaders, exposeHeaders }: Record<CorsList, readonly string[]>) => ({
  allowOrigins: [...allowOrigins],
  allowMethods: [...allowMethods],
  allowHeaders: [...allowHeaders],
  exposeHeaders: [...exposeHeaders],
});

type CorsList = "allowOrigins" | "allowMethods" | "allowHeaders" | "exposeHeaders";

const headerChange = ({ set, add, remove }: HeaderChange) => ({
  set: headersOf<Header>(set),
  add: headersOf<Header>(add),
  remove: remove.map((name) => name.toLowerCase()),
});

function pathChange(change: PathChange | null) {
  if (change === null) return {};
  const { type, value } = change;
  return { path: { kind: type === "ReplaceFullPath" ? ({ case: "full", value } as const) : ({ case: "prefix", value } as const) } };
}
