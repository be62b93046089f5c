// The pods of one node as the API server has them, followed without a cache: what the kubelet of the churn acts on.
import { setTimeout as pause } from "node:timers/promises";
import type { Api } from "#source/kubernetes/api.ts";
import { lines } from "#source/kubernetes/lines.ts";

export type ApiPod = {
  readonly metadata: {
    readonly namespace: string;
    readonly name: string;
    readonly uid: string;
    readonly resourceVersion: string;
    readonly labels?: Readonly<Record<string, string>>;
    readonly deletionTimestamp?: string;
    readonly deletionGracePeriodSeconds?: number;
  };
  readonly spec: { readonly nodeName?: string; readonly hostNetwork?: boolean; readonly serviceAccountName: string };
  readonly status?: { readonly phase?: string; readonly podIP?: string };
};

type Event = { readonly type: "ADDED" | "MODIFIED" | "DELETED" | "BOOKMARK" | "ERROR"; readonly object: ApiPod };
type Listed = { readonly metadata: { readonly resourceVersion: string }; readonly items: readonly ApiPod[] };

const AGAIN_MS = 200;

/** Until `stop`: the pods that are there by uid, after every change. */
export async function follow(
  api: Api,
  query: Readonly<Record<string, string>>,
  changed: (pods: ReadonlyMap<string, ApiPod>) => void,
  stop: AbortSignal,
): Promise<void> {
  const path = "/api/v1/pods";
  while (!stop.aborted) {
    try {
      const { metadata, items } = (await api.call({ method: "GET", path, query, signal: stop })) as Listed;
      const pods = new Map(items.map((pod) => [pod.metadata.uid, pod]));
      changed(pods);
      const since = { ...query, watch: "1", resourceVersion: metadata.resourceVersion };
      for await (const texts of lines(await api.open({ method: "GET", path, query: since, signal: stop }))) {
        for (const { type, object } of texts.map((text) => JSON.parse(text) as Event)) {
          if (type === "ERROR") throw new Error(JSON.stringify(object));
          if (type === "DELETED") pods.delete(object.metadata.uid);
          else pods.set(object.metadata.uid, object);
        }
        changed(pods);
      }
    } catch (error) {
      if (!stop.aborted) console.error(`pods are listed again: ${error instanceof Error ? error.message : String(error)}`);
    }
    await pause(AGAIN_MS);
  }
}
