// What a test cluster is called, where it keeps its things and how its machines are addressed. Every setting is an environment variable.
import { createHash } from "node:crypto";
import { homedir } from "node:os";
import { join, resolve } from "node:path";

export const ROOT = resolve(import.meta.dirname, "../..");
/** Addresses of the cluster's own inner network: two clusters never meet, so they may have the same. */
export const API_IP = "10.90.0.1";
export const API_IP6 = "fd00:90::1";
export const API_SERVER = `https://${API_IP}:6443`;
export const POD_CIDR = "10.244.0.0/16,fd00:244::/48";
export const SERVICE_CIDR = "10.96.0.0/16,fd00:96::/112";
export const SERVICE_API_IP = "10.96.0.1";
export const DNS_IP = "10.96.0.10";
/** Every node is a machine of ~250 MB and three programs: more than this is not for this kind of test. */
const MOST_NODES = 9;

export type Kubelet = "real" | "churn";

export type Settings = {
  /** Prefix of network namespaces and cgroups: differs for each checkout and each cluster of it. */
  readonly name: string;
  /** Disks, keys, logs, links to the programs. */
  readonly state: string;
  /** Programs and images that build.ts makes, shared by all clusters of this user. */
  readonly cache: string;
  readonly kubeconfig: string;
  readonly bin: string;
  readonly logs: string;
  readonly nodes: readonly Node[];
  readonly proxyMode: string;
  readonly cni: string;
  /** How long a silent node stays Ready. */
  readonly nodeGrace: string;
  /** What nodes run: containerd and the kubelet, or churn/kubelet.ts with daemon and engine beside it. */
  readonly kubelet: Kubelet;
  /** Checkouts whose control and daemon run, where these run from sources (`churn`): another version beside this one. */
  readonly control: string;
  readonly daemon: string;
};

export type Node = {
  readonly name: string;
  /** Of its one interface, the same after a power cut: with a new one its neighbours would send to the old one for seconds. */
  readonly mac: string;
  readonly ip: string;
  readonly ip6: string;
  readonly podCidr: string;
  readonly podCidr6: string;
};

/** The machine of etcd and the control plane; its network is where tests and kubectl run. */
export const CONTROL_PLANE = "cp";

export function readSettings(env: NodeJS.ProcessEnv = process.env): Settings {
  const given = (name: string, otherwise: string): string => env[`TRACKBED_CLUSTER${name}`] || otherwise;
  const cluster = given("", "cluster");
  if (!/^[a-z][a-z0-9-]{0,30}$/.test(cluster)) throw new Error(`TRACKBED_CLUSTER=${cluster}: expected lower-case letters, digits and "-"`);
  const state = join(ROOT, ".cache", cluster);
  return {
    name: `tb${createHash("sha256").update(state).digest("hex").slice(0, 6)}`,
    state,
    cache: given("_CACHE", join(env["XDG_CACHE_HOME"] || join(homedir(), ".cache"), "trackbed-cluster")),
    kubeconfig: join(state, "kubeconfig"),
    bin: join(state, "bin"),
    logs: join(state, "log"),
    nodes: numbered(given("_NODES", "2")),
    proxyMode: oneOf("_PROXY_MODE", given("_PROXY_MODE", "nftables"), ["nftables", "iptables"]),
    cni: oneOf("_CNI", given("_CNI", "bridge"), ["bridge", "ptp"]),
    nodeGrace: given("_NODE_GRACE", "50s"),
    control: resolve(given("_CONTROL", ROOT)),
    daemon: resolve(given("_DAEMON", ROOT)),
    kubelet: oneOf("_KUBELET", given("_KUBELET", "real"), ["real", "churn"]),
  };
}

function oneOf<T extends string>(name: string, value: string, allowed: readonly T[]): T {
  const found = allowed.find((one) => one === value);
  if (found === undefined) throw new Error(`TRACKBED_CLUSTER${name}=${value}: expected ${allowed.join(" or ")}`);
  return found;
}

function numbered(text: string): Node[] {
  const count = Number(text);
  if (!Number.isInteger(count) || count < 1 || count > MOST_NODES)
    throw new Error(`TRACKBED_CLUSTER_NODES=${text}: expected 1 to ${MOST_NODES}`);
  return Array.from({ length: count }, (_, index) => {
    const number = index + 1;
    return {
      name: `node${number}`,
      mac: `02:00:0a:5a:00:${(10 + number).toString(16).padStart(2, "0")}`,
      ip: `10.90.0.${10 + number}`,
      ip6: `fd00:90::${10 + number}`,
      podCidr: `10.244.${number}.0/24`,
      podCidr6: `fd00:244:0:${number}::/64`,
    };
  });
}
