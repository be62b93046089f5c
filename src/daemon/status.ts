// The daemon's memory as the admin API shows it: pure projections of records to JSON.
import { stateOf } from "#enrol/next.ts";
import type { PodExplanation, PodStatus } from "#inspect/status.ts";
import { formatIdentity } from "#mesh/identity.ts";
import { type Farewell, nextStep, type PodRecord } from "./pod.ts";

const instant = (nanoseconds: bigint): string | null =>
  nanoseconds === 0n ? null : new Date(Number(nanoseconds / 1_000_000n)).toISOString();

export function podStatus(record: PodRecord, trustDomain: string): PodStatus {
  const { spec, observed, state, problem, notMeshed } = record;
  const { facts } = observed.engine;
  const { namespace } = observed;
  return {
    uid: spec.uid,
    namespace: spec.namespace,
    name: spec.name,
    serviceAccount: spec.serviceAccount,
    identity: formatIdentity({ trustDomain, namespace: spec.namespace, serviceAccount: spec.serviceAccount }),
    addresses: spec.addresses,
    desired: spec.desired === "gone" ? "deleted" : spec.desired,
    phase: state,
    netnsCookie: namespace === "unknown" || namespace === null ? null : namespace.cookie.toString(),
    engine:
      facts === null || !observed.engine.connected
        ? null
        : {
            listening: facts.listening,
            identity: facts.identity,
            policy: facts.policy,
            certificateNotAfter: instant(record.certificateNotAfter),
          },
    connections: facts?.connections ?? 0,
    notMeshed,
    problem,
  };
}

export function explainPod(record: PodRecord, node: string, trustDomain: string, farewell: Farewell): PodExplanation {
  const { spec, observed } = record;
  const { rules, routing, foreign, proof, engine } = observed;
  const step = nextStep(record, farewell);
  const held = engine.holds !== null && observed.namespace !== "unknown" && engine.holds.cookie === observed.namespace?.cookie;
  return {
    ...podStatus(record, trustDomain),
    phase: stateOf(spec.desired, observed),
    node,
    netnsPath: spec.netns,
    observed: {
      rules,
      routing,
      foreign,
      proof: typeof proof === "string" ? proof : `${proof.code}: ${proof.reason}`,
      handedOver: held,
      draining: engine.draining !== null,
    },
    nextStep: "fault" in step && step.fault !== null ? `${step.do} (${step.fault.code}: ${step.fault.reason})` : step.do,
    steps: record.steps,
    rulesDifference: record.differences,
    warnings: [
      ...record.warnings,
      ...spec.annotationFaults.map(({ annotation, value, reason }) => `annotation ${annotation}=${value} is not honoured: it ${reason}`),
    ],
  };
}
