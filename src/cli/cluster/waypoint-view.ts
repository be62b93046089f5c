// Waypoints as people ask for them: each Gateway of our class with its pods, who names it, and what its routes lack. Pure.
import type { V1Namespace, V1Pod, V1Service } from "@kubernetes/client-node";
import { kubernetes, labels } from "#contract/tables.ts";
import { isReady } from "#install/rollout.ts";
import type { WaypointKey } from "#waypoint/waypoint.ts";
import { paint, table } from "../table.ts";
import type { Held } from "./client.ts";

export type Condition = { readonly type: string; readonly status: string; readonly reason?: string; readonly message?: string };

export type GatewayObject = Held & {
  readonly spec?: { readonly gatewayClassName?: string };
  readonly status?: { readonly conditions?: readonly Condition[]; readonly addresses?: readonly { readonly value: string }[] };
};

export type RouteObject = Held & {
  readonly status?: {
    readonly parents?: readonly {
      readonly controllerName?: string;
      readonly parentRef?: { readonly kind?: string; readonly name?: string; readonly namespace?: string };
      readonly conditions?: readonly Condition[];
    }[];
  };
};

export type WaypointFacts = {
  readonly gateways: readonly GatewayObject[];
  readonly namespaces: readonly V1Namespace[];
  readonly services: readonly V1Service[];
  readonly pods: readonly V1Pod[];
  readonly routes: readonly RouteObject[];
};

export type WaypointView = {
  readonly namespace: string;
  readonly name: string;
  /** Its status says Programmed: what names it is reached through it. */
  readonly programmed: boolean;
  readonly address: string;
  readonly conditions: readonly Condition[];
  readonly pods: readonly { readonly name: string; readonly node: string; readonly ready: boolean }[];
  /** Who names it by label: "namespace shop", "service shop/web", "pod shop/web-0". */
  readonly users: readonly string[];
  /** Routes of its namespace that are not in force as written. */
  readonly faults: readonly { readonly route: string; readonly type: string; readonly reason: string; readonly message: string }[];
};

export function waypointsOf(facts: WaypointFacts): readonly WaypointView[] {
  const { gateways, pods, routes } = facts;
  const users = Map.groupBy(namings(facts), ({ key }) => key);
  return gateways
    .filter(({ spec }) => spec?.gatewayClassName === kubernetes.waypointClass)
    .map(({ metadata: { name, namespace = "" }, status }) => ({
      namespace,
      name,
      programmed: status?.conditions?.some(({ type, status }) => type === "Programmed" && status === "True") ?? false,
      address: status?.addresses?.[0]?.value ?? "",
      conditions: status?.conditions ?? [],
      pods: pods
        .filter(({ metadata }) => metadata?.namespace === namespace && metadata.labels?.[kubernetes.gatewayNameLabel] === name)
        .map((pod) => ({ name: pod.metadata?.name ?? "", node: pod.spec?.nodeName ?? "", ready: isReady(pod) })),
      users: (users.get(`${namespace}/${name}`) ?? []).map(({ who }) => who),
      faults: routes.filter(({ metadata }) => metadata.namespace === namespace).flatMap(faultsOf),
    }))
    .sort((a, b) => a.namespace.localeCompare(b.namespace) || a.name.localeCompare(b.name));
}

/** Every label that names a waypoint: the object's own beats its namespace's, and is told beside it. */
function namings({ namespaces, services, pods }: WaypointFacts): { readonly key: WaypointKey; readonly who: string }[] {
  const naming = (kind: string, object: V1Namespace | V1Service | V1Pod): { key: WaypointKey; who: string }[] => {
    const { name = "", namespace = "", labels: own = {} } = object.metadata ?? {};
    const waypoint = own[labels.useWaypoint];
    if (waypoint === undefined || waypoint === "" || waypoint === "none") return [];
    const where = own[labels.useWaypointNamespace] ?? (namespace === "" ? name : namespace);
    return [{ key: `${where}/${waypoint}`, who: `${kind} ${namespace === "" ? name : `${namespace}/${name}`}` }];
  };
  return [
    ...namespaces.flatMap((one) => naming("namespace", one)),
    ...services.flatMap((one) => naming("service", one)),
    ...pods.flatMap((one) => naming("pod", one)),
  ];
}

function faultsOf({ kind, metadata, status }: RouteObject): WaypointView["faults"] {
  return (status?.parents ?? [])
    .filter(({ controllerName }) => controllerName === kubernetes.waypointController)
    .flatMap(({ parentRef, conditions = [] }) =>
      conditions
        .filter(({ status }) => status === "False")
        .map(({ type, reason = "", message = "" }) => ({
          route: `${kind} ${metadata.namespace}/${metadata.name}`,
          type,
          reason,
          message: `for ${parentRef?.kind ?? "Service"} ${parentRef?.name ?? ""}: ${message}`,
        })),
    );
}

const readyOf = ({ pods }: WaypointView): string => `${pods.filter(({ ready }) => ready).length}/${pods.length}`;

export const listPage = (waypoints: readonly WaypointView[]): string =>
  waypoints.length === 0
    ? "there is no waypoint"
    : table(
        ["NAMESPACE", "NAME", "PROGRAMMED", "PODS READY", "ADDRESS", "NAMED BY"],
        waypoints.map((one) => [
          one.namespace,
          one.name,
          one.programmed ? paint("yes", "green") : paint("no", "red"),
          readyOf(one),
          one.address || "-",
          one.users.join(", ") || "-",
        ]),
      );

export function statusPage(one: WaypointView): string {
  const conditions = one.conditions.map(({ type, status, reason = "", message = "" }) => [type, status, reason, message]);
  const pods = one.pods.map(({ name, node, ready }) => [name, node, ready ? "yes" : "no"]);
  const faults = one.faults.map(({ route, type, reason, message }) => [route, type, reason, message]);
  return [
    `waypoint ${one.namespace}/${one.name}, named by ${one.users.join(", ") || "nobody: label a namespace or service"}`,
    conditions.length === 0 ? "control has said nothing of it yet" : table(["CONDITION", "STATUS", "REASON", "MESSAGE"], conditions),
    pods.length === 0 ? "it has no pod" : table(["POD", "NODE", "READY"], pods),
    ...(faults.length === 0 ? [] : [table(["ROUTE", "CONDITION", "REASON", "MESSAGE"], faults)]),
  ].join("\n\n");
}
