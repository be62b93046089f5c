// Gateways and routes for tests, each valid as it is: a test says only what it is about.
import { kubernetes } from "#contract/tables.ts";
import type { Gateway } from "./gateway.ts";
import type {
  BackendRef,
  GRPCRoute,
  GrpcRule,
  HTTPRoute,
  HttpMatch,
  HttpRule,
  ParentRef,
  Route,
  StreamRule,
  TCPRoute,
  TLSRoute,
} from "./route.ts";
import { meta } from "./specimen.ts";

export const gatewayOf = (namespace: string, name: string, more: Partial<Gateway> = {}): Gateway => ({
  kind: "Gateway",
  metadata: meta(namespace, name),
  generation: 1,
  className: kubernetes.waypointClass,
  listeners: [{ name: "mesh", port: 15008, protocol: "HBONE", from: "Same", selector: {} }],
  infrastructure: { labels: {}, annotations: {}, parametersRef: null },
  programmed: false,
  unsupported: [],
  ...more,
});

export const parentOf = (namespace: string, name: string, more: Partial<ParentRef> = {}): ParentRef => ({
  group: "",
  kind: "Service",
  namespace,
  name,
  sectionName: "",
  port: null,
  written: { group: "", kind: "Service", name },
  ...more,
});

export const backendOf = (namespace: string, name: string, more: Partial<BackendRef> = {}): BackendRef => ({
  group: "",
  kind: "Service",
  namespace,
  name,
  port: 80,
  field: "spec.rules[0].backendRefs[0]",
  weight: 1,
  filters: [],
  ...more,
});

export const matchOf = (more: Partial<HttpMatch> = {}): HttpMatch => ({
  path: { type: "PathPrefix", value: "/" },
  method: "",
  headers: [],
  query: [],
  ...more,
});

export const httpRule = (more: Partial<HttpRule> = {}): HttpRule => ({
  name: "",
  matches: [matchOf()],
  filters: [],
  backends: [],
  requestTimeoutMilliseconds: 0,
  backendTimeoutMilliseconds: 0,
  retry: null,
  ...more,
});

const rest = (namespace: string, name: string) => ({
  metadata: meta(namespace, name),
  generation: 1,
  parents: [parentOf(namespace, "web")],
  hostnames: [],
  unsupported: [],
});

export const httpRoute = (namespace: string, name: string, rules: readonly HttpRule[], more: Partial<HTTPRoute> = {}): HTTPRoute => ({
  kind: "HTTPRoute",
  ...rest(namespace, name),
  rules,
  ...more,
});

export const grpcRoute = (namespace: string, name: string, rules: readonly GrpcRule[], more: Partial<GRPCRoute> = {}): GRPCRoute => ({
  kind: "GRPCRoute",
  ...rest(namespace, name),
  rules,
  ...more,
});

export const streamRoute = <K extends "TLSRoute" | "TCPRoute">(
  kind: K,
  namespace: string,
  name: string,
  rules: readonly StreamRule[],
  more: Partial<Omit<Route, "kind" | "rules">> = {},
) => ({ kind, ...rest(namespace, name), rules, ...more }) as K extends "TLSRoute" ? TLSRoute : TCPRoute;
