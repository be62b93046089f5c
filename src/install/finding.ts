// What a check found: a stable code, which object it is about, what is wrong there and what to do. Codes are API: scripts match on them.

export type Level = "error" | "warning" | "note";

type Check = {
  /** error: Trackbed does not work, or traffic would break. warning: works, with a limit to know. note: nothing to do. */
  readonly level: Level;
  /** What to do about it. */
  readonly next: string;
};

export const checks = {
  CLUSTER_VERSION: { level: "error", next: "upgrade the cluster to Kubernetes 1.30 or newer" },
  CLUSTER_FORBIDDEN: { level: "warning", next: "run the check with an account that may read these objects" },
  NODE_ARCHITECTURE: { level: "error", next: "keep enrolled pods off this node: there is no engine for its processor" },
  NODE_KERNEL: { level: "error", next: "use a node image with Linux 5.14 or newer" },
  NODE_RULES: { level: "error", next: "use a kernel with nf_tables, nft_redir, nft_tproxy and nft_socket; the message is nft's own" },
  NODE_NETNS: {
    level: "error",
    next: "let our pods make and enter network namespaces (SELinux, AppArmor or seccomp of the runtime refuses it)",
  },
  NODE_CNI_BIN: {
    level: "error",
    next: "install with --cni-bin and the directory where this node's runtime looks for plugins, on a writable file system",
  },
  NODE_CNI_CONF: {
    level: "error",
    next: "install with --cni-conf and the directory that this node's runtime reads, on a writable file system",
  },
  NODE_CNI_NONE: {
    level: "warning",
    next: "nothing if the network plugin is still being installed; otherwise compare --cni-conf with the runtime's setting",
  },
  NODE_SELINUX: { level: "note", next: "our pods run as spc_t; if the policy of the nodes refuses that, allow it for trackbed-system" },
  NODE_CGROUP: {
    level: "warning",
    next: "use cgroup v2 where you can: without it any root process of the node passes on declared probe ports, not only the kubelet",
  },
  NODE_UNCHECKED: {
    level: "warning",
    next: "see why the pod of trackbed-daemon on this node has not run its check: kubectl -n trackbed-system describe pod",
  },
  CILIUM_EXCLUSIVE: {
    level: "error",
    next: "set Helm value cni.exclusive=false of Cilium: it renames every CNI configuration but its own",
  },
  CILIUM_SOCKET_LB: {
    level: "error",
    next: "set Helm value socketLB.hostNamespaceOnly=true of Cilium: otherwise pods' connections have lost the service before we see them",
  },
  CILIUM_BPF_MASQUERADE: {
    level: "warning",
    next: "set Helm value bpf.masquerade=false of Cilium if kubelet probes of enrolled pods fail",
  },
  CALICO_EBPF: {
    level: "error",
    next: "set bpfConnectTimeLoadBalancing: Disabled in the default FelixConfiguration: otherwise connections have lost the service before we see them",
  },
  NETWORK_POLICY_HBONE: { level: "error", next: "admit TCP port 15008 wherever the policy admits ports of enrolled pods" },
  MESH_BOTH: { level: "error", next: "take the namespace out of one of the two: pods of another mesh are left alone by ours" },
  MESH_OTHER: { level: "note", next: "nothing: its namespaces and pods are left alone" },
  POLICY_INVALID: { level: "error", next: "correct the field: until then the policy denies what it selects, or is not in force" },
  POLICY_STRICTER: { level: "warning", next: "remove what only HTTP knows, or expect that the policy denies everything it selects" },
  POLICY_STRICT: { level: "warning", next: "enrol every client first: clients outside the mesh are refused" },
  CRD_FOREIGN: { level: "note", next: "nothing: it is used as it is, and stays when Trackbed goes" },
  GATEWAY_API_ABSENT: {
    level: "note",
    next: "nothing without waypoints; for them install the standard channel of the Gateway API, and control makes its class within half a minute",
  },
  WAYPOINT_NOT_READY: { level: "warning", next: "trackbed waypoint status NAME -n NAMESPACE; correct what the condition names" },
  INSTALL_ABSENT: { level: "note", next: "trackbed install" },
  CONTROL_NOT_READY: {
    level: "error",
    next: "kubectl -n trackbed-system logs deployment/trackbed-control; nodes go on with what they have",
  },
  DAEMON_NOT_READY: {
    level: "error",
    next: "kubectl -n trackbed-system describe pod -l app.kubernetes.io/name=trackbed-daemon; connections go on, new pods of the node wait",
  },
  ENGINE_NOT_READY: {
    level: "error",
    next: "kubectl -n trackbed-system describe pod -l app.kubernetes.io/name=trackbed-engine; enrolled pods of the node refuse traffic until it is back",
  },
  ENGINE_OLDER: { level: "warning", next: "when the node's connections may be cut: kubectl -n trackbed-system delete pod NAME" },
  POD_NOT_CAPTURED: { level: "error", next: "kubectl describe pod shows the reason and what to do" },
  DOCUMENT_FAULT: { level: "error", next: "correct the object and field that control names" },
  BYPASS_ACTIVE: { level: "warning", next: "nothing if it is meant: it ends by itself; to end it now: trackbed bypass NAMESPACE --end" },
  UNINSTALL_LEFT: { level: "error", next: "trackbed uninstall; on a node without API server: /opt/cni/bin/trackbed-cni rescue" },
  ENROL_HOST_NETWORK: { level: "note", next: "nothing: it stays outside the mesh, and is a plaintext client to it" },
  ENROL_FOREIGN_MESH: { level: "warning", next: "take the pod out of the other mesh and start it anew; until then it stays outside ours" },
  ENROL_NET_ADMIN: {
    level: "warning",
    next: "know that this pod can undo its own capture; what it does to the rules is seen and put back",
  },
  ENROL_OWN_PORT: { level: "error", next: "move the application to another port, or label the pod trackbed.dev/mesh=disabled" },
  ENROL_UDP: { level: "note", next: "nothing: UDP other than DNS passes as before, outside the mesh" },
  ENROL_OUTBOUND: {
    level: "note",
    next: "nothing for a pod that takes traffic from outside, such as an ingress controller; otherwise remove the annotation trackbed.dev/capture",
  },
  ENROL_ANNOTATION: { level: "warning", next: "correct the annotation: until then the pod is captured as if it were absent" },
  ENROL_REOPEN: {
    level: "note",
    next: "nothing: connections that are open now go on as they are and are meshed when they are opened anew",
  },
  ENROL_LABEL: { level: "warning", next: "correct the label: it must be enabled or disabled" },
} as const satisfies Record<string, Check>;

export type CheckCode = keyof typeof checks;

export type Finding = {
  readonly code: CheckCode;
  readonly level: Level;
  /** "node worker-1", "pod shop/web", "NetworkPolicy shop/deny": as kubectl would name it. */
  readonly subject: string;
  readonly message: string;
  readonly next: string;
  /** Page in the documentation. */
  readonly page: string;
};

export const pageOf = (code: CheckCode): string => `docs/checks.md#${code.toLowerCase()}`;

export const finding = (code: CheckCode, subject: string, message: string): Finding => ({
  code,
  level: checks[code].level,
  subject,
  message,
  next: checks[code].next,
  page: pageOf(code),
});

const ORDER: Readonly<Record<Level, number>> = { error: 0, warning: 1, note: 2 };

/** The worst first; within a level by code and subject. */
export const sorted = (findings: readonly Finding[]): Finding[] =>
  [...findings].sort((a, b) => ORDER[a.level] - ORDER[b.level] || a.code.localeCompare(b.code) || a.subject.localeCompare(b.subject));

export const hasErrors = (findings: readonly Finding[]): boolean => findings.some(({ level }) => level === "error");
