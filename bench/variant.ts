// What is compared: where the client runs, what it dials, and whose CPU and memory count as the proxies'.
import type { Lab, PodPlace } from "../src/lab/api.ts";

export type Variant = {
  readonly name: string;
  /** Rows are compared with the `direct` of the same placement. */
  readonly placement: "across nodes" | "on one node";
  readonly client: PodPlace;
  readonly to: string;
  readonly server: () => readonly number[];
  readonly proxies: () => readonly number[];
};

export const PORT = 9000;

const firstIp = (pod: PodPlace): string => {
  const [ip] = pod.ips;
  if (ip === undefined) throw new Error(`${pod.name} has no address`);
  return ip;
};

/** A TCP proxy as small as HAProxy gets: one thread, no logging. 9000 connections are 18,000 descriptors, within the usual hard limit. */
function haproxyConfig(backend: string): string {
  return `global
  nbthread 1
  maxconn 9000
defaults
  mode tcp
  timeout connect 10s
  timeout client 1h
  timeout server 1h
frontend in
  bind :${PORT}
  default_backend out
backend out
  server next ${backend}:${PORT}
`;
}

function startHaproxy(pod: PodPlace, backend: string): number {
  // Through a pipe: a pod does not see the lab's directory, and nothing is left to clean up.
  const child = pod.spawn(["bash", "-c", 'exec haproxy -db -f <(printf %s "$CONFIG")'], { env: { CONFIG: haproxyConfig(backend) } });
  child.stderr?.on("data", (text) => process.stderr.write(String(text).replace(/^\[NOTICE\].*\n/gm, "")));
  if (child.pid === undefined) throw new Error("haproxy did not start");
  return child.pid;
}

/**
 * Who opens connections would soon meet its own closed ones in TIME_WAIT, 28,000 ports a minute, and the bench would measure the search for a
 * free port. Set where the load generator and HAProxy dial from, alike for every variant, and nowhere else.
 */
const DIALLING_SYSCTLS = ["net.ipv4.ip_local_port_range=10240 65000", "net.ipv4.tcp_tw_reuse=1"];

/** Starts servers and proxies in a running lab. `load` is the path of the load generator. */
export async function startVariants(lab: Lab, load: string): Promise<readonly Variant[]> {
  const dialling = ["plain/client", "mesh/client", "plain/haproxy-a", "plain/haproxy-b"];
  await Promise.all(dialling.map((pod) => lab.pod(pod).run(["sysctl", "-qw", ...DIALLING_SYSCTLS])));
  const plain = { client: lab.pod("plain/client"), server: lab.pod("plain/server"), neighbour: lab.pod("plain/neighbour") };
  const mesh = { client: lab.pod("mesh/client"), server: lab.pod("mesh/server"), neighbour: lab.pod("mesh/neighbour") };
  const serve = (pod: PodPlace): number => {
    const child = pod.spawn([load, "serve", `0.0.0.0:${PORT}`]);
    child.stdout?.resume();
    if (child.pid === undefined) throw new Error(`${load} did not start`);
    return child.pid;
  };
  const at = (pod: PodPlace): string => `${firstIp(pod)}:${PORT}`;
  const pids = {
    plain: serve(plain.server),
    plainNeighbour: serve(plain.neighbour),
    mesh: serve(mesh.server),
    meshNeighbour: serve(mesh.neighbour),
  };
  const haproxy = [
    startHaproxy(lab.pod("plain/haproxy-a"), firstIp(lab.pod("plain/haproxy-b"))),
    startHaproxy(lab.pod("plain/haproxy-b"), firstIp(plain.server)),
  ];
  const engines = (): readonly number[] => lab.nodes.flatMap((node) => [...node.pidsOf("engine"), ...node.pidsOf("worker")]);
  const across = "across nodes";
  const local = "on one node";
  return [
    { name: "direct", placement: across, client: plain.client, to: at(plain.server), server: () => [pids.plain], proxies: () => [] },
    {
      name: "haproxy",
      placement: across,
      client: plain.client,
      to: at(lab.pod("plain/haproxy-a")),
      server: () => [pids.plain],
      proxies: () => haproxy,
    },
    { name: "trackbed", placement: across, client: mesh.client, to: at(mesh.server), server: () => [pids.mesh], proxies: engines },
    {
      name: "direct",
      placement: local,
      client: plain.client,
      to: at(plain.neighbour),
      server: () => [pids.plainNeighbour],
      proxies: () => [],
    },
    {
      name: "trackbed",
      placement: local,
      client: mesh.client,
      to: at(mesh.neighbour),
      server: () => [pids.meshNeighbour],
      proxies: engines,
    },
  ];
}
