// Who may read what nodes saw, on Kubernetes: the token says who it is (TokenReview), RBAC says of which namespaces (SubjectAccessReview).
import { createHash } from "node:crypto";
import { z } from "zod";
import { kubernetes, product } from "#contract/tables.ts";
import type { Api } from "#source/kubernetes/api.ts";
import type { Viewer, Viewers } from "../people.ts";
import { createAllowance } from "./allowance.ts";

/** ServiceAccount tokens have about 1,500 characters. */
const TOKEN_CHARACTERS = 16_384;
/** A right that is taken away counts this much longer; somebody who looks at a live view asks every few seconds. */
const REMEMBERED_MILLISECONDS = 10_000;
const REMEMBERED = 1_000;

const review = z.object({
  status: z.object({
    authenticated: z.boolean().default(false),
    audiences: z.array(z.string()).default([]),
    user: z
      .object({
        username: z.string().default(""),
        uid: z.string().default(""),
        groups: z.array(z.string()).default([]),
        extra: z.record(z.string(), z.array(z.string())).default({}),
      })
      .default({ username: "", uid: "", groups: [], extra: {} }),
  }),
});

const access = z.object({ status: z.object({ allowed: z.boolean().default(false) }) });

export function createViewers(api: Api, now: () => number = () => performance.now()): Viewers {
  const allowance = createAllowance(now);
  const remembered = new Map<string, { readonly until: number; readonly answer: Promise<unknown> }>();

  /** What is under way is not asked twice; what failed is not remembered. */
  function once<T>(key: string, ask: () => Promise<T>): Promise<T> {
    const known = remembered.get(key);
    if (known !== undefined && now() < known.until) return known.answer as Promise<T>;
    remembered.delete(key);
    if (remembered.size >= REMEMBERED) remembered.delete(remembered.keys().next().value ?? "");
    const answer = ask();
    remembered.set(key, { until: now() + REMEMBERED_MILLISECONDS, answer });
    answer.catch(() => remembered.delete(key));
    return answer;
  }

  async function viewerOf(token: string, address: string): Promise<Viewer | null> {
    if (token.length > TOKEN_CHARACTERS || token === "") return null;
    if (!allowance.has(address)) throw new Error("too many unknown tokens from this address");
    const viewer = await once(`token ${createHash("sha256").update(token).digest("base64")}`, () => ask(token));
    if (viewer === null) allowance.spend(address);
    return viewer;
  }

  async function ask(token: string): Promise<Viewer | null> {
    const body = {
      apiVersion: "authentication.k8s.io/v1",
      kind: "TokenReview",
      spec: { token, audiences: [kubernetes.viewerAudience] },
    };
    const { status } = review.parse(await api.call({ method: "POST", path: "/apis/authentication.k8s.io/v1/tokenreviews", body }));
    // A server that does not know of audiences would answer for every token of the cluster, those of pods too.
    if (!status.authenticated || !status.audiences.includes(kubernetes.viewerAudience)) return null;
    return status.user;
  }

  async function may(
    { username: user, uid, groups, extra }: Viewer,
    verb: string,
    resource: string,
    namespace: string | null,
  ): Promise<boolean> {
    const resourceAttributes = {
      verb,
      group: product.labelPrefix,
      resource,
      ...(namespace === null ? {} : { namespace }),
    };
    const body = {
      apiVersion: "authorization.k8s.io/v1",
      kind: "SubjectAccessReview",
      spec: { user, uid, groups, extra, resourceAttributes },
    };
    return once(`access ${JSON.stringify(body.spec)}`, async () => {
      const { status } = access.parse(await api.call({ method: "POST", path: "/apis/authorization.k8s.io/v1/subjectaccessreviews", body }));
      return status.allowed;
    });
  }

  return {
    viewerOf,
    mayRead: (viewer, namespace) => may(viewer, "get", kubernetes.flowsResource, namespace),
    mayRecord: (viewer, namespace) => may(viewer, "create", kubernetes.recordingsResource, namespace),
  };
}
