// Objects and a compiler for tests: each object valid as it is, and what a node holds that applied every delta.
import assert from "node:assert/strict";
import { fromBinary } from "@bufbuild/protobuf";
import { type Compiler, type CompilerSettings, createCompiler } from "#compile/compiler.ts";
import { ADDRESS_TYPE, AUTHORIZATION_TYPE } from "#compile/resource.ts";
import { type Authorization, AuthorizationSchema } from "#contract/gen/istio/security_pb.ts";
import { AddressSchema, type Service as WireService, type Workload } from "#contract/gen/istio/workload_pb.ts";
import type { AuthorizationPolicy } from "#mesh/authorization.ts";
import type {
  EndpointSlice,
  Labels,
  MeshObject,
  ObjectKey,
  ObjectMeta,
  PeerAuthentication,
  Pod,
  Service,
  ServiceEntry,
} from "#mesh/objects.ts";
import { keyOf } from "#mesh/objects.ts";
import { meta as metaOf, podOf } from "#mesh/specimen.ts";

export const settings: CompilerSettings = {
  trustDomain: "cluster.local",
  clusterDomain: "cluster.local",
  rootNamespace: "root",
  network: "",
  clusterId: "Kubernetes",
  adopt: "none",
};
export const ENABLED = { "trackbed.dev/mesh": "enabled" };

export const meta = (namespace: string, name: string, labels: Labels = {}, creationTimestamp = ""): ObjectMeta =>
  metaOf(namespace, name, { uid: `${namespace}-${name}`, labels, creationTimestamp });
/** Every object has an address of its own, the same whenever it is written. */
const numbers = new Map<string, number>();
const numberOf = (key: string): number => numbers.get(key) ?? numbers.set(key, numbers.size + 1).size;
const v4 = (block: string, key: string): string => `${block}.${numberOf(key) >> 8}.${numberOf(key) & 255}`;
export const pod = (namespace: string, name: string, labels: Labels = {}, more: Partial<Pod> = {}): Pod =>
  podOf(meta(namespace, name, labels), {
    podIPs: [v4("10.0", `${namespace}/${name}`), `fd00::${numberOf(`${namespace}/${name}`).toString(16)}`],
    ports: [{ name: "http", port: 8080 }],
    ...more,
  });
export const service = (namespace: string, name: string, selector: Labels, more: Partial<Service> = {}): Service => ({
  kind: "Service",
  metadata: meta(namespace, name),
  type: "ClusterIP",
  clusterIPs: [v4("10.96", `Service ${namespace}/${name}`)],
  selector,
  ports: [{ name: "http", port: 80, targetPort: "http", protocol: "TCP", appProtocol: "" }],
  trafficDistribution: "",
  publishNotReadyAddresses: false,
  ...more,
});
export const slice = (namespace: string, name: string, service: string, addresses: readonly string[], ready = true): EndpointSlice => ({
  kind: "EndpointSlice",
  metadata: meta(namespace, name),
  service,
  endpoints: addresses.map((address) => ({ addresses: [address], ready, nodeName: "" })),
  ports: [{ name: "http", port: 6443 }],
});
export const policy = (namespace: string, name: string, more: Partial<AuthorizationPolicy> = {}): AuthorizationPolicy => ({
  kind: "AuthorizationPolicy",
  metadata: meta(namespace, name),
  action: "ALLOW",
  provider: "",
  targets: [],
  selector: {},
  rules: [],
  unenforceable: [],
  dryRun: false,
  ...more,
});
/** A source that says nothing. */
export const ANYBODY: AuthorizationPolicy["rules"][number]["from"][number] = {
  principals: [],
  notPrincipals: [],
  namespaces: [],
  notNamespaces: [],
  serviceAccounts: [],
  notServiceAccounts: [],
  ipBlocks: [],
  notIpBlocks: [],
  requestPrincipals: [],
  notRequestPrincipals: [],
  remoteIpBlocks: [],
  notRemoteIpBlocks: [],
};
/** An operation that says nothing. */
export const ANYTHING: AuthorizationPolicy["rules"][number]["to"][number] = {
  ports: [],
  notPorts: [],
  hosts: [],
  notHosts: [],
  methods: [],
  notMethods: [],
  paths: [],
  notPaths: [],
};
export const peer = (
  namespace: string,
  name: string,
  mode: PeerAuthentication["mode"],
  more: Partial<PeerAuthentication> = {},
): PeerAuthentication => ({
  kind: "PeerAuthentication",
  metadata: meta(namespace, name),
  selector: {},
  mode,
  portModes: {},
  dryRun: false,
  ...more,
});
export const entry = (namespace: string, name: string, more: Partial<ServiceEntry> = {}): ServiceEntry => ({
  kind: "ServiceEntry",
  metadata: meta(namespace, name),
  hosts: [`${name}.example.com`],
  addresses: [],
  ports: [{ name: "tcp", port: 5432, targetPort: 5432, protocol: "TCP" }],
  resolution: "STATIC",
  endpoints: [{ address: "192.0.2.1", ports: {}, locality: "", weight: 1 }],
  selector: {},
  subjectAltNames: [],
  exportTo: [],
  resolved: {},
  ...more,
});
export const namespace = (name: string, labels: Labels = {}): MeshObject => ({ kind: "Namespace", metadata: meta("", name, labels) });

export const put = (...objects: MeshObject[]) => ({ reset: false, put: objects, remove: [] as ObjectKey[] });
export const remove = (...objects: MeshObject[]) => ({ reset: false, put: [] as MeshObject[], remove: objects.map(keyOf) });

/** A compiler and what a node that applied its deltas in order would hold. */
export function held(compiler: Compiler = createCompiler(settings)) {
  const resources = new Map<string, Uint8Array>();
  const apply = (...given: Parameters<Compiler["apply"]>): number => {
    const { deltas, recompiled } = compiler.apply(...given);
    for (const { typeUrl, upsert, remove } of deltas) {
      for (const { name, body } of upsert) resources.set(`${typeUrl} ${name}`, body);
      for (const name of remove) assert.ok(resources.delete(`${typeUrl} ${name}`), `${name} is removed but was never sent`);
    }
    return recompiled;
  };
  const address = (name: string) => {
    const body = resources.get(`${ADDRESS_TYPE} ${name}`);
    return body === undefined ? undefined : fromBinary(AddressSchema, body).type;
  };
  return {
    compiler,
    resources,
    apply,
    workload: (namespace: string, name: string): Workload | undefined => {
      const found = address(`Kubernetes//Pod/${namespace}/${name}`);
      return found?.case === "workload" ? found.value : undefined;
    },
    endpoint: (slice: string, ip: string): Workload | undefined => {
      const found = address(`Kubernetes/discovery.k8s.io/EndpointSlice/${slice}/${ip}`);
      return found?.case === "workload" ? found.value : undefined;
    },
    entryEndpoint: (entry: string, host: string, ip: string): Workload | undefined => {
      const found = address(`Kubernetes/networking.istio.io/ServiceEntry/${entry}/${host}/${ip}`);
      return found?.case === "workload" ? found.value : undefined;
    },
    service: (name: string): WireService | undefined => {
      const found = address(name);
      return found?.case === "service" ? found.value : undefined;
    },
    policy: (name: string): Authorization | undefined => {
      const body = resources.get(`${AUTHORIZATION_TYPE} ${name}`);
      return body === undefined ? undefined : fromBinary(AuthorizationSchema, body);
    },
  };
}
