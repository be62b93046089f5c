// How the mesh leaves a cluster, as manifests: first every daemon takes its pods out, then what is left on the nodes' disks goes.
import { basename, dirname } from "node:path";
import { kubernetes, paths, product } from "#contract/tables.ts";
import type { Manifest } from "./render.ts";

const PLUGIN = paths.cniPlugin;
export const CLEANER = "trackbed-clean";

type Container = { readonly name: string; readonly args?: readonly string[]; readonly volumeMounts?: readonly { readonly name: string }[] };
type Volume = { readonly name: string; readonly configMap?: object; readonly hostPath?: { readonly path: string } };
type PodSpec = {
  readonly containers: readonly Container[];
  readonly initContainers?: readonly Container[];
  readonly volumes: readonly Volume[];
};
type DaemonSet = Manifest & { readonly spec: { readonly template: { readonly spec: PodSpec } } };

const find = (manifests: readonly Manifest[], name: string): DaemonSet => {
  const found = manifests.find(({ kind, metadata }) => kind === "DaemonSet" && metadata.name === name);
  if (found === undefined) throw new Error(`the base has no DaemonSet ${name}`);
  return found as DaemonSet;
};

function hostPath({ spec, metadata }: DaemonSet, volume: string): string {
  const path = spec.template.spec.volumes.find(({ name }) => name === volume)?.hostPath?.path;
  if (path === undefined) throw new Error(`${metadata.name} of the base has no volume ${volume}`);
  return path;
}

const withPods = (set: DaemonSet, change: (spec: PodSpec) => object): Manifest => {
  const { spec } = set;
  return {
    ...set,
    spec: {
      ...spec,
      // nothing of the mesh has to be kept up: all nodes at once
      updateStrategy: { rollingUpdate: { maxUnavailable: "100%" } },
      template: { ...spec.template, spec: { ...spec.template.spec, ...change(spec.template.spec) } },
    },
  };
};

/**
 * What the daemons need to take every pod out of the mesh, also where somebody deleted part of the installation by hand: neither control nor
 * its root certificate. The node's check is left out, because leaving must not wait for a node to be fit.
 */
export function leaving(manifests: readonly Manifest[], drainSeconds: number): Manifest[] {
  const needed = manifests.filter(
    ({ kind, metadata }) => kind === "Namespace" || (metadata.name === kubernetes.daemon && kind !== "DaemonSet"),
  );
  const daemon = withPods(find(manifests, kubernetes.daemon), ({ containers, volumes }) => ({
    initContainers: [],
    containers: containers.map((one) => ({ ...one, args: [...(one.args ?? []), "--leave", `--drain=${drainSeconds}`] })),
    volumes: volumes.map((one) => (one.configMap === undefined ? one : { ...one, configMap: { ...one.configMap, optional: true } })),
  }));
  return [...needed, daemon];
}

/**
 * Removes our directories and the seccomp profiles from every node's disk: what a container mounts it cannot remove, hence their parents,
 * and of the kubelet's directory of profiles too, which is ours to remove where nothing was in it before us.
 * `withPlugin`: the CNI plugin too. Runtimes that keep the chain a pod was made with call it once more at that pod's end, and a plugin that is
 * missing then would leave the pod Terminating for ever.
 */
export function cleaning(manifests: readonly Manifest[], withPlugin: boolean): Manifest[] {
  const namespace = manifests.filter(({ kind }) => kind === "Namespace");
  const seccomp = hostPath(find(manifests, kubernetes.engine), "seccomp");
  const plugins = hostPath(find(manifests, kubernetes.daemon), "cni-bin");
  const [first] = find(manifests, kubernetes.daemon).spec.template.spec.containers;
  const image = (first as { readonly image?: string } | undefined)?.image;
  const labels = { "app.kubernetes.io/name": CLEANER, "app.kubernetes.io/part-of": "trackbed" };
  const parents = { run: "/run", state: "/var/lib", kubelet: dirname(seccomp) };
  const mounts = withPlugin ? { ...parents, plugins } : parents;
  const securityContext = {
    runAsUser: 0,
    allowPrivilegeEscalation: false,
    readOnlyRootFilesystem: true,
    capabilities: { drop: ["ALL"], add: ["DAC_OVERRIDE"] },
    seccompProfile: { type: "RuntimeDefault" },
    seLinuxOptions: { type: "spc_t" },
  };
  const command = (name: string) => ["/usr/local/bin/node", "/app/trackbed.js", "node", name];
  const clean = {
    name: "clean",
    image,
    imagePullPolicy: "IfNotPresent",
    command: command("clean"),
    args: [
      ...["run", "state", `kubelet/${basename(seccomp)}`].map((parent) => `--directory=/host/${parent}/trackbed`),
      ...(withPlugin ? [`--file=/host/plugins/${PLUGIN}`] : []),
    ],
    securityContext,
    volumeMounts: Object.keys(mounts).map((name) => ({ name, mountPath: `/host/${name}` })),
  };
  const wait = {
    name: "wait",
    image,
    imagePullPolicy: "IfNotPresent",
    command: command("wait"),
    securityContext: { ...securityContext, capabilities: { drop: ["ALL"] } },
  };
  const { imagePullSecrets, tolerations, nodeSelector, priorityClassName } = find(manifests, kubernetes.daemon).spec.template
    .spec as unknown as Readonly<Record<string, unknown>>;
  const spec = {
    automountServiceAccountToken: false,
    terminationGracePeriodSeconds: 1,
    imagePullSecrets,
    tolerations,
    nodeSelector,
    priorityClassName,
    hostNetwork: true, // the pod network may be what is broken
    initContainers: [clean],
    containers: [wait],
    volumes: Object.entries(mounts).map(([name, path]) => ({ name, hostPath: { path, type: "DirectoryOrCreate" } })),
  };
  const cleaner = {
    apiVersion: "apps/v1",
    kind: "DaemonSet",
    metadata: { name: CLEANER, namespace: product.controlPlaneNamespace, labels },
    spec: {
      selector: { matchLabels: { "app.kubernetes.io/name": CLEANER } },
      updateStrategy: { rollingUpdate: { maxUnavailable: "100%" } },
      template: { metadata: { labels }, spec },
    },
  };
  return [...namespace, cleaner];
}
