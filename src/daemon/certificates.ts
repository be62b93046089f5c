// Takes the engine's certificate requests to control's certificate service, and its answer back as the contract wants it.

import { setTimeout as sleep } from "node:timers/promises";
import { create } from "@bufbuild/protobuf";
import { Code, ConnectError, createClient, type Transport } from "@connectrpc/connect";
import { fromPem, toPem } from "#ca/pem.ts";
import { type CertificateReply, CertificateReplySchema, type CertificateRequest } from "#contract/gen/engine_pb.ts";
import { IstioCertificateService } from "#contract/gen/istio/ca_pb.ts";
import type { ErrorCode } from "#contract/tables.ts";
import { isMeshError, type MeshError, meshError } from "#mesh/error.ts";
import { formatIdentity } from "#mesh/identity.ts";
import { backoff } from "#xds/backoff.ts";
import type { PodSpec } from "./desired.ts";

export type CertifyOptions = {
  readonly transport: Transport;
  readonly trustDomain: () => string;
  /** The pod of this node with that uid, when the mesh wants it. */
  readonly pod: (uid: string) => PodSpec | undefined;
  readonly random?: () => number;
  /** Aborted when the daemon stops. */
  readonly stop: AbortSignal;
};

/** Design default; the CA may shorten it. */
const VALIDITY_SECONDS = 24n * 60n * 60n;
const CALL_MS = 5000;
/** The engine asks again by itself with growing pauses; these few bridge a fresh pod that control does not see yet and a reconnect. */
const ATTEMPTS = 4;
const FIRST_PAUSE_MS = 100;
const LAST_PAUSE_MS = 1000;

export function certifier(options: CertifyOptions): (request: CertificateRequest) => Promise<CertificateReply> {
  const authority = createClient(IstioCertificateService, options.transport);

  async function attempt(request: CertificateRequest): Promise<CertificateReply> {
    const { csr, identity, podUid, requestId } = request;
    const response = await authority.createCertificate(
      {
        csr: toPem(csr, "CERTIFICATE REQUEST"),
        validityDuration: VALIDITY_SECONDS,
        metadata: { ImpersonatedIdentity: identity, PodUid: podUid },
      },
      { timeoutMs: CALL_MS, signal: options.stop },
    );
    const chain = response.certChain.slice(0, -1).flatMap(fromPem);
    const roots = fromPem(response.certChain.at(-1) ?? "");
    if (chain.length === 0 || roots.length === 0)
      throw meshError("E_IDENTITY_REFUSED", `the authority's answer for ${identity} lacks a certificate or a root`);
    return create(CertificateReplySchema, { requestId, chain, roots });
  }

  return async (request) => {
    const { requestId, identity, podUid } = request;
    const refuse = (code: ErrorCode, reason: string): CertificateReply => create(CertificateReplySchema, { requestId, code, reason });
    const spec = options.pod(podUid);
    const own =
      spec && formatIdentity({ trustDomain: options.trustDomain(), namespace: spec.namespace, serviceAccount: spec.serviceAccount });
    if (own !== identity)
      return refuse("E_IDENTITY_REFUSED", `pod ${podUid} of this node is ${own ?? "not known"}; the engine asked for ${identity}`);
    const pause = backoff(options.random ?? Math.random, FIRST_PAUSE_MS, LAST_PAUSE_MS);
    for (let i = 1; ; i++) {
      try {
        return await attempt(request);
      } catch (cause) {
        const error = reasonOf(cause, identity);
        if (i === ATTEMPTS || options.stop.aborted || !mayChange(error)) return refuse(error.code, describe(error));
      }
      await sleep(pause.next(), undefined, { signal: options.stop }).catch(() => undefined);
    }
  };
}

/** Refusals may be the authority not knowing a fresh pod yet; a token that is wrong stays wrong until somebody acts. */
const mayChange = ({ code }: MeshError): boolean => code === "E_CONTROL_AWAY" || code === "E_IDENTITY_REFUSED";

const describe = ({ message, cause }: MeshError): string => (cause instanceof ConnectError ? `${message}: ${cause.rawMessage}` : message);

function reasonOf(cause: unknown, identity: string): MeshError {
  if (isMeshError(cause)) return cause;
  const error = ConnectError.from(cause);
  if (isMeshError(error.cause)) return error.cause;
  const away: readonly Code[] = [Code.Unavailable, Code.DeadlineExceeded, Code.Canceled, Code.Internal, Code.Aborted, Code.Unknown];
  if (away.includes(error.code)) return meshError("E_CONTROL_AWAY", `no answer to the certificate request for ${identity}`, error);
  return meshError("E_IDENTITY_REFUSED", `the authority refused to sign for ${identity}`, error);
}
