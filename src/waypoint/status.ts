// What the status of routes and Gateways says, as data: control writes it to the API as it is.
import type { ObjectKey } from "#mesh/objects.ts";

/** lastTransitionTime is the writer's: it knows what the condition said before. */
export type Condition = {
  readonly type: "Accepted" | "ResolvedRefs" | "Programmed";
  readonly status: "True" | "False" | "Unknown";
  readonly reason: string;
  readonly message: string;
  readonly observedGeneration: number;
};

/** An entry of status.parents. */
export type RouteParentStatus = {
  /** As it stands in the route. */
  readonly parentRef: Readonly<Record<string, string | number>>;
  readonly controllerName: string;
  readonly conditions: readonly Condition[];
};

/** Entries of other controllers stay; ours that are not named here go. No parents at all: the route is not ours to speak of, or no more. */
export type RouteStatus = { readonly key: ObjectKey; readonly parents: readonly RouteParentStatus[] };

/** An entry of status.ancestors of a policy. */
export type PolicyAncestorStatus = {
  readonly ancestorRef: Readonly<Record<string, string>>;
  readonly controllerName: string;
  readonly conditions: readonly Condition[];
};

/** Entries of other controllers stay; ours that are not named here go. */
export type PolicyStatus = { readonly key: ObjectKey; readonly ancestors: readonly PolicyAncestorStatus[] };

export type ListenerStatus = {
  readonly name: string;
  readonly supportedKinds: readonly { readonly group: string; readonly kind: string }[];
  readonly attachedRoutes: number;
  readonly conditions: readonly Condition[];
};

export type GatewayStatus = {
  readonly key: ObjectKey;
  readonly conditions: readonly Condition[];
  readonly addresses: readonly { readonly type: "IPAddress" | "Hostname"; readonly value: string }[];
  readonly listeners: readonly ListenerStatus[];
};
