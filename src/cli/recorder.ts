// Who records: the daemons of this machine that have the pods, each asked by itself, or a cluster's control, which asks the nodes.
import type { RecordingLine, RecordingRequest } from "#inspect/pcap/recording.ts";
import { readQuestion } from "#inspect/question.ts";
import { meshError } from "#mesh/error.ts";
import { clusterAsker } from "./cluster/ask.ts";
import { sayOnStderr } from "./cluster/wait.ts";
import { askAll, type Daemon, record, status } from "./daemons.ts";
import { usage } from "./outcome.ts";
import { type PodReference, pickPod } from "./pod.ts";
import type { Where } from "./where.ts";

export type Told = { readonly node: string; readonly line: RecordingLine };

export type Recorder = {
  /** NAMESPACE/NAME of each. */
  readonly pods: readonly string[];
  /** Each ends when its recordings are over; after `stop` soon. */
  answers(stop: AbortSignal): readonly AsyncGenerator<Told>[];
  close(): Promise<void>;
};

type Limits = Omit<RecordingRequest, "pods">;

/** Control cannot be told to stop but by being left: what is on its way then gets so long. */
const GRACE_MS = 500;

const nameOf = ({ namespace, name }: { readonly namespace: string; readonly name: string }): string => `${namespace}/${name}`;

export async function ofDaemons(wanted: readonly PodReference[], limits: Limits, daemons: readonly Daemon[]): Promise<Recorder> {
  const { answers } = await askAll(daemons, async (daemon) => ({ daemon, ...(await status(daemon)) }));
  const known = answers.flatMap(({ daemon, pods }) => pods.map((pod) => ({ ...pod, daemon })));
  const pods = wanted.map((one) => pickPod(one, known));
  const asked = [...Map.groupBy(pods, ({ daemon }) => daemon)];

  async function* answer(daemon: Daemon, some: typeof pods, stop: AbortSignal): AsyncGenerator<Told> {
    const request = { ...limits, pods: some.map(({ namespace, name }) => ({ namespace, name })) };
    for await (const line of record(daemon, request, stop)) {
      yield { node: daemon.run, line };
      if (line.type === "ended") return;
    }
    if (!stop.aborted) throw meshError("E_DAEMON_AWAY", `the recording at ${daemon.run} broke off`);
  }

  return {
    pods: pods.map(nameOf),
    answers: (stop) => asked.map(([daemon, some]) => answer(daemon, some, stop)),
    close: async () => undefined,
  };
}

export async function ofCluster(
  wanted: readonly PodReference[],
  limits: Limits,
  { kubeconfig, context }: Where,
  account: string | undefined,
): Promise<Recorder> {
  const pods = wanted.map(({ namespace, name }) => {
    if (namespace === null) throw usage(`pod/${name}: say its namespace with -n, or pod/NAMESPACE/${name}`);
    return { namespace, name };
  });
  if (account === undefined)
    throw usage("a recording needs --account NAMESPACE/NAME: a ServiceAccount that may create recordings.trackbed.dev there");
  const question = readQuestion({ ...limits, about: "recording", pods });
  const asker = await clusterAsker({ kubeconfig, context }, account);

  async function* answer(stop: AbortSignal): AsyncGenerator<Told> {
    const left = new AbortController();
    stop.addEventListener("abort", () => setTimeout(() => left.abort(), GRACE_MS).unref(), { once: true });
    const missing = new Set(pods.map(nameOf));
    for await (const line of asker.ask(question, left.signal)) {
      if (line.type === "missing") sayOnStderr(`trackbed: without ${line.node}: ${line.reason}`);
      if (line.type !== "recorded") continue;
      if (line.line.type === "began") for (const pod of line.line.pods) missing.delete(nameOf(pod));
      yield line;
    }
    if (missing.size > 0 && !stop.aborted)
      throw meshError("E_RECORDING_REFUSED", `no node that could be asked has ${[...missing].join(", ")} in the mesh`);
  }

  return { pods: pods.map(nameOf), answers: (stop) => [answer(stop)], close: asker.close };
}
