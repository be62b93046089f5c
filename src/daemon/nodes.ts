// Tells control what became of this node's pods, and hears the mesh's settings: the way back of proto/control.proto.
import { setTimeout as sleep } from "node:timers/promises";
import { create } from "@bufbuild/protobuf";
import { createClient, type Transport } from "@connectrpc/connect";
import {
  type NodeReport,
  NodeReportSchema,
  Nodes,
  PodPhase,
  type PodReport,
  PodReportSchema,
  type Settings,
} from "#contract/gen/control_pb.ts";
import { bounds } from "#contract/tables.ts";
import type { EnrolmentState } from "#enrol/state.ts";
import type { Problem } from "#inspect/status.ts";
import { backoff } from "#xds/backoff.ts";
import type { PodRecord } from "./pod.ts";

export type Reporter = {
  /** The pod may look different now. */
  changed(record: PodRecord): void;
  forgotten(record: PodRecord): void;
  /** The first look at every pod is over: only from now on does silence about a pod mean that it is absent. */
  ready(): void;
  run(stop: AbortSignal): Promise<void>;
};

/** A stream that lived this long was healthy: the next break reconnects at once. */
const HEALTHY_MS = 5000;

const PHASES: Readonly<Record<EnrolmentState, PodPhase>> = {
  absent: PodPhase.ABSENT,
  captured: PodPhase.CAPTURED,
  ready: PodPhase.READY,
  // Its listeners still answer, but nothing new is redirected: peers must stop to use HBONE.
  leaving: PodPhase.ABSENT,
};

export function reporter(options: {
  readonly node: string;
  readonly bootId: string;
  readonly transport: Transport;
  readonly settings: (settings: Settings) => void;
  readonly broken: (error: unknown) => void;
  readonly random?: () => number;
  readonly now?: () => number;
}): Reporter {
  const { now = Date.now } = options;
  const nodes = createClient(Nodes, options.transport);
  /** What control must know, and which part of it the present stream was not told. Bounded by the node's pods. */
  const reports = new Map<string, PodReport>();
  const untold = new Set<string>();
  /** Pods that are over: kept only until control was told. */
  const over = new Set<string>();
  let known = false;
  let ring: () => void = () => undefined;

  function changed(record: PodRecord): void {
    const { uid } = record.spec;
    const next = reportOf(record, now());
    const previous = reports.get(uid);
    if (previous === undefined && next.phase === PodPhase.ABSENT && record.spec.desired !== "enrolled" && next.code === "") return;
    if (previous === undefined && isUnborn(record)) return;
    if (previous !== undefined && same(previous, next)) return;
    reports.set(uid, next);
    untold.add(uid);
    over.delete(uid);
    ring();
  }

  function forgotten(record: PodRecord): void {
    const { uid } = record.spec;
    const previous = reports.get(uid);
    if (previous === undefined) return;
    reports.set(uid, { ...previous, phase: PodPhase.ABSENT, code: "", reason: "" });
    untold.add(uid);
    over.add(uid);
    ring();
  }

  async function* tell(stop: AbortSignal): AsyncGenerator<NodeReport> {
    while (!known && !stop.aborted) await bell();
    bury(); // what a snapshot does not name is absent
    untold.clear();
    yield create(NodeReportSchema, { node: options.node, bootId: options.bootId, snapshot: true, pods: [...reports.values()] });
    while (!stop.aborted) {
      const pods = [...untold].map((uid) => reports.get(uid)).filter((report) => report !== undefined);
      untold.clear();
      bury();
      if (pods.length === 0) await bell();
      else yield create(NodeReportSchema, { node: options.node, bootId: options.bootId, snapshot: false, pods });
    }
  }

  function bury(): void {
    for (const uid of over) reports.delete(uid);
    over.clear();
  }

  const bell = (): Promise<void> =>
    new Promise((resolve) => {
      ring = resolve;
    });

  async function run(stop: AbortSignal): Promise<void> {
    const wait = backoff(options.random ?? Math.random);
    stop.addEventListener("abort", () => ring(), { once: true });
    while (!stop.aborted) {
      const opened = Date.now();
      const ended = new AbortController();
      const signal = AbortSignal.any([stop, ended.signal]);
      try {
        for await (const settings of nodes.attach(tell(signal), { signal })) options.settings(settings);
      } catch (error) {
        if (!stop.aborted) options.broken(error);
      } finally {
        ended.abort();
        ring();
      }
      if (Date.now() - opened >= HEALTHY_MS) wait.reset();
      await sleep(wait.next(), undefined, { signal: stop }).catch(() => undefined);
    }
  }

  return {
    changed,
    forgotten,
    ready: () => {
      known = true;
      ring();
    },
    run,
  };
}

/** What every new pod lacks until its status is out and its certificate has come: for as long as its connections are held nobody is the worse for it. */
const AWAITED: readonly string[] = ["E_IDENTITY_MISSING", "E_WORKLOAD_UNKNOWN"];

const isTrouble = ({ code, since }: Problem, now: number): boolean =>
  !AWAITED.includes(code) || now - Date.parse(since) >= bounds.holdMilliseconds;

function reportOf({ spec, state, observed, problem: seen }: PodRecord, now: number): PodReport {
  const problem = seen !== null && isTrouble(seen, now) ? seen : null;
  return create(PodReportSchema, {
    uid: spec.uid,
    namespace: spec.namespace,
    name: spec.name,
    // While a captured pod's namespace is being replaced, or after a reboot, there is nothing to reach; called absent, the next one, or
    // whoever gets its address, would be sent plaintext.
    phase: state === "absent" && (observed.captured !== null || isVacant(spec)) ? PodPhase.CAPTURED : PHASES[state],
    netnsCookie: observed.namespace === "unknown" ? 0n : (observed.namespace?.cookie ?? 0n),
    code: problem?.code ?? "",
    reason: problem?.reason ?? "",
  });
}

const isVacant = ({ desired, vacant }: PodRecord["spec"]): boolean => desired === "enrolled" && vacant;

/** Its runtime has not made its sandbox yet: that is how every pod of a cluster begins, and nothing to tell of. */
const isUnborn = ({ spec, observed }: PodRecord): boolean =>
  spec.netns === null && spec.addresses.length === 0 && observed.captured === null && observed.engine.holds === null;

const same = (a: PodReport, b: PodReport): boolean =>
  a.phase === b.phase && a.netnsCookie === b.netnsCookie && a.code === b.code && a.reason === b.reason;
