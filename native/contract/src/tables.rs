//! Generated from proto/tables.json by proto/generate.ts. Do not edit.

pub mod product {
    pub const NAME: &str = "Trackbed";
    pub const LABEL_PREFIX: &str = "trackbed.dev";
    pub const METRIC_PREFIX: &str = "trackbed";
    pub const API_GROUP: &str = "trackbed.dev";
    pub const CONTROL_PLANE_NAMESPACE: &str = "trackbed-system";
    pub const CONTRACT_VERSION: u32 = 1;
}

pub mod ports {
    /// captured outbound TCP
    pub const OUTBOUND: u16 = 15_001;
    /// captured inbound TCP that did not come by HBONE
    pub const INBOUND_PLAIN: u16 = 15_006;
    /// HBONE: HTTP/2 CONNECT in mutual TLS
    pub const HBONE: u16 = 15_008;
    /// captured DNS, UDP and TCP
    pub const DNS: u16 = 15_053;
    /// xDS, certificates and node reports, gRPC over TLS
    pub const CONTROL: u16 = 15_012;
    /// the engine's Prometheus text
    pub const ENGINE_METRICS: u16 = 15_020;
    /// the daemon's /healthz/ready and /metrics
    pub const DAEMON_HEALTH: u16 = 15_021;
    /// a waypoint's /metrics
    pub const WAYPOINT_METRICS: u16 = 15_020;
    /// a waypoint's /healthz/ready
    pub const WAYPOINT_HEALTH: u16 = 15_021;
    /// control's /healthz/ready and /metrics
    pub const CONTROL_HEALTH: u16 = 15_014;
}

pub mod marks {
    /// 0x539: sockets of the engine, never captured
    pub const ENGINE: u32 = 1_337;
    /// 0x53a: probes of the kubelet on their way to a pod, in the host's network namespace only
    pub const PROBE: u32 = 1_338;
    /// 0x111: connections whose replies must come back to the engine
    pub const REPLY: u32 = 273;
    /// 0xfff: the bits of a mark that are ours
    pub const MASK: u32 = 4_095;
    /// routing table that delivers marked packets to loopback
    pub const ROUTE_TABLE: u32 = 100;
    /// preference of the routing rule that selects it
    pub const RULE_PREFERENCE: u32 = 32_764;
}

pub mod addresses {
    /// source of kubelet probes
    pub const PROBE_V4: &str = "169.254.7.127";
    /// source of kubelet probes
    pub const PROBE_V6: &str = "fd16:9254:7127:1337:ffff:ffff:ffff:ffff";
    /// destination of the capture proof, never routed
    pub const PROOF_V4: &str = "169.254.7.126";
    /// destination of the capture proof, never routed
    pub const PROOF_V6: &str = "fd16:9254:7127:1337:ffff:ffff:ffff:fffe";
    /// port of the capture proof
    pub const PROOF_PORT: u16 = 15_021;
}

pub mod paths {
    /// root-only directory that daemon and engine share; --run overrides it
    pub const RUN: &str = "/run/trackbed";
    /// gRPC, proto/engine.proto; the daemon listens
    pub const DIRECTOR_SOCKET: &str = "director.sock";
    /// SOCK_SEQPACKET with descriptors; the engine listens
    pub const NETNS_SOCKET: &str = "netns.sock";
    /// HTTP for the CLI; the daemon listens
    pub const ADMIN_SOCKET: &str = "admin.sock";
    /// what the daemon last applied
    pub const SNAPSHOT: &str = "snapshot.json";
    /// HTTP with JSON for the CNI plugin; the daemon listens
    pub const CNI_SOCKET: &str = "cni.sock";
    /// directory of the node's CNI plugins
    pub const CNI_BIN: &str = "/opt/cni/bin";
    /// directory of the node's CNI configuration
    pub const CNI_CONF: &str = "/etc/cni/net.d";
    /// our plugin's file in the first
    pub const CNI_PLUGIN: &str = "trackbed-cni";
    /// our configuration in the second: sorted first, a copy of the node's own with our plugin chained last
    pub const CNI_CONFLIST: &str = "00-trackbed.conflist";
    /// edges that the daemon keeps for days
    pub const LEDGER: &str = "/var/lib/trackbed/ledger.db";
    /// directory of what the plugin needs while no daemon answers
    pub const CNI_STATE: &str = "/var/lib/trackbed/cni";
    /// in it: which namespaces are enrolled; the daemon writes it
    pub const CNI_DECISIONS: &str = "namespaces.json";
}

pub mod kubernetes {
    /// Deployment, Service, ServiceAccount and Lease of control
    pub const CONTROL: &str = "trackbed-control";
    /// DaemonSet and ServiceAccount of the daemon
    pub const DAEMON: &str = "trackbed-daemon";
    /// DaemonSet and ServiceAccount of the engine
    pub const ENGINE: &str = "trackbed-engine";
    /// ConfigMap with the mesh's root certificates, filled by control
    pub const ROOT_CONFIG_MAP: &str = "trackbed-root";
    /// key of the root certificates in that ConfigMap
    pub const ROOT_KEY: &str = "root-cert.pem";
    /// Secret with root and issuer, made by control at its first start
    pub const CA_SECRET: &str = "trackbed-ca";
    /// Secret of an operator's own CA, used instead where it exists
    pub const PLUGGED_CA_SECRET: &str = "cacerts";
    /// Secret with the issuer that another CA signed (--issuer)
    pub const ISSUER_SECRET: &str = "trackbed-issuer";
    /// audience of the daemons' projected tokens
    pub const TOKEN_AUDIENCE: &str = "trackbed";
    /// audience of the tokens by which people read what nodes saw
    pub const VIEWER_AUDIENCE: &str = "trackbed-viewer";
    /// ServiceAccount that may read what all nodes saw, and the Role to reach control
    pub const VIEWER: &str = "trackbed-viewer";
    /// header with such a token: the API server keeps authorization for itself
    pub const VIEWER_TOKEN_HEADER: &str = "x-trackbed-token";
    /// resource of group trackbed.dev: the right to get it in a namespace is that to read its flows and edges
    pub const FLOWS_RESOURCE: &str = "flows";
    /// resource of group trackbed.dev: the right to create it in a namespace is that to record what its pods send and hear
    pub const RECORDINGS_RESOURCE: &str = "recordings";
    /// field manager of everything that we write
    pub const FIELD_MANAGER: &str = "trackbed";
    /// GatewayClass whose Gateways are waypoints
    pub const WAYPOINT_CLASS: &str = "trackbed-waypoint";
    /// controllerName of that class, and in the status of routes
    pub const WAYPOINT_CONTROLLER: &str = "trackbed.dev/waypoint";
    /// name of the Gateway that a namespace with waypoint=auto gets
    pub const WAYPOINT_AUTO: &str = "waypoint";
    /// ConfigMap in the root namespace with what is said once for the mesh: extensionProviders, below its key mesh
    pub const MESH_CONFIG_MAP: &str = "trackbed-mesh";
    /// on pods of a waypoint: which Gateway they are of
    pub const GATEWAY_NAME_LABEL: &str = "gateway.networking.k8s.io/gateway-name";
    /// on pods of a waypoint: the class of that Gateway; with trackbed-waypoint the pod is a waypoint and never captured
    pub const GATEWAY_CLASS_LABEL: &str = "gateway.networking.k8s.io/gateway-class-name";
    /// pod condition: True while the pod is in the mesh
    pub const CAPTURED_CONDITION: &str = "trackbed.dev/Captured";
    /// condition of a policy: True while it is in force as written
    pub const ACCEPTED_CONDITION: &str = "trackbed.dev/Accepted";
}

pub mod labels {
    /// enabled | disabled; the pod beats the namespace
    pub const MESH: &str = "trackbed.dev/mesh";
    /// name of the Gateway that its traffic passes, none to opt out; the object beats its namespace
    pub const USE_WAYPOINT: &str = "trackbed.dev/use-waypoint";
    /// namespace of that Gateway, where it is another
    pub const USE_WAYPOINT_NAMESPACE: &str = "trackbed.dev/use-waypoint-namespace";
    /// beside use-waypoint: a second Gateway, which gets a share of the connections
    pub const USE_WAYPOINT_CANARY: &str = "trackbed.dev/use-waypoint-canary";
    /// namespace of that second Gateway, where it is another
    pub const USE_WAYPOINT_CANARY_NAMESPACE: &str = "trackbed.dev/use-waypoint-canary-namespace";
    /// service | workload | all | none, default service: whether what is addressed to services passes the waypoint, or to pods by their own addresses
    pub const WAYPOINT_FOR: &str = "trackbed.dev/waypoint-for";
    /// auto: the namespace gets a waypoint as soon as something needs one
    pub const WAYPOINT: &str = "trackbed.dev/waypoint";
}

pub mod annotations {
    /// directory mode: path of the network namespace that stands in for the pod
    pub const NETNS: &str = "trackbed.dev/netns";
    /// comma list of ports never captured on the way out
    pub const EXCLUDE_OUTBOUND_PORTS: &str = "trackbed.dev/exclude-outbound-ports";
    /// comma list of CIDRs never captured on the way out
    pub const EXCLUDE_OUTBOUND_CIDRS: &str = "trackbed.dev/exclude-outbound-cidrs";
    /// comma list of ports never captured on the way in
    pub const EXCLUDE_INBOUND_PORTS: &str = "trackbed.dev/exclude-inbound-ports";
    /// comma list of CIDRs never captured on the way in
    pub const EXCLUDE_INBOUND_CIDRS: &str = "trackbed.dev/exclude-inbound-cidrs";
    /// outbound: capture only what the pod sends
    pub const CAPTURE: &str = "trackbed.dev/capture";
    /// RFC 3339: until then the namespace's pods are out of the mesh; set by trackbed bypass
    pub const BYPASS_UNTIL: &str = "trackbed.dev/bypass-until";
    /// since when each root is handed out and until when it signed; written by control, read when it starts
    pub const ROTATION: &str = "trackbed.dev/rotation";
    /// off | protocol | sampled | full, default protocol: how far the engine looks into what passes; the pod's beats its namespace's
    pub const OBSERVE: &str = "trackbed.dev/observe";
    /// true: its AuthorizationPolicies are only tried, except those that say istio.io/dry-run: "false" themselves
    pub const DRY_RUN: &str = "trackbed.dev/dry-run";
    /// comma list of ports and ranges of a service that a waypoint carries as TCP, whatever they are called; the service beats its namespace
    pub const OPAQUE_PORTS: &str = "trackbed.dev/opaque-ports";
    /// true: once its waypoint is ready, what did not come through it is refused at the service's pods, as where an L7 policy targets it
    pub const REQUIRE_WAYPOINT: &str = "trackbed.dev/require-waypoint";
    /// beside use-waypoint-canary: its share of the connections, 0 to 100
    pub const USE_WAYPOINT_CANARY_WEIGHT: &str = "trackbed.dev/use-waypoint-canary-weight";
    /// enabled | disabled, default enabled
    pub const DNS_CAPTURE: &str = "trackbed.dev/dns-capture";
}

pub mod bounds {
    /// longest wait of a new pod for its capture; the kubelet tries again
    pub const CNI_ADD_MILLISECONDS: u32 = 20_000;
    /// longest wait of a connection for workload, identity and policy
    pub const HOLD_MILLISECONDS: u32 = 5_000;
    /// longest wait for an application or peer to accept
    pub const CONNECT_MILLISECONDS: u32 = 10_000;
    /// longest TLS handshake plus HTTP/2 preface
    pub const HANDSHAKE_MILLISECONDS: u32 = 5_000;
    /// default time live connections keep after a pod left the mesh
    pub const DRAIN_MILLISECONDS: u32 = 600_000;
    /// largest packet on netns.sock
    pub const NETNS_HANDOVER_BYTES: u32 = 1_024;
    /// longest :authority: 253 of a name, brackets, port and margin
    pub const AUTHORITY_BYTES: u32 = 320;
    /// flow records waiting for the director; the oldest is dropped and counted
    pub const FLOW_QUEUE: u32 = 4_096;
    /// distinct edges that are counted apart in one turn; the rest is counted as other
    pub const EDGES: u32 = 4_096;
    /// upper end of the first bucket of an edge's latencies; each next one ends at twice that
    pub const LATENCY_FIRST_MICROSECONDS: u32 = 32;
    /// buckets of an edge's latencies; the last has no upper end
    pub const LATENCY_BUCKETS: u32 = 24;
    /// largest gRPC message that any of our services accepts
    pub const GRPC_MESSAGE_BYTES: u32 = 4_194_304;
}

pub mod wire {
    /// HTTP/2 setting; 1: the server holds what comes before its answer back until it has accepted, so a client need not wait
    pub const SETTINGS_EARLY_DATA: u16 = 61_780;
    /// versions of the CNI specification that the plugin speaks: those in which a chained plugin gets prevResult; oldest first
    pub const CNI_VERSIONS: &str = "0.3.0 0.3.1 0.4.0 1.0.0 1.1.0";
}

pub mod errors {
    /// the pod's network namespace no longer exists or was replaced; nothing if the pod was just deleted; otherwise check the pod's netns path
    pub const CAPTURE_NETNS_GONE: &str = "E_CAPTURE_NETNS_GONE";
    /// the network namespace found for a pod holds none of the pod's addresses; nothing: the daemon looks for the pod's own namespace again; if it persists, compare the pod's addresses with those in its namespace
    pub const CAPTURE_NETNS_FOREIGN: &str = "E_CAPTURE_NETNS_FOREIGN";
    /// no daemon answers the CNI plugin on this node and the pod's namespace is enrolled or not known; see why the trackbed-daemon pod of the node does not run; trackbed-cni rescue frees the node without it
    pub const CNI_DAEMON_AWAY: &str = "E_CNI_DAEMON_AWAY";
    /// a new pod was not captured in time; it must not start outside the mesh; nothing: the kubelet tries again; the reason names what is missing
    pub const CNI_NOT_CAPTURED: &str = "E_CNI_NOT_CAPTURED";
    /// nobody could say whether a new pod belongs to the mesh: the API does not answer or does not have the pod; nothing: the kubelet tries again; see whether the node reaches the API server
    pub const CNI_UNDECIDED: &str = "E_CNI_UNDECIDED";
    /// a CNI request or configuration is malformed or lacks a field; the reason names the field; the runtime must give K8S_POD_NAMESPACE, K8S_POD_NAME and K8S_POD_UID
    pub const CNI_REQUEST_INVALID: &str = "E_CNI_REQUEST_INVALID";
    /// the CNI plugin or its configuration could not be put in place; the reason names the file; check that the directories of --cni-bin and --cni-conf are mounted and writable
    pub const CNI_INSTALL_FAILED: &str = "E_CNI_INSTALL_FAILED";
    /// the node has no CNI configuration of its own that the plugin could be chained to; install the cluster's network first; ours follows by itself
    pub const CNI_NO_NETWORK: &str = "E_CNI_NO_NETWORK";
    /// the node's CNI configuration is of a version in which no plugin can be chained, or one that ours does not know; raise cniVersion in the file that the reason names; until then new pods start without the plugin and are captured as running ones
    pub const CNI_VERSION: &str = "E_CNI_VERSION";
    /// the host's rule for kubelet probes could not be read or replaced; read the cause; until it stands, probes of pods under STRICT fail
    pub const PROBE_RULES_FAILED: &str = "E_PROBE_RULES_FAILED";
    /// nft or ip refused the rules; read the cause; check that nft is installed and the kernel has nf_tables
    pub const CAPTURE_RULES_FAILED: &str = "E_CAPTURE_RULES_FAILED";
    /// the rules read back are not the rules applied; something else edits the namespace: trackbed explain pod/NAME shows the difference
    pub const CAPTURE_RULES_DIFFER: &str = "E_CAPTURE_RULES_DIFFER";
    /// the pod carries another mesh's rules, annotation or sidecar; take the pod out of the other mesh first, or label it trackbed.dev/mesh=disabled
    pub const CAPTURE_FOREIGN_MESH: &str = "E_CAPTURE_FOREIGN_MESH";
    /// hostNetwork pods are never enrolled; label the pod trackbed.dev/mesh=disabled to silence this
    pub const CAPTURE_HOST_NETWORK: &str = "E_CAPTURE_HOST_NETWORK";
    /// a probe connection did not reach the engine's listener; compare the namespace's rules: trackbed explain pod/NAME
    pub const CAPTURE_PROOF_FAILED: &str = "E_CAPTURE_PROOF_FAILED";
    /// a listener could not be bound inside the pod's namespace; see which process of the pod holds one of the ports 15001, 15006, 15008, 15053
    pub const CAPTURE_LISTEN_FAILED: &str = "E_CAPTURE_LISTEN_FAILED";
    /// no engine is connected to the daemon; look at the engine's log; captured pods refuse traffic until it is back
    pub const ENGINE_AWAY: &str = "E_ENGINE_AWAY";
    /// a network namespace hand-over was malformed or its sender is not trusted; only the node's daemon may write to netns.sock
    pub const HANDOVER_REFUSED: &str = "E_HANDOVER_REFUSED";
    /// the engine's worker died and was replaced; connections of the old one are gone; look at the engine's log for what it died of
    pub const ENGINE_RESTARTED: &str = "E_ENGINE_RESTARTED";
    /// the engine was told to stop and the connection outlasted its grace time; nothing: the next engine takes new connections
    pub const ENGINE_STOPPING: &str = "E_ENGINE_STOPPING";
    /// the pod has left the mesh and the connection outlasted its drain time; open the connection again; it is not meshed any more
    pub const POD_LEFT: &str = "E_POD_LEFT";
    /// daemon and engine do not speak the same contract version; upgrade the older one
    pub const CONTRACT_VERSION: &str = "E_CONTRACT_VERSION";
    /// no workload is known for the local pod yet; check that control knows the pod: trackbed explain pod/NAME
    pub const WORKLOAD_UNKNOWN: &str = "E_WORKLOAD_UNKNOWN";
    /// no valid certificate for the pod's identity; check the certificate authority: trackbed status
    pub const IDENTITY_MISSING: &str = "E_IDENTITY_MISSING";
    /// the certificate authority refused to sign; the pod must be live on the calling node with that service account
    pub const IDENTITY_REFUSED: &str = "E_IDENTITY_REFUSED";
    /// a SPIFFE identity is not spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT; the peer's certificate must hold exactly one such URI SAN
    pub const IDENTITY_MALFORMED: &str = "E_IDENTITY_MALFORMED";
    /// the peer proved another identity than the one expected; an address may have moved to another pod; if it persists, treat it as an attack
    pub const IDENTITY_MISMATCH: &str = "E_IDENTITY_MISMATCH";
    /// an AuthorizationPolicy denied the connection; the flow names policy and rule
    pub const POLICY_DENIED: &str = "E_POLICY_DENIED";
    /// ALLOW policies exist for the destination and none matches; add a rule for this source, or see trackbed flows for its identity
    pub const POLICY_NO_ALLOW: &str = "E_POLICY_NO_ALLOW";
    /// plaintext to a workload whose PeerAuthentication is STRICT; enrol the client, or set the port to PERMISSIVE
    pub const POLICY_STRICT: &str = "E_POLICY_STRICT";
    /// the workload names a policy that is not known; refused until it is; wait for control, or correct the policy that was rejected
    pub const POLICY_UNKNOWN: &str = "E_POLICY_UNKNOWN";
    /// a policy could not be compiled in full and denies what it selects; correct the field named in the reason
    pub const POLICY_INVALID: &str = "E_POLICY_INVALID";
    /// the destination is not one this pod may be asked for; CONNECT must name the pod's own address and an application port
    pub const DESTINATION_REFUSED: &str = "E_DESTINATION_REFUSED";
    /// the destination is one of the mesh's own ports; applications must not use ports 15001, 15006, 15008, 15053
    pub const DESTINATION_OWN_PORT: &str = "E_DESTINATION_OWN_PORT";
    /// the service has no healthy endpoint for this port; check the service's selector and its pods
    pub const SERVICE_NO_ENDPOINT: &str = "E_SERVICE_NO_ENDPOINT";
    /// the service does not have this port; compare the port with the Service
    pub const SERVICE_NO_PORT: &str = "E_SERVICE_NO_PORT";
    /// a waypoint is named for a service whose routes it does not know yet; refused until it does; nothing if the waypoint or the service is new; otherwise see whether control rejected or lost the routes: trackbed waypoint status
    pub const ROUTES_UNKNOWN: &str = "E_ROUTES_UNKNOWN";
    /// a service's routes say that policies guard it, and the waypoint does not know them yet; refused until it does; nothing if it is new; otherwise see whether control lost them: trackbed waypoint status
    pub const ACCESS_UNKNOWN: &str = "E_ACCESS_UNKNOWN";
    /// a request carries a token that no RequestAuthentication of the service accepts; the answer's WWW-Authenticate and the flow say why
    pub const TOKEN_REFUSED: &str = "E_TOKEN_REFUSED";
    /// an external authorization service denied a request; the flow names the policy whose provider was asked
    pub const POLICY_EXTERNAL: &str = "E_POLICY_EXTERNAL";
    /// an external authorization service could not be asked, or did not answer as the protocol says; denied; see its pods and its timeout; failOpen of the provider lets such requests pass
    pub const POLICY_EXTERNAL_FAILED: &str = "E_POLICY_EXTERNAL_FAILED";
    /// a policy targets what no waypoint enforces it for: nobody is denied or allowed by it; name a waypoint for the service (label trackbed.dev/use-waypoint), or correct the policy's targetRefs
    pub const POLICY_NO_WAYPOINT: &str = "E_POLICY_NO_WAYPOINT";
    /// no TCP connection to the peer's HBONE port; check that NetworkPolicies admit port 15008 and that the peer's engine runs
    pub const TUNNEL_UNREACHABLE: &str = "E_TUNNEL_UNREACHABLE";
    /// the TLS handshake or the HTTP/2 preface failed; compare roots and clocks of the two nodes
    pub const TUNNEL_HANDSHAKE: &str = "E_TUNNEL_HANDSHAKE";
    /// the peer answered CONNECT with another status than 200; the status says why: 400 request, 401 policy, 503 application
    pub const TUNNEL_PEER_REFUSED: &str = "E_TUNNEL_PEER_REFUSED";
    /// the tunnel ended under a live connection; look at the peer's engine
    pub const TUNNEL_LOST: &str = "E_TUNNEL_LOST";
    /// the application refused the connection; check that it listens on this port
    pub const UPSTREAM_REFUSED: &str = "E_UPSTREAM_REFUSED";
    /// the application did not accept in time; check the application's accept queue
    pub const UPSTREAM_TIMEOUT: &str = "E_UPSTREAM_TIMEOUT";
    /// the frozen state of a connection was of an unknown version, damaged, or one that no connection can have; the connection was reset; nothing for this connection; if it follows an upgrade, take the next version's engine from a release that knows the one before
    pub const HANDOVER_STATE: &str = "E_HANDOVER_STATE";
    /// a bound of the engine was reached; the reason names the bound
    pub const ENGINE_LIMIT: &str = "E_ENGINE_LIMIT";
    /// the DNS server that the pod asked did not answer; check the server in the pod's resolv.conf
    pub const DNS_UPSTREAM: &str = "E_DNS_UPSTREAM";
    /// a document is not valid and is not in force; correct the file, line and field named
    pub const SOURCE_INVALID: &str = "E_SOURCE_INVALID";
    /// an object is labelled with a waypoint that is not there or does not admit it; its traffic passes none; make the Gateway that the label names, of class trackbed-waypoint, or correct the label
    pub const WAYPOINT_ABSENT: &str = "E_WAYPOINT_ABSENT";
    /// a document uses a field this version cannot enforce; remove the field or use a version that supports it
    pub const SOURCE_UNSUPPORTED: &str = "E_SOURCE_UNSUPPORTED";
    /// control cannot be reached; the last known state stays in force; check control and the network to it
    pub const CONTROL_AWAY: &str = "E_CONTROL_AWAY";
    /// control does not accept this node's token; compare the node's token file with control's
    pub const CONTROL_UNAUTHENTICATED: &str = "E_CONTROL_UNAUTHENTICATED";
    /// this node asked for more certificates in a minute than control signs for one node; nothing: the engine asks again; if it persists, see which of the node's pods ask and why
    pub const IDENTITY_RATE_LIMITED: &str = "E_IDENTITY_RATE_LIMITED";
    /// the issuer of --issuer has not signed the mesh's intermediate, or refused it; the one in force is used until it ends; the reason names the CertificateRequest: kubectl describe shows what its issuer says; cert-manager and the issuer must be there
    pub const AUTHORITY_PENDING: &str = "E_AUTHORITY_PENDING";
    /// the stored root or issuer cannot be used and is never replaced silently; restore the files in control's state directory, or move all of them away to start a new trust root
    pub const AUTHORITY_INVALID: &str = "E_AUTHORITY_INVALID";
    /// a directory that an option names cannot be read or made; create the directory, or correct the option that names it; see its owner and mode
    pub const DIRECTORY_UNUSABLE: &str = "E_DIRECTORY_UNUSABLE";
    /// the daemon could not bind an address; see which process holds the port, and that the address belongs to this node
    pub const DAEMON_LISTEN_FAILED: &str = "E_DAEMON_LISTEN_FAILED";
    /// control could not bind an address; see which process holds the port, and that the address belongs to this host
    pub const CONTROL_LISTEN_FAILED: &str = "E_CONTROL_LISTEN_FAILED";
    /// the other end of a discovery stream broke its protocol; compare the versions of control and daemon
    pub const DISCOVERY_PROTOCOL: &str = "E_DISCOVERY_PROTOCOL";
    /// the snapshot on disk is damaged or from a newer version and was not used; it is replaced as soon as control answers
    pub const SNAPSHOT_INVALID: &str = "E_SNAPSHOT_INVALID";
    /// no daemon answers on its admin socket; see that a daemon runs on this node, or name its directory with --run
    pub const DAEMON_AWAY: &str = "E_DAEMON_AWAY";
    /// the Kubernetes API server did not answer, or not in time; nothing if it restarts; otherwise check the API server and the network to it; what was read last stays in force
    pub const API_UNREACHABLE: &str = "E_API_UNREACHABLE";
    /// the Kubernetes API server does not let us do this; compare the roles bound to our ServiceAccount with the manifests: trackbed install puts them right
    pub const API_FORBIDDEN: &str = "E_API_FORBIDDEN";
    /// the Kubernetes API server does not accept a request of ours; read its message; the versions of Kubernetes and of Trackbed may not fit
    pub const API_REJECTED: &str = "E_API_REJECTED";
    /// there are no usable credentials for the Kubernetes API; run inside a pod with a mounted ServiceAccount token, or name a kubeconfig with --kubeconfig
    pub const API_CREDENTIALS: &str = "E_API_CREDENTIALS";
    /// a Gateway's waypoint could not be made or kept as it should be; the reason names the object that stands against it: rename or remove one of the two; control tries again by itself
    pub const WAYPOINT_NOT_MADE: &str = "E_WAYPOINT_NOT_MADE";
    /// the parameters that a Gateway refers to cannot be used; its waypoint stays as it is, or is not made; correct the ConfigMap: its keys are replicas, a number, and resources, YAML as in a container
    pub const WAYPOINT_PARAMETERS: &str = "E_WAYPOINT_PARAMETERS";
    /// what is asked about flows or edges cannot be understood; the message names the place; docs/flows.md has the fields and the operators
    pub const QUESTION: &str = "E_QUESTION";
    /// too many questions about flows or edges are being answered at this moment; ask again; see whether somebody follows flows who does not read them
    pub const QUESTION_BUSY: &str = "E_QUESTION_BUSY";
    /// the caller may not read what nodes saw, or not of this namespace; see docs/permissions.md: the right is get on flows.trackbed.dev in the namespace
    pub const INSPECTION_REFUSED: &str = "E_INSPECTION_REFUSED";
    /// the engine does not record: there are as many recordings as it allows, or it is of a version that cannot; end another trackbed pcap of this node; trackbed version shows the engine's version
    pub const RECORDING_REFUSED: &str = "E_RECORDING_REFUSED";
    /// the command line is wrong; see --help
    pub const USAGE: &str = "E_USAGE";
    /// What to do next, by code.
    pub const NEXT: &[(&str, &str)] = &[
        (CAPTURE_NETNS_GONE, "nothing if the pod was just deleted; otherwise check the pod's netns path"),
        (
            CAPTURE_NETNS_FOREIGN,
            "nothing: the daemon looks for the pod's own namespace again; if it persists, compare the pod's addresses with those in its namespace",
        ),
        (CNI_DAEMON_AWAY, "see why the trackbed-daemon pod of the node does not run; trackbed-cni rescue frees the node without it"),
        (CNI_NOT_CAPTURED, "nothing: the kubelet tries again; the reason names what is missing"),
        (CNI_UNDECIDED, "nothing: the kubelet tries again; see whether the node reaches the API server"),
        (CNI_REQUEST_INVALID, "the reason names the field; the runtime must give K8S_POD_NAMESPACE, K8S_POD_NAME and K8S_POD_UID"),
        (CNI_INSTALL_FAILED, "the reason names the file; check that the directories of --cni-bin and --cni-conf are mounted and writable"),
        (CNI_NO_NETWORK, "install the cluster's network first; ours follows by itself"),
        (
            CNI_VERSION,
            "raise cniVersion in the file that the reason names; until then new pods start without the plugin and are captured as running ones",
        ),
        (PROBE_RULES_FAILED, "read the cause; until it stands, probes of pods under STRICT fail"),
        (CAPTURE_RULES_FAILED, "read the cause; check that nft is installed and the kernel has nf_tables"),
        (CAPTURE_RULES_DIFFER, "something else edits the namespace: trackbed explain pod/NAME shows the difference"),
        (CAPTURE_FOREIGN_MESH, "take the pod out of the other mesh first, or label it trackbed.dev/mesh=disabled"),
        (CAPTURE_HOST_NETWORK, "label the pod trackbed.dev/mesh=disabled to silence this"),
        (CAPTURE_PROOF_FAILED, "compare the namespace's rules: trackbed explain pod/NAME"),
        (CAPTURE_LISTEN_FAILED, "see which process of the pod holds one of the ports 15001, 15006, 15008, 15053"),
        (ENGINE_AWAY, "look at the engine's log; captured pods refuse traffic until it is back"),
        (HANDOVER_REFUSED, "only the node's daemon may write to netns.sock"),
        (ENGINE_RESTARTED, "look at the engine's log for what it died of"),
        (ENGINE_STOPPING, "nothing: the next engine takes new connections"),
        (POD_LEFT, "open the connection again; it is not meshed any more"),
        (CONTRACT_VERSION, "upgrade the older one"),
        (WORKLOAD_UNKNOWN, "check that control knows the pod: trackbed explain pod/NAME"),
        (IDENTITY_MISSING, "check the certificate authority: trackbed status"),
        (IDENTITY_REFUSED, "the pod must be live on the calling node with that service account"),
        (IDENTITY_MALFORMED, "the peer's certificate must hold exactly one such URI SAN"),
        (IDENTITY_MISMATCH, "an address may have moved to another pod; if it persists, treat it as an attack"),
        (POLICY_DENIED, "the flow names policy and rule"),
        (POLICY_NO_ALLOW, "add a rule for this source, or see trackbed flows for its identity"),
        (POLICY_STRICT, "enrol the client, or set the port to PERMISSIVE"),
        (POLICY_UNKNOWN, "wait for control, or correct the policy that was rejected"),
        (POLICY_INVALID, "correct the field named in the reason"),
        (DESTINATION_REFUSED, "CONNECT must name the pod's own address and an application port"),
        (DESTINATION_OWN_PORT, "applications must not use ports 15001, 15006, 15008, 15053"),
        (SERVICE_NO_ENDPOINT, "check the service's selector and its pods"),
        (SERVICE_NO_PORT, "compare the port with the Service"),
        (
            ROUTES_UNKNOWN,
            "nothing if the waypoint or the service is new; otherwise see whether control rejected or lost the routes: trackbed waypoint status",
        ),
        (ACCESS_UNKNOWN, "nothing if it is new; otherwise see whether control lost them: trackbed waypoint status"),
        (TOKEN_REFUSED, "the answer's WWW-Authenticate and the flow say why"),
        (POLICY_EXTERNAL, "the flow names the policy whose provider was asked"),
        (POLICY_EXTERNAL_FAILED, "see its pods and its timeout; failOpen of the provider lets such requests pass"),
        (POLICY_NO_WAYPOINT, "name a waypoint for the service (label trackbed.dev/use-waypoint), or correct the policy's targetRefs"),
        (TUNNEL_UNREACHABLE, "check that NetworkPolicies admit port 15008 and that the peer's engine runs"),
        (TUNNEL_HANDSHAKE, "compare roots and clocks of the two nodes"),
        (TUNNEL_PEER_REFUSED, "the status says why: 400 request, 401 policy, 503 application"),
        (TUNNEL_LOST, "look at the peer's engine"),
        (UPSTREAM_REFUSED, "check that it listens on this port"),
        (UPSTREAM_TIMEOUT, "check the application's accept queue"),
        (
            HANDOVER_STATE,
            "nothing for this connection; if it follows an upgrade, take the next version's engine from a release that knows the one before",
        ),
        (ENGINE_LIMIT, "the reason names the bound"),
        (DNS_UPSTREAM, "check the server in the pod's resolv.conf"),
        (SOURCE_INVALID, "correct the file, line and field named"),
        (WAYPOINT_ABSENT, "make the Gateway that the label names, of class trackbed-waypoint, or correct the label"),
        (SOURCE_UNSUPPORTED, "remove the field or use a version that supports it"),
        (CONTROL_AWAY, "check control and the network to it"),
        (CONTROL_UNAUTHENTICATED, "compare the node's token file with control's"),
        (IDENTITY_RATE_LIMITED, "nothing: the engine asks again; if it persists, see which of the node's pods ask and why"),
        (
            AUTHORITY_PENDING,
            "the reason names the CertificateRequest: kubectl describe shows what its issuer says; cert-manager and the issuer must be there",
        ),
        (AUTHORITY_INVALID, "restore the files in control's state directory, or move all of them away to start a new trust root"),
        (DIRECTORY_UNUSABLE, "create the directory, or correct the option that names it; see its owner and mode"),
        (DAEMON_LISTEN_FAILED, "see which process holds the port, and that the address belongs to this node"),
        (CONTROL_LISTEN_FAILED, "see which process holds the port, and that the address belongs to this host"),
        (DISCOVERY_PROTOCOL, "compare the versions of control and daemon"),
        (SNAPSHOT_INVALID, "it is replaced as soon as control answers"),
        (DAEMON_AWAY, "see that a daemon runs on this node, or name its directory with --run"),
        (
            API_UNREACHABLE,
            "nothing if it restarts; otherwise check the API server and the network to it; what was read last stays in force",
        ),
        (API_FORBIDDEN, "compare the roles bound to our ServiceAccount with the manifests: trackbed install puts them right"),
        (API_REJECTED, "read its message; the versions of Kubernetes and of Trackbed may not fit"),
        (API_CREDENTIALS, "run inside a pod with a mounted ServiceAccount token, or name a kubeconfig with --kubeconfig"),
        (
            WAYPOINT_NOT_MADE,
            "the reason names the object that stands against it: rename or remove one of the two; control tries again by itself",
        ),
        (WAYPOINT_PARAMETERS, "correct the ConfigMap: its keys are replicas, a number, and resources, YAML as in a container"),
        (QUESTION, "the message names the place; docs/flows.md has the fields and the operators"),
        (QUESTION_BUSY, "ask again; see whether somebody follows flows who does not read them"),
        (INSPECTION_REFUSED, "see docs/permissions.md: the right is get on flows.trackbed.dev in the namespace"),
        (RECORDING_REFUSED, "end another trackbed pcap of this node; trackbed version shows the engine's version"),
        (USAGE, "see --help"),
    ];
}

pub mod metrics {
    /// connections opened
    pub const ISTIO_TCP_CONNECTIONS_OPENED_TOTAL: &str = "istio_tcp_connections_opened_total";
    /// connections closed
    pub const ISTIO_TCP_CONNECTIONS_CLOSED_TOTAL: &str = "istio_tcp_connections_closed_total";
    /// connections denied or failed
    pub const ISTIO_TCP_CONNECTIONS_FAILED_TOTAL: &str = "istio_tcp_connections_failed_total";
    /// payload bytes from server to client (istio#32399), for both reporters
    pub const ISTIO_TCP_SENT_BYTES_TOTAL: &str = "istio_tcp_sent_bytes_total";
    /// payload bytes from client to server, for both reporters
    pub const ISTIO_TCP_RECEIVED_BYTES_TOTAL: &str = "istio_tcp_received_bytes_total";
    /// recordings of pods' traffic (trackbed pcap) that are on
    pub const TRACKBED_RECORDINGS: &str = "trackbed_recordings";
    /// requests seen passing through connections of observed pods
    pub const TRACKBED_OBSERVED_REQUESTS_TOTAL: &str = "trackbed_observed_requests_total";
    /// time from a request's first byte to the last of its answer, as they passed
    pub const TRACKBED_OBSERVED_REQUEST_DURATION_MILLISECONDS: &str = "trackbed_observed_request_duration_milliseconds";
    /// connections whose requests were observed, by how that ended: whole, or given up and why
    pub const TRACKBED_OBSERVED_CONNECTIONS_TOTAL: &str = "trackbed_observed_connections_total";
    /// requests that a waypoint answered
    pub const ISTIO_REQUESTS_TOTAL: &str = "istio_requests_total";
    /// time from a request's first byte to the last of its answer
    pub const ISTIO_REQUEST_DURATION_MILLISECONDS: &str = "istio_request_duration_milliseconds";
    /// spans that the collector took
    pub const TRACKBED_SPANS_EXPORTED_TOTAL: &str = "trackbed_spans_exported_total";
    /// spans dropped because a queue was full or the collector did not take them
    pub const TRACKBED_SPANS_DROPPED_TOTAL: &str = "trackbed_spans_dropped_total";
    /// enrolled pods of the node by phase
    pub const TRACKBED_PODS: &str = "trackbed_pods";
    /// enrolled pods whose capture is not proven
    pub const TRACKBED_PODS_UNPROVEN: &str = "trackbed_pods_unproven";
    /// rule changes that were not ours, by pod
    pub const TRACKBED_DRIFT_TOTAL: &str = "trackbed_drift_total";
    /// rule repairs, by result
    pub const TRACKBED_REPAIRS_TOTAL: &str = "trackbed_repairs_total";
    /// requests of the CNI plugin, by verb and result
    pub const TRACKBED_CNI_REQUESTS_TOTAL: &str = "trackbed_cni_requests_total";
    /// 1 while plugin, configuration and decision file are in place
    pub const TRACKBED_CNI_INSTALLED: &str = "trackbed_cni_installed";
    /// namespaces of the node's pods that an operator took out of the mesh for a time
    pub const TRACKBED_BYPASSED_NAMESPACES: &str = "trackbed_bypassed_namespaces";
    /// connections that a dry-run policy would have refused, by policy
    pub const TRACKBED_POLICY_DRY_RUN_DENIED_TOTAL: &str = "trackbed_policy_dry_run_denied_total";
    /// requests refused by a rate limit or by load shedding, by limit
    pub const TRACKBED_REQUESTS_LIMITED_TOTAL: &str = "trackbed_requests_limited_total";
    /// endpoints passed over for a while, by cause
    pub const TRACKBED_ENDPOINTS_EJECTED_TOTAL: &str = "trackbed_endpoints_ejected_total";
    /// requests whose key found no room in their rate limit and shared a bucket
    pub const TRACKBED_RATE_LIMIT_KEYS_SHARED_TOTAL: &str = "trackbed_rate_limit_keys_shared_total";
    /// requests that load shedding lets be under way now, by limit
    pub const TRACKBED_CONCURRENCY_LIMIT: &str = "trackbed_concurrency_limit";
    /// flow records dropped because a queue was full
    pub const TRACKBED_FLOWS_DROPPED_TOTAL: &str = "trackbed_flows_dropped_total";
    /// flow records that were exported, by sink: otlp, file
    pub const TRACKBED_EXPORTED_RECORDS_TOTAL: &str = "trackbed_exported_records_total";
    /// flow records that an export will never have, by sink and reason: missed (overwritten before they were read), refused
    pub const TRACKBED_EXPORT_LOST_RECORDS_TOTAL: &str = "trackbed_export_lost_records_total";
    /// certificates signed
    pub const TRACKBED_CERTIFICATES_ISSUED_TOTAL: &str = "trackbed_certificates_issued_total";
    /// certificate requests refused, by code
    pub const TRACKBED_CERTIFICATES_REFUSED_TOTAL: &str = "trackbed_certificates_refused_total";
    /// seconds until a certificate ends, by kind: root, issuer, workload
    pub const TRACKBED_CERTIFICATE_EXPIRY_SECONDS: &str = "trackbed_certificate_expiry_seconds";
    /// documents read, by kind and result
    pub const TRACKBED_DOCUMENTS: &str = "trackbed_documents";
    /// seconds since the API server last said something about a resource; a quiet one says it about once a minute
    pub const TRACKBED_API_AGE_SECONDS: &str = "trackbed_api_age_seconds";
    /// lists and watches that had to begin again, by resource and cause
    pub const TRACKBED_API_RESTARTS_TOTAL: &str = "trackbed_api_restarts_total";
    /// conditions and Events written, by kind and result
    pub const TRACKBED_STATUS_WRITES_TOTAL: &str = "trackbed_status_writes_total";
    /// objects whose condition is still to be written
    pub const TRACKBED_STATUS_PENDING: &str = "trackbed_status_pending";
    /// 1 while this replica writes the status of policies
    pub const TRACKBED_LEADER: &str = "trackbed_leader";
    /// time from a change to its xDS resources
    pub const TRACKBED_COMPILE_SECONDS: &str = "trackbed_compile_seconds";
    /// connected daemons
    pub const TRACKBED_XDS_STREAMS: &str = "trackbed_xds_streams";
    /// engines of waypoints that are attached to control
    pub const TRACKBED_WAYPOINT_STREAMS: &str = "trackbed_waypoint_streams";
    /// xDS responses sent, by type
    pub const TRACKBED_XDS_PUSHES_TOTAL: &str = "trackbed_xds_pushes_total";
    /// xDS responses that a daemon refused, by type
    pub const TRACKBED_XDS_NACKS_TOTAL: &str = "trackbed_xds_nacks_total";
    /// generation the engine acknowledged
    pub const TRACKBED_STATE_GENERATION: &str = "trackbed_state_generation";
    /// worker processes that the keeper had to replace
    pub const TRACKBED_ENGINE_RESTARTS_TOTAL: &str = "trackbed_engine_restarts_total";
    /// log lines dropped because their reader was slow
    pub const TRACKBED_LOG_DROPPED_TOTAL: &str = "trackbed_log_dropped_total";
    /// connections without metrics because the number of series is bounded
    pub const TRACKBED_SERIES_DROPPED_TOTAL: &str = "trackbed_series_dropped_total";
    /// times accepting paused for lack of descriptors
    pub const TRACKBED_ACCEPT_PAUSES_TOTAL: &str = "trackbed_accept_pauses_total";
    /// connections refused because descriptors are few and their pod holds more than others
    pub const TRACKBED_CONNECTIONS_SHED_TOTAL: &str = "trackbed_connections_shed_total";
    /// tunnels refused because their peer or all peers of a pod hold too many
    pub const TRACKBED_TUNNELS_REFUSED_TOTAL: &str = "trackbed_tunnels_refused_total";
    /// open HBONE connections, by role
    pub const TRACKBED_TUNNELS: &str = "trackbed_tunnels";
    /// captured connections that are open
    pub const TRACKBED_CONNECTIONS: &str = "trackbed_connections";
    /// captured DNS queries, by outcome
    pub const TRACKBED_DNS_REQUESTS_TOTAL: &str = "trackbed_dns_requests_total";
}
