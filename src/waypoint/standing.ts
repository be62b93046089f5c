// How a service stands to its waypoint: whether it has one, and whether its traffic passes it yet.
import type { GatewayName } from "./waypoint.ts";

export type Standing =
  /** Nobody asks for one, or nothing needs the one that could be had; `reason` for people. */
  | { readonly kind: "none"; readonly reason: string }
  /** One is named that cannot serve it; its traffic goes as if there were none. */
  | { readonly kind: "absent"; readonly gateway: GatewayName; readonly reason: string }
  /** Not ready yet, nor was it before: traffic goes as if there were none. */
  | { readonly kind: "waiting"; readonly gateway: GatewayName }
  | { readonly kind: "ready"; readonly gateway: GatewayName };

export const hasWaypoint = (standing: Standing): standing is Extract<Standing, { kind: "waiting" | "ready" }> =>
  standing.kind === "waiting" || standing.kind === "ready";
