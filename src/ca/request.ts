// What a certificate request proves: that the caller holds the private key of one P-256 public key. Nothing else in it is believed.
import { createPublicKey, type KeyObject, verify } from "node:crypto";
import { CertificationRequest } from "@peculiar/asn1-csr";
import { AsnConvert } from "@peculiar/asn1-schema";
import { type MeshError, meshError } from "#mesh/error.ts";

const ECDSA_WITH_SHA256 = "1.2.840.10045.4.3.2";
/** A P-256 request with a SPIFFE SAN has about 600 bytes of PEM; the ASN.1 parser is not asked to look at a large one. */
const REQUEST_CHARACTERS = 8192;
/** SubjectPublicKeyInfo up to the point's coordinates: ecPublicKey, prime256v1 by name, uncompressed. Peers accept no other form. */
const P256_SPKI = Buffer.from("3059301306072a8648ce3d020106082a8648ce3d03010703420004", "hex");
const SPKI_BYTES = P256_SPKI.length + 64;
const PEM = /^\s*-----BEGIN (?:NEW )?CERTIFICATE REQUEST-----([A-Za-z0-9+/=\s]+)-----END (?:NEW )?CERTIFICATE REQUEST-----\s*$/;

/** The key that the requester proved to hold; throws E_IDENTITY_REFUSED otherwise. */
export function provenKey(pem: string): KeyObject {
  if (pem.length > REQUEST_CHARACTERS) throw refused(`it has ${pem.length} characters, at most ${REQUEST_CHARACTERS} are read`);
  const body = PEM.exec(pem)?.[1];
  if (body === undefined) throw refused("it is not one PEM block CERTIFICATE REQUEST");
  const request = parse(Buffer.from(body, "base64"));
  const { algorithm } = request.signatureAlgorithm;
  if (algorithm !== ECDSA_WITH_SHA256) throw refused(`it is signed with ${algorithm}, only ECDSA with SHA-256 is accepted`);
  const spki = Buffer.from(AsnConvert.serialize(request.certificationRequestInfo.subjectPKInfo));
  if (spki.length !== SPKI_BYTES || !spki.subarray(0, P256_SPKI.length).equals(P256_SPKI)) {
    throw refused("its key is not an uncompressed P-256 point with the curve given by name");
  }
  const key = publicKey(spki);
  const signed = request.certificationRequestInfoRaw;
  if (signed === undefined || !verify("sha256", Buffer.from(signed), key, Buffer.from(request.signature))) {
    throw refused("its signature does not prove possession of the key");
  }
  return key;
}

function parse(der: Buffer): CertificationRequest {
  try {
    const request = AsnConvert.parse(der, CertificationRequest);
    // The parser reads BER; one request has one encoding, or checks of bytes and of fields could see different things.
    if (!der.equals(Buffer.from(AsnConvert.serialize(request)))) throw new Error("it is not the DER of what it says");
    return request;
  } catch (cause) {
    throw refused("it is not a PKCS #10 request in DER", cause);
  }
}

function publicKey(key: Buffer): KeyObject {
  try {
    return createPublicKey({ key, format: "der", type: "spki" });
  } catch (cause) {
    throw refused("its key is not a point on P-256", cause);
  }
}

const refused = (why: string, cause?: unknown): MeshError =>
  meshError("E_IDENTITY_REFUSED", `the certificate request is refused: ${why}`, cause);
