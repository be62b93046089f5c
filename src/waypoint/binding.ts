// Which waypoint an object's traffic passes, as its labels and those of its namespace say.
import { kubernetes, labels } from "#contract/tables.ts";
import type { Adoption } from "#mesh/enrolment.ts";
import type { Gateway } from "#mesh/gateway.ts";
import type { Namespace, ObjectMeta } from "#mesh/objects.ts";
import { selects } from "#mesh/selector.ts";
import type { GatewayName } from "./waypoint.ts";

/** Istio's names of the same, followed with --adopt=istio. */
const ISTIO = { useWaypoint: "istio.io/use-waypoint", useWaypointNamespace: "istio.io/use-waypoint-namespace" };
const OPT_OUT = "none";
const AUTO = "auto";

export type Binding =
  /** Nobody asks for one, or it was opted out of. */
  | { readonly kind: "none" }
  | { readonly kind: "named"; readonly gateway: GatewayName }
  /** The namespace is labelled auto: only what needs a waypoint passes it. */
  | { readonly kind: "auto"; readonly gateway: GatewayName };

const NONE: Binding = { kind: "none" };

/** The object beats its namespace, and our labels beat Istio's. `namespace` is undefined while it is not known. */
export function bindingOf(object: ObjectMeta, namespace: Namespace | undefined, adopt: Adoption): Binding {
  const own = namedBy(object, object.namespace, adopt);
  if (own !== null) return own;
  if (namespace === undefined) return NONE;
  const inherited = namedBy(namespace.metadata, object.namespace, adopt);
  if (inherited !== null) return inherited;
  if (namespace.metadata.labels[labels.waypoint] !== AUTO) return NONE;
  return { kind: "auto", gateway: { namespace: object.namespace, name: kubernetes.waypointAuto } };
}

/** Ours first: name of the label, and of the one that says where. */
const labelNames = (adopt: Adoption): readonly (readonly [string, string])[] => [
  [labels.useWaypoint, labels.useWaypointNamespace],
  ...(adopt === "istio" ? ([[ISTIO.useWaypoint, ISTIO.useWaypointNamespace]] as const) : []),
];

function namedBy({ labels: written }: ObjectMeta, namespace: string, adopt: Adoption): Binding | null {
  for (const [name, where] of labelNames(adopt)) {
    const value = written[name];
    if (value === undefined || value === "") continue;
    return value === OPT_OUT ? NONE : { kind: "named", gateway: { namespace: written[where] ?? namespace, name: value } };
  }
  return null;
}

/** The label by which the object itself asks for a waypoint, null when by none. */
export const waypointLabel = ({ labels: written }: ObjectMeta, adopt: Adoption): string | null =>
  labelNames(adopt)
    .map(([name]) => name)
    .find((name) => written[name] !== undefined && written[name] !== "" && written[name] !== OPT_OUT) ?? null;

/**
 * Whether what is in `namespace` may use the waypoint: always in its own, elsewhere only where a listener says so, because a waypoint sees, in
 * clear and by its own identity, all that passes it.
 */
export function admits(gateway: Pick<Gateway, "metadata" | "listeners">, namespace: string, found: Namespace | undefined): boolean {
  if (gateway.metadata.namespace === namespace) return true;
  return gateway.listeners.some(
    ({ from, selector }) =>
      from === "All" ||
      (from === "Selector" && found !== undefined && selects(selector, { ...found.metadata.labels, [NAME_LABEL]: namespace })),
  );
}

/** The API server puts it on each namespace. */
const NAME_LABEL = "kubernetes.io/metadata.name";
