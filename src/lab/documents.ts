// The mesh directory as the lab's kubelet and kube-proxy read it: Nodes, Pods with their containers, Services and their ready endpoints.
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { parseAllDocuments } from "yaml";
import { z } from "zod";
import { annotations } from "#contract/tables.ts";
import { formatAddress, parseAddress } from "#mesh/address.ts";

const meta = z.object({ name: z.string(), namespace: z.string().default("default"), labels: z.record(z.string(), z.string()).default({}) });

const nodeDocument = z.object({
  metadata: z.object({ name: z.string() }),
  spec: z.object({ podCIDRs: z.array(z.string()).min(1) }),
  status: z.object({ addresses: z.array(z.object({ type: z.string(), address: z.string() })) }),
});

const container = z.object({
  name: z.string(),
  command: z.array(z.string()).default([]),
  args: z.array(z.string()).default([]),
  env: z.array(z.object({ name: z.string(), value: z.string() })).default([]),
  workingDir: z.string().default("."),
  ports: z.array(z.object({ name: z.string().default(""), containerPort: z.number(), protocol: z.string().default("TCP") })).default([]),
});

const podDocument = z.object({
  metadata: meta.extend({ annotations: z.record(z.string(), z.string()).default({}) }),
  spec: z.object({ nodeName: z.string(), hostNetwork: z.boolean().default(false), containers: z.array(container).default([]) }),
  status: z.object({
    phase: z.string().default("Running"),
    podIPs: z.array(z.object({ ip: z.string() })).default([]),
    conditions: z.array(z.object({ type: z.string(), status: z.string() })).default([]),
  }),
});

const serviceDocument = z.object({
  metadata: meta,
  spec: z.object({
    clusterIP: z.string().optional(),
    clusterIPs: z.array(z.string()).optional(),
    selector: z.record(z.string(), z.string()).default({}),
    ports: z
      .array(z.object({ port: z.number(), targetPort: z.union([z.number(), z.string()]).optional(), protocol: z.string().default("TCP") }))
      .default([]),
  }),
});

export type LabNode = { readonly name: string; readonly ips: readonly string[]; readonly podCIDRs: readonly string[] };

export type LabContainer = z.infer<typeof container>;

export type LabPod = {
  readonly namespace: string;
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly node: string;
  readonly netns: string;
  readonly ips: readonly string[];
  readonly ready: boolean;
  readonly containers: readonly LabContainer[];
};

export type LabService = {
  readonly namespace: string;
  readonly name: string;
  /** Empty = headless. */
  readonly clusterIPs: readonly string[];
  readonly ports: readonly { readonly port: number; readonly protocol: "tcp" | "udp"; readonly targetPort: number | string }[];
  readonly selector: Readonly<Record<string, string>>;
};

export type Documents = { readonly nodes: readonly LabNode[]; readonly pods: readonly LabPod[]; readonly services: readonly LabService[] };

/** Every document of the directory's *.yaml files. What is not valid is an error that names the file: a lab is not built by halves. */
export function readDocuments(mesh: string): Documents {
  const nodes: LabNode[] = [];
  const pods: LabPod[] = [];
  const services: LabService[] = [];
  const files = readdirSync(mesh).filter((file) => /\.ya?ml$/.test(file));
  for (const file of files.sort()) {
    const path = join(mesh, file);
    for (const document of parseAllDocuments(readFileSync(path, "utf8"))) {
      if (document.errors[0] !== undefined) throw new Error(`${path}: ${document.errors[0].message}`);
      const value: unknown = document.toJS();
      const kind = z.object({ kind: z.string() }).safeParse(value).data?.kind;
      if (kind === "Node") nodes.push(toNode(read(nodeDocument, value, path)));
      if (kind === "Service") services.push(toService(read(serviceDocument, value, path)));
      if (kind === "Pod") pods.push(...toPod(read(podDocument, value, path), path));
    }
  }
  return { nodes, pods, services };
}

/** Endpoints of one service port in one address family, as kube-proxy would use them. */
export function endpointsOf(
  service: LabService,
  targetPort: number | string,
  pods: readonly LabPod[],
  v6: boolean,
): [ip: string, port: number][] {
  return readyPods(service, pods).flatMap((pod) => {
    const ip = pod.ips.find((address) => address.includes(":") === v6);
    const port = portOf(pod, targetPort);
    return ip === undefined || port === undefined ? [] : [[ip, port] as [string, number]];
  });
}

export function readyPods(service: LabService, pods: readonly LabPod[]): readonly LabPod[] {
  const selector = Object.entries(service.selector);
  if (selector.length === 0) return [];
  return pods.filter(
    (pod) => pod.ready && pod.namespace === service.namespace && selector.every(([key, value]) => pod.labels[key] === value),
  );
}

function portOf(pod: LabPod, target: number | string): number | undefined {
  if (typeof target === "number") return target;
  return pod.containers.flatMap(({ ports }) => ports).find(({ name }) => name === target)?.containerPort;
}

function read<T>(schema: z.ZodType<T>, value: unknown, path: string): T {
  const parsed = schema.safeParse(value);
  if (!parsed.success) throw new Error(`${path}: ${z.prettifyError(parsed.error)}`);
  return parsed.data;
}

/** One text for each address, the one that flows and captures use too. */
function canonical(ip: string): string {
  const bytes = parseAddress(ip);
  if (bytes === null) throw new Error(`"${ip}" is not an IP address`);
  return formatAddress(bytes);
}

function toNode({ metadata, spec, status }: z.infer<typeof nodeDocument>): LabNode {
  const ips = status.addresses.filter(({ type }) => type === "InternalIP").map(({ address }) => address);
  return { name: metadata.name, ips: ips.map(canonical), podCIDRs: spec.podCIDRs };
}

function toPod({ metadata, spec, status }: z.infer<typeof podDocument>, path: string): LabPod[] {
  if (spec.hostNetwork || status.phase === "Succeeded" || status.phase === "Failed") return []; // no namespace of its own to build
  const netns = metadata.annotations[annotations.netns];
  if (netns === undefined) throw new Error(`${path}: pod ${metadata.namespace}/${metadata.name} has no annotation ${annotations.netns}`);
  const condition = status.conditions.find(({ type }) => type === "Ready");
  return [
    {
      namespace: metadata.namespace,
      name: metadata.name,
      labels: metadata.labels,
      node: spec.nodeName,
      netns,
      ips: status.podIPs.map(({ ip }) => canonical(ip)),
      ready: status.phase === "Running" && condition?.status !== "False",
      containers: spec.containers,
    },
  ];
}

function toService({ metadata, spec }: z.infer<typeof serviceDocument>): LabService {
  const ips = spec.clusterIPs ?? (spec.clusterIP === undefined ? [] : [spec.clusterIP]);
  return {
    namespace: metadata.namespace,
    name: metadata.name,
    clusterIPs: ips.filter((ip) => ip !== "None" && ip !== "").map(canonical),
    ports: spec.ports
      .filter(({ protocol }) => protocol === "TCP" || protocol === "UDP")
      .map(({ port, targetPort, protocol }) => ({ port, protocol: protocol === "UDP" ? "udp" : "tcp", targetPort: targetPort ?? port })),
    selector: spec.selector,
  };
}
