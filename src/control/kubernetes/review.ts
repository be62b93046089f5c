// Who calls, on Kubernetes: the pod-bound ServiceAccount token of a daemon or of a waypoint, judged by the API server and remembered for a minute.
import { createHash } from "node:crypto";
import { z } from "zod";
import { kubernetes } from "#contract/tables.ts";
import type { Api } from "#source/kubernetes/api.ts";
import type { Callers } from "../platform.ts";
import type { MeshView } from "../view.ts";
import { createAllowance } from "./allowance.ts";

export type ReviewOptions = {
  readonly api: Api;
  readonly view: MeshView;
  /** Of the daemon's ServiceAccount. */
  readonly namespace: string;
  readonly now?: () => number;
};

/** A daemon opens three calls at once and one for each certificate; a revoked token counts this much longer. */
const ACCEPTED_MILLISECONDS = 60_000;
/** A stranger who repeats itself costs one review in this time. */
const REFUSED_MILLISECONDS = 10_000;
/** Ten times the nodes of one replica; the oldest is forgotten and reviewed again. */
const REMEMBERED = 10_000;
/** Reviews under way: a thousand daemons that come back at once wait for each other here and not at the API server. */
const REVIEWS_AT_ONCE = 32;
const REVIEWS_WAITING = 4_096;
/** ServiceAccount tokens have about 1,500 characters. */
const TOKEN_CHARACTERS = 16_384;
/** A pod that proved itself is in our own watch within this time, or it is gone. */
const UNSEEN_MILLISECONDS = 30_000;

const answer = z.object({
  status: z.object({
    authenticated: z.boolean().default(false),
    audiences: z.array(z.string()).default([]),
    user: z
      .object({ username: z.string().default(""), extra: z.record(z.string(), z.array(z.string())).default({}) })
      .default({ username: "", extra: {} }),
  }),
});

const podList = z.object({ items: z.array(z.object({ metadata: z.object({ uid: z.string() }) })) });

/** The pod whose token it was, and its node; `node` is empty of a waypoint, which speaks for no node. */
type Proof = { readonly node: string; readonly podUid: string; readonly podName: string };
type Remembered = { readonly proof: Proof | null; readonly until: number };

export function createReviews({ api, view, namespace, now = () => performance.now() }: ReviewOptions): Callers {
  const username = accountOf(namespace, kubernetes.daemon);
  const remembered = new Map<string, Remembered>();
  const underWay = new Map<string, Promise<Proof | null>>();
  const gate = createGate();
  const allowance = createAllowance(now);
  /** The proof that each node's streams rest on. */
  const proven = new Map<string, Proof & { readonly since: number }>();

  async function ask(token: string): Promise<Proof | null> {
    const body = {
      apiVersion: "authentication.k8s.io/v1",
      kind: "TokenReview",
      spec: { token, audiences: [kubernetes.tokenAudience] },
    };
    const { status } = answer.parse(await api.call({ method: "POST", path: "/apis/authentication.k8s.io/v1/tokenreviews", body }));
    if (!status.authenticated || !status.audiences.includes(kubernetes.tokenAudience)) return null;
    const extra = (name: string): string => status.user.extra[`authentication.kubernetes.io/${name}`]?.[0] ?? "";
    const podUid = extra("pod-uid");
    const podName = extra("pod-name");
    // A token that is bound to no pod proves no node: anybody who may create tokens of the ServiceAccount could have it.
    if (podUid === "") return null;
    if (status.user.username !== username) return isWaypoint(podUid, status.user.username) ? { node: "", podUid, podName } : null;
    // Servers before 1.32 do not name the node; then our own watch says where that very pod runs.
    const node = extra("node-name") || (view.pod(podUid)?.nodeName ?? "");
    return node === "" ? null : { node, podUid, podName };
  }

  /** A waypoint is known before its token can be: we made it, or somebody's Gateway of our class names it. */
  function isWaypoint(podUid: string, username: string): boolean {
    const pod = view.waypoint(podUid);
    return pod !== undefined && username === accountOf(pod.metadata.namespace, pod.serviceAccountName);
  }

  /** API servers remember reviews: the token of a pod that is gone is good for seconds more. Our watch knows better, or the server itself. */
  async function isLive({ podUid, podName }: Proof): Promise<boolean> {
    const seen = view.pod(podUid);
    if (seen !== undefined) return seen.phase !== "Succeeded" && seen.phase !== "Failed";
    const query = { fieldSelector: `metadata.name=${podName}` };
    const { items } = podList.parse(await api.call({ method: "GET", path: `/api/v1/namespaces/${namespace}/pods`, query }));
    return items.some(({ metadata }) => metadata.uid === podUid);
  }

  function remember(key: string, proof: Proof | null): void {
    remembered.delete(key);
    if (remembered.size >= REMEMBERED) remembered.delete(remembered.keys().next().value ?? "");
    remembered.set(key, { proof, until: now() + (proof === null ? REFUSED_MILLISECONDS : ACCEPTED_MILLISECONDS) });
  }

  /** A flood of made-up tokens ends here and not at the API server. Whoever shares its address waits with it, unless his token is known. */
  async function review(token: string, address: string): Promise<Proof | null> {
    const admitted = (): void => {
      if (!allowance.has(address)) throw new Error("too many unknown tokens from this address");
    };
    admitted();
    const proof = await gate(() => {
      admitted(); // others of the flood were refused while this one stood in line
      return ask(token);
    });
    if (proof === null) allowance.spend(address);
    return proof;
  }

  async function proofOf(token: string, address: string): Promise<Proof | null> {
    const key = createHash("sha256").update(token).digest("base64");
    const known = remembered.get(key);
    if (known !== undefined && now() < known.until) return known.proof;
    const asked = underWay.get(key) ?? review(token, address).finally(() => underWay.delete(key));
    underWay.set(key, asked);
    const proof = await asked;
    remember(key, proof);
    return proof;
  }

  async function nodeOf(token: string, address = ""): Promise<string | null> {
    if (token.length > TOKEN_CHARACTERS) return null;
    const proof = await proofOf(token, address);
    // The review may be a minute old, and a node that was deleted is not trusted on the word of its token.
    if (proof === null || proof.node === "" || view.node(proof.node) === undefined || !(await isLive(proof))) return null;
    if (proven.get(proof.node)?.podUid !== proof.podUid) proven.set(proof.node, { ...proof, since: now() });
    return proof.node;
  }

  async function waypointOf(token: string, address = ""): Promise<string | null> {
    if (token.length > TOKEN_CHARACTERS) return null;
    const proof = await proofOf(token, address);
    return proof !== null && proof.node === "" && view.waypoint(proof.podUid) !== undefined ? proof.podUid : null;
  }

  const isOver = (uid: string): boolean => {
    const phase = view.pod(uid)?.phase;
    return phase === "Succeeded" || phase === "Failed";
  };

  async function refresh(nodes: Iterable<string>): Promise<readonly string[]> {
    const named = new Set(nodes);
    const ended: string[] = [];
    for (const [node, { podUid, since }] of proven) {
      const unseen = view.pod(podUid) === undefined && now() - since > UNSEEN_MILLISECONDS;
      if (named.has(node) && !unseen && !isOver(podUid)) continue;
      proven.delete(node);
      ended.push(node);
    }
    return ended;
  }

  // Who is gone is told by the view; a token that was believed once is not asked for again while its stream lasts.
  return { nodeOf, refresh, waypointOf, refreshWaypoints: async () => [] };
}

const accountOf = (namespace: string, name: string): string => `system:serviceaccount:${namespace}:${name}`;

/** Lets so many through at once; the others wait in line, and beyond that line are refused. */
function createGate(): <T>(work: () => Promise<T>) => Promise<T> {
  const waiting: (() => void)[] = [];
  let free = REVIEWS_AT_ONCE;
  return async (work) => {
    if (free > 0) free--;
    else if (waiting.length >= REVIEWS_WAITING) throw new Error(`${REVIEWS_WAITING} token reviews wait already`);
    else await new Promise<void>((resolve) => waiting.push(resolve));
    try {
      return await work();
    } finally {
      const next = waiting.shift();
      if (next === undefined) free++;
      else next();
    }
  };
}
