// What is compared: where the client runs, what it dials, and whose CPU and memory count as the proxies'.
import type { Lab, PodPlace } from "../src/lab/api.ts";
import { makeCertificates } from "./certificate.ts";
import { gatewayNames, startGateway } from "./gateway.ts";
import { type PeerName, peerNames, program, startPeer } from "./peer.ts";

/** Those between which bytes go, and those between which requests do. */
export const carriers = ["direct", ...peerNames, "trackbed"] as const;
export const routers = ["direct", ...gatewayNames, "waypoint"] as const;
export const variantNames = [...carriers, ...gatewayNames, "waypoint"] as const;
export type VariantName = (typeof variantNames)[number];
export const placements = { across: "across nodes", local: "on one node" } as const;
export type Placement = keyof typeof placements;

export type Variant = {
  readonly name: VariantName;
  /** Rows are compared with the `direct` of the same placement. */
  readonly placement: Placement;
  readonly client: PodPlace;
  readonly to: string;
  /** What its proxies understand: any bytes, or HTTP alone. */
  readonly carries: "bytes" | "http";
  /** Every pod where a socket of its connections may stay in TIME_WAIT. */
  readonly pods: readonly PodPlace[];
  readonly server: () => readonly number[];
  readonly proxies: () => readonly number[];
  /** Processes that the proxies give work to, and that carry nothing: Trackbed's daemons. */
  readonly beside: () => readonly number[];
};

export const PORT = 9000;
/** The service in front of the mesh's server, whose requests pass the waypoint. */
const SERVICE = "10.96.88.1";
const WAYPOINT = "mesh/waypoint";

const firstIp = (pod: PodPlace): string => {
  const [ip] = pod.ips;
  if (ip === undefined) throw new Error(`${pod.name} has no address`);
  return ip;
};

/**
 * Who opens connections would soon meet its own closed ones in TIME_WAIT, 28,000 ports a minute, and the bench would measure the search for a
 * free port. Set where the load generator and the peers dial from, alike for every variant, and nowhere else.
 */
const DIALLING_SYSCTLS = ["net.ipv4.ip_local_port_range=10240 65000", "net.ipv4.tcp_tw_reuse=1"];

/** Starts servers and proxies of the wanted variants in a running lab. */
export async function startVariants(lab: Lab, wanted: ReadonlySet<VariantName>): Promise<readonly Variant[]> {
  const load = program("load");
  const peers = peerNames.filter((name) => wanted.has(name));
  const gateways = gatewayNames.filter((name) => wanted.has(name));
  const between = [...peers.flatMap((name) => [`plain/${name}-a`, `plain/${name}-b`]), ...gateways.map((name) => `plain/${name}`)];
  const dialling = ["plain/client", "mesh/client", ...between];
  await Promise.all(dialling.map((pod) => lab.pod(pod).run(["sysctl", "-qw", ...DIALLING_SYSCTLS])));
  makeCertificates(lab.directory);
  const serve = (pod: PodPlace): (() => readonly number[]) => {
    const child = pod.spawn([load, "serve", `0.0.0.0:${PORT}`]);
    child.stdout?.resume();
    child.stderr?.resume(); // connections that a bench cut: nothing to tell
    const { pid } = child;
    if (pid === undefined) throw new Error(`${load} did not start`);
    return () => [pid];
  };
  const at = (pod: PodPlace): string => `${firstIp(pod)}:${PORT}`;
  const engines = (): readonly number[] => lab.nodes.flatMap((node) => [...node.pidsOf("engine"), ...node.pidsOf("worker")]);
  const daemons = (): readonly number[] => lab.nodes.flatMap((node) => node.pidsOf("daemon"));
  const none = (): readonly number[] => [];

  const variants: Variant[] = [];
  for (const placement of ["across", "local"] as const) {
    const ends = (namespace: string): { client: PodPlace; server: PodPlace } => ({
      client: lab.pod(`${namespace}/client`),
      server: lab.pod(`${namespace}/${placement === "across" ? "server" : "neighbour"}`),
    });
    const plain = ends("plain");
    const server = serve(plain.server);
    const pods = [plain.client, plain.server];
    const direct = { placement, client: plain.client, server, carries: "bytes", beside: none } as const;
    if (wanted.has("direct")) variants.push({ ...direct, name: "direct", to: at(plain.server), pods, proxies: none });
    if (placement === "across") {
      for (const name of peers) {
        const { to, pids } = await startPeer(lab, name, PORT, at(plain.server), lab.directory);
        variants.push({ ...direct, name, to, pods: [...pods, ...podsOf(lab, name)], proxies: pids });
      }
      for (const name of gateways) {
        const { to, pids } = await startGateway(lab, name, PORT, at(plain.server), lab.directory);
        variants.push({ ...direct, name, to, carries: "http", pods: [...pods, lab.pod(`plain/${name}`)], proxies: pids });
      }
    }
    if (wanted.has("trackbed") || wanted.has("waypoint")) {
      const mesh = ends("mesh");
      const own = { placement, client: mesh.client, server: serve(mesh.server), pods: [mesh.client, mesh.server] };
      if (wanted.has("trackbed"))
        variants.push({ ...own, name: "trackbed", to: at(mesh.server), carries: "bytes", proxies: engines, beside: daemons });
      // Of its way only the waypoint counts as the proxy: what the tunnels to it and from it cost is beside.
      if (wanted.has("waypoint") && placement === "across")
        variants.push({
          ...own,
          name: "waypoint",
          to: `${SERVICE}:${PORT}`,
          carries: "http",
          proxies: () => lab.waypointPids(WAYPOINT),
          beside: engines,
        });
    }
  }
  return variants;
}

const podsOf = (lab: Lab, name: PeerName): PodPlace[] => [lab.pod(`plain/${name}-a`), lab.pod(`plain/${name}-b`)];
