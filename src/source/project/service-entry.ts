// ServiceEntry documents: every field is in force, or the entry is not and says which field stands against it.
import { z } from "zod";
import { parseAddress, parseCidr } from "#mesh/address.ts";
import { isSubdomain } from "#mesh/identity.ts";
import type { ServiceEntry } from "#mesh/objects.ts";
import { labelMap, metadata, port } from "./fields.ts";
import { invalid, type Path, type Problem, unsupported } from "./problem.ts";
import type { Projector } from "./projector.ts";

const PROTOCOLS = ["HTTP", "HTTPS", "GRPC", "GRPC-WEB", "HTTP2", "MONGO", "MYSQL", "REDIS", "TCP", "TLS"];
/** Far above any real entry; each host is a service of its own, with each endpoint a workload. */
const MOST = { hosts: 64, endpoints: 256, addresses: 64, ports: 64 };

/** Upper case is the same name, as DNS has it. */
const host = z
  .string()
  .transform((text) => text.toLowerCase())
  .refine((text) => isSubdomain(text.replace(/^\*\./, "")), "must be a DNS name, or *. and a DNS name");
const block = z.string().refine((text) => parseCidr(text) !== null, "must be an IP address or CIDR block");

const entryPort = z.strictObject({
  number: port,
  name: z.string().min(1),
  protocol: z
    .string()
    .default("TCP")
    .transform((text) => text.toUpperCase())
    .refine((text) => PROTOCOLS.includes(text), `must be one of ${PROTOCOLS.join(", ")}`),
  targetPort: port.optional(),
});

const endpoint = z.strictObject({
  address: z.string().default(""),
  ports: z.record(z.string(), port).default({}),
  // Only subsets would read them, and this version has none: they change nothing.
  labels: labelMap.default({}),
  network: z.string().default(""),
  locality: z.string().default(""),
  weight: z.int().min(0).max(65_535).default(0),
  serviceAccount: z.string().default(""),
});

const spec = z.strictObject({
  hosts: z.array(host).min(1).max(MOST.hosts),
  addresses: z.array(block).max(MOST.addresses).default([]),
  ports: z.array(entryPort).min(1, "needs at least one port").max(MOST.ports),
  location: z.enum(["MESH_EXTERNAL", "MESH_INTERNAL"]).default("MESH_EXTERNAL"),
  resolution: z.enum(["NONE", "STATIC", "DNS", "DNS_ROUND_ROBIN", "DYNAMIC_DNS"]).default("NONE"),
  endpoints: z.array(endpoint).max(MOST.endpoints).default([]),
  workloadSelector: z.strictObject({ labels: labelMap.default({}) }).optional(),
  exportTo: z.array(z.string()).default([]),
  subjectAltNames: z.array(z.string()).default([]),
});

const document = z.strictObject({ apiVersion: z.string(), kind: z.string(), metadata, spec, status: z.unknown().optional() });

type Spec = z.infer<typeof spec>;

export const projectServiceEntry: Projector<ServiceEntry, z.infer<typeof document>> = {
  kind: "ServiceEntry",
  scope: "namespace",
  schema: document,
  project: ({ spec }, meta) => {
    const problems = problemsIn(spec);
    if (problems.length > 0) return { object: null, problems };
    const { hosts, addresses, ports, resolution, endpoints, workloadSelector, exportTo, subjectAltNames } = spec;
    const object: ServiceEntry = {
      kind: "ServiceEntry",
      metadata: meta,
      hosts: [...new Set(hosts)],
      addresses,
      ports: ports.map(({ number, name, protocol, targetPort }) => ({ name, port: number, targetPort: targetPort ?? number, protocol })),
      // Connections are balanced one by one, so round robin over the names' addresses is what DNS means here as well.
      resolution: resolution === "NONE" || resolution === "STATIC" ? resolution : "DNS",
      endpoints: endpoints.map(({ address, ports, locality, weight }) => ({
        address: address.toLowerCase(),
        ports,
        locality,
        weight: weight === 0 ? 1 : weight,
      })),
      selector: workloadSelector?.labels ?? {},
      subjectAltNames,
      exportTo,
      resolved: {},
    };
    return { object, problems: [] };
  },
};

function problemsIn(spec: Spec): Problem[] {
  const { hosts, addresses, resolution, endpoints, workloadSelector, exportTo, subjectAltNames } = spec;
  const at = (...path: Path): Path => ["spec", ...path];
  const problems: Problem[] = [];
  const repeated = (values: readonly unknown[]): boolean => new Set(values).size < values.length;
  if (repeated(spec.ports.map(({ name }) => name)) || repeated(spec.ports.map(({ number }) => number)))
    problems.push(invalid(at("ports"), "names and numbers must differ"));
  if (resolution === "DYNAMIC_DNS") problems.push(unsupported(at("resolution"), "DYNAMIC_DNS is not supported"));
  if (resolution === "NONE") {
    if (addresses.length === 0)
      problems.push(invalid(at("addresses"), "resolution NONE needs addresses: a TCP connection shows nothing else of where it goes"));
    if (endpoints.length > 0 || workloadSelector !== undefined)
      problems.push(invalid(at("resolution"), "NONE goes to where the client wanted, so there can be no endpoints"));
  } else {
    for (const [i, name] of hosts.entries())
      if (name.startsWith("*.")) problems.push(invalid(at("hosts", i), "a wildcard is for resolution NONE: it has no addresses"));
  }
  if (workloadSelector !== undefined && resolution !== "STATIC")
    problems.push(invalid(at("workloadSelector"), "is for resolution STATIC only"));
  if (workloadSelector !== undefined && Object.keys(workloadSelector.labels).length === 0)
    problems.push(invalid(at("workloadSelector", "labels"), "must name at least one label"));
  if (workloadSelector !== undefined && endpoints.length > 0)
    problems.push(invalid(at("endpoints"), "either endpoints or workloadSelector, not both"));
  if (resolution === "STATIC" && endpoints.length === 0 && workloadSelector === undefined)
    problems.push(invalid(at("endpoints"), "resolution STATIC needs endpoints or workloadSelector"));
  endpoints.forEach((one, i) => {
    const isIp = parseAddress(one.address) !== null;
    if (one.address.startsWith("unix:")) problems.push(unsupported(at("endpoints", i, "address"), "sockets of files are not supported"));
    else if (resolution === "STATIC" && !isIp) problems.push(invalid(at("endpoints", i, "address"), "must be an IP address"));
    else if (!isIp && !isSubdomain(one.address.toLowerCase()))
      problems.push(invalid(at("endpoints", i, "address"), "must be an IP address or a DNS name"));
    for (const field of ["network", "serviceAccount"] as const)
      if (one[field] !== "")
        problems.push(unsupported(at("endpoints", i, field), "endpoints outside of the cluster have no identity of the mesh"));
    for (const name of Object.keys(one.ports))
      if (!spec.ports.some((known) => known.name === name))
        problems.push(invalid(at("endpoints", i, "ports", name), "is no port of this entry"));
  });
  exportTo.forEach((whom, i) => {
    if (whom !== "." && whom !== "*") problems.push(unsupported(at("exportTo", i), 'must be "." or "*"'));
  });
  subjectAltNames.forEach((name, i) => {
    if (!name.startsWith("spiffe://"))
      problems.push(unsupported(at("subjectAltNames", i), "this version checks identities of the mesh only"));
  });
  return problems;
}
