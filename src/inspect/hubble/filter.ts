// Filters of Hubble's clients: what they may ask of a flow. What is not known here is refused, for an answer to another question would look like one.
import type { Flow, FlowFilter } from "#contract/gen/hubble/observer_pb.ts";
import { cidrContains, parseCidr } from "#mesh/address.ts";
import { meshError } from "#mesh/error.ts";

type Matches = (flow: Flow) => boolean;

/** Of regular expressions and names that somebody sends. */
const MOST_CHARACTERS = 1024;

/** Throws E_QUESTION for a filter that cannot be followed. */
export function filterOf(whitelist: readonly FlowFilter[], blacklist: readonly FlowFilter[]): Matches {
  const [wanted, unwanted] = [whitelist.map(oneOf), blacklist.map(oneOf)];
  return (flow) => (wanted.length === 0 || wanted.some((matches) => matches(flow))) && !unwanted.some((matches) => matches(flow));
}

/** Every field that is there must fit, by one of its values. */
function oneOf(filter: FlowFilter): Matches {
  const [unknown] = filter.$unknown ?? [];
  if (unknown !== undefined)
    throw meshError("E_QUESTION", `field ${unknown.no} of a flow filter is not known here: docs/flows.md has those that are`);
  const all: Matches[] = [];
  const by = <T>(values: readonly T[], test: (value: T) => Matches): void => {
    if (values.length === 0) return;
    const tests = values.map(test);
    all.push((flow) => tests.some((matches) => matches(flow)));
  };
  const is =
    <T>(read: (flow: Flow) => T) =>
    (value: T): Matches =>
    (flow) =>
      read(flow) === value;
  by(
    filter.sourceIp,
    inside((flow) => flow.ip?.source ?? ""),
  );
  by(
    filter.destinationIp,
    inside((flow) => flow.ip?.destination ?? ""),
  );
  by(
    filter.sourcePod,
    named((flow) => [flow.source?.namespace ?? "", flow.source?.podName ?? ""]),
  );
  by(
    filter.destinationPod,
    named((flow) => [flow.destination?.namespace ?? "", flow.destination?.podName ?? ""]),
  );
  by(filter.sourceService, () => () => false); // nobody sends from a service
  by(
    filter.destinationService,
    named((flow) => [flow.destinationService?.namespace ?? "", flow.destinationService?.name ?? ""]),
  );
  by(
    filter.sourceWorkload,
    ({ name }) =>
      (flow) =>
        flow.source?.workloads.some((one) => one.name === name) ?? false,
  );
  by(
    filter.destinationWorkload,
    ({ name }) =>
      (flow) =>
        flow.destination?.workloads.some((one) => one.name === name) ?? false,
  );
  by(
    filter.sourcePort,
    is((flow) => String(flow.l4?.protocol.value?.sourcePort ?? "")),
  );
  by(
    filter.destinationPort,
    is((flow) => String(flow.l4?.protocol.value?.destinationPort ?? "")),
  );
  by(
    filter.verdict,
    is<number>((flow) => flow.verdict),
  );
  by(
    filter.trafficDirection,
    is<number>((flow) => flow.trafficDirection),
  );
  by(
    filter.ipVersion,
    is<number>((flow) => flow.ip?.ipVersion ?? 0),
  );
  by(
    filter.encrypted,
    is((flow) => flow.ip?.encrypted ?? false),
  );
  by(
    filter.reply,
    is((flow) => flow.isReply ?? false),
  );
  by(
    filter.uuid,
    is((flow) => flow.uuid),
  );
  by(
    filter.traceId,
    is((flow) => flow.traceContext?.parent?.traceId ?? ""),
  );
  by(
    filter.eventType,
    ({ type, matchSubType, subType }) =>
      (flow) =>
        flow.eventType?.type === type && (!matchSubType || flow.eventType.subType === subType),
  );
  by(filter.protocol, (name) => {
    if (name.toLowerCase() === "tcp") return () => true;
    return (flow) => name.toLowerCase() === "http" && flow.l7?.record.case === "http";
  });
  by(filter.httpMethod, (method) => (flow) => flow.l7?.record.value?.method.toLowerCase() === method.toLowerCase());
  by(filter.httpStatusCode, status);
  by(filter.httpPath, (pattern) => {
    const expression = expressionOf(pattern);
    return (flow) => flow.l7 !== undefined && expression.test(pathOf(flow.l7.record.value?.url ?? ""));
  });
  by(filter.nodeName, (pattern) => {
    const names = nodeNames(pattern);
    return (flow) => names.test(flow.nodeName);
  });
  return (flow) => all.every((matches) => matches(flow));
}

const pathOf = (url: string): string => (URL.canParse(url) ? new URL(url).pathname : "");

/** "10.0.0.1" or "10.0.0.0/8". */
const inside =
  (read: (flow: Flow) => string) =>
  (text: string): Matches => {
    const network = parseCidr(text);
    if (network === null) throw meshError("E_QUESTION", `${text.slice(0, 64)} is neither an address nor a block of them`);
    return (flow) => {
      const address = parseCidr(read(flow));
      return address !== null && cidrContains(network, address);
    };
  };

/** "namespace/prefix", "namespace/", or a prefix of names in every namespace. */
const named =
  (read: (flow: Flow) => readonly [namespace: string, name: string]) =>
  (text: string): Matches => {
    const slash = text.indexOf("/");
    const [namespace, prefix] = slash < 0 ? ["", text] : [text.slice(0, slash), text.slice(slash + 1)];
    return (flow) => {
      const [inNamespace, name] = read(flow);
      if (inNamespace === "" && name === "") return false;
      return (namespace === "" || namespace === inNamespace) && name.startsWith(prefix);
    };
  };

/** "404", "4+" or "40+". */
function status(text: string): Matches {
  if (!/^([1-5]\d{2}|[1-5]\d?\+)$/.test(text)) throw meshError("E_QUESTION", `${text.slice(0, 64)} is no status, such as 404 or 5+`);
  const prefix = text.replace("+", "");
  return ({ l7 }) => l7?.record.case === "http" && l7.record.value.code > 0 && String(l7.record.value.code).startsWith(prefix);
}

function expressionOf(pattern: string): RegExp {
  try {
    if (pattern.length <= MOST_CHARACTERS) return new RegExp(pattern);
  } catch {
    // told below
  }
  throw meshError("E_QUESTION", `${pattern.slice(0, 64)} is no regular expression`);
}

/** "node-*", behind the name of a cluster that nobody has here: "default/node-a". */
function nodeNames(pattern: string): RegExp {
  if (pattern.length > MOST_CHARACTERS) throw meshError("E_QUESTION", "a node's name is shorter");
  const name = pattern.slice(pattern.indexOf("/") + 1);
  return name === "" ? /^/ : new RegExp(`^${name.replace(/[.+?^${}()|[\]\\]/g, "\\$&").replaceAll("*", ".*")}$`);
}
