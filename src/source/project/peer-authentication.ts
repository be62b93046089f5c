// PeerAuthentication documents: whether plaintext is let in.
import { z } from "zod";
import { DRY_RUN } from "#mesh/dry-run.ts";
import type { PeerAuthentication } from "#mesh/objects.ts";
import { labelMap, metadata } from "./fields.ts";
import { invalid } from "./problem.ts";
import type { Projector } from "./projector.ts";

const mode = z.enum(["UNSET", "DISABLE", "PERMISSIVE", "STRICT"]);
const mtls = z.strictObject({ mode: mode.default("UNSET") });
const selector = z.strictObject({ matchLabels: labelMap.default({}) });
const portKey = z
  .string()
  .regex(/^[1-9][0-9]{0,4}$/, "must be a port")
  .refine((text) => Number(text) <= 65535, "must be a port");

const document = z.strictObject({
  apiVersion: z.string(),
  kind: z.string(),
  metadata,
  spec: z
    .strictObject({
      selector: selector.default({ matchLabels: {} }),
      mtls: mtls.default({ mode: "UNSET" }),
      portLevelMtls: z.record(portKey, mtls).default({}),
    })
    .prefault({}),
  status: z.unknown().optional(),
});

export const projectPeerAuthentication: Projector<PeerAuthentication, z.infer<typeof document>> = {
  kind: "PeerAuthentication",
  scope: "namespace",
  schema: document,
  refusesNull: true,
  project: ({ spec }, meta) => {
    const ports = Object.entries(spec.portLevelMtls);
    if (ports.length > 0 && Object.keys(spec.selector.matchLabels).length === 0)
      return { object: null, problems: [invalid(["spec", "portLevelMtls"], "needs a selector: ports belong to workloads")] };
    const dryRun = meta.annotations[DRY_RUN] ?? "false";
    if (dryRun !== "true" && dryRun !== "false")
      return { object: null, problems: [invalid(["metadata", "annotations", DRY_RUN], "must be true or false")] };
    const object: PeerAuthentication = {
      kind: "PeerAuthentication",
      metadata: meta,
      selector: spec.selector.matchLabels,
      mode: spec.mtls.mode,
      portModes: Object.fromEntries(ports.map(([port, { mode }]) => [Number(port), mode])),
      dryRun: dryRun === "true",
    };
    return { object, problems: [] };
  },
  standIn: (raw, meta) => {
    const readable = z.object({ spec: z.looseObject({}) }).safeParse(raw).data?.spec ?? {};
    const chosen = selector.safeParse(readable["selector"] ?? {});
    return {
      kind: "PeerAuthentication",
      metadata: meta,
      selector: chosen.success ? chosen.data.matchLabels : {},
      mode: "STRICT",
      portModes: {},
      dryRun: meta.annotations[DRY_RUN] === "true",
    };
  },
};
