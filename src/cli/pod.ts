// How commands name a pod: "pod/NAME", with -n or "pod/NAMESPACE/NAME" where a name alone is not clear.
import { isLabel, isSubdomain } from "#mesh/identity.ts";
import { usage } from "./outcome.ts";

export type PodReference = { readonly namespace: string | null; readonly name: string };

export function parsePod(text: string, namespace: string | undefined): PodReference {
  const [kind, ...rest] = text.split("/");
  const [first = "", second] = rest;
  const reference = second === undefined ? { namespace: namespace ?? null, name: first } : { namespace: first, name: second };
  if (kind !== "pod" || rest.length > 2 || !isSubdomain(reference.name))
    throw usage(`expected pod/NAME or pod/NAMESPACE/NAME, got "${text}"`);
  if (reference.namespace !== null && !isLabel(reference.namespace)) throw usage(`"${reference.namespace}" is not the name of a namespace`);
  return reference;
}

/** The one pod of `known` that is meant. */
export function pickPod<P extends { readonly namespace: string; readonly name: string }>(wanted: PodReference, known: readonly P[]): P {
  const found = known.filter(({ namespace, name }) => name === wanted.name && (wanted.namespace ?? namespace) === namespace);
  const [first, second] = found;
  if (first === undefined) {
    const names = known.map(({ namespace, name }) => `${namespace}/${name}`).sort();
    throw new Error(
      `no pod ${wanted.namespace === null ? "" : `${wanted.namespace}/`}${wanted.name} here; there are: ${names.join(", ") || "none"}`,
    );
  }
  if (second !== undefined)
    throw usage(`pod/${wanted.name} is in ${found.map(({ namespace }) => namespace).join(" and ")}: say which with -n`);
  return first;
}
