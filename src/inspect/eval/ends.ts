// How people name the two ends of a connection: a pod, what made it, an identity or an address; and HOST:PORT.
import { isIP } from "node:net";
import { parsePort } from "#mesh/capture.ts";
import { meshError } from "#mesh/error.ts";
import { isLabel, isSubdomain } from "#mesh/identity.ts";
import type { Known } from "./mesh.ts";

export type SourceName =
  | { readonly kind: "pod" | "workload"; readonly namespace: string | null; readonly name: string }
  | { readonly kind: "identity"; readonly identity: string }
  | { readonly kind: "address"; readonly address: string };

export type DestinationName = { readonly host: string; readonly port: number } | { readonly pod: SourceName; readonly port: number };

const EXPECTED =
  "pod/NAME, pod/NAMESPACE/NAME, deployment/NAME (or another workload's kind), NAMESPACE/SERVICE-ACCOUNT, spiffe://… or an IP address";
/** Controllers whose pods are named by what they made: one word for all, as the mesh knows their names and not their kinds. */
const WORKLOADS: ReadonlySet<string> = new Set(["deployment", "deploy", "statefulset", "sts", "daemonset", "ds", "job", "cronjob"]);
/** Ambiguous names are answered with a few of the candidates. */
const SHOWN = 8;

const usage = (message: string): Error => meshError("E_USAGE", message);

export function parseSource(text: string, namespace: string | undefined, trustDomain: string): SourceName {
  if (isIP(text) !== 0) return { kind: "address", address: text };
  if (text.startsWith("spiffe://")) return { kind: "identity", identity: text };
  const [first = "", second = "", third, ...rest] = text.split("/");
  const named = third === undefined ? { namespace: namespace ?? null, name: second } : { namespace: second, name: third };
  const fits = rest.length === 0 && isSubdomain(named.name) && (named.namespace === null || isLabel(named.namespace));
  if (first === "pod" && fits) return { kind: "pod", ...named };
  if (WORKLOADS.has(first) && fits) return { kind: "workload", ...named };
  if (third === undefined && isLabel(first) && isSubdomain(second))
    return { kind: "identity", identity: `spiffe://${trustDomain}/ns/${first}/sa/${second}` };
  throw usage(`expected ${EXPECTED}, got ${JSON.stringify(text)}`);
}

export function parseDestination(text: string, namespace: string | undefined): DestinationName {
  const at = text.lastIndexOf(":");
  const port = parsePort(text.slice(at + 1));
  const host = text.slice(0, Math.max(at, 0));
  if (at <= 0 || port === null)
    throw usage(`expected HOST:PORT, such as web.shop:80, pod/web:8080 or [fd00::1]:80, got ${JSON.stringify(text)}`);
  if (host.startsWith("pod/")) return { pod: parseSource(host, namespace, ""), port };
  const bare = host.startsWith("[") && host.endsWith("]") ? host.slice(1, -1) : host;
  const fits = bare === host ? isIP(host) === 4 || isSubdomain(host.replace(/\.$/, "").toLowerCase()) : isIP(bare) === 6;
  if (!fits) throw usage(`${JSON.stringify(host)} is neither an address nor a name; an IPv6 address is written in brackets`);
  return { host: bare.toLowerCase(), port };
}

/** The workload that is meant; of several pods of one workload or identity the first by name, for they are treated alike. */
export function pickWorkload(wanted: SourceName, known: readonly Known[]): Known | null {
  switch (wanted.kind) {
    case "address":
      return known.find(({ addresses }) => addresses.includes(wanted.address)) ?? null;
    case "identity":
      return byName(known.filter(({ identity, inMesh }) => inMesh && identity === wanted.identity))[0] ?? null;
    default: {
      const found = known.filter(
        ({ namespace, name, workload }) =>
          (wanted.kind === "pod" ? name : workload) === wanted.name && (wanted.namespace ?? namespace) === namespace,
      );
      const namespaces = [...new Set(found.map(({ namespace }) => namespace))].sort();
      if (namespaces.length > 1) throw usage(`${wanted.name} is in ${namespaces.slice(0, SHOWN).join(", ")}: say which with -n`);
      return byName(found)[0] ?? null;
    }
  }
}

const byName = (known: readonly Known[]): Known[] => [...known].sort((a, b) => (a.uid < b.uid ? -1 : 1));
