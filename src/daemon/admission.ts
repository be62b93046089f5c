// Answers the CNI plugin: a new pod of the mesh starts when it is captured, another one at once, and a pod that goes is let go first.
import type { CniOutcome, CniRefusal, CniRequest } from "#cni/request.ts";
import type { CniHandlers } from "#cni/server.ts";
import { bounds } from "#contract/tables.ts";
import { type NamespaceIdentity, sameNamespace } from "#enrol/state.ts";
import type { Enrolment } from "#mesh/enrolment.ts";
import { explainError, meshError } from "#mesh/error.ts";
import type { Namespace, Pod } from "#mesh/objects.ts";
import type { PodRecord } from "./pod.ts";
import type { Sandboxes } from "./sandboxes.ts";

export type AdmissionOptions = {
  /** The objects as the API server has them now, past every cache; null = it has no such pod. */
  readonly fresh: (namespace: string, pod: string, stop: AbortSignal) => Promise<Facts | null>;
  /** What was last heard of them. */
  readonly known: (namespace: string, pod: string) => { readonly namespace: Namespace | undefined; readonly pod: Pod | undefined };
  readonly decide: (namespace: Namespace | undefined, pod: Pod) => Enrolment;
  readonly sandboxes: Sandboxes;
  /** The pods of this node are known; what is enrolled before would make all others look deleted. */
  readonly started: Promise<void>;
  /** Takes the objects over and lets the reconciler work on what follows from them. */
  readonly adopt: (facts: Facts) => void;
  /** The same for a sandbox that came or went. */
  readonly moved: () => void;
  readonly identify: (path: string) => Promise<NamespaceIdentity | null>;
  readonly promise: (uid: string, namespace: NamespaceIdentity) => void;
  readonly record: (uid: string) => PodRecord | undefined;
  /** Calls back whenever a pod may look different; returns what ends that. */
  readonly onSettled: (call: () => void) => () => void;
  readonly addMilliseconds?: number;
};

export type Facts = { readonly namespace: Namespace | null; readonly pod: Pod };

/** The plugin of a pod outside of the mesh waits 3 s for a first word. */
const FRESH_MS = 2000;
/** Below the plugin's own patience for a pod that goes. */
const DEL_MS = 2000;

export function admission(options: AdmissionOptions): CniHandlers {
  const { sandboxes, record } = options;
  const deadline = options.addMilliseconds ?? bounds.cniAddMilliseconds;

  async function add(request: CniRequest, working: () => void): Promise<CniOutcome> {
    const { podUid } = request;
    const facts = await lookUp(request);
    if ("code" in facts) return facts;
    const { enrolled } = options.decide(facts.namespace ?? undefined, facts.pod);
    if (!enrolled) {
      sandboxes.announce(request);
      return { captured: false };
    }
    working();
    if (facts.pod.metadata.uid !== podUid)
      return undecided(
        `the API server has a pod of this name with uid ${facts.pod.metadata.uid}, the runtime starts ${podUid}; static pods cannot be in the mesh`,
      );
    const ended = Date.now() + deadline;
    await withDeadline(options.started, ended);
    const namespace = await options.identify(sandboxes.path(request.netns));
    if (namespace === null) return { code: "E_CAPTURE_NETNS_GONE", reason: `there is no network namespace at ${request.netns}` };
    sandboxes.announce(request);
    options.adopt(facts);
    options.promise(podUid, namespace);
    // A pod that is deleted meanwhile will not be captured any more: its runtime must not wait for that.
    await until(() => isCaptured(record(podUid), namespace) || !isWanted(podUid), ended);
    const after = isWanted(podUid) ? record(podUid) : undefined;
    return isCaptured(after, namespace) ? { captured: true } : notCaptured(after, namespace);
  }

  const isWanted = (uid: string): boolean => record(uid)?.spec.desired === "enrolled";

  /** The API's own word; while it has none, what was last heard of this very pod: another one of its name may have had other labels. */
  async function lookUp({ podNamespace, podName, podUid }: CniRequest): Promise<Facts | CniRefusal> {
    try {
      const facts = await options.fresh(podNamespace, podName, AbortSignal.timeout(FRESH_MS));
      if (facts === null) return undecided("the API server does not have the pod");
      // Its label may enrol the pod: no namespace is not a namespace without a label.
      return facts.namespace === null ? undecided(`the API server has no namespace ${podNamespace} that can be read`) : facts;
    } catch (error) {
      const { namespace, pod } = options.known(podNamespace, podName);
      if (namespace !== undefined && pod?.metadata.uid === podUid) return { namespace, pod };
      return undecided(`the API server does not answer and the pod is not known here: ${explainError(error)}`);
    }
  }

  async function check({ podUid, podNamespace, podName, netns }: CniRequest): Promise<CniOutcome> {
    const { namespace, pod } = options.known(podNamespace, podName);
    if (pod === undefined || !options.decide(namespace, pod).enrolled) return { captured: false };
    const here = await options.identify(sandboxes.path(netns));
    if (here === null) return { code: "E_CAPTURE_NETNS_GONE", reason: `there is no network namespace at ${netns}` };
    return isCaptured(record(podUid), here) ? { captured: true } : notCaptured(record(podUid), here);
  }

  /** Its address may be another pod's as soon as this returns, so the engine must have let go. */
  async function del(request: CniRequest): Promise<CniOutcome> {
    if (!sandboxes.release(request)) return { captured: false };
    const before = record(request.podUid);
    if (before === undefined) return { captured: false };
    options.moved();
    await until(() => {
      const now = record(request.podUid);
      return now === undefined || (now.observed.engine.holds === null && now.observed.engine.facts === null);
    }, Date.now() + DEL_MS);
    return { captured: false };
  }

  function until(holds: () => boolean, ended: number): Promise<boolean> {
    if (holds()) return Promise.resolve(true);
    return new Promise((resolve) => {
      const done = (result: boolean): void => {
        clearTimeout(timer);
        off();
        resolve(result);
      };
      const off = options.onSettled(() => {
        if (holds()) done(true);
      });
      const timer = setTimeout(() => done(false), Math.max(0, ended - Date.now()));
    });
  }

  return { add, check, del };
}

const undecided = (reason: string): CniRefusal => ({ code: "E_CNI_UNDECIDED", reason });

/** Captured: every packet of the pod meets our rules and the engine listens behind them; identity and policy may still be on their way. */
function isCaptured(record: PodRecord | undefined, namespace: NamespaceIdentity): boolean {
  if (record === undefined) return false;
  const { namespace: there, rules, routing, engine } = record.observed;
  return (
    there !== "unknown" &&
    sameNamespace(there, namespace) &&
    rules === "equal" &&
    routing &&
    engine.connected &&
    engine.facts?.listening === true
  );
}

function notCaptured(record: PodRecord | undefined, namespace: NamespaceIdentity): CniRefusal {
  if (record === undefined) return { code: "E_CNI_NOT_CAPTURED", reason: "the pod left the mesh while it was being captured" };
  const { namespace: there, rules, routing, engine } = record.observed;
  if (record.problem !== null && !isCaptured(record, namespace)) return { code: record.problem.code, reason: record.problem.reason };
  if (there !== "unknown" && !sameNamespace(there, namespace))
    return { code: "E_CNI_NOT_CAPTURED", reason: "another sandbox of the pod took this one's place" };
  if (rules !== "equal" || !routing) return { code: "E_CNI_NOT_CAPTURED", reason: `its rules are not in force (${rules})` };
  return { code: "E_CNI_NOT_CAPTURED", reason: engine.connected ? "the engine does not listen in it yet" : "no engine is connected" };
}

async function withDeadline(promise: Promise<void>, ended: number): Promise<void> {
  const late = Promise.withResolvers<never>();
  const timer = setTimeout(
    () => late.reject(meshError("E_CNI_UNDECIDED", "the daemon has not read the node's pods yet")),
    Math.max(0, ended - Date.now()),
  );
  try {
    await Promise.race([promise, late.promise]);
  } finally {
    clearTimeout(timer);
  }
}
