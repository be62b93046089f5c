// Which of two objects came first: what decides, everywhere, when two of them claim the same thing.
import type { ObjectMeta } from "./objects.ts";

type Dated = { readonly metadata: Pick<ObjectMeta, "creationTimestamp" | "namespace" | "name"> };

/** For sort: by creationTimestamp, then by namespace and name. Without a date an object counts as the youngest. */
export function compareAge(a: Dated, b: Dated): number {
  const [left, right] = [rank(a), rank(b)];
  const at = left.findIndex((part, i) => part !== right[i]);
  return at < 0 ? 0 : (left[at] ?? "") < (right[at] ?? "") ? -1 : 1;
}

/** "~" is behind every digit. */
const rank = ({ metadata }: Dated): string[] => [metadata.creationTimestamp || "~", metadata.namespace, metadata.name];
