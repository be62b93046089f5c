// Watches what really crosses the wire between two nodes while something happens: new connections by port, and whether a text can be read.
import { spawn } from "node:child_process";
import { type Cluster, waitFor } from "./cluster.ts";
import { run } from "./command.ts";
import { netnsPath } from "./machine/power.ts";

export type Seen = {
  /** New connections (SYN without ACK) to the port, as tcpdump writes them: time, source, destination. */
  syns(port: number): readonly string[];
  /** How often the text stands readable in a packet. */
  readable(text: string): number;
};

const LISTEN_MS = 10_000;
/** What drills send is kilobytes; the API server's and the kubelet's connections are left out. */
const MOST_BYTES = 256 << 20;
/** The head of a packet holds the answer of a drill's service; small heads make room for thousands of packets while tcpdump waits for a CPU. */
const PACKET_BYTES = 4096;
const BUFFER_KIB = 64 << 10;
const FILTER = "(tcp or udp) and not port 6443 and not port 10250";

/** Runs `during` while a node's cable is tapped; everything that its pods send to or get from another machine passes there. */
export async function witness(c: Cluster, node: string, during: () => Promise<void>): Promise<Seen> {
  // -p: frames that the bridge floods while it does not know a rebooted node yet are not this node's.
  const tap = ["-p", "--immediate-mode", "-U", "-n", "-i", "eth0", "-s", String(PACKET_BYTES), "-B", String(BUFFER_KIB), "-w", "-", FILTER];
  const tcpdump = spawn("nsenter", [`--net=${netnsPath(c.settings, node)}`, "--", "tcpdump", ...tap], {
    stdio: ["ignore", "pipe", "pipe"],
  });
  const ended = new Promise<void>((resolve, reject) => tcpdump.once("error", reject).once("close", () => resolve()));
  const chunks: Buffer[] = [];
  let said = "";
  tcpdump.stdout.on("data", (chunk: Buffer) => chunks.push(chunk));
  tcpdump.stderr.setEncoding("utf8").on("data", (text: string) => (said += text));
  try {
    await waitFor("tcpdump listens", () => said.includes("listening on"), LISTEN_MS);
    await during();
  } finally {
    tcpdump.kill("SIGINT"); // it writes what it still holds
    await ended;
  }
  const capture = Buffer.concat(chunks);
  if (capture.length > MOST_BYTES || !said.includes("0 packets dropped by kernel"))
    throw new Error(`the witness of ${node} missed something: ${said}`);
  return { syns: await connections(capture), readable: (text) => occurrences(capture, text) };
}

async function connections(capture: Buffer): Promise<(port: number) => readonly string[]> {
  const lines = (await run(["tcpdump", "-n", "-r", "-", "tcp"], { input: capture }))
    .split("\n")
    .filter((line) => line.includes("Flags [S]"));
  return (port) => lines.filter((line) => line.includes(`.${port}: Flags [S]`)).map((line) => line.replace(/, seq .*/, ""));
}

function occurrences(capture: Buffer, text: string): number {
  let count = 0;
  for (let at = capture.indexOf(text); at >= 0; at = capture.indexOf(text, at + 1)) count++;
  return count;
}
