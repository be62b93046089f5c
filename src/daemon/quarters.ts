// Where a pod lives: which network namespace is its own. A directory's documents say it themselves; on Kubernetes it has to be found.
import { isAbsolute } from "node:path";
import { annotations } from "#contract/tables.ts";
import type { Desired } from "#enrol/state.ts";
import type { AnnotationFault } from "#mesh/capture.ts";
import type { Pod } from "#mesh/objects.ts";

export type Quarter = {
  readonly netns: string | null;
  readonly addresses: readonly string[];
  /** The runtime took the pod's sandbox down; a later one will be announced. */
  readonly left: boolean;
  /** It was looked for and nothing of it runs on the node, as after a reboot: there is nobody to be reached in clear. */
  readonly vacant: boolean;
  readonly faults: readonly AnnotationFault[];
};

export type Quarters = {
  of(pod: Pod, enrolled: boolean): Quarter;
  /** What becomes of pods that are over: whether their namespaces end with them. */
  readonly over: Extract<Desired, "deleted" | "gone">;
};

/** Directory mode: the annotation of the Pod document. */
export const annotated: Quarters = {
  over: "deleted",
  of: ({ metadata, podIPs }) => {
    const path = metadata.annotations[annotations.netns];
    const relative = path !== undefined && !isAbsolute(path);
    return {
      netns: path === undefined || relative ? null : path,
      addresses: podIPs,
      left: false,
      vacant: false,
      faults: relative ? [{ annotation: annotations.netns, value: path, reason: "must be an absolute path" }] : [],
    };
  },
};
