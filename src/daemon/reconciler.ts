// Brings every pod of the node to its desired state and keeps it there: one pass at a time per pod, a few pods at once, a sweep besides.
import type { Hello, PodGone, PodState } from "#contract/gen/engine_pb.ts";
import { bounds, type ErrorCode, errors } from "#contract/tables.ts";
import { type Desired, type EngineFacts, isOver, type NamespaceIdentity, sameNamespace } from "#enrol/state.ts";
import { type Backoff, backoff } from "#xds/backoff.ts";
import type { PodSpec } from "./desired.ts";
import { type Farewell, type Hands, happen, newRecord, nextStep, noteDrift, type Outcome, type PodRecord, pass, take } from "./pod.ts";

export type ReconcilerEvents = {
  /** A pass ended; its pod may look different now. */
  settled(record: PodRecord): void;
  /** The pod is over and nothing is left of it. */
  forgotten(record: PodRecord): void;
  /** Rules or routing that were in force were found changed; `by` names the process that did it, where the kernel tells. */
  drifted(record: PodRecord, by: string): void;
  /** How the repair of that went. */
  repaired(record: PodRecord, result: "done" | "failed"): void;
};

export type ReconcilerOptions = {
  readonly bootId: string;
  readonly hands: Hands;
  readonly events: ReconcilerEvents;
  /** The engine was told of every pod that it may keep. */
  readonly named: () => void;
  /** Connections that are older than their capture. */
  readonly countUnmeshed: (spec: PodSpec) => Promise<number | null>;
  /** What the pod's path leads to at this moment, as cheaply as can be told; another answer than before means: look. */
  readonly glance: (spec: PodSpec) => string;
  /** What becomes of a pod that no document names any more; default "deleted". */
  readonly over?: Extract<Desired, "deleted" | "gone">;
  readonly farewell?: Farewell;
  readonly random?: () => number;
  readonly sweepMilliseconds?: number;
  readonly glanceMilliseconds?: number;
};

export type Reconciler = {
  readonly records: ReadonlyMap<string, PodRecord>;
  /** The node's pods as the source has them, whole. While `complete` is false, pods that are missing here may still be wanted. */
  update(specs: ReadonlyMap<string, PodSpec>, complete: boolean): void;
  /** A pod that was captured in another life of the daemon and that no document names any more. Before the first update. */
  remember(spec: PodSpec, captured: NamespaceIdentity): void;
  /** A pod whose containers wait for its capture: in this namespace rules come before everything else. */
  promise(uid: string, namespace: NamespaceIdentity): void;
  attached(hello: Hello): void;
  detached(): void;
  podState(state: PodState): void;
  podGone(gone: PodGone): void;
  drift(uid: string, by?: string): void;
  /** Every pod that the source named was looked at once. */
  readonly lookedAtAll: boolean;
  /** So it was with an engine that may have it. */
  readonly metAll: boolean;
  stop(): Promise<void>;
};

/** Each pass runs nft, ip and nsenter: more at once would only make each slower, and a node starts with all its pods. */
const CONCURRENT = 8;
const SWEEP_MS = 5000;
/** A ready pod is watched by the engine, which tells of changes at once: the sweep is its second pair of eyes and looks at every sixth turn. */
const WATCHED_TURNS = 6;
/** A pod whose namespace was replaced is outside of the mesh until it is seen; one stat a pod costs microseconds. */
const GLANCE_MS = 250;
/** An engine answers AddPod within the 5 s that it waits for a hand-over; after this it is told again. */
const ENGINE_SILENT_MS = 10_000;
const FIRST_RETRY_MS = 100;
const LAST_RETRY_MS = 5000;

type Entry = {
  readonly record: PodRecord;
  readonly pause: Backoff;
  running: boolean;
  again: boolean;
  sweep: boolean;
  /** The event that happens to the pod after a pause. */
  pending: { readonly what: "retry" | "engineSilent"; readonly timer: NodeJS.Timeout } | null;
  looked: boolean;
  /** A pass over it found an engine connected. */
  met: boolean;
  /** A drift was noticed while a pass was on: the next one looks and tells, instead of this one mending it in silence. */
  moved: boolean;
  /** Who changed the namespace since the last look, as far as notices say. */
  by: string;
  /** The last glance at its path. */
  seen: string | null;
  /** The plan changed: rules that differ from it now are no drift. */
  respecified: boolean;
};

export const usualFarewell: Farewell = { drainMilliseconds: bounds.drainMilliseconds, alone: () => false };

export function reconciler(options: ReconcilerOptions): Reconciler {
  const { bootId, hands, events, over = "deleted", random = Math.random } = options;
  const { farewell = usualFarewell } = options;
  const entries = new Map<string, Entry>();
  const records = new Map<string, PodRecord>();
  const queue: Entry[] = [];
  let active = 0;
  let stopped = false;
  let source: { complete: boolean } | null = null;
  /** Hello that waits for the source to know which pods to keep. */
  let unanswered: Hello | null = null;
  let instance = "";
  let idle: () => void = () => undefined;

  const identity = (cookie: bigint): NamespaceIdentity => ({ bootId, cookie });
  const factsOf = ({ listening, identity: certified, policy, connections, code, reason }: PodState): EngineFacts => ({
    listening,
    identity: certified,
    policy,
    connections,
    fault: code === "" ? null : { code: code in errors ? (code as ErrorCode) : "E_ENGINE_LIMIT", reason },
  });

  function add(spec: PodSpec, captured: NamespaceIdentity | null): Entry {
    const record = newRecord(spec, captured);
    const entry: Entry = {
      record,
      pause: backoff(random, FIRST_RETRY_MS, LAST_RETRY_MS),
      running: false,
      again: false,
      sweep: false,
      pending: null,
      looked: false,
      met: false,
      moved: false,
      by: "",
      seen: null,
      respecified: false,
    };
    entries.set(spec.uid, entry);
    records.set(spec.uid, record);
    if (instance !== "") happen(record, { what: "attached", sameInstance: false, pod: null });
    return entry;
  }

  function kick(entry: Entry): void {
    if (stopped || source === null) return;
    if (entry.running) {
      entry.again = true;
      return;
    }
    entry.running = true;
    queue.push(entry);
    turn();
  }

  function turn(): void {
    while (active < CONCURRENT) {
      const entry = queue.shift();
      if (entry === undefined) return;
      active++;
      void work(entry).finally(() => {
        active--;
        entry.running = false;
        if (entry.again) {
          entry.again = false;
          kick(entry);
        }
        turn();
        if (active === 0) idle();
      });
    }
  }

  async function work(entry: Entry): Promise<void> {
    const { record } = entry;
    const swept = entry.sweep;
    entry.sweep = false;
    const phase = record.state;
    const { connected } = record.observed.engine;
    if (entry.moved) happen(record, { what: "drift" });
    entry.moved = false;
    if (isOver(record.spec.desired) && pathTaken(record.spec)) record.spec = { ...record.spec, netns: null };
    const before = inForce(record);
    if (swept || record.observed.rules === "unknown") await take(record, { do: "readBack" }, hands);
    const drifted =
      !entry.respecified &&
      before !== null &&
      record.spec.desired === "enrolled" &&
      record.observed.namespace !== null && // with it went everything in it, by nobody's hand
      sameNamespace(before, record.observed.captured) &&
      inForce(record) === null;
    entry.respecified = false;
    if (drifted) {
      noteDrift(record, entry.by);
      events.drifted(record, entry.by);
    }
    entry.by = ""; // a notice of our own change must not be blamed for a later one
    const { namespace } = record.observed;
    if (
      record.spec.closed &&
      record.spec.desired === "enrolled" &&
      record.observed.captured === null &&
      namespace !== "unknown" &&
      namespace !== null
    )
      happen(record, { what: "promised", namespace });
    const outcome = await pass(record, hands, farewell);
    if (drifted) events.repaired(record, inForce(record) === null ? "failed" : "done");
    if (record.state === "absent") record.notMeshed = null;
    else if (swept || record.state !== phase) record.notMeshed = await options.countUnmeshed(record.spec).catch(() => null);
    entry.looked = true;
    entry.met ||= connected;
    conclude(entry, outcome);
  }

  /** The namespace in which our rules were last read as they should be, or were promised to be. */
  const inForce = ({ observed }: PodRecord): NamespaceIdentity | null =>
    observed.rules === "unknown" || (observed.rules === "equal" && observed.routing) ? observed.captured : null;

  function conclude(entry: Entry, outcome: Outcome): void {
    const { record } = entry;
    events.settled(record);
    const { connected, facts, added, draining } = record.observed.engine;
    if (outcome.end === "failed") later(entry, "retry", () => entry.pause.next());
    // The engine said why it cannot listen: give it the pod anew after a pause. It said nothing at all: the same, after a longer one.
    else if (outcome.end === "waiting" && connected && draining === null && facts?.listening === false && facts.fault !== null) {
      later(entry, "engineSilent", () => entry.pause.next());
    } else if (outcome.end === "waiting" && connected && facts === null && (added || draining !== null)) {
      later(entry, "engineSilent", () => ENGINE_SILENT_MS);
    } else calm(entry);
    if (outcome.end !== "settled") return;
    entry.pause.reset();
    if (!isOver(record.spec.desired) || entry.again) return;
    entries.delete(record.spec.uid);
    records.delete(record.spec.uid);
    events.forgotten(record);
  }

  /** A pause that is under way goes on: events that come meanwhile must not put off the retry for ever. */
  function later(entry: Entry, what: "retry" | "engineSilent", pause: () => number): void {
    if (entry.pending?.what === what) return;
    calm(entry);
    const timer = setTimeout(() => {
      entry.pending = null;
      happen(entry.record, { what });
      kick(entry);
    }, pause());
    entry.pending = { what, timer };
  }

  function calm(entry: Entry): void {
    clearTimeout(entry.pending?.timer);
    entry.pending = null;
  }

  const pathTaken = (spec: PodSpec): boolean =>
    spec.netns !== null &&
    [...entries.values()].some(({ record }) => record.spec !== spec && !isOver(record.spec.desired) && record.spec.netns === spec.netns);

  function update(specs: ReadonlyMap<string, PodSpec>, complete: boolean): void {
    source = { complete };
    const touched: Entry[] = [];
    for (const spec of specs.values()) {
      const entry = entries.get(spec.uid);
      if (entry !== undefined) respecify(entry, spec);
      touched.push(entry ?? add(spec, null));
    }
    for (const entry of entries.values()) {
      const { spec } = entry.record;
      // A pod that we only remember may be one whose document cannot be read at this moment.
      if (specs.has(spec.uid) || (!complete && !entry.looked)) continue;
      if (!isOver(spec.desired)) respecify(entry, { ...spec, desired: over, refused: null });
      touched.push(entry);
    }
    if (unanswered !== null) answer(unanswered);
    for (const entry of touched) kick(entry);
  }

  function respecify(entry: Entry, spec: PodSpec): void {
    const { record } = entry;
    const old = record.spec;
    record.spec = spec;
    if (!sameForEngine(old, spec)) {
      entry.respecified = true;
      happen(record, { what: "respecified" });
    } else if (old.desired !== spec.desired) happen(record, { what: "drift" });
  }

  function attached(hello: Hello): void {
    const sameInstance = hello.instance === instance;
    instance = hello.instance;
    const held = new Map(hello.pods.map((pod) => [pod.uid, pod]));
    for (const { record } of entries.values()) {
      const pod = held.get(record.spec.uid);
      happen(record, {
        what: "attached",
        sameInstance,
        pod: pod === undefined ? null : { namespace: identity(pod.netnsCookie), facts: factsOf(pod) },
      });
      record.certificateNotAfter = pod?.certificateNotAfter ?? 0n;
    }
    unanswered = hello;
    if (source !== null) answer(hello);
  }

  /** Names what the engine may keep, in the namespaces that it holds; the passes that follow mend what is not right about them. */
  function answer(hello: Hello): void {
    for (const pod of hello.pods) {
      const record = entries.get(pod.uid)?.record;
      if (record === undefined || isOver(record.spec.desired)) continue;
      const namespace = identity(pod.netnsCookie);
      if (record.observed.engine.facts === null) happen(record, { what: "podState", namespace, facts: factsOf(pod) });
      if (!hands.addPod(record.spec, namespace)) return; // gone again; its next Hello is answered anew
      happen(record, { what: "podAdded" });
      if (record.spec.desired === "absent" && hands.removePod(record.spec, farewell.drainMilliseconds)) {
        happen(record, { what: "podRemoved", drainMilliseconds: farewell.drainMilliseconds });
      }
    }
    // Pods that the engine holds and nobody named are taken from it now: not while a document that may name them cannot be read.
    if (source?.complete) {
      unanswered = null;
      options.named();
    }
    for (const entry of entries.values()) kick(entry);
  }

  function detached(): void {
    unanswered = null;
    for (const entry of entries.values()) {
      happen(entry.record, { what: "detached" });
      kick(entry);
    }
  }

  function podState(state: PodState): void {
    const entry = entries.get(state.uid);
    if (entry === undefined) return;
    entry.record.certificateNotAfter = state.certificateNotAfter;
    // It has spoken. On a node that starts with hundreds of pods the pass that this leads to may be later than the end of the pause, and
    // would find the pod given anew, and so for ever.
    if (entry.pending?.what === "engineSilent") calm(entry);
    happen(entry.record, { what: "podState", namespace: identity(state.netnsCookie), facts: factsOf(state) });
    kick(entry);
  }

  function podGone(gone: PodGone): void {
    const entry = entries.get(gone.uid);
    if (entry === undefined) return;
    // An engine that never had the pod knows no cookie; what it was asked to let go is gone all the same.
    const { holds, draining } = entry.record.observed.engine;
    const namespace = gone.netnsCookie === 0n && draining !== null && holds !== null ? holds : identity(gone.netnsCookie);
    happen(entry.record, { what: "podGone", namespace });
    kick(entry);
  }

  function drift(uid: string, by = ""): void {
    const entry = entries.get(uid);
    if (entry === undefined) return;
    if (by !== "") entry.by = by;
    entry.moved = true;
    kick(entry);
  }

  let turns = 0;
  const sweep = setInterval(() => {
    turns++;
    for (const [i, entry] of [...entries.values()].entries()) {
      const { spec, state } = entry.record;
      // By its place, so that a full node's pods are not looked at all in one moment.
      if (state === "ready" && (turns + i) % WATCHED_TURNS !== 0) continue;
      // Its turn will come: a node that is behind with its pods gets no further by looking at each twice.
      if (entry.running) continue;
      if (spec.desired !== "enrolled" && nextStep(entry.record, farewell).do === "nothing") continue;
      entry.sweep = true;
      kick(entry);
    }
  }, options.sweepMilliseconds ?? SWEEP_MS);

  const glances = setInterval(() => {
    for (const entry of entries.values()) {
      if (entry.record.spec.desired !== "enrolled" || !entry.looked) continue;
      const seen = options.glance(entry.record.spec);
      const moved = entry.seen !== null && entry.seen !== seen;
      entry.seen = seen;
      if (moved) drift(entry.record.spec.uid);
    }
  }, options.glanceMilliseconds ?? GLANCE_MS);

  return {
    records,
    update,
    remember: (spec, captured) => {
      add({ ...spec, desired: over }, captured);
    },
    promise: (uid, namespace) => {
      const entry = entries.get(uid);
      if (entry === undefined || entry.record.spec.desired !== "enrolled") return;
      entry.respecified = true; // rules that were never there are no drift
      happen(entry.record, { what: "promised", namespace });
      kick(entry);
    },
    attached,
    detached,
    podState,
    podGone,
    drift,
    get lookedAtAll() {
      return source !== null && [...entries.values()].every(({ looked }) => looked);
    },
    get metAll() {
      return source !== null && [...entries.values()].every(({ met }) => met);
    },
    stop: async () => {
      stopped = true;
      clearInterval(sweep);
      clearInterval(glances);
      queue.length = 0;
      for (const entry of entries.values()) calm(entry);
      if (active > 0) await new Promise<void>((resolve) => (idle = resolve));
    },
  };
}

const sameForEngine = (a: PodSpec, b: PodSpec): boolean => fingerprint(a) === fingerprint(b);

const fingerprint = ({ namespace, name, serviceAccount, netns, addresses, dnsSearch, capture, observe }: PodSpec): string =>
  JSON.stringify([namespace, name, serviceAccount, netns, addresses, dnsSearch, capture, observe], (_key, value: unknown) =>
    value instanceof Uint8Array ? [...value] : value,
  );
