// Namespace and Node documents.
import { z } from "zod";
import type { Namespace, Node } from "#mesh/objects.ts";
import { address, cidr, metadata } from "./fields.ts";
import type { Projector } from "./projector.ts";

const namespaceDocument = z.object({ metadata });

export const projectNamespace: Projector<Namespace> = {
  kind: "Namespace",
  scope: "cluster",
  schema: namespaceDocument,
  project: (_document, meta) => ({ object: { kind: "Namespace", metadata: meta }, problems: [] }),
};

const nodeDocument = z.object({
  metadata,
  spec: z.object({ podCIDR: cidr.optional(), podCIDRs: z.array(cidr).optional() }).default({}),
  status: z.object({ addresses: z.array(z.object({ type: z.string(), address: z.string() })).default([]) }).default({ addresses: [] }),
});

export const projectNode: Projector<Node, z.infer<typeof nodeDocument>> = {
  kind: "Node",
  scope: "cluster",
  schema: nodeDocument.refine(
    (node) => node.status.addresses.every((a) => a.type !== "InternalIP" || address.safeParse(a.address).success),
    {
      path: ["status", "addresses"],
      message: "an InternalIP must be an IP address",
    },
  ),
  project: ({ spec, status }, meta) => ({
    object: {
      kind: "Node",
      metadata: meta,
      addresses: status.addresses.filter(({ type }) => type === "InternalIP").map((one) => one.address),
      podCIDRs: spec.podCIDRs ?? (spec.podCIDR === undefined ? [] : [spec.podCIDR]),
    },
    problems: [],
  }),
};
