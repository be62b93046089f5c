//! A network namespace as a value: what it is, how to work inside it, which addresses it holds.

use std::{
    cell::RefCell,
    io,
    net::IpAddr,
    os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd},
    process,
    sync::Arc,
    thread,
};

use rustix::{
    fs::{Mode, OFlags, open},
    net::{AddressFamily, SocketFlags, SocketType, socket_with},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};
use trackbed_contract::tables::errors;

use crate::{netlink, sys};

/// Where the calling thread's own namespace can be opened. `self` would be the process's first thread.
const OWN_NAMESPACE: &str = "/proc/thread-self/ns/net";

#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    #[error("the descriptor is not a network namespace; open /proc/PID/ns/net or a mount of it")]
    NotANamespace,
    #[error("cannot {step}: {source}; entering a network namespace needs CAP_SYS_ADMIN in it and in our own user namespace")]
    Enter { step: &'static str, source: io::Error },
    #[error("cannot {step} inside the network namespace: {source}")]
    Inside { step: &'static str, source: io::Error },
}

impl NetnsError {
    /// Code of proto/tables.json.
    pub fn code(&self) -> &'static str {
        match self {
            NetnsError::NotANamespace => errors::HANDOVER_REFUSED,
            NetnsError::Enter { .. } | NetnsError::Inside { .. } => errors::CAPTURE_NETNS_GONE,
        }
    }
}

/// One address of one interface of a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InterfaceAddress {
    pub address: IpAddr,
    pub prefix: u8,
    /// Interface index inside the namespace.
    pub interface: u32,
    /// False while duplicate address detection runs or after it failed: the kernel does not accept traffic for it yet.
    pub usable: bool,
}

/// An open network namespace. It stays alive while this value does, so drop it when its pod is gone.
#[derive(Debug, Clone)]
pub struct Netns {
    fd: Arc<OwnedFd>,
    cookie: u64,
    /// There is nothing to enter.
    own: bool,
}

impl Netns {
    /// Takes a namespace descriptor, checks that it is one, and reads its cookie.
    pub fn from_fd(fd: OwnedFd) -> Result<Self, NetnsError> {
        require_network_namespace(fd.as_fd())?;
        Self { fd: Arc::new(fd), cookie: 0, own: false }.with_cookie()
    }

    /// The namespace that this process lives in, for one that never enters another: nothing here then needs a privilege.
    pub fn own() -> Result<Self, NetnsError> {
        Self { fd: Arc::new(open_own()?), cookie: 0, own: true }.with_cookie()
    }

    fn with_cookie(mut self) -> Result<Self, NetnsError> {
        let probe = self.enter(|| socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None))?;
        let probe = probe.map_err(|error| NetnsError::Inside { step: "make a socket", source: error.into() })?;
        self.cookie = sys::netns_cookie(probe.as_fd()).map_err(|source| NetnsError::Inside { step: "read SO_NETNS_COOKIE", source })?;
        Ok(self)
    }

    /// Sockets made here are those of an ordinary process: nothing is captured, so nothing needs a mark.
    pub fn is_own(&self) -> bool {
        self.own
    }

    /// The namespace behind a descriptor that this process was started with.
    pub fn inherited(number: RawFd) -> Result<Self, NetnsError> {
        let fd = sys::inherited(number).map_err(|source| NetnsError::Enter { step: "use the inherited descriptor", source })?;
        Self::from_fd(fd)
    }

    /// The namespace of the calling thread.
    pub fn current() -> Result<Self, NetnsError> {
        Self::from_fd(open_own()?)
    }

    /// A new, empty namespace (loopback down) that nothing else is in: for tests, benches and the lab.
    pub fn create() -> Result<Self, NetnsError> {
        // The calling thread must not move, so a thread of its own does, and leaves the descriptor behind.
        let made = thread::spawn(|| {
            sys::unshare_network().map_err(|source| NetnsError::Enter { step: "make a network namespace", source })?;
            open_own()
        });
        let gone = |_| NetnsError::Enter { step: "make a network namespace", source: io::Error::other("its thread panicked") };
        Self::from_fd(made.join().map_err(gone)??)
    }

    /// SO_NETNS_COOKIE: unlike the inode number it is never used again while the kernel runs.
    pub fn cookie(&self) -> u64 {
        self.cookie
    }

    /// Runs `work` with the calling thread inside the namespace. The closure cannot await, so no other task of this thread sees the move;
    /// the thread is back when this returns or unwinds. It cannot stay: a thread that cannot return ends the process, because
    /// everything it made afterwards would belong to the wrong pod.
    pub fn enter<T>(&self, work: impl FnOnce() -> T) -> Result<T, NetnsError> {
        if self.own {
            return Ok(work());
        }
        let back = Back(move_to(Arc::clone(&self.fd))?);
        set_namespace(self.fd.as_fd()).map_err(|error| NetnsError::Enter { step: "enter the network namespace", source: error.into() })?;
        let result = work();
        drop(back);
        Ok(result)
    }

    /// Every address of the namespace, as the kernel has it now.
    pub fn addresses(&self) -> Result<Vec<InterfaceAddress>, NetnsError> {
        let inside = |source| NetnsError::Inside { step: "list addresses", source };
        let socket = self.enter(netlink::route_socket)?.map_err(inside)?;
        netlink::addresses(&socket).map_err(inside)
    }

    /// True when the namespace holds exactly this address and accepts traffic for it.
    pub fn holds(&self, address: IpAddr) -> Result<bool, NetnsError> {
        Ok(self.addresses()?.iter().any(|held| held.address == address && held.usable))
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

thread_local! {
    /// Where this thread is. Its own namespace is opened once: opening a file of /proc costs more than everything else about making a
    /// socket in a pod. Threads change their namespace by `enter` only.
    static HERE: RefCell<Option<Arc<OwnedFd>>> = const { RefCell::new(None) };
}

/// Says that the thread is there now, and gives where it was.
fn move_to(there: Arc<OwnedFd>) -> Result<Arc<OwnedFd>, NetnsError> {
    match HERE.take() {
        Some(here) => {
            HERE.set(Some(there));
            Ok(here)
        }
        None => open_own().map(|own| {
            HERE.set(Some(there));
            Arc::new(own)
        }),
    }
}

/// The namespace to go back to; going back is its drop, so that a panic inside goes back too.
struct Back(Arc<OwnedFd>);

impl Drop for Back {
    fn drop(&mut self) {
        HERE.set(Some(Arc::clone(&self.0)));
        if let Err(error) = set_namespace(self.0.as_fd()) {
            eprintln!("trackbed: cannot return from a pod's network namespace: {error}; this process ends, or it would mix pods up");
            process::abort();
        }
    }
}

fn set_namespace(fd: BorrowedFd<'_>) -> rustix::io::Result<()> {
    move_into_link_name_space(fd, Some(LinkNameSpaceType::Network))
}

fn open_own() -> Result<OwnedFd, NetnsError> {
    open(OWN_NAMESPACE, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| NetnsError::Enter { step: "open /proc/thread-self/ns/net", source: error.into() })
}

/// A sender may pass any descriptor; only a network namespace may reach setns.
fn require_network_namespace(fd: BorrowedFd<'_>) -> Result<(), NetnsError> {
    let filesystem = rustix::fs::fstatfs(fd).map_err(|_| NetnsError::NotANamespace)?;
    if filesystem.f_type != libc::NSFS_MAGIC {
        return Err(NetnsError::NotANamespace);
    }
    match sys::namespace_type(fd) {
        Ok(libc::CLONE_NEWNET) => Ok(()),
        _ => Err(NetnsError::NotANamespace),
    }
}
