// The command line of control, checked before anything is touched.
import { isIP } from "node:net";
import { parseArgs } from "node:util";
import { ports, product } from "#contract/tables.ts";
import { ADOPTIONS, type Adoption } from "#mesh/enrolment.ts";
import { meshError } from "#mesh/error.ts";
import { isLabel, isSubdomain } from "#mesh/identity.ts";

export type Endpoint = { readonly host: string; readonly port: number };

export type DirectoryOptions = { readonly kind: "directory"; readonly mesh: string; readonly state: string; readonly tokens: string };

export type KubernetesOptions = {
  readonly kind: "kubernetes";
  /** Null = the credentials of the pod we run in. */
  readonly kubeconfig: string | null;
  /** Where control's own objects are. */
  readonly namespace: string;
  /** Who signs our issuer, through cert-manager's API; null = a Secret `cacerts`, or we ourselves. */
  readonly issuer: { readonly kind: string; readonly group: string; readonly name: string } | null;
};

export type ControlOptions = {
  readonly platform: DirectoryOptions | KubernetesOptions;
  readonly listen: readonly Endpoint[];
  readonly health: Endpoint;
  readonly trustDomain: string;
  readonly clusterDomain: string;
  readonly rootNamespace: string;
  readonly encryptSameNode: boolean;
  readonly adopt: Adoption;
};

export const HELP = `usage: node src/control/main.ts --mesh DIR --state DIR --tokens DIR --listen ADDRESS:PORT [--listen …] [options]
       node src/control/main.ts --kubernetes --listen ADDRESS:PORT [--listen …] [options]

Reads the mesh's documents, compiles them, and serves them with certificates to the nodes' daemons.

  --mesh DIR              directory of YAML documents; a change of a file is an update
  --state DIR             root and issuer keys (made when missing), and root-cert.pem for the daemons
  --tokens DIR            one token file per Node document, NODE.token (made when missing)
  --kubernetes            documents from the Kubernetes API, keys in a Secret, daemons known by their ServiceAccount
  --kubeconfig FILE       with --kubernetes: credentials of this file instead of those of the pod
  --namespace NAME        with --kubernetes: where control's own objects are (default ${product.controlPlaneNamespace})
  --issuer KIND/NAME      with --kubernetes: this Issuer, ClusterIssuer or KIND.GROUP of cert-manager signs the mesh's issuer (default: none)
  --listen ADDRESS:PORT   where daemons connect, for example 192.0.2.1:${ports.control} or [2001:db8::1]:${ports.control}; may be repeated
  --health ADDRESS:PORT   /healthz/ready, /metrics, and for this host alone /v1/faults, /v1/nodes, /v1/waypoints, /v1/flows (default 127.0.0.1:${ports.controlHealth};
                          another address than loopback only with --kubernetes)
  --trust-domain NAME     first part of every identity (default cluster.local)
  --cluster-domain NAME   DNS domain of services (default cluster.local)
  --root-namespace NAME   policies here govern the whole mesh (default: --namespace)
  --encrypt-same-node     use TLS tunnels between pods of one node too
  --adopt MESH            none (default), or istio: follow its label istio.io/dataplane-mode as ours; the daemons need the same
  --help                  this text
`;

/** Null when help was asked for; throws E_USAGE naming the wrong option. */
export function parseOptions(args: readonly string[]): ControlOptions | null {
  const values = read(args);
  if (values.help === true) return null;
  const platform = values.kubernetes === true ? kubernetesOptions(values) : directoryOptions(values);
  const health = parseEndpoint("--health", values.health ?? `127.0.0.1:${ports.controlHealth}`);
  if (platform.kind === "directory" && !isLoopback(health.host))
    throw usage(`--health ${values.health} is not a loopback address: metrics and faults are for this host only`);
  return {
    platform,
    listen: (values.listen ?? []).map((text) => parseEndpoint("--listen", text)),
    health,
    trustDomain: named("--trust-domain", values["trust-domain"] ?? "cluster.local", isSubdomain),
    clusterDomain: named("--cluster-domain", values["cluster-domain"] ?? "cluster.local", isSubdomain),
    rootNamespace: named("--root-namespace", values["root-namespace"] ?? values.namespace ?? product.controlPlaneNamespace, isLabel),
    encryptSameNode: values["encrypt-same-node"] ?? false,
    adopt: adoption(values.adopt ?? "none"),
  };
}

function directoryOptions(values: Values): DirectoryOptions {
  refuseAll(values, ["kubeconfig", "namespace", "issuer"], "needs --kubernetes");
  requireAll(values, ["mesh", "state", "tokens", "listen"]);
  const { mesh = "", state = "", tokens = "" } = values;
  return { kind: "directory", mesh, state, tokens };
}

function kubernetesOptions(values: Values): KubernetesOptions {
  refuseAll(values, ["mesh", "state", "tokens"], "does not go with --kubernetes");
  requireAll(values, ["listen"]);
  const namespace = named("--namespace", values.namespace ?? product.controlPlaneNamespace, isLabel);
  return { kind: "kubernetes", kubeconfig: values.kubeconfig ?? null, namespace, issuer: issuer(values.issuer ?? "") };
}

/** "ClusterIssuer/mesh", or "AWSPCAIssuer.awspca.cert-manager.io/mesh" of an issuer that is not cert-manager's own; empty: none. */
function issuer(text: string): KubernetesOptions["issuer"] {
  if (text === "") return null;
  const [, kind, group = "cert-manager.io", name = ""] = /^([A-Za-z]+)(?:\.([a-z0-9.-]+))?\/(.+)$/.exec(text) ?? [];
  if (kind === undefined || !isSubdomain(name) || !isSubdomain(group)) throw usage(`--issuer ${text} is not KIND/NAME or KIND.GROUP/NAME`);
  return { kind, group, name };
}

const OPTIONS = {
  mesh: { type: "string" },
  state: { type: "string" },
  tokens: { type: "string" },
  kubernetes: { type: "boolean" },
  kubeconfig: { type: "string" },
  namespace: { type: "string" },
  issuer: { type: "string" },
  listen: { type: "string", multiple: true },
  health: { type: "string" },
  "trust-domain": { type: "string" },
  "cluster-domain": { type: "string" },
  "root-namespace": { type: "string" },
  "encrypt-same-node": { type: "boolean" },
  adopt: { type: "string" },
  help: { type: "boolean" },
} as const;

type Values = ReturnType<typeof read>;

function read(args: readonly string[]) {
  try {
    return parseArgs({ args: [...args], options: OPTIONS, strict: true, allowPositionals: false }).values;
  } catch (cause) {
    throw usage(cause instanceof Error ? cause.message : String(cause));
  }
}

function requireAll(values: Values, options: readonly (keyof Values)[]): void {
  const missing = options.filter((option) => values[option] === undefined || values[option] === "");
  if (missing.length > 0) throw usage(`${missing.map((option) => `--${option}`).join(", ")} ${missing.length > 1 ? "are" : "is"} missing`);
}

function refuseAll(values: Values, options: readonly (keyof Values)[], why: string): void {
  const given = options.find((option) => values[option] !== undefined);
  if (given !== undefined) throw usage(`--${given} ${why}`);
}

/** "192.0.2.1:15012" or "[2001:db8::1]:15012"; port 0 lets the kernel choose. */
function parseEndpoint(option: string, text: string): Endpoint {
  const [, v6, v4, digits] = /^(?:\[([^\]]+)\]|([^:]+)):(\d{1,5})$/.exec(text) ?? [];
  const host = v6 ?? v4 ?? "";
  const port = Number(digits);
  if (isIP(host) !== (v6 === undefined ? 4 : 6) || port > 65_535) throw usage(`${option} ${text} is not ADDRESS:PORT or [ADDRESS]:PORT`);
  return { host, port };
}

const isLoopback = (host: string): boolean => host === "::1" || (isIP(host) === 4 && host.startsWith("127."));

function adoption(text: string): Adoption {
  const found = ADOPTIONS.find((one) => one === text);
  if (found === undefined) throw usage(`--adopt ${text} is not one of ${ADOPTIONS.join(", ")}`);
  return found;
}

function named(option: string, value: string, valid: (name: string) => boolean): string {
  if (!valid(value)) throw usage(`${option} ${value} is not a DNS name of lower-case letters, digits and "-"`);
  return value;
}

const usage = (message: string) => meshError("E_USAGE", message);
