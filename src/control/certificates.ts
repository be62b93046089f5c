// How certificates are signed: within a rate, for an identity that the caller may have, and a key that it proved to hold. The service of the daemons.
import { setTimeout as sleep } from "node:timers/promises";
import type { JsonObject } from "@bufbuild/protobuf";
import { Code, ConnectError, type HandlerContext, type ServiceImpl } from "@connectrpc/connect";
import { authorise, type ClusterView, type Verdict } from "#ca/authorise.ts";
import type { Authority } from "#ca/authority.ts";
import { createRateLimit } from "#ca/rate.ts";
import { provenKey } from "#ca/request.ts";
import type { IstioCertificateRequest, IstioCertificateResponse, IstioCertificateService } from "#contract/gen/istio/ca_pb.ts";
import type { ErrorCode } from "#contract/tables.ts";
import { isMeshError, meshError } from "#mesh/error.ts";
import { formatIdentity, type Identity } from "#mesh/identity.ts";
import { callerNode } from "./access.ts";

export type CertificateEvents = {
  readonly onIssued: (facts: { caller: string; identity: string; pod: string; serial: string; notAfter: Date }) => void;
  /** The whole reason, which the caller does not get. */
  readonly onRefused: (caller: string, code: ErrorCode, reason: string, error?: unknown) => void;
};

export type SigningRequest = {
  /** Who asks, for limits and for the log: "node a". */
  readonly caller: string;
  readonly csr: string;
  readonly seconds: number;
  readonly verdict: () => Verdict;
  readonly signal: AbortSignal;
};

/** Throws E_IDENTITY_RATE_LIMITED, or E_IDENTITY_REFUSED with a message that says nothing: which part of a claim was wrong is for the log. */
export type Sign = (request: SigningRequest) => Promise<{ readonly chain: readonly string[]; readonly roots: string }>;

/** The one way to a certificate, for whomever it is asked. */
export function createSigner(authority: Authority, events: CertificateEvents): Sign {
  const limit = createRateLimit();

  async function issue({ caller, csr, seconds, verdict: judge }: SigningRequest) {
    const verdict = judge();
    if ("code" in verdict) throw meshError(verdict.code, verdict.reason);
    const identity: Identity = verdict.identity;
    const publicKey = provenKey(csr);
    const issued = await authority.issue({ publicKey, identity, seconds });
    const { namespace, name } = verdict.pod.metadata;
    const facts = { identity: formatIdentity(identity), pod: `${namespace}/${name}`, serial: issued.serial, notAfter: issued.notAfter };
    events.onIssued({ caller, ...facts });
    return { chain: issued.chain, roots: authority.roots() };
  }

  return async (request) => {
    const { caller, signal } = request;
    const reservation = limit.reserve(caller);
    if (reservation === "refused") {
      events.onRefused(caller, "E_IDENTITY_RATE_LIMITED", `${caller} asks for more certificates than are signed for one caller`);
      throw meshError("E_IDENTITY_RATE_LIMITED", "too many certificate requests, try again later");
    }
    if (reservation.waitMilliseconds > 0) await sleep(reservation.waitMilliseconds, undefined, { signal });
    try {
      return await issue(request);
    } catch (error) {
      // Anything unforeseen refuses too, and is told apart in the log only.
      const code = isMeshError(error) ? error.code : "E_IDENTITY_REFUSED";
      events.onRefused(caller, code, error instanceof Error ? error.message : String(error), error);
      throw meshError("E_IDENTITY_REFUSED", "certificate request refused");
    }
  };
}

/** For the daemons, who ask on behalf of their nodes' pods. */
export function certificateService(sign: Sign, view: ClusterView): ServiceImpl<typeof IstioCertificateService> {
  async function createCertificate(
    { metadata, csr, validityDuration }: IstioCertificateRequest,
    context: HandlerContext,
  ): Promise<Pick<IstioCertificateResponse, "certChain">> {
    const node = callerNode(context);
    const claim = { node, identity: textOf(metadata, "ImpersonatedIdentity"), podUid: textOf(metadata, "PodUid") };
    const verdict = (): Verdict => authorise(claim, view);
    try {
      const seconds = secondsOf(validityDuration);
      const { chain, roots } = await sign({ caller: `node ${node}`, csr, seconds, verdict, signal: context.signal });
      return { certChain: [...chain, roots] };
    } catch (error) {
      if (!isMeshError(error)) throw error;
      throw new ConnectError(error.message, error.code === "E_IDENTITY_RATE_LIMITED" ? Code.ResourceExhausted : Code.Unauthenticated);
    }
  }

  return { createCertificate };
}

function textOf(metadata: JsonObject | undefined, key: string): string {
  const value = metadata !== undefined && Object.hasOwn(metadata, key) ? metadata[key] : "";
  return typeof value === "string" ? value : "";
}

/** The authority bounds it; beyond 2^53 the exact number does not matter. */
const secondsOf = (duration: bigint): number => Number(duration);
