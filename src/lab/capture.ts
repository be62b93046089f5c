// tcpdump on one interface of a namespace, into a file.
import { once } from "node:events";
import type { Capture, Place } from "./api.ts";
import { end } from "./place.ts";
import { until } from "./until.ts";

// Packets reach the file as they come (-U), whole (-s 0), and the ring holds a burst of a local bulk transfer.
const TCPDUMP = ["tcpdump", "-n", "-U", "-s", "0", "-B", "16384", "-Z", "root"];
// tcpdump reads the ring in batches: what was on the wire before stop() is in the file after this grace.
const GRACE_MS = 2000;

export async function startCapture(place: Place, device: string, file: string, filter = ""): Promise<Capture> {
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
  return {
    file,
    async stop() {
      const closed = once(child, "close");
      await end(child, "SIGINT", GRACE_MS);
      await closed;
      if (/[1-9]\d* packets dropped by kernel/.test(told)) throw new Error(`capture ${file} is not complete: ${told.trim()}`);
    },
  };
}
