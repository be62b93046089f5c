// RequestAuthentication documents: which tokens count, and where in a request they are.
import { z } from "zod";
import type { JwtRule, RequestAuthentication } from "#mesh/authorization.ts";
import { selector } from "./authorization.ts";
import { metadata } from "./fields.ts";
import { formatPath, invalid, type Path, type Problem } from "./problem.ts";
import type { Projector } from "./projector.ts";
import { readTargets, targetFields } from "./target.ts";

/** Of Istio's schema, but for the rules: it has 4096, and each is tried on every token. */
const MOST = { rules: 64, locations: 64, claims: 64, uriCharacters: 2048, keysCharacters: 256 * 1024, claimHeaders: 64 };
const DEFAULT_TIMEOUT = "5s";

const text = z.string().min(1);
const name = text.max(256);
const header = name.regex(/^[A-Za-z0-9!#$%&'*+\-.^_\x60|~]+$/, "must be the name of an HTTP header");
/** A protobuf Duration, as Istio has it. */
const timeout = z
  .string()
  .regex(/^(?:[0-9]{1,4}(?:\.[0-9]{1,9})?s|[0-9]{1,6}ms|[0-9]{1,3}m)$/, "must be a duration: 5s, 500ms")
  .default(DEFAULT_TIMEOUT);

const jwtRule = z.strictObject({
  issuer: text,
  audiences: z.array(text).default([]),
  jwksUri: text.max(MOST.uriCharacters).optional(),
  jwks_uri: text.max(MOST.uriCharacters).optional(),
  jwks: text.max(MOST.keysCharacters).optional(),
  fromHeaders: z
    .array(z.strictObject({ name: header, prefix: z.string().default("") }))
    .max(MOST.locations)
    .default([]),
  fromParams: z.array(name).max(MOST.locations).default([]),
  fromCookies: z.array(name).max(MOST.locations).default([]),
  outputPayloadToHeader: header.optional(),
  forwardOriginalToken: z.boolean().default(false),
  outputClaimToHeaders: z
    .array(z.strictObject({ header, claim: text }))
    .max(MOST.claimHeaders)
    .default([]),
  spaceDelimitedClaims: z.array(text).max(MOST.claims).default([]),
  timeout,
});

const document = z.strictObject({
  apiVersion: z.string(),
  kind: z.string(),
  metadata,
  spec: z
    .strictObject({ selector: selector.optional(), ...targetFields, jwtRules: z.array(jwtRule).max(MOST.rules).default([]) })
    .prefault({}),
  status: z.unknown().optional(),
});

export const projectRequestAuthentication: Projector<RequestAuthentication, z.infer<typeof document>> = {
  kind: "RequestAuthentication",
  scope: "namespace",
  schema: document,
  refusesNull: true,
  project: ({ spec }, meta) => {
    const { targets, problems } = readTargets(spec, meta.namespace);
    spec.jwtRules.forEach((rule, i) => {
      problems.push(...problemsIn(rule, ["spec", "jwtRules", i]));
    });
    if (problems.length > 0) return { object: null, problems };
    const object: RequestAuthentication = {
      kind: "RequestAuthentication",
      metadata: meta,
      targets,
      selector: spec.selector?.matchLabels ?? {},
      jwtRules: spec.jwtRules.map(ruleOf),
      unenforceable: [],
      keys: {},
    };
    return { object, problems: [] };
  },
  standIn: (raw, meta, problem) => {
    const readable = z.object({ spec: z.looseObject({}) }).safeParse(raw).data?.spec ?? {};
    const { targets } = readTargets(readable, meta.namespace);
    return {
      kind: "RequestAuthentication",
      metadata: meta,
      targets,
      selector: {},
      jwtRules: [],
      unenforceable: [formatPath(problem.path) || "spec"],
      keys: {},
    };
  },
};

type Written = z.infer<typeof jwtRule>;

const ruleOf = ({ jwksUri, jwks_uri, jwks, outputPayloadToHeader, timeout, ...rest }: Written): JwtRule => ({
  ...rest,
  jwksUri: jwksUri ?? jwks_uri ?? "",
  jwks: jwks ?? "",
  outputPayloadToHeader: outputPayloadToHeader ?? "",
  timeoutMilliseconds: milliseconds(timeout),
});

function milliseconds(text: string): number {
  const value = Number.parseFloat(text);
  return Math.round(text.endsWith("ms") ? value : text.endsWith("m") ? value * 60_000 : value * 1000);
}

function problemsIn({ jwksUri, jwks_uri, jwks, issuer }: Written, at: Path): Problem[] {
  const problems: Problem[] = [];
  if (jwksUri !== undefined && jwks_uri !== undefined) problems.push(invalid([...at, "jwks_uri"], "jwksUri is the same field"));
  const uri = jwksUri ?? jwks_uri;
  if (uri !== undefined && jwks !== undefined) problems.push(invalid([...at, "jwks"], "either jwks or jwksUri, not both"));
  if (uri !== undefined && !isFetchable(uri)) problems.push(invalid([...at, "jwksUri"], "must be an http or https URL without a user"));
  if (uri === undefined && jwks === undefined && !isFetchable(issuer))
    problems.push(invalid([...at, "jwksUri"], "needs jwks or jwksUri: the issuer is no URL that keys could be found by"));
  if (jwks !== undefined && !isKeySet(jwks)) problems.push(invalid([...at, "jwks"], 'must be a JSON Web Key Set: {"keys": [...]}'));
  return problems;
}

function isFetchable(text: string): boolean {
  const url = URL.parse(text);
  return url !== null && ["http:", "https:"].includes(url.protocol) && url.username === "" && url.password === "";
}

const keySet = z.object({ keys: z.array(z.looseObject({ kty: z.string() })) });

function isKeySet(text: string): boolean {
  try {
    return keySet.safeParse(JSON.parse(text)).success;
  } catch {
    return false; // not JSON, which is what was asked
  }
}
