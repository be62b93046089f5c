// Envoy's configuration in both roles of HBONE: as others' meshes configure it, with our certificates.
import type { Credentials } from "../hbone/peer.ts";

/** The most that Envoy answers by itself. */
export const WEB_BODY_BYTES = 4096;

const EXTENSION = "type.googleapis.com/envoy.extensions";

const address = (host: string, port: number): object => ({
  socket_address: { address: host, port_value: port, ipv4_compat: host === "::" },
});

/** Mutual TLS 1.3 with one identity expected of the other side. */
function tls({ key, cert, ca }: Credentials, identity: string): object {
  return {
    tls_params: { tls_minimum_protocol_version: "TLSv1_3", tls_maximum_protocol_version: "TLSv1_3" },
    alpn_protocols: ["h2"],
    tls_certificates: [{ certificate_chain: { inline_string: cert }, private_key: { inline_string: key } }],
    validation_context: {
      trusted_ca: { inline_string: ca },
      match_typed_subject_alt_names: [{ san_type: "URI", matcher: { exact: identity } }],
    },
  };
}

function cluster(host: string, port: number, rest: object = {}): object {
  const endpoint = { endpoint: { address: address(host, port) } };
  return {
    name: "destination",
    type: "STATIC",
    connect_timeout: "5s",
    load_assignment: { cluster_name: "destination", endpoints: [{ lb_endpoints: [endpoint] }] },
    ...rest,
  };
}

type Bootstrap = { readonly static_resources: { readonly listeners: readonly object[]; readonly clusters: readonly object[] } };

const bootstrap = (listener: object, destination: object): Bootstrap => ({
  static_resources: { listeners: [{ name: "listener", ...listener }], clusters: [destination] },
});

/** TCP connections to `port` here become CONNECT to `authority` in tunnels to `peer`. */
export function client(
  credentials: Credentials,
  port: number,
  peer: { host: string; port: number; identity: string },
  authority: string,
): object {
  const proxy = {
    "@type": `${EXTENSION}.filters.network.tcp_proxy.v3.TcpProxy`,
    stat_prefix: "hbone",
    cluster: "destination",
    tunneling_config: { hostname: authority },
  };
  const options = {
    "@type": `${EXTENSION}.upstreams.http.v3.HttpProtocolOptions`,
    explicit_http_config: { http2_protocol_options: { allow_connect: true } },
  };
  const secure = {
    "@type": `${EXTENSION}.transport_sockets.tls.v3.UpstreamTlsContext`,
    common_tls_context: tls(credentials, peer.identity),
  };
  return bootstrap(
    { address: address("127.0.0.1", port), filter_chains: [{ filters: [{ name: "tcp", typed_config: proxy }] }] },
    cluster(peer.host, peer.port, {
      typed_extension_protocol_options: { "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options },
      transport_socket: { name: "tls", typed_config: secure },
    }),
  );
}

/** Tunnels to `port` here end here; what is in them goes to the application at `target`. */
export function server(credentials: Credentials, port: number, identity: string, target: { host: string; port: number }): Bootstrap {
  const manager = {
    "@type": `${EXTENSION}.filters.network.http_connection_manager.v3.HttpConnectionManager`,
    stat_prefix: "hbone",
    codec_type: "HTTP2",
    http2_protocol_options: { allow_connect: true },
    upgrade_configs: [{ upgrade_type: "CONNECT" }],
    http_filters: [{ name: "router", typed_config: { "@type": `${EXTENSION}.filters.http.router.v3.Router` } }],
    route_config: {
      virtual_hosts: [
        {
          name: "all",
          domains: ["*"],
          routes: [
            {
              match: { connect_matcher: {} },
              route: { cluster: "destination", timeout: "0s", upgrade_configs: [{ upgrade_type: "CONNECT", connect_config: {} }] },
            },
          ],
        },
      ],
    },
  };
  const secure = {
    "@type": `${EXTENSION}.transport_sockets.tls.v3.DownstreamTlsContext`,
    require_client_certificate: true,
    common_tls_context: tls(credentials, identity),
  };
  return bootstrap(
    {
      address: address("::", port),
      filter_chains: [{ transport_socket: { name: "tls", typed_config: secure }, filters: [{ name: "http", typed_config: manager }] }],
    },
    cluster(target.host, target.port),
  );
}

/** An HTTP server on `port` that answers everything itself, and says which version it was asked in: alone, or beside what is configured already. */
export function web(port: number, beside?: Bootstrap): Bootstrap {
  const manager = {
    "@type": `${EXTENSION}.filters.network.http_connection_manager.v3.HttpConnectionManager`,
    stat_prefix: "web",
    codec_type: "AUTO",
    http_filters: [{ name: "router", typed_config: { "@type": `${EXTENSION}.filters.http.router.v3.Router` } }],
    route_config: {
      virtual_hosts: [
        {
          name: "all",
          domains: ["*"],
          routes: [
            {
              match: { prefix: "/" },
              direct_response: { status: 200, body: { inline_string: "x".repeat(WEB_BODY_BYTES) } },
              response_headers_to_add: [{ header: { key: "x-served-by", value: "envoy %PROTOCOL%" } }],
            },
          ],
        },
      ],
    },
  };
  const listener = { name: "web", address: address("::", port), filter_chains: [{ filters: [{ name: "http", typed_config: manager }] }] };
  const { listeners, clusters } = beside?.static_resources ?? { listeners: [], clusters: [] };
  return { static_resources: { listeners: [...listeners, listener], clusters } };
}
