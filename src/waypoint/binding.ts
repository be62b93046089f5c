// Which waypoint an object's traffic passes, as its labels and those of its namespace say.
import { annotations, kubernetes, labels } from "#contract/tables.ts";
import type { Adoption } from "#mesh/enrolment.ts";
import type { Gateway } from "#mesh/gateway.ts";
import type { Namespace, ObjectMeta } from "#mesh/objects.ts";
import { selects } from "#mesh/selector.ts";
import type { GatewayName } from "./waypoint.ts";

type Names = {
  readonly use: string;
  readonly namespace: string;
  readonly canary: string;
  readonly canaryNamespace: string;
  /** An annotation. */
  readonly weight: string;
};

const OURS: Names = {
  use: labels.useWaypoint,
  namespace: labels.useWaypointNamespace,
  canary: labels.useWaypointCanary,
  canaryNamespace: labels.useWaypointCanaryNamespace,
  weight: annotations.useWaypointCanaryWeight,
};

/** Istio's names of the same, followed with --adopt=istio. */
const ISTIO: Names = {
  use: "istio.io/use-waypoint",
  namespace: "istio.io/use-waypoint-namespace",
  canary: "istio.io/use-waypoint-canary",
  canaryNamespace: "istio.io/use-waypoint-canary-namespace",
  weight: "istio.io/use-waypoint-canary-weight",
};
const OPT_OUT = "none";
const AUTO = "auto";

export type Binding =
  /** Nobody asks for one, or it was opted out of. */
  | { readonly kind: "none" }
  | {
      readonly kind: "named";
      readonly gateway: GatewayName;
      readonly canary: WantedCanary | null /** Not by its namespace alone. */;
      readonly own: boolean;
    }
  /** The namespace is labelled auto: only what needs a waypoint passes it. */
  | { readonly kind: "auto"; readonly gateway: GatewayName };

/** A second waypoint, and its share of the connections in percent; null for what is no share. */
export type WantedCanary = { readonly gateway: GatewayName; readonly weight: number | null };

/** Every waypoint that the binding names. */
export const gatewaysOf = (binding: Binding): readonly GatewayName[] =>
  binding.kind === "none"
    ? []
    : [binding.gateway, ...(binding.kind === "named" && binding.canary !== null ? [binding.canary.gateway] : [])];

const NONE: Binding = { kind: "none" };

/** The object beats its namespace, and our labels beat Istio's. `namespace` is undefined while it is not known. */
export function bindingOf(object: ObjectMeta, namespace: Namespace | undefined, adopt: Adoption): Binding {
  const own = namedBy(object, object.namespace, adopt);
  if (own !== null) return own.kind === "named" ? { ...own, own: true } : own;
  if (namespace === undefined) return NONE;
  const inherited = namedBy(namespace.metadata, object.namespace, adopt);
  if (inherited !== null) return inherited;
  if (namespace.metadata.labels[labels.waypoint] !== AUTO) return NONE;
  return { kind: "auto", gateway: { namespace: object.namespace, name: kubernetes.waypointAuto } };
}

/** Ours first. */
const namesOf = (adopt: Adoption): readonly Names[] => (adopt === "istio" ? [OURS, ISTIO] : [OURS]);

function namedBy(object: ObjectMeta, namespace: string, adopt: Adoption): Binding | null {
  for (const names of namesOf(adopt)) {
    const name = object.labels[names.use];
    if (name === undefined || name === "") continue;
    if (name === OPT_OUT) return NONE;
    return {
      kind: "named",
      gateway: { namespace: object.labels[names.namespace] ?? namespace, name },
      canary: canaryOf(object, namespace, names),
      own: false,
    };
  }
  return null;
}

function canaryOf({ labels: written, annotations: noted }: ObjectMeta, namespace: string, names: Names): WantedCanary | null {
  const name = written[names.canary];
  if (name === undefined || name === "") return null;
  const share = noted[names.weight] ?? "0";
  const weight = /^(?:100|[1-9]?[0-9])$/.test(share) ? Number(share) : null;
  return { gateway: { namespace: written[names.canaryNamespace] ?? namespace, name }, weight };
}

/** Labels by which a pod or a destination names a Gateway. */
export const useLabels = (adopt: Adoption): readonly string[] => namesOf(adopt).map(({ use }) => use);

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
