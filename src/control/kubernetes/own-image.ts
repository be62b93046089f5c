// Which image a waypoint runs: the one that control itself was started from, as its own pod says.
import { z } from "zod";
import { isMeshError, meshError } from "#mesh/error.ts";
import type { Api } from "#source/kubernetes/api.ts";
import { isStatus } from "#source/kubernetes/failure.ts";
import { objectPath, PODS } from "#source/kubernetes/resources.ts";
import type { ImageSettings } from "#waypoint/plan.ts";

const CONTAINER = "control";

const pod = z.object({
  spec: z.object({
    imagePullSecrets: z.array(z.object({ name: z.string() })).default([]),
    containers: z.array(z.object({ name: z.string(), image: z.string(), imagePullPolicy: z.string().default("IfNotPresent") })),
  }),
});

/** `name` is control's host name, which in a pod is the pod's. */
export async function ownImage(api: Api, namespace: string, name: string): Promise<ImageSettings> {
  const unknown = `control cannot tell which image waypoints are to run: pod ${namespace}/${name} is not control's own`;
  try {
    const { spec } = pod.parse(await api.call({ method: "GET", path: objectPath(PODS, namespace, name) }));
    const own = spec.containers.find((container) => container.name === CONTAINER);
    if (own === undefined) throw meshError("E_WAYPOINT_NOT_MADE", unknown);
    return { image: own.image, pullPolicy: own.imagePullPolicy, pullSecrets: spec.imagePullSecrets.map((secret) => secret.name) };
  } catch (cause) {
    if (isMeshError(cause) && isStatus(cause, 404)) throw meshError("E_WAYPOINT_NOT_MADE", unknown, cause);
    throw cause;
  }
}
