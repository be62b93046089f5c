// New authorities: a root that signs issuers only, and an issuer that is replaced long before its end. Keys are made here and nowhere else.
import { generateKeyPairSync, randomBytes } from "node:crypto";
import { BACKDATE_MILLISECONDS, type Signer, signCertificate } from "./certificate.ts";

const YEAR = 365 * 24 * 3_600_000;
const ROOT_MILLISECONDS = 10 * YEAR;
const ISSUER_MILLISECONDS = YEAR;
/** A third of the issuer's life is left for whoever must notice that renewal does not work. */
const ISSUER_RENEW_MILLISECONDS = YEAR / 3;

export function mintRoot(now: Date): Signer {
  const { privateKey: key, publicKey } = generateKeyPairSync("ec", { namedCurve: "prime256v1" });
  const role = { kind: "authority" as const, name: `Trackbed root ${randomName()}`, pathLength: 1 };
  return { key, certificate: signCertificate({ role, publicKey, ...lifetimeOf(now, ROOT_MILLISECONDS, null) }, { ownKey: key }) };
}

export function mintIssuer(root: Signer, now: Date): Signer {
  const { privateKey: key, publicKey } = generateKeyPairSync("ec", { namedCurve: "prime256v1" });
  const role = { kind: "authority" as const, name: `Trackbed issuer ${randomName()}`, pathLength: 0 };
  return { key, certificate: signCertificate({ role, publicKey, ...lifetimeOf(now, ISSUER_MILLISECONDS, root) }, root) };
}

/** Its time has come. */
export const isOld = (issuer: Signer, now: Date): boolean =>
  issuer.certificate.validToDate.getTime() - now.getTime() <= ISSUER_RENEW_MILLISECONDS;

/** Backdated for slow clocks, and never longer than what signs it. */
export function lifetimeOf(now: Date, milliseconds: number, signer: Signer | null): { notBefore: Date; notAfter: Date } {
  const end = now.getTime() + milliseconds;
  const last = signer?.certificate.validToDate.getTime() ?? end;
  return { notBefore: new Date(now.getTime() - BACKDATE_MILLISECONDS), notAfter: new Date(Math.min(end, last)) };
}

type Certified = Pick<Signer, "certificate">;

export const isSignedBy = ({ certificate }: Certified, { certificate: root }: Certified): boolean =>
  certificate.checkIssued(root) && certificate.verify(root.publicKey);

const randomName = (): string => randomBytes(4).toString("hex");
