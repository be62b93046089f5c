// A rule of a RequestAuthentication as a waypoint verifies tokens by it.
import type { MessageInitShape } from "@bufbuild/protobuf";
import type { TokenRuleSchema } from "#contract/gen/authorization_pb.ts";
import { type JwtRule, keysUrlOf, type RequestAuthentication } from "#mesh/authorization.ts";

type WireRule = MessageInitShape<typeof TokenRuleSchema>;

/** Of the contract. */
const MOST_KEYS_BYTES = 64 * 1024;
/** Where a token is, if the rule names no place (RFC 6750). */
const BEARER = { name: "authorization", prefix: "Bearer " };
const PARAMETER = "access_token";

export const tokenRules = (one: RequestAuthentication): WireRule[] => one.jwtRules.map((rule) => tokenRule(one, rule));

function tokenRule({ metadata, keys }: RequestAuthentication, rule: JwtRule): WireRule {
  const { issuer, audiences, fromHeaders, fromParams, fromCookies, forwardOriginalToken, outputPayloadToHeader, ...more } = rule;
  const { outputClaimToHeaders, spaceDelimitedClaims, jwks: inline } = more;
  const placed = fromHeaders.length + fromParams.length + fromCookies.length > 0;
  const found = inline === "" ? keys[keysUrlOf(rule)] : { jwks: inline, missing: "" };
  const usable = settle(found);
  return {
    policy: `${metadata.namespace}/${metadata.name}`,
    issuer,
    audiences: [...audiences],
    ...usable,
    headers: placed ? fromHeaders.map(({ name, prefix }) => ({ name: name.toLowerCase(), prefix })) : [BEARER],
    parameters: placed ? [...fromParams] : [PARAMETER],
    cookies: [...fromCookies],
    forward: forwardOriginalToken,
    payloadHeader: outputPayloadToHeader.toLowerCase(),
    claimHeaders: outputClaimToHeaders.map(({ header, claim }) => ({ header: header.toLowerCase(), claim: claim.split(".") })),
    spacedClaims: [...spaceDelimitedClaims],
  };
}

/** Why no token of the rule can be verified; empty: keys are there. */
export const missingKeys = (one: RequestAuthentication): string[] =>
  one.jwtRules.flatMap((rule) => {
    const { missing } = settle(rule.jwks === "" ? one.keys[keysUrlOf(rule)] : { jwks: rule.jwks, missing: "" });
    return missing === "" ? [] : [`issuer ${rule.issuer}: ${missing}`];
  });

function settle(found: { readonly jwks: string; readonly missing: string } | undefined) {
  if (found === undefined) return { jwks: "", missing: "its keys were not fetched yet" };
  const bytes = Buffer.byteLength(found.jwks);
  return bytes > MOST_KEYS_BYTES
    ? { jwks: "", missing: `its keys are ${bytes} bytes long, of ${MOST_KEYS_BYTES}` }
    : { jwks: found.jwks, missing: found.missing };
}
