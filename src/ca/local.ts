// Our own authority: a root and an issuer in a state directory. The root signs issuers only; the issuer is replaced long before its end.
import { generateKeyPairSync, type KeyObject, randomBytes, type X509Certificate } from "node:crypto";
import { join } from "node:path";
import { makeDirectory } from "#mesh/directory.ts";
import { meshError } from "#mesh/error.ts";
import { formatIdentity } from "#mesh/identity.ts";
import type { Authority, IssuedCertificate, IssueRequest } from "./authority.ts";
import { BACKDATE_MILLISECONDS, type CertificateRole, type Signer, signCertificate } from "./certificate.ts";
import { readSigner, writeFile, writeSigner } from "./keyfile.ts";

export type ServerCertificate = { readonly key: string; readonly chain: string; readonly notAfter: Date };

export type LocalAuthority = Authority & {
  /** A fresh key and certificate for control's own listeners. */
  serverCertificate(hosts: { readonly names: readonly string[]; readonly addresses: readonly string[] }): ServerCertificate;
  /** Replaces the issuer when its time has come; true when it did. Call it from time to time; issuing calls it too. */
  renew(): boolean;
};

export type LocalAuthorityOptions = { readonly now?: () => Date };

const HOUR = 3_600_000;
const YEAR = 365 * 24 * HOUR;
const ROOT_MILLISECONDS = 10 * YEAR;
const ISSUER_MILLISECONDS = YEAR;
/** A third of the issuer's life is left for whoever must notice that renewal does not work. */
const ISSUER_RENEW_MILLISECONDS = YEAR / 3;
const LEAF_MILLISECONDS = 24 * HOUR;
/** Shorter certificates would end before their renewal at half life had a fair number of attempts. */
const LEAF_LEAST_MILLISECONDS = HOUR / 4;

/** Makes the authority when the directory has none, loads it otherwise; never replaces one that it cannot use. */
export function openAuthority(directory: string, options: LocalAuthorityOptions = {}): LocalAuthority {
  const now = options.now ?? (() => new Date());
  makeDirectory("--state", directory);
  const rootFile = join(directory, "root.pem");
  const issuerFile = join(directory, "issuer.pem");
  const stored = { root: readSigner(rootFile), issuer: readSigner(issuerFile) };
  if (stored.root === null && stored.issuer !== null) {
    throw meshError("E_AUTHORITY_INVALID", `${issuerFile} is there but the root that signed it, ${rootFile}, is not`);
  }
  const root = stored.root ?? makeRoot(rootFile, now());
  if (root.certificate.validToDate <= now()) {
    throw meshError("E_AUTHORITY_INVALID", `the root in ${rootFile} ended on ${root.certificate.validToDate.toISOString()}`);
  }
  if (stored.issuer !== null && !isSignedBy(stored.issuer, root)) {
    throw meshError("E_AUTHORITY_INVALID", `the issuer in ${issuerFile} was not signed by the root in ${rootFile}`);
  }
  let issuer = stored.issuer ?? makeIssuer(issuerFile, root, now(), "create");
  writeFile(join(directory, "root-cert.pem"), root.certificate.toString(), 0o644, "replace");

  function renew(): boolean {
    if (issuer.certificate.validToDate.getTime() - now().getTime() > ISSUER_RENEW_MILLISECONDS) return false;
    issuer = makeIssuer(issuerFile, root, now(), "replace");
    return true;
  }

  function leaf(role: CertificateRole, publicKey: KeyObject, milliseconds: number): X509Certificate {
    renew();
    const lifetime = Math.min(Math.max(milliseconds, LEAF_LEAST_MILLISECONDS), LEAF_MILLISECONDS);
    return signCertificate({ role, publicKey, ...lifetimeOf(now(), lifetime, issuer) }, issuer);
  }

  async function issue({ identity, publicKey, seconds }: IssueRequest): Promise<IssuedCertificate> {
    const milliseconds = seconds > 0 ? seconds * 1000 : LEAF_MILLISECONDS;
    const certificate = leaf({ kind: "workload", uri: formatIdentity(identity) }, publicKey, milliseconds);
    const chain = [certificate.toString(), issuer.certificate.toString()];
    return { chain, serial: certificate.serialNumber, notAfter: certificate.validToDate };
  }

  function serverCertificate(hosts: { names: readonly string[]; addresses: readonly string[] }): ServerCertificate {
    const { privateKey, publicKey } = generateKeyPairSync("ec", { namedCurve: "prime256v1" });
    const certificate = leaf({ kind: "server", ...hosts }, publicKey, LEAF_MILLISECONDS);
    const key = String(privateKey.export({ type: "pkcs8", format: "pem" }));
    return { key, chain: `${certificate}${issuer.certificate}`, notAfter: certificate.validToDate };
  }

  renew();
  return {
    issue,
    serverCertificate,
    renew,
    roots: () => root.certificate.toString(),
    expiry: () => ({ root: root.certificate.validToDate, issuer: issuer.certificate.validToDate }),
  };
}

function makeRoot(path: string, now: Date): Signer {
  const { privateKey: key, publicKey } = generateKeyPairSync("ec", { namedCurve: "prime256v1" });
  const role = { kind: "authority" as const, name: `Trackbed root ${randomName()}`, pathLength: 1 };
  const certificate = signCertificate({ role, publicKey, ...lifetimeOf(now, ROOT_MILLISECONDS, null) }, { ownKey: key });
  writeSigner(path, { key, certificate }, "create");
  return { key, certificate };
}

function makeIssuer(path: string, root: Signer, now: Date, mode: "create" | "replace"): Signer {
  const { privateKey: key, publicKey } = generateKeyPairSync("ec", { namedCurve: "prime256v1" });
  const role = { kind: "authority" as const, name: `Trackbed issuer ${randomName()}`, pathLength: 0 };
  const certificate = signCertificate({ role, publicKey, ...lifetimeOf(now, ISSUER_MILLISECONDS, root) }, root);
  writeSigner(path, { key, certificate }, mode);
  return { key, certificate };
}

/** Backdated for slow clocks, and never longer than what signs it. */
function lifetimeOf(now: Date, milliseconds: number, signer: Signer | null): { notBefore: Date; notAfter: Date } {
  const end = now.getTime() + milliseconds;
  const last = signer?.certificate.validToDate.getTime() ?? end;
  return { notBefore: new Date(now.getTime() - BACKDATE_MILLISECONDS), notAfter: new Date(Math.min(end, last)) };
}

const isSignedBy = (issuer: Signer, root: Signer): boolean =>
  issuer.certificate.checkIssued(root.certificate) && issuer.certificate.verify(root.certificate.publicKey);

const randomName = (): string => randomBytes(4).toString("hex");
