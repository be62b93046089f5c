// Namespaces that have a pod, on whatever node, which asks for the mesh by a label of its own: their new pods may be such pods too, and must not
// start outside the mesh while the daemon, the only one here who sees labels, is away.
import type { ObjectKey } from "#mesh/objects.ts";
import type { Source } from "#source/source.ts";

export type Labelled = {
  /** Null until all pods were listed once. */
  readonly namespaces: ReadonlySet<string> | null;
  /** `changed` is called when it is another set than before. Until `stop`. */
  run(changed: () => void, stop: AbortSignal): Promise<void>;
};

/** Each source has the pods of one label: the same pod may be in two. */
export function createLabelled(sources: readonly Source[]): Labelled {
  const found = new Map<Source, ReadonlySet<string>>();
  let namespaces: ReadonlySet<string> | null = null;

  async function follow(source: Source, changed: () => void, stop: AbortSignal): Promise<void> {
    const pods = new Map<ObjectKey, string>();
    for await (const { reset, put, remove, faults } of source(stop)) {
      if (reset) pods.clear();
      for (const key of remove) pods.delete(key);
      for (const { metadata, kind } of put) if (kind === "Pod") pods.set(`Pod/${metadata.namespace}/${metadata.name}`, metadata.namespace);
      // A pod that cannot be read has its label all the same.
      const unread = faults.flatMap(({ key }) => (key?.startsWith("Pod/") ? [key.split("/")[1] ?? ""] : []));
      found.set(source, new Set([...pods.values(), ...unread]));
      const now = new Set([...found.values()].flatMap((one) => [...one]));
      if (found.size < sources.length || (namespaces !== null && now.symmetricDifference(namespaces).size === 0)) continue;
      namespaces = now;
      changed();
    }
  }

  return {
    get namespaces() {
      return namespaces;
    },
    run: async (changed, stop) => {
      await Promise.all(sources.map((source) => follow(source, changed, stop)));
    },
  };
}
