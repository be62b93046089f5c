// The pieces that documents of every kind are made of: metadata, names, addresses, ports.
import { z } from "zod";
import { parseAddress, parseCidr } from "#mesh/address.ts";
import { isLabel, isSubdomain } from "#mesh/identity.ts";
import type { ObjectMeta } from "#mesh/objects.ts";

const LABEL_VALUE = /^(?:[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?$/;

export const label = z.string().refine(isLabel, "must be a DNS label: 1 to 63 of a-z, 0-9 and - inside");
export const subdomain = z.string().refine(isSubdomain, "must be a DNS subdomain: labels of a-z, 0-9 and - joined by dots");
export const labelMap = z.record(
  z.string().min(1),
  z.string().regex(LABEL_VALUE, "must be a label value: at most 63 of A-Z, a-z, 0-9, -, _ and ."),
);
export const address = z.string().refine((text) => parseAddress(text) !== null, "must be an IP address");
export const cidr = z.string().refine((text) => parseCidr(text) !== null, "must be a CIDR block");
export const port = z.int().min(1).max(65535);

/** metadata; fields that the mesh does not need (managedFields, finalizers ...) pass. */
export const metadata = z.object({
  name: subdomain,
  namespace: label.optional(),
  uid: z.string().min(1).max(128).optional(),
  labels: labelMap.default({}),
  annotations: z.record(z.string().min(1), z.string()).default({}),
  creationTimestamp: z.string().default(""),
  ownerReferences: z.array(z.object({ kind: z.string(), name: z.string(), controller: z.boolean().default(false) })).default([]),
});

/** Where `kubectl apply` would put a document that names no namespace. */
const DEFAULT_NAMESPACE = "default";

export const namespaceOf = (scope: "cluster" | "namespace", meta: { readonly namespace?: string | undefined }): string =>
  scope === "cluster" ? "" : (meta.namespace ?? DEFAULT_NAMESPACE);

export const objectMeta = (scope: "cluster" | "namespace", meta: z.infer<typeof metadata>, derivedUid: string): ObjectMeta => ({
  name: meta.name,
  namespace: namespaceOf(scope, meta),
  uid: meta.uid ?? derivedUid,
  labels: meta.labels,
  annotations: meta.annotations,
  creationTimestamp: meta.creationTimestamp,
});
