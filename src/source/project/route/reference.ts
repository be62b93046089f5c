// What routes refer to: the parents that they are attached to and the backends that they send to.
import { z } from "zod";
import { GATEWAY_GROUP, type ObjectRef, type ParentRef } from "#mesh/route.ts";
import { label, port, subdomain } from "../fields.ts";
import { formatPath, type Path } from "../problem.ts";

/** Of the API's schema: more is refused by every API server. */
const MOST_PARENTS = 32;

const group = z.string().max(253);
const kind = z.string().min(1).max(63);
const name = z.string().min(1).max(253);
/** By the API: "sectionName" of a Service is the name of a port. */
const parentRef = z.strictObject({
  group: group.default(GATEWAY_GROUP),
  kind: kind.default("Gateway"),
  namespace: label.optional(),
  name,
  sectionName: subdomain.optional(),
  port: port.optional(),
});
export const parentRefs = z.array(parentRef).max(MOST_PARENTS).default([]);

export const objectRefFields = {
  group: group.default(""),
  kind: kind.default("Service"),
  namespace: label.optional(),
  name,
  port: port.optional(),
};
export const objectRef = z.strictObject(objectRefFields);

/** The namespace of a reference that names none is the route's. */
export const readParents = (refs: z.infer<typeof parentRefs>, namespace: string): ParentRef[] =>
  refs.map((ref) => ({
    group: ref.group,
    kind: ref.kind,
    namespace: ref.namespace ?? namespace,
    name: ref.name,
    sectionName: ref.sectionName ?? "",
    port: ref.port ?? null,
    written: Object.fromEntries(Object.entries(ref).filter((entry): entry is [string, string | number] => entry[1] !== undefined)),
  }));

export const readRef = (ref: z.infer<typeof objectRef>, namespace: string, path: Path): ObjectRef => ({
  group: ref.group,
  kind: ref.kind,
  namespace: ref.namespace ?? namespace,
  name: ref.name,
  port: ref.port ?? null,
  field: formatPath(path),
});
