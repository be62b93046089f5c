// Whose traffic a waypoint is for, as a label of its Gateway says: what is addressed to services, or to pods by their own addresses.
import { labels } from "#contract/tables.ts";
import type { Adoption } from "#mesh/enrolment.ts";
import type { ObjectMeta } from "#mesh/objects.ts";

export type Traffic = { readonly services: boolean; readonly workloads: boolean };

const KINDS: Readonly<Record<string, Traffic>> = {
  service: { services: true, workloads: false },
  workload: { services: false, workloads: true },
  all: { services: true, workloads: true },
  none: { services: false, workloads: false },
};
const DEFAULT: Traffic = { services: true, workloads: false };
/** Followed with --adopt=istio. */
const ISTIO = "istio.io/waypoint-for";

/** Ours before Istio's. */
const written = ({ labels: own }: ObjectMeta, adopt: Adoption): readonly [label: string, value: string] | null => {
  const names = adopt === "istio" ? [labels.waypointFor, ISTIO] : [labels.waypointFor];
  for (const name of names) {
    const value = own[name];
    if (value !== undefined && value !== "") return [name, value];
  }
  return null;
};

/** A value that nobody knows is as if there were none, and the Gateway's status says so. */
export function trafficOf(gateway: ObjectMeta, adopt: Adoption): Traffic {
  const found = written(gateway, adopt);
  return (found !== null && Object.hasOwn(KINDS, found[1]) ? KINDS[found[1]] : undefined) ?? DEFAULT;
}

/** Null: it can be read. */
export function trafficFault(gateway: ObjectMeta, adopt: Adoption): string | null {
  const found = written(gateway, adopt);
  if (found === null || Object.hasOwn(KINDS, found[1])) return null;
  return `label ${found[0]}: ${JSON.stringify(found[1])} is not one of ${Object.keys(KINDS).join(", ")}; it counts as service`;
}
