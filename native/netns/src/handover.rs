//! Network namespaces on their way from the daemon to the engine: one packet, one descriptor, one receipt.

use std::{
    fs, io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    time::Duration,
};

use prost::Message;
use rustix::{
    io::Errno,
    net::{
        AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect, listen, socket_with,
        sockopt::{self, Timeout},
    },
    process::geteuid,
};
use tokio::{io::unix::AsyncFd, time::timeout};
use trackbed_contract::{
    engine::{NetnsHandover, NetnsReceipt},
    tables::{bounds, errors},
};

use crate::{
    namespace::Netns,
    packet::{Packet, PacketSocket, recv_with_fds, send_with_fds},
    sys,
};

/// A sender writes at once after it connected; a stuck one may hold up the others no longer than this.
const SENDER_LIMIT: Duration = Duration::from_secs(1);
/// The daemon sends one namespace at a time; a node starts with all its pods at once.
const BACKLOG: i32 = 128;
const PACKET_BYTES: usize = bounds::NETNS_HANDOVER_BYTES as usize;

#[derive(Debug, thiserror::Error)]
pub enum HandoverError {
    #[error("directory {path} has mode {mode:04o} and owner {owner}; it must be 0700 and ours, because it guards the sockets in it")]
    OpenDirectory { path: PathBuf, mode: u32, owner: u32 },
    #[error("{path} is in use: another engine listens there, or it is not a socket")]
    InUse { path: PathBuf },
    #[error("cannot {step} {path}: {source}")]
    Socket { step: &'static str, path: PathBuf, source: io::Error },
    /// The listener itself is broken or out of descriptors: wait before the next try.
    #[error("cannot accept a hand-over: {0}")]
    Accept(#[source] io::Error),
    #[error("a hand-over from uid {sender} was refused: {reason}")]
    Refused { sender: u32, reason: String },
}

impl HandoverError {
    /// Code of proto/tables.json.
    pub fn code(&self) -> &'static str {
        errors::HANDOVER_REFUSED
    }
}

/// A namespace that arrived for a pod.
#[derive(Debug)]
pub struct Handover {
    pub uid: String,
    pub netns: Netns,
}

/// The engine's side of netns.sock.
#[derive(Debug)]
pub struct HandoverListener {
    socket: AsyncFd<OwnedFd>,
    /// Cookie of the namespace that the socket was made in: the engine's own.
    own: u64,
}

impl HandoverListener {
    /// Binds `path`, mode 0600, in a directory of mode 0700, which is made when it is missing. A socket that a dead engine left behind is
    /// replaced. Needs a tokio runtime.
    pub fn bind(path: &Path) -> Result<Self, HandoverError> {
        private_directory(path)?;
        remove_stale(path)?;
        let fail = |step| move |source: io::Error| HandoverError::Socket { step, path: path.to_owned(), source };
        let socket = seqpacket().map_err(fail("make a socket for"))?;
        let address = SocketAddrUnix::new(path).map_err(|error| fail("name")(error.into()))?;
        bind(&socket, &address).map_err(|error| fail("bind")(error.into()))?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(fail("protect"))?;
        listen(&socket, BACKLOG).map_err(|error| fail("listen on")(error.into()))?;
        Self::from_fd(socket).map_err(fail("watch"))
    }

    /// Goes on with a listener that another process bound. Needs a tokio runtime.
    pub fn from_fd(listener: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&listener, true)?;
        let own = sys::netns_cookie(listener.as_fd())?;
        Ok(Self { socket: sys::register(listener)?, own })
    }

    /// The next namespace, already receipted, or why one was refused (everything that came with it is closed, and the sender was told).
    /// Serves one sender at a time, each at most 1 s. Cancelling it mid-way drops that sender, who sees no receipt.
    pub async fn next(&self) -> Result<Handover, HandoverError> {
        let connection = self.accept().await.map_err(HandoverError::Accept)?;
        let sender = sys::peer_uid(connection.as_fd()).map_err(HandoverError::Accept)?;
        let refused = |reason: String| HandoverError::Refused { sender, reason };
        if sender != 0 && sender != geteuid().as_raw() {
            return Err(refused("only root and the engine's own user may hand namespaces over".to_owned()));
        }
        let connection = PacketSocket::new(connection).map_err(|error| refused(error.to_string()))?;
        match timeout(SENDER_LIMIT, receive(&connection, self.own)).await {
            Ok(result) => result.map_err(refused),
            Err(_elapsed) => Err(refused("no hand-over within 1 s after connecting".to_owned())),
        }
    }

    async fn accept(&self) -> io::Result<OwnedFd> {
        loop {
            let mut ready = self.socket.readable().await?;
            if let Ok(accepted) = ready.try_io(|listener| Ok(accept_with(listener.get_ref(), SocketFlags::CLOEXEC)?)) {
                return accepted;
            }
        }
    }
}

impl AsFd for HandoverListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.get_ref().as_fd()
    }
}

/// One hand-over and its receipt. The error is the reason, for the sender and for the log.
async fn receive(connection: &PacketSocket, own: u64) -> Result<Handover, String> {
    let packet = connection.recv(PACKET_BYTES, 1).await;
    let (uid, result) = match packet {
        Ok(Some(packet)) => open(packet, own),
        Ok(None) => return Err("the sender closed without a packet".to_owned()),
        Err(error) => (String::new(), Err(error.to_string())),
    };
    let receipt = match &result {
        Ok(netns) => NetnsReceipt { uid: uid.clone(), netns_cookie: netns.cookie(), code: String::new(), reason: String::new() },
        Err(reason) => {
            NetnsReceipt { uid: uid.clone(), netns_cookie: 0, code: errors::HANDOVER_REFUSED.to_owned(), reason: reason.clone() }
        }
    };
    let told = connection.send(&receipt.encode_to_vec(), &[]).await;
    let netns = result?;
    // Without a receipt the sender tries again, so keeping this one would only keep a namespace alive.
    told.map_err(|error| format!("the sender did not take its receipt: {error}"))?;
    Ok(Handover { uid, netns })
}

/// What a packet says and the namespace that came with it. Descriptors of a refused packet close when it is dropped. The engine's own
/// namespace is nobody's: listeners and watches in it would take the whole node for one pod.
fn open(packet: Packet, own: u64) -> (String, Result<Netns, String>) {
    let Ok(NetnsHandover { uid }) = NetnsHandover::decode(packet.bytes.as_slice()) else {
        return (String::new(), Err("the packet is not a NetnsHandover".to_owned()));
    };
    if uid.is_empty() {
        return (uid, Err("the pod's uid is empty".to_owned()));
    }
    let Ok([fd]) = <[OwnedFd; 1]>::try_from(packet.fds) else {
        return (uid, Err("a hand-over carries exactly one descriptor".to_owned()));
    };
    match Netns::from_fd(fd) {
        Ok(netns) if netns.cookie() == own => {
            (uid, Err("it is the engine's own network namespace, not a pod's: check the pod's netns path".to_owned()))
        }
        netns => (uid, netns.map_err(|error| error.to_string())),
    }
}

/// The daemon's side: sends one namespace and waits for the receipt, blocking for at most `limit` in each direction.
pub fn send(path: &Path, uid: &str, netns: &impl AsFd, limit: Duration) -> Result<NetnsReceipt, HandoverError> {
    let fail = |step| move |source: io::Error| HandoverError::Socket { step, path: path.to_owned(), source };
    let socket = seqpacket().map_err(fail("make a socket for"))?;
    for direction in [Timeout::Send, Timeout::Recv] {
        sockopt::set_socket_timeout(&socket, direction, Some(limit)).map_err(|error| fail("bound the wait for")(error.into()))?;
    }
    let address = SocketAddrUnix::new(path).map_err(|error| fail("name")(error.into()))?;
    connect(&socket, &address).map_err(|error| fail("connect to")(error.into()))?;
    let packet = NetnsHandover { uid: uid.to_owned() }.encode_to_vec();
    send_with_fds(&socket, &packet, &[netns.as_fd()]).map_err(fail("send to"))?;
    let answer = recv_with_fds(&socket, PACKET_BYTES, 0).map_err(fail("read the receipt from"))?;
    let answer = answer.ok_or_else(|| fail("read the receipt from")(io::ErrorKind::UnexpectedEof.into()))?;
    NetnsReceipt::decode(answer.bytes.as_slice()).map_err(|error| fail("read the receipt from")(io::Error::other(error)))
}

fn seqpacket() -> io::Result<OwnedFd> {
    Ok(socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// The directory is what keeps others from even connecting, so a wider one is refused and not silently narrowed: somebody made it so.
fn private_directory(path: &Path) -> Result<(), HandoverError> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let fail = |step| move |source: io::Error| HandoverError::Socket { step, path: directory.to_owned(), source };
    match fs::DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(fail("make directory")(error)),
        _ => {}
    }
    let found = fs::metadata(directory).map_err(fail("look at directory"))?;
    let (mode, owner) = (found.mode() & 0o777, found.uid());
    if mode & 0o077 != 0 || (owner != geteuid().as_raw() && owner != 0) {
        return Err(HandoverError::OpenDirectory { path: directory.to_owned(), mode, owner });
    }
    Ok(())
}

/// Removes a socket that nobody listens on any more; anything else at the path stays and is an error.
fn remove_stale(path: &Path) -> Result<(), HandoverError> {
    let fail = |step| move |source: io::Error| HandoverError::Socket { step, path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(fail("look at")(error)),
        Ok(found) if !found.file_type().is_socket() => return Err(HandoverError::InUse { path: path.to_owned() }),
        Ok(_) => {}
    }
    let address = SocketAddrUnix::new(path).map_err(|error| fail("name")(error.into()))?;
    match connect(&seqpacket().map_err(fail("make a socket for"))?, &address) {
        Err(Errno::CONNREFUSED) => fs::remove_file(path).map_err(fail("remove the stale socket")),
        _ => Err(HandoverError::InUse { path: path.to_owned() }),
    }
}
