// The values of a policy as a waypoint compares them, those of HTTP among them. What cannot be expressed is an error of the whole policy, never an
// empty match.
import type { MessageInitShape } from "@bufbuild/protobuf";
import type { BlockSchema, MatchSchema, NamedSchema, TextSchema, TextsSchema } from "#contract/gen/authorization_pb.ts";
import { parseCidr } from "#mesh/address.ts";
import type { Condition, Operation, Source } from "#mesh/authorization.ts";
import { type Inexpressible, type Reader, readAll, readAccount as readL4Account, readPort } from "./match.ts";

export type Match = MessageInitShape<typeof MatchSchema>;
type Text = MessageInitShape<typeof TextSchema>;
type Texts = MessageInitShape<typeof TextsSchema>;

/** `*` present, `*x` suffix, `x*` prefix, anything else exact. Never a regular expression. */
const readText: Reader<Text> = (value) => {
  if (value === "*") return { kind: { case: "presence", value: true } };
  const [text, kind] = value.startsWith("*")
    ? ([value.slice(1), "suffix"] as const)
    : value.endsWith("*")
      ? ([value.slice(0, -1), "prefix"] as const)
      : ([value, "exact"] as const);
  if (text === "") return { wrong: "an empty value matches nothing" };
  if (text.includes("*")) return { wrong: "* may stand only at the beginning or only at the end" };
  return { kind: { case: kind, value: text } };
};

const readPrincipal: Reader<Text> = (value) =>
  value.includes("://") ? { wrong: "principals are written without spiffe://" } : readText(value);

/** Names of DNS have no case. */
const readHost: Reader<Text> = (value) => readText(value.toLowerCase());

const readBlock: Reader<MessageInitShape<typeof BlockSchema>> = (value) => {
  const block = parseCidr(value);
  return block === null ? { wrong: "is not an IP address or CIDR block" } : { address: block.address, length: block.length };
};

const readAccount =
  (namespace: string): Reader<{ namespace: string; name: string }> =>
  (value) => {
    const read = readL4Account(namespace)(value);
    return "wrong" in read ? read : { namespace: read.namespace ?? "", name: read.serviceAccount ?? "" };
  };

const ANY_SEGMENTS = "{**}";
const OPERATORS = ["{*}", ANY_SEGMENTS];

/** Istio's templates: `{*}` is one segment, `{**}` any number of them, once and behind every `{*}`. */
const readPath: Reader<Text> = (value) => {
  if (!/[{}]/.test(value)) return readText(value);
  const segments = value.split("/");
  const operators = segments.filter((one) => /[{}]/.test(one));
  const wrong = operators.find((one) => !OPERATORS.includes(one));
  if (wrong !== undefined) return { wrong: `${JSON.stringify(wrong)} is neither {*} nor {**} as a whole segment` };
  if (value.replaceAll(/\{\*\*?\}/g, "").includes("*")) return { wrong: "* may not stand beside {*} and {**}" };
  if (!value.startsWith("/")) return { wrong: "a template begins with /" };
  const any = operators.indexOf(ANY_SEGMENTS);
  if (any >= 0 && any !== operators.length - 1) return { wrong: "{**} must be the last operator" };
  return { kind: { case: "template", value } };
};

/** Null where nothing is said: an empty list of values would match nothing, or everything. */
type Field<F extends keyof Match, T> = Partial<Record<F, { any: T[]; none: T[] }>>;

function field<F extends keyof Match, T>(
  name: F,
  [any, anyAt]: readonly [readonly string[], string],
  [none, noneAt]: readonly [readonly string[], string],
  read: Reader<T>,
  wrong: Inexpressible,
): Field<F, T> {
  const found = { any: readAll(any, anyAt, read, wrong), none: readAll(none, noneAt, read, wrong) };
  return found.any.length + found.none.length === 0 ? {} : ({ [name]: found } as Field<F, T>);
}

/** A match without any field is refused by whoever reads it; here it would mean that a value was lost. */
function unlessEmpty(match: Match, at: string, wrong: Inexpressible): Match {
  const told = wrong.some((one) => one.field.startsWith(`${at}.`)); // it is empty because its values could not be read
  if (Object.keys(match).length === 0 && !told) wrong.push({ field: at, reason: "names nothing that a waypoint can match" });
  return match;
}

export function sourceMatch(source: Source, at: string, namespace: string, wrong: Inexpressible): Match {
  // Exhaustive by type: a field that the vocabulary gains does not compile until it is emitted here.
  const { principals, notPrincipals, namespaces, notNamespaces, serviceAccounts, notServiceAccounts, ipBlocks, notIpBlocks, ...more } =
    source;
  const { requestPrincipals, notRequestPrincipals, remoteIpBlocks, notRemoteIpBlocks, ...rest } = more;
  rest satisfies Record<string, never>;
  const match: Match = {
    ...field("principals", [principals, `${at}.principals`], [notPrincipals, `${at}.notPrincipals`], readPrincipal, wrong),
    ...field("namespaces", [namespaces, `${at}.namespaces`], [notNamespaces, `${at}.notNamespaces`], readText, wrong),
    ...field(
      "serviceAccounts",
      [serviceAccounts, `${at}.serviceAccounts`],
      [notServiceAccounts, `${at}.notServiceAccounts`],
      readAccount(namespace),
      wrong,
    ),
    ...field("sourceIps", [ipBlocks, `${at}.ipBlocks`], [notIpBlocks, `${at}.notIpBlocks`], readBlock, wrong),
    ...field("remoteIps", [remoteIpBlocks, `${at}.remoteIpBlocks`], [notRemoteIpBlocks, `${at}.notRemoteIpBlocks`], readBlock, wrong),
    ...field(
      "requestPrincipals",
      [requestPrincipals, `${at}.requestPrincipals`],
      [notRequestPrincipals, `${at}.notRequestPrincipals`],
      readText,
      wrong,
    ),
  };
  return unlessEmpty(match, at, wrong);
}

export function operationMatch(operation: Operation, at: string, wrong: Inexpressible): Match {
  const { ports, notPorts, hosts, notHosts, methods, notMethods, paths, notPaths, ...rest } = operation;
  rest satisfies Record<string, never>;
  const match: Match = {
    ...field("destinationPorts", [ports, `${at}.ports`], [notPorts, `${at}.notPorts`], readPort, wrong),
    ...field("hosts", [hosts, `${at}.hosts`], [notHosts, `${at}.notHosts`], readHost, wrong),
    ...field("methods", [methods, `${at}.methods`], [notMethods, `${at}.notMethods`], readText, wrong),
    ...field("paths", [paths, `${at}.paths`], [notPaths, `${at}.notPaths`], readPath, wrong),
  };
  return unlessEmpty(match, at, wrong);
}

/** "request.auth.claims[realm][role]": the names between brackets, null where it is not so. */
function bracketed(key: string, prefix: string): string[] | null {
  const rest = key.slice(prefix.length);
  return key.startsWith(prefix) && /^(?:\[[^[\]]+\])+$/.test(rest) ? rest.slice(1, -1).split("][") : null;
}

const HEADERS = "request.headers";
const CLAIMS = "request.auth.claims";
/** RFC 9110, section 5.6.2: no other can be sent, and an engine rejects it. */
const HEADER_NAME = /^[!#$%&'*+.^_`|~\w-]+$/;

export function conditionMatch({ key, values, notValues }: Condition, at: string, namespace: string, wrong: Inexpressible): Match {
  const both = <F extends keyof Match, T>(name: F, read: Reader<T>): Field<F, T> =>
    field(name, [values, `${at}.values`], [notValues, `${at}.notValues`], read, wrong);
  /** Read as those of any field of texts are. */
  const texts = (): Texts => both("principals", readText).principals ?? {};
  const match = ((): Match | null => {
    switch (key) {
      case "source.ip":
        return both("sourceIps", readBlock);
      case "remote.ip":
        return both("remoteIps", readBlock);
      case "source.namespace":
        return both("namespaces", readText);
      case "source.principal":
        return both("principals", readPrincipal);
      case "source.serviceAccount":
        return both("serviceAccounts", readAccount(namespace));
      case "destination.ip":
        return both("destinationIps", readBlock);
      case "destination.port":
        return both("destinationPorts", readPort);
      case "request.auth.principal":
        return both("requestPrincipals", readText);
      case "request.auth.audiences":
        return both("audiences", readText);
      case "request.auth.presenter":
        return both("presenters", readText);
      case "connection.sni":
        return both("serverNames", readHost);
    }
    const header = bracketed(key, HEADERS);
    if (header?.length === 1 && HEADER_NAME.test(header[0] ?? "")) return { headers: [named(header[0] ?? "", texts())] };
    const claim = bracketed(key, CLAIMS);
    if (claim !== null) return { claims: [{ path: claim, values: texts() }] };
    return null;
  })();
  if (match !== null) return unlessEmpty(match, at, wrong);
  wrong.push({ field: `${at}.key`, reason: `${JSON.stringify(key)} is not known` });
  return {};
}

const named = (name: string, values: Texts): MessageInitShape<typeof NamedSchema> => ({ name: name.toLowerCase(), values });
