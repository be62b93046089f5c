// How data planes are told of a waypoint: by the name of its Service, whose endpoints its pods are.
import { ports } from "#contract/tables.ts";
import { serviceHostname } from "#mesh/dns.ts";
import type { Standing } from "#waypoint/standing.ts";
import type { GatewayName } from "#waypoint/waypoint.ts";
import type { CompilerSettings } from "./compiler.ts";

type Settings = Pick<CompilerSettings, "clusterDomain">;

/** The first stays named beside the shares, for readers that know of no shares. */
export function waypointsAt({ gateway, canary }: Extract<Standing, { kind: "ready" }>, settings: Settings) {
  const waypoint = waypointAt(gateway, settings);
  if (canary === null || !canary.ready) return { waypoint };
  const shares = [
    { destination: waypoint, weight: 100 - canary.weight },
    { destination: waypointAt(canary.gateway, settings), weight: canary.weight },
  ];
  return { waypoint, weightedWaypoints: shares };
}

export const waypointAt = ({ namespace, name }: GatewayName, { clusterDomain }: Settings) => ({
  destination: { case: "hostname" as const, value: { namespace, hostname: serviceHostname(namespace, name, clusterDomain) } },
  hboneMtlsPort: ports.hbone,
});
