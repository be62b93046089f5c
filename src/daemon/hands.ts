// What the state machine's steps do to the node: namespaces visited, rules replaced, the engine told.
import { create } from "@bufbuild/protobuf";
import { AddPodSchema, Observe } from "#contract/gen/engine_pb.ts";
import type { Director } from "#engine/director.ts";
import { handOver, type OpenNamespace, readCookie, readHoldings, visitNamespace } from "#engine/namespace.ts";
import { type NamespaceIdentity, sameNamespace } from "#enrol/state.ts";
import { parseAddress } from "#mesh/address.ts";
import { isMeshError, meshError } from "#mesh/error.ts";
import type { Observation } from "#mesh/observe.ts";
import type { Backend, Comparison, Known, Reading } from "#redirect/backend.ts";
import type { Plan } from "#redirect/plan.ts";
import type { PodSpec } from "./desired.ts";
import type { Hands, Read } from "./pod.ts";
import { holdsAny } from "./sandboxes.ts";

export type HandsOptions = {
  readonly bootId: string;
  /** Path of trackbed-netns. */
  readonly helper: string;
  /** Path of netns.sock. */
  readonly netnsSocket: string;
  readonly director: () => Director;
  readonly backend: Backend;
  readonly planOf: (spec: PodSpec) => Plan;
  readonly compare: (reading: Reading, plan: Plan) => Comparison;
  /** Where paths are found instead of given: told of a pod whose path leads to a namespace without any of its addresses. */
  readonly strayed?: (spec: PodSpec) => void;
};

const hasRouting = ({ routing: { rule4, rule6, lo6, route4, route6 } }: Reading): boolean => rule4 + rule6 + lo6 + route4 + route6 > 0;

const observations: Readonly<Record<Observation, Observe>> = {
  off: Observe.OFF,
  protocol: Observe.UNSPECIFIED,
  sampled: Observe.SAMPLED,
  full: Observe.FULL,
};

const NOTHING: Read = { namespace: null, rules: "none", routing: false, foreign: null, differences: [], warnings: [] };

export function createHands(options: HandsOptions): Hands {
  const { bootId, helper, netnsSocket, director, backend, planOf, compare, strayed } = options;
  /** By the spec that a pass goes by: what it reads first need not be read again when rules are applied next. */
  const known = new WeakMap<PodSpec, Known>();
  const identify = async (open: OpenNamespace): Promise<NamespaceIdentity> => ({ bootId, cookie: await readCookie(helper, open) });

  /** A found path may lead to another pod by now, whose traffic would go under this one's name. */
  async function recognise(open: OpenNamespace, spec: PodSpec): Promise<NamespaceIdentity> {
    if (strayed === undefined || spec.desired !== "enrolled" || spec.addresses.length === 0) return identify(open);
    const { cookie, addresses } = await readHoldings(helper, open);
    if (holdsAny(addresses, spec.addresses)) return { bootId, cookie };
    strayed(spec);
    throw meshError(
      "E_CAPTURE_NETNS_FOREIGN",
      `pod ${spec.namespace}/${spec.name}: the network namespace at ${spec.netns} holds ${addresses.join(", ") || "no address"}, none of ${spec.addresses.join(", ")}`,
    );
  }

  const gone = (spec: PodSpec): Error =>
    meshError(
      "E_CAPTURE_NETNS_GONE",
      `pod ${spec.namespace}/${spec.name}: there is no network namespace at ${spec.netns ?? "(no path is known)"}`,
    );

  /** The decision was made for one namespace; the path may lead to another by now. */
  const inside = <T>(spec: PodSpec, decided: NamespaceIdentity, act: (open: OpenNamespace) => Promise<T>): Promise<T> =>
    visitNamespace(spec.netns, async (open) => {
      if (open === null) throw gone(spec);
      if (!sameNamespace(await identify(open), decided)) {
        throw meshError("E_CAPTURE_NETNS_GONE", `pod ${spec.namespace}/${spec.name}: the network namespace at ${spec.netns} was replaced`);
      }
      return await act(open);
    });

  /** A pod that shall not be in the mesh has nothing of ours in the node's own namespace, and its end must not wait for a better path. */
  const unlessOurs =
    ({ desired }: PodSpec) =>
    (error: unknown): Read => {
      if (desired !== "enrolled" && isMeshError(error) && error.code === "E_CAPTURE_HOST_NETWORK") return NOTHING;
      throw error;
    };

  return {
    read: (spec) =>
      visitNamespace(spec.netns, async (open): Promise<Read> => {
        if (open === null) return NOTHING;
        const namespace = await recognise(open, spec);
        const reading = await backend.read(open.path);
        known.set(spec, reading);
        const comparison = compare(reading, planOf(spec));
        const sentence = ({ where, reason }: Reading["foreign"][number]): string => `${where}: ${reason}`;
        const mesh = reading.foreign.find(({ kind }) => kind === "mesh");
        return {
          namespace,
          rules: comparison.rules,
          // Out of the mesh one left-over line is too much; in it every line must be there.
          routing: spec.desired === "enrolled" ? comparison.routing : hasRouting(reading),
          foreign: mesh === undefined ? null : sentence(mesh),
          differences: spec.desired === "enrolled" ? comparison.differences : [],
          warnings: reading.foreign.filter(({ kind }) => kind !== "mesh").map(sentence),
        };
      }).catch(unlessOurs(spec)),
    handOver: (spec, decided) =>
      inside(spec, decided, async (open) => ({ bootId, cookie: await handOver(helper, netnsSocket, spec.uid, open) })),
    applyRules: (spec, into) =>
      inside(spec, into, ({ path }) => {
        const last = known.get(spec);
        known.delete(spec); // once: what it says is over with the rules
        return backend.apply(path, planOf(spec), last);
      }),
    applyHolder: (spec, into) => inside(spec, into, ({ path }) => backend.holder(path)),
    removeRules: (spec, from) => inside(spec, from, ({ path }) => backend.remove(path)),
    addPod: (spec, { cookie }) =>
      director().addPod(
        create(AddPodSchema, {
          uid: spec.uid,
          name: spec.name,
          namespace: spec.namespace,
          serviceAccount: spec.serviceAccount,
          netnsCookie: cookie,
          addresses: spec.addresses.map(parseAddress).filter((address) => address !== null),
          dnsSearch: [...spec.dnsSearch],
          captureInbound: spec.capture.inbound,
          captureDns: spec.capture.dns,
          observe: observations[spec.observe],
        }),
      ),
    removePod: (spec, drainMilliseconds) => director().removePod(spec.uid, drainMilliseconds),
    prove: (spec) => director().prove(spec.uid),
  };
}
