// The RequestPolicies of a destination as its waypoint executes them: one list, most specific first.
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import {
  type LoadSheddingSchema,
  type RateLimitKeySchema,
  type RateLimitSchema,
  type RequestScopeSchema,
  type RequestSettings,
  RequestSettingsSchema,
  type SelectorSchema,
} from "#contract/gen/traffic_pb.ts";
import { parseCidr } from "#mesh/address.ts";
import type { RateLimitKey, RequestPolicy, RequestSelector } from "#mesh/traffic.ts";
import { httpMatch } from "#waypoint/http.ts";
import { sessionOf } from "./backend-settings.ts";

/** Where a policy holds: a port of the destination, a route or a rule of it; neither: everything that is addressed to it. */
export type Section = {
  readonly policy: RequestPolicy;
  /** Of the targets that the policy has, the text of this one. */
  readonly target: string;
  readonly port: number;
  readonly route: { readonly kind: string; readonly namespace: string; readonly name: string; readonly rule?: number } | null;
};

export const compileRequestSettings = (service: string, sections: readonly Section[]): RequestSettings =>
  create(RequestSettingsSchema, { service, scopes: sections.map(scopeOf) });

/** In place of settings that are larger than their reader would take: nothing is admitted. */
export const closedRequestSettings = (service: string): RequestSettings =>
  create(RequestSettingsSchema, {
    service,
    scopes: [{ rateLimits: [{ name: `${service}/.too-large`, requests: 0, intervalMilliseconds: 1_000 }] }],
  });

function scopeOf({ policy, target, port, route }: Section): MessageInitShape<typeof RequestScopeSchema> {
  const { metadata, rateLimits, loadShedding, faultInjection, limits, sessionPersistence, targets } = policy;
  // Each target has buckets of its own; one alone needs no more name than the policy's.
  const name = `${metadata.namespace}/${metadata.name}${targets.length > 1 ? `/${target}` : ""}`;
  return {
    port,
    ...(route === null ? {} : { route }),
    rateLimits: rateLimits.map((one, i) => rateOf(one, `${name}/${i}`)),
    ...(loadShedding === null ? {} : { loadShedding: sheddingOf(loadShedding, name) }),
    ...(faultInjection === null ? {} : { faultInjection: faultsOf(faultInjection) }),
    ...(limits === null
      ? {}
      : { limits: { maxBodyBytes: BigInt(limits.maxBodyBytes), maxRequestsPerConnection: limits.maxRequestsPerConnection } }),
    ...(sessionPersistence === null ? {} : { sessionPersistence: sessionOf(sessionPersistence) }),
  };
}

const selectorOf = ({ matches, identities, namespaces, sourceCIDRs }: RequestSelector): MessageInitShape<typeof SelectorSchema> => ({
  matches: matches.map(httpMatch),
  identities: [...identities],
  namespaces: [...namespaces],
  sourceAddresses: sourceCIDRs
    .map(parseCidr)
    .filter((one) => one !== null)
    .map(({ address, length }) => ({ address, length })),
});

const rateOf = (one: RequestPolicy["rateLimits"][number], name: string): MessageInitShape<typeof RateLimitSchema> => ({
  name,
  selector: selectorOf(one),
  requests: one.requests,
  intervalMilliseconds: one.intervalMilliseconds,
  burst: one.burst,
  keys: one.keys.map(keyOf),
  fair: one.fair,
  maxKeys: one.maxKeys,
});

const UNITS = {
  Identity: "identity",
  Namespace: "namespace",
  Path: "path",
  Method: "method",
  SourceIP: "sourceAddress",
  Route: "route",
} as const satisfies Record<Exclude<RateLimitKey["type"], "Header">, string>;

const keyOf = (key: RateLimitKey): MessageInitShape<typeof RateLimitKeySchema> =>
  key.type === "Header" ? { kind: { case: "header", value: key.name.toLowerCase() } } : { kind: { case: UNITS[key.type], value: {} } };

function sheddingOf(
  { limit, priorities }: NonNullable<RequestPolicy["loadShedding"]>,
  name: string,
): MessageInitShape<typeof LoadSheddingSchema> {
  return {
    name,
    limit:
      limit.type === "Fixed"
        ? { case: "maxParallelRequests", value: limit.maxParallelRequests }
        : {
            case: "adaptive",
            value: {
              minLimit: limit.minLimit,
              maxLimit: limit.maxLimit,
              initialLimit: limit.initialLimit,
              tolerancePercent: limit.tolerancePercent,
            },
          },
    priorities: priorities.map((one) => ({ selector: selectorOf(one), limitPercent: one.limitPercent })),
  };
}

/** Ten thousandths of a percent. */
const SHARES = 1_000_000;
const shareOf = (percentage: number) => ({ numerator: Math.round((percentage * SHARES) / 100), denominator: SHARES });

function faultsOf({ delay, abort }: NonNullable<RequestPolicy["faultInjection"]>) {
  return {
    ...(delay === null ? {} : { delay: { fixedDelayMilliseconds: delay.fixedDelayMilliseconds, share: shareOf(delay.percentage) } }),
    ...(abort === null
      ? {}
      : {
          abort: {
            status:
              abort.httpStatus === null
                ? ({ case: "grpcStatus", value: abort.grpcStatus ?? 0 } as const)
                : ({ case: "httpStatus", value: abort.httpStatus } as const),
            share: shareOf(abort.percentage),
          },
        }),
  };
}
