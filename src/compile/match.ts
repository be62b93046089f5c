// The values of a policy as the data plane compares them. What cannot be expressed is an error of the whole policy, never an empty match.
import type { MessageInitShape } from "@bufbuild/protobuf";
import type { AddressSchema, MatchSchema, ServiceAccountMatchSchema, StringMatchSchema } from "#contract/gen/istio/security_pb.ts";
import { parseCidr } from "#mesh/address.ts";
import type { Condition, Operation, Source } from "#mesh/authorization.ts";
import { parsePort } from "#mesh/capture.ts";
import { isLabel, isSubdomain } from "#mesh/identity.ts";

export type Match = MessageInitShape<typeof MatchSchema>;

/** Collects what cannot be expressed, by field. */
export type Inexpressible = { field: string; reason: string }[];

type StringMatch = MessageInitShape<typeof StringMatchSchema>;
export type Reader<T> = (value: string) => T | { readonly wrong: string };

/** `*` present, `*x` suffix, `x*` prefix, anything else exact. Never a regular expression. */
const readString: Reader<StringMatch> = (value) => {
  if (value === "*") return { matchType: { case: "presence", value: {} } };
  const [text, kind] = value.startsWith("*")
    ? ([value.slice(1), "suffix"] as const)
    : value.endsWith("*")
      ? ([value.slice(0, -1), "prefix"] as const)
      : ([value, "exact"] as const);
  if (text === "") return { wrong: "an empty value matches nothing that has an identity" };
  if (text.includes("*")) return { wrong: "* may stand only at the beginning or only at the end" };
  return { matchType: { case: kind, value: text } };
};

const readPrincipal: Reader<StringMatch> = (value) =>
  value.includes("://") ? { wrong: "principals are written without spiffe://" } : readString(value);

export const readBlock: Reader<MessageInitShape<typeof AddressSchema>> = (value) =>
  parseCidr(value) ?? { wrong: "is not an IP address or CIDR block" };

export const readPort: Reader<number> = (value) => parsePort(value) ?? { wrong: "is not a port from 1 to 65535" };

export const readAccount =
  (namespace: string): Reader<MessageInitShape<typeof ServiceAccountMatchSchema>> =>
  (value) => {
    const [first = "", second, ...rest] = value.split("/");
    const [ns, account] = second === undefined ? [namespace, first] : [first, second];
    if (rest.length > 0 || !isLabel(ns) || !isSubdomain(account)) return { wrong: "is not SERVICE-ACCOUNT or NAMESPACE/SERVICE-ACCOUNT" };
    return { namespace: ns, serviceAccount: account };
  };

export function readAll<T>(values: readonly string[], field: string, read: Reader<T>, wrong: Inexpressible): T[] {
  return values.flatMap((value, i) => {
    const result = read(value);
    if (typeof result !== "object" || result === null || !("wrong" in result)) return [result as T];
    wrong.push({ field: `${field}[${i}]`, reason: `${JSON.stringify(value)}: ${result.wrong}` });
    return [];
  });
}

/** A match without any field never matches: in an ALLOW that is closed, in a DENY open, so it is refused in both. */
function unlessEmpty(match: Match, field: string, wrong: Inexpressible): Match {
  const empty = Object.values(match).every((values) => !Array.isArray(values) || values.length === 0);
  const told = wrong.some((one) => one.field.startsWith(`${field}.`)); // it is empty because its values could not be read
  if (empty && !told) wrong.push({ field, reason: "names nothing that L4 can match" });
  return match;
}

export function sourceMatch(source: Source, field: string, namespace: string, wrong: Inexpressible): Match {
  // Exhaustive by type: a field that the vocabulary gains does not compile until it is emitted here.
  const { principals, notPrincipals, namespaces, notNamespaces, serviceAccounts, notServiceAccounts, ipBlocks, notIpBlocks, ...more } =
    source;
  // What only HTTP knows is in the policy's `unenforceable`.
  const { requestPrincipals: _, notRequestPrincipals: __, remoteIpBlocks: ___, notRemoteIpBlocks: ____, ...rest } = more;
  rest satisfies Record<string, never>;
  const match: Match = {
    principals: readAll(principals, `${field}.principals`, readPrincipal, wrong),
    notPrincipals: readAll(notPrincipals, `${field}.notPrincipals`, readPrincipal, wrong),
    namespaces: readAll(namespaces, `${field}.namespaces`, readString, wrong),
    notNamespaces: readAll(notNamespaces, `${field}.notNamespaces`, readString, wrong),
    serviceAccounts: readAll(serviceAccounts, `${field}.serviceAccounts`, readAccount(namespace), wrong),
    notServiceAccounts: readAll(notServiceAccounts, `${field}.notServiceAccounts`, readAccount(namespace), wrong),
    sourceIps: readAll(ipBlocks, `${field}.ipBlocks`, readBlock, wrong),
    notSourceIps: readAll(notIpBlocks, `${field}.notIpBlocks`, readBlock, wrong),
  };
  return unlessEmpty(match, field, wrong);
}

export function operationMatch(operation: Operation, field: string, wrong: Inexpressible): Match {
  const { ports, notPorts, hosts: _, notHosts: __, methods: ___, notMethods: ____, paths: _____, notPaths: ______, ...rest } = operation;
  rest satisfies Record<string, never>;
  const match: Match = {
    destinationPorts: readAll(ports, `${field}.ports`, readPort, wrong),
    notDestinationPorts: readAll(notPorts, `${field}.notPorts`, readPort, wrong),
  };
  return unlessEmpty(match, field, wrong);
}

export function conditionMatch({ key, values, notValues }: Condition, field: string, wrong: Inexpressible): Match {
  const both = <T>(read: Reader<T>): readonly [T[], T[]] => [
    readAll(values, `${field}.values`, read, wrong),
    readAll(notValues, `${field}.notValues`, read, wrong),
  ];
  const match = ((): Match | null => {
    switch (key) {
      case "source.ip": {
        const [sourceIps, notSourceIps] = both(readBlock);
        return { sourceIps, notSourceIps };
      }
      case "source.namespace": {
        const [namespaces, notNamespaces] = both(readString);
        return { namespaces, notNamespaces };
      }
      case "source.principal": {
        const [principals, notPrincipals] = both(readPrincipal);
        return { principals, notPrincipals };
      }
      case "destination.ip": {
        const [destinationIps, notDestinationIps] = both(readBlock);
        return { destinationIps, notDestinationIps };
      }
      case "destination.port": {
        const [destinationPorts, notDestinationPorts] = both(readPort);
        return { destinationPorts, notDestinationPorts };
      }
      default:
        return null;
    }
  })();
  if (match !== null) return unlessEmpty(match, field, wrong);
  wrong.push({ field: `${field}.key`, reason: `${JSON.stringify(key)} is not known at L4` });
  return {};
}
