// Which pods of the nodes that another replica holds are captured: read from the pods' conditions, which that replica wrote. Pure but for time.
import type { NodeUpdate } from "#compile/compiler.ts";
import { type Adoption, enrolment } from "#mesh/enrolment.ts";
import type { Namespace, Pod } from "#mesh/objects.ts";
import type { Change } from "#source/source.ts";
import { isCaptured } from "./condition.ts";

export type ElsewhereOptions = {
  readonly isAttached: (node: string) => boolean;
  readonly namespace: (name: string) => Namespace | undefined;
  readonly pods: () => Iterable<Pod>;
  /** Whose labels count beside ours. */
  readonly adopt: Adoption;
  readonly report: (update: NodeUpdate) => void;
  /** A pod that was to be captured and of which nobody said in time that it is; its peers use tunnels from now on. */
  readonly onOverdue: (pod: Pod) => void;
  readonly now?: () => number;
};

export type Elsewhere = {
  changed(change: Pick<Change, "reset" | "put" | "remove">): void;
  /** The node's stream ended here: what it said last may not be what another replica writes next. */
  detached(node: string): void;
  /** Asked from time to time. */
  sweep(): void;
};

/**
 * A pod that ran before its label came is captured within a second or two, and until then its peers reach it as before. Without a word by then
 * the answer is the closed one.
 */
const OVERDUE_MILLISECONDS = 30_000;

/** How keys of nodes begin. */
const NODE = "Node//";

/** `open`: seen running outside the mesh, so that plaintext to it is what everybody does until it is captured. */
type Known = { readonly pod: Pod; readonly open: boolean; readonly enrolledAt: number | null; readonly captured: boolean };

export function createElsewhere(options: ElsewhereOptions): Elsewhere {
  const { isAttached, namespace, pods, report, onOverdue, adopt, now = () => performance.now() } = options;
  const known = new Map<string, Known>();
  /** Nodes of which something was told. */
  const spoken = new Set<string>();

  function look(pod: Pod): Known {
    const before = known.get(pod.metadata.uid);
    const { enrolled } = enrolment(namespace(pod.metadata.namespace), pod, { adopt });
    const open = enrolled ? (before?.open ?? false) && pod.captured === null : pod.podIPs.length > 0;
    const enrolledAt = enrolled ? (before?.enrolledAt ?? now()) : null;
    const overdue = enrolledAt !== null && now() - enrolledAt > OVERDUE_MILLISECONDS;
    const captured = pod.captured !== null ? isCaptured(pod.captured) : !open || overdue;
    return { pod, open, enrolledAt, captured };
  }

  /** Looks at pods again and tells what became of those whose nodes are elsewhere. */
  function again(some: Iterable<Pod>): void {
    const news = new Map<string, { uid: string; captured: boolean }[]>();
    for (const pod of some) {
      const { uid } = pod.metadata;
      const before = known.get(uid);
      const after = look(pod);
      known.set(uid, after);
      if (isAttached(pod.nodeName) || pod.nodeName === "") continue;
      if (before?.captured === after.captured && spoken.has(pod.nodeName)) continue;
      const told = news.get(pod.nodeName) ?? [];
      told.push({ uid, captured: after.captured });
      news.set(pod.nodeName, told);
      if (after.captured && after.open && after.enrolledAt !== null) onOverdue(pod);
    }
    // The first word about a node replaces the assumption for all of its pods: it has to name them all.
    const firsts = new Set(news.keys().filter((node) => !spoken.has(node)));
    for (const node of firsts) {
      spoken.add(node);
      news.set(node, []);
    }
    if (firsts.size > 0)
      for (const { pod, captured } of known.values())
        if (firsts.has(pod.nodeName)) news.get(pod.nodeName)?.push({ uid: pod.metadata.uid, captured });
    for (const [node, said] of news) report({ node, snapshot: false, pods: said });
  }

  function changed({ reset, put, remove }: Pick<Change, "reset" | "put" | "remove">): void {
    for (const key of remove) if (key.startsWith(NODE)) spoken.delete(key.slice(NODE.length));
    const gone = new Set(remove.filter((key) => key.startsWith("Pod/")));
    if (gone.size > 0 || reset)
      for (const [uid, { pod }] of known) if (reset || gone.has(`Pod/${pod.metadata.namespace}/${pod.metadata.name}`)) known.delete(uid);
    const namespaces = new Set(put.flatMap((object) => (object.kind === "Namespace" ? [object.metadata.name] : [])));
    const own = put.filter((object) => object.kind === "Pod");
    // Labels of a namespace count for each of its pods.
    const inherited = namespaces.size === 0 ? [] : [...pods()].filter(({ metadata }) => namespaces.has(metadata.namespace));
    again(new Set([...own, ...inherited]));
  }

  function sweep(): void {
    const late = (one: Known): boolean =>
      one.open && !one.captured && one.enrolledAt !== null && now() - one.enrolledAt > OVERDUE_MILLISECONDS;
    again([...known.values()].filter(late).map(({ pod }) => pod));
  }

  return { changed, detached: (node) => void spoken.delete(node), sweep };
}
