// A live connection to the shop's ticker, watched: which connection it is, which numbers came, and when it ended.
import type { PodPlace } from "../../lab/api.ts";
import { until } from "../../lab/until.ts";

const FIRST_TICK_MS = 5000;

export type Ticks = {
  /** Ticks seen so far. */
  count(): number;
  /** Rejects unless every tick came from one connection and none is missing. */
  assertUnbroken(): void;
  /** Resolves when `more` further ticks came. */
  more(more: number): Promise<void>;
  /** performance.now() of its end; rejects when it still lives after the deadline. */
  ended(deadlineMs: number): Promise<number>;
  stop(): void;
};

/** Opens a connection in the pod and resolves once it ticks. */
export async function openTicks(pod: PodPlace, url: string): Promise<Ticks> {
  const curl = pod.spawn(["curl", "-sS", "-N", url]);
  const seen: { connection: string; number: number }[] = [];
  let rest = "";
  let complaint = "";
  let end: number | undefined;
  curl.stdout?.setEncoding("utf8").on("data", (text: string) => {
    const lines = (rest + text).split("\n");
    rest = lines.pop() ?? "";
    for (const line of lines) {
      const [, connection, number] = /^data: (\w+) (\d+)$/.exec(line) ?? [];
      if (connection !== undefined) seen.push({ connection, number: Number(number) });
    }
  });
  curl.stderr?.setEncoding("utf8").on("data", (text: string) => {
    complaint += text;
  });
  curl.once("close", () => {
    end = performance.now();
  });
  const reaches = async (count: number): Promise<void> => {
    await until(
      `tick ${count} of ${url} in ${pod.name}`,
      () => end !== undefined || seen.length >= count,
      FIRST_TICK_MS,
      () => complaint,
    );
    if (seen.length < count)
      throw new Error(`the connection of ${pod.name} to ${url} ended after ${seen.length} ticks: ${complaint.trim()}`);
  };
  await reaches(1).catch((error: unknown) => {
    curl.kill();
    throw error;
  });
  return {
    count: () => seen.length,
    more: (more) => reaches(seen.length + more),
    ended: (deadlineMs) => until(`the end of the connection of ${pod.name} to ${url}`, () => end, deadlineMs),
    stop: () => void curl.kill(),
    assertUnbroken() {
      const broken = seen.findIndex(({ connection, number }, index) => connection !== seen[0]?.connection || number !== index);
      if (broken >= 0) throw new Error(`tick ${broken} of ${url} is ${JSON.stringify(seen[broken])}: another connection, or one was lost`);
    },
  };
}
