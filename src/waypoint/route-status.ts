// The status of a route, parent by parent: whether it is in force there, and if not, what its author has to do.
import { kubernetes } from "#contract/tables.ts";
import { keyOf, type Service } from "#mesh/objects.ts";
import { isTcp } from "#mesh/protocol.ts";
import type { ParentRef, Route } from "#mesh/route.ts";
import { isOfService } from "./attach.ts";
import type { BackendFault } from "./backend.ts";
import type { Standing } from "./standing.ts";
import type { Condition, RouteParentStatus, RouteStatus } from "./status.ts";
import type { Verdict } from "./table.ts";

/** What is known of the service that a parentRef names. */
export type ParentFacts = {
  readonly service: Service;
  readonly standing: Standing;
  /** Undefined where no port of the service fits. */
  readonly verdict: Verdict | undefined;
  readonly faults: readonly BackendFault[];
};

type Outcome = Pick<Condition, "status" | "reason" | "message">;

/** Longer is cut: a status is read by people. */
const MESSAGE_CHARACTERS = 2048;

/** Parents that are not Services are not ours to speak of. */
export function routeStatus(route: Route, factsOf: (parent: ParentRef, index: number) => ParentFacts | null): RouteStatus {
  const parents = route.parents.flatMap((parent, index): RouteParentStatus[] => {
    if (!isOfService(parent)) return [];
    const facts = factsOf(parent, index);
    return [
      {
        parentRef: parent.written,
        controllerName: kubernetes.waypointController,
        conditions: [
          conditionOf(route, "Accepted", accepted(route, parent, facts)),
          conditionOf(route, "ResolvedRefs", resolved(facts?.faults ?? [])),
        ],
      },
    ];
  });
  return { key: keyOf(route), parents };
}

const conditionOf = ({ generation }: Route, type: Condition["type"], { status, reason, message }: Outcome): Condition => ({
  type,
  status,
  reason,
  message: message.slice(0, MESSAGE_CHARACTERS),
  observedGeneration: generation,
});

const no = (reason: string, message: string): Outcome => ({ status: "False", reason, message });

function accepted(route: Route, parent: ParentRef, facts: ParentFacts | null): Outcome {
  const name = `Service ${parent.namespace}/${parent.name}`;
  if (facts === null) return no("NoMatchingParent", `there is no ${name}`);
  const { service, standing, verdict } = facts;
  if (service.type === "ExternalName") return no("NoMatchingParent", `${name} is an ExternalName: nothing is reached through it`);
  if (service.clusterIPs.length === 0) return no("NoMatchingParent", `${name} is headless: its clients address pods, not the service`);
  if (route.unsupported.length > 0) return no("UnsupportedValue", unsupported(route));
  if (verdict === undefined) return no("NoMatchingParent", noPort(route, parent, service));
  if (standing.kind === "none") return no("NoWaypoint", `${name} has no waypoint: ${standing.reason}`);
  if (standing.kind === "absent") return no("NoWaypoint", `${name} has no waypoint: ${standing.reason}`);
  const lost = verdict.conflicts.map(({ port, kind }) => `port ${port} of ${name} belongs to its ${kind}s`).join("; ");
  if (verdict.ports.length === 0) return no("Conflicted", `${lost}, which go before ${route.kind}s`);
  const { namespace, name: waypoint } = standing.gateway;
  const where = `ports ${verdict.ports.join(", ")} of ${name}, in waypoint ${namespace}/${waypoint}`;
  const when = standing.kind === "ready" ? `in force for ${where}` : `will be in force for ${where} as soon as that is ready`;
  return { status: "True", reason: "Accepted", message: lost === "" ? when : `${when}; ${lost}` };
}

function unsupported({ unsupported, rules }: Route): string {
  const fields = unsupported.map(({ field, reason }) => `${field}: ${reason}`).join("; ");
  const effect = rules.length === 0 ? "nothing of the route is in force" : "where it is attached, what it matches is refused";
  return `${fields}; until it is corrected ${effect}`;
}

function noPort({ kind }: Route, { port, sectionName }: ParentRef, service: Service): string {
  const ports = service.ports.filter(isTcp).map((one) => `${one.port}${one.name === "" ? "" : ` (${one.name})`}`);
  const name = `Service ${service.metadata.namespace}/${service.metadata.name}`;
  const asked = [port === null ? "" : `port ${port}`, sectionName === "" ? "" : `name ${sectionName}`].filter((one) => one !== "");
  return asked.length > 0
    ? `${name} has no TCP port with ${asked.join(" and ")}; it has ${ports.join(", ") || "none"}`
    : `no port of ${name} is declared for what ${kind}s are about; name one in the parentRef, or say in appProtocol what is spoken there`;
}

function resolved(faults: readonly BackendFault[]): Outcome {
  const [first] = faults;
  return first === undefined
    ? { status: "True", reason: "ResolvedRefs", message: "every backend is known" }
    : no(first.reason, faults.map(({ message }) => message).join("; "));
}
