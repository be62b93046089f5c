// The mesh's certificate profiles: builds a certificate and signs it, or asks another authority for one. ASN.1 by schema, cryptography by node:crypto.
import { createHash, createPublicKey, type KeyObject, randomBytes, sign, X509Certificate } from "node:crypto";
import { Attributes, CertificationRequest, CertificationRequestInfo } from "@peculiar/asn1-csr";
import { AsnConvert, OctetString } from "@peculiar/asn1-schema";
import {
  AlgorithmIdentifier,
  Attribute,
  AttributeTypeAndValue,
  AttributeValue,
  AuthorityKeyIdentifier,
  BasicConstraints,
  Certificate,
  ExtendedKeyUsage,
  Extension,
  Extensions,
  GeneralName,
  id_ce_authorityKeyIdentifier,
  id_ce_basicConstraints,
  id_ce_extKeyUsage,
  id_ce_keyUsage,
  id_ce_subjectAltName,
  id_ce_subjectKeyIdentifier,
  id_kp_clientAuth,
  id_kp_serverAuth,
  KeyIdentifier,
  KeyUsage,
  KeyUsageFlags,
  Name,
  RelativeDistinguishedName,
  SubjectAlternativeName,
  SubjectKeyIdentifier,
  SubjectPublicKeyInfo,
  TBSCertificate,
  Validity,
  Version,
} from "@peculiar/asn1-x509";

/** Who signs: null = the certificate itself (a root). */
export type Signer = { readonly certificate: X509Certificate; readonly key: KeyObject };

export type CertificateRole =
  /** Signs certificates: `pathLength` authorities may stand below it. */
  | { readonly kind: "authority"; readonly name: string; readonly pathLength: number }
  /** Proves a SPIFFE identity, as client and as server. */
  | { readonly kind: "workload"; readonly uri: string }
  /** Proves host names and addresses, only as server. */
  | { readonly kind: "server"; readonly names: readonly string[]; readonly addresses: readonly string[] };

export type CertificateSpec = {
  readonly role: CertificateRole;
  readonly publicKey: KeyObject;
  readonly notBefore: Date;
  readonly notAfter: Date;
};

type Algorithm = { readonly oid: string; readonly hash: "sha256" | "sha384"; readonly parameters?: null };
/** What peers verify: our own authorities are P-256, plugged ones may be older or stronger. */
const ALGORITHMS: Readonly<Record<string, Algorithm>> = {
  prime256v1: { oid: "1.2.840.10045.4.3.2", hash: "sha256" },
  secp384r1: { oid: "1.2.840.10045.4.3.3", hash: "sha384" },
  rsa: { oid: "1.2.840.113549.1.1.11", hash: "sha256", parameters: null },
};
const COMMON_NAME = "2.5.4.3";
/** Two nodes' clocks may be five minutes apart. */
export const BACKDATE_MILLISECONDS = 5 * 60_000;

/** Signs with `signer`, or with `ownKey` for a root. */
export function signCertificate(spec: CertificateSpec, signer: Signer | { readonly ownKey: KeyObject }): X509Certificate {
  const key = "ownKey" in signer ? signer.ownKey : signer.key;
  const subject = subjectOf(spec.role);
  const algorithm = algorithmOf(key);
  // RFC 4055 wants NULL parameters with RSA, RFC 5758 none with ECDSA.
  const signature = new AlgorithmIdentifier({ algorithm: algorithm.oid, ...(algorithm.parameters === null ? { parameters: NULL } : {}) });
  const tbsCertificate = new TBSCertificate({
    version: Version.v3,
    serialNumber: toArrayBuffer(serialNumber()),
    signature,
    issuer: "ownKey" in signer ? subject : subjectOfCertificate(signer.certificate),
    validity: new Validity({ notBefore: spec.notBefore, notAfter: spec.notAfter }),
    subject,
    subjectPublicKeyInfo: AsnConvert.parse(spkiOf(spec.publicKey), SubjectPublicKeyInfo),
    extensions: new Extensions(
      extensionsOf(spec, "ownKey" in signer ? keyIdentifier(spec.publicKey) : keyIdentifierOf(signer.certificate)),
    ),
  });
  const signatureValue = toArrayBuffer(sign(algorithm.hash, Buffer.from(AsnConvert.serialize(tbsCertificate)), key));
  return new X509Certificate(
    Buffer.from(AsnConvert.serialize(new Certificate({ tbsCertificate, signatureAlgorithm: signature, signatureValue }))),
  );
}

/** RFC 2985: the attribute of a request that holds the wanted extensions. */
const EXTENSION_REQUEST = "1.2.840.113549.1.9.14";

/** PEM of the request (PKCS #10) by which another authority is asked to make `key` an authority of ours. */
export function requestCertificate(role: CertificateRole & { kind: "authority" }, key: KeyObject): string {
  const algorithm = algorithmOf(key);
  const wanted = AsnConvert.serialize(new Extensions(authorityExtensions(role.pathLength)));
  const certificationRequestInfo = new CertificationRequestInfo({
    subject: subjectOf(role),
    subjectPKInfo: AsnConvert.parse(spkiOf(key), SubjectPublicKeyInfo),
    attributes: new Attributes([new Attribute({ type: EXTENSION_REQUEST, values: [wanted] })]),
  });
  const signature = sign(algorithm.hash, Buffer.from(AsnConvert.serialize(certificationRequestInfo)), key);
  const der = AsnConvert.serialize(
    new CertificationRequest({
      certificationRequestInfo,
      signatureAlgorithm: new AlgorithmIdentifier({
        algorithm: algorithm.oid,
        ...(algorithm.parameters === null ? { parameters: NULL } : {}),
      }),
      signature: toArrayBuffer(signature),
    }),
  );
  const lines =
    Buffer.from(der)
      .toString("base64")
      .match(/.{1,64}/g) ?? [];
  return `-----BEGIN CERTIFICATE REQUEST-----\n${lines.join("\n")}\n-----END CERTIFICATE REQUEST-----\n`;
}

/** DER of NULL. */
const NULL = new Uint8Array([5, 0]).buffer;

function algorithmOf({ asymmetricKeyType, asymmetricKeyDetails }: KeyObject): Algorithm {
  const name = asymmetricKeyType === "rsa" ? "rsa" : (asymmetricKeyDetails?.namedCurve ?? "");
  const algorithm = Object.hasOwn(ALGORITHMS, name) ? ALGORITHMS[name] : undefined;
  if (algorithm === undefined) throw new TypeError(`keys of type ${asymmetricKeyType} ${name} do not sign certificates here`);
  return algorithm;
}

function extensionsOf({ role, publicKey }: CertificateSpec, signerIdentifier: ArrayBuffer): Extension[] {
  const keys = [
    extension(id_ce_authorityKeyIdentifier, false, new AuthorityKeyIdentifier({ keyIdentifier: new KeyIdentifier(signerIdentifier) })),
    extension(id_ce_subjectKeyIdentifier, false, new SubjectKeyIdentifier(keyIdentifier(publicKey))),
  ];
  if (role.kind === "authority") return [...keys, ...authorityExtensions(role.pathLength)];
  const purposes = role.kind === "workload" ? [id_kp_serverAuth, id_kp_clientAuth] : [id_kp_serverAuth];
  return [
    ...keys,
    extension(id_ce_basicConstraints, true, new BasicConstraints({ cA: false })),
    extension(id_ce_keyUsage, true, new KeyUsage(KeyUsageFlags.digitalSignature)),
    extension(id_ce_extKeyUsage, false, new ExtendedKeyUsage(purposes)),
    // Critical, because the subject is empty (RFC 5280, 4.2.1.6).
    extension(id_ce_subjectAltName, true, new SubjectAlternativeName(alternativeNames(role))),
  ];
}

function authorityExtensions(pathLength: number): Extension[] {
  const usage = new KeyUsage(KeyUsageFlags.keyCertSign | KeyUsageFlags.cRLSign);
  const constraints = new BasicConstraints({ cA: true, pathLenConstraint: pathLength });
  return [extension(id_ce_basicConstraints, true, constraints), extension(id_ce_keyUsage, true, usage)];
}

function alternativeNames(role: Exclude<CertificateRole, { kind: "authority" }>): GeneralName[] {
  if (role.kind === "workload") return [new GeneralName({ uniformResourceIdentifier: role.uri })];
  return [
    ...role.names.map((dNSName) => new GeneralName({ dNSName })),
    ...role.addresses.map((iPAddress) => new GeneralName({ iPAddress })),
  ];
}

const extension = (extnID: string, critical: boolean, value: object): Extension =>
  new Extension({ extnID, critical, extnValue: new OctetString(AsnConvert.serialize(value)) });

/** Only authorities have a name: two of them must never share one, or chains become ambiguous. */
function subjectOf(role: CertificateRole): Name {
  if (role.kind !== "authority") return new Name();
  const value = new AttributeValue({ utf8String: role.name });
  return new Name([new RelativeDistinguishedName([new AttributeTypeAndValue({ type: COMMON_NAME, value })])]);
}

const subjectOfCertificate = ({ raw }: X509Certificate): Name => AsnConvert.parse(toArrayBuffer(raw), Certificate).tbsCertificate.subject;

/** As the certificate says it itself: a plugged authority may have hashed its key in another way, and verifiers compare the two. */
function keyIdentifierOf(certificate: X509Certificate): ArrayBuffer {
  const { extensions } = AsnConvert.parse(toArrayBuffer(certificate.raw), Certificate).tbsCertificate;
  const found = extensions?.find(({ extnID }) => extnID === id_ce_subjectKeyIdentifier);
  return found === undefined ? keyIdentifier(certificate.publicKey) : AsnConvert.parse(found.extnValue.buffer, SubjectKeyIdentifier).buffer;
}

/** RFC 7093, method 1: the first 160 bits of SHA-256 over the public key's bits. */
function keyIdentifier(key: KeyObject): ArrayBuffer {
  const { subjectPublicKey } = AsnConvert.parse(spkiOf(key), SubjectPublicKeyInfo);
  return toArrayBuffer(createHash("sha256").update(Buffer.from(subjectPublicKey)).digest().subarray(0, 20));
}

/** 16 bytes, positive, and never with a leading zero that DER would have to drop: 126 random bits. */
function serialNumber(): Buffer {
  const bytes = randomBytes(16);
  bytes[0] = ((bytes[0] ?? 0) & 0x3f) | 0x40;
  return bytes;
}

const spkiOf = (key: KeyObject): ArrayBuffer =>
  toArrayBuffer((key.type === "private" ? createPublicKey(key) : key).export({ type: "spki", format: "der" }));

function toArrayBuffer(bytes: Uint8Array): ArrayBuffer {
  const copy = new ArrayBuffer(bytes.byteLength);
  new Uint8Array(copy).set(bytes);
  return copy;
}
