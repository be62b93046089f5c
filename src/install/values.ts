// What an operator may choose of an installation. Everything else is the same in every cluster.
import { isSubdomain } from "#mesh/identity.ts";

export type Values = {
  /** Where the image is pulled from; the image is REGISTRY/trackbed:TAG. */
  readonly registry: string;
  readonly tag: string;
  /** Names of Secrets in our namespace. */
  readonly imagePullSecrets: readonly string[];
  /** First part of every identity. */
  readonly trustDomain: string;
  /** DNS domain of services. */
  readonly clusterDomain: string;
  /** Whose labels count beside ours: none or istio. */
  readonly adopt: string;
  /** KIND/NAME of what signs the mesh's issuer, by cert-manager's API; empty: a Secret `cacerts`, or control itself. */
  readonly issuer: string;
  /** Base address of the OTLP collector that takes flow records as logs; empty: what the Secret trackbed-otlp says, or none. */
  readonly otlpEndpoint: string;
  /** File on the nodes below /var/lib/trackbed, or - for the daemon's standard output, that flow records go to; empty: none. */
  readonly exportFile: string;
  /** Where the container runtime of the nodes looks for CNI plugins and their configuration. */
  readonly cniBin: string;
  readonly cniConf: string;
  /** The kubelet's own directory: seccomp profiles are below it. */
  readonly kubelet: string;
};

export const defaults = (version: string): Values => ({
  registry: "docker.io/trackbed",
  tag: version,
  imagePullSecrets: [],
  trustDomain: "cluster.local",
  clusterDomain: "cluster.local",
  adopt: "none",
  issuer: "",
  otlpEndpoint: "",
  exportFile: "",
  cniBin: "/opt/cni/bin",
  cniConf: "/etc/cni/net.d",
  kubelet: "/var/lib/kubelet",
});

/** As regular expressions, because the Helm chart's schema holds the same. */
export const patterns = {
  registry: "^[a-z0-9][a-z0-9._:/-]*[a-z0-9]$",
  tag: "^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$",
  imagePullSecrets: "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$",
  trustDomain: "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$",
  clusterDomain: "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$",
  adopt: "^(none|istio)$",
  issuer: "^$|^[A-Za-z]+([.][a-z0-9.-]+)?/[a-z0-9]([-a-z0-9.]*[a-z0-9])?$",
  otlpEndpoint: "^$|^https?://[A-Za-z0-9._:/\\[\\]-]+$",
  exportFile: "^$|^-$|^/var/lib/trackbed(/[A-Za-z0-9_-][A-Za-z0-9._-]*)+$",
  cniBin: "^(/[A-Za-z0-9._-]+)+$",
  cniConf: "^(/[A-Za-z0-9._-]+)+$",
  kubelet: "^(/[A-Za-z0-9._-]+)+$",
} as const satisfies Record<keyof Values, string>;

/** What is wrong with them, one sentence each; empty when they can be rendered. */
export function faultsOf(values: Values): string[] {
  const faults: string[] = [];
  for (const [name, pattern] of Object.entries(patterns) as [keyof Values, string][])
    for (const value of [values[name]].flat())
      if (!new RegExp(pattern).test(value)) faults.push(`${name} ${JSON.stringify(value)} does not match ${pattern}`);
  for (const name of ["trustDomain", "clusterDomain"] as const)
    if (!isSubdomain(values[name]))
      faults.push(`${name} ${JSON.stringify(values[name])} is not a DNS name of lower-case letters, digits and "-"`);
  return [...new Set(faults)];
}
