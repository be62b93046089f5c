// tshark reads a capture back: fields of packets, and what each side of a TCP stream said, put together by Wireshark's own reassembly.
import { execFileSync } from "node:child_process";

const LIMIT_MS = 60_000;

export function canRead(): boolean {
  try {
    execFileSync("tshark", ["--version"], { stdio: "ignore" });
    return true;
  } catch {
    return false;
  }
}

const tshark = (file: string, ...args: readonly string[]): string =>
  execFileSync("tshark", ["-n", "-r", file, ...args], {
    encoding: "utf8",
    timeout: LIMIT_MS,
    maxBuffer: 256 << 20,
    stdio: ["ignore", "pipe", "ignore"],
  });

/** One row for each packet that the display filter lets through. Extra arguments decode ports: "-d", "tcp.port==8080,http". */
export function fields<Name extends string>(
  file: string,
  filter: string,
  names: readonly Name[],
  more: readonly string[] = [],
): Record<Name, string>[] {
  const text = tshark(file, "-Y", filter, "-T", "fields", ...names.flatMap((name) => ["-e", name]), "-E", "separator=|", ...more);
  const rows = text.split("\n").filter((line) => line !== "");
  return rows.map((line) => Object.fromEntries(line.split("|").map((value, index) => [names[index] ?? "", value])) as Record<Name, string>);
}

export type Followed = { readonly client: Buffer; readonly server: Buffer /** What Wireshark says is missing. */; readonly text: string };

/** By the streams' numbers. */
export function follow(file: string, streams: readonly number[]): Map<number, Followed> {
  const text = tshark(file, "-q", ...streams.flatMap((stream) => ["-z", `follow,tcp,raw,${stream}`]));
  const parts = text.split(/^=+\nFollow: tcp,raw\nFilter: tcp\.stream eq (\d+)\n/m).slice(1);
  const found = new Map<number, Followed>();
  for (let at = 0; at < parts.length; at += 2) {
    const one = parts[at + 1] ?? "";
    const said = (line: RegExp): Buffer => Buffer.from(one.match(line)?.join("").replaceAll("\t", "") ?? "", "hex");
    found.set(Number(parts[at]), { client: said(/^[0-9a-f]+$/gm), server: said(/^\t[0-9a-f]+$/gm), text: one });
  }
  return found;
}
