// Tells of trouble where `kubectl describe` shows it: an Event on the object that has it.
import { createHash } from "node:crypto";
import { kubernetes, product } from "#contract/tables.ts";
import type { Api } from "#source/kubernetes/api.ts";
import { isStatus } from "#source/kubernetes/failure.ts";

export type Involved = {
  readonly apiVersion: string;
  readonly kind: string;
  readonly namespace: string;
  readonly name: string;
  readonly uid: string;
};

/** The server's own limit. */
const EVENT_CHARACTERS = 1024;

/** `instance`: of this start of this replica. False when it was told within this hour (on this occasion), or the object's namespace is gone. */
export async function writeEvent(
  { api, instance }: { readonly api: Api; readonly instance: string },
  involved: Involved,
  reason: string,
  message: string,
  /** Told once for each. */
  occasion = new Date().toISOString().slice(0, 13),
): Promise<boolean> {
  const now = new Date().toISOString();
  // One name for the same trouble of the same object: told again it is a conflict, and that is as it should be.
  const id = createHash("sha256").update(`${involved.uid} ${reason} ${occasion}`).digest("hex").slice(0, 16);
  try {
    await api.call({
      method: "POST",
      path: `/api/v1/namespaces/${encodeURIComponent(involved.namespace)}/events`,
      body: {
        apiVersion: "v1",
        kind: "Event",
        metadata: { name: `${involved.name.slice(0, 200)}.${id}`, namespace: involved.namespace },
        involvedObject: involved,
        type: "Warning",
        reason,
        message: message.slice(0, EVENT_CHARACTERS),
        source: { component: kubernetes.control },
        reportingComponent: `${product.labelPrefix}/control`,
        reportingInstance: instance,
        firstTimestamp: now,
        lastTimestamp: now,
        count: 1,
      },
    });
    return true;
  } catch (error) {
    if (isStatus(error, 409) || isStatus(error, 404)) return false;
    throw error;
  }
}
