// Recordings of this node's pods: which pods are meant, what the engine copies of them, and a line in the log of who looked at whom.
import type { Logger } from "pino";
import type { Director } from "#engine/director.ts";
import { linesOf, orderOf, type RecordedPod, type RecordingLine, type RecordingQuestion } from "#inspect/pcap/recording.ts";
import { redactor } from "#inspect/pcap/redact.ts";
import { explainError, meshError } from "#mesh/error.ts";
import type { PodRecord } from "./pod.ts";

export type RecordingParts = {
  readonly node: string;
  readonly log: Logger;
  readonly director: Pick<Director, "record">;
  readonly pods: () => Iterable<PodRecord>;
};

/** Of the pods of a question to the whole mesh those that are here; nothing when none is. */
export async function* recordSome(question: RecordingQuestion, parts: RecordingParts, stop: AbortSignal): AsyncGenerator<RecordingLine> {
  const here = new Set([...parts.pods()].map(({ spec }) => `${spec.namespace}/${spec.name}`));
  const pods = question.pods.filter(({ namespace, name }) => here.has(`${namespace}/${name}`));
  if (pods.length > 0) yield* recordPods({ ...question, pods }, parts, stop);
}

/** Ends with a line `ended`, whatever ended it, unless the engine or the reader went away. */
export async function* recordPods(question: RecordingQuestion, parts: RecordingParts, stop: AbortSignal): AsyncGenerator<RecordingLine> {
  const { node, log, director } = parts;
  const pods = podsOf(question, parts);
  const { peers, ports, limitBytes, limitMilliseconds, redact } = question;
  const facts = {
    audit: "recording",
    by: question.by ?? "root of this node",
    pods: pods.map(({ namespace, name }) => `${namespace}/${name}`),
    ...{ peers, ports, limitBytes, limitMilliseconds, redact },
  };
  const blank = redactor(redact);
  let bytes = 0;
  let ended = "the reader went away";
  log.warn(facts, "traffic of pods is recorded from now on");
  try {
    let begun = false;
    const order = orderOf(
      question,
      pods.map(({ uid }) => uid),
    );
    for await (const batch of director.record(order, stop)) {
      const lines = [...linesOf(batch)];
      if (!begun) yield { type: "began", pods: pods.map((pod) => ({ ...pod, node })) };
      begun = true;
      for (const line of lines) {
        if (line.type === "chunk") bytes += line.length;
        if (line.type === "ended") ended = `its limit of ${line.why}`;
        yield blank(line);
      }
    }
  } catch (error) {
    ended = explainError(error);
    throw error;
  } finally {
    log.warn({ ...facts, bytes, ended }, "traffic of pods is not recorded any more");
  }
}

function podsOf({ pods: wanted }: RecordingQuestion, { node, pods }: RecordingParts): Omit<RecordedPod, "node">[] {
  const known = [...pods()];
  return wanted.map(({ namespace, name }) => {
    const pod = known.find(({ spec }) => spec.namespace === namespace && spec.name === name);
    if (pod === undefined) throw meshError("E_RECORDING_REFUSED", `node ${node} has no pod ${namespace}/${name} of the mesh`);
    if (pod.state === "absent")
      throw meshError("E_RECORDING_REFUSED", `pod ${namespace}/${name} is not in the mesh: nothing of it passes the engine`);
    const { uid, addresses } = pod.spec;
    return { uid, namespace, name, addresses };
  });
}
