//! Nodes, pods and applications of a test: real namespaces on one bridge, the real engine, the rules of an enrolled pod.
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use prost::Message;
use trackbed_contract::engine::{AddPod, MeshSettings, Resource, ResourceType};
use trackbed_contract::istio::security::Authorization;
use trackbed_contract::istio::workload::{self, TunnelProtocol};
use trackbed_netns::{Netns, handover};

use crate::PATIENCE;
use crate::director::{Authority, Director};
use crate::net::{self, path, run};

/// The network between the nodes of one test.
pub(crate) struct Fabric {
    pub(crate) netns: Netns,
    pub(crate) authority: Arc<Authority>,
    next: AtomicU32,
}

impl Fabric {
    /// None, with the reason printed, where network namespaces cannot be made.
    pub(crate) fn new() -> Option<Self> {
        let netns = net::namespace()?;
        run(&netns, "ip link add br0 type bridge");
        run(&netns, "ip addr add 10.77.0.1/16 dev br0");
        run(&netns, "ip addr add fd77::1/64 dev br0 nodad");
        run(&netns, "ip link set br0 up");
        Some(Self { netns, authority: Authority::new(), next: AtomicU32::new(2) })
    }

    /// A namespace with an address of each family.
    pub(crate) fn pod(&self, name: &str) -> Pod {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let netns = net::namespace().expect("there was one before");
        run(&self.netns, &format!("ip link add v{number} type veth peer name eth0 netns {}", path(&netns)));
        run(&self.netns, &format!("ip link set v{number} master br0 up"));
        let pod = Pod { name: name.to_owned(), v4: format!("10.77.0.{number}"), v6: format!("fd77::{number}"), netns };
        run(&pod.netns, &format!("ip addr add {}/16 dev eth0", pod.v4));
        run(&pod.netns, &format!("ip addr add {}/64 dev eth0 nodad", pod.v6));
        run(&pod.netns, "ip link set eth0 up");
        run(&pod.netns, "ip -4 route add default via 10.77.0.1");
        run(&pod.netns, "ip -6 route add default via fd77::1");
        pod
    }

    pub(crate) fn node(&self, name: &str) -> Node {
        self.node_with(MeshSettings { node: name.to_owned(), hold_milliseconds: 3000, ..MeshSettings::default() })
    }

    pub(crate) fn node_with(&self, settings: MeshSettings) -> Node {
        self.limited_node(settings, None)
    }

    /// A node whose engine may not have more descriptors than that in one process.
    pub(crate) fn limited_node(&self, settings: MeshSettings, descriptors: Option<u32>) -> Node {
        let settings = MeshSettings { trust_domain: "cluster.local".into(), cluster_domain: "cluster.local".into(), ..settings };
        let run = std::env::temp_dir().join(format!("trackbed-test-{}-{:08x}", std::process::id(), fastrand::u32(..)));
        std::os::unix::fs::DirBuilderExt::mode(&mut std::fs::DirBuilder::new(), 0o700).create(&run).expect("run directory");
        let director = Director::start(&run.join("director.sock"), Arc::clone(&self.authority), settings.clone());
        let metrics = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
        let node = Node { name: settings.node, engine: Engine::start(&run, metrics, descriptors), run, director, metrics };
        node.director.hears("Hello", |message| matches!(message, trackbed_contract::engine::from_engine::Message::Hello(_)).then_some(()));
        node
    }
}

pub(crate) struct Pod {
    pub(crate) name: String,
    pub(crate) v4: String,
    pub(crate) v6: String,
    pub(crate) netns: Netns,
}

impl Pod {
    pub(crate) fn uid(&self) -> String {
        format!("uid-{}", self.name)
    }

    pub(crate) fn identity(&self) -> String {
        format!("spiffe://cluster.local/ns/shop/sa/{}", self.name)
    }

    /// The workload that control would compile.
    pub(crate) fn workload(&self, node: &str, protocol: TunnelProtocol) -> workload::Workload {
        workload::Workload {
            uid: format!("Kubernetes//Pod/shop/{}", self.name),
            name: self.name.clone(),
            namespace: "shop".into(),
            service_account: self.name.clone(),
            node: node.into(),
            addresses: vec![bytes(&self.v4), bytes(&self.v6)],
            tunnel_protocol: protocol.into(),
            workload_name: self.name.clone(),
            canonical_name: self.name.clone(),
            ..workload::Workload::default()
        }
    }

    pub(crate) fn spec(&self) -> AddPod {
        AddPod {
            uid: self.uid(),
            name: self.name.clone(),
            namespace: "shop".into(),
            service_account: self.name.clone(),
            netns_cookie: self.netns.cookie(),
            addresses: vec![bytes(&self.v4), bytes(&self.v6)],
            dns_search: vec!["shop.svc.cluster.local".into(), "svc.cluster.local".into()],
            capture_inbound: true,
            capture_dns: true,
            waypoint: false,
            observe: 0,
        }
    }

    /// The rules of an enrolled pod, as the daemon applies them.
    pub(crate) fn capture(&self) {
        for (family, any) in [("-4", "0.0.0.0/0"), ("-6", "::/0")].into_iter().take(if self.v4 == self.v6 { 1 } else { 2 }) {
            run(&self.netns, &format!("ip {family} rule add fwmark 0x111/0xfff pref 32764 lookup 100"));
            run(&self.netns, &format!("ip {family} route add local {any} dev lo table 100"));
            if family == "-6" {
                run(&self.netns, "ip -6 rule add fwmark 0x539/0xfff oif lo pref 32764 lookup 100");
            }
        }
        self.nft(net::RULES);
    }

    pub(crate) fn nft(&self, text: &str) {
        net::nft(&self.netns, text);
    }

    /// An application that answers every byte with the same byte, and says first whom it sees: one line with the client's address.
    pub(crate) fn serve(&self, port: u16) {
        self.accept(port, |mut stream| {
            let from = stream.peer_addr()?;
            stream.write_all(format!("{}\n", from.ip()).as_bytes())?;
            let mut buffer = [0; 4096];
            loop {
                let count = stream.read(&mut buffer)?;
                if count == 0 {
                    return Ok(());
                }
                stream.write_all(&buffer[..count])?;
            }
        });
    }

    /// An application that only listens; what it heard on each connection, in the order of their ends.
    pub(crate) fn hears(&self, port: u16) -> mpsc::Receiver<Vec<u8>> {
        let (sender, heard) = mpsc::channel();
        self.accept(port, move |mut stream| {
            let mut bytes = Vec::new();
            let end = stream.read_to_end(&mut bytes);
            sender.send(bytes).map_err(std::io::Error::other)?;
            end.map(|_| ())
        });
        heard
    }

    pub(crate) fn accept(&self, port: u16, answer: impl Fn(TcpStream) -> std::io::Result<()> + Clone + Send + 'static) {
        for any in ["0.0.0.0", "::"] {
            let address = SocketAddr::new(any.parse().expect("address"), port);
            let bind = || {
                let domain = socket2::Domain::for_address(address);
                let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None)?;
                socket.set_reuse_address(true)?;
                if address.is_ipv6() {
                    socket.set_only_v6(true)?;
                }
                socket.bind(&address.into())?;
                socket.listen(1024)?;
                std::io::Result::Ok(TcpListener::from(socket))
            };
            let listener = self.netns.enter(bind).expect("enter").expect("listen");
            let answer = answer.clone();
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    let Ok(stream) = stream else { return };
                    let answer = answer.clone();
                    std::thread::spawn(move || answer(stream));
                }
            });
        }
    }

    /// A connection to there is refused by a reset, at once or after it seemed to open.
    pub(crate) fn is_turned_away(&self, ip: &str, port: u16) -> bool {
        match self.connect(ip, port) {
            Ok(mut client) => client.is_reset(),
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }

    /// Nothing waits to be accepted by the engine.
    pub(crate) fn queue_is_empty(&self) -> bool {
        let text = net::output(&self.netns, "ss -Htln sport = :15001");
        assert!(!text.is_empty(), "nobody listens");
        text.lines().all(|line| line.split_whitespace().nth(1) == Some("0"))
    }

    /// From one of its addresses.
    pub(crate) fn connect_from(&self, source: &str, ip: &str, port: u16) -> std::io::Result<Client> {
        let [from, to] = [(source, 0), (ip, port)].map(|(ip, port)| SocketAddr::new(ip.parse().expect("address"), port));
        let connect = || {
            let socket = socket2::Socket::new(socket2::Domain::for_address(from), socket2::Type::STREAM, None)?;
            socket.bind(&from.into())?;
            socket.connect_timeout(&to.into(), PATIENCE)?;
            std::io::Result::Ok(TcpStream::from(socket))
        };
        let stream = self.netns.enter(connect).expect("enter")?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Client(stream))
    }

    pub(crate) fn connect(&self, ip: &str, port: u16) -> std::io::Result<Client> {
        let to = SocketAddr::new(ip.parse::<IpAddr>().expect("address"), port);
        let stream = self.netns.enter(|| TcpStream::connect_timeout(&to, PATIENCE)).expect("enter")?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Client(stream))
    }
}

/// An application's connection to `Pod::serve`.
pub(crate) struct Client(pub(crate) TcpStream);

impl Client {
    /// Whom the server sees.
    pub(crate) fn seen_as(&mut self) -> std::io::Result<String> {
        let mut line = Vec::new();
        loop {
            let mut byte = [0];
            if self.0.read(&mut byte)? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            if byte == *b"\n" {
                return Ok(String::from_utf8(line).expect("text"));
            }
            line.extend(byte);
        }
    }

    pub(crate) fn echo(&mut self, text: &str) -> std::io::Result<()> {
        self.0.write_all(text.as_bytes())?;
        let mut back = vec![0; text.len()];
        self.0.read_exact(&mut back)?;
        assert_eq!(back, text.as_bytes());
        Ok(())
    }

    /// Waits for the end: true for a reset, false for an orderly one.
    pub(crate) fn is_reset(&mut self) -> bool {
        let mut rest = Vec::new();
        match self.0.read_to_end(&mut rest) {
            Ok(_) => false,
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => true,
            Err(error) => panic!("neither end nor reset: {error}"),
        }
    }
}

pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) director: Director,
    pub(crate) engine: Engine,
    run: PathBuf,
    metrics: SocketAddr,
}

impl Node {
    pub(crate) fn hand_over(&self, pod: &Pod) {
        let receipt = handover::send(&self.run.join("netns.sock"), &pod.uid(), &pod.netns, PATIENCE).expect("hand-over");
        assert_eq!((receipt.code.as_str(), receipt.netns_cookie), ("", pod.netns.cookie()));
    }

    /// Hands a pod's namespace over and asks for it; the rules come with `Pod::capture`.
    pub(crate) fn take(&self, pod: &Pod) {
        self.hand_over(pod);
        self.director.add(pod.spec());
    }

    /// Takes pods in whose workloads the state has, and captures them once they are ready.
    pub(crate) fn enrol(&self, pods: &[&Pod]) {
        for pod in pods {
            self.take(pod);
        }
        for pod in pods {
            self.director.ready(&pod.uid());
            pod.capture();
        }
    }

    /// Body of a GET on the engine's metrics address.
    pub(crate) fn get(&self, path: &str) -> String {
        get(&mut TcpStream::connect(self.metrics).expect("metrics"), path).1
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.run.join("engine.log")).unwrap_or_default();
            let tail: Vec<_> = log.lines().rev().take(80).collect();
            eprintln!("engine of {}:\n{}", self.name, tail.into_iter().rev().collect::<Vec<_>>().join("\n"));
        }
        self.engine.kill();
        let _ = std::fs::remove_dir_all(&self.run);
    }
}

pub(crate) struct Engine(pub(crate) Child);

impl Engine {
    fn start(run: &Path, metrics: SocketAddr, descriptors: Option<u32>) -> Self {
        let log = std::fs::File::create(run.join("engine.log")).expect("log");
        let program = env!("CARGO_BIN_EXE_trackbed-engine");
        let mut command = match descriptors {
            None => Command::new(program),
            Some(limit) => {
                let mut command = Command::new("prlimit");
                command.arg(format!("--nofile={limit}:{limit}")).arg(program);
                command
            }
        };
        let child = command
            .arg("--run")
            .arg(run)
            .args(["--metrics", &metrics.to_string(), "--workers", "2", "--log", "debug,h2=info,hyper=info,tower=info"])
            .stderr(log)
            .spawn()
            .expect("engine");
        Self(child)
    }

    pub(crate) fn keeper(&self) -> u32 {
        self.0.id()
    }

    /// The worker's process id, once there is one.
    pub(crate) fn worker(&self) -> u32 {
        let (keeper, deadline) = (self.keeper(), Instant::now() + PATIENCE);
        loop {
            let children = std::fs::read_to_string(format!("/proc/{keeper}/task/{keeper}/children")).unwrap_or_default();
            if let Some(worker) = children.split_whitespace().next() {
                return worker.parse().expect("pid");
            }
            assert!(Instant::now() < deadline, "no worker");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Descriptors of keeper and worker.
    pub(crate) fn descriptors(&self) -> [usize; 2] {
        [self.keeper(), self.worker()].map(|pid| std::fs::read_dir(format!("/proc/{pid}/fd")).expect("fd").count())
    }

    pub(crate) fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Status and body.
pub(crate) fn get(stream: &mut TcpStream, path: &str) -> (u16, String) {
    stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes()).expect("request");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("response");
    let (head, body) = text.split_once("\r\n\r\n").expect("a body");
    (head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status"), body.to_owned())
}

pub(crate) fn signal(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).expect("pid")).expect("pid");
    rustix::process::kill_process(pid, signal).expect("kill");
}

pub(crate) fn of_workload(workload: &workload::Workload) -> Resource {
    address(&workload.uid, workload::address::Type::Workload(workload.clone()))
}

pub(crate) fn of_service(service: &workload::Service) -> Resource {
    address(&format!("{}/{}", service.namespace, service.hostname), workload::address::Type::Service(service.clone()))
}

pub(crate) fn of_policy(policy: &Authorization) -> Resource {
    resource(ResourceType::Authorization, &format!("{}/{}", policy.namespace, policy.name), policy.encode_to_vec())
}

fn address(name: &str, address: workload::address::Type) -> Resource {
    resource(ResourceType::Address, name, workload::Address { r#type: Some(address) }.encode_to_vec())
}

pub(crate) fn resource(kind: ResourceType, name: &str, body: Vec<u8>) -> Resource {
    let version = format!("{:x}", body.iter().fold(0u64, |hash, byte| hash.wrapping_mul(31).wrapping_add(u64::from(*byte))));
    Resource { r#type: kind.into(), name: name.into(), version, body }
}

pub(crate) fn bytes(ip: &str) -> Vec<u8> {
    match ip.parse().expect("address") {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}
