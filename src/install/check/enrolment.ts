// What labelling a namespace would do to each of its pods, before anybody labels it.
import type { V1Namespace, V1Pod } from "@kubernetes/client-node";
import { labels, ports } from "#contract/tables.ts";
import { captureSpec } from "#mesh/capture.ts";
import { type Adoption, enrolment } from "#mesh/enrolment.ts";
import type { Namespace } from "#mesh/objects.ts";
import { projectDocument } from "#source/project/project.ts";
import { type Finding, finding } from "../finding.ts";

export type EnrolmentPreview = {
  readonly pods: readonly { readonly name: string; readonly enrolled: boolean; readonly reason: string }[];
  readonly findings: readonly Finding[];
};

const OWN_PORTS: readonly number[] = [ports.outbound, ports.inboundPlain, ports.hbone, ports.dns];
const DNS_PORT = 53;

/** `pods` are the namespace's; those that are over or on their way out are left out. */
export function previewEnrolment(namespace: V1Namespace, pods: readonly V1Pod[], adopt: Adoption = "none"): EnrolmentPreview {
  const wanted = projectDocument({
    ...namespace,
    apiVersion: "v1",
    kind: "Namespace",
    metadata: { ...namespace.metadata, labels: { ...namespace.metadata?.labels, [labels.mesh]: "enabled" } },
  }).object as Namespace | null;
  const alive = pods.filter(
    ({ metadata, status }) => metadata?.deletionTimestamp === undefined && !["Succeeded", "Failed"].includes(status?.phase ?? ""),
  );
  const seen = alive.map((pod) => ({ pod, ...decide(wanted, pod, adopt) }));
  const enrolled = seen.filter((one) => one.enrolled);
  return {
    pods: seen.map(({ pod, enrolled, reason }) => ({ name: pod.metadata?.name ?? "", enrolled, reason })),
    findings: [...seen.flatMap(({ pod, ...decided }) => podFindings(pod, decided)), ...reopen(namespace, enrolled.length)],
  };
}

type Decided = { readonly enrolled: boolean; readonly code: string | null; readonly reason: string; readonly capture: Captured | null };
type Captured = ReturnType<typeof captureSpec>;

function decide(namespace: Namespace | null, pod: V1Pod, adopt: Adoption): Decided {
  const { object, problems } = projectDocument({ ...pod, apiVersion: "v1", kind: "Pod" });
  if (object?.kind !== "Pod")
    return { enrolled: false, code: null, reason: problems.map(({ reason }) => reason).join("; "), capture: null };
  const known = namespace ?? undefined;
  return { ...enrolment(known, object, { adopt }), capture: captureSpec(known, object) };
}

function podFindings(pod: V1Pod, { enrolled, code, reason, capture }: Decided): Finding[] {
  const subject = `pod ${pod.metadata?.namespace}/${pod.metadata?.name}`;
  if (!enrolled) {
    if (code === "E_CAPTURE_HOST_NETWORK") return [finding("ENROL_HOST_NETWORK", subject, reason)];
    if (code === "E_CAPTURE_FOREIGN_MESH") return [finding("ENROL_FOREIGN_MESH", subject, reason)];
    return code === "E_SOURCE_INVALID" ? [finding("ENROL_LABEL", subject, reason)] : [];
  }
  const containers = [...(pod.spec?.initContainers ?? []), ...(pod.spec?.containers ?? [])];
  const declared = containers.flatMap(({ name, ports: list = [] }) =>
    list.map((port) => ({ container: name, port: port.containerPort, protocol: port.protocol ?? "TCP" })),
  );
  return [
    ...(capture?.spec.inbound === false
      ? [finding("ENROL_OUTBOUND", subject, "only what it sends is captured; plaintext reaches it and is asked no policy")]
      : []),
    ...(capture?.faults ?? []).map(({ annotation, value, reason }) =>
      finding("ENROL_ANNOTATION", subject, `annotation ${annotation}: ${JSON.stringify(value)} ${reason}`),
    ),
    ...containers
      .filter(mayEditRules)
      .map(({ name }) => finding("ENROL_NET_ADMIN", subject, `container ${name} may edit the rules of its own network namespace`)),
    ...declared
      .filter(({ port }) => OWN_PORTS.includes(port))
      .map(({ container, port }) =>
        finding("ENROL_OWN_PORT", subject, `container ${container} declares port ${port}, which is the mesh's`),
      ),
    ...declared
      .filter(({ port, protocol }) => protocol === "UDP" && port !== DNS_PORT)
      .map(({ container, port }) => finding("ENROL_UDP", subject, `container ${container} serves UDP ${port}`)),
  ];
}

type Container = NonNullable<V1Pod["spec"]>["containers"][number];

const mayEditRules = ({ securityContext }: Container): boolean =>
  securityContext?.privileged === true ||
  (securityContext?.capabilities?.add ?? []).some((name) =>
    ["NET_ADMIN", "CAP_NET_ADMIN", "ALL", "SYS_ADMIN", "CAP_SYS_ADMIN"].includes(name),
  );

const reopen = ({ metadata }: V1Namespace, count: number): Finding[] =>
  count === 0
    ? []
    : [
        finding(
          "ENROL_REOPEN",
          `namespace ${metadata?.name}`,
          `${count} running pod${count === 1 ? "" : "s"} may hold connections that are not meshed until they are opened anew`,
        ),
      ];
