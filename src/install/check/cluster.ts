// What the API server itself and its nodes must be, and network plugins that stand in the way.
import type { V1ConfigMap, V1Namespace, V1Node } from "@kubernetes/client-node";
import { type Adoption, ISTIO_MODE } from "#mesh/enrolment.ts";
import { type Finding, finding } from "../finding.ts";
import { kernelIsOld } from "../node-report.ts";

/** AppArmor fields and ValidatingAdmissionPolicy are there since 1.30. */
const OLDEST_MINOR = 30;
const ARCHITECTURES = ["amd64", "arm64"];

export function versionFindings({
  major = "",
  minor = "",
  gitVersion = "",
}: {
  major?: string;
  minor?: string;
  gitVersion?: string;
}): Finding[] {
  const isOld = Number(major) < 1 || (Number(major) === 1 && Number.parseInt(minor, 10) < OLDEST_MINOR);
  return isOld ? [finding("CLUSTER_VERSION", "API server", `it is ${gitVersion || `${major}.${minor}`}`)] : [];
}

export const isLinux = (node: V1Node): boolean => node.metadata?.labels?.["kubernetes.io/os"] !== "windows";

export const nodeFindings = (nodes: readonly V1Node[]): Finding[] =>
  nodes.filter(isLinux).flatMap(({ metadata, status }) => {
    const subject = `node ${metadata?.name}`;
    const { kernelVersion = "", architecture = "" } = status?.nodeInfo ?? {};
    return [
      ...(kernelVersion !== "" && kernelIsOld(kernelVersion) ? [finding("NODE_KERNEL", subject, `it runs Linux ${kernelVersion}`)] : []),
      ...(architecture !== "" && !ARCHITECTURES.includes(architecture)
        ? [finding("NODE_ARCHITECTURE", subject, `its processor is ${architecture}; there are engines for ${ARCHITECTURES.join(" and ")}`)]
        : []),
    ];
  });

/** Data of kube-system/cilium-config, as Cilium's agents read it. */
export function ciliumFindings(config: V1ConfigMap | null): Finding[] {
  if (config === null) return [];
  const data = config.data ?? {};
  const on = (key: string): boolean => data[key] === "true";
  const subject = "ConfigMap kube-system/cilium-config";
  // kube-proxy-replacement turns socket load balancing on unless it is switched off by itself
  const socketLb =
    on("bpf-lb-sock") ||
    (data["bpf-lb-sock"] === undefined && (on("kube-proxy-replacement") || data["kube-proxy-replacement"] === "strict"));
  return [
    ...(data["cni-exclusive"] !== "false"
      ? [finding("CILIUM_EXCLUSIVE", subject, `cni-exclusive is ${data["cni-exclusive"] ?? "not set, which means true"}`)]
      : []),
    ...(socketLb && !on("bpf-lb-sock-hostns-only")
      ? [finding("CILIUM_SOCKET_LB", subject, "socket load balancing acts inside pods too (bpf-lb-sock-hostns-only is not true)")]
      : []),
    ...(on("enable-bpf-masquerade")
      ? [finding("CILIUM_BPF_MASQUERADE", subject, "enable-bpf-masquerade is true: link-local probe addresses may not reach pods")]
      : []),
  ];
}

type FelixConfiguration = { readonly spec?: { readonly bpfEnabled?: boolean; readonly bpfConnectTimeLoadBalancing?: string } };

export function calicoFindings(felix: FelixConfiguration | null): Finding[] {
  const { bpfEnabled = false, bpfConnectTimeLoadBalancing = "TCP" } = felix?.spec ?? {};
  return bpfEnabled && bpfConnectTimeLoadBalancing !== "Disabled"
    ? [
        finding(
          "CALICO_EBPF",
          "FelixConfiguration default",
          `bpfEnabled is true with connect-time load balancing ${bpfConnectTimeLoadBalancing}`,
        ),
      ]
    : [];
}

/** Labels by which namespaces are in another mesh, and the mesh's name. */
const OTHER_MESHES: readonly { readonly label: string; readonly value: RegExp; readonly mesh: string }[] = [
  { label: "istio-injection", value: /^enabled$/, mesh: "Istio (sidecars)" },
  { label: "istio.io/rev", value: /./, mesh: "Istio (sidecars)" },
  { label: ISTIO_MODE, value: /^ambient$/, mesh: "Istio (ambient)" },
  { label: "kuma.io/sidecar-injection", value: /^(enabled|true)$/, mesh: "Kuma" },
  { label: "linkerd.io/inject", value: /^(enabled|ingress)$/, mesh: "Linkerd" },
];

/** Linkerd asks by annotation. A label that is followed as ours is nobody else's. */
const meshOf = ({ metadata }: V1Namespace, adopt: Adoption): string | undefined =>
  OTHER_MESHES.filter(({ label }) => adopt !== "istio" || label !== ISTIO_MODE).find(({ label, value }) =>
    value.test(metadata?.labels?.[label] ?? metadata?.annotations?.[label] ?? ""),
  )?.mesh;

export const meshFindings = (
  namespaces: readonly V1Namespace[],
  enrolled: (namespace: V1Namespace) => boolean,
  adopt: Adoption = "none",
): Finding[] =>
  namespaces.flatMap((namespace) => {
    const mesh = meshOf(namespace, adopt);
    if (mesh === undefined) return [];
    const subject = `namespace ${namespace.metadata?.name}`;
    return [
      enrolled(namespace)
        ? finding("MESH_BOTH", subject, `it is in ${mesh} and in Trackbed`)
        : finding("MESH_OTHER", subject, `it is in ${mesh}`),
    ];
  });
