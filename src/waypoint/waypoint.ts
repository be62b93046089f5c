// The waypoints that there should be, each with what it serves: what provisioning builds from, and a waypoint's director feeds from.
import type { Gateway } from "#mesh/gateway.ts";

export type GatewayName = { readonly namespace: string; readonly name: string };

/** "namespace/name" */
export type WaypointKey = `${string}/${string}`;

export const waypointKey = ({ namespace, name }: GatewayName): WaypointKey => `${namespace}/${name}`;

export type Waypoint = GatewayName & {
  /** Null: nobody wrote it; the namespace is labelled auto and something in it needs one. */
  readonly gateway: Gateway | null;
  readonly className: string;
  /** A pod of it is ready and its Service is there. */
  readonly ready: boolean;
  /** "namespace/hostname" of the services that are reached through it, once it is ready. */
  readonly services: readonly string[];
};

/**
 * Names of the resources that the engine of a waypoint needs, beside the workload that it is itself. The same object as long as nothing in it
 * changed, so that an engine that has it needs to look only at what a batch brought.
 */
export type Scope = {
  /** Services that it serves, backends of their routes, the workloads of all of them, pods that it serves, its own Service. */
  readonly addresses: ReadonlySet<string>;
  readonly routes: ReadonlySet<string>;
  /** Authorizations that may say something of these workloads, or of the waypoint's own pods. */
  readonly policies: ReadonlySet<string>;
};
