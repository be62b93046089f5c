// Writes what became of routes, Gateways and their class, and of the policies attached to them, into their status, beside what other controllers say there; by the replica that holds
// the Lease.
import { z } from "zod";
import { kubernetes } from "#contract/tables.ts";
import { isMeshError } from "#mesh/error.ts";
import { keyOf, type ObjectKey } from "#mesh/objects.ts";
import type { Api } from "#source/kubernetes/api.ts";
import { isStatus } from "#source/kubernetes/failure.ts";
import { inVersion, pathOfKey, type Resource } from "#source/kubernetes/resources.ts";
import type { Change } from "#source/source.ts";
import type { Condition, GatewayStatus, PolicyStatus, RouteStatus } from "#waypoint/status.ts";
import { createWriter, type WriterTimes } from "./writer.ts";

export type GatewayStatusOptions = {
  readonly api: Api;
  readonly resources: readonly Resource[];
  readonly isLeader: () => boolean;
  readonly onWritten: (result: "ok" | "failed") => void;
  readonly onError: (key: string, error: unknown) => void;
  readonly times?: WriterTimes;
};

export type GatewayStatusWriter = {
  changed(now: {
    readonly routes: readonly RouteStatus[];
    readonly gateways: readonly GatewayStatus[];
    readonly policies: readonly PolicyStatus[];
  }): void;
  /** A batch of the source: an object that was made anew under its name has no status, whatever its predecessor had. */
  noticed(change: Pick<Change, "put">): void;
  /** The class of our waypoints is there. */
  classMade(): void;
  /** What stands against making the waypoint of a Gateway; null: nothing. */
  problem(gateway: ObjectKey, error: unknown): void;
  elected(): void;
  pending(): number;
  idle(): Promise<void>;
};

type Wanted =
  | { readonly kind: "route"; readonly status: RouteStatus }
  | { readonly kind: "gateway"; readonly status: GatewayStatus }
  | { readonly kind: "policy"; readonly status: PolicyStatus }
  | { readonly kind: "class" };

type Entry = { readonly want: Wanted; readonly text: string };

/** The compiler hands out the same object as long as it says the same: ten thousand routes are not read again for one that changed. */
function entryOf(
  before: ReadonlyMap<ObjectKey, Entry>,
  status: RouteStatus | GatewayStatus | PolicyStatus,
  kind: "route" | "gateway" | "policy",
): Entry {
  const known = before.get(status.key);
  if (known !== undefined && known.want.kind !== "class" && known.want.status === status) return known;
  return { want: { kind, status } as Wanted, text: JSON.stringify(status) };
}

type Problem = { readonly reason: "Invalid" | "InvalidParameters"; readonly message: string };

const OUR_CLASS: ObjectKey = `GatewayClass//${kubernetes.waypointClass}`;
const MESSAGE_CHARACTERS = 1_024;

const condition = z.looseObject({ type: z.string(), status: z.string(), lastTransitionTime: z.string().optional() });
type Written = z.infer<typeof condition>;
const parent = z.looseObject({
  controllerName: z.string().default(""),
  parentRef: z.unknown(),
  conditions: z.array(condition).default([]),
});
const ancestor = z.looseObject({
  controllerName: z.string().default(""),
  ancestorRef: z.unknown(),
  conditions: z.array(condition).default([]),
});
const found = z.object({
  metadata: z.object({ uid: z.string(), resourceVersion: z.string(), generation: z.number().default(0) }),
  status: z
    .looseObject({
      conditions: z.array(condition).default([]),
      parents: z.array(parent).default([]),
      ancestors: z.array(ancestor).default([]),
      listeners: z.array(z.looseObject({ name: z.string(), conditions: z.array(condition).default([]) })).default([]),
    })
    .default({ conditions: [], parents: [], ancestors: [], listeners: [] }),
});
type Found = z.infer<typeof found>;

export function createGatewayStatus(options: GatewayStatusOptions, stop: AbortSignal): GatewayStatusWriter {
  const { api, resources, isLeader, onWritten, onError, times } = options;
  let wanted = new Map<ObjectKey, Entry>();
  const problems = new Map<ObjectKey, Problem>();
  const writer = createWriter({ write: (key) => write(key as ObjectKey), onError, ...(times === undefined ? {} : { times }) }, stop);

  const ask = (key: ObjectKey): void => {
    if (isLeader()) writer.ask(key);
  };

  const changed: GatewayStatusWriter["changed"] = ({ routes, gateways, policies }) => {
    const before = wanted;
    wanted = new Map();
    for (const status of routes) wanted.set(status.key, entryOf(before, status, "route"));
    for (const status of gateways) wanted.set(status.key, entryOf(before, status, "gateway"));
    for (const status of policies) wanted.set(status.key, entryOf(before, status, "policy"));
    for (const key of before.keys()) if (!wanted.has(key)) forget(key);
    for (const [key, entry] of wanted) if (before.get(key)?.text !== entry.text) ask(key);
  };

  function forget(key: ObjectKey): void {
    writer.drop(key);
    problems.delete(key);
  }

  async function write(key: ObjectKey): Promise<void> {
    const want: Wanted | undefined = key === OUR_CLASS ? { kind: "class" } : wanted.get(key)?.want;
    const resource = resources.find(({ kind }) => key.startsWith(`${kind}/`));
    if (want === undefined || resource === undefined || !isLeader()) return;
    try {
      const { path, object } = await read(resource, key);
      const now = found.parse(object);
      const status = nextStatus(now, want, problems.get(key));
      if (status === null) return;
      const { uid, resourceVersion } = now.metadata;
      // The whole of a list is one value of a merge patch: with the version that it was made from, nobody else's entry can be lost.
      const body = { metadata: { uid, resourceVersion }, status };
      await api.call({ method: "PATCH", path: `${path}/status`, type: "application/merge-patch+json", body });
      onWritten("ok");
    } catch (error) {
      if (isStatus(error, 404)) return; // it is gone, which the watch tells as well
      if (!isStatus(error, 409)) onWritten("failed"); // 409: it changed while we looked, and is looked at again
      throw error;
    }
  }

  /** Where the cluster has it: some have a kind in an older version only. */
  async function read(resource: Resource, key: ObjectKey): Promise<{ readonly path: string; readonly object: unknown }> {
    const versions = [resource, ...resource.older.map((version) => inVersion(resource, version))];
    for (const [i, one] of versions.entries()) {
      const path = pathOfKey(one, key);
      try {
        return { path, object: await api.call({ method: "GET", path }) };
      } catch (error) {
        if (!isStatus(error, 404) || i === versions.length - 1) throw error;
      }
    }
    throw new Error(`no version of ${key}`);
  }

  return {
    changed,
    noticed: ({ put }) => {
      for (const key of put.map(keyOf)) if (wanted.has(key)) ask(key);
    },
    classMade: () => ask(OUR_CLASS),
    problem: (key, error) => {
      const next = problemOf(error);
      if (JSON.stringify(problems.get(key) ?? null) === JSON.stringify(next)) return;
      if (next === null) problems.delete(key);
      else problems.set(key, next);
      if (wanted.has(key)) ask(key);
    },
    elected: () => {
      for (const key of wanted.keys()) writer.ask(key);
    },
    pending: writer.pending,
    idle: writer.idle,
  };
}

/** The part of the status that is ours to say, null when it says that already. */
function nextStatus(now: Found, want: Wanted, problem: Problem | undefined): object | null {
  if (want.kind === "route") return nextParents(now, want.status);
  if (want.kind === "policy") return nextAncestors(now, want.status);
  if (want.kind === "class") {
    const accepted: Condition = {
      type: "Accepted",
      status: "True",
      reason: "Accepted",
      message: "its Gateways are waypoints of Trackbed",
      observedGeneration: now.metadata.generation,
    };
    const conditions = dated([accepted], now.status.conditions);
    return isSame(conditions, now.status.conditions) ? null : { conditions };
  }
  const { status } = want;
  const conditions = dated(
    problem === undefined ? status.conditions : status.conditions.map((one) => spoilt(one, problem)),
    now.status.conditions,
  );
  const listeners = status.listeners.map((listener) => ({
    ...listener,
    conditions: dated(listener.conditions, now.status.listeners.find(({ name }) => name === listener.name)?.conditions ?? []),
  }));
  const next = { conditions, addresses: status.addresses, listeners };
  const { conditions: written, listeners: told, addresses = [] } = now.status;
  return isSame(next, { conditions: written, addresses, listeners: told }) ? null : next;
}

function problemOf(error: unknown): Problem | null {
  if (error === null) return null;
  const reason = isMeshError(error) && error.code === "E_WAYPOINT_PARAMETERS" ? "InvalidParameters" : "Invalid";
  return { reason, message: (error instanceof Error ? error.message : String(error)).slice(0, MESSAGE_CHARACTERS) };
}

/** What stands against a waypoint is told where people look. One that was programmed stays so: its services go through it or not at all. */
function spoilt(one: Condition, { reason, message }: Problem): Condition {
  if (one.type === "Programmed" && one.status !== "True") return { ...one, status: "False", reason: "Invalid", message };
  if (one.type === "Accepted" && reason === "InvalidParameters") return { ...one, status: "False", reason, message };
  return one;
}

/** Other controllers' entries stay where they are; ours are replaced by those that hold now. */
function nextParents({ status }: Found, wanted: RouteStatus): object | null {
  const isOurs = (entry: { controllerName: string }): boolean => entry.controllerName === kubernetes.waypointController;
  const before = status.parents.filter(isOurs);
  const parents = wanted.parents.map((entry) => ({
    ...entry,
    conditions: dated(entry.conditions, before.find(({ parentRef }) => isSame(parentRef, entry.parentRef))?.conditions ?? []),
  }));
  const next = [...status.parents.filter((entry) => !isOurs(entry)), ...parents];
  return isSame(parents, before) ? null : { parents: next };
}

/** The same for what a policy is attached to. */
function nextAncestors({ status }: Found, wanted: PolicyStatus): object | null {
  const isOurs = (entry: { controllerName: string }): boolean => entry.controllerName === kubernetes.waypointController;
  const before = status.ancestors.filter(isOurs);
  const ancestors = wanted.ancestors.map((entry) => ({
    ...entry,
    conditions: dated(entry.conditions, before.find(({ ancestorRef }) => isSame(ancestorRef, entry.ancestorRef))?.conditions ?? []),
  }));
  const others = status.ancestors.filter((entry) => !isOurs(entry));
  return isSame(ancestors, before) ? null : { ancestors: [...others, ...ancestors].slice(0, MOST_ANCESTORS) };
}

/** GEP-713. */
const MOST_ANCESTORS = 16;

/** Conditions of other controllers stay; of ours the time is that of the last change of their status. */
function dated(wanted: readonly Condition[], written: readonly Written[]): readonly Written[] {
  const own = wanted.map((one) => {
    const before = written.find(({ type }) => type === one.type);
    const since = before?.status === one.status ? before.lastTransitionTime : undefined;
    return { ...one, lastTransitionTime: since ?? new Date().toISOString().replace(/\.\d+Z$/, "Z") };
  });
  const types = new Set<string>(wanted.map(({ type }) => type));
  return [...written.filter(({ type }) => !types.has(type)), ...own];
}

/** Whatever the order of fields and of conditions. */
const isSame = (a: unknown, b: unknown): boolean => canonical(a) === canonical(b);

function canonical(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(canonical).sort().join()}]`;
  if (typeof value !== "object" || value === null) return JSON.stringify(value) ?? "null";
  const entries = Object.entries(value).filter(([, one]) => one !== undefined);
  return `{${entries
    .map(([key, one]) => `${JSON.stringify(key)}:${canonical(one)}`)
    .sort()
    .join()}}`;
}
