// EndpointSlice documents, except those that a controller made of a selector: the mesh makes these endpoints itself.
import { z } from "zod";
import type { EndpointSlice } from "#mesh/objects.ts";
import { address, metadata, port } from "./fields.ts";
import { unsupported } from "./problem.ts";
import type { Projector } from "./projector.ts";

const SERVICE = "kubernetes.io/service-name";
const MANAGED_BY = "endpointslice.kubernetes.io/managed-by";
const OF_SELECTORS = "endpointslice-controller.k8s.io";

const endpoint = z.object({
  addresses: z.array(address).default([]),
  // The API says that an unknown readiness counts as ready.
  conditions: z.object({ ready: z.boolean().default(true) }).default({ ready: true }),
  nodeName: z.string().default(""),
});

const document = z.object({
  metadata,
  addressType: z.enum(["IPv4", "IPv6", "FQDN"]).default("IPv4"),
  endpoints: z.array(z.unknown()).default([]),
  ports: z.array(z.object({ name: z.string().default(""), port: port.optional(), protocol: z.string().default("TCP") })).default([]),
});

export const projectEndpointSlice: Projector<EndpointSlice, z.infer<typeof document>> = {
  kind: "EndpointSlice",
  scope: "namespace",
  schema: document,
  project: ({ addressType, endpoints, ports }, meta) => {
    const service = meta.labels[SERVICE];
    if (meta.labels[MANAGED_BY] === OF_SELECTORS || service === undefined) return { object: null, problems: [] };
    if (addressType === "FQDN")
      return { object: null, problems: [unsupported(["addressType"], "endpoints that are host names are not supported")] };
    const parsed = endpoints.map((one) => endpoint.safeParse(one));
    const problems = parsed.flatMap(({ error }, i) =>
      error === undefined ? [] : [unsupported(["endpoints", i], "is not an endpoint with IP addresses; the whole slice is not in force")],
    );
    const object: EndpointSlice = {
      kind: "EndpointSlice",
      metadata: meta,
      service,
      endpoints: parsed.flatMap(({ data }) =>
        data === undefined ? [] : [{ addresses: data.addresses, ready: data.conditions.ready, nodeName: data.nodeName }],
      ),
      ports: ports.flatMap(({ name, port, protocol }) => (protocol === "TCP" && port !== undefined ? [{ name, port }] : [])),
    };
    return { object: problems.length > 0 ? null : object, problems };
  },
};
