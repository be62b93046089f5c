// The authority's keys on Kubernetes: signed by another CA where one is named, an operator's Secret `cacerts` where there is one, otherwise our own
// Secret, made once whoever comes first.
import { FILES, readBundle, rootOf, writeBundle } from "#ca/bundle.ts";
import type { Signer } from "#ca/certificate.ts";
import { isOld, mintIssuer, mintRoot } from "#ca/mint.ts";
import { beginRotation, type Rotation, resumeRotation } from "#ca/rotation.ts";
import { LEAF_MILLISECONDS, type Material, type ServingAuthority, signingAuthority } from "#ca/signing.ts";
import { kubernetes } from "#contract/tables.ts";
import { meshError } from "#mesh/error.ts";
import type { Api } from "#source/kubernetes/api.ts";
import { type IssuerReference, issuedKeys } from "./issued.ts";
import { readHistory, rootsPlace } from "./roots.ts";
import { openSecrets, type Secrets, type Stored } from "./secret.ts";

export type SecretAuthority = ServingAuthority & {
  /** Name of the Secret in use, for people. */
  readonly secret: string;
  /** Takes up what changed in the Secret and renews our own issuer when its time has come; says what it did, null for nothing. */
  refresh(): Promise<string | null>;
  /** Has to be published with the roots. */
  readonly rotation: Pick<Rotation, "history" | "adopt">;
};

export type SecretAuthorityOptions = {
  readonly api: Api;
  readonly namespace: string;
  /** Who signs our issuer; null = `cacerts`, or we ourselves. */
  readonly issuer?: IssuerReference | null;
  readonly now?: () => Date;
  /** Of this start of this replica, for Events. */
  readonly instance?: string;
};

/** Where issuer and roots come from. `refuses` says why some must not be taken up now. */
export type Keys = {
  readonly secret: string;
  /** What there is, made when there is nothing; throws E_AUTHORITY_PENDING while others have to make it. */
  open(refuses: (next: Material) => string | null): Promise<Stored>;
  /** What takes its place when its time has come; null before. */
  renew(stored: Stored, issuer: Signer, refuses: (next: Material) => string | null): Promise<Stored | null>;
};

export async function openSecretAuthority(options: SecretAuthorityOptions): Promise<SecretAuthority> {
  const { api, namespace, issuer = null, now = () => new Date(), instance = "" } = options;
  const secrets = openSecrets(api, namespace);
  const plugged = await secrets.read(kubernetes.pluggedCaSecret);
  if (plugged !== null && issuer !== null)
    throw meshError("E_AUTHORITY_INVALID", `${secrets.where(kubernetes.pluggedCaSecret)} and --issuer are two authorities: take one away`);
  const keys =
    issuer !== null
      ? issuedKeys({ api, secrets, namespace, reference: issuer, now, instance })
      : plugged === null
        ? ownKeys(secrets, now)
        : pluggedKeys(plugged);
  const { secret: name } = keys;
  const place = secrets.where(name);

  const history = await readHistory(api, namespace);
  const begun = history === null ? null : resumeRotation(history, LEAF_MILLISECONDS);
  let stored = await keys.open((next) => begun?.refuses(next, now()) ?? null);
  let material: Material = readBundle(stored.bundle, place, now());
  const rotation = begun ?? beginRotation(material, now(), LEAF_MILLISECONDS);
  const early = rotation.judge(material, now());
  if (early !== null)
    throw meshError(
      "E_AUTHORITY_INVALID",
      `${place} is not used: ${early}; put back what it held, or delete ${rootsPlace(namespace)} to use it all the same, which cuts off every workload until its certificate is renewed`,
    );

  async function refresh(): Promise<string | null> {
    if (plugged === null && (await secrets.read(kubernetes.pluggedCaSecret)) !== null) {
      const why = `came after control had started; control goes on with ${place}: delete it, or restart every replica, which cuts off every workload until its certificate is renewed`;
      throw meshError("E_AUTHORITY_INVALID", `${secrets.where(kubernetes.pluggedCaSecret)} ${why}`);
    }
    const found = await secrets.read(name);
    if (found === null) throw meshError("E_AUTHORITY_INVALID", `${place} is gone; control goes on with the keys that it had from it`);
    const did = found.version === stored.version ? null : takeUp(found);
    const renewed = await keys.renew(found, material.issuer, (next) => rotation.refuses(next, now()));
    return renewed === null ? did : takeUp(renewed);
  }

  /** An issuer may be replaced under a running mesh, roots step by step: nobody may meet a peer whose root he was never told of. */
  function takeUp(found: Stored): string | null {
    const next = readBundle(found.bundle, place, now());
    const why = rotation.judge(next, now());
    if (why !== null)
      throw meshError("E_AUTHORITY_INVALID", `${place} is not taken up: ${why}; control goes on with the keys and roots that it has`);
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

/** An operator's own are only read. */
const pluggedKeys = (stored: Stored): Keys => ({
  secret: kubernetes.pluggedCaSecret,
  open: async () => stored,
  renew: async () => null,
});

function ownKeys(secrets: Secrets, now: () => Date): Keys {
  const secret = kubernetes.caSecret;
  const place = secrets.where(secret);
  return {
    secret,
    // Two replicas that start at once: one makes it, the other finds it made.
    open: async () => {
      const found = await secrets.read(secret);
      if (found !== null) return found;
      const root = mintRoot(now());
      const made = await secrets.write(secret, writeBundle(root, mintIssuer(root, now())));
      if (made === null) throw meshError("E_AUTHORITY_INVALID", `${place} was deleted while control started`);
      return made;
    },
    renew: async (stored, issuer) => {
      if (!isOld(issuer, now())) return null;
      const root = rootOf(stored.bundle, place);
      if (root === null) throw meshError("E_AUTHORITY_INVALID", `${place} has no root key: its issuer cannot be renewed`);
      // With every root that is trusted: one may be on its way in.
      const bundle = { ...writeBundle(root, mintIssuer(root, now())), [FILES.root]: stored.bundle[FILES.root] ?? "" };
      return secrets.write(secret, bundle, stored.version);
    },
  };
}
