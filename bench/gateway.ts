// The reverse proxies that a waypoint is compared with: one process between client and server, HTTP/1.1 with keep-alive on both sides.
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Lab } from "../src/lab/api.ts";
import { CONNECTIONS, inPod, program, THREADS, useCubic } from "./peer.ts";
import { withChildren } from "./process.ts";

export const gatewayNames = ["nginx-http", "haproxy-http", "l7"] as const;
export type GatewayName = (typeof gatewayNames)[number];

type Place = { readonly listen: string; readonly next: string; readonly directory: string };
type Program = { readonly command: readonly string[]; readonly config?: string };

/** Upstream connections that each keeps for the next request: more than a run has clients. */
const IDLE = 128;

const programs: Record<GatewayName, (place: Place) => Program> = {
  "nginx-http": ({ listen, next, directory }) => ({
    command: ["nginx", "-p", directory, "-e", "stderr", "-c"],
    config: `daemon off; user root; worker_processes ${THREADS}; error_log stderr error; pid ${directory}/nginx-http.pid;
events { worker_connections ${2 * CONNECTIONS + 100}; }
http {
  access_log off; keepalive_requests 1000000; keepalive_timeout 1h;
  client_body_temp_path ${directory}/nginx-body; proxy_temp_path ${directory}/nginx-proxy; fastcgi_temp_path ${directory}/nginx-fastcgi;
  uwsgi_temp_path ${directory}/nginx-uwsgi; scgi_temp_path ${directory}/nginx-scgi;
  upstream next { server ${next}; keepalive ${IDLE}; keepalive_requests 1000000; }
  server {
    listen ${listen} reuseport;
    location / { proxy_pass http://next; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $host; }
  }
}
`,
  }),
  "haproxy-http": ({ listen, next }) => ({
    command: ["haproxy", "-db", "-f"],
    config: `global
  nbthread ${THREADS}
  maxconn ${CONNECTIONS}
defaults
  mode http
  option http-keep-alive
  http-reuse always
  timeout connect 10s
  timeout client 1h
  timeout server 1h
frontend in
  bind ${listen}
  default_backend out
backend out
  server next ${next} pool-max-conn ${IDLE}
`,
  }),
  /** Our own HTTP half without the mesh around it: the same code as in a waypoint, between plain sockets. */
  l7: ({ listen, next }) => ({ command: [program("l7"), listen, next] }),
};

/** Starts one in its pod, on the server's node. Returns where clients connect to, and its processes. */
export async function startGateway(
  lab: Lab,
  name: GatewayName,
  port: number,
  server: string,
  directory: string,
): Promise<{ readonly to: string; readonly pids: () => readonly number[] }> {
  const pod = lab.pod(`plain/${name}`);
  await useCubic(lab, pod);
  const to = `${pod.ips[0] ?? ""}:${port}`;
  const { command, config } = programs[name]({ listen: to, next: server, directory });
  const file = join(directory, `${name}.conf`);
  if (config !== undefined) writeFileSync(file, config);
  const pid = inPod(lab, pod, name, [...command, ...(config === undefined ? [] : [file])]);
  return { to, pids: () => withChildren(pid) };
}
