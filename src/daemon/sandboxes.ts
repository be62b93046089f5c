// The pods' sandboxes on a Kubernetes node: announced by the runtime through CNI, or found among the node's processes. A pod's own documents
// say nothing about it, and a namespace counts as a pod's only when it holds the pod's address.
import { readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import { formatAddress, parseAddress } from "#mesh/address.ts";
import { explainError } from "#mesh/error.ts";
import type { Pod } from "#mesh/objects.ts";
import { processesOf } from "./processes.ts";
import type { Quarter, Quarters } from "./quarters.ts";

export type Announcement = {
  readonly podUid: string;
  readonly containerId: string;
  /** As the node's own root sees it, without symbolic links. */
  readonly netns: string;
  readonly ips: readonly string[];
};

export type Sandboxes = Quarters & {
  announce(sandbox: Announcement): void;
  /** False when it is not the pod's present sandbox that went. */
  release(sandbox: Announcement): boolean;
  /** The path leads nowhere, or to somebody else's namespace: look for it again. */
  lost(uid: string): void;
  /** Looks for the sandboxes of pods that have none yet; true when one was found. Pods without an address cannot be told apart and wait. */
  seek(pods: Iterable<Pod>): Promise<boolean>;
  /** Forgets pods that are not there any more. */
  keep(uids: ReadonlySet<string>): void;
  /** The path by which the daemon reaches a path of the node. */
  path(netns: string): string;
};

export type SandboxOptions = {
  /** Addresses that the namespace behind a path holds; null when there is none. */
  readonly addressesIn: (path: string) => Promise<readonly string[] | null>;
  /** Why a pod's namespace could not be looked into. Told once for each reason; the pod is sought again. */
  readonly failed: (pod: Pod, error: unknown) => void;
  /** Where the node's processes are seen; default /proc, which is the node's for a daemon that shares its process ids. */
  readonly proc?: string;
  /** The node's root directory; default that of its first process. */
  readonly root?: string;
};

type Sandbox = {
  readonly path: string;
  readonly containerId: string | null;
  readonly addresses: readonly string[];
  readonly left: boolean;
};

/** Where runtimes give namespaces a name. */
const NAMED = "/run/netns";

export function createSandboxes(options: SandboxOptions): Sandboxes {
  const { addressesIn, failed, proc = "/proc", root = "/proc/1/root" } = options;
  const known = new Map<string, Sandbox>();
  /** What was told last of pods that could not be looked into. */
  const told = new Map<string, string>();
  /** Pods whose namespace may hold something of ours: the others are never entered. */
  const entered = new Set<string>();
  /** Pods of which no process was found. */
  const vacant = new Set<string>();
  let first = true;

  const path = (netns: string): string => join(root, netns);

  function of({ metadata: { uid }, podIPs }: Pod, enrolled: boolean): Quarter {
    const sandbox = known.get(uid);
    if (enrolled) entered.add(uid);
    const netns = sandbox !== undefined && !sandbox.left && entered.has(uid) ? sandbox.path : null;
    const addresses = merge(sandbox?.addresses ?? [], podIPs);
    return { netns, addresses, left: sandbox?.left ?? false, vacant: sandbox === undefined && vacant.has(uid), faults: [] };
  }

  function release({ podUid, containerId, netns }: Announcement): boolean {
    const sandbox = known.get(podUid);
    if (sandbox === undefined || sandbox.left) return true;
    const same =
      sandbox.containerId === null ? netns === "" || inodeOf(path(netns)) === inodeOf(sandbox.path) : sandbox.containerId === containerId;
    if (same) known.set(podUid, { ...sandbox, left: true });
    return same;
  }

  async function seek(pods: Iterable<Pod>): Promise<boolean> {
    const missing = new Map([...pods].filter((pod) => isSought(pod)).map((pod) => [pod.metadata.uid, pod]));
    const before = first;
    first = false;
    if (missing.size === 0) return false;
    const processes = await processesOf(new Set(missing.keys()), proc);
    for (const uid of missing.keys()) vacant[processes.has(uid) ? "delete" : "add"](uid);
    const names = processes.size === 0 ? new Map<string, string>() : namedNamespaces();
    let found = false;
    for (const [uid, pids] of processes) {
      const pod = missing.get(uid);
      const own = pod === undefined ? null : await ownNamespace(pod, pids, names);
      if (own === null || known.has(uid)) continue; // announced while we looked: the runtime knows better
      known.set(uid, { path: own, containerId: null, addresses: [], left: false });
      // An earlier life of the daemon may have been here; a pod that comes later is entered when it is enrolled.
      if (before) entered.add(uid);
      found = true;
    }
    return found;
  }

  const isSought = ({ metadata: { uid }, hostNetwork, podIPs }: Pod): boolean => !hostNetwork && podIPs.length > 0 && !known.has(uid);

  async function ownNamespace(pod: Pod, pids: readonly number[], names: ReadonlyMap<string, string>): Promise<string | null> {
    const tried = new Set<string>();
    let trouble: unknown = null;
    for (const pid of pids) {
      try {
        const link = join(proc, String(pid), "ns/net");
        const inode = inodeOf(link);
        if (inode === null || inode === inodeOf("/proc/self/ns/net") || tried.has(inode)) continue;
        tried.add(inode);
        // A name outlives the process and its number.
        const candidate = names.get(inode) ?? link;
        if (holdsAny(await addressesIn(candidate), pod.podIPs)) return candidate;
      } catch (error) {
        trouble ??= error; // the pod's other processes may lead there, and the node's other pods must not wait for it
      }
    }
    if (trouble !== null) tell(pod, trouble);
    return null;
  }

  function tell(pod: Pod, error: unknown): void {
    const text = explainError(error);
    if (told.get(pod.metadata.uid) === text) return;
    told.set(pod.metadata.uid, text);
    failed(pod, error);
  }

  /** Paths by inode. */
  function namedNamespaces(): ReadonlyMap<string, string> {
    const directory = path(NAMED);
    const paths = entriesOf(directory).map((name) => join(directory, name));
    return new Map(paths.flatMap((one) => [inodeOf(one)].filter((inode) => inode !== null).map((inode) => [inode, one] as const)));
  }

  return {
    over: "gone",
    of,
    path,
    announce: ({ podUid, containerId, netns, ips }) => {
      known.set(podUid, { path: path(netns), containerId, addresses: ips, left: false });
    },
    release,
    lost: (uid) => {
      if (known.get(uid)?.left === false) known.delete(uid);
    },
    seek,
    keep: (uids) => {
      for (const uid of [...known.keys(), ...entered, ...told.keys(), ...vacant]) {
        if (uids.has(uid)) continue;
        vacant.delete(uid);
        told.delete(uid);
        known.delete(uid);
        entered.delete(uid);
      }
    },
  };
}

const spelled = (address: string): string => formatAddress(parseAddress(address) ?? new Uint8Array());

export const holdsAny = (held: readonly string[] | null, wanted: readonly string[]): boolean => {
  const spellings = new Set((held ?? []).map(spelled));
  return wanted.some((address) => spellings.has(spelled(address)));
};

/** The runtime's own addresses beat a status from before the sandbox was made; a status that knows one of them may know more. */
const merge = (announced: readonly string[], status: readonly string[]): readonly string[] =>
  announced.length === 0 || holdsAny(announced, status) ? [...new Set([...announced, ...status].map(spelled))] : announced;

function inodeOf(path: string): string | null {
  try {
    const found = statSync(path, { throwIfNoEntry: false });
    return found === undefined ? null : `${found.dev}:${found.ino}`;
  } catch (error) {
    if (error instanceof Error && "code" in error && (error.code === "ESRCH" || error.code === "ENOTDIR")) return null;
    throw error;
  }
}

/** Not every runtime gives names. */
function entriesOf(directory: string): readonly string[] {
  try {
    return readdirSync(directory);
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === "ENOENT") return [];
    throw error;
  }
}
