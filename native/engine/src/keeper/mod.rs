//! The engine's first process: outlives every worker and keeps listeners, state and identities for the next one.
//!
//! It parses nothing that came from outside, so there is little in it that could fail. Connections that arrive while no worker lives wait in
//! the accept queues of the listeners held here, instead of being refused.
mod held;
pub(crate) mod packet;

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, RecvFlags, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with, socketpair};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use trackbed_contract::tables::paths;

use crate::cli::{Descent, Options, worker_arguments};
use crate::sys;
use held::Held;

/// Key of the listener on which network namespaces arrive.
pub(crate) const NETNS_LISTENER: &str = "netns-listener";
/// Hand-overs that may wait while a worker is replaced: one per pod of a full node (110) and as many again.
const NETNS_BACKLOG: i32 = 256;
/// A stopping worker ends by itself after `worker::STOP_GRACE`; this much later it is killed.
const STOP_LIMIT: Duration = Duration::from_secs(7);
/// Deaths within `DEATH_WINDOW` after which replacements are delayed: a worker that dies from what it was given must not burn a CPU.
const DEATHS_AT_ONCE: usize = 5;
const DEATH_WINDOW: Duration = Duration::from_secs(10);
const FIRST_DELAY: Duration = Duration::from_millis(50);
const LONGEST_DELAY: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(crate) struct Keeper {
    options: Options,
    signals: OwnedFd,
    held: Held,
    restarts: u64,
}

/// Binds what belongs to the keeper itself.
pub(crate) fn build(options: Options) -> io::Result<Keeper> {
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
    raise_descriptor_limit()?;
    let signals = sys::signal_descriptor()?;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&options.run).map_err(|error| named(&error, &options.run))?;
    let mut held = Held::default();
    held.keep(NETNS_LISTENER, netns_listener(&options.run.join(paths::NETNS_SOCKET))?);
    Ok(Keeper { options, signals, held, restarts: 0 })
}

impl Keeper {
    /// Runs one worker after another until SIGTERM or SIGINT.
    pub(crate) fn run(mut self) -> io::Result<()> {
        let mut deaths = Deaths::default();
        loop {
            let mut worker = Worker::spawn(&self.options, self.restarts)?;
            if let Err(error) = self.held.give(&worker.socket) {
                // The worker died while it was being told; the loop below sees that and replaces it.
                eprintln!("trackbed-engine: keeper: cannot hand over to worker {}: {error}", worker.child.id());
                let _ = worker.child.kill();
            }
            if self.attend(&mut worker)? == Ending::Stopped {
                return Ok(());
            }
            self.restarts += 1;
            let delay = deaths.record(Instant::now());
            eprintln!("trackbed-engine: keeper: replacing the worker in {delay:?} (replacement {})", self.restarts);
            if self.wait_for_stop(delay)? {
                return Ok(());
            }
        }
    }

    /// Takes in what the worker sends until it ends. A stop signal is passed on and gives the worker `STOP_LIMIT`.
    fn attend(&mut self, worker: &mut Worker) -> io::Result<Ending> {
        let mut deadline: Option<Instant> = None;
        loop {
            let timeout = deadline.map(|at| timespec(at.saturating_duration_since(Instant::now())));
            let mut ready = [PollFd::new(&worker.socket, PollFlags::IN), PollFd::new(&self.signals, PollFlags::IN)];
            rustix::io::retry_on_intr(|| poll(&mut ready, timeout.as_ref()))?;
            self.take_in_all(worker);
            while let Some(signal) = sys::next_signal(&self.signals)? {
                if signal != libc::SIGCHLD && deadline.is_none() {
                    deadline = Some(Instant::now() + STOP_LIMIT);
                    // Copies held here would keep connections waiting in queues that nobody will serve.
                    self.held.clear();
                    if packet::stop(&worker.socket).is_err() {
                        let _ = worker.child.kill();
                    }
                }
            }
            if deadline.is_some_and(|at| at <= Instant::now()) {
                eprintln!("trackbed-engine: keeper: worker {} did not end within {STOP_LIMIT:?}: killed", worker.child.id());
                worker.child.kill()?;
                deadline = Some(Instant::now() + STOP_LIMIT);
            }
            if let Some(status) = worker.child.try_wait()? {
                // What it sent before it died still counts.
                self.take_in_all(worker);
                if deadline.is_some() {
                    return Ok(Ending::Stopped);
                }
                eprintln!("trackbed-engine: keeper: worker {} ended: {status}", worker.child.id());
                return Ok(Ending::Died);
            }
        }
    }

    fn take_in_all(&mut self, worker: &mut Worker) {
        while worker.talks {
            match packet::receive(&worker.socket, RecvFlags::DONTWAIT) {
                Ok(Some(packet)) => self.held.take_in(packet),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // A worker that closed its end or talks nonsense is at its end: make sure of it, so that it is replaced.
                end => {
                    if let Err(error) = end {
                        eprintln!("trackbed-engine: keeper: worker {}: {error}", worker.child.id());
                    }
                    worker.talks = false;
                    let _ = worker.child.kill();
                    let _ = worker.child.wait();
                }
            }
        }
    }

    /// Sleeps, and says whether a stop signal came meanwhile.
    fn wait_for_stop(&self, delay: Duration) -> io::Result<bool> {
        let until = Instant::now() + delay;
        loop {
            while let Some(signal) = sys::next_signal(&self.signals)? {
                if signal != libc::SIGCHLD {
                    return Ok(true);
                }
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            let mut ready = [PollFd::new(&self.signals, PollFlags::IN)];
            rustix::io::retry_on_intr(|| poll(&mut ready, Some(&timespec(left))))?;
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Ending {
    Died,
    Stopped,
}

#[derive(Debug)]
struct Worker {
    child: Child,
    socket: OwnedFd,
    /// False once the socket has ended: there is nothing to read any more.
    talks: bool,
}

impl Worker {
    /// Starts a worker of this very binary. The socket travels as its standard input: no descriptor is inherited by number.
    fn spawn(options: &Options, restarts: u64) -> io::Result<Self> {
        let (socket, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        let keeper = rustix::process::getpid().as_raw_nonzero().get();
        // /proc/self/exe: the same program even when its file was replaced by an upgrade. The name is for people who read `ps`.
        let child = Command::new("/proc/self/exe")
            .arg0("trackbed-engine")
            .args(worker_arguments(options, Descent { keeper, restarts }))
            .stdin(Stdio::from(theirs))
            .spawn()?;
        Ok(Self { child, socket, talks: true })
    }
}

#[derive(Debug, Default)]
struct Deaths {
    recent: VecDeque<Instant>,
    delay: Duration,
}

impl Deaths {
    /// Notes a death and says how long to wait before the next worker: not at all, unless workers die in rows.
    fn record(&mut self, now: Instant) -> Duration {
        self.recent.push_back(now);
        self.recent.retain(|&at| now.duration_since(at) < DEATH_WINDOW);
        self.delay = if self.recent.len() < DEATHS_AT_ONCE {
            Duration::ZERO
        } else if self.delay.is_zero() {
            FIRST_DELAY
        } else {
            (self.delay * 2).min(LONGEST_DELAY)
        };
        self.delay
    }
}

/// The hard limit is what the administrator allows; the soft one is only a default for programs that use select(2).
fn raise_descriptor_limit() -> io::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    Ok(setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?)
}

/// Only root and this user may connect, whatever the umask; who connects is checked again with every packet.
fn netns_listener(path: &Path) -> io::Result<OwnedFd> {
    let address = SocketAddrUnix::new(path)?;
    let new = || socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None);
    if connect(new()?, &address).is_ok() {
        return Err(named(&io::Error::new(io::ErrorKind::AddrInUse, "another engine listens there"), path));
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(named(&error, path)),
        _ => {}
    }
    let socket = new()?;
    bind(&socket, &address).map_err(|error| named(&error.into(), path))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    listen(&socket, NETNS_BACKLOG)?;
    Ok(socket)
}

fn named(error: &io::Error, path: &Path) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

fn timespec(duration: Duration) -> Timespec {
    Timespec::try_from(duration).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_engine_does_not_take_a_living_ones_socket_but_a_dead_ones() {
        let path = std::env::temp_dir().join(format!("trackbed-keeper-{}.sock", std::process::id()));
        let living = netns_listener(&path).expect("bind");
        assert_eq!(netns_listener(&path).expect_err("in use").kind(), io::ErrorKind::AddrInUse);
        drop(living);
        netns_listener(&path).expect("what a dead engine left is replaced");
        std::fs::remove_file(&path).expect("clean up");
    }

    #[test]
    fn a_single_death_is_answered_at_once_and_a_row_of_deaths_ever_slower() {
        let start = Instant::now();
        let mut deaths = Deaths::default();
        let delays: Vec<_> = (0..12).map(|i| deaths.record(start + Duration::from_millis(i)).as_millis()).collect();
        assert_eq!(delays, [0, 0, 0, 0, 50, 100, 200, 400, 800, 1600, 2000, 2000]);
        assert_eq!(deaths.record(start + Duration::from_mins(1)), Duration::ZERO);
    }
}
