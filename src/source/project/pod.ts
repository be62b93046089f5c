// Pod documents. Where a field of the status is missing, a directory means a pod that runs and is ready.
import { z } from "zod";
import { kubernetes } from "#contract/tables.ts";
import type { CaptureCondition, ContainerPort, Pod } from "#mesh/objects.ts";
import { address, metadata, port, subdomain } from "./fields.ts";
import { invalid, type Path, type Problem } from "./problem.ts";
import type { Projector } from "./projector.ts";

const handler = z.object({ port: z.union([port, z.string().min(1)]) });
const probe = z.object({ httpGet: handler.optional(), tcpSocket: handler.optional(), grpc: handler.optional() });
const PROBES = ["livenessProbe", "readinessProbe", "startupProbe"] as const;

const container = z.object({
  ports: z.array(z.object({ name: z.string().default(""), containerPort: port, protocol: z.string().default("TCP") })).default([]),
  livenessProbe: probe.optional(),
  readinessProbe: probe.optional(),
  startupProbe: probe.optional(),
});

const podSpec = z.object({
  nodeName: z.string().default(""),
  serviceAccountName: subdomain.optional(),
  hostNetwork: z.boolean().default(false),
  dnsPolicy: z.enum(["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"]).default("ClusterFirst"),
  dnsConfig: z.object({ searches: z.array(z.string()).default([]) }).default({ searches: [] }),
  containers: z.array(container).default([]),
  initContainers: z.array(container).default([]),
});

const condition = z.object({
  type: z.string(),
  status: z.string(),
  reason: z.string().default(""),
  message: z.string().default(""),
  lastTransitionTime: z.string().default(""),
});

const podStatus = z.object({
  phase: z.enum(["Pending", "Running", "Succeeded", "Failed", "Unknown"]).default("Running"),
  podIP: address.optional(),
  podIPs: z.array(z.object({ ip: address })).optional(),
  conditions: z.array(condition).default([]),
});

const podDocument = z.object({ metadata, spec: podSpec, status: podStatus.prefault({}) });

type Container = z.infer<typeof container>;

export const projectPod: Projector<Pod, z.infer<typeof podDocument>> = {
  kind: "Pod",
  scope: "namespace",
  schema: podDocument,
  project: ({ metadata: { ownerReferences }, spec, status }, meta) => {
    const containers = [...at("containers", spec.containers), ...at("initContainers", spec.initContainers)];
    const probes = containers.map(([path, one]) => probePorts(path, one));
    const problems = probes.flatMap((one) => one.problems);
    const owner = ownerReferences.find(({ controller }) => controller);
    const ready = status.conditions.find(({ type }) => type === "Ready");
    const object: Pod = {
      kind: "Pod",
      metadata: meta,
      nodeName: spec.nodeName,
      serviceAccountName: spec.serviceAccountName ?? "default",
      hostNetwork: spec.hostNetwork,
      phase: status.phase,
      ready: ready === undefined || ready.status === "True",
      podIPs: status.podIPs?.map(({ ip }) => ip) ?? (status.podIP === undefined ? [] : [status.podIP]),
      ports: containers.flatMap(([, one]) => tcpPorts(one)),
      probePorts: [...new Set(probes.flatMap((one) => one.ports))].sort((a, b) => a - b),
      clusterSearch: spec.dnsPolicy === "ClusterFirst" || spec.dnsPolicy === "ClusterFirstWithHostNet",
      dnsSearch: spec.dnsConfig.searches,
      owner: owner === undefined ? null : { kind: owner.kind, name: owner.name },
      captured: captureOf(status.conditions.find(({ type }) => type === kubernetes.capturedCondition)),
    };
    return { object: problems.length > 0 ? null : object, problems };
  },
};

function captureOf(found: z.infer<typeof condition> | undefined): CaptureCondition | null {
  if (found === undefined) return null;
  const { status, reason, message, lastTransitionTime: since } = found;
  return { status: status === "True" || status === "False" ? status : "Unknown", reason, message, since };
}

const at = (field: string, containers: readonly Container[]): [Path, Container][] => containers.map((one, i) => [["spec", field, i], one]);

const tcpPorts = (one: Container): ContainerPort[] =>
  one.ports.filter(({ protocol }) => protocol === "TCP").map(({ name, containerPort }) => ({ name, port: containerPort }));

function probePorts(path: Path, one: Container): { readonly ports: readonly number[]; readonly problems: readonly Problem[] } {
  const ports: number[] = [];
  const problems: Problem[] = [];
  for (const kind of PROBES) {
    for (const action of ["httpGet", "tcpSocket", "grpc"] as const) {
      const asked = one[kind]?.[action]?.port;
      if (asked === undefined) continue;
      const resolved = typeof asked === "number" ? asked : tcpPorts(one).find(({ name }) => name === asked)?.port;
      if (resolved !== undefined) ports.push(resolved);
      else problems.push(invalid([...path, kind, action, "port"], `the container has no TCP port named ${JSON.stringify(asked)}`));
    }
  }
  return { ports, problems };
}
