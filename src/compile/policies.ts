// The policies that are attached to destinations, routes, waypoints and their class: what each waypoint is told of them, and what became of each.
// Incremental as the rest: a change costs what depends on it.
import { isDeepStrictEqual } from "node:util";
import { AccessSchema } from "#contract/gen/authorization_pb.ts";
import { BackendSettingsSchema, RequestSettingsSchema } from "#contract/gen/traffic_pb.ts";
import { kubernetes } from "#contract/tables.ts";
import { compareAge } from "#mesh/age.ts";
import type { AuthorizationPolicy, RequestAuthentication, TargetRef } from "#mesh/authorization.ts";
import { asTried } from "#mesh/dry-run.ts";
import type { ExtensionProvider } from "#mesh/mesh-config.ts";
import { keyOf, type MeshObject, type ObjectKey } from "#mesh/objects.ts";
import type { BackendPolicy, RequestPolicy } from "#mesh/traffic.ts";
import { waypointClasses } from "#mesh/waypoint-pod.ts";
import type { Destination, DestinationKey } from "#waypoint/destination.ts";
import { policyStatus, type TargetFacts } from "#waypoint/policy-status.ts";
import { hasWaypoint, type Standing, waypointsOf } from "#waypoint/standing.ts";
import type { PolicyStatus } from "#waypoint/status.ts";
import { type WaypointKey, waypointKey } from "#waypoint/waypoint.ts";
import { type Applicable, closedAccess, compileAccess, type Known, policyFaults, tokenFaults } from "./access.ts";
import { compileBackendSettings } from "./backend-settings.ts";
import type { BindingIndex } from "./binding-index.ts";
import { isTooLarge, tooLarge } from "./bound.ts";
import type { Cluster } from "./cluster.ts";
import type { CompilerSettings } from "./compiler.ts";
import type { Destinations } from "./destinations.ts";
import { encodeAbout } from "./encode.ts";
import { serviceOf } from "./provider.ts";
import { closedRequestSettings, compileRequestSettings, type Section } from "./request-settings.ts";
import type { ObjectFault, Resource } from "./resource.ts";
import { parentsOf, referencesOf } from "./route-index.ts";
import { type Attached, attachedOf, type TargetKey, targetKey, targetKeysOf } from "./target-index.ts";

/** What waypoints are told, by "namespace/hostname". */
export type PolicyResources = {
  readonly access: ReadonlyMap<string, Resource>;
  readonly backendSettings: ReadonlyMap<string, Resource>;
  readonly requestSettings: ReadonlyMap<string, Resource>;
};

/** What a destination's policies mean for the rest of what is compiled for it. */
export type Effect = {
  /** Its routes must say that there is an Access. */
  readonly guarded: boolean;
  /** Only what came through its waypoint may reach it. */
  readonly exclusive: boolean;
  /** Services that its waypoint asks before it sends anything on. */
  readonly asked: readonly string[];
};

export type Policies = PolicyResources & {
  /** An object came or went; `dirty` gathers destinations whose policies may be others. */
  note(object: MeshObject, dirty: Set<DestinationKey>): void;
  /** After a batch, when bindings are settled: what is served by waypoints whose policies changed. `changed`: waypoints that did themselves. */
  expand(dirty: Set<DestinationKey>, changed: Iterable<WaypointKey>): void;
  compile(key: DestinationKey, standing: Standing): Effect;
  /** Destinations were compiled: tells of the policies that had a part in it. */
  settle(): void;
  /** Of what reaches pods by their own addresses through this waypoint; null where it is not for pods. */
  accessOfPods(waypoint: WaypointKey): Resource | null;
  statuses(): readonly PolicyStatus[];
  faults(): readonly ObjectFault[];
};

/** Of the contract: what is addressed to pods themselves. */
const PODS = "*";

const TOO_LARGE = "its policies are larger than a waypoint is sent";

const NO_EFFECT: Effect = { guarded: false, exclusive: false, asked: [] };

export function createPolicies(cluster: Cluster, settings: CompilerSettings, destinations: Destinations, bindings: BindingIndex): Policies {
  const { rootNamespace, clusterDomain, adopt } = settings;
  const access = new Map<string, Resource>();
  const backendSettings = new Map<string, Resource>();
  const requestSettings = new Map<string, Resource>();
  /** Names under which each destination's resources were made. */
  const named = new Map<DestinationKey, readonly string[]>();
  const tooMuch = new Map<DestinationKey, readonly ObjectFault[]>();
  const faults = new Map<ObjectKey, readonly ObjectFault[]>();
  const statuses = new Map<ObjectKey, PolicyStatus>();
  const podAccess = new Map<WaypointKey, Resource>();
  /** Gateways and classes of which a policy came or went. */
  const touched = new Set<TargetKey>();
  const dirtyPolicies = new Set<ObjectKey>();

  const known: Known = {
    clusterDomain,
    service: (namespace, name) => {
      const found = cluster.objects.get(`Service/${namespace}/${name}`);
      return found?.kind === "Service" ? found : undefined;
    },
    provider: (name) => providers().find((one) => one.name === name),
  };

  function providers(): readonly ExtensionProvider[] {
    const found = cluster.objects.get(`ConfigMap/${rootNamespace}/${kubernetes.meshConfigMap}`);
    return found?.kind === "ConfigMap" ? found.extensionProviders : [];
  }

  function note(object: MeshObject, dirty: Set<DestinationKey>): void {
    const policy = attachedOf(object);
    const { namespace, name } = object.metadata;
    if (policy !== null) notePolicy(policy, dirty);
    else if (object.kind === "ConfigMap") for (const one of cluster.attached.asking()) notePolicy(one, dirty);
    else if (object.kind === "Service") {
      const isAsked = providers().some((one) => {
        const asked = serviceOf(one, clusterDomain);
        return asked?.namespace === namespace && asked.name === name;
      });
      if (isAsked) for (const one of cluster.attached.asking()) notePolicy(one, dirty);
    }
    if (object.kind === "RequestAuthentication" || object.kind === "BackendPolicy" || object.kind === "RequestPolicy")
      dirtyPolicies.add(keyOf(object));
    // Whether policies of a namespace are only tried, it says itself.
    if (object.kind === "Namespace")
      for (const gateway of bindings.gateways())
        if (gateway.metadata.namespace === name || name === rootNamespace) {
          touched.add(`Gateway/${waypointKey(gateway.metadata)}`);
          touched.add(`GatewayClass//${gateway.className}`);
        }
    if (object.kind === "Gateway") podAccess.delete(waypointKey(object.metadata));
    if ("parents" in object) for (const key of referencesOf(object)) if (!key.startsWith("Hostname/")) noteTarget(key as TargetKey);
    noteTarget(keyOf(object));
  }

  function notePolicy(policy: Attached, dirty: Set<DestinationKey>): void {
    dirtyPolicies.add(keyOf(policy));
    for (const key of targetKeysOf(policy, rootNamespace)) {
      // Of several on one target each may be the one that counts now.
      noteTarget(key);
      const kind = key.slice(0, key.indexOf("/"));
      if (kind === "Service" || kind === "ServiceEntry") dirty.add(key as DestinationKey);
      else if (kind === "Gateway" || kind === "GatewayClass") touched.add(key);
      else {
        const route = cluster.objects.get(key as ObjectKey);
        if (route !== undefined && "parents" in route) for (const one of parentsOf(route)) dirty.add(one);
      }
    }
  }

  /** What is said of the policies of a target depends on it. */
  const noteTarget = (key: TargetKey): void => {
    for (const one of cluster.attached.of(key)) dirtyPolicies.add(keyOf(one));
  };

  function expand(dirty: Set<DestinationKey>, changed: Iterable<WaypointKey>): void {
    for (const key of changed) noteTarget(`Gateway/${key}`);
    for (const key of touched) {
      const [kind, namespace = "", name = ""] = key.split("/");
      const gateways = [...bindings.gateways()].filter(({ metadata, className }) =>
        kind === "GatewayClass" ? className === name : metadata.namespace === namespace && metadata.name === name,
      );
      for (const { metadata } of gateways) {
        podAccess.delete(waypointKey(metadata));
        for (const one of bindings.served(waypointKey(metadata))) dirty.add(one);
      }
    }
    touched.clear();
  }

  /** A waypoint that nobody wrote is of our class. */
  const classOf = (key: WaypointKey): string => bindings.gateway(key)?.className ?? kubernetes.waypointClass;

  const attachedToWaypoint = (key: WaypointKey): Attached[] => [
    ...cluster.attached.of(`Gateway/${key}`),
    ...cluster.attached.of(`GatewayClass//${classOf(key)}`),
  ];

  /** Policies add up, those of both of two waypoints too. */
  const applicable = (attached: readonly Attached[]): Applicable => ({
    policies: attached
      .filter((one): one is AuthorizationPolicy => one.kind === "AuthorizationPolicy")
      .map((one) => asTried(one, cluster.namespace(one.metadata.namespace)).policy),
    authentications: attached.filter((one): one is RequestAuthentication => one.kind === "RequestAuthentication"),
  });

  function compile(key: DestinationKey, standing: Standing): Effect {
    const before = named.get(key) ?? [];
    const destination = destinations.find(key);
    noteTarget(key);
    for (const route of cluster.routes.attachedTo(key)) noteTarget(keyOf(route));
    tooMuch.delete(key);
    const now = destination?.names ?? [];
    for (const name of before)
      if (!now.includes(name)) for (const resources of [access, backendSettings, requestSettings]) resources.delete(name);
    if (destination === undefined) {
      named.delete(key);
      return NO_EFFECT;
    }
    named.set(key, now);
    const backend = backendPoliciesOf(destination);
    const whole = hasWaypoint(standing)
      ? [...new Set([...cluster.attached.of(key), ...waypointsOf(standing).map(waypointKey).flatMap(attachedToWaypoint)])]
      : [];
    const guards = applicable(whole);
    const guarded = guards.policies.length + guards.authentications.length > 0;
    const sections = hasWaypoint(standing) ? sectionsOf(destination, standing) : [];
    let asked: readonly string[] = [];
    for (const name of now) {
      publish(key, backendSettings, name, backend.size === 0 ? null : settingsOf(name, backend), null);
      const compiled = guarded ? compileAccess(name, guards, known) : null;
      asked = compiled?.providers.map(({ service }) => service) ?? [];
      publish(
        key,
        access,
        name,
        compiled === null ? null : encodeAbout(name, AccessSchema, compiled),
        encodeAbout(name, AccessSchema, closedAccess(name, TOO_LARGE)),
      );
      publish(
        key,
        requestSettings,
        name,
        sections.length === 0 ? null : encodeAbout(name, RequestSettingsSchema, compileRequestSettings(name, sections)),
        encodeAbout(name, RequestSettingsSchema, closedRequestSettings(name)),
      );
    }
    const enforced = guards.authentications.length > 0 || guards.policies.some(({ dryRun, action }) => !dryRun && action !== "AUDIT");
    // A consumer's policy is about its own requests, and must not close another namespace's service to everybody else.
    const own = sections.some(({ route }) => route === null || route.namespace === destination.metadata.namespace);
    return { guarded, exclusive: enforced || own, asked };
  }

  const settingsOf = (name: string, backend: ReadonlyMap<number, BackendPolicy>): Resource =>
    encodeAbout(name, BackendSettingsSchema, compileBackendSettings(name, backend));

  /** `closed` stands for what is larger than its reader would take; null: nothing does. */
  function publish(key: DestinationKey, into: Map<string, Resource>, name: string, whole: Resource | null, closed: Resource | null): void {
    const large = whole !== null && isTooLarge(whole);
    const resource = large ? closed : whole;
    if (large) {
      const effect = closed === null ? "none of them is in force" : "every request is refused; make the policies fewer";
      tooMuch.set(key, [...(tooMuch.get(key) ?? []), tooLarge(key, "E_POLICY_INVALID", whole, effect)]);
    }
    if (resource === null) into.delete(name);
    else if (into.get(name)?.version !== resource.version) into.set(name, resource);
  }

  /** The oldest of those that are attached to the same thing counts, whole. */
  function winner<P extends BackendPolicy | RequestPolicy>(kind: P["kind"], target: TargetKey, sectionName: string): P | undefined {
    const isOne = (one: Attached): one is P & Attached =>
      one.kind === kind &&
      "unsupported" in one &&
      one.unsupported.length === 0 &&
      one.targets.some((each) => targetKey(each, one.metadata.namespace) === target && each.sectionName === sectionName);
    return cluster.attached.of(target).filter(isOne).sort(compareAge)[0];
  }

  function backendPoliciesOf({ key, ports }: Destination): Map<number, BackendPolicy> {
    const found = new Map<number, BackendPolicy>();
    const whole = winner<BackendPolicy>("BackendPolicy", key, "");
    if (whole !== undefined) found.set(0, whole);
    for (const { name, port } of ports) {
      const own = name === "" ? undefined : winner<BackendPolicy>("BackendPolicy", key, name);
      if (own !== undefined) found.set(port, own);
    }
    return found;
  }

  /** A rule of a route, the route, a port, the destination, its waypoint: the first that a request meets counts, whole. */
  function sectionsOf({ key, ports }: Destination, standing: Standing): Section[] {
    const nowhere = { port: 0, route: null };
    const section = (policy: RequestPolicy | undefined, target: string, where: Partial<Section>): Section[] =>
      policy === undefined ? [] : [{ policy, target, ...nowhere, ...where }];
    const routes = [...cluster.routes.attachedTo(key)].sort(compareAge);
    const of = (target: TargetKey, sectionName = "") => winner<RequestPolicy>("RequestPolicy", target, sectionName);
    const title = (kind: string, name: string, part = ""): string => `${kind}.${name}${part === "" ? "" : `.${part}`}`;
    return [
      ...routes.flatMap(({ kind, metadata: { namespace, name }, rules }) =>
        rules.flatMap((rule, i) =>
          rule.name === ""
            ? []
            : section(of(`${kind}/${namespace}/${name}`, rule.name), title(kind, name, rule.name), {
                route: { kind, namespace, name, rule: i },
              }),
        ),
      ),
      ...routes.flatMap(({ kind, metadata: { namespace, name } }) =>
        section(of(`${kind}/${namespace}/${name}`), title(kind, name), { route: { kind, namespace, name } }),
      ),
      ...ports.flatMap(({ name, port }) => (name === "" ? [] : section(of(key, name), title("port", name), { port }))),
      ...section(of(key), title(key.split("/")[0] ?? "", key.split("/")[2] ?? ""), {}),
      ...waypointsOf(standing).flatMap((gateway) => section(of(`Gateway/${waypointKey(gateway)}`), title("Gateway", gateway.name), {})),
    ];
  }

  function settle(): void {
    for (const key of dirtyPolicies) {
      const policy = cluster.objects.get(key);
      if (policy === undefined || !("targets" in policy)) {
        faults.delete(key);
        statuses.delete(key);
      } else if (policy.kind === "BackendPolicy" || policy.kind === "RequestPolicy") {
        const status = policyStatus(policy, (target) => factsOf(policy, target));
        if (!isDeepStrictEqual(statuses.get(key), status)) statuses.set(key, status);
      } else {
        const found = faultsOf(policy);
        if (found.length === 0) faults.delete(key);
        else faults.set(key, found);
      }
    }
    dirtyPolicies.clear();
  }

  function faultsOf(policy: AuthorizationPolicy | RequestAuthentication): ObjectFault[] {
    const key = keyOf(policy);
    const idle = (field: string, reason: string): ObjectFault => ({ key, code: "E_POLICY_NO_WAYPOINT", field, reason });
    if (policy.targets.length === 0)
      return policy.kind === "RequestAuthentication"
        ? [idle("spec.targetRefs", "a waypoint verifies tokens, and only for what targetRefs names; pods that a selector picks get none")]
        : [];
    return [
      ...(policy.kind === "AuthorizationPolicy" ? policyFaults(policy, known) : tokenFaults(policy)),
      ...policy.targets.flatMap((target, i) => {
        const facts = standingOf(target, policy.metadata.namespace);
        return facts.kind === "held" && !facts.pending ? [] : [idle(`spec.targetRefs[${i}]`, facts.message)];
      }),
    ];
  }

  type Held = Extract<TargetFacts, { kind: "held" }> & { readonly pending: boolean };
  type Place = Exclude<TargetFacts, { kind: "beaten" | "held" }> | Held;

  function factsOf(policy: BackendPolicy | RequestPolicy, target: TargetRef): TargetFacts {
    const key = targetKey(target, policy.metadata.namespace);
    const missing = (message: string): TargetFacts => ({ kind: "missing", message });
    const found = cluster.objects.get(key as ObjectKey);
    if (found === undefined) return missing(`there is no ${key.replace("/", " ")}`);
    if (target.sectionName !== "" && !sectionNames(found).includes(target.sectionName))
      return missing(`${key.replace("/", " ")} has nothing named ${target.sectionName}`);
    const first = winner(policy.kind, key, target.sectionName);
    if (first !== undefined && first !== policy && policy.unsupported.length === 0) return { kind: "beaten", by: first };
    const place = "parents" in found ? standingOfRoute(parentsOf(found)) : standingOf(target, policy.metadata.namespace);
    if (policy.kind === "RequestPolicy" || place.kind !== "idle") return place;
    return cluster.routes.sendingTo(key as DestinationKey).size > 0
      ? { kind: "held", message: "in force in the waypoints whose routes send there" }
      : place;
  }

  const sectionNames = (object: MeshObject): readonly string[] =>
    object.kind === "Service" || object.kind === "ServiceEntry"
      ? object.ports.map(({ name }) => name)
      : "parents" in object
        ? object.rules.map(({ name }) => name)
        : [];

  function standingOfRoute(parents: readonly DestinationKey[]): Place {
    const served = parents.map((key) => bindings.standing(key)).find(hasWaypoint);
    return served === undefined ? { kind: "idle", message: "nothing that the route is attached to has a waypoint" } : heldBy(served);
  }

  const held = (ready: boolean, waypoint: string): Held => ({
    kind: "held",
    pending: !ready,
    message: ready ? `in force in ${waypoint}` : `will be in force as soon as ${waypoint} is ready`,
  });
  const heldBy = ({ kind, gateway }: Extract<Standing, { kind: "waiting" | "ready" }>): Held =>
    held(kind === "ready", `waypoint ${waypointKey(gateway)}`);

  /** Where a target's policies are enforced. */
  function standingOf(target: TargetRef, namespace: string): Place {
    const key = targetKey(target, namespace);
    const title = key.replace("/", " ");
    if (target.kind === "GatewayClass") {
      if (!waypointClasses(adopt).includes(target.name)) return { kind: "missing", message: `${target.name} is no class of waypoints` };
      if (namespace !== rootNamespace)
        return { kind: "missing", message: `what is for every waypoint stands in namespace ${rootNamespace}` };
      return held(true, "every waypoint");
    }
    if (target.kind === "Gateway") {
      const waypoint: WaypointKey = `${namespace}/${target.name}`;
      if (bindings.gateway(waypoint) === null && bindings.served(waypoint).length === 0)
        return { kind: "missing", message: `there is no ${title} that is a waypoint` };
      return held(bindings.isReady(waypoint), `waypoint ${waypoint}`);
    }
    if (!cluster.objects.has(key as ObjectKey)) return { kind: "missing", message: `there is no ${title}` };
    const standing = bindings.standing(key as DestinationKey);
    return hasWaypoint(standing) ? heldBy(standing) : { kind: "idle", message: `${title} has no waypoint: ${standing.reason}` };
  }

  function accessOfPods(waypoint: WaypointKey): Resource | null {
    if (!bindings.traffic(waypoint).workloads) return null;
    const before = podAccess.get(waypoint);
    if (before !== undefined) return before;
    const compiled = compileAccess(PODS, applicable(attachedToWaypoint(waypoint)), known);
    const resource = encodeAbout(PODS, AccessSchema, compiled);
    const now = isTooLarge(resource) ? encodeAbout(PODS, AccessSchema, closedAccess(PODS, TOO_LARGE)) : resource;
    podAccess.set(waypoint, now);
    return now;
  }

  return {
    access,
    backendSettings,
    requestSettings,
    note,
    expand,
    compile,
    settle,
    accessOfPods,
    statuses: () => [...statuses.values()],
    faults: () => [...[...faults.values()].flat(), ...[...tooMuch.values()].flat()],
  };
}
