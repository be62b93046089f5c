// Says on each policy, and on each ServiceEntry, whether it is in force as written, and what is wrong when it is not. Written by the replica that holds the Lease.
import { z } from "zod";
import { errors, kubernetes } from "#contract/tables.ts";
import type { ObjectKey } from "#mesh/objects.ts";
import type { Api } from "#source/kubernetes/api.ts";
import { isStatus } from "#source/kubernetes/failure.ts";
import { pathOfKey, type Resource } from "#source/kubernetes/resources.ts";
import type { Change, Fault } from "#source/source.ts";
import { createWriter, type WriterTimes } from "./writer.ts";

export type PolicyStatusOptions = {
  readonly api: Api;
  readonly resources: readonly Resource[];
  readonly isLeader: () => boolean;
  readonly onWritten: (result: "ok" | "failed") => void;
  readonly onError: (key: string, error: unknown) => void;
  readonly times?: WriterTimes;
};

export type PolicyStatus = {
  changed(change: Pick<Change, "reset" | "put" | "remove">, faults: readonly Fault[]): void;
  /** This replica has become the one that writes. */
  elected(): void;
  pending(): number;
  idle(): Promise<void>;
};

/** Istio's API: status.conditions of its own policies have these fields. */
export const ACCEPTED = kubernetes.acceptedCondition;
const KINDS = ["AuthorizationPolicy", "PeerAuthentication", "RequestAuthentication", "ServiceEntry"];
const MESSAGE_CHARACTERS = 2_048;

const condition = z.looseObject({ type: z.string(), status: z.string().default(""), lastTransitionTime: z.string().optional() });
const policy = z.object({
  metadata: z.object({ uid: z.string(), resourceVersion: z.string(), generation: z.number().default(0) }),
  status: z.looseObject({ conditions: z.array(condition).nullish() }).nullish(),
});

export type Verdict = { readonly status: "True" | "False"; readonly reason: string; readonly message: string };

/** What a policy's author should read. */
export function verdictOf(faults: readonly Fault[]): Verdict {
  const [first] = faults;
  if (first === undefined) return { status: "True", reason: "Accepted", message: "in force as written" };
  const message = faults.map(({ code, field, reason }) => `${field === "" ? "" : `${field}: `}${reason} (${errors[code].next})`).join("; ");
  return { status: "False", reason: first.code, message: message.slice(0, MESSAGE_CHARACTERS) };
}

export function createPolicyStatus(options: PolicyStatusOptions, stop: AbortSignal): PolicyStatus {
  const { api, resources, isLeader, onWritten, onError, times } = options;
  const policies = new Set<ObjectKey>();
  let faulty = new Map<ObjectKey, readonly Fault[]>();
  const writer = createWriter({ write, onError, ...(times === undefined ? {} : { times }) }, stop);

  const isPolicy = (key: ObjectKey): boolean => KINDS.includes(key.slice(0, key.indexOf("/")));

  function changed({ reset, put, remove }: Pick<Change, "reset" | "put" | "remove">, faults: readonly Fault[]): void {
    if (reset) policies.clear();
    for (const key of remove) forget(key);
    const before = faulty;
    faulty = Map.groupBy(
      faults.flatMap((fault) => (fault.key === null ? [] : [{ ...fault, key: fault.key }])).filter(({ key }) => isPolicy(key)),
      ({ key }) => key,
    );
    for (const { kind, metadata } of put) {
      const key: ObjectKey = `${kind}/${metadata.namespace}/${metadata.name}`;
      if (isPolicy(key)) ask(key);
    }
    for (const key of new Set([...before.keys(), ...faulty.keys()]))
      if (textOf(before.get(key)) !== textOf(faulty.get(key)) && (policies.has(key) || faulty.has(key))) ask(key);
  }

  const ask = (key: ObjectKey): void => {
    policies.add(key);
    if (isLeader()) writer.ask(key);
  };

  function forget(key: ObjectKey): void {
    policies.delete(key);
    writer.drop(key);
  }

  async function write(text: string): Promise<void> {
    const key = text as ObjectKey;
    const resource = resources.find(({ kind }) => key.startsWith(`${kind}/`));
    if (resource === undefined || !isLeader()) return;
    const path = pathOfKey(resource, key);
    try {
      const found = policy.parse(await api.call({ method: "GET", path }));
      const status = nextStatus(found, verdictOf(faulty.get(key) ?? []));
      if (status === null) return;
      const { uid, resourceVersion } = found.metadata;
      await api.call({
        method: "PATCH",
        path: `${path}/status`,
        type: "application/merge-patch+json",
        body: { metadata: { uid, resourceVersion }, status },
      });
      onWritten("ok");
    } catch (error) {
      if (isStatus(error, 404)) return forget(key);
      if (!isStatus(error, 409)) onWritten("failed"); // 409: it changed while we looked, and is looked at again
      throw error;
    }
  }

  return {
    changed,
    elected: () => {
      for (const key of policies) writer.ask(key);
    },
    pending: writer.pending,
    idle: writer.idle,
  };
}

const textOf = (faults: readonly Fault[] | undefined): string =>
  JSON.stringify(faults?.map(({ code, field, reason }) => [code, field, reason]) ?? []);

/** The list of conditions is one value to the API server, and others write to it too: theirs stay as they are. Null when nothing changes. */
function nextStatus({ metadata, status }: z.infer<typeof policy>, verdict: Verdict): object | null {
  const conditions = status?.conditions ?? [];
  const before = conditions.find(({ type }) => type === ACCEPTED);
  const { generation } = metadata;
  const same =
    before !== undefined &&
    before.status === verdict.status &&
    before["reason"] === verdict.reason &&
    before["message"] === verdict.message &&
    Number(before["observedGeneration"] ?? 0) === generation;
  if (same) return null;
  const since = before?.status === verdict.status ? before.lastTransitionTime : undefined;
  const own = { type: ACCEPTED, ...verdict, observedGeneration: generation, lastTransitionTime: since ?? new Date().toISOString() };
  return { conditions: [...conditions.filter(({ type }) => type !== ACCEPTED), own] };
}
