// A flow record as Hubble's clients know flows: what began is a verdict of policy, what ended a segment that passed, a request is its answer.
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import {
  type EndpointSchema,
  type Flow,
  FlowSchema,
  FlowType,
  IPVersion,
  type PolicySchema,
  TrafficDirection,
  Verdict,
} from "#contract/gen/hubble/observer_pb.ts";
import { type FlowEndpoint, type FlowRecord, momentOf, type RequestRecord } from "../flow.ts";

type Fields = Exclude<MessageInitShape<typeof FlowSchema>, Flow>;

/** Types of events, and what a trace was seen at (Cilium's pkg/monitor/api). */
const TRACE = 4;
const POLICY_VERDICT = 5;
const REQUEST = 129;
const TO_POD = { event: 0, point: 101 };
const FROM_POD = { event: 5, point: 5 };
/** DropReason POLICY_DENIED. */
const POLICY_DENIED = 133;
const MATCHED_CLIENT_AND_PORT = 2;
const RESPONSE = 2;

const VERDICTS = { allowed: Verdict.FORWARDED, denied: Verdict.DROPPED, failed: Verdict.ERROR } as const;

export function hubbleFlow(flow: FlowRecord, node: string): Flow {
  const { verdict, request, direction, service, destination } = flow;
  const ingress = direction === "inbound";
  // Who answers is the source of an answer.
  const [source, target] = request === null ? [flow.source, destination] : [destination, flow.source];
  const decided = verdict === "denied" || (flow.phase === "opened" && verdict === "allowed");
  const seen = ingress ? TO_POD : FROM_POD;
  const [name, namespace] = service === null ? ["", ""] : [service.slice(service.indexOf("/") + 1), service.slice(0, service.indexOf("/"))];
  return create(FlowSchema, {
    time: timestamp(momentOf(flow)),
    uuid: `${node}/${flow.podUid}/${flow.id}/${flow.phase}`,
    nodeName: node,
    verdict: flow.audit !== null && verdict === "allowed" && flow.audit.verdict === "denied" ? Verdict.AUDIT : VERDICTS[verdict],
    ...(verdict === "denied" ? { dropReason: POLICY_DENIED, dropReasonDesc: POLICY_DENIED } : {}),
    ip: {
      source: source.address,
      destination: target.address,
      ipVersion: source.address.includes(":") ? IPVersion.IPv6 : IPVersion.IPv4,
      encrypted: flow.tls !== null,
    },
    l4: {
      protocol: {
        case: "tcp",
        value: { sourcePort: source.port, destinationPort: target.port, ...(request === null ? { flags: flagsOf(flow) } : {}) },
      },
    },
    source: endpoint(source),
    destination: endpoint(target),
    ...(name === "" ? {} : { destinationService: { name, namespace } }),
    trafficDirection: ingress ? TrafficDirection.INGRESS : TrafficDirection.EGRESS,
    isReply: request !== null,
    ...(request === null
      ? {
          type: FlowType.L3_L4,
          eventType: decided ? { type: POLICY_VERDICT } : { type: TRACE, subType: seen.event },
          traceObservationPoint: decided ? 0 : seen.point,
          policyMatchType: flow.policy === null ? 0 : MATCHED_CLIENT_AND_PORT,
        }
      : { type: FlowType.L7, eventType: { type: REQUEST }, l7: answer(flow, request) }),
    ...policies(flow, ingress),
    ...traceOf(request?.traceparent ?? null),
    summary: summary(flow),
  });
}

/** Of Unix milliseconds with a fraction. */
function timestamp(milliseconds: number): { seconds: bigint; nanos: number } {
  const microseconds = BigInt(Math.round(milliseconds * 1000));
  return { seconds: microseconds / 1_000_000n, nanos: Number(microseconds % 1_000_000n) * 1000 };
}

const endpoint = ({ namespace, pod, workload, identity }: FlowEndpoint): MessageInitShape<typeof EndpointSchema> => ({
  namespace: namespace ?? "",
  podName: pod ?? "",
  labels: identity === null ? [] : [`spiffe:id=${identity}`],
  workloads: workload === null ? [] : [{ name: workload }],
});

/** Of a record of a beginning, or of an end. */
const flagsOf = ({ phase, reset, verdict }: FlowRecord): { syn?: boolean; fin?: boolean; rst?: boolean; ack?: boolean } => {
  if (phase === "opened" || verdict === "denied") return { syn: true };
  return reset ? { rst: true } : { fin: true, ack: true };
};

function policies({ policy, verdict, audit }: FlowRecord, ingress: boolean): Fields {
  const by = verdict === "denied" ? policy : (audit?.policy ?? policy);
  if (by === null) return {};
  const [namespace = "", name = ""] = by.split("/");
  const all: MessageInitShape<typeof PolicySchema>[] = [{ namespace, name, kind: "AuthorizationPolicy" }];
  const denied = verdict === "denied" || audit !== null;
  if (ingress) return denied ? { ingressDeniedBy: all } : { ingressAllowedBy: all };
  return denied ? { egressDeniedBy: all } : { egressAllowedBy: all };
}

const answer = ({ durationMicroseconds }: FlowRecord, { method, authority, path, protocol, status }: RequestRecord) => ({
  type: RESPONSE,
  latencyNs: BigInt(durationMicroseconds) * 1000n,
  record: { case: "http" as const, value: { code: status ?? 0, method, url: `http://${authority}${path}`, protocol } },
});

function traceOf(traceparent: string | null): Fields {
  const traceId = traceparent?.split("-")[1];
  return traceId === undefined ? {} : { traceContext: { parent: { traceId } } };
}

function summary(flow: FlowRecord): string {
  const { request, verdict, code, phase, path, bytesSent, bytesReceived, tls } = flow;
  if (request !== null)
    return `${request.protocol} ${request.status ?? "no answer"} ${flow.durationMicroseconds / 1000}ms (${request.method} http://${request.authority}${request.path})`;
  const way = [path ?? "", tls === null ? "" : `${tls.version} ${tls.group}`, flow.protocol ?? ""].filter(Boolean).join(", ");
  if (verdict !== "allowed") return `TCP ${code ?? verdict}${way === "" ? "" : ` (${way})`}`;
  return phase === "opened"
    ? `TCP Flags: SYN (${way})`
    : `TCP Flags: ${flow.reset ? "RST" : "ACK, FIN"} (${way}; sent ${bytesSent}, received ${bytesReceived})`;
}
