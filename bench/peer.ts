// The peers: two proxies, one on each node, between the same pods; each is one process per node with as many threads as our engine.
import { writeFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type { Lab, PodPlace } from "../src/lab/api.ts";
import { withChildren } from "./process.ts";

export const peerNames = ["floor", "haproxy", "haproxy-tls", "nginx-tls", "library"] as const;
export type PeerName = (typeof peerNames)[number];

/** Where one of the two proxies stands. `directory` has the certificates of certificate.ts. */
type Hop = { readonly side: "near" | "far"; readonly listen: string; readonly next: string; readonly directory: string };
/** A command, and the text of the configuration whose file becomes its last argument, when it needs one. */
type Program = { readonly command: readonly string[]; readonly config?: string };

/** The engine's own default: worker threads up to four, one per CPU. */
export const THREADS = Math.min(4, availableParallelism());
/** 9000 connections are 18,000 descriptors, within the usual hard limit of 20,000. */
export const CONNECTIONS = 9000;
export const program = (name: string): string => fileURLToPath(new URL(`../native/target/release/trackbed-${name}`, import.meta.url));

const programs: Record<PeerName, (hop: Hop) => Program> = {
  floor: ({ listen, next }) => ({ command: [program("floor"), listen, next] }),
  haproxy: (hop) => haproxy(hop, "", ""),
  "haproxy-tls": (hop) => {
    const own = `crt ${hop.directory}/both.pem ca-file ${hop.directory}/ca.pem ssl-min-ver TLSv1.3 verify required`;
    return hop.side === "near" ? haproxy(hop, "", `ssl ${own} verifyhost bench.test`) : haproxy(hop, `ssl ${own}`, "");
  },
  "nginx-tls": nginx,
  library: ({ side, listen, next, directory }) => ({
    command: [program("library"), side === "near" ? "client" : "server", listen, next, directory],
  }),
};

/** As people run it: default buffers, no splicing, no logging. */
function haproxy({ listen, next }: Hop, bind: string, server: string): Program {
  const config = `global
  nbthread ${THREADS}
  maxconn ${CONNECTIONS}
defaults
  mode tcp
  timeout connect 10s
  timeout client 1h
  timeout server 1h
frontend in
  bind ${listen} ${bind}
  default_backend out
backend out
  server next ${next} ${server}
`;
  return { command: ["haproxy", "-db", "-f"], config };
}

function nginx({ side, listen, next, directory }: Hop): Program {
  const pair = (prefix: string): string =>
    `${prefix}ssl_protocols TLSv1.3; ${prefix}ssl_certificate ${directory}/cert.pem; ${prefix}ssl_certificate_key ${directory}/key.pem;`;
  const tls =
    side === "near"
      ? `proxy_ssl on; ${pair("proxy_")} proxy_ssl_verify on; proxy_ssl_name bench.test; proxy_ssl_trusted_certificate ${directory}/ca.pem;`
      : `${pair("")} ssl_verify_client on; ssl_client_certificate ${directory}/ca.pem;`;
  const config = `load_module /usr/lib/nginx/modules/ngx_stream_module.so;
daemon off; user root; worker_processes ${THREADS}; error_log stderr error; pid ${directory}/nginx-${side}.pid;
events { worker_connections ${2 * CONNECTIONS + 100}; }
stream {
  server {
    listen ${listen}${side === "far" ? " ssl" : ""} reuseport;
    proxy_pass ${next}; proxy_timeout 1h; proxy_half_close on;
    ${tls}
  }
}
`;
  return { command: ["nginx", "-p", directory, "-e", "stderr", "-c"], config };
}

const ipOf = (pod: PodPlace): string => pod.ips[0] ?? "";

/** Starts both proxies of a peer in its pods. Returns where clients connect to, and its processes. */
export async function startPeer(
  lab: Lab,
  name: PeerName,
  port: number,
  server: string,
  directory: string,
): Promise<{ readonly to: string; readonly pids: () => readonly number[] }> {
  const pods = { near: lab.pod(`plain/${name}-a`), far: lab.pod(`plain/${name}-b`) };
  await Promise.all([useCubic(lab, pods.near), useCubic(lab, pods.far)]);
  const at = (pod: PodPlace): string => `${ipOf(pod)}:${port}`;
  const start = (side: Hop["side"], next: string): number => {
    const { command, config } = programs[name]({ side, listen: at(pods[side]), next, directory });
    const file = join(directory, `${name}-${side}.conf`);
    if (config !== undefined) writeFileSync(file, config);
    return inPod(lab, pods[side], name, [...command, ...(config === undefined ? [] : [file])]);
  };
  const pids = [start("far", server), start("near", at(pods.far))];
  return { to: at(pods.near), pids: () => pids.flatMap(withChildren) };
}

/** Starts a program only in the pod's network: in its own /run the bench's directory is not in sight. */
export function inPod(lab: Lab, pod: PodPlace, name: string, command: readonly string[]): number {
  const child = lab.underlay.spawn(["nsenter", `--net=${pod.netns}`, "--", ...command]);
  child.stdout?.resume();
  child.stderr?.on("data", (text) => process.stderr.write(String(text).replace(/^\[NOTICE\].*\n/gm, "")));
  if (child.pid === undefined) throw new Error(`${name} did not start`);
  return child.pid;
}

/**
 * Cubic for every socket of a pod whose program cannot choose: by its route, as a namespace may not set a default that the host does not
 * allow to everybody. On a host with bbr the peers would lose a third of their speed to it.
 */
export async function useCubic(lab: Lab, pod: PodPlace): Promise<void> {
  const routes = ["nsenter", `--net=${pod.netns}`, "--", "ip", "-4", "route"];
  const route = (await lab.underlay.run([...routes, "show", "default"])).trim().split(/\s+/);
  await lab.underlay.run([...routes, "change", ...route, "congctl", "cubic"]);
}
