// New authorities: a root that signs issuers only, and an issuer that is replaced long before its end. Keys are made here and nowhere else.
import { generateKeyPairSync, type KeyObject, randomBytes } from "node:crypto";
import { BACKDATE_MILLISECONDS, requestCertificate, type Signer, signCertificate } from "./certificate.ts";

const YEAR = 365 * 24 * 3_600_000;
const ROOT_MILLISECONDS = 10 * YEAR;
const ISSUER_MILLISECONDS = YEAR;
/** This part of an issuer's life is left for whoever must notice that renewal does not work. */
const ISSUER_RENEW_PART = 1 / 3;

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
export function isOld({ certificate: { validFromDate, validToDate } }: Pick<Signer, "certificate">, now: Date): boolean {
  const life = validToDate.getTime() - validFromDate.getTime();
  return validToDate.getTime() - now.getTime() <= life * ISSUER_RENEW_PART;
}

/** A key of ours, and the request to make an issuer of it by whoever is to sign it. */
export const newIssuerKey = (): KeyObject => generateKeyPairSync("ec", { namedCurve: "prime256v1" }).privateKey;
export const requestIssuer = (key: KeyObject, name: string): string => requestCertificate({ kind: "authority", name, pathLength: 0 }, key);

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
