// Decides, from a seed, which pod comes or goes next: of two accounts, behind two policies, in and out of the mesh, deleted with grace, by force,
// before they have started, or done by themselves.
import type { Api } from "#source/kubernetes/api.ts";
import { waitFor } from "../cluster.ts";
import { addressesOf, NAMESPACE } from "./addresses.ts";
import { type ApiPod, follow } from "./follow.ts";
import type { Account, Member } from "./records.ts";

export type Herd = {
  /** Every pod that was ever made, by name. */
  readonly members: ReadonlyMap<string, Member>;
  /** Those that run and shall stay, by address. */
  present(): ReadonlyMap<string, Member>;
  /** Makes and deletes pods until `count` were made and it was `enough`; `at` is called after each. */
  churn(count: number, at: (made: number) => Promise<void>, enough: () => boolean): Promise<void>;
  make(node: string, kind: Kind): Promise<void>;
  clear(): Promise<void>;
  stop(): Promise<void>;
};

export type Kind = { readonly account: Account; readonly guard: Account; readonly meshed: boolean; readonly lifetime: number };

const ACCOUNTS = ["red", "blue"] as const;
/** Pods that are on their way in or out at a time: more would wait for the two cores, not for each other. */
const MOVING = 4;
/** Below this many alive, pods are rather made than deleted. */
const FEW = 10;
/** On a busy machine pods come and go before they have met anybody; more than this many times the number asked for is a machine that does nothing else. */
const MOST_TIMES = 3;
/** A daemon that was killed is back in seconds, and pods wait for it. */
const MOVE_MS = 90_000;

export function createHerd(api: Api, nodes: readonly string[], seed: number): Herd {
  const random = mulberry32(seed);
  const pick = <T>(items: readonly T[]): T => items[Math.floor(random() * items.length)] as T;
  const members = new Map<string, Member>();
  const going = new Set<string>();
  const stopped = new AbortController();
  let pods: ReadonlyMap<string, ApiPod> = new Map();
  let made = 0;
  const following = follow(
    api,
    {},
    (now) => {
      pods = new Map([...now].filter(([, { metadata }]) => metadata.namespace === NAMESPACE));
    },
    stopped.signal,
  );

  const path = `/api/v1/namespaces/${NAMESPACE}/pods`;
  const onNode = (node: string): ApiPod[] =>
    [...pods.values()].filter(({ spec, status }) => spec.nodeName === node && status?.phase !== "Succeeded");
  const staying = (): ApiPod[] => [...pods.values()].filter(({ metadata }) => !going.has(metadata.uid));
  const moving = (): number =>
    [...pods.values()].filter(({ metadata, status }) => going.has(metadata.uid) || (status?.phase ?? "Pending") === "Pending").length;

  async function make(node: string, { account, guard, meshed, lifetime }: Kind): Promise<void> {
    const name = `pod-${made++}`;
    const labels = { guard, lifetime: String(lifetime), ...(meshed ? {} : { "trackbed.dev/mesh": "disabled" }) };
    const spec = {
      nodeName: node,
      serviceAccountName: account,
      automountServiceAccountToken: false,
      tolerations: [{ operator: "Exists" }],
      containers: [{ name: "member", image: "none" }],
    };
    const body = { apiVersion: "v1", kind: "Pod", metadata: { name, labels }, spec };
    const { metadata } = (await api.call({ method: "POST", path, body })) as ApiPod;
    members.set(name, { uid: metadata.uid, account, guard, meshed });
    await waitFor(`${name} is seen`, () => pods.has(metadata.uid) || stopped.signal.aborted, MOVE_MS);
  }

  async function remove({ metadata: { name, uid } }: ApiPod, gracePeriodSeconds: number): Promise<void> {
    going.add(uid);
    await api
      .call({ method: "DELETE", path: `${path}/${name}`, body: { gracePeriodSeconds, preconditions: { uid } } })
      .catch((error: unknown) => {
        if (pods.has(uid)) throw error;
      });
  }

  const kind = (): Kind => ({
    account: pick(ACCOUNTS),
    guard: pick(ACCOUNTS),
    meshed: random() < 0.85,
    lifetime: random() < 0.25 ? 2000 + Math.floor(random() * 4000) : 0,
  });

  return {
    members,
    present: () =>
      new Map(
        staying().flatMap(({ metadata, status }): [string, Member][] => {
          const member = members.get(metadata.name);
          return member === undefined || status?.phase !== "Running" || status.podIP === undefined ? [] : [[status.podIP, member]];
        }),
      ),
    make,
    async churn(count, at, enough) {
      // Asking whether it is enough reads all that was written: only every few pods.
      for (let begun = 0; begun < count || (begun < count * MOST_TIMES && (begun % FEW !== 0 || !enough())); ) {
        const room = nodes.filter((node) => onNode(node).length < addressesOf(node).length);
        if (room.length > 0 && (staying().length < FEW || random() < 0.55)) {
          await make(pick(room), kind());
          await at(++begun);
        } else if (staying().length > 0) await remove(pick(staying()), pick([0, 0, 1]));
        await waitFor(`no more than ${MOVING} pods are on their way`, () => moving() <= MOVING, MOVE_MS);
      }
    },
    async clear() {
      for (const pod of staying()) await remove(pod, 1);
      await waitFor("every pod is gone", () => pods.size === 0, MOVE_MS);
    },
    async stop() {
      stopped.abort();
      await following;
    },
  };
}

/** Small and good enough to be repeated by its seed. */
function mulberry32(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}
