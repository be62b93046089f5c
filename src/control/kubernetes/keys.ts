// The authority's keys on Kubernetes: an operator's Secret `cacerts` where there is one, otherwise our own Secret, made once whoever comes first.
import { z } from "zod";
import { type Bundle, FILES, readBundle, rootOf, writeBundle } from "#ca/bundle.ts";
import { isOld, mintIssuer, mintRoot } from "#ca/mint.ts";
import { beginRotation, type Rotation, resumeRotation } from "#ca/rotation.ts";
import { LEAF_MILLISECONDS, type Material, type ServingAuthority, signingAuthority } from "#ca/signing.ts";
import { kubernetes } from "#contract/tables.ts";
import { meshError } from "#mesh/error.ts";
import type { Api } from "#source/kubernetes/api.ts";
import { isStatus } from "#source/kubernetes/failure.ts";
import { objectPath } from "#source/kubernetes/resources.ts";
import { readHistory, rootsPlace } from "./roots.ts";

export type SecretAuthority = ServingAuthority & {
  /** Name of the Secret in use, for people. */
  readonly secret: string;
  /** Takes up what changed in the Secret and renews our own issuer when its time has come; says what it did, null for nothing. */
  refresh(): Promise<string | null>;
  /** Has to be published with the roots. */
  readonly rotation: Pick<Rotation, "history" | "adopt">;
};

export type SecretAuthorityOptions = { readonly api: Api; readonly namespace: string; readonly now?: () => Date };

const SECRETS = { root: "/api/v1", plural: "secrets" };

const secret = z.object({
  metadata: z.object({ resourceVersion: z.string() }),
  data: z.record(z.string(), z.string()).default({}),
});

type Stored = { readonly bundle: Bundle; readonly version: string };

export async function openSecretAuthority({ api, namespace, now = () => new Date() }: SecretAuthorityOptions): Promise<SecretAuthority> {
  const where = (name: string): string => `Secret ${namespace}/${name}`;
  const pathOf = (name: string): string => objectPath(SECRETS, namespace, name);

  async function read(name: string): Promise<Stored | null> {
    try {
      const { metadata, data } = secret.parse(await api.call({ method: "GET", path: pathOf(name) }));
      const decoded = Object.entries(data).map(([file, text]) => [file, Buffer.from(text, "base64").toString("utf8")]);
      return { bundle: Object.fromEntries(decoded) as Bundle, version: metadata.resourceVersion };
    } catch (error) {
      if (isStatus(error, 404)) return null;
      throw error;
    }
  }

  const document = (name: string, bundle: Bundle, version?: string): object => ({
    apiVersion: "v1",
    kind: "Secret",
    type: "Opaque",
    metadata: {
      name,
      namespace,
      labels: { "app.kubernetes.io/part-of": "trackbed" },
      ...(version === undefined ? {} : { resourceVersion: version }),
    },
    data: Object.fromEntries(Object.entries(bundle).map(([file, text]) => [file, Buffer.from(text).toString("base64")])),
  });

  /** Two replicas that start at once: one makes it, the other finds it made. */
  async function readOrMake(): Promise<Stored> {
    const found = await read(kubernetes.caSecret);
    if (found !== null) return found;
    const root = mintRoot(now());
    const bundle = writeBundle(root, mintIssuer(root, now()));
    try {
      await api.call({ method: "POST", path: pathOf("").slice(0, -1), body: document(kubernetes.caSecret, bundle) });
    } catch (error) {
      if (!isStatus(error, 409)) throw error;
    }
    const made = await read(kubernetes.caSecret);
    if (made === null) throw meshError("E_AUTHORITY_INVALID", `${where(kubernetes.caSecret)} was deleted while control started`);
    return made;
  }

  const plugged = await read(kubernetes.pluggedCaSecret);
  const name = plugged === null ? kubernetes.caSecret : kubernetes.pluggedCaSecret;
  let stored = plugged ?? (await readOrMake());
  let material: Material = readBundle(stored.bundle, where(name), now());
  const history = await readHistory(api, namespace);
  const rotation = history === null ? beginRotation(material, now(), LEAF_MILLISECONDS) : resumeRotation(history, LEAF_MILLISECONDS);
  const early = rotation.judge(material, now());
  if (early !== null)
    throw meshError(
      "E_AUTHORITY_INVALID",
      `${where(name)} is not used: ${early}; put back what it held, or delete ${rootsPlace(namespace)} to use it all the same, which cuts off every workload until its certificate is renewed`,
    );

  async function refresh(): Promise<string | null> {
    if (plugged === null && (await read(kubernetes.pluggedCaSecret)) !== null) {
      const why = `came after control had started; control goes on with ${where(name)}: delete it, or restart every replica, which cuts off every workload until its certificate is renewed`;
      throw meshError("E_AUTHORITY_INVALID", `${where(kubernetes.pluggedCaSecret)} ${why}`);
    }
    const found = await read(name);
    if (found === null) throw meshError("E_AUTHORITY_INVALID", `${where(name)} is gone; control goes on with the keys that it had from it`);
    if (found.version !== stored.version) return takeUp(found);
    if (plugged !== null || !isOld(material.issuer, now())) return null;
    const root = rootOf(stored.bundle, where(name));
    if (root === null) throw meshError("E_AUTHORITY_INVALID", `${where(name)} has no root key: its issuer cannot be renewed`);
    try {
      // With every root that is trusted: one may be on its way in.
      const bundle = { ...writeBundle(root, mintIssuer(root, now())), [FILES.root]: stored.bundle[FILES.root] ?? "" };
      await api.call({ method: "PUT", path: pathOf(name), body: document(name, bundle, stored.version) });
    } catch (error) {
      if (!isStatus(error, 409)) throw error; // the other replica was faster
    }
    const renewed = await read(name);
    return renewed === null ? null : takeUp(renewed);
  }

  /** An issuer may be replaced under a running mesh, roots step by step: nobody may meet a peer whose root he was never told of. */
  function takeUp(found: Stored): string | null {
    const next = readBundle(found.bundle, where(name), now());
    const why = rotation.judge(next, now());
    if (why !== null)
      throw meshError("E_AUTHORITY_INVALID", `${where(name)} is not taken up: ${why}; control goes on with the keys and roots that it has`);
    const sameIssuer = next.issuer.certificate.raw.equals(material.issuer.certificate.raw);
    const sameRoots = next.roots === material.roots;
    stored = found;
    material = next;
    const did = [
      ...(sameIssuer ? [] : [`issuer replaced, the new one ends ${next.issuer.certificate.validToDate.toISOString()}`]),
      ...(sameRoots ? [] : ["roots replaced, workloads learn of them with their next certificates"]),
    ];
    return did.length === 0 ? null : did.join("; ");
  }

  return { ...signingAuthority(() => material, now), secret: name, refresh, rotation };
}
