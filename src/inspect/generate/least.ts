// The least that keeps going what was seen: for each workload of a namespace who may connect to which port, and what nobody was seen to use.
import type { Known } from "#inspect/eval/mesh.ts";
import type { Labels, MeshObject, Pod, Service } from "#mesh/objects.ts";
import { isTcp } from "#mesh/protocol.ts";
import { isEmptySelector, selects } from "#mesh/selector.ts";
import { gatewayOf } from "#mesh/waypoint-pod.ts";
import type { Observations, Observed } from "../observed.ts";

export type Least = {
  readonly namespace: string;
  readonly workloads: readonly LeastWorkload[];
  /** Pods that no selector can pick out, by workload. As long as there are any, nobody else is refused in the namespace. */
  readonly unselectable: readonly string[];
  /** Services' ports, and rules of routes, that nobody was seen to use. */
  readonly neverSeen: readonly string[];
};

export type LeastWorkload = {
  /** Workloads that only one selector picks together. */
  readonly names: readonly string[];
  readonly selector: Labels;
  readonly rules: readonly LeastRule[];
  /** Refused while they were watched: left out. */
  readonly refused: readonly Observed[];
};

/** Who was seen at these ports. */
export type LeastRule = {
  /** Without spiffe://, sorted; empty for plaintext. */
  readonly principals: readonly string[];
  /** Of plaintext clients, where the records hold them. */
  readonly addresses: readonly string[];
  readonly plaintext: boolean;
  readonly ports: readonly number[];
  /** Seen so rarely that somebody should look at it. */
  readonly rare: boolean;
  readonly connections: number;
};

/** Once or twice in all the time is more often a person or a mistake than what a program does. */
const RARELY = 2;
/** Labels that a controller gives to each pod or each version: a selector with them picks nobody tomorrow. */
const FLEETING: ReadonlySet<string> = new Set([
  "pod-template-hash",
  "controller-revision-hash",
  "pod-template-generation",
  "statefulset.kubernetes.io/pod-name",
  "apps.kubernetes.io/pod-index",
  "controller-uid",
  "batch.kubernetes.io/controller-uid",
  "job-name",
  "batch.kubernetes.io/job-name",
]);
/** Labels that mean what is deployed: the first of them that picks exactly the workload is taken. */
const NAMING = ["app.kubernetes.io/instance", "app.kubernetes.io/name", "app", "k8s-app", "name"];
const SPIFFE = "spiffe://";

type Group = { readonly names: string[]; readonly pods: Pod[] };

export function leastPrivilege(
  namespace: string,
  objects: readonly MeshObject[],
  known: readonly Known[],
  observations: Observations,
): Least {
  const { groups, unselectable } = selectable(groupsOf(namespace, objects, known), servicesOf(namespace, objects));
  const here = observations.edges.filter(({ destination }) => destination.namespace === namespace);
  return {
    namespace,
    workloads: groups.map(({ group, selector }) => workloadOf(group, selector, here)),
    unselectable,
    neverSeen: [...unusedPorts(namespace, objects, groups, here), ...unusedRules(namespace, objects, observations.routes)],
  };
}

/** Pods of the mesh by what made them. What reaches a waypoint is not decided by policies of pods. */
function groupsOf(namespace: string, objects: readonly MeshObject[], known: readonly Known[]): Group[] {
  const workloads = new Map(known.filter(({ inMesh }) => inMesh).map((one) => [`${one.namespace}/${one.name}`, one.workload]));
  const groups = new Map<string, Group>();
  for (const object of objects) {
    if (object.kind !== "Pod" || object.metadata.namespace !== namespace || gatewayOf(object) !== null) continue;
    const workload = workloads.get(`${namespace}/${object.metadata.name}`);
    if (workload === undefined) continue;
    const group = groups.get(workload) ?? { names: [workload], pods: [] };
    group.pods.push(object);
    groups.set(workload, group);
  }
  return [...groups.values()].sort((a, b) => ((a.names[0] ?? "") < (b.names[0] ?? "") ? -1 : 1));
}

const servicesOf = (namespace: string, objects: readonly MeshObject[]): Service[] =>
  objects.filter((object) => object.kind === "Service").filter(({ metadata }) => metadata.namespace === namespace);

/** A selector for each group that picks its pods and no others; groups that cannot be told apart become one. */
function selectable(groups: readonly Group[], services: readonly Service[]) {
  const left = [...groups];
  const found: { readonly group: Group; readonly selector: Labels }[] = [];
  const unselectable: string[] = [];
  for (let group = left.shift(); group !== undefined; group = left.shift()) {
    const others = [...left, ...found.map(({ group }) => group)];
    const selector = selectorOf(group, others, services);
    if (selector !== null) {
      found.push({ group, selector });
      continue;
    }
    const common = commonLabels(group.pods);
    const alike = isEmptySelector(common) ? undefined : others.find(({ pods }) => pods.some((pod) => selects(common, pod.metadata.labels)));
    if (alike === undefined) {
      unselectable.push(...group.names);
      continue;
    }
    for (const list of [left, found.map(({ group }) => group)]) {
      const at = list.indexOf(alike);
      if (at >= 0 && list === left) left.splice(at, 1);
      else if (at >= 0) found.splice(at, 1);
    }
    left.push({ names: [...alike.names, ...group.names].sort(), pods: [...alike.pods, ...group.pods] });
  }
  return {
    groups: found.sort((a, b) => ((a.group.names[0] ?? "") < (b.group.names[0] ?? "") ? -1 : 1)),
    unselectable: unselectable.sort(),
  };
}

function selectorOf({ pods }: Group, others: readonly Group[], services: readonly Service[]): Labels | null {
  const common = commonLabels(pods);
  const strangers = others.flatMap(({ pods }) => pods);
  const fits = (selector: Labels): boolean =>
    !isEmptySelector(selector) &&
    pods.every(({ metadata }) => selects(selector, metadata.labels)) &&
    !strangers.some(({ metadata }) => selects(selector, metadata.labels));
  const naming = NAMING.flatMap((name): Labels[] => (common[name] === undefined ? [] : [{ [name]: common[name] }]));
  return [...naming, ...services.map(({ selector }) => selector), common].find(fits) ?? null;
}

function commonLabels(pods: readonly Pod[]): Labels {
  const [first, ...rest] = pods;
  return Object.fromEntries(
    Object.entries(first?.metadata.labels ?? {}).filter(
      ([name, value]) => !FLEETING.has(name) && rest.every(({ metadata }) => metadata.labels[name] === value),
    ),
  );
}

function workloadOf({ names, pods }: Group, selector: Labels, edges: readonly Observed[]): LeastWorkload {
  const own = new Set([...names, ...pods.map(({ metadata }) => metadata.name)]);
  const addresses = new Set(pods.flatMap(({ podIPs }) => podIPs));
  const here = edges.filter(({ destination }) =>
    destination.workload === null ? destination.addresses.some((address) => addresses.has(address)) : own.has(destination.workload),
  );
  return {
    names,
    selector,
    rules: rulesOf(here.filter(({ verdict }) => verdict === "allowed")),
    refused: here.filter(({ verdict }) => verdict === "denied"),
  };
}

/** Clients that were seen at the same ports share a rule; rare ones have rules of their own, behind the others. */
function rulesOf(edges: readonly Observed[]): LeastRule[] {
  const clients = new Map<string, { readonly edges: Observed[] }>();
  for (const edge of edges) {
    const client = clients.get(edge.source.identity ?? "");
    if (client === undefined) clients.set(edge.source.identity ?? "", { edges: [edge] });
    else client.edges.push(edge);
  }
  const rules = new Map<string, LeastRule>();
  for (const [identity, { edges }] of clients) {
    const plaintext = identity === "";
    const connections = edges.reduce((sum, edge) => sum + edge.connections, 0);
    const rare = connections <= RARELY;
    const ports = [...new Set(edges.map(({ port }) => port))].sort((a, b) => a - b);
    const key = JSON.stringify([plaintext, rare, ports]);
    const before = rules.get(key);
    // An address that some record does not hold cannot be let in by address.
    const named = edges.every(({ source }) => source.addresses.length > 0);
    rules.set(key, {
      principals: plaintext ? [] : [...(before?.principals ?? []), identity.slice(SPIFFE.length)].sort(),
      addresses: plaintext && named ? [...new Set(edges.flatMap(({ source }) => source.addresses))].sort() : [],
      plaintext,
      ports,
      rare,
      connections: (before?.connections ?? 0) + connections,
    });
  }
  return [...rules.values()].sort((a, b) => Number(a.rare) - Number(b.rare) || b.connections - a.connections);
}

function unusedPorts(
  namespace: string,
  objects: readonly MeshObject[],
  groups: readonly { readonly group: Group }[],
  edges: readonly Observed[],
): string[] {
  return servicesOf(namespace, objects).flatMap((service) => {
    if (isEmptySelector(service.selector)) return [];
    const picked = groups.filter(({ group }) => group.pods.some(({ metadata }) => selects(service.selector, metadata.labels)));
    const names = new Set(picked.flatMap(({ group }) => [...group.names, ...group.pods.map(({ metadata }) => metadata.name)]));
    const pods = picked.flatMap(({ group }) => group.pods);
    const seen = new Set(
      edges
        .filter(({ destination, verdict }) => verdict === "allowed" && destination.workload !== null && names.has(destination.workload))
        .map(({ port }) => port),
    );
    return service.ports.filter(isTcp).flatMap(({ port, targetPort }) => {
      const targets =
        typeof targetPort === "number"
          ? [targetPort]
          : pods.flatMap(({ ports }) => ports.filter(({ name }) => name === targetPort).map(({ port }) => port));
      return picked.length === 0 || targets.some((target) => seen.has(target)) ? [] : [`Service ${service.metadata.name} port ${port}`];
    });
  });
}

/** Rules of the namespace's routes that no request took. */
function unusedRules(namespace: string, objects: readonly MeshObject[], seen: readonly string[]): string[] {
  return objects.flatMap((object) => {
    if (!("parents" in object) || object.metadata.namespace !== namespace) return [];
    const rules = object.rules.map((_, index) => `${object.kind}/${namespace}/${object.metadata.name}/${index}`);
    return rules.filter((rule) => !seen.includes(rule));
  });
}
