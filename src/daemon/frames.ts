// Counts what is on the wire of this node's pods: whether the bytes on the tunnel port are TLS, by a packet socket in each pod's own namespace.
import { ports } from "#contract/tables.ts";
import { countFrames, visitNamespace } from "#engine/namespace.ts";
import type { CountFrames } from "#inspect/answer.ts";
import { merge } from "#inspect/merge.ts";
import type { AnswerLine, FramesQuestion } from "#inspect/question.ts";
import { meshError } from "#mesh/error.ts";
import type { PodRecord } from "./pod.ts";

export type FrameParts = {
  readonly node: string;
  /** Path of trackbed-netns. */
  readonly helper: string;
  readonly pods: () => Iterable<PodRecord>;
};

/** Pods that are watched at a time, by all questions together: each sees every packet of its tunnels. */
const MOST_WATCHED = 32;

export function frameCounter({ node, helper, pods }: FrameParts): CountFrames {
  let watched = 0;

  async function* watch(
    { spec }: PodRecord,
    question: FramesQuestion,
    stop: AbortSignal,
  ): AsyncGenerator<{ time: number; line: AnswerLine }> {
    const pod = `${spec.namespace}/${spec.name}`;
    const line = (counts: (AnswerLine & { type: "frames" })["counts"]) => ({
      time: 0,
      line: { type: "frames", node, pod, counts } as const,
    });
    const began = Promise.withResolvers<boolean>();
    const counted = visitNamespace(spec.netns, (open) => {
      if (open === null) throw meshError("E_CAPTURE_NETNS_GONE", `pod ${pod}: there is no network namespace at ${spec.netns}`);
      const { between, milliseconds } = question;
      return countFrames(helper, open, { port: ports.hbone, between, milliseconds }, () => began.resolve(true), stop);
    });
    counted.catch(() => undefined).finally(() => began.resolve(false)); // awaited below
    if (await began.promise) yield line(null);
    yield line(await counted);
  }

  return async function* count(question, stop) {
    const wanted = new Set(question.pods.map(({ namespace, name }) => `${namespace}/${name}`));
    const here = [...pods()].filter(({ spec }) => wanted.has(`${spec.namespace}/${spec.name}`));
    if (watched + here.length > MOST_WATCHED) throw meshError("E_QUESTION_BUSY", `frames of ${watched} pods are counted already`);
    watched += here.length;
    const over = new AbortController();
    try {
      const ended = AbortSignal.any([stop, over.signal]);
      const watches = here.map((pod) => watch(pod, question, ended));
      for await (const { line } of merge(watches, false)) yield line;
    } catch (error) {
      if (!stop.aborted) throw error;
    } finally {
      watched -= here.length;
      over.abort();
    }
  };
}
