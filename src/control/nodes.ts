// The way back: what each node says about its own pods, and the mesh-wide settings it gets in return.
import { Code, ConnectError, type HandlerContext, type ServiceImpl } from "@connectrpc/connect";
import type { NodeUpdate } from "#compile/compiler.ts";
import { type NodeReport, type Nodes, PodPhase, type PodReport, type Settings } from "#contract/gen/control_pb.ts";
import { createBell } from "#xds/bell.ts";
import { callerNode } from "./access.ts";
import type { MeshView } from "./view.ts";

export type ReportedPod = {
  readonly namespace: string;
  readonly name: string;
  readonly phase: PodPhase;
  readonly code: string;
  readonly reason: string;
};

export type NodeStatus = {
  readonly node: string;
  readonly connected: boolean;
  readonly since: Date;
  /** By uid; kept when the stream breaks: the last known state counts. */
  readonly pods: ReadonlyMap<string, ReportedPod>;
};

export type NodesOptions = {
  readonly view: MeshView;
  readonly settings: Pick<Settings, "trustDomain" | "clusterDomain" | "network" | "encryptSameNode">;
  readonly report: (update: NodeUpdate) => void;
  /** The same in the node's own words, as far as they are believed; null when its stream ended. */
  readonly onReport?: (node: string, report: BelievedReport | null) => void;
  /** A report that was not believed, or a stream that began or ended. */
  readonly onEvent: (node: string, event: string, detail: Record<string, unknown>) => void;
};

export type BelievedReport = {
  /** Of the node's kernel since its last start; empty from daemons that do not say. */
  readonly bootId: string;
  readonly snapshot: boolean;
  readonly pods: readonly PodReport[];
};

export type NodesServer = {
  readonly service: ServiceImpl<typeof Nodes>;
  status(): readonly NodeStatus[];
  /** The node's own stream ends here. */
  isAttached(node: string): boolean;
  disconnect(node: string): void;
  close(): void;
};

/** Ten times what a kubelet accepts on one node. */
const PODS_PER_NODE = 2_500;
/** A UUID, with room. */
const BOOT_ID_CHARACTERS = 64;
/** Texts from a node are shown to people; the rest is cut. */
const REASON_CHARACTERS = 512;

type State = { connected: boolean; since: Date; bootId: string; pods: Map<string, ReportedPod>; end: (() => void) | null };

/** Absent for a reason: it runs, and outside the mesh. Absent without one: it is over, or the node has only just begun with it. */
function isCaptured({ phase, code }: PodReport): boolean | null {
  if (phase === PodPhase.CAPTURED || phase === PodPhase.READY) return true;
  return code === "" ? null : false;
}

export function createNodesServer({ view, settings, report, onReport, onEvent }: NodesOptions): NodesServer {
  const states = new Map<string, State>();

  function take(node: string, message: NodeReport, first: boolean): void {
    if (message.node !== "" && message.node !== node) {
      throw new ConnectError(`the token belongs to node ${node}, the report to another`, Code.PermissionDenied);
    }
    if (first && !message.snapshot) throw new ConnectError("the first report must be a snapshot", Code.InvalidArgument);
    const state = states.get(node);
    if (state === undefined) return;
    if (message.snapshot) state.pods = new Map();
    if (first) state.bootId = message.bootId.slice(0, BOOT_ID_CHARACTERS);
    const pods = message.pods.filter((pod) => believed(node, pod));
    for (const { uid, namespace, name, phase, code, reason } of pods) {
      if (phase === PodPhase.ABSENT && code === "") state.pods.delete(uid);
      else state.pods.set(uid, { namespace, name, phase, code, reason: reason.slice(0, REASON_CHARACTERS) });
    }
    if (state.pods.size > PODS_PER_NODE) throw new ConnectError(`more than ${PODS_PER_NODE} pods on one node`, Code.ResourceExhausted);
    report({ node, snapshot: message.snapshot, pods: pods.map((pod) => ({ uid: pod.uid, captured: isCaptured(pod) })) });
    onReport?.(node, { bootId: state.bootId, snapshot: message.snapshot, pods });
  }

  /** A pod that the source does not know yet may be reported early: the compiler uses it only if it turns out to run there. */
  function believed(node: string, { uid, phase }: PodReport): boolean {
    const known = view.pod(uid);
    if (known !== undefined && known.nodeName !== node) {
      onEvent(node, "reports a pod of another node; ignored", {
        uid,
        pod: `${known.metadata.namespace}/${known.metadata.name}`,
        its: known.nodeName,
      });
      return false;
    }
    if (phase === PodPhase.ABSENT || phase === PodPhase.CAPTURED || phase === PodPhase.READY) return true;
    throw new ConnectError(`pod phase ${phase} is not known`, Code.InvalidArgument);
  }

  async function* attach(reports: AsyncIterable<NodeReport>, context: HandlerContext): AsyncGenerator<typeof settings> {
    const node = callerNode(context);
    const bell = createBell();
    const stream: { ended: boolean; fault: unknown } = { ended: false, fault: null };
    const end = (fault: unknown = null): void => {
      stream.fault ??= fault;
      stream.ended = true;
      bell.ring();
    };
    const own = (): void => end();
    states.get(node)?.end?.(); // a second stream of a node replaces the first
    states.set(node, { connected: true, since: new Date(), bootId: "", pods: states.get(node)?.pods ?? new Map(), end: own });
    onEvent(node, "attached", {});
    context.signal.addEventListener("abort", own);
    void readReports(reports, (message, first) => !stream.ended && take(node, message, first)).then(own, end);
    try {
      yield settings;
      while (!stream.ended) await bell.wait();
      if (stream.fault !== null) throw ConnectError.from(stream.fault, Code.Unavailable);
    } finally {
      context.signal.removeEventListener("abort", own);
      const state = states.get(node);
      if (state?.end === own) {
        Object.assign(state, { connected: false, since: new Date(), end: null });
        onReport?.(node, null);
      }
      onEvent(node, "detached", stream.fault === null ? {} : { fault: String(stream.fault) });
    }
  }

  function status(): readonly NodeStatus[] {
    return [...states].map(([node, { connected, since, pods }]) => ({ node, connected, since, pods }));
  }

  function disconnect(node: string): void {
    states.get(node)?.end?.();
    if (view.node(node) === undefined) states.delete(node);
  }

  return {
    service: { attach },
    status,
    isAttached: (node) => states.get(node)?.connected ?? false,
    disconnect,
    close: () => {
      for (const { end } of states.values()) end?.();
    },
  };
}

async function readReports(reports: AsyncIterable<NodeReport>, take: (message: NodeReport, first: boolean) => void): Promise<void> {
  let first = true;
  for await (const message of reports) {
    take(message, first);
    first = false;
  }
}
