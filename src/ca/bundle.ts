// An authority as a Secret of the `cacerts` layout holds it: PEM texts in, material that was checked out. Ours and plugged ones alike. Pure.
import { createPrivateKey, type KeyObject, X509Certificate } from "node:crypto";
import { meshError } from "#mesh/error.ts";
import type { Signer } from "./certificate.ts";
import { isSignedBy } from "./mint.ts";
import type { Material } from "./signing.ts";

/** File names of the layout. `root-key.pem` is in ours only: it renews the issuer. */
export const FILES = {
  certificate: "ca-cert.pem",
  key: "ca-key.pem",
  root: "root-cert.pem",
  chain: "cert-chain.pem",
  rootKey: "root-key.pem",
} as const;

export type Bundle = Readonly<Record<string, string>>;

const BLOCK = /-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----/g;
/** Longer chains are a mistake, and peers refuse them. */
const CHAIN_CERTIFICATES = 8;
const RSA_BITS = 2048;

/** `where` names the place in errors. Throws E_AUTHORITY_INVALID naming the file and what is wrong with it. */
export function readBundle(bundle: Bundle, where: string, now: Date): Material {
  const text = (file: string): string => {
    const value = bundle[file];
    if (value === undefined || value.trim() === "") throw wrong(where, `${file} is missing`);
    return value;
  };
  const certificates = (file: string): X509Certificate[] => {
    const blocks = text(file).match(BLOCK) ?? [];
    if (blocks.length === 0 || blocks.length > CHAIN_CERTIFICATES)
      throw wrong(where, `${file} holds ${blocks.length} PEM certificates, 1 to ${CHAIN_CERTIFICATES} are needed`);
    return blocks.map((block) => parse(file, () => new X509Certificate(block)));
  };
  const parse = <T>(file: string, read: () => T): T => {
    try {
      return read();
    } catch (cause) {
      throw wrong(where, `${file} cannot be read as PEM`, cause);
    }
  };

  const [certificate] = certificates(FILES.certificate);
  const keyText = text(FILES.key);
  const key = parse(FILES.key, () => createPrivateKey(keyText));
  if (certificate === undefined || !certificate.checkPrivateKey(key))
    throw wrong(where, `${FILES.key} is not the key of ${FILES.certificate}`);
  if (!certificate.ca) throw wrong(where, `${FILES.certificate} is not a certificate authority's`);
  if (!canSign(key)) throw wrong(where, `${FILES.key} must be ECDSA P-256 or P-384, or RSA of at least ${RSA_BITS} bits`);
  const roots = certificates(FILES.root);
  const chain = chainOf(certificate, bundle[FILES.chain] === undefined ? [] : certificates(FILES.chain), roots, where);
  for (const [file, one] of [...chain.map((one) => [FILES.chain, one] as const), ...roots.map((one) => [FILES.root, one] as const)])
    if (one.validToDate <= now) throw wrong(where, `a certificate of ${file} ended on ${one.validToDate.toISOString()}`);
  return {
    issuer: { certificate, key },
    chain: chain.map(String),
    roots: roots.map(String).join(""),
    rootEnd: new Date(Math.min(...roots.map(({ validToDate }) => validToDate.getTime()))),
  };
}

/** Every PEM certificate in a text. */
export const certificatesOf = (text: string): X509Certificate[] => (text.match(BLOCK) ?? []).map((block) => new X509Certificate(block));

export const isSelfSigned = (certificate: X509Certificate): boolean => isSignedBy({ certificate }, { certificate });

/** The root with its key, where the bundle has both: ours has. */
export function rootOf(bundle: Bundle, where: string): Signer | null {
  const [key, certificate] = [bundle[FILES.rootKey], bundle[FILES.root]];
  if (key === undefined || certificate === undefined) return null;
  try {
    const root = { key: createPrivateKey(key), certificate: new X509Certificate(certificate) };
    if (root.certificate.checkPrivateKey(root.key)) return root;
  } catch (cause) {
    throw wrong(where, `${FILES.rootKey} cannot be read as PEM`, cause);
  }
  throw wrong(where, `${FILES.rootKey} is not the key of ${FILES.root}`);
}

export function writeBundle(root: Signer, issuer: Signer): Bundle {
  const pem = (key: KeyObject): string => String(key.export({ type: "pkcs8", format: "pem" }));
  return {
    [FILES.certificate]: issuer.certificate.toString(),
    [FILES.key]: pem(issuer.key),
    [FILES.root]: root.certificate.toString(),
    [FILES.chain]: issuer.certificate.toString(),
    [FILES.rootKey]: pem(root.key),
  };
}

/** From the issuer up to below a root, in order, whatever order the file has. A root that signs leaves itself is its own chain. */
function chainOf(
  issuer: X509Certificate,
  given: readonly X509Certificate[],
  roots: readonly X509Certificate[],
  where: string,
): readonly X509Certificate[] {
  const isRoot = (one: X509Certificate): boolean => roots.some((root) => root.raw.equals(one.raw));
  if (isRoot(issuer)) return [];
  const chain = [issuer];
  for (;;) {
    const last = chain.at(-1) ?? issuer;
    const signedBy = (certificate: X509Certificate): boolean => isSignedBy({ certificate: last }, { certificate });
    if (roots.some(signedBy)) return chain;
    const next = given.find((one) => signedBy(one) && !chain.includes(one));
    if (next === undefined || chain.length > CHAIN_CERTIFICATES)
      throw wrong(where, `${FILES.certificate} and ${FILES.chain} do not lead to a certificate of ${FILES.root}`);
    chain.push(next);
  }
}

function canSign({ asymmetricKeyType, asymmetricKeyDetails }: KeyObject): boolean {
  if (asymmetricKeyType === "rsa") return (asymmetricKeyDetails?.modulusLength ?? 0) >= RSA_BITS;
  return asymmetricKeyType === "ec" && ["prime256v1", "secp384r1"].includes(asymmetricKeyDetails?.namedCurve ?? "");
}

const wrong = (where: string, why: string, cause?: unknown) => meshError("E_AUTHORITY_INVALID", `${where}: ${why}`, cause);
