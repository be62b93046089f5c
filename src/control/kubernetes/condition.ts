// The pod condition trackbed.dev/Captured: from a node's words to what people and the other replica read, and back. Pure.
import { PodPhase, type PodReport } from "#contract/gen/control_pb.ts";
import { type ErrorCode, errors } from "#contract/tables.ts";
import type { CaptureCondition } from "#mesh/objects.ts";

export type Said = Pick<CaptureCondition, "status" | "reason" | "message">;

/** Begins the message exactly while the pod is captured, and names the namespace for good: a reboot shows. */
const NAMESPACE = "network namespace ";

/** Null when there is nothing to say: the pod is not in the mesh and nobody asked for it. */
export function conditionOf({ phase, netnsCookie, code, reason }: PodReport, bootId: string): Said | null {
  const next = Object.hasOwn(errors, code) ? errors[code as ErrorCode].next : "";
  const trouble = [reason, next].filter(Boolean).join("; ");
  const place = `${NAMESPACE}${bootId || "unknown"}/${netnsCookie}`;
  if (phase === PodPhase.READY) return { status: "True", reason: "Ready", message: trouble === "" ? place : `${place}: ${trouble}` };
  if (phase === PodPhase.CAPTURED) {
    const waiting = trouble === "" ? "rules and listeners are in place; identity, policy or proof is awaited" : trouble;
    return { status: "False", reason: code || "Captured", message: `${place}: ${waiting}` };
  }
  return code === "" ? null : { status: "False", reason: code, message: trouble };
}

/** Peers must use HBONE: what the other replica's node said, read from the condition that it became. */
export const isCaptured = ({ status, message }: CaptureCondition): boolean => status === "True" || message.startsWith(NAMESPACE);

/** Texts may say how often or how long: only what a reader would act upon is worth a write. */
export function isSame(a: Said | null, b: Said | null): boolean {
  if (a === null || b === null) return a === b;
  return a.status === b.status && a.reason === b.reason && placeOf(a) === placeOf(b);
}

const placeOf = ({ message }: Said): string => (message.startsWith(NAMESPACE) ? (message.split(/[ :]/)[2] ?? "") : "");
