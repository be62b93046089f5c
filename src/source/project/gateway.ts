// Gateway and GatewayClass documents. What a waypoint has no use for is remembered: of a Gateway of another class nobody asks.
import { z } from "zod";
import type { Gateway, GatewayClass, Unsupported } from "#mesh/gateway.ts";
import { labelMap, metadata, port } from "./fields.ts";
import type { Projector } from "./projector.ts";
import { type Remembered, remembering } from "./remember.ts";
import { generation } from "./route/document.ts";

const head = {
  apiVersion: z.string(),
  kind: z.string(),
  metadata: metadata.extend({ generation }),
};
const name = z.string().min(1).max(253);
const reference = z.strictObject({ group: z.string(), kind: z.string(), name });

const classDocument = z.strictObject({
  ...head,
  spec: z.strictObject({
    controllerName: z.string().min(1),
    description: z.string().optional(),
    parametersRef: reference.extend({ namespace: z.string().default("") }).optional(),
  }),
  status: z.unknown().optional(),
});

export const projectGatewayClass: Projector<GatewayClass, Remembered<z.infer<typeof classDocument>>> = {
  kind: "GatewayClass",
  scope: "cluster",
  schema: remembering(classDocument),
  project: ({ document: { metadata, spec }, unsupported }, meta) => ({
    object: {
      kind: "GatewayClass",
      metadata: meta,
      generation: metadata.generation,
      controllerName: spec.controllerName,
      parametersRef: spec.parametersRef ?? null,
      unsupported,
    },
    problems: [],
  }),
};

/** A waypoint serves services, not routes: the kinds of routes that a listener admits are answered in its status. */
const allowedRoutes = z.strictObject({
  namespaces: z
    .strictObject({
      from: z.enum(["All", "Same", "Selector", "None"]).default("Same"),
      selector: z.strictObject({ matchLabels: labelMap.default({}) }).prefault({}),
    })
    .prefault({}),
});
const listener = z.strictObject({ name, port, protocol: z.string().min(1), allowedRoutes: allowedRoutes.prefault({}) });
const infrastructure = z.strictObject({
  labels: z.record(z.string(), z.string()).default({}),
  annotations: z.record(z.string(), z.string()).default({}),
  parametersRef: reference.optional(),
});
const condition = z.object({ type: z.string(), status: z.string() });

const gatewayDocument = z.strictObject({
  ...head,
  spec: z.strictObject({
    gatewayClassName: name,
    listeners: z.array(listener).default([]),
    infrastructure: infrastructure.prefault({}),
  }),
  status: z.object({ conditions: z.array(condition).default([]) }).prefault({}),
});

type Document = z.infer<typeof gatewayDocument>;

export const projectGateway: Projector<Gateway, Remembered<Document>> = {
  kind: "Gateway",
  scope: "namespace",
  schema: remembering(gatewayDocument),
  project: ({ document: { metadata, spec, status }, unsupported }, meta) => {
    const { labels, annotations, parametersRef } = spec.infrastructure;
    const object: Gateway = {
      kind: "Gateway",
      metadata: meta,
      generation: metadata.generation,
      className: spec.gatewayClassName,
      listeners: spec.listeners.map(({ name, port, protocol, allowedRoutes: { namespaces } }) => ({
        name,
        port,
        protocol,
        from: namespaces.from,
        selector: namespaces.selector.matchLabels,
      })),
      infrastructure: { labels, annotations, parametersRef: parametersRef ?? null },
      programmed: status.conditions.some((one) => one.type === "Programmed" && one.status === "True"),
      unsupported,
    };
    return { object, problems: [] };
  },
  /** Its status says what is wrong with it, and its class whether that is anything to us. */
  standIn: (raw, meta, problem) => {
    const parsed = z.object({ metadata: head.metadata, spec: z.object({ gatewayClassName: name }) }).safeParse(raw);
    if (!parsed.success) return null;
    const unsupported: Unsupported[] = [{ field: problem.path.join("."), reason: problem.reason }];
    return {
      kind: "Gateway",
      metadata: meta,
      generation: parsed.data.metadata.generation,
      className: parsed.data.spec.gatewayClassName,
      listeners: [],
      infrastructure: { labels: {}, annotations: {}, parametersRef: null },
      programmed: false,
      unsupported,
    };
  },
};
