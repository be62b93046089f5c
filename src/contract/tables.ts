// Generated from proto/tables.json by proto/generate.ts. Do not edit.

export const product = {
  name: "Trackbed",
  labelPrefix: "trackbed.dev",
  metricPrefix: "trackbed",
  apiGroup: "trackbed.dev",
  controlPlaneNamespace: "trackbed-system",
  contractVersion: 1,
} as const;

export const ports = {
  /** captured outbound TCP (pod) */
  outbound: 15001,
  /** captured inbound TCP that did not come by HBONE (pod) */
  inboundPlain: 15006,
  /** HBONE: HTTP/2 CONNECT in mutual TLS (pod) */
  hbone: 15008,
  /** captured DNS, UDP and TCP (pod) */
  dns: 15053,
  /** xDS, certificates and node reports, gRPC over TLS (control) */
  control: 15012,
  /** the engine's Prometheus text (node loopback) */
  engineMetrics: 15020,
  /** the daemon's /healthz/ready and /metrics (node loopback) */
  daemonHealth: 15021,
  /** a waypoint's /metrics (waypoint pod) */
  waypointMetrics: 15020,
  /** a waypoint's /healthz/ready (waypoint pod) */
  waypointHealth: 15021,
  /** control's /healthz/ready and /metrics (control loopback) */
  controlHealth: 15014,
} as const;

export const marks = {
  /** 0x539: sockets of the engine, never captured */
  engine: 1337,
  /** 0x53a: probes of the kubelet on their way to a pod, in the host's network namespace only */
  probe: 1338,
  /** 0x111: connections whose replies must come back to the engine */
  reply: 273,
  /** 0xfff: the bits of a mark that are ours */
  mask: 4095,
  /** routing table that delivers marked packets to loopback */
  routeTable: 100,
  /** preference of the routing rule that selects it */
  rulePreference: 32764,
} as const;

export const addresses = {
  /** source of kubelet probes */
  probeV4: "169.254.7.127",
  /** source of kubelet probes */
  probeV6: "fd16:9254:7127:1337:ffff:ffff:ffff:ffff",
  /** destination of the capture proof, never routed */
  proofV4: "169.254.7.126",
  /** destination of the capture proof, never routed */
  proofV6: "fd16:9254:7127:1337:ffff:ffff:ffff:fffe",
  /** port of the capture proof */
  proofPort: 15021,
} as const;

export const paths = {
  /** root-only directory that daemon and engine share; --run overrides it */
  run: "/run/trackbed",
  /** gRPC, proto/engine.proto; the daemon listens */
  directorSocket: "director.sock",
  /** SOCK_SEQPACKET with descriptors; the engine listens */
  netnsSocket: "netns.sock",
  /** HTTP for the CLI; the daemon listens */
  adminSocket: "admin.sock",
  /** what the daemon last applied */
  snapshot: "snapshot.json",
  /** HTTP with JSON for the CNI plugin; the daemon listens */
  cniSocket: "cni.sock",
  /** directory of the node's CNI plugins */
  cniBin: "/opt/cni/bin",
  /** directory of the node's CNI configuration */
  cniConf: "/etc/cni/net.d",
  /** our plugin's file in the first */
  cniPlugin: "trackbed-cni",
  /** our configuration in the second: sorted first, a copy of the node's own with our plugin chained last */
  cniConflist: "00-trackbed.conflist",
  /** edges that the daemon keeps for days */
  ledger: "/var/lib/trackbed/ledger.db",
  /** directory of what the plugin needs while no daemon answers */
  cniState: "/var/lib/trackbed/cni",
  /** in it: which namespaces are enrolled; the daemon writes it */
  cniDecisions: "namespaces.json",
} as const;

export const kubernetes = {
  /** Deployment, Service, ServiceAccount and Lease of control */
  control: "trackbed-control",
  /** DaemonSet and ServiceAccount of the daemon */
  daemon: "trackbed-daemon",
  /** DaemonSet and ServiceAccount of the engine */
  engine: "trackbed-engine",
  /** ConfigMap with the mesh's root certificates, filled by control */
  rootConfigMap: "trackbed-root",
  /** key of the root certificates in that ConfigMap */
  rootKey: "root-cert.pem",
  /** Secret with root and issuer, made by control at its first start */
  caSecret: "trackbed-ca",
  /** Secret of an operator's own CA, used instead where it exists */
  pluggedCaSecret: "cacerts",
  /** Secret with the issuer that another CA signed (--issuer) */
  issuerSecret: "trackbed-issuer",
  /** audience of the daemons' projected tokens */
  tokenAudience: "trackbed",
  /** audience of the tokens by which people read what nodes saw */
  viewerAudience: "trackbed-viewer",
  /** ServiceAccount that may read what all nodes saw, and the Role to reach control */
  viewer: "trackbed-viewer",
  /** header with such a token: the API server keeps authorization for itself */
  viewerTokenHeader: "x-trackbed-token",
  /** resource of group trackbed.dev: the right to get it in a namespace is that to read its flows and edges */
  flowsResource: "flows",
  /** resource of group trackbed.dev: the right to create it in a namespace is that to record what its pods send and hear */
  recordingsResource: "recordings",
  /** field manager of everything that we write */
  fieldManager: "trackbed",
  /** GatewayClass whose Gateways are waypoints */
  waypointClass: "trackbed-waypoint",
  /** controllerName of that class, and in the status of routes */
  waypointController: "trackbed.dev/waypoint",
  /** name of the Gateway that a namespace with waypoint=auto gets */
  waypointAuto: "waypoint",
  /** ConfigMap in the root namespace with what is said once for the mesh: extensionProviders, below its key mesh */
  meshConfigMap: "trackbed-mesh",
  /** on pods of a waypoint: which Gateway they are of */
  gatewayNameLabel: "gateway.networking.k8s.io/gateway-name",
  /** on pods of a waypoint: the class of that Gateway; with trackbed-waypoint the pod is a waypoint and never captured */
  gatewayClassLabel: "gateway.networking.k8s.io/gateway-class-name",
  /** pod condition: True while the pod is in the mesh */
  capturedCondition: "trackbed.dev/Captured",
  /** condition of a policy: True while it is in force as written */
  acceptedCondition: "trackbed.dev/Accepted",
} as const;

export const labels = {
  /** enabled | disabled; the pod beats the namespace (Namespace, Pod) */
  mesh: "trackbed.dev/mesh",
  /** name of the Gateway that its traffic passes, none to opt out; the object beats its namespace (Namespace, Service, ServiceEntry, Pod) */
  useWaypoint: "trackbed.dev/use-waypoint",
  /** namespace of that Gateway, where it is another (Namespace, Service, ServiceEntry, Pod) */
  useWaypointNamespace: "trackbed.dev/use-waypoint-namespace",
  /** beside use-waypoint: a second Gateway, which gets a share of the connections (Namespace, Service, ServiceEntry) */
  useWaypointCanary: "trackbed.dev/use-waypoint-canary",
  /** namespace of that second Gateway, where it is another (Namespace, Service, ServiceEntry) */
  useWaypointCanaryNamespace: "trackbed.dev/use-waypoint-canary-namespace",
  /** service | workload | all | none, default service: whether what is addressed to services passes the waypoint, or to pods by their own addresses (Gateway) */
  waypointFor: "trackbed.dev/waypoint-for",
  /** auto: the namespace gets a waypoint as soon as something needs one (Namespace) */
  waypoint: "trackbed.dev/waypoint",
} as const;

export const annotations = {
  /** directory mode: path of the network namespace that stands in for the pod (Pod) */
  netns: "trackbed.dev/netns",
  /** comma list of ports never captured on the way out (Pod) */
  excludeOutboundPorts: "trackbed.dev/exclude-outbound-ports",
  /** comma list of CIDRs never captured on the way out (Pod) */
  excludeOutboundCidrs: "trackbed.dev/exclude-outbound-cidrs",
  /** comma list of ports never captured on the way in (Pod) */
  excludeInboundPorts: "trackbed.dev/exclude-inbound-ports",
  /** comma list of CIDRs never captured on the way in (Pod) */
  excludeInboundCidrs: "trackbed.dev/exclude-inbound-cidrs",
  /** outbound: capture only what the pod sends (Pod) */
  capture: "trackbed.dev/capture",
  /** RFC 3339: until then the namespace's pods are out of the mesh; set by trackbed bypass (Namespace) */
  bypassUntil: "trackbed.dev/bypass-until",
  /** since when each root is handed out and until when it signed; written by control, read when it starts (ConfigMap trackbed-root) */
  rotation: "trackbed.dev/rotation",
  /** off | protocol | sampled | full, default protocol: how far the engine looks into what passes; the pod's beats its namespace's (Namespace, Pod) */
  observe: "trackbed.dev/observe",
  /** true: its AuthorizationPolicies are only tried, except those that say istio.io/dry-run: "false" themselves (Namespace) */
  dryRun: "trackbed.dev/dry-run",
  /** comma list of ports and ranges of a service that a waypoint carries as TCP, whatever they are called; the service beats its namespace (Namespace, Service) */
  opaquePorts: "trackbed.dev/opaque-ports",
  /** true: once its waypoint is ready, what did not come through it is refused at the service's pods, as where an L7 policy targets it (Service) */
  requireWaypoint: "trackbed.dev/require-waypoint",
  /** beside use-waypoint-canary: its share of the connections, 0 to 100 (Namespace, Service) */
  useWaypointCanaryWeight: "trackbed.dev/use-waypoint-canary-weight",
  /** enabled | disabled, default enabled (Namespace, Pod) */
  dnsCapture: "trackbed.dev/dns-capture",
} as const;

export const bounds = {
  /** longest wait of a new pod for its capture; the kubelet tries again */
  cniAddMilliseconds: 20000,
  /** longest wait of a connection for workload, identity and policy */
  holdMilliseconds: 5000,
  /** longest wait for an application or peer to accept */
  connectMilliseconds: 10000,
  /** longest TLS handshake plus HTTP/2 preface */
  handshakeMilliseconds: 5000,
  /** default time live connections keep after a pod left the mesh */
  drainMilliseconds: 600000,
  /** largest packet on netns.sock */
  netnsHandoverBytes: 1024,
  /** longest :authority: 253 of a name, brackets, port and margin */
  authorityBytes: 320,
  /** flow records waiting for the director; the oldest is dropped and counted */
  flowQueue: 4096,
  /** distinct edges that are counted apart in one turn; the rest is counted as other */
  edges: 4096,
  /** upper end of the first bucket of an edge's latencies; each next one ends at twice that */
  latencyFirstMicroseconds: 32,
  /** buckets of an edge's latencies; the last has no upper end */
  latencyBuckets: 24,
  /** largest gRPC message that any of our services accepts */
  grpcMessageBytes: 4194304,
} as const;

export const wire = {
  /** HTTP/2 setting; 1: the server holds what comes before its answer back until it has accepted, so a client need not wait */
  settingsEarlyData: 61780,
  /** versions of the CNI specification that the plugin speaks: those in which a chained plugin gets prevResult; oldest first */
  cniVersions: "0.3.0 0.3.1 0.4.0 1.0.0 1.1.0",
} as const;

export const errors = {
  E_CAPTURE_NETNS_GONE: {
    side: "self",
    retryable: "yes",
    help: "the pod's network namespace no longer exists or was replaced",
    next: "nothing if the pod was just deleted; otherwise check the pod's netns path",
  },
  E_CAPTURE_NETNS_FOREIGN: {
    side: "self",
    retryable: "yes",
    help: "the network namespace found for a pod holds none of the pod's addresses",
    next: "nothing: the daemon looks for the pod's own namespace again; if it persists, compare the pod's addresses with those in its namespace",
  },
  E_CNI_DAEMON_AWAY: {
    side: "self",
    retryable: "yes",
    help: "no daemon answers the CNI plugin on this node and the pod's namespace is enrolled or not known",
    next: "see why the trackbed-daemon pod of the node does not run; trackbed-cni rescue frees the node without it",
  },
  E_CNI_NOT_CAPTURED: {
    side: "self",
    retryable: "yes",
    help: "a new pod was not captured in time; it must not start outside the mesh",
    next: "nothing: the kubelet tries again; the reason names what is missing",
  },
  E_CNI_UNDECIDED: {
    side: "control",
    retryable: "yes",
    help: "nobody could say whether a new pod belongs to the mesh: the API does not answer or does not have the pod",
    next: "nothing: the kubelet tries again; see whether the node reaches the API server",
  },
  E_CNI_REQUEST_INVALID: {
    side: "client",
    retryable: "no",
    help: "a CNI request or configuration is malformed or lacks a field",
    next: "the reason names the field; the runtime must give K8S_POD_NAMESPACE, K8S_POD_NAME and K8S_POD_UID",
  },
  E_CNI_INSTALL_FAILED: {
    side: "self",
    retryable: "yes",
    help: "the CNI plugin or its configuration could not be put in place",
    next: "the reason names the file; check that the directories of --cni-bin and --cni-conf are mounted and writable",
  },
  E_CNI_NO_NETWORK: {
    side: "self",
    retryable: "yes",
    help: "the node has no CNI configuration of its own that the plugin could be chained to",
    next: "install the cluster's network first; ours follows by itself",
  },
  E_CNI_VERSION: {
    side: "self",
    retryable: "no",
    help: "the node's CNI configuration is of a version in which no plugin can be chained, or one that ours does not know",
    next: "raise cniVersion in the file that the reason names; until then new pods start without the plugin and are captured as running ones",
  },
  E_PROBE_RULES_FAILED: {
    side: "self",
    retryable: "yes",
    help: "the host's rule for kubelet probes could not be read or replaced",
    next: "read the cause; until it stands, probes of pods under STRICT fail",
  },
  E_CAPTURE_RULES_FAILED: {
    side: "self",
    retryable: "yes",
    help: "nft or ip refused the rules",
    next: "read the cause; check that nft is installed and the kernel has nf_tables",
  },
  E_CAPTURE_RULES_DIFFER: {
    side: "self",
    retryable: "yes",
    help: "the rules read back are not the rules applied",
    next: "something else edits the namespace: trackbed explain pod/NAME shows the difference",
  },
  E_CAPTURE_FOREIGN_MESH: {
    side: "control",
    retryable: "no",
    help: "the pod carries another mesh's rules, annotation or sidecar",
    next: "take the pod out of the other mesh first, or label it trackbed.dev/mesh=disabled",
  },
  E_CAPTURE_HOST_NETWORK: {
    side: "control",
    retryable: "no",
    help: "hostNetwork pods are never enrolled",
    next: "label the pod trackbed.dev/mesh=disabled to silence this",
  },
  E_CAPTURE_PROOF_FAILED: {
    side: "self",
    retryable: "yes",
    help: "a probe connection did not reach the engine's listener",
    next: "compare the namespace's rules: trackbed explain pod/NAME",
  },
  E_CAPTURE_LISTEN_FAILED: {
    side: "self",
    retryable: "yes",
    help: "a listener could not be bound inside the pod's namespace",
    next: "see which process of the pod holds one of the ports 15001, 15006, 15008, 15053",
  },
  E_ENGINE_AWAY: {
    side: "self",
    retryable: "yes",
    help: "no engine is connected to the daemon",
    next: "look at the engine's log; captured pods refuse traffic until it is back",
  },
  E_HANDOVER_REFUSED: {
    side: "self",
    retryable: "no",
    help: "a network namespace hand-over was malformed or its sender is not trusted",
    next: "only the node's daemon may write to netns.sock",
  },
  E_ENGINE_RESTARTED: {
    side: "self",
    retryable: "fresh",
    help: "the engine's worker died and was replaced; connections of the old one are gone",
    next: "look at the engine's log for what it died of",
  },
  E_ENGINE_STOPPING: {
    side: "self",
    retryable: "fresh",
    help: "the engine was told to stop and the connection outlasted its grace time",
    next: "nothing: the next engine takes new connections",
  },
  E_POD_LEFT: {
    side: "control",
    retryable: "fresh",
    help: "the pod has left the mesh and the connection outlasted its drain time",
    next: "open the connection again; it is not meshed any more",
  },
  E_CONTRACT_VERSION: {
    side: "self",
    retryable: "no",
    help: "daemon and engine do not speak the same contract version",
    next: "upgrade the older one",
  },
  E_WORKLOAD_UNKNOWN: {
    side: "control",
    retryable: "fresh",
    help: "no workload is known for the local pod yet",
    next: "check that control knows the pod: trackbed explain pod/NAME",
  },
  E_IDENTITY_MISSING: {
    side: "control",
    retryable: "fresh",
    help: "no valid certificate for the pod's identity",
    next: "check the certificate authority: trackbed status",
  },
  E_IDENTITY_REFUSED: {
    side: "control",
    retryable: "yes",
    help: "the certificate authority refused to sign",
    next: "the pod must be live on the calling node with that service account",
  },
  E_IDENTITY_MALFORMED: {
    side: "peer",
    retryable: "no",
    help: "a SPIFFE identity is not spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT",
    next: "the peer's certificate must hold exactly one such URI SAN",
  },
  E_IDENTITY_MISMATCH: {
    side: "peer",
    retryable: "no",
    help: "the peer proved another identity than the one expected",
    next: "an address may have moved to another pod; if it persists, treat it as an attack",
  },
  E_POLICY_DENIED: {
    side: "control",
    retryable: "no",
    help: "an AuthorizationPolicy denied the connection",
    next: "the flow names policy and rule",
  },
  E_POLICY_NO_ALLOW: {
    side: "control",
    retryable: "no",
    help: "ALLOW policies exist for the destination and none matches",
    next: "add a rule for this source, or see trackbed flows for its identity",
  },
  E_POLICY_STRICT: {
    side: "client",
    retryable: "no",
    help: "plaintext to a workload whose PeerAuthentication is STRICT",
    next: "enrol the client, or set the port to PERMISSIVE",
  },
  E_POLICY_UNKNOWN: {
    side: "control",
    retryable: "fresh",
    help: "the workload names a policy that is not known; refused until it is",
    next: "wait for control, or correct the policy that was rejected",
  },
  E_POLICY_INVALID: {
    side: "control",
    retryable: "no",
    help: "a policy could not be compiled in full and denies what it selects",
    next: "correct the field named in the reason",
  },
  E_DESTINATION_REFUSED: {
    side: "client",
    retryable: "no",
    help: "the destination is not one this pod may be asked for",
    next: "CONNECT must name the pod's own address and an application port",
  },
  E_DESTINATION_OWN_PORT: {
    side: "client",
    retryable: "no",
    help: "the destination is one of the mesh's own ports",
    next: "applications must not use ports 15001, 15006, 15008, 15053",
  },
  E_SERVICE_NO_ENDPOINT: {
    side: "server",
    retryable: "yes",
    help: "the service has no healthy endpoint for this port",
    next: "check the service's selector and its pods",
  },
  E_SERVICE_NO_PORT: {
    side: "client",
    retryable: "no",
    help: "the service does not have this port",
    next: "compare the port with the Service",
  },
  E_ROUTES_UNKNOWN: {
    side: "self",
    retryable: "yes",
    help: "a waypoint is named for a service whose routes it does not know yet; refused until it does",
    next: "nothing if the waypoint or the service is new; otherwise see whether control rejected or lost the routes: trackbed waypoint status",
  },
  E_ACCESS_UNKNOWN: {
    side: "self",
    retryable: "yes",
    help: "a service's routes say that policies guard it, and the waypoint does not know them yet; refused until it does",
    next: "nothing if it is new; otherwise see whether control lost them: trackbed waypoint status",
  },
  E_TOKEN_REFUSED: {
    side: "client",
    retryable: "no",
    help: "a request carries a token that no RequestAuthentication of the service accepts",
    next: "the answer's WWW-Authenticate and the flow say why",
  },
  E_POLICY_EXTERNAL: {
    side: "control",
    retryable: "no",
    help: "an external authorization service denied a request",
    next: "the flow names the policy whose provider was asked",
  },
  E_POLICY_EXTERNAL_FAILED: {
    side: "peer",
    retryable: "yes",
    help: "an external authorization service could not be asked, or did not answer as the protocol says; denied",
    next: "see its pods and its timeout; failOpen of the provider lets such requests pass",
  },
  E_POLICY_NO_WAYPOINT: {
    side: "control",
    retryable: "yes",
    help: "a policy targets what no waypoint enforces it for: nobody is denied or allowed by it",
    next: "name a waypoint for the service (label trackbed.dev/use-waypoint), or correct the policy's targetRefs",
  },
  E_TUNNEL_UNREACHABLE: {
    side: "peer",
    retryable: "yes",
    help: "no TCP connection to the peer's HBONE port",
    next: "check that NetworkPolicies admit port 15008 and that the peer's engine runs",
  },
  E_TUNNEL_HANDSHAKE: {
    side: "peer",
    retryable: "yes",
    help: "the TLS handshake or the HTTP/2 preface failed",
    next: "compare roots and clocks of the two nodes",
  },
  E_TUNNEL_PEER_REFUSED: {
    side: "peer",
    retryable: "fresh",
    help: "the peer answered CONNECT with another status than 200",
    next: "the status says why: 400 request, 401 policy, 503 application",
  },
  E_TUNNEL_LOST: {
    side: "peer",
    retryable: "fresh",
    help: "the tunnel ended under a live connection",
    next: "look at the peer's engine",
  },
  E_UPSTREAM_REFUSED: {
    side: "server",
    retryable: "yes",
    help: "the application refused the connection",
    next: "check that it listens on this port",
  },
  E_UPSTREAM_TIMEOUT: {
    side: "server",
    retryable: "yes",
    help: "the application did not accept in time",
    next: "check the application's accept queue",
  },
  E_HANDOVER_STATE: {
    side: "self",
    retryable: "no",
    help: "the frozen state of a connection was of an unknown version, damaged, or one that no connection can have; the connection was reset",
    next: "nothing for this connection; if it follows an upgrade, take the next version's engine from a release that knows the one before",
  },
  E_ENGINE_LIMIT: {
    side: "self",
    retryable: "yes",
    help: "a bound of the engine was reached",
    next: "the reason names the bound",
  },
  E_DNS_UPSTREAM: {
    side: "server",
    retryable: "yes",
    help: "the DNS server that the pod asked did not answer",
    next: "check the server in the pod's resolv.conf",
  },
  E_SOURCE_INVALID: {
    side: "control",
    retryable: "no",
    help: "a document is not valid and is not in force",
    next: "correct the file, line and field named",
  },
  E_WAYPOINT_ABSENT: {
    side: "control",
    retryable: "yes",
    help: "an object is labelled with a waypoint that is not there or does not admit it; its traffic passes none",
    next: "make the Gateway that the label names, of class trackbed-waypoint, or correct the label",
  },
  E_SOURCE_UNSUPPORTED: {
    side: "control",
    retryable: "no",
    help: "a document uses a field this version cannot enforce",
    next: "remove the field or use a version that supports it",
  },
  E_CONTROL_AWAY: {
    side: "control",
    retryable: "yes",
    help: "control cannot be reached; the last known state stays in force",
    next: "check control and the network to it",
  },
  E_CONTROL_UNAUTHENTICATED: {
    side: "self",
    retryable: "no",
    help: "control does not accept this node's token",
    next: "compare the node's token file with control's",
  },
  E_IDENTITY_RATE_LIMITED: {
    side: "client",
    retryable: "yes",
    help: "this node asked for more certificates in a minute than control signs for one node",
    next: "nothing: the engine asks again; if it persists, see which of the node's pods ask and why",
  },
  E_AUTHORITY_PENDING: {
    side: "control",
    retryable: "yes",
    help: "the issuer of --issuer has not signed the mesh's intermediate, or refused it; the one in force is used until it ends",
    next: "the reason names the CertificateRequest: kubectl describe shows what its issuer says; cert-manager and the issuer must be there",
  },
  E_AUTHORITY_INVALID: {
    side: "self",
    retryable: "no",
    help: "the stored root or issuer cannot be used and is never replaced silently",
    next: "restore the files in control's state directory, or move all of them away to start a new trust root",
  },
  E_DIRECTORY_UNUSABLE: {
    side: "self",
    retryable: "yes",
    help: "a directory that an option names cannot be read or made",
    next: "create the directory, or correct the option that names it; see its owner and mode",
  },
  E_DAEMON_LISTEN_FAILED: {
    side: "self",
    retryable: "yes",
    help: "the daemon could not bind an address",
    next: "see which process holds the port, and that the address belongs to this node",
  },
  E_CONTROL_LISTEN_FAILED: {
    side: "self",
    retryable: "yes",
    help: "control could not bind an address",
    next: "see which process holds the port, and that the address belongs to this host",
  },
  E_DISCOVERY_PROTOCOL: {
    side: "peer",
    retryable: "fresh",
    help: "the other end of a discovery stream broke its protocol",
    next: "compare the versions of control and daemon",
  },
  E_SNAPSHOT_INVALID: {
    side: "self",
    retryable: "no",
    help: "the snapshot on disk is damaged or from a newer version and was not used",
    next: "it is replaced as soon as control answers",
  },
  E_DAEMON_AWAY: {
    side: "self",
    retryable: "yes",
    help: "no daemon answers on its admin socket",
    next: "see that a daemon runs on this node, or name its directory with --run",
  },
  E_API_UNREACHABLE: {
    side: "server",
    retryable: "yes",
    help: "the Kubernetes API server did not answer, or not in time",
    next: "nothing if it restarts; otherwise check the API server and the network to it; what was read last stays in force",
  },
  E_API_FORBIDDEN: {
    side: "self",
    retryable: "yes",
    help: "the Kubernetes API server does not let us do this",
    next: "compare the roles bound to our ServiceAccount with the manifests: trackbed install puts them right",
  },
  E_API_REJECTED: {
    side: "self",
    retryable: "no",
    help: "the Kubernetes API server does not accept a request of ours",
    next: "read its message; the versions of Kubernetes and of Trackbed may not fit",
  },
  E_API_CREDENTIALS: {
    side: "self",
    retryable: "no",
    help: "there are no usable credentials for the Kubernetes API",
    next: "run inside a pod with a mounted ServiceAccount token, or name a kubeconfig with --kubeconfig",
  },
  E_WAYPOINT_NOT_MADE: {
    side: "control",
    retryable: "yes",
    help: "a Gateway's waypoint could not be made or kept as it should be",
    next: "the reason names the object that stands against it: rename or remove one of the two; control tries again by itself",
  },
  E_WAYPOINT_PARAMETERS: {
    side: "control",
    retryable: "yes",
    help: "the parameters that a Gateway refers to cannot be used; its waypoint stays as it is, or is not made",
    next: "correct the ConfigMap: its keys are replicas, a number, and resources, YAML as in a container",
  },
  E_QUESTION: {
    side: "client",
    retryable: "no",
    help: "what is asked about flows or edges cannot be understood",
    next: "the message names the place; docs/flows.md has the fields and the operators",
  },
  E_QUESTION_BUSY: {
    side: "server",
    retryable: "yes",
    help: "too many questions about flows or edges are being answered at this moment",
    next: "ask again; see whether somebody follows flows who does not read them",
  },
  E_INSPECTION_REFUSED: {
    side: "client",
    retryable: "no",
    help: "the caller may not read what nodes saw, or not of this namespace",
    next: "see docs/permissions.md: the right is get on flows.trackbed.dev in the namespace",
  },
  E_RECORDING_REFUSED: {
    side: "client",
    retryable: "yes",
    help: "the engine does not record: there are as many recordings as it allows, or it is of a version that cannot",
    next: "end another trackbed pcap of this node; trackbed version shows the engine's version",
  },
  E_USAGE: {
    side: "client",
    retryable: "no",
    help: "the command line is wrong",
    next: "see --help",
  },
} as const;

export type ErrorCode = keyof typeof errors;

export const metrics = {
  istio_tcp_connections_opened_total: { type: "counter", help: "connections opened" },
  istio_tcp_connections_closed_total: { type: "counter", help: "connections closed" },
  istio_tcp_connections_failed_total: { type: "counter", help: "connections denied or failed" },
  istio_tcp_sent_bytes_total: { type: "counter", help: "payload bytes from server to client (istio#32399), for both reporters" },
  istio_tcp_received_bytes_total: { type: "counter", help: "payload bytes from client to server, for both reporters" },
  trackbed_recordings: { type: "gauge", help: "recordings of pods' traffic (trackbed pcap) that are on" },
  trackbed_observed_requests_total: { type: "counter", help: "requests seen passing through connections of observed pods" },
  trackbed_observed_request_duration_milliseconds: {
    type: "histogram",
    help: "time from a request's first byte to the last of its answer, as they passed",
  },
  trackbed_observed_connections_total: {
    type: "counter",
    help: "connections whose requests were observed, by how that ended: whole, or given up and why",
  },
  istio_requests_total: { type: "counter", help: "requests that a waypoint answered" },
  istio_request_duration_milliseconds: { type: "histogram", help: "time from a request's first byte to the last of its answer" },
  trackbed_spans_exported_total: { type: "counter", help: "spans that the collector took" },
  trackbed_spans_dropped_total: { type: "counter", help: "spans dropped because a queue was full or the collector did not take them" },
  trackbed_pods: { type: "gauge", help: "enrolled pods of the node by phase" },
  trackbed_pods_unproven: { type: "gauge", help: "enrolled pods whose capture is not proven" },
  trackbed_drift_total: { type: "counter", help: "rule changes that were not ours, by pod" },
  trackbed_repairs_total: { type: "counter", help: "rule repairs, by result" },
  trackbed_cni_requests_total: { type: "counter", help: "requests of the CNI plugin, by verb and result" },
  trackbed_cni_installed: { type: "gauge", help: "1 while plugin, configuration and decision file are in place" },
  trackbed_bypassed_namespaces: { type: "gauge", help: "namespaces of the node's pods that an operator took out of the mesh for a time" },
  trackbed_policy_dry_run_denied_total: { type: "counter", help: "connections that a dry-run policy would have refused, by policy" },
  trackbed_requests_limited_total: { type: "counter", help: "requests refused by a rate limit or by load shedding, by limit" },
  trackbed_endpoints_ejected_total: { type: "counter", help: "endpoints passed over for a while, by cause" },
  trackbed_rate_limit_keys_shared_total: {
    type: "counter",
    help: "requests whose key found no room in their rate limit and shared a bucket",
  },
  trackbed_concurrency_limit: { type: "gauge", help: "requests that load shedding lets be under way now, by limit" },
  trackbed_flows_dropped_total: { type: "counter", help: "flow records dropped because a queue was full" },
  trackbed_exported_records_total: { type: "counter", help: "flow records that were exported, by sink: otlp, file" },
  trackbed_export_lost_records_total: {
    type: "counter",
    help: "flow records that an export will never have, by sink and reason: missed (overwritten before they were read), refused",
  },
  trackbed_certificates_issued_total: { type: "counter", help: "certificates signed" },
  trackbed_certificates_refused_total: { type: "counter", help: "certificate requests refused, by code" },
  trackbed_certificate_expiry_seconds: { type: "gauge", help: "seconds until a certificate ends, by kind: root, issuer, workload" },
  trackbed_documents: { type: "gauge", help: "documents read, by kind and result" },
  trackbed_api_age_seconds: {
    type: "gauge",
    help: "seconds since the API server last said something about a resource; a quiet one says it about once a minute",
  },
  trackbed_api_restarts_total: { type: "counter", help: "lists and watches that had to begin again, by resource and cause" },
  trackbed_status_writes_total: { type: "counter", help: "conditions and Events written, by kind and result" },
  trackbed_status_pending: { type: "gauge", help: "objects whose condition is still to be written" },
  trackbed_leader: { type: "gauge", help: "1 while this replica writes the status of policies" },
  trackbed_compile_seconds: { type: "histogram", help: "time from a change to its xDS resources" },
  trackbed_xds_streams: { type: "gauge", help: "connected daemons" },
  trackbed_waypoint_streams: { type: "gauge", help: "engines of waypoints that are attached to control" },
  trackbed_xds_pushes_total: { type: "counter", help: "xDS responses sent, by type" },
  trackbed_xds_nacks_total: { type: "counter", help: "xDS responses that a daemon refused, by type" },
  trackbed_state_generation: { type: "gauge", help: "generation the engine acknowledged" },
  trackbed_engine_restarts_total: { type: "counter", help: "worker processes that the keeper had to replace" },
  trackbed_log_dropped_total: { type: "counter", help: "log lines dropped because their reader was slow" },
  trackbed_series_dropped_total: { type: "counter", help: "connections without metrics because the number of series is bounded" },
  trackbed_accept_pauses_total: { type: "counter", help: "times accepting paused for lack of descriptors" },
  trackbed_connections_shed_total: {
    type: "counter",
    help: "connections refused because descriptors are few and their pod holds more than others",
  },
  trackbed_tunnels_refused_total: { type: "counter", help: "tunnels refused because their peer or all peers of a pod hold too many" },
  trackbed_tunnels: { type: "gauge", help: "open HBONE connections, by role" },
  trackbed_connections: { type: "gauge", help: "captured connections that are open" },
  trackbed_dns_requests_total: { type: "counter", help: "captured DNS queries, by outcome" },
} as const;
