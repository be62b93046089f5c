// The status of a route, parent by parent: whether it is in force there, and if not, what its author has to do.
import { kubernetes } from "#contract/tables.ts";
import { keyOf } from "#mesh/objects.ts";
import type { ParentRef, Route } from "#mesh/route.ts";
import type { BackendFault } from "./backend.ts";
import { type Destination, destinationKey, titleOf } from "./destination.ts";
import type { Standing } from "./standing.ts";
import type { Condition, RouteParentStatus, RouteStatus } from "./status.ts";
import type { Verdict } from "./table.ts";

/** What is known of the destination that a parentRef names. */
export type ParentFacts = {
  readonly destination: Destination;
  readonly standing: Standing;
  /** Undefined where no port of it fits. */
  readonly verdict: Verdict | undefined;
  readonly faults: readonly BackendFault[];
};

type Outcome = Pick<Condition, "status" | "reason" | "message">;

/** Longer is cut: a status is read by people. */
const MESSAGE_CHARACTERS = 2048;

/** Parents that are neither Services nor ServiceEntries are not ours to speak of. */
export function routeStatus(route: Route, factsOf: (parent: ParentRef, index: number) => ParentFacts | null): RouteStatus {
  const parents = route.parents.flatMap((parent, index): RouteParentStatus[] => {
    const key = destinationKey(parent);
    if (key === null) return [];
    const title = titleOf(key);
    const facts = factsOf(parent, index);
    return [
      {
        parentRef: parent.written,
        controllerName: kubernetes.waypointController,
        conditions: [
          conditionOf(route, "Accepted", accepted(route, parent, title, facts)),
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

function accepted(route: Route, parent: ParentRef, name: string, facts: ParentFacts | null): Outcome {
  if (facts === null) return no("NoMatchingParent", `there is no ${name}`);
  const { destination, standing, verdict } = facts;
  const { onlyFor, unroutable } = destination;
  if (unroutable !== "") return no("NoMatchingParent", `${name} ${unroutable}`);
  if (onlyFor !== null && onlyFor !== route.metadata.namespace) return no("NoMatchingParent", `${name} is for clients of ${onlyFor} alone`);
  if (route.unsupported.length > 0) return no("UnsupportedValue", unsupported(route));
  if (verdict === undefined) return no("NoMatchingParent", noPort(route, parent, name, destination));
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

function noPort({ kind }: Route, { port, sectionName }: ParentRef, name: string, destination: Destination): string {
  const ports = destination.ports.map((one) => `${one.port}${one.name === "" ? "" : ` (${one.name})`}`);
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
