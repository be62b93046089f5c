// Routes of the Gateway API as people write them, with the API's defaults filled in: what is attached to what, and what its rules say.
import type { Unsupported } from "./gateway.ts";
import type { ObjectMeta } from "./objects.ts";

export const GATEWAY_GROUP = "gateway.networking.k8s.io";

export type ParentRef = {
  readonly group: string;
  readonly kind: string;
  readonly namespace: string;
  readonly name: string;
  /** Of a Service the name of a port; empty: every port. */
  readonly sectionName: string;
  /** Null: every port. */
  readonly port: number | null;
  /** As it stands in the route: a status repeats it field by field. */
  readonly written: Readonly<Record<string, string | number>>;
};

export type ObjectRef = {
  readonly group: string;
  readonly kind: string;
  readonly namespace: string;
  readonly name: string;
  readonly port: number | null;
  /** Where it stands: "spec.rules[0].backendRefs[1]". */
  readonly field: string;
};

export type BackendRef = ObjectRef & { readonly weight: number; readonly filters: readonly Filter[] };

export type HeaderChange = {
  readonly set: readonly Header[];
  readonly add: readonly Header[];
  readonly remove: readonly string[];
};

export type Header = { readonly name: string; readonly value: string };

export type PathChange =
  | { readonly type: "ReplaceFullPath"; readonly value: string }
  | { readonly type: "ReplacePrefixMatch"; readonly value: string };

export type Filter =
  | { readonly type: "RequestHeaderModifier"; readonly change: HeaderChange }
  | { readonly type: "ResponseHeaderModifier"; readonly change: HeaderChange }
  | {
      readonly type: "RequestRedirect";
      /** Empty: the request's. */
      readonly scheme: string;
      readonly hostname: string;
      readonly path: PathChange | null;
      readonly port: number | null;
      readonly status: number;
    }
  | { readonly type: "URLRewrite"; readonly hostname: string; readonly path: PathChange | null }
  | { readonly type: "RequestMirror"; readonly backend: ObjectRef; readonly numerator: number; readonly denominator: number }
  | {
      readonly type: "CORS";
      readonly allowOrigins: readonly string[];
      readonly allowCredentials: boolean;
      readonly allowMethods: readonly string[];
      readonly allowHeaders: readonly string[];
      readonly exposeHeaders: readonly string[];
      readonly maxAgeSeconds: number;
    };

export type ValueMatch = { readonly type: "Exact" | "RegularExpression"; readonly value: string };

export type NamedMatch = ValueMatch & { readonly name: string };

export type PathMatch = { readonly type: "Exact" | "PathPrefix" | "RegularExpression"; readonly value: string };

export type HttpMatch = {
  readonly path: PathMatch;
  /** Empty: any. */
  readonly method: string;
  readonly headers: readonly NamedMatch[];
  readonly query: readonly NamedMatch[];
};

export type GrpcMatch = {
  /** Empty names stand for any. Null: every method of every service. */
  readonly method: { readonly type: ValueMatch["type"]; readonly service: string; readonly method: string } | null;
  readonly headers: readonly NamedMatch[];
};

export type Retry = {
  readonly codes: readonly number[];
  /** Null: as many as the data plane thinks right. */
  readonly attempts: number | null;
  readonly backoffMilliseconds: number | null;
};

type Rule = { readonly name: string; readonly backends: readonly BackendRef[] };

export type HttpRule = Rule & {
  readonly matches: readonly HttpMatch[];
  readonly filters: readonly Filter[];
  /** Zero: none. */
  readonly requestTimeoutMilliseconds: number;
  readonly backendTimeoutMilliseconds: number;
  readonly retry: Retry | null;
};

export type GrpcRule = Rule & { readonly matches: readonly GrpcMatch[]; readonly filters: readonly Filter[] };

export type StreamRule = Rule;

type RouteOf<K extends string, R> = {
  readonly kind: K;
  readonly metadata: ObjectMeta;
  readonly generation: number;
  readonly parents: readonly ParentRef[];
  /** Of TLSRoutes the server names; where HTTPRoutes and GRPCRoutes are attached to Services the API says to ignore them. */
  readonly hostnames: readonly string[];
  readonly rules: readonly R[];
  readonly unsupported: readonly Unsupported[];
};

export type HTTPRoute = RouteOf<"HTTPRoute", HttpRule>;
export type GRPCRoute = RouteOf<"GRPCRoute", GrpcRule>;
export type TLSRoute = RouteOf<"TLSRoute", StreamRule>;
export type TCPRoute = RouteOf<"TCPRoute", StreamRule>;

export type Route = HTTPRoute | GRPCRoute | TLSRoute | TCPRoute;

/** Of several kinds on one port of a service the first has it, as the API ranks them. */
export const ROUTE_KINDS = ["GRPCRoute", "HTTPRoute", "TLSRoute", "TCPRoute"] as const satisfies readonly Route["kind"][];
