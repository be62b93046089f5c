// The certificate service: proves the key, asks whether the node may have the identity, lets the authority sign.
import { setTimeout as sleep } from "node:timers/promises";
import type { JsonObject } from "@bufbuild/protobuf";
import { Code, ConnectError, type HandlerContext, type ServiceImpl } from "@connectrpc/connect";
import { authorise, type ClusterView } from "#ca/authorise.ts";
import type { Authority } from "#ca/authority.ts";
import { createRateLimit } from "#ca/rate.ts";
import { provenKey } from "#ca/request.ts";
import type { IstioCertificateRequest, IstioCertificateResponse, IstioCertificateService } from "#contract/gen/istio/ca_pb.ts";
import type { ErrorCode } from "#contract/tables.ts";
import { isMeshError, meshError } from "#mesh/error.ts";
import { formatIdentity, type Identity } from "#mesh/identity.ts";
import { callerNode } from "./access.ts";

export type CertificateEvents = {
  readonly onIssued: (facts: { node: string; identity: string; pod: string; serial: string; notAfter: Date }) => void;
  /** The whole reason, which the caller does not get. */
  readonly onRefused: (node: string, code: ErrorCode, reason: string, error?: unknown) => void;
};

/** What a refused caller hears: which part of its claim was wrong is for the log. */
const OPAQUE = "certificate request refused";

type Answer = Pick<IstioCertificateResponse, "certChain">;

export function certificateService(
  authority: Authority,
  view: ClusterView,
  events: CertificateEvents,
): ServiceImpl<typeof IstioCertificateService> {
  const limit = createRateLimit();

  async function createCertificate(request: IstioCertificateRequest, context: HandlerContext): Promise<Answer> {
    const node = callerNode(context);
    const reservation = limit.reserve(node);
    if (reservation === "refused") {
      events.onRefused(node, "E_IDENTITY_RATE_LIMITED", `node ${node} asks for more certificates than are signed for one node`);
      throw new ConnectError("too many certificate requests, try again later", Code.ResourceExhausted);
    }
    if (reservation.waitMilliseconds > 0) await sleep(reservation.waitMilliseconds, undefined, { signal: context.signal });
    try {
      return await issue(node, request);
    } catch (error) {
      // Anything unforeseen refuses too, and is told apart in the log only.
      const code = isMeshError(error) ? error.code : "E_IDENTITY_REFUSED";
      events.onRefused(node, code, error instanceof Error ? error.message : String(error), error);
      throw new ConnectError(OPAQUE, Code.Unauthenticated);
    }
  }

  async function issue(node: string, request: IstioCertificateRequest): Promise<Answer> {
    const identityText = textOf(request.metadata, "ImpersonatedIdentity");
    const verdict = authorise({ node, identity: identityText, podUid: textOf(request.metadata, "PodUid") }, view);
    if ("code" in verdict) throw meshError(verdict.code, verdict.reason);
    const identity: Identity = verdict.identity;
    const publicKey = provenKey(request.csr);
    const issued = await authority.issue({ publicKey, identity, seconds: secondsOf(request.validityDuration) });
    const { namespace, name } = verdict.pod.metadata;
    events.onIssued({
      node,
      identity: formatIdentity(identity),
      pod: `${namespace}/${name}`,
      serial: issued.serial,
      notAfter: issued.notAfter,
    });
    return { certChain: [...issued.chain, authority.roots()] };
  }

  return { createCertificate };
}

function textOf(metadata: JsonObject | undefined, key: string): string {
  const value = metadata !== undefined && Object.hasOwn(metadata, key) ? metadata[key] : "";
  return typeof value === "string" ? value : "";
}

/** The authority bounds it; beyond 2^53 the exact number does not matter. */
const secondsOf = (duration: bigint): number => Number(duration);
