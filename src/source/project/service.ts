// Service documents.
import { z } from "zod";
import type { Service } from "#mesh/objects.ts";
import { address, labelMap, metadata, port } from "./fields.ts";
import { invalid } from "./problem.ts";
import type { Projector } from "./projector.ts";

const NONE = "None";

const servicePort = z.object({
  name: z.string().default(""),
  port,
  targetPort: z.union([port, z.string().min(1)]).optional(),
  protocol: z.enum(["TCP", "UDP", "SCTP"]).default("TCP"),
  appProtocol: z.string().default(""),
});

const clusterIp = z.union([address, z.literal(NONE)]);

const serviceSpec = z.object({
  type: z.enum(["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"]).default("ClusterIP"),
  clusterIP: clusterIp.optional(),
  clusterIPs: z.array(clusterIp).optional(),
  selector: labelMap.default({}),
  ports: z.array(servicePort).default([]),
  trafficDistribution: z.string().default(""),
  publishNotReadyAddresses: z.boolean().default(false),
});

const serviceDocument = z.object({ metadata, spec: serviceSpec });

export const projectService: Projector<Service, z.infer<typeof serviceDocument>> = {
  kind: "Service",
  scope: "namespace",
  schema: serviceDocument,
  project: ({ spec }, meta) => {
    const addresses = spec.clusterIPs ?? (spec.clusterIP === undefined ? [] : [spec.clusterIP]);
    if (spec.type !== "ExternalName" && addresses.length === 0)
      return {
        object: null,
        problems: [invalid(["spec", "clusterIPs"], "a Service needs its addresses here, or None: nothing else allocates them")],
      };
    const object: Service = {
      kind: "Service",
      metadata: meta,
      type: spec.type,
      clusterIPs: addresses.filter((one) => one !== NONE),
      selector: spec.selector,
      ports: spec.ports.map((one) => ({ ...one, targetPort: one.targetPort ?? one.port })),
      trafficDistribution: spec.trafficDistribution,
      publishNotReadyAddresses: spec.publishNotReadyAddresses,
    };
    return { object, problems: [] };
  },
};
