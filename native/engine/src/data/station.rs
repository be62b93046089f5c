//! A pod on its data thread: its listeners, and what accepting from each of them starts.
use std::cell::RefCell;
use std::net::{SocketAddr, TcpListener as StdListener, UdpSocket};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;
use trackbed_contract::tables::errors;
use trackbed_hbone::Shutdown;

use super::door::{self, Door};
use super::names::{self, PodResolver};
use super::{Thread, waypoint};
use crate::worker::shared::{Pod, Shared};

/// Out of descriptors or memory: others give some back within this time, and a loop would only burn the CPU they need for it.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The listeners of a pod, bound inside its namespace; each list has one entry per address family.
#[derive(Debug, Default)]
pub(crate) struct Listeners {
    pub(crate) outbound: Vec<StdListener>,
    pub(crate) inbound_plain: Vec<StdListener>,
    pub(crate) hbone: Vec<StdListener>,
    pub(crate) dns_tcp: Vec<StdListener>,
    pub(crate) dns_udp: Vec<UdpSocket>,
}

#[derive(Debug)]
pub(super) struct Station {
    pod: RefCell<Arc<Pod>>,
    tasks: RefCell<Vec<AbortHandle>>,
    listeners: RefCell<Vec<Rc<TcpListener>>>,
    shutdown: Shutdown,
    door: Rc<Door>,
    /// Of a waypoint: what serves its clients.
    context: Option<Rc<waypoint::Context>>,
    /// With what was already counted of each.
    dns: RefCell<Vec<(Rc<PodResolver>, [u64; 4])>>,
}

impl Listeners {
    /// The same sockets, for another thread to accept from.
    pub(crate) fn try_clone(&self) -> std::io::Result<Self> {
        let all = |listeners: &[StdListener]| listeners.iter().map(StdListener::try_clone).collect::<std::io::Result<_>>();
        Ok(Self {
            outbound: all(&self.outbound)?,
            inbound_plain: all(&self.inbound_plain)?,
            hbone: all(&self.hbone)?,
            dns_tcp: all(&self.dns_tcp)?,
            dns_udp: self.dns_udp.iter().map(UdpSocket::try_clone).collect::<std::io::Result<_>>()?,
        })
    }
}

impl Station {
    /// Must be called on the data thread's runtime.
    pub(super) fn open(thread: &Rc<Thread>, pod: Arc<Pod>, listeners: Listeners) -> Rc<Self> {
        let station = Rc::new_cyclic(|station| Self {
            context: pod.waypoint.then(|| waypoint::context(thread, station)),
            pod: RefCell::new(pod),
            tasks: RefCell::default(),
            listeners: RefCell::default(),
            shutdown: Shutdown::new(),
            door: Rc::default(),
            dns: RefCell::default(),
        });
        station.listen(thread, listeners);
        station
    }

    /// Accepts from these listeners too.
    pub(super) fn listen(self: &Rc<Self>, thread: &Rc<Thread>, listeners: Listeners) {
        self.serve_dns(thread, listeners.dns_tcp, listeners.dns_udp);
        for listener in listeners.outbound {
            self.accept(thread, listener, Thread::outbound);
        }
        for listener in listeners.inbound_plain {
            self.accept(thread, listener, Thread::inbound_plain);
        }
        for listener in listeners.hbone {
            self.accept(thread, listener, Thread::inbound_tunnel);
        }
    }

    pub(super) fn pod(&self) -> Arc<Pod> {
        Arc::clone(&self.pod.borrow())
    }

    pub(super) fn cookie(&self) -> u64 {
        self.pod.borrow().cookie
    }

    pub(super) fn update(&self, pod: Arc<Pod>) {
        *self.pod.borrow_mut() = pod;
    }

    pub(super) fn shutdown(&self) -> &Shutdown {
        &self.shutdown
    }

    pub(super) fn context(&self) -> Option<&Rc<waypoint::Context>> {
        self.context.as_ref()
    }

    pub(super) fn door(&self) -> &Rc<Door> {
        &self.door
    }

    /// Closes the listeners; what is open goes on, and peers are told to send no more streams.
    pub(super) fn stop_accepting(&self) {
        // A waypoint's are closed when the last thread lets go of them.
        let kept = !self.pod.borrow().waypoint;
        for listener in self.listeners.borrow_mut().drain(..).filter(|_| kept) {
            // Ends the listening at once, whoever else still has a descriptor of it (the keeper).
            if let Err(error) = rustix::net::shutdown(&*listener, rustix::net::Shutdown::Read) {
                tracing::debug!(%error, "a listener was not listening any more");
            }
        }
        self.tasks.borrow_mut().drain(..).for_each(|task| task.abort());
        self.shutdown.drain();
        if let Some(context) = &self.context {
            context.drain();
        }
    }

    pub(super) fn close(&self) {
        self.stop_accepting();
        self.shutdown.close();
    }

    fn serve_dns(self: &Rc<Self>, thread: &Rc<Thread>, tcp: Vec<StdListener>, udp: Vec<UdpSocket>) {
        if tcp.is_empty() && udp.is_empty() {
            return;
        }
        let resolver = Rc::new(names::resolver(&thread.shared, self));
        let uid = Arc::clone(&self.pod().local.uid);
        let mut tasks = self.tasks.borrow_mut();
        for listener in tcp {
            let (resolver, uid) = (Rc::clone(&resolver), Arc::clone(&uid));
            let task = tokio::task::spawn_local(async move {
                let error = resolver.serve_tcp(listener).await;
                tracing::error!(%uid, %error, "the pod's DNS over TCP ended");
            });
            tasks.push(task.abort_handle());
        }
        for socket in udp {
            let (resolver, uid) = (Rc::clone(&resolver), Arc::clone(&uid));
            let task = tokio::task::spawn_local(async move {
                let error = resolver.serve_udp(socket).await;
                tracing::error!(%uid, %error, "the pod's DNS over UDP ended");
            });
            tasks.push(task.abort_handle());
        }
        self.dns.borrow_mut().push((resolver, [0; 4]));
    }

    /// Adds to the engine's totals what this pod's resolver has counted.
    pub(super) fn count_dns(&self, shared: &Shared) {
        for (resolver, seen) in self.dns.borrow_mut().iter_mut() {
            names::count(resolver.counters(), seen, shared);
        }
    }

    fn accept<F, H>(self: &Rc<Self>, thread: &Rc<Thread>, listener: StdListener, handle: H)
    where
        H: Fn(Rc<Thread>, Rc<Station>, TcpStream, SocketAddr) -> F + 'static,
        F: Future<Output = ()> + 'static,
    {
        let listener = match TcpListener::from_std(listener) {
            Ok(listener) => Rc::new(listener),
            Err(error) => return tracing::error!(%error, "a pod's listener cannot be watched"),
        };
        self.listeners.borrow_mut().push(Rc::clone(&listener));
        let (station, thread) = (Rc::downgrade(self), Rc::clone(thread));
        let task = tokio::task::spawn_local(async move {
            let mut paused = false;
            loop {
                match listener.accept().await {
                    Ok((stream, from)) => {
                        paused = false;
                        let Some(station) = station.upgrade() else { return };
                        if door::crowds_others(&stream, &station.pod(), &thread.shared) {
                            thread.shared.counters.shed.fetch_add(1, Ordering::Relaxed);
                            if station.door.tells(Instant::now()) {
                                let (uid, code) = (Arc::clone(&station.pod().local.uid), errors::ENGINE_LIMIT);
                                tracing::warn!(%uid, code, "descriptors are nearly used up: the pod gets no more connections");
                            }
                            trackbed_hbone::pump::reset(stream);
                            continue;
                        }
                        let from = trackbed_netns::socket::canonical(from);
                        drop(tokio::task::spawn_local(handle(Rc::clone(&thread), station, stream, from)));
                    }
                    Err(error) if is_the_connections(&error) => {}
                    Err(error) => {
                        thread.shared.counters.accept_pauses.fetch_add(1, Ordering::Relaxed);
                        // Once until it goes on: every listener of the node comes here ten times a second.
                        if !std::mem::replace(&mut paused, true) {
                            tracing::warn!(%error, "accepting pauses");
                        }
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        });
        self.tasks.borrow_mut().push(task.abort_handle());
    }
}

/// Errors of the connection that was to be accepted, not of the listener (accept(2)).
fn is_the_connections(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionReset, HostUnreachable, Interrupted, NetworkDown, NetworkUnreachable};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | HostUnreachable | Interrupted | NetworkDown | NetworkUnreachable)
}
