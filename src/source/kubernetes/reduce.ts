// An object of the API server as the document that a directory would hold: only the fields that the mesh reads, with a server's defaults.
import { annotations } from "#contract/tables.ts";
import { FOREIGN_MARKS } from "#mesh/enrolment.ts";
import type { Raw } from "./list.ts";
import type { Resource } from "./resources.ts";

type Fields = Readonly<Record<string, unknown>>;

/** What others write into annotations may be a megabyte for each pod; these are all that the mesh reads. */
const READ: ReadonlySet<string> = new Set([...Object.values(annotations), "istio.io/dry-run", "istio.io/use-waypoint-canary-weight"]);
const MARKS: ReadonlySet<string> = new Set(FOREIGN_MARKS.map(([mark]) => mark));

export function reduce(resource: Resource, raw: Raw): Fields {
  const { kind, apiVersion } = resource;
  const { spec, status, ...top } = raw as Raw & Fields;
  const head = { apiVersion, kind, metadata: reduceMetadata(fields(raw.metadata)) };
  switch (kind) {
    case "Namespace":
      return head;
    case "Pod":
      return { ...head, spec: podSpec(fields(spec)), status: podStatus(fields(status), fields(raw.metadata)) };
    case "EndpointSlice":
      return { ...head, addressType: top["addressType"], endpoints: top["endpoints"] ?? undefined, ports: top["ports"] ?? undefined };
    case "BackendPolicy":
    case "RequestPolicy":
    case "GatewayClass":
    case "HTTPRoute":
    case "GRPCRoute":
    case "TLSRoute":
    case "TCPRoute":
      return { ...head, metadata: numbered(head.metadata, raw), ...(spec === undefined ? {} : { spec }) };
    case "Gateway":
      return {
        ...head,
        metadata: numbered(head.metadata, raw),
        spec,
        status: { conditions: items(fields(status)["conditions"]).map(said) },
      };
    case "ConfigMap":
      return { ...head, data: top["data"] ?? undefined };
    case "ServiceEntry":
    case "AuthorizationPolicy":
    case "RequestAuthentication":
    case "PeerAuthentication":
      return { ...head, ...(spec === undefined ? {} : { spec }) };
    default:
      return { ...head, ...(spec === undefined ? {} : { spec }), ...(status === undefined ? {} : { status }) };
  }
}

/** Statuses say which generation they are of. */
const numbered = (metadata: Fields, raw: Raw): Fields => ({ ...metadata, generation: fields(raw.metadata)["generation"] ?? 0 });

const said = ({ type, status }: Fields): Fields => ({ type, status });

function reduceMetadata({ name, namespace, uid, labels, annotations: written, creationTimestamp, ownerReferences }: Fields): Fields {
  return {
    name: shared(name),
    ...(namespace === undefined ? {} : { namespace: shared(namespace) }),
    uid,
    creationTimestamp,
    ...(labels === undefined ? {} : { labels: mapValues(fields(labels), shared) }),
    annotations: Object.fromEntries(
      Object.entries(fields(written)).flatMap(([key, value]) => (READ.has(key) ? [[key, value]] : MARKS.has(key) ? [[key, ""]] : [])),
    ),
    ownerReferences: items(ownerReferences)
      .filter(({ controller }) => controller === true)
      .map(({ kind, name, controller }) => ({ kind: shared(kind), name: shared(name), controller })),
  };
}

function podSpec(spec: Fields): Fields {
  const { nodeName, serviceAccountName, hostNetwork, dnsPolicy, dnsConfig, containers, initContainers } = spec;
  return {
    nodeName: shared(nodeName),
    serviceAccountName: shared(serviceAccountName),
    hostNetwork,
    dnsPolicy,
    dnsConfig: { searches: fields(dnsConfig)["searches"] ?? undefined },
    containers: items(containers).map(reduceContainer),
    initContainers: items(initContainers).map(reduceContainer),
  };
}

function reduceContainer({ ports, livenessProbe, readinessProbe, startupProbe }: Fields): Fields {
  const names = items(ports).map(({ name }) => name);
  const probe = (value: unknown): Fields | undefined => {
    const handlers = (["httpGet", "tcpSocket", "grpc"] as const).flatMap((action) => {
      const { port } = fields(fields(value)[action]);
      // The server accepts a name that no port has; the kubelet's probe then fails without a connection.
      return port === undefined || (typeof port === "string" && !names.includes(port)) ? [] : [[action, { port }]];
    });
    return handlers.length === 0 ? undefined : Object.fromEntries(handlers);
  };
  return {
    ports: items(ports).map(({ name, containerPort, protocol }) => ({ name: shared(name), containerPort, protocol: shared(protocol) })),
    livenessProbe: probe(livenessProbe),
    readinessProbe: probe(readinessProbe),
    startupProbe: probe(startupProbe),
  };
}

/** Where a directory means "runs and is ready", a server means "not yet". Who is being deleted serves nobody new. */
function podStatus({ phase, podIP, podIPs, conditions }: Fields, { deletionTimestamp }: Fields): Fields {
  const written = items(conditions).filter(({ type }) => type !== "Ready");
  const ready = items(conditions).some(({ type, status }) => type === "Ready" && status === "True") && deletionTimestamp === undefined;
  const addresses = items(podIPs).map(({ ip }) => ({ ip }));
  return {
    phase: phase ?? "Pending",
    podIPs: addresses.length > 0 ? addresses : typeof podIP === "string" && podIP !== "" ? [{ ip: podIP }] : [],
    conditions: [...written, { type: "Ready", status: ready ? "True" : "False" }],
  };
}

const fields = (value: unknown): Fields => (typeof value === "object" && value !== null ? (value as Fields) : {});

const items = (value: unknown): readonly Fields[] => (Array.isArray(value) ? value.map(fields) : []);

const mapValues = (from: Fields, map: (value: unknown) => unknown): Fields =>
  Object.fromEntries(Object.entries(from).map(([key, value]) => [key, map(value)]));

/** Names that a hundred thousand pods share are in memory once. Forgotten when full: then they are twice, which costs only memory. */
const SHARED_STRINGS = 50_000;
const pool = new Map<string, string>();

function shared(value: unknown): unknown {
  if (typeof value !== "string") return value ?? undefined;
  const known = pool.get(value);
  if (known !== undefined) return known;
  if (pool.size >= SHARED_STRINGS) pool.clear();
  pool.set(value, value);
  return value;
}
