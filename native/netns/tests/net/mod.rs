//! A pod and its outside as two real network namespaces with a veth between them, and the rules of an enrolled pod.
#![allow(dead_code, reason = "each test binary uses its own part")]
#![allow(clippy::unwrap_used, clippy::missing_panics_doc, unreachable_pub, reason = "a test that cannot set up shall stop")]

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    os::fd::{AsFd, AsRawFd},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use trackbed_netns::Netns;

/// Everything here answers within milliseconds; a busy machine gets this long.
pub const PATIENCE: Duration = Duration::from_secs(10);

pub const POD_V4: &str = "10.77.1.2";
pub const POD_V6: &str = "fd77:1::2";
pub const OUTSIDE_V4: &str = "10.77.1.1";
pub const OUTSIDE_V6: &str = "fd77:1::1";

pub const RULES: &str = include_str!("rules.nft");

/// None, with the reason told, where network namespaces cannot be made.
pub fn namespace() -> Option<Netns> {
    match Netns::create() {
        Ok(netns) => {
            run(&netns, "ip link set lo up");
            Some(netns)
        }
        Err(error) => {
            skipped(&error.to_string());
            None
        }
    }
}

/// Says that this test does not run. libtest has no word for it and hides what passing tests print, so this goes past it, in the one form
/// that `make test` counts.
pub fn skipped(reason: &str) {
    let test = std::thread::current().name().unwrap_or_default().to_owned();
    std::io::stderr().write_all(format!("skipped: {test}: {reason}\n").as_bytes()).unwrap();
}

pub struct Pair {
    pub pod: Netns,
    pub outside: Netns,
}

/// A pod with addresses of both families, reachable from outside.
pub fn pod() -> Option<Pair> {
    let (pod, outside) = (namespace()?, namespace()?);
    run(&pod, &format!("ip link add eth0 type veth peer name veth0 netns {}", path(&outside)));
    for (netns, device, v4, v6) in [(&pod, "eth0", POD_V4, POD_V6), (&outside, "veth0", OUTSIDE_V4, OUTSIDE_V6)] {
        run(netns, &format!("ip addr add {v4}/24 dev {device}"));
        run(netns, &format!("ip addr add {v6}/64 dev {device} nodad"));
        run(netns, &format!("ip link set {device} up"));
    }
    for (family, via) in [("-4", OUTSIDE_V4), ("-6", OUTSIDE_V6)] {
        run(&pod, &format!("ip {family} route add default via {via}"));
    }
    Some(Pair { pod, outside })
}

/// A pod with the rules of an enrolled one.
pub fn captured_pod() -> Option<Pair> {
    let pair = pod()?;
    for (family, any) in [("-4", "0.0.0.0/0"), ("-6", "::/0")] {
        run(&pair.pod, &format!("ip {family} rule add fwmark 0x111/0xfff pref 32764 lookup 100"));
        run(&pair.pod, &format!("ip {family} route add local {any} dev lo table 100"));
    }
    nft(&pair.pod, RULES);
    Some(pair)
}

pub fn path(netns: &Netns) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), netns.as_fd().as_raw_fd())
}

pub fn run(netns: &Netns, command: &str) {
    output(netns, command);
}

pub fn output(netns: &Netns, command: &str) -> String {
    let output = Command::new("nsenter").arg(format!("--net={}", path(netns))).args(command.split(' ')).output().expect("nsenter");
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn nft(netns: &Netns, text: &str) {
    let mut nft = Command::new("nsenter")
        .arg(format!("--net={}", path(netns)))
        .args(["nft", "-f", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("nsenter");
    nft.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = nft.wait_with_output().unwrap();
    assert!(output.status.success(), "nft: {}", String::from_utf8_lossy(&output.stderr));
}

pub fn at(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse::<IpAddr>().unwrap(), port)
}

/// Both families' wildcard.
pub fn any(port: u16) -> [SocketAddr; 2] {
    [at("0.0.0.0", port), at("::", port)]
}

/// An application's listener: nothing of ours in it.
pub fn app_listener(netns: &Netns, address: SocketAddr) -> TcpListener {
    let listener = netns.enter(|| TcpListener::bind(address)).unwrap().unwrap();
    listener.set_nonblocking(true).unwrap();
    listener
}

/// An application's connection.
pub fn app_connect(netns: &Netns, address: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = netns.enter(|| TcpStream::connect_timeout(&address, PATIENCE)).unwrap()?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// The next connection of a non-blocking listener.
pub fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match listener.accept() {
            Ok((stream, from)) => {
                stream.set_nonblocking(false).unwrap();
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                return (stream, from);
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                assert!(Instant::now() < deadline, "nobody connected to {:?}", listener.local_addr());
                std::thread::yield_now();
            }
            Err(error) => panic!("accept: {error}"),
        }
    }
}

/// True when nobody is in the accept queue.
pub fn nobody(listener: &TcpListener) -> bool {
    matches!(listener.accept(), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
}

/// Bytes pass both ways.
pub fn exchange(one: &TcpStream, other: &TcpStream) {
    for (mut from, mut to) in [(one, other), (other, one)] {
        from.write_all(b"ping").unwrap();
        let mut got = [0; 4];
        to.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"ping");
    }
}

/// Waits for a non-blocking connect, then makes the socket blocking.
pub fn connected(stream: TcpStream) -> std::io::Result<TcpStream> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let stream = runtime.block_on(async {
        let open = tokio::time::timeout(PATIENCE, trackbed_netns::socket::established(stream)).await.expect("connects in time")?;
        open.into_std()
    })?;
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}
