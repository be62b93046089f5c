// The API server as the commands for a cluster use it: read, list, apply, delete, by kind and name.
import { existsSync } from "node:fs";
import { homedir } from "node:os";
import { delimiter, join } from "node:path";
import { kubernetes } from "#contract/tables.ts";
import { isKind, type KindName, listPath, objectPath } from "#install/kinds.ts";
import type { Manifest } from "#install/render.ts";
import { type Api, connectApi } from "#source/kubernetes/api.ts";
import { isStatus } from "#source/kubernetes/failure.ts";
import { usage } from "../outcome.ts";

export type Target = { readonly kubeconfig: string | undefined; readonly context: string | undefined };

/** What every object has, as far as the commands look. */
export type Held = Manifest & {
  readonly metadata: Manifest["metadata"] & {
    readonly uid?: string;
    readonly resourceVersion?: string;
    readonly deletionTimestamp?: string;
    readonly managedFields?: readonly { readonly manager?: string; readonly fieldsV1?: unknown }[];
  };
};

export type Applied = "created" | "changed" | "unchanged";

export type Cluster = {
  readonly server: string;
  get<T = Held>(kind: KindName, name: string, namespace?: string): Promise<T | null>;
  /** Null when the API server has no such kind. */
  list<T = Held>(kind: KindName, where?: { readonly namespace?: string; readonly labelSelector?: string }): Promise<T[] | null>;
  apply(manifest: Manifest): Promise<Applied>;
  merge(kind: KindName, name: string, patch: unknown): Promise<void>;
  /** Takes a condition off a pod whose writer is gone. */
  removeCondition(namespace: string, pod: string, type: string): Promise<void>;
  /** False when it was not there. */
  remove(kind: KindName, name: string, namespace?: string): Promise<boolean>;
  raw(path: string): Promise<unknown>;
  close(): Promise<void>;
};

/** As kubectl asks. */
const PAGE = "500";

export async function connect({ kubeconfig, context }: Target): Promise<Cluster> {
  const file = kubeconfig ?? defaultKubeconfig();
  return clusterOf(await connectApi(file, context === undefined ? {} : { context }));
}

/** KUBECONFIG, ~/.kube/config, or null for the account of the pod that we run in. */
export function defaultKubeconfig(env: NodeJS.ProcessEnv = process.env): string | null {
  const named = (env["KUBECONFIG"] ?? "").split(delimiter).filter((path) => path !== "");
  if (named.length > 1) throw usage(`KUBECONFIG names several files (${named.join(", ")}): say which one with --kubeconfig`);
  if (named[0] !== undefined) return named[0];
  const own = join(homedir(), ".kube", "config");
  if (existsSync(own)) return own;
  if (env["KUBERNETES_SERVICE_HOST"] !== undefined) return null;
  throw usage(`no cluster: neither --kubeconfig nor KUBECONFIG is given and there is no ${own}`);
}

export function clusterOf(api: Api): Cluster {
  const get = async <T>(kind: KindName, name: string, namespace?: string): Promise<T | null> =>
    absentAsNull(api.call({ method: "GET", path: objectPath(kind, name, namespace) }) as Promise<T>);

  async function list<T>(
    kind: KindName,
    where: { readonly namespace?: string; readonly labelSelector?: string } = {},
  ): Promise<T[] | null> {
    const { namespace, labelSelector } = where;
    const items: T[] = [];
    let next = "";
    do {
      const query = { limit: PAGE, ...(next === "" ? {} : { continue: next }), ...(labelSelector === undefined ? {} : { labelSelector }) };
      type Page = { readonly items?: readonly T[]; readonly metadata?: { readonly continue?: string } };
      const page = await absentAsNull(api.call({ method: "GET", path: listPath(kind, namespace), query }) as Promise<Page>);
      if (page === null) return null;
      items.push(...(page.items ?? []));
      next = page.metadata?.continue ?? "";
    } while (next !== "");
    return items;
  }

  async function apply(manifest: Manifest): Promise<Applied> {
    const { kind, metadata } = manifest;
    if (!isKind(kind)) throw new Error(`the kind ${kind} of ${metadata.name} is not one that we install`);
    const before = await get<Held>(kind, metadata.name, metadata.namespace);
    const after = (await api.call({
      method: "PATCH",
      path: objectPath(kind, metadata.name, metadata.namespace),
      // force: fields that somebody changed by hand come back to what the installation says
      query: { fieldManager: kubernetes.fieldManager, force: "true" },
      type: "application/apply-patch+yaml",
      body: manifest,
    })) as Held;
    if (before === null) return "created";
    return before.metadata.resourceVersion === after.metadata.resourceVersion ? "unchanged" : "changed";
  }

  return {
    server: api.server,
    get,
    list,
    apply,
    merge: async (kind, name, patch) => {
      const query = { fieldManager: kubernetes.fieldManager };
      await api.call({ method: "PATCH", path: objectPath(kind, name), query, type: "application/merge-patch+json", body: patch });
    },
    removeCondition: async (namespace, pod, type) => {
      const patch = { status: { conditions: [{ type, $patch: "delete" }] } };
      const path = `${objectPath("Pod", pod, namespace)}/status`;
      await absentAsNull(api.call({ method: "PATCH", path, type: "application/strategic-merge-patch+json", body: patch }));
    },
    remove: async (kind, name, namespace) => {
      const body = { kind: "DeleteOptions", apiVersion: "v1", propagationPolicy: "Background" };
      return (await absentAsNull(api.call({ method: "DELETE", path: objectPath(kind, name, namespace), body }))) !== null;
    },
    raw: (path) => api.call({ method: "GET", path }),
    close: () => api.close(),
  };
}

async function absentAsNull<T>(answer: Promise<T>): Promise<T | null> {
  try {
    return await answer;
  } catch (error) {
    if (isStatus(error, 404)) return null;
    throw error;
  }
}
