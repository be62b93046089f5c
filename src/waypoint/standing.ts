// How a service stands to its waypoint: whether it has one, and whether its traffic passes it yet.
import type { GatewayName } from "./waypoint.ts";

export type Standing =
  /** Nobody asks for one, or nothing needs the one that could be had; `reason` for people. */
  | { readonly kind: "none"; readonly reason: string }
  /** One is named that cannot serve it; its traffic goes as if there were none. */
  | { readonly kind: "absent"; readonly gateway: GatewayName; readonly reason: string }
  /** Not ready yet, nor was it before: traffic goes as if there were none. */
  | (Served & { readonly kind: "waiting" })
  | (Served & { readonly kind: "ready" });

type Served = {
  readonly gateway: GatewayName;
  /** A second one, which gets a share of the connections as soon as both are ready. */
  readonly canary: Canary | null;
  /** What stands against the second one that is asked for; empty: nothing. */
  readonly fault: string;
};

export type Canary = {
  readonly gateway: GatewayName;
  /** In percent. */
  readonly weight: number;
  readonly ready: boolean;
};

/** The waypoints that must know of the service. */
export const waypointsOf = (standing: Standing): readonly GatewayName[] =>
  hasWaypoint(standing) ? [standing.gateway, ...(standing.canary === null ? [] : [standing.canary.gateway])] : [];

export const hasWaypoint = (standing: Standing): standing is Extract<Standing, { kind: "waiting" | "ready" }> =>
  standing.kind === "waiting" || standing.kind === "ready";
