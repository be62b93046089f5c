// An issuer that another CA signs, through cert-manager's API. Everything is kept at the API server, so that replicas and restarts go on with the
// same key and the same request: the key in our Secret before it is asked for, the request under a name made of the key.
import { createHash, createPrivateKey, createPublicKey, type KeyObject } from "node:crypto";
import { z } from "zod";
import { type Bundle, certificatesOf, FILES, isSelfSigned, readBundle } from "#ca/bundle.ts";
import type { Signer } from "#ca/certificate.ts";
import { isOld, newIssuerKey, requestIssuer } from "#ca/mint.ts";
import type { Material } from "#ca/signing.ts";
import { kubernetes } from "#contract/tables.ts";
import { explainError, isMeshError, type MeshError, meshError } from "#mesh/error.ts";
import type { Api } from "#source/kubernetes/api.ts";
import { isStatus } from "#source/kubernetes/failure.ts";
import { objectPath } from "#source/kubernetes/resources.ts";
import { writeEvent } from "./event.ts";
import type { Keys } from "./keys.ts";
import type { Secrets, Stored } from "./secret.ts";

/** Of --issuer: who signs. */
export type IssuerReference = { readonly kind: string; readonly group: string; readonly name: string };

export type IssuedOptions = {
  readonly api: Api;
  readonly secrets: Secrets;
  readonly namespace: string;
  readonly reference: IssuerReference;
  readonly now: () => Date;
  readonly instance: string;
};

const GROUP = "cert-manager.io";
const REQUESTS = { root: `/apis/${GROUP}/v1`, plural: "certificaterequests" };
/** In our Secret: the key of the issuer that is asked for. */
const NEXT_KEY = "next-key.pem";
/** What we ask for; issuers may sign for less. */
const DURATION = "2160h0m0s";
/** A signer answers within seconds; after this, somebody should look. */
const LATE_MILLISECONDS = 300_000;
/** What was refused is asked for again after this, with a new key: whoever set the issuer right need not touch anything here. */
const AGAIN_MILLISECONDS = 3_600_000;

const text = z.string().default("");
const certificateRequest = z.object({
  metadata: z.object({ name: z.string(), uid: text, creationTimestamp: text }),
  status: z
    .object({
      certificate: text,
      ca: text,
      conditions: z.array(z.object({ type: z.string(), status: z.string(), reason: text, message: text })).default([]),
    })
    .default({ certificate: "", ca: "", conditions: [] }),
});
type Request = z.infer<typeof certificateRequest>;

export function issuedKeys({ api, secrets, namespace, reference, now, instance }: IssuedOptions): Keys {
  const secret = kubernetes.issuerSecret;
  const asked = `${reference.kind}.${reference.group} ${reference.name}`;
  const pathOf = (name: string): string => objectPath(REQUESTS, namespace, name);
  const where = (name: string): string => `CertificateRequest ${namespace}/${name}`;

  /** Brings it one step further; the issuer is there, or the reason why it is not is thrown. */
  async function proceed(stored: Stored | null, refuses: (next: Material) => string | null): Promise<Stored> {
    const begun = stored?.bundle[NEXT_KEY] === undefined ? await remember(stored) : stored;
    const key = createPrivateKey(begun.bundle[NEXT_KEY] ?? "");
    const request = (await find(nameOf(key))) ?? (await file(key));
    const refused = refusalOf(request);
    if (refused !== null) throw await again(begun, request, refused);
    if (request.status.certificate === "") throw await awaited(request, "has not signed it yet");
    const bundle = withoutNext(begun.bundle);
    let next: Bundle;
    let early: string | null;
    try {
      next = assemble(request, key, bundle[FILES.root]);
      early = refuses(readBundle(next, where(request.metadata.name), now()));
    } catch (cause) {
      throw await again(begun, request, `what it signed cannot be used: ${explainError(cause)}`);
    }
    if (early !== null) throw await awaited(request, `has signed it too early: ${early}`);
    const written = await secrets.write(secret, next, begun.version);
    if (written === null) throw pending(`${secrets.where(secret)} was deleted while its issuer was written`);
    await remove(request.metadata.name);
    return written;
  }

  async function remember(stored: Stored | null): Promise<Stored> {
    const key = String(newIssuerKey().export({ type: "pkcs8", format: "pem" }));
    const written = await secrets.write(secret, { ...stored?.bundle, [NEXT_KEY]: key }, stored?.version);
    if (written?.bundle[NEXT_KEY] === undefined) throw pending(`${secrets.where(secret)} was changed by somebody else`); // the next look sees it
    return written;
  }

  async function find(name: string): Promise<Request | null> {
    try {
      return certificateRequest.parse(await api.call({ method: "GET", path: pathOf(name) }));
    } catch (error) {
      if (isStatus(error, 404)) return null;
      throw error;
    }
  }

  async function file(key: KeyObject): Promise<Request> {
    const name = nameOf(key);
    const body = {
      apiVersion: `${GROUP}/v1`,
      kind: "CertificateRequest",
      metadata: { name, namespace, labels: { "app.kubernetes.io/part-of": "trackbed" } },
      spec: {
        request: Buffer.from(requestIssuer(key, name)).toString("base64"),
        isCA: true,
        usages: ["cert sign", "crl sign"],
        duration: DURATION,
        issuerRef: reference,
      },
    };
    try {
      await api.call({ method: "POST", path: pathOf("").slice(0, -1), body });
    } catch (error) {
      if (isStatus(error, 404)) throw pending(`the cluster does not know CertificateRequests: install cert-manager`);
      if (!isStatus(error, 409)) throw error; // the other replica was faster
    }
    const filed = await find(name);
    if (filed === null) throw pending(`${where(name)} was deleted as soon as it was made`);
    return filed;
  }

  /** Tells why, and forgets what was refused once enough time has passed, so that the next look asks anew. */
  async function again(stored: Stored, request: Request, why: string): Promise<MeshError> {
    const error = await awaited(request, why, "IssuerRefused");
    if (now().getTime() - madeAt(request) < AGAIN_MILLISECONDS) return error;
    await secrets.write(secret, withoutNext(stored.bundle), stored.version);
    await remove(request.metadata.name);
    return error;
  }

  async function awaited({ metadata }: Request, why: string, reason = "IssuerLate"): Promise<MeshError> {
    const error = pending(`${where(metadata.name)}: ${asked} ${why}`);
    const involved = { apiVersion: `${GROUP}/v1`, kind: "CertificateRequest", namespace, name: metadata.name, uid: metadata.uid };
    const isLate = now().getTime() - madeAt({ metadata }) > LATE_MILLISECONDS;
    if (reason === "IssuerRefused" || isLate) await writeEvent({ api, instance }, involved, reason, error.message);
    return error;
  }

  const madeAt = ({ metadata }: Pick<Request, "metadata">): number => Date.parse(metadata.creationTimestamp) || now().getTime();

  async function remove(name: string): Promise<void> {
    try {
      await api.call({ method: "DELETE", path: pathOf(name) });
    } catch (error) {
      if (!isStatus(error, 404)) throw error;
    }
  }

  return {
    secret,
    open: async (refuses) => {
      const stored = await secrets.read(secret);
      return stored?.bundle[FILES.certificate] === undefined ? proceed(stored, refuses) : stored;
    },
    renew: async (stored, issuer: Signer, refuses) => (isOld(issuer, now()) ? proceed(stored, refuses) : null),
  };
}

/** Of the key, so that whoever holds it finds the request again. */
function nameOf(key: KeyObject): string {
  const spki = createPublicKey(key).export({ type: "spki", format: "der" });
  return `trackbed-issuer-${createHash("sha256").update(spki).digest("hex").slice(0, 16)}`;
}

const withoutNext = ({ [NEXT_KEY]: _, ...bundle }: Bundle): Bundle => bundle;

/** Null while nobody has said no. */
function refusalOf({ status }: Request): string | null {
  const said = (type: string, value: string) => status.conditions.find((one) => one.type === type && one.status === value);
  const ready = said("Ready", "False");
  const no =
    said("Denied", "True") ??
    said("InvalidRequest", "True") ??
    (ready?.reason === "Failed" || ready?.reason === "Denied" ? ready : undefined);
  return no === undefined ? null : `has refused it: ${no.reason} ${no.message}`.trim();
}

/** A root that the operator put into the Secret is the root, whatever is said with the certificate; otherwise the first one that is said is, from then on. */
function assemble({ status }: Request, key: KeyObject, pinned: string | undefined): Bundle {
  const decode = (base64: string): string => Buffer.from(base64, "base64").toString("utf8");
  const chain = certificatesOf(decode(status.certificate));
  const roots = pinned ?? certificatesOf(decode(status.ca)).filter(isSelfSigned).join("");
  if (roots === "")
    throw meshError("E_AUTHORITY_INVALID", `it does not say its root: put that into ${FILES.root} of Secret ${kubernetes.issuerSecret}`);
  return {
    [FILES.certificate]: String(chain[0] ?? ""),
    [FILES.chain]: chain.join(""),
    [FILES.key]: String(key.export({ type: "pkcs8", format: "pem" })),
    [FILES.root]: roots,
  };
}

const pending = (why: string): MeshError => meshError("E_AUTHORITY_PENDING", why);

export const isPending = (error: unknown): boolean => isMeshError(error) && error.code === "E_AUTHORITY_PENDING";
