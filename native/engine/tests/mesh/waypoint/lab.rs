//! A waypoint of a test: its process, unprivileged and in its pod's namespace, and control's director for it, over TLS.
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};
use std::sync::Arc;
use std::time::{Duration, Instant};

use prost::Message;
use rcgen::{CertificateParams, KeyPair};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use trackbed_contract::engine::{AddPod, MeshSettings, Resource, ResourceType};
use trackbed_contract::istio::workload::{self, TunnelProtocol, gateway_address};
use trackbed_contract::route;

use crate::PATIENCE;
use crate::director::Director;
use crate::lab::{self, Fabric, Pod, bytes, of_service, of_workload, resource, signal};

pub(crate) const TOKEN: &str = "a-token-of-the-test";
const SERVER_NAME: &str = "control.test";
/// Whoever has no rights at all.
const NOBODY: u32 = 65534;

pub(crate) struct Waypoint<'p> {
    pub(crate) pod: &'p Pod,
    pub(crate) director: Director,
    pub(crate) process: Child,
    pub(crate) run: PathBuf,
    /// PEM of control's certificate.
    roots: String,
}

impl<'p> Waypoint<'p> {
    /// Told everything that is in `resources`, and who it is; returns when it is ready.
    pub(crate) fn start(fabric: &Fabric, pod: &'p Pod, resources: &[Resource]) -> Self {
        Self::start_with(fabric, pod, resources, &[])
    }

    /// The same with more options.
    pub(crate) fn start_with(fabric: &Fabric, pod: &'p Pod, resources: &[Resource], options: &[&str]) -> Self {
        let waypoint = Self::begin_with(fabric, pod, TOKEN, None, options);
        waypoint.hello();
        assert_eq!(waypoint.director.state(resources.to_vec()), []);
        waypoint.director.add(spec(pod));
        waypoint.becomes(200);
        waypoint
    }

    /// The process, which shows this token and trusts `roots` or else the right ones, and a director that has nothing to say but InSync.
    pub(crate) fn begin(fabric: &Fabric, pod: &'p Pod, token: &str, roots: Option<&str>) -> Self {
        Self::begin_with(fabric, pod, token, roots, &[])
    }

    fn begin_with(fabric: &Fabric, pod: &'p Pod, token: &str, roots: Option<&str>, options: &[&str]) -> Self {
        let run = std::env::temp_dir().join(format!("trackbed-waypoint-{}-{:08x}", std::process::id(), fastrand::u32(..)));
        std::fs::create_dir(&run).unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new([SERVER_NAME.to_owned()]).unwrap().self_signed(&key).unwrap();
        let listener = fabric.netns.enter(|| TcpListener::bind("10.77.0.1:0")).unwrap().unwrap();
        let control = listener.local_addr().unwrap();
        let settings = MeshSettings {
            trust_domain: "cluster.local".into(),
            cluster_domain: "cluster.local".into(),
            encrypt_same_node: true,
            hold_milliseconds: 3000,
            ..MeshSettings::default()
        };
        let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![CertificateDer::from(certificate.der().to_vec())], PrivatePkcs8KeyDer::from(key.serialize_der()).into())
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let director = Director::start_tls(listener, config, TOKEN, Arc::clone(&fabric.authority), settings);
        let pem = certificate.pem();
        std::fs::write(run.join("roots.pem"), roots.unwrap_or(&pem)).unwrap();
        std::fs::write(run.join("token"), token).unwrap();
        let process = spawn(pod, &run, control, options);
        Self { pod, director, process, run, roots: pem }
    }

    pub(crate) fn hello(&self) {
        self.director.hellos(0);
    }

    pub(crate) fn show(&self, token: &str) {
        std::fs::write(self.run.join("token"), token).unwrap();
    }

    pub(crate) fn trust(&self) {
        std::fs::write(self.run.join("roots.pem"), &self.roots).unwrap();
    }

    /// Status of `/healthz/ready`, 0 while nobody answers.
    pub(crate) fn readiness(&self) -> u16 {
        self.get(15021, "/healthz/ready").map_or(0, |(status, _)| status)
    }

    pub(crate) fn metrics(&self) -> String {
        self.get(15020, "/metrics").unwrap().1
    }

    fn get(&self, port: u16, path: &str) -> Option<(u16, String)> {
        let address = SocketAddr::new(self.pod.v4.parse().unwrap(), port);
        let stream = self.pod.netns.enter(|| TcpStream::connect_timeout(&address, PATIENCE)).unwrap();
        stream.ok().map(|mut stream| lab::get(&mut stream, path))
    }

    pub(crate) fn becomes(&self, status: u16) {
        eventually("readiness", || self.readiness() == status);
    }

    pub(crate) fn terminate(&self) {
        signal(self.process.id(), rustix::process::Signal::TERM);
    }

    pub(crate) fn ends(&mut self) -> ExitStatus {
        let mut status = None;
        eventually("its end", || {
            status = self.process.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }

    /// A line of the process's status.
    pub(crate) fn status(&self, name: &str) -> String {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim_matches(|c| c == ':' || char::is_whitespace(c)).to_owned()
    }
}

impl Drop for Waypoint<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.run.join("engine.log")).unwrap_or_default();
            let tail: Vec<_> = log.lines().rev().take(80).collect();
            eprintln!("waypoint {}:\n{}", self.pod.name, tail.into_iter().rev().collect::<Vec<_>>().join("\n"));
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.run);
    }
}

/// Inside the pod, as nobody.
fn spawn(pod: &Pod, run: &std::path::Path, control: SocketAddr, options: &[&str]) -> Child {
    let log = std::fs::File::create(run.join("engine.log")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_trackbed-engine"));
    command.args(["waypoint", "--control", &control.to_string(), "--server-name", SERVER_NAME, "--workers", "2", "--drain", "10"]);
    command.args(["--log", "debug,h2=info,hyper=info,tower=info"]).arg("--roots").arg(run.join("roots.pem"));
    command.arg("--token").arg(run.join("token")).args(options).stderr(log).uid(NOBODY).gid(NOBODY);
    pod.netns.enter(|| command.spawn()).unwrap().unwrap()
}

pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub(crate) fn spec(pod: &Pod) -> AddPod {
    AddPod { netns_cookie: 0, capture_inbound: false, capture_dns: false, dns_search: Vec::new(), waypoint: true, ..pod.spec() }
}

/// The workload of a waypoint that stands behind the service `gate`.
pub(crate) fn of_waypoint(pod: &Pod) -> Resource {
    of_workload(&gate(pod))
}

pub(crate) fn of_stopping_waypoint(pod: &Pod) -> Resource {
    of_workload(&workload::Workload { status: workload::WorkloadStatus::Unhealthy.into(), ..gate(pod) })
}

fn gate(pod: &Pod) -> workload::Workload {
    let workload = workload::Workload { native_tunnel: true, ..pod.workload("three", TunnelProtocol::Hbone) };
    behind(workload, "gate", 15008)
}

/// The workload serves `service` on its port.
pub(crate) fn behind(mut workload: workload::Workload, service: &str, port: u16) -> workload::Workload {
    let ports = vec![workload::Port { service_port: port.into(), target_port: port.into(), app_protocol: 0 }];
    workload.services.insert(format!("shop/{service}.shop.svc.cluster.local"), workload::PortList { ports });
    workload
}

/// A service at 10.96.0.x, whose requests go through the waypoint `gate`.
pub(crate) fn through_gate(name: &str, address: &str, port: u16) -> Resource {
    let hostname = |name: &str| format!("{name}.shop.svc.cluster.local");
    let gate = workload::NamespacedHostname { namespace: "shop".into(), hostname: hostname("gate") };
    let waypoint = workload::GatewayAddress { destination: Some(gateway_address::Destination::Hostname(gate)), hbone_mtls_port: 15008 };
    of_service(&workload::Service { waypoint: (name != "gate").then_some(waypoint), ..plain_service(name, address, port) })
}

pub(crate) fn plain_service(name: &str, address: &str, port: u16) -> workload::Service {
    workload::Service {
        name: name.into(),
        namespace: "shop".into(),
        hostname: format!("{name}.shop.svc.cluster.local"),
        addresses: vec![workload::NetworkAddress { network: String::new(), address: bytes(address), length: None }],
        ports: vec![workload::Port { service_port: port.into(), target_port: port.into(), app_protocol: 0 }],
        ..workload::Service::default()
    }
}

/// Of one port of a service in namespace shop.
pub(crate) fn routes(service: &str, port: u16, protocol: route::Protocol, producer: Option<route::RuleSet>) -> Resource {
    let name = format!("shop/{service}.shop.svc.cluster.local");
    let ports = vec![route::Port { port: port.into(), protocol: protocol.into(), producer, ..route::Port::default() }];
    resource(ResourceType::Routes, &name, route::Routes { service: name.clone(), ports, guarded: false }.encode_to_vec())
}
