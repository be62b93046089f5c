// A node's disk before its first boot: its own /etc, /opt and /var with the configuration of its programs.
import { copyFileSync, cpSync, existsSync, mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { findBinary } from "#engine/binary.ts";
import { API_IP, CONTROL_PLANE, DNS_IP, type Node, POD_CIDR, SERVICE_CIDR, type Settings } from "../settings.ts";

const CONFIG = join(import.meta.dirname, "../config");
/** Where each file of config/ goes below /etc. */
const CONFIG_FILES = {
  real: ["containerd/config.toml", "kubernetes/kubelet.yaml", "kubernetes/kube-proxy.yaml", "cni/net.d/10-cluster.conflist"],
  churn: ["cni/net.d/10-churn.conflist"],
} as const;
const CNI_PLUGINS = ["bridge", "ptp", "host-local", "static", "loopback", "portmap", "bandwidth", "tuning"];

export const diskOf = (settings: Settings, machine: string): string => join(settings.state, machine);

/** What boot.sh and the scripts it runs know: nothing else of the caller's environment but PATH. */
export function environment(settings: Settings, machine: string, node: Node | undefined): NodeJS.ProcessEnv {
  return {
    PATH: `${settings.bin}:/usr/sbin:/usr/bin:/sbin:/bin`,
    HOME: "/root",
    MACHINE: machine,
    CLUSTER: settings.name,
    DISK: diskOf(settings, machine),
    LOGS: settings.logs,
    KEYS: join(settings.state, "keys"),
    API_IP,
    SERVICE_CIDR,
    NODE_GRACE: settings.nodeGrace,
    KUBELET: settings.kubelet,
    ...(node === undefined ? {} : { NODE_IPS: `${node.ip},${node.ip6}` }),
    ...(settings.kubelet === "real" ? {} : fromSources(settings)),
  };
}

/** Another version's sources have no programs of their own beside them. */
const fromSources = ({ control, daemon }: Settings): NodeJS.ProcessEnv => ({
  CONTROL: control,
  DAEMON: daemon,
  ENGINE: findBinary("trackbed-engine"),
  TRACKBED_NETNS: findBinary("trackbed-netns"),
  TRACKBED_CNI: findBinary("trackbed-cni"),
});

/** Does nothing on a disk that was made before. */
export function prepareDisk(settings: Settings, node: Node): void {
  const disk = diskOf(settings, node.name);
  if (existsSync(join(disk, "made"))) return;
  for (const directory of ["opt/cni/bin", "var/lib", "var/log", "var/tmp", "var/cache"])
    mkdirSync(join(disk, directory), { recursive: true });
  cpSync("/etc", join(disk, "etc"), { recursive: true, verbatimSymlinks: true, preserveTimestamps: true, filter: copyable });
  symlinkSync("/run", join(disk, "var/run"));
  for (const plugin of CNI_PLUGINS) copyFileSync(join("/usr/lib/cni", plugin), join(disk, "opt/cni/bin", plugin));
  mkdirSync(join(disk, "etc/kubernetes"), { recursive: true });
  copyFileSync(join(settings.bin, "cni-trace"), join(disk, "opt/cni/bin/cni-trace"));
  const write = (path: string, text: string): void => {
    mkdirSync(dirname(join(disk, "etc", path)), { recursive: true });
    writeFileSync(join(disk, "etc", path), text);
  };
  write("hostname", `${node.name}\n`);
  write("hosts", `127.0.0.1 localhost\n${node.ip} ${node.name}\n`);
  write("resolv.conf", `nameserver ${API_IP}\n`); // nobody answers there: the cluster has no outside
  for (const path of CONFIG_FILES[settings.kubelet])
    write(path, fill(readFileSync(join(CONFIG, path.slice(path.lastIndexOf("/") + 1)), "utf8"), settings, node));
  for (const file of ["ca.crt", `${node.name}.crt`, `${node.name}.key`, `${node.name}.kubeconfig`, "kube-proxy.kubeconfig"])
    copyFileSync(join(settings.state, "keys", file), join(disk, "etc/kubernetes", file));
  writeFileSync(join(disk, "made"), "");
}

/** Sockets and the like in /etc cannot be copied, and another CNI's or containerd's settings must not be. */
const copyable = (path: string): boolean => !["/etc/cni", "/etc/containerd", "/etc/kubernetes"].includes(path);

function fill(template: string, settings: Settings, node: Node): string {
  const values: Readonly<Record<string, string>> = {
    NODE: node.name,
    NODE_POD_CIDR: node.podCidr,
    NODE_POD_CIDR6: node.podCidr6,
    POD_CIDR,
    DNS_IP,
    PODS_CGROUP: `/${settings.name}/${node.name}/pods`,
    PROXY_MODE: settings.proxyMode,
    CNI: settings.cni,
  };
  return template.replace(/@([A-Z0-9_]+)@/g, (_, key: string) => {
    const value = values[key];
    if (value === undefined) throw new Error(`config template asks for @${key}@, which nobody gives`);
    return value;
  });
}

/** Machines that have a disk, a pid file or a network left, of this or an earlier setting of the number of nodes. */
export function machinesWithTraces(settings: Settings): string[] {
  const entries = existsSync(settings.state) ? readdirSync(settings.state) : [];
  const networks = existsSync("/run/netns") ? readdirSync("/run/netns") : [];
  const named = [
    ...entries.filter((entry) => entry.endsWith(".pid")).map((entry) => entry.slice(0, -".pid".length)),
    ...networks.filter((entry) => entry.startsWith(`${settings.name}-`)).map((entry) => entry.slice(settings.name.length + 1)),
  ];
  // The control plane last: its bridge is what the nodes hang on.
  return [...new Set(named)].sort((a, b) => Number(a === CONTROL_PLANE) - Number(b === CONTROL_PLANE));
}
