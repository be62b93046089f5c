// The command line of control, checked before anything is touched.
import { isIP } from "node:net";
import { parseArgs } from "node:util";
import { ports, product } from "#contract/tables.ts";
import { meshError } from "#mesh/error.ts";
import { isLabel, isSubdomain } from "#mesh/identity.ts";

export type Endpoint = { readonly host: string; readonly port: number };

export type ControlOptions = {
  readonly mesh: string;
  readonly state: string;
  readonly tokens: string;
  readonly listen: readonly Endpoint[];
  readonly health: Endpoint;
  readonly trustDomain: string;
  readonly clusterDomain: string;
  readonly rootNamespace: string;
  readonly encryptSameNode: boolean;
};

export const HELP = `usage: node src/control/main.ts --mesh DIR --state DIR --tokens DIR --listen ADDRESS:PORT [--listen …] [options]

Reads the mesh's documents, compiles them, and serves them with certificates to the nodes' daemons.

  --mesh DIR              directory of YAML documents; a change of a file is an update
  --state DIR             root and issuer keys (made when missing), and root-cert.pem for the daemons
  --tokens DIR            one token file per Node document, NODE.token (made when missing)
  --listen ADDRESS:PORT   where daemons connect, for example 192.0.2.1:${ports.control} or [2001:db8::1]:${ports.control}; may be repeated
  --health ADDRESS:PORT   loopback address of /healthz/ready, /metrics, /v1/faults (default 127.0.0.1:${ports.controlHealth})
  --trust-domain NAME     first part of every identity (default cluster.local)
  --cluster-domain NAME   DNS domain of services (default cluster.local)
  --root-namespace NAME   policies here govern the whole mesh (default ${product.controlPlaneNamespace})
  --encrypt-same-node     use TLS tunnels between pods of one node too
  --help                  this text
`;

/** Null when help was asked for; throws E_USAGE naming the wrong option. */
export function parseOptions(args: readonly string[]): ControlOptions | null {
  const values = read(args);
  if (values.help === true) return null;
  const missing = (["mesh", "state", "tokens", "listen"] as const).filter((option) => (values[option] ?? "").length === 0);
  if (missing.length > 0) throw usage(`${missing.map((option) => `--${option}`).join(", ")} ${missing.length > 1 ? "are" : "is"} missing`);
  const { mesh = "", state = "", tokens = "", listen = [] } = values;
  const health = parseEndpoint("--health", values.health ?? `127.0.0.1:${ports.controlHealth}`);
  if (!isLoopback(health.host))
    throw usage(`--health ${values.health} is not a loopback address: metrics and faults are for this host only`);
  return {
    mesh,
    state,
    tokens,
    listen: listen.map((text) => parseEndpoint("--listen", text)),
    health,
    trustDomain: named("--trust-domain", values["trust-domain"] ?? "cluster.local", isSubdomain),
    clusterDomain: named("--cluster-domain", values["cluster-domain"] ?? "cluster.local", isSubdomain),
    rootNamespace: named("--root-namespace", values["root-namespace"] ?? product.controlPlaneNamespace, isLabel),
    encryptSameNode: values["encrypt-same-node"] ?? false,
  };
}

const OPTIONS = {
  mesh: { type: "string" },
  state: { type: "string" },
  tokens: { type: "string" },
  listen: { type: "string", multiple: true },
  health: { type: "string" },
  "trust-domain": { type: "string" },
  "cluster-domain": { type: "string" },
  "root-namespace": { type: "string" },
  "encrypt-same-node": { type: "boolean" },
  help: { type: "boolean" },
} as const;

function read(args: readonly string[]) {
  try {
    return parseArgs({ args: [...args], options: OPTIONS, strict: true, allowPositionals: false }).values;
  } catch (cause) {
    throw usage(cause instanceof Error ? cause.message : String(cause));
  }
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

function named(option: string, value: string, valid: (name: string) => boolean): string {
  if (!valid(value)) throw usage(`${option} ${value} is not a DNS name of lower-case letters, digits and "-"`);
  return value;
}

const usage = (message: string) => meshError("E_USAGE", message);
