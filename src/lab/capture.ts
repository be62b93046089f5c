// tcpdump on one interface of a namespace, into a file.
import { once } from "node:events";
import { readFileSync } from "node:fs";
import type { Capture, Place } from "./api.ts";
import { end } from "./place.ts";
import { until } from "./until.ts";

// Packets reach the file as they come (-U, immediate mode), whole (-s 0), and the ring holds a burst of a local bulk transfer.
const TCPDUMP = ["tcpdump", "-n", "-U", "--immediate-mode", "-s", "0", "-B", "16384", "-Z", "root"];
const GRACE_MS = 2000;
// On "any" libpcap leaves one of the two copies out of what passes loopback, which "received" counts all the same. There tcpdump has written
// everything when it answers this often, running between the answers, without having got any further.
const UNCHANGED = 5;
const STATISTICS = /(\d+) packets? captured, (\d+) packets? received by filter/g;

/** tcpdump started as uid 0 insists on setgroups(2), which a user namespace made by an ordinary user denies. */
export const canCapture = (): boolean => readFileSync("/proc/self/setgroups", "latin1").trim() !== "deny";

export async function startCapture(place: Place, device: string, file: string, filter = ""): Promise<Capture> {
  if (!canCapture()) throw new Error("captures need root: tcpdump cannot run in the user namespace of an ordinary user");
  const child = place.spawn([...TCPDUMP, "-i", device, "-w", file, ...(filter === "" ? [] : [filter])]);
  let told = "";
  child.stderr?.setEncoding("utf8").on("data", (text: string) => {
    told += text;
  });
  await until(
    `tcpdump on ${device} of ${place.name}`,
    () => told.includes("listening on"),
    5000,
    () => told,
  );
  /** tcpdump prints these on SIGUSR1. */
  const statistics = async (): Promise<{ captured: number; received: number }> => {
    const asked = told.length;
    child.kill("SIGUSR1");
    const [, captured, received] = await until(
      "statistics of tcpdump",
      () => [...told.slice(asked).matchAll(STATISTICS)].at(-1),
      GRACE_MS,
      () => told,
    );
    return { captured: Number(captured), received: Number(received) };
  };
  return {
    file,
    async stop() {
      const { received } = await statistics(); // what was on the wire until now has to be in the file
      let last = -1;
      let unchanged = 0;
      await until(
        "every packet is in the file",
        async () => {
          const { captured } = await statistics();
          unchanged = captured === last ? unchanged + 1 : 0;
          last = captured;
          return captured >= received || (device === "any" && unchanged >= UNCHANGED);
        },
        GRACE_MS,
        () => told,
      );
      const closed = once(child, "close");
      await end(child, "SIGINT", GRACE_MS);
      await closed;
      if (/[1-9]\d* packets dropped by kernel/.test(told)) throw new Error(`capture ${file} is not complete: ${told.trim()}`);
    },
  };
}
