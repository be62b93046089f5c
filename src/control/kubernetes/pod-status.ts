// Writes what this replica's nodes say about their pods where `kubectl` shows it: a condition on the pod, and an Event when there is trouble.
import { kubernetes } from "#contract/tables.ts";
import type { Pod } from "#mesh/objects.ts";
import type { Api } from "#source/kubernetes/api.ts";
import { isStatus } from "#source/kubernetes/failure.ts";
import { objectPath, PODS } from "#source/kubernetes/resources.ts";
import type { Change } from "#source/source.ts";
import type { BelievedReport } from "../nodes.ts";
import type { MeshView } from "../view.ts";
import { conditionOf, isSame, type Said } from "./condition.ts";
import { writeEvent } from "./event.ts";
import { createWriter, type WriterTimes } from "./writer.ts";

export type PodStatusOptions = {
  readonly api: Api;
  readonly view: MeshView;
  /** Of this replica, for Events. */
  readonly instance: string;
  readonly onWritten: (kind: "condition" | "event", result: "ok" | "failed") => void;
  readonly onError: (pod: string, error: unknown) => void;
  readonly times?: WriterTimes;
};

export type PodStatus = {
  /** Null when the node's stream ended: what it said is then another replica's to write. */
  reported(node: string, report: BelievedReport | null): void;
  /** Somebody may have written over a condition. */
  changed(change: Pick<Change, "put">): void;
  pending(): number;
  idle(): Promise<void>;
};

type Wanted = { readonly node: string; readonly namespace: string; readonly name: string; readonly said: Said | null };

export function createPodStatus({ api, view, instance, onWritten, onError, times }: PodStatusOptions, stop: AbortSignal): PodStatus {
  /** By uid: what each pod of the attached nodes should show. As many as they have enrolled pods, which their streams bound. */
  const wanted = new Map<string, Wanted>();
  const writer = createWriter(
    {
      write,
      onError: (uid, error) => onError(nameOf(wanted.get(uid)) ?? uid, error),
      ...(times === undefined ? {} : { times }),
    },
    stop,
  );

  const want = (uid: string, one: Wanted): void => {
    wanted.set(uid, one);
    const pod = view.pod(uid);
    if (pod === undefined || !isSame(pod.captured, one.said)) writer.ask(uid);
  };

  function reported(node: string, report: BelievedReport | null): void {
    if (report === null) {
      for (const [uid, one] of wanted) if (one.node === node) forget(uid);
      return;
    }
    if (report.snapshot) {
      const named = new Set(report.pods.map(({ uid }) => uid));
      for (const [uid, one] of wanted) if (one.node === node && !named.has(uid)) want(uid, { ...one, said: null });
      // Left by a replica or a daemon that is gone.
      for (const pod of view.podsOn(node))
        if (pod.captured !== null && !named.has(pod.metadata.uid)) want(pod.metadata.uid, { node, ...pod.metadata, said: null });
    }
    for (const pod of report.pods) {
      const { uid, namespace, name } = pod;
      want(uid, { node, namespace, name, said: conditionOf(pod, report.bootId) });
    }
  }

  function forget(uid: string): void {
    wanted.delete(uid);
    writer.drop(uid);
  }

  function changed({ put }: Pick<Change, "put">): void {
    for (const object of put) {
      if (object.kind !== "Pod") continue;
      const one = wanted.get(object.metadata.uid);
      if (one !== undefined && !isSame(object.captured, one.said)) writer.ask(object.metadata.uid);
    }
  }

  async function write(uid: string): Promise<void> {
    const one = wanted.get(uid);
    if (one === undefined) return;
    const pod = view.pod(uid);
    const before = pod?.captured ?? null;
    if (pod !== undefined && isSame(before, one.said)) return settled(uid, one);
    try {
      await patch(uid, one, before);
      onWritten("condition", "ok");
    } catch (error) {
      // The pod is gone, or another one has its name (which servers call Invalid or Conflict): nobody is left to be told.
      const refused = isStatus(error, 409) || isStatus(error, 422);
      if (isStatus(error, 404) || (refused && view.pod(uid) === undefined)) return forget(uid);
      onWritten("condition", "failed");
      throw error;
    }
    if (one.said !== null && one.said.status === "False" && one.said.reason.startsWith("E_") && before?.reason !== one.said.reason)
      await tell(uid, one, one.said);
    settled(uid, one);
  }

  /** What has left the mesh and shows nothing any more need not be watched over. */
  function settled(uid: string, one: Wanted): void {
    if (one.said === null && wanted.get(uid) === one) wanted.delete(uid);
  }

  async function patch(uid: string, { namespace, name, said }: Wanted, before: Pod["captured"]): Promise<void> {
    const since = before !== null && before.status === said?.status && before.since !== "" ? before.since : new Date().toISOString();
    const conditions = said === null ? [] : [{ type: kubernetes.capturedCondition, ...said, lastTransitionTime: since }];
    await api.call({
      method: "PATCH",
      path: `${objectPath(PODS, namespace, name)}/status`,
      query: { fieldManager: kubernetes.fieldManager, force: "true" },
      type: "application/apply-patch+yaml",
      // The uid makes it this pod's condition: a successor of the same name must not inherit it.
      body: { apiVersion: "v1", kind: "Pod", metadata: { namespace, name, uid }, status: { conditions } },
    });
  }

  async function tell(uid: string, { namespace, name }: Wanted, { reason, message }: Said): Promise<void> {
    try {
      if (await writeEvent({ api, instance }, { apiVersion: "v1", kind: "Pod", namespace, name, uid }, reason, message))
        onWritten("event", "ok");
    } catch (error) {
      onWritten("event", "failed");
      onError(`${namespace}/${name}`, error); // the condition says the same: an Event is not worth another attempt
    }
  }

  return { reported, changed, pending: writer.pending, idle: writer.idle };
}

const nameOf = (one: Wanted | undefined): string | undefined => (one === undefined ? undefined : `${one.namespace}/${one.name}`);
