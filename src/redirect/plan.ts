// Capture as data: which sets, chains, rules a pod's namespace shall hold.
import type { CaptureSpec } from "#mesh/capture.ts";

export type Plan = { readonly spec: CaptureSpec | null };

export const plan = (spec: CaptureSpec): Plan => ({ spec });
