// Puts a question to whoever knows: every daemon of this machine and the controls of its labs, or a cluster's control; the answer is the same.
import { setTimeout as sleep } from "node:timers/promises";
import { timeOf } from "#inspect/answer.ts";
import { createTally } from "#inspect/ledger/tally.ts";
import { merge } from "#inspect/merge.ts";
import type { AnswerLine, Question } from "#inspect/question.ts";
import { isMeshError } from "#mesh/error.ts";
import { backoff } from "#xds/backoff.ts";
import { type ClusterAsker, clusterAsker } from "./cluster/ask.ts";
import { askDaemon, type Daemon, labControls } from "./daemons.ts";
import { isDaemonAway } from "./outcome.ts";
import { daemonsOf, type Where } from "./where.ts";

export type Asker = {
  /** Ends when all is told; a question that follows ends with `stop`, and outlives those who answer it. */
  ask(question: Question, stop: AbortSignal): AsyncGenerator<AnswerLine>;
  close(): Promise<void>;
};

/** A restarted daemon listens again within a second; one that stays away is asked rarely. */
const FIRST_RETRY_MS = 100;
const LAST_RETRY_MS = 5000;

/** `account`: see clusterAsker; means nothing on this machine, where root asks. */
export async function askerOf(where: Where, account: string | null): Promise<Asker> {
  const daemons = daemonsOf(where);
  if (daemons === null) return ofCluster(await clusterAsker({ kubeconfig: where.kubeconfig, context: where.context }, account));
  const named = where.run.length > 0 || (process.env["TRACKBED_RUN"] ?? "") !== "";
  return ofDaemons([...daemons, ...(named ? [] : labControls())]);
}

function ofDaemons(daemons: readonly Daemon[]): Asker {
  async function* ask(question: Question, stop: AbortSignal): AsyncGenerator<AnswerLine> {
    if (question.about === "flows" && question.follow) {
      const followed = daemons.map((daemon) =>
        followOne(`the daemon at ${daemon.run}`, (connected) => askDaemon(daemon, question, stop, connected), stop),
      );
      for await (const { line } of merge(followed.map(untimed), false)) yield line;
      return;
    }
    // All before the first line: who is away is told instead of an answer that looks whole.
    const answers = await Promise.all(daemons.map((daemon) => all(askDaemon(daemon, question, stop))));
    if (question.about === "edges") {
      const tally = createTally(question);
      for (const line of answers.flat()) tally.merge(line);
      yield* tally.lines();
    } else yield* answers.flat().sort((a, b) => timeOf(a) - timeOf(b));
  }

  return { ask, close: async () => undefined };
}

function ofCluster(cluster: ClusterAsker): Asker {
  return {
    ask: (question, stop) => {
      if (question.about !== "flows" || !question.follow) return cluster.ask(question, stop);
      let since = question.since;
      const again = async function* (connected: () => void): AsyncGenerator<AnswerLine> {
        for await (const line of cluster.ask({ ...question, since }, stop)) {
          connected();
          if (line.type === "flow") since = Math.max(since ?? 0, timeOf(line));
          yield line;
        }
      };
      return followOne("control", again, stop);
    },
    close: cluster.close,
  };
}

/** Who was there once is waited for. Of a daemon records begin anew with its successor, which keeps none of the old. */
async function* followOne(
  who: string,
  open: (connected: () => void) => AsyncGenerator<AnswerLine>,
  stop: AbortSignal,
): AsyncGenerator<AnswerLine> {
  const wait = backoff(Math.random, FIRST_RETRY_MS, LAST_RETRY_MS);
  let [met, told] = [false, false];
  const connected = (): void => {
    if (told) console.error(`trackbed: ${who} is back`);
    [met, told] = [true, false];
    wait.reset();
  };
  while (!stop.aborted) {
    try {
      yield* open(connected);
    } catch (error) {
      if (!met || !isAway(error)) throw error;
    }
    if (stop.aborted) return;
    if (!told) console.error(`trackbed: ${who} ended; waiting for it to come back`);
    told = true;
    await sleep(wait.next(), undefined, { signal: stop }).catch(() => undefined); // an abort ends the loop
  }
}

/** Nobody listens, or the connection ended in the middle of an answer. */
const isAway = (error: unknown): boolean =>
  isDaemonAway(error) ||
  (isMeshError(error) && error.code === "E_API_UNREACHABLE") ||
  (error instanceof Error && "code" in error && (error.code === "ECONNRESET" || error.code === "UND_ERR_SOCKET"));

async function* untimed(lines: AsyncGenerator<AnswerLine>): AsyncGenerator<{ time: number; line: AnswerLine }> {
  for await (const line of lines) yield { time: 0, line };
}

async function all(lines: AsyncGenerator<AnswerLine>): Promise<AnswerLine[]> {
  const found: AnswerLine[] = [];
  for await (const line of lines) found.push(line);
  return found;
}
