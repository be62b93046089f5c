// What the CNI plugin asks the daemon, and what it is answered: the body of POST /cni/add, /cni/check and /cni/del.
import { z } from "zod";
import type { ErrorCode } from "#contract/tables.ts";

export const CniRequest = z.strictObject({
  containerId: z.string().min(1),
  /** As the node's own root sees it; empty when the namespace is already gone (del). */
  netns: z.string(),
  ifName: z.string(),
  podNamespace: z.string().min(1),
  podName: z.string().min(1),
  podUid: z.string().min(1),
  ips: z.array(z.string()),
});

export type CniRequest = z.infer<typeof CniRequest>;

export type CniVerb = "add" | "check" | "del";

export type CniRefusal = { readonly code: ErrorCode; readonly reason: string };

/** `captured` is for people: false = the pod is none of the mesh's. */
export type CniOutcome = { readonly captured: boolean } | CniRefusal;

export const isRefusal = (outcome: CniOutcome): outcome is CniRefusal => "code" in outcome;
