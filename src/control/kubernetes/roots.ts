// The roots where the daemons find them, and with them how far a rotation of the roots has come: a start in its middle must know.
import { z } from "zod";
import { formatHistory, type History, parseHistory, type Rotation } from "#ca/rotation.ts";
import { annotations, kubernetes } from "#contract/tables.ts";
import { meshError } from "#mesh/error.ts";
import type { Api } from "#source/kubernetes/api.ts";
import { isStatus } from "#source/kubernetes/failure.ts";
import { objectPath } from "#source/kubernetes/resources.ts";

const CONFIG_MAPS = { root: "/api/v1", plural: "configmaps" };
const strings = z.record(z.string(), z.string()).default({});
const configMap = z.object({ metadata: z.object({ annotations: strings }), data: strings });

export const rootsPlace = (namespace: string): string => `ConfigMap ${namespace}/${kubernetes.rootConfigMap}`;

async function read(api: Api, namespace: string): Promise<z.infer<typeof configMap> | null> {
  try {
    return configMap.parse(await api.call({ method: "GET", path: objectPath(CONFIG_MAPS, namespace, kubernetes.rootConfigMap) }));
  } catch (error) {
    if (isStatus(error, 404)) return null;
    throw error;
  }
}

/** Null when roots were never published, or by a version that did not write it. */
export async function readHistory(api: Api, namespace: string): Promise<History | null> {
  const found = await read(api, namespace);
  return found === null ? null : historyOf(found, namespace);
}

function historyOf({ metadata }: z.infer<typeof configMap>, namespace: string): History | null {
  const text = metadata.annotations[annotations.rotation];
  if (text === undefined) return null;
  try {
    return parseHistory(text);
  } catch (cause) {
    const why = `annotation ${annotations.rotation} of ${rootsPlace(namespace)} is not what control wrote: delete it, and let 24 h pass before the next step of a rotation`;
    throw meshError("E_AUTHORITY_INVALID", why, cause);
  }
}

/** Puts the roots where the daemons find them; true when they were not there yet. */
export async function publishRoots(
  api: Api,
  namespace: string,
  roots: string,
  rotation: Pick<Rotation, "history" | "adopt">,
): Promise<boolean> {
  const found = await read(api, namespace);
  const published = found === null ? null : historyOf(found, namespace);
  if (published !== null) rotation.adopt(published);
  const history = formatHistory(rotation.history());
  const same = found?.data[kubernetes.rootKey] === roots;
  if (same && found?.metadata.annotations[annotations.rotation] === history) return false;
  // Our own field manager: the manifests' one owns the object without this key, and would take the key away at the next install.
  const query = { fieldManager: kubernetes.control, force: "true" };
  const metadata = { name: kubernetes.rootConfigMap, namespace, annotations: { [annotations.rotation]: history } };
  const body = { apiVersion: "v1", kind: "ConfigMap", metadata, data: { [kubernetes.rootKey]: roots } };
  const path = objectPath(CONFIG_MAPS, namespace, kubernetes.rootConfigMap);
  await api.call({ method: "PATCH", path, query, type: "application/apply-patch+yaml", body });
  return !same;
}
