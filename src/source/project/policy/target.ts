// What a policy of ours is attached to: direct policy attachment of the Gateway API (GEP-713), in the policy's own namespace.
import { z } from "zod";
import type { TargetRef } from "#mesh/authorization.ts";
import { GATEWAY_GROUP } from "#mesh/route.ts";
import { ruled, text } from "./schema.ts";

/** GEP-713 has sixteen of everything. */
const MOST_TARGETS = 16;
const SERVICE_ENTRIES = "networking.istio.io";

const ROUTES = `self.group == '${GATEWAY_GROUP}' && self.kind in ['HTTPRoute', 'GRPCRoute']`;
const DESTINATIONS = `(self.group == '' && self.kind == 'Service') || (self.group == '${SERVICE_ENTRIES}' && self.kind == 'ServiceEntry')`;

type Written = { readonly group: string; readonly kind: string };

const isRoute = ({ group, kind }: Written): boolean => group === GATEWAY_GROUP && ["HTTPRoute", "GRPCRoute"].includes(kind);
const isGateway = ({ group, kind }: Written): boolean => group === GATEWAY_GROUP && kind === "Gateway";
const isDestination = ({ group, kind }: Written): boolean =>
  (group === "" && kind === "Service") || (group === SERVICE_ENTRIES && kind === "ServiceEntry");

const target = z.strictObject({
  group: z.string().max(253).default("").meta({ description: "Empty for a Service.", default: "" }),
  kind: text(63),
  name: text(253),
  sectionName: text(253).optional().meta({ description: "The name of a Service's port, or of a rule of a route; left out: all of it." }),
});

const listOf = (one: z.ZodType<z.output<typeof target>>) =>
  ruled(z.array(one).min(1).max(MOST_TARGETS), {
    cel: "self.all(a, self.exists_one(b, a.group == b.group && a.kind == b.kind && a.name == b.name && (has(a.sectionName) ? a.sectionName : '') == (has(b.sectionName) ? b.sectionName : '')))",
    message: "no target may stand twice",
    holds: (all) =>
      new Set(all.map((each) => JSON.stringify([each.group, each.kind, each.name, each.sectionName ?? ""]))).size === all.length,
  });

export const backendTargets = listOf(
  ruled(target, {
    cel: DESTINATIONS,
    message: "a BackendPolicy is about Services and ServiceEntries",
    holds: isDestination,
  }),
);

export const requestTargets = listOf(
  ruled(
    target,
    {
      cel: `${DESTINATIONS} || (${ROUTES}) || (self.group == '${GATEWAY_GROUP}' && self.kind == 'Gateway')`,
      message: "a RequestPolicy is about Services, ServiceEntries, HTTPRoutes, GRPCRoutes and Gateways that are waypoints",
      holds: (one) => isDestination(one) || isRoute(one) || isGateway(one),
    },
    {
      cel: "self.kind != 'Gateway' || !has(self.sectionName)",
      message: "a waypoint has no sections",
      holds: (one) => !isGateway(one) || one.sectionName === undefined,
    },
  ),
);

export const targetOf = ({ group, kind, name, sectionName }: z.output<typeof target>): TargetRef => ({
  group,
  kind,
  name,
  sectionName: sectionName ?? "",
});
