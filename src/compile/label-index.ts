// Finds the pods of a selector and the selectors of a pod without looking at the cluster.
import type { Labels, ObjectMeta } from "#mesh/objects.ts";
import { selects } from "#mesh/selector.ts";

/** NUL cannot stand in a namespace, key or value that the source lets through. */
const bucketName = (namespace: string, key: string, value: string): string => `${namespace}\0${key}\0${value}`;

function addTo<T>(buckets: Map<string, Set<T>>, name: string, item: T): void {
  const bucket = buckets.get(name);
  if (bucket === undefined) buckets.set(name, new Set([item]));
  else bucket.add(item);
}

function takeFrom<T>(buckets: Map<string, Set<T>>, name: string, item: T): void {
  const bucket = buckets.get(name);
  bucket?.delete(item);
  if (bucket?.size === 0) buckets.delete(name);
}

/** Objects by their own labels. Namespace "" stands for all of them. */
export type LabelIndex<T> = {
  add(item: T): void;
  delete(item: T): void;
  /** An empty selector finds every object of the namespace. */
  find(namespace: string, selector: Labels): Iterable<T>;
};

export function labelIndex<T extends { readonly metadata: ObjectMeta }>(): LabelIndex<T> {
  const byLabel = new Map<string, Set<T>>();
  const byNamespace = new Map<string, Set<T>>();
  const forEachBucket = ({ metadata }: T, act: (buckets: Map<string, Set<T>>, name: string) => void): void => {
    for (const namespace of ["", metadata.namespace]) {
      act(byNamespace, namespace);
      for (const [key, value] of Object.entries(metadata.labels)) act(byLabel, bucketName(namespace, key, value));
    }
  };
  return {
    add: (item) => forEachBucket(item, (buckets, name) => addTo(buckets, name, item)),
    delete: (item) => forEachBucket(item, (buckets, name) => takeFrom(buckets, name, item)),
    find: (namespace, selector) => {
      const pairs = Object.entries(selector);
      if (pairs.length === 0) return [...(byNamespace.get(namespace) ?? [])];
      const buckets = pairs.map(([key, value]) => byLabel.get(bucketName(namespace, key, value)) ?? new Set<T>());
      const smallest = buckets.reduce((a, b) => (b.size < a.size ? b : a));
      return [...smallest].filter(({ metadata }) => selects(selector, metadata.labels));
    },
  };
}

/** Objects by the labels that they ask for. Objects with an empty selector are found by namespace alone, in `unselective`. */
export type SelectorIndex<T> = {
  add(item: T): void;
  delete(item: T): void;
  /** Objects of the namespace whose selector is not empty and picks the labels. */
  matching(namespace: string, labels: Labels): readonly T[];
  /** Objects of the namespace with an empty selector. */
  unselective(namespace: string): Iterable<T>;
  /** Objects of the namespace (or of all, "") whose selector is not empty. */
  selective(namespace: string): readonly T[];
};

export function selectorIndex<T extends { readonly metadata: ObjectMeta; readonly selector: Labels }>(): SelectorIndex<T> {
  const byPair = new Map<string, Set<T>>();
  const byNamespace = new Map<string, Set<T>>();
  /** One pair of a selector is enough to find it: whatever it picks carries that pair. */
  const pairOf = ({ metadata, selector }: T): string | null => {
    const [first] = Object.entries(selector).sort(([a], [b]) => (a < b ? -1 : 1));
    return first === undefined ? null : bucketName(metadata.namespace, ...first);
  };
  const isSelective = ({ selector }: T): boolean => Object.keys(selector).length > 0;
  const of = (namespace: string): T[] => [...(byNamespace.get(namespace) ?? [])];
  return {
    add: (item) => {
      for (const namespace of ["", item.metadata.namespace]) addTo(byNamespace, namespace, item);
      const pair = pairOf(item);
      if (pair !== null) addTo(byPair, pair, item);
    },
    delete: (item) => {
      for (const namespace of ["", item.metadata.namespace]) takeFrom(byNamespace, namespace, item);
      const pair = pairOf(item);
      if (pair !== null) takeFrom(byPair, pair, item);
    },
    matching: (namespace, labels) => {
      const found: T[] = [];
      if (byPair.size === 0) return found; // asked for every pod and kind: most clusters have no selectors of most kinds
      for (const [key, value] of Object.entries(labels))
        for (const item of byPair.get(bucketName(namespace, key, value)) ?? []) if (selects(item.selector, labels)) found.push(item);
      return found;
    },
    unselective: (namespace) => of(namespace).filter((item) => !isSelective(item)),
    selective: (namespace) => of(namespace).filter(isSelective),
  };
}
