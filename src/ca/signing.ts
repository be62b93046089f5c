// Signs leaves with whatever issuer is in force: the part of an authority that does not care where its keys are kept.
import { generateKeyPairSync, type KeyObject, type X509Certificate } from "node:crypto";
import { formatIdentity } from "#mesh/identity.ts";
import type { Authority, IssuedCertificate, IssueRequest } from "./authority.ts";
import { type CertificateRole, type Signer, signCertificate } from "./certificate.ts";
import { lifetimeOf } from "./mint.ts";

export type ServerCertificate = { readonly key: string; readonly chain: string; readonly notAfter: Date };

export type ServingAuthority = Authority & {
  /** A fresh key and certificate for control's own listeners. */
  serverCertificate(hosts: { readonly names: readonly string[]; readonly addresses: readonly string[] }): ServerCertificate;
};

export type Material = {
  readonly issuer: Signer;
  /** PEM: the issuer's certificate and what stands between it and the root. */
  readonly chain: readonly string[];
  /** PEM of every root that peers must trust. */
  readonly roots: string;
  /** When the first of the roots ends. */
  readonly rootEnd: Date;
};

const HOUR = 3_600_000;
export const LEAF_MILLISECONDS = 24 * HOUR;
/** Shorter certificates would end before their renewal at half life had a fair number of attempts. */
const LEAF_LEAST_MILLISECONDS = HOUR / 4;

/** `material` is asked for every signature: it may be replaced meanwhile. */
export function signingAuthority(material: () => Material, now: () => Date): ServingAuthority {
  function leaf(issuer: Signer, role: CertificateRole, publicKey: KeyObject, milliseconds: number): X509Certificate {
    const lifetime = Math.min(Math.max(milliseconds, LEAF_LEAST_MILLISECONDS), LEAF_MILLISECONDS);
    return signCertificate({ role, publicKey, ...lifetimeOf(now(), lifetime, issuer) }, issuer);
  }

  async function issue({ identity, publicKey, seconds }: IssueRequest): Promise<IssuedCertificate> {
    const { issuer, chain } = material();
    const milliseconds = seconds > 0 ? seconds * 1000 : LEAF_MILLISECONDS;
    const certificate = leaf(issuer, { kind: "workload", uri: formatIdentity(identity) }, publicKey, milliseconds);
    return { chain: [certificate.toString(), ...chain], serial: certificate.serialNumber, notAfter: certificate.validToDate };
  }

  function serverCertificate(hosts: { names: readonly string[]; addresses: readonly string[] }): ServerCertificate {
    const { issuer, chain } = material();
    const { privateKey, publicKey } = generateKeyPairSync("ec", { namedCurve: "prime256v1" });
    const certificate = leaf(issuer, { kind: "server", ...hosts }, publicKey, LEAF_MILLISECONDS);
    const key = String(privateKey.export({ type: "pkcs8", format: "pem" }));
    return { key, chain: [certificate.toString(), ...chain].join(""), notAfter: certificate.validToDate };
  }

  return {
    issue,
    serverCertificate,
    roots: () => material().roots,
    expiry: () => {
      const { issuer, rootEnd } = material();
      return { root: rootEnd, issuer: issuer.certificate.validToDate, issuerSince: issuer.certificate.validFromDate };
    },
  };
}
