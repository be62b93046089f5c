// What is spoken at a port of a Service, as far as its owner says it.
import type { ServicePort } from "./objects.ts";

export type PortProtocol = "http" | "http2" | "grpc" | "tcp" | "tls";

const PROTOCOLS: Readonly<Record<string, PortProtocol>> = {
  http: "http",
  http2: "http2",
  "kubernetes.io/h2c": "http2",
  "kubernetes.io/ws": "http",
  grpc: "grpc",
  tcp: "tcp",
  tls: "tls",
  https: "tls",
  "kubernetes.io/wss": "tls",
};

/** appProtocol says it; otherwise the port's name by custom: "http", "http-admin". Null: nobody says. */
export function protocolOf(port: Pick<ServicePort, "name" | "appProtocol">): PortProtocol | null {
  const name = port.appProtocol === "" ? (port.name.split("-")[0] ?? "") : port.appProtocol;
  return (Object.hasOwn(PROTOCOLS, name) ? PROTOCOLS[name] : undefined) ?? null;
}

/** UDP and SCTP pass the mesh by. */
export const isTcp = (port: Pick<ServicePort, "protocol">): boolean => port.protocol === "TCP";
