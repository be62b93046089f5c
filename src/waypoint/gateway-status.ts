// The status of a Gateway that is a waypoint.
import { ports } from "#contract/tables.ts";
import type { Gateway, Listener } from "#mesh/gateway.ts";
import { keyOf } from "#mesh/objects.ts";
import { GATEWAY_GROUP, ROUTE_KINDS } from "#mesh/route.ts";
import type { Condition, GatewayStatus, ListenerStatus } from "./status.ts";

export type GatewayFacts = {
  /** Now: its Service is there and a pod of it is ready, or was once. */
  readonly ready: boolean;
  /** Of its Service. */
  readonly addresses: readonly string[];
  /** Of the services that it serves. */
  readonly attachedRoutes: number;
  /** What stands against the label that says whose traffic it is for; null: nothing. */
  readonly trafficFault: string | null;
};

type Outcome = Pick<Condition, "status" | "reason" | "message">;

const yes = (reason: string, message: string): Outcome => ({ status: "True", reason, message });
const no = (reason: string, message: string): Outcome => ({ status: "False", reason, message });

export function gatewayStatus(gateway: Gateway, facts: GatewayFacts): GatewayStatus {
  const condition = (type: Condition["type"], outcome: Outcome): Condition => ({
    type,
    ...outcome,
    observedGeneration: gateway.generation,
  });
  const programmed = facts.ready
    ? yes("Programmed", "a pod of it is ready")
    : no("Pending", "no pod of it was ready yet: what it will serve is reached without it until then");
  return {
    key: keyOf(gateway),
    conditions: [condition("Accepted", accepted(gateway, facts)), condition("Programmed", programmed)],
    addresses: facts.addresses.map((value) => ({ type: "IPAddress", value })),
    listeners: gateway.listeners.map((listener): ListenerStatus => {
      const fault = listenerFault(listener);
      return {
        name: listener.name,
        supportedKinds: ROUTE_KINDS.map((kind) => ({ group: GATEWAY_GROUP, kind })),
        attachedRoutes: facts.attachedRoutes,
        conditions: [
          condition("Accepted", fault ?? yes("Accepted", "as a waypoint listens")),
          condition("Programmed", fault === null ? programmed : no("Invalid", fault.message)),
          condition("ResolvedRefs", yes("ResolvedRefs", "it refers to nothing")),
        ],
      };
    }),
  };
}

function accepted({ unsupported, listeners }: Gateway, { trafficFault }: GatewayFacts): Outcome {
  if (unsupported.length > 0) {
    const fields = unsupported.map(({ field, reason }) => `${field}: ${reason}`).join("; ");
    return no("Invalid", `${fields}; it stays as it was until it is corrected`);
  }
  const wrong = listeners.map(listenerFault).find((fault) => fault !== null);
  if (wrong !== undefined) return no("ListenersNotValid", wrong.message);
  return trafficFault === null ? yes("Accepted", "a waypoint") : no("Invalid", trafficFault);
}

/** A waypoint listens for HBONE, and nothing else reaches it. */
function listenerFault({ name, port, protocol }: Listener): Outcome | null {
  if (protocol === "HBONE" && port === ports.hbone) return null;
  const wanted = `a waypoint listens on port ${ports.hbone} with protocol HBONE`;
  return no(
    protocol === "HBONE" ? "PortUnavailable" : "UnsupportedProtocol",
    `listener ${name}: ${wanted}, not on ${port} with ${protocol}`,
  );
}
