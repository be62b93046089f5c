// Tells a namespace that somebody is going to see what its pods send and hear: an Event on each of them, before the first byte is copied.
import { randomUUID } from "node:crypto";
import type { AboutRecording } from "#inspect/question.ts";
import { meshError } from "#mesh/error.ts";
import type { Pod } from "#mesh/objects.ts";
import type { Api } from "#source/kubernetes/api.ts";
import { writeEvent } from "./event.ts";

const REASON = "TrafficRecorded";

export function announceRecording(
  writer: { readonly api: Api; readonly instance: string },
  pods: () => Iterable<Pod>,
): (recording: AboutRecording) => Promise<void> {
  return async ({ pods: recorded, by, limitBytes, limitMilliseconds, peers, ports }) => {
    const occasion = randomUUID();
    await Promise.all(
      recorded.map(async ({ namespace, name }) => {
        const pod = [...pods()].find(({ metadata }) => metadata.namespace === namespace && metadata.name === name);
        if (pod === undefined) throw meshError("E_RECORDING_REFUSED", `there is no pod ${namespace}/${name}`);
        const { uid } = pod.metadata;
        const of = [...peers.map((peer) => JSON.stringify(peer)), ...ports.map((port) => `port ${port}`)].join(", ");
        const text = `${by ?? "somebody"} records the decrypted traffic of this pod${of === "" ? "" : ` (${of})`} for at most ${limitMilliseconds / 1000} s and ${limitBytes} bytes`;
        await writeEvent(writer, { apiVersion: "v1", kind: "Pod", namespace, name, uid }, REASON, text, occasion);
      }),
    );
  };
}
