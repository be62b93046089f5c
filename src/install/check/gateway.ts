// Whether waypoints can be made in this cluster, and what stands against those that were asked for.
import { kubernetes, labels } from "#contract/tables.ts";
import { type Finding, finding } from "../finding.ts";

export type GatewayDocument = {
  readonly metadata: { readonly name: string; readonly namespace?: string };
  readonly spec?: { readonly gatewayClassName?: string };
  readonly status?: {
    readonly conditions?: readonly {
      readonly type: string;
      readonly status: string;
      readonly reason?: string;
      readonly message?: string;
    }[];
  };
};

type Named = { readonly metadata?: { readonly name?: string; readonly labels?: Readonly<Record<string, string>> } };

/** `gateways` is null where the cluster does not have the Gateway API. */
export function gatewayFindings(gateways: readonly GatewayDocument[] | null, namespaces: readonly Named[]): Finding[] {
  const asking = namespaces.filter(
    ({ metadata }) => metadata?.labels?.[labels.waypoint] !== undefined || metadata?.labels?.[labels.useWaypoint] !== undefined,
  );
  if (gateways === null)
    return [
      finding(
        "GATEWAY_API_ABSENT",
        "cluster",
        asking.length === 0
          ? "it does not have the Gateway API, so that it can have no waypoints"
          : `it does not have the Gateway API, and ${asking.map(({ metadata }) => `namespace ${metadata?.name}`).join(", ")} asks for a waypoint`,
      ),
    ];
  return gateways
    .filter(({ spec }) => spec?.gatewayClassName === kubernetes.waypointClass)
    .flatMap(({ metadata, status }) => {
      const wrong = (status?.conditions ?? []).filter((one) => one.status !== "True");
      const message = wrong.map(({ type, reason = "", message = "" }) => `${type}: ${message || reason}`).join("; ");
      return message === "" ? [] : [finding("WAYPOINT_NOT_READY", `Gateway ${metadata.namespace}/${metadata.name}`, message)];
    });
}
