//! Claims about the hand-over of namespaces, the sender program included.
mod net;

use std::{
    fs::{self, File},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::PermissionsExt,
    },
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Duration,
};

use prost::Message;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use rustix::{process::Uid, thread::set_thread_uid};
use tokio::time::timeout;
use trackbed_contract::engine::{NetnsHandover, NetnsReceipt};
use trackbed_netns::{Handover, HandoverError, HandoverListener, PacketSocket, handover};

/// `nobody`.
const STRANGER: u32 = 65534;
const SENDER: &str = env!("CARGO_BIN_EXE_trackbed-netns");

/// A directory of mode 0700 that is removed at the end.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("trackbed-handover-{}-{:x}", std::process::id(), fastrand::u64(..)));
        fs::create_dir(&path).expect("directory");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).expect("mode");
        Self(path)
    }
    fn socket(&self) -> PathBuf {
        self.0.join("netns.sock")
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

async fn next(listener: &HandoverListener) -> Result<Handover, HandoverError> {
    timeout(net::PATIENCE, listener.next()).await.expect("decided in time")
}

/// A sender that does what it likes; gives the receipt.
async fn raw(path: &Path, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Option<NetnsReceipt> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).expect("socket");
    connect(&socket, &SocketAddrUnix::new(path).expect("path")).expect("connect");
    let socket = PacketSocket::new(socket).expect("socket");
    socket.send(bytes, fds).await.expect("send");
    let packet = timeout(net::PATIENCE, socket.recv(1024, 0)).await.expect("answered").expect("receipt")?;
    Some(NetnsReceipt::decode(packet.bytes.as_slice()).expect("receipt"))
}

fn packet(uid: &str) -> Vec<u8> {
    NetnsHandover { uid: uid.to_owned() }.encode_to_vec()
}

fn program(arguments: &[&str], third: Option<&impl AsFd>) -> Output {
    // A shell moves its input to descriptor 3, as the daemon's spawn does.
    let mut shell = Command::new("sh");
    shell
        .args(["-c", if third.is_some() { "exec \"$0\" \"$@\" 3<&0 0</dev/null" } else { "exec \"$0\" \"$@\" 3<&-" }, SENDER])
        .args(arguments);
    if let Some(third) = third {
        shell.stdin(Stdio::from(third.as_fd().try_clone_to_owned().expect("dup")));
    }
    shell.output().expect("run")
}

fn json(output: &Output) -> serde_json::Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

#[tokio::test]
async fn a_namespace_arrives_and_its_cookie_goes_back() {
    let Some(netns) = net::namespace() else { return };
    let directory = Directory::new();
    let listener = HandoverListener::bind(&directory.socket()).expect("bind");
    let (path, copy) = (directory.socket(), netns.clone());
    let sender = tokio::task::spawn_blocking(move || handover::send(&path, "pod-1", &copy, net::PATIENCE));
    let arrived = next(&listener).await.expect("accepted");
    assert_eq!((arrived.uid.as_str(), arrived.netns.cookie()), ("pod-1", netns.cookie()));
    let receipt = sender.await.expect("join").expect("receipt");
    assert_eq!((receipt.uid.as_str(), receipt.netns_cookie, receipt.code.as_str()), ("pod-1", netns.cookie(), ""));
}

#[tokio::test]
async fn the_sender_program_hands_over_and_prints_the_receipt() {
    let Some(netns) = net::namespace() else { return };
    let directory = Directory::new();
    let listener = HandoverListener::bind(&directory.socket()).expect("bind");
    let (path, copy) = (directory.socket().display().to_string(), netns.clone());
    let sender = tokio::task::spawn_blocking(move || program(&["send", "--socket", &path, "--uid", "pod-2"], Some(&copy)));
    let arrived = next(&listener).await.expect("accepted");
    assert_eq!(arrived.uid, "pod-2");
    let output = sender.await.expect("join");
    assert!(output.status.success());
    let cookie = netns.cookie().to_string();
    assert_eq!(json(&output), serde_json::json!({ "uid": "pod-2", "netns_cookie": cookie, "code": "", "reason": "" }));
}

/// The directory of the engine that `an_engine_in_a_process_id_namespace_of_its_own` starts.
const ENGINE_DIRECTORY: &str = "TRACKBED_TEST_ENGINE_DIRECTORY";

/// On a node daemon and engine are two pods: the engine cannot see the daemon's process id, only its user.
#[test]
fn a_namespace_arrives_from_a_process_that_the_engine_cannot_see() {
    let Some(netns) = net::namespace() else { return };
    let directory = Directory::new();
    let mut engine = Command::new("unshare")
        .args(["--pid", "--fork", "--kill-child=SIGKILL"])
        .arg(std::env::current_exe().expect("this test"))
        .args(["--exact", "--ignored", "an_engine_in_a_process_id_namespace_of_its_own"])
        .env(ENGINE_DIRECTORY, &directory.0)
        .stdout(Stdio::null())
        .spawn()
        .expect("engine");
    let ended = std::time::Instant::now() + net::PATIENCE;
    while !directory.socket().exists() {
        assert!(std::time::Instant::now() < ended && engine.try_wait().expect("engine").is_none(), "the engine does not listen");
        std::thread::yield_now();
    }
    let path = directory.socket().display().to_string();
    let output = program(&["send", "--socket", &path, "--uid", "pod-9"], Some(&netns));
    assert_eq!(json(&output)["code"], "", "{output:?}");
    assert!(engine.wait().expect("engine").success());
}

#[tokio::test]
#[ignore = "started by the test above"]
async fn an_engine_in_a_process_id_namespace_of_its_own() {
    let directory = PathBuf::from(std::env::var_os(ENGINE_DIRECTORY).expect("started by the test above"));
    let listener = HandoverListener::bind(&directory.join("netns.sock")).expect("bind");
    assert_eq!(next(&listener).await.expect("accepted").uid, "pod-9");
}

#[tokio::test]
async fn anything_but_one_network_namespace_is_refused() {
    let Some(netns) = net::namespace() else { return };
    let directory = Directory::new();
    let listener = HandoverListener::bind(&directory.socket()).expect("bind");
    let file: OwnedFd = File::open("/proc/self/status").expect("open").into();
    let mount: OwnedFd = File::open("/proc/self/ns/mnt").expect("open").into();
    let own: OwnedFd = File::open("/proc/thread-self/ns/net").expect("open").into();
    let (good, long) = (packet("pod-3"), packet(&"x".repeat(2000)));
    let cases: [(&str, &[u8], Vec<BorrowedFd<'_>>); 9] = [
        ("no descriptor", &good, vec![]),
        ("two namespaces", &good, vec![netns.as_fd(), netns.as_fd()]),
        ("many", &good, vec![netns.as_fd(); 60]),
        ("a file", &good, vec![file.as_fd()]),
        ("a mount namespace", &good, vec![mount.as_fd()]),
        ("the engine's own namespace", &good, vec![own.as_fd()]),
        ("an oversized packet", &long, vec![netns.as_fd()]),
        ("no message", &[0xff; 20], vec![netns.as_fd()]),
        ("no uid", &[0x12, 0x00], vec![netns.as_fd()]),
    ];
    for (what, bytes, fds) in cases {
        let path = directory.socket();
        let (result, receipt) = tokio::join!(next(&listener), raw(&path, bytes, &fds));
        assert!(matches!(result, Err(HandoverError::Refused { sender: 0, .. })), "{what}: {result:?}");
        let receipt = receipt.expect("a refusal is told");
        assert_eq!((receipt.code.as_str(), receipt.netns_cookie), ("E_HANDOVER_REFUSED", 0), "{what}");
        assert!(!receipt.reason.is_empty());
    }
    // And the listener still serves.
    let path = directory.socket();
    let bytes = packet("pod-4");
    let fds = [netns.as_fd()];
    let (result, receipt) = tokio::join!(next(&listener), raw(&path, &bytes, &fds));
    assert_eq!(result.expect("accepted").uid, "pod-4");
    assert_eq!(receipt.expect("receipt").netns_cookie, netns.cookie());
}

#[tokio::test]
async fn a_silent_sender_holds_up_others_no_longer_than_a_second() {
    let directory = Directory::new();
    let listener = HandoverListener::bind(&directory.socket()).expect("bind");
    let silent = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).expect("socket");
    connect(&silent, &SocketAddrUnix::new(directory.socket()).expect("path")).expect("connect");
    let decided = timeout(Duration::from_secs(5), listener.next()).await.expect("decided");
    assert!(matches!(decided, Err(HandoverError::Refused { .. })));
}

#[tokio::test]
async fn an_open_directory_a_live_listener_and_a_plain_file_are_refused_and_a_dead_socket_is_replaced() {
    let directory = Directory::new();
    let first = HandoverListener::bind(&directory.socket()).expect("bind");
    assert_eq!(fs::metadata(directory.socket()).expect("socket").permissions().mode() & 0o777, 0o600);
    assert!(matches!(HandoverListener::bind(&directory.socket()), Err(HandoverError::InUse { .. })));
    drop(first);
    drop(HandoverListener::bind(&directory.socket()).expect("the dead one is replaced"));
    fs::remove_file(directory.socket()).expect("remove");
    fs::write(directory.socket(), "mine").expect("write");
    assert!(matches!(HandoverListener::bind(&directory.socket()), Err(HandoverError::InUse { .. })));
    fs::remove_file(directory.socket()).expect("remove");
    fs::set_permissions(&directory.0, fs::Permissions::from_mode(0o755)).expect("mode");
    assert!(matches!(HandoverListener::bind(&directory.socket()), Err(HandoverError::OpenDirectory { mode: 0o755, .. })));
}

/// The user namespace of an ordinary user has one id only.
fn another_user_can_be() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").expect("uid_map");
    let ids = map.split_whitespace().nth(2).and_then(|count| count.parse::<u32>().ok()).expect("a count");
    rustix::process::geteuid().is_root() && ids > STRANGER
}

#[tokio::test]
async fn another_user_is_refused() {
    if !another_user_can_be() {
        return net::skipped("becoming another user needs root outside of a user namespace");
    }
    let directory = Directory::new();
    let listener = HandoverListener::bind(&directory.socket()).expect("bind");
    // Let the stranger reach the socket, so that only SO_PEERCRED stands in its way.
    fs::set_permissions(&directory.0, fs::Permissions::from_mode(0o711)).expect("mode");
    fs::set_permissions(directory.socket(), fs::Permissions::from_mode(0o666)).expect("mode");
    let path = directory.socket();
    // Only the calling thread becomes the other user, and it ends with the test.
    let stranger = std::thread::spawn(move || {
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).expect("socket");
        set_thread_uid(Uid::from_raw(STRANGER)).expect("become another user");
        connect(&socket, &SocketAddrUnix::new(path).expect("path")).expect("connect");
        socket
    });
    let refused = next(&listener).await;
    assert!(matches!(refused, Err(HandoverError::Refused { sender: STRANGER, .. })), "{refused:?}");
    drop(stranger.join().expect("join"));
}

#[test]
fn the_program_tells_cookie_and_addresses_and_why_not() {
    let Some(pair) = net::pod() else { return };
    let cookie = pair.pod.cookie().to_string();
    let told = program(&["cookie"], Some(&pair.pod));
    assert!(told.status.success());
    assert_eq!(json(&told), serde_json::json!({ "netns_cookie": cookie }));
    let told = json(&program(&["addresses"], Some(&pair.pod)));
    let listed: Vec<_> = told["addresses"].as_array().expect("list").iter().filter_map(|entry| entry["address"].as_str()).collect();
    assert!(listed.contains(&net::POD_V4) && listed.contains(&net::POD_V6), "{listed:?}");

    let file = File::open("/dev/null").expect("open");
    let refused = program(&["cookie"], Some(&file));
    assert_eq!(refused.status.code(), Some(1));
    assert_eq!(json(&refused)["code"], "E_HANDOVER_REFUSED");
    let closed = program(&["cookie"], None::<&File>);
    assert_eq!(closed.status.code(), Some(1));
    let away = program(&["send", "--socket", "/nonexistent/netns.sock", "--uid", "pod-5"], Some(&pair.pod));
    assert_eq!(away.status.code(), Some(1));
    assert!(json(&away)["reason"].as_str().expect("reason").contains("/nonexistent/netns.sock"));
}

#[test]
fn wrong_usage_exits_64_and_help_exits_0() {
    for wrong in
        [&[][..], &["send"], &["send", "--uid", "x"], &["cookie", "--uid", "x"], &["sing"], &["cookie", "--loud"], &["cookie", "more"]]
    {
        let output = program(wrong, None::<&File>);
        assert_eq!(output.status.code(), Some(64), "{wrong:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{wrong:?}");
    }
    let help = program(&["--help"], None::<&File>);
    assert!(help.status.success() && help.stdout.starts_with(b"trackbed-netns"));
}
