//! The pool: who shares a tunnel, who dials, and what happens when a tunnel turns out to be dead.
#![allow(clippy::unwrap_used)] // in tests a failed unwrap is the message

mod support;

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use support::{Authority, CLIENT, SERVER, eventually, identity, local};
use tokio::io::{DuplexStream, duplex};
use tokio::task::{AbortHandle, spawn_local};
use trackbed_hbone::limits::Limits;
use trackbed_hbone::{ConnectRequest, Connector, Pool, Request, Shutdown, Target, Timing, TunnelError, serve};
use trackbed_tls::Certified;

/// What one dial meets.
#[derive(Clone, Copy, PartialEq)]
enum Peer {
    Good,
    /// The TCP connection fails.
    Unreachable,
    /// TLS and HTTP/2 work, every stream is refused with REFUSED_STREAM.
    Refusing,
    /// Says GOAWAY that covers no stream as soon as it is asked.
    Leaving,
}

/// Dials into the test itself, and counts.
#[derive(Clone)]
struct Network {
    certified: Arc<Certified>,
    /// Peers of the first dials; all later ones are the last.
    peers: Rc<RefCell<Vec<Peer>>>,
    dials: Rc<Cell<usize>>,
    servers: Rc<RefCell<Vec<AbortHandle>>>,
    delay: Duration,
}

impl Connector for Network {
    type Io = DuplexStream;

    async fn connect(&self, _: &Target) -> io::Result<DuplexStream> {
        self.dials.set(self.dials.get() + 1);
        tokio::time::sleep(self.delay).await;
        let peer = {
            let mut peers = self.peers.borrow_mut();
            if peers.len() > 1 { peers.remove(0) } else { peers[0] }
        };
        if peer == Peer::Unreachable {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let (near, far) = duplex(1 << 20);
        let ours = Arc::clone(&self.certified);
        let server = spawn_local(async move {
            match peer {
                Peer::Refusing | Peer::Leaving => foreign_server(far, &ours, peer).await,
                _ => _ = serve(far, "10.0.0.9:1".parse().unwrap(), &ours, Limits::default(), Shutdown::new(), hold).await,
            }
        });
        self.servers.borrow_mut().push(server.abort_handle());
        Ok(near)
    }
}

/// Accepts and keeps the stream until the client ends it.
async fn hold(request: Request) {
    let stream = request.accept(None).unwrap();
    let (_held, near) = support::pair().await;
    trackbed_hbone::pump::inbound(stream, near, &trackbed_hbone::Meter::new()).await;
}

async fn foreign_server(io: DuplexStream, ours: &Certified, peer: Peer) {
    let (stream, _) = trackbed_tls::accept(io, ours).await.unwrap();
    let mut connection = h2::server::handshake::<_>(stream).await.unwrap();
    while let Some(Ok((_, mut respond))) = connection.accept().await {
        match peer {
            Peer::Refusing => respond.send_reset(h2::Reason::REFUSED_STREAM),
            _ => return, // the connection is dropped without a word: the stream was not answered
        }
    }
}

struct Fixture {
    pool: Pool<Network>,
    network: Network,
    target: Target,
    authority: Authority,
}

fn fixture(peers: &[Peer], limits: Limits) -> Fixture {
    let authority = Authority::new();
    let network = Network {
        certified: authority.certify(SERVER),
        peers: Rc::new(RefCell::new(peers.to_vec())),
        dials: Rc::default(),
        servers: Rc::default(),
        delay: Duration::from_millis(5),
    };
    let target = Target {
        source_uid: "pod-1".into(),
        source_address: "10.0.0.2".parse().unwrap(),
        certified: authority.certify(CLIENT),
        expected: vec![identity(SERVER)],
        destination: "10.0.0.3:15008".parse().unwrap(),
    };
    Fixture { pool: Pool::new(network.clone(), limits), network, target, authority }
}

fn request() -> ConnectRequest {
    ConnectRequest { authority: "10.0.0.3:80".into(), ..ConnectRequest::default() }
}

#[test]
fn fifty_streams_at_once_share_one_dial() {
    local(async {
        let Fixture { pool, network, target, .. } = fixture(&[Peer::Good], Limits::default());
        let message = request();
        let streams: Vec<_> = join_all((0..50).map(|_| pool.open(&target, &message))).await.into_iter().map(Result::unwrap).collect();
        assert_eq!((network.dials.get(), pool.tunnels()), (1, 1));
        let timed = streams.iter().filter(|stream| stream.timing() != Timing::default()).count();
        assert_eq!(timed, 1, "set-up time is counted for the stream that caused it");
    });
}

#[test]
fn two_hundred_streams_take_two_tunnels_and_room_is_used_again() {
    local(async {
        let Fixture { pool, network, target, .. } = fixture(&[Peer::Good], Limits::default());
        let message = request();
        let mut streams: Vec<_> = join_all((0..200).map(|_| pool.open(&target, &message))).await.into_iter().map(Result::unwrap).collect();
        assert_eq!((network.dials.get(), pool.tunnels()), (2, 2));
        streams.truncate(150);
        for _ in 0..50 {
            streams.push(pool.open(&target, &message).await.unwrap());
        }
        assert_eq!(network.dials.get(), 2);
    });
}

#[test]
fn a_failed_dial_fails_everyone_who_waited_and_the_next_one_dials_again() {
    local(async {
        let Fixture { pool, network, target, .. } = fixture(&[Peer::Unreachable, Peer::Good], Limits::default());
        let message = request();
        for result in join_all((0..10).map(|_| pool.open(&target, &message))).await {
            assert_eq!(result.unwrap_err().code(), "E_TUNNEL_UNREACHABLE");
        }
        assert_eq!(network.dials.get(), 1);
        pool.open(&target, &message).await.unwrap();
        assert_eq!(network.dials.get(), 2);
    });
}

#[test]
fn tunnels_are_never_shared_across_pods_addresses_certificates_or_expectations() {
    local(async {
        let Fixture { pool, network, target, authority } = fixture(&[Peer::Good], Limits::default());
        let message = request();
        let second = identity("spiffe://cluster.local/ns/shop/sa/second");
        let others = [
            target.clone(),
            Target { source_uid: "pod-2".into(), ..target.clone() },
            Target { source_address: "fd00::2".parse().unwrap(), ..target.clone() },
            Target { certified: authority.certify(CLIENT), ..target.clone() },
            Target { destination: "10.0.0.4:15008".parse().unwrap(), ..target.clone() },
            Target { expected: vec![identity(SERVER), second.clone()], ..target.clone() },
        ];
        let mut streams = Vec::new();
        for (index, other) in others.iter().enumerate() {
            streams.push(pool.open(other, &message).await.unwrap());
            assert_eq!(network.dials.get(), index + 1);
        }
        let same = Target { expected: vec![second, identity(SERVER), identity(SERVER)], ..target };
        streams.push(pool.open(&same, &message).await.unwrap());
        assert_eq!(network.dials.get(), others.len(), "order and doubles of the expected identities do not matter");
    });
}

#[test]
fn a_refused_stream_is_tried_once_more_in_a_fresh_tunnel() {
    local(async {
        let Fixture { pool, network, target, .. } = fixture(&[Peer::Refusing, Peer::Good], Limits::default());
        pool.open(&target, &request()).await.unwrap();
        assert_eq!(network.dials.get(), 2);

        let Fixture { pool, network, target, .. } = fixture(&[Peer::Refusing], Limits::default());
        let error = pool.open(&target, &request()).await.unwrap_err();
        assert!(matches!(error, TunnelError::NotTaken(_)), "{error:?}");
        assert_eq!(network.dials.get(), 2, "once, not for ever");
    });
}

#[test]
fn a_draining_peer_is_left_for_a_fresh_tunnel_while_its_streams_go_on() {
    local(async {
        let authority = Authority::new();
        let (server, shutdown) = (authority.certify(SERVER), Shutdown::new());
        let dials = Rc::new(Cell::new(0));
        let connector = Draining { server, shutdown: shutdown.clone(), dials: Rc::clone(&dials) };
        let pool = Pool::new(connector, Limits::default());
        let Fixture { target, .. } = fixture(&[Peer::Good], Limits::default());
        let target = Target { certified: authority.certify(CLIENT), ..target };
        let first = pool.open(&target, &request()).await.unwrap();
        shutdown.drain();
        // GOAWAY and the next CONNECT cross on the wire: whoever is first, the stream must come out well.
        let second = pool.open(&target, &request()).await.unwrap();
        eventually("GOAWAY arrives", || pool.tunnels() == 0).await;
        let third = pool.open(&target, &request()).await.unwrap();
        assert_eq!(dials.get(), 2);
        drop((first, second, third));
    });
}

/// First dial: a server that drains with the test; later ones: a server that does not.
struct Draining {
    server: Arc<Certified>,
    shutdown: Shutdown,
    dials: Rc<Cell<usize>>,
}

impl Connector for Draining {
    type Io = DuplexStream;

    async fn connect(&self, _: &Target) -> io::Result<DuplexStream> {
        self.dials.set(self.dials.get() + 1);
        let shutdown = if self.dials.get() == 1 { self.shutdown.clone() } else { Shutdown::new() };
        let (near, far) = duplex(1 << 20);
        let ours = Arc::clone(&self.server);
        spawn_local(async move { serve(far, "10.0.0.9:1".parse().unwrap(), &ours, Limits::default(), shutdown, hold).await });
        Ok(near)
    }
}

#[test]
fn a_pooled_tunnel_that_died_is_replaced_without_an_error() {
    local(async {
        let Fixture { pool, network, target, .. } = fixture(&[Peer::Leaving, Peer::Good], Limits::default());
        // A fresh tunnel that dies under its first stream is an error: nothing says that another would live.
        let error = pool.open(&target, &request()).await.unwrap_err();
        assert_eq!(error.code(), "E_TUNNEL_LOST");
        pool.open(&target, &request()).await.unwrap();
        assert_eq!(network.dials.get(), 2);
        // Its peer dies while it lies in the pool, and nobody has noticed yet.
        network.servers.borrow_mut().drain(..).for_each(|server| server.abort());
        pool.open(&target, &request()).await.unwrap();
        assert_eq!(network.dials.get(), 3);
    });
}

#[test]
fn evicting_a_destination_or_a_pod_ends_its_tunnels_and_no_others() {
    local(async {
        let Fixture { pool, network, target, .. } = fixture(&[Peer::Good], Limits::default());
        let message = request();
        let elsewhere = Target { destination: "10.0.0.4:15008".parse().unwrap(), ..target.clone() };
        let pod = Target { source_uid: "pod-2".into(), ..elsewhere.clone() };
        let mut streams = Vec::new();
        for target in [&target, &elsewhere, &pod] {
            streams.push(pool.open(target, &message).await.unwrap());
        }
        pool.evict("10.0.0.3".parse().unwrap());
        assert_eq!(pool.tunnels(), 2);
        let (_client, near) = support::pair().await;
        let end = trackbed_hbone::pump::outbound(near, streams.remove(0), &trackbed_hbone::Meter::new()).await;
        assert_eq!((end.reset, end.code), (true, "E_TUNNEL_LOST"));
        pool.evict_pod("pod-2");
        assert_eq!(pool.tunnels(), 1);
        pool.open(&elsewhere, &message).await.unwrap();
        assert_eq!(network.dials.get(), 3, "the tunnel that was left alone is still used");
        pool.close();
        assert_eq!(pool.tunnels(), 0);
    });
}

#[test]
fn evicting_reaches_a_dial_under_way() {
    local(async {
        let Fixture { pool, target, .. } = fixture(&[Peer::Good], Limits::default());
        let message = request();
        let (result, ()) = tokio::join!(pool.open(&target, &message), async { pool.evict(target.destination.ip()) });
        assert_eq!(result.unwrap_err().code(), "E_TUNNEL_LOST");
        assert_eq!(pool.tunnels(), 0);
        pool.open(&target, &message).await.unwrap();
    });
}

#[test]
fn a_caller_that_gives_up_takes_nobody_along() {
    local(async {
        let Fixture { pool, network, target, .. } = fixture(&[Peer::Good], Limits::default());
        let (first, second) = (pool.clone(), pool.clone());
        let (one, two) = (target.clone(), target.clone());
        let impatient = spawn_local(async move { first.open(&one, &request()).await });
        let patient = spawn_local(async move { second.open(&two, &request()).await });
        tokio::task::yield_now().await;
        impatient.abort();
        patient.await.unwrap().unwrap();
        assert_eq!(network.dials.get(), 1);
    });
}

#[test]
fn idle_tunnels_are_closed_and_busy_ones_kept() {
    local(async {
        let idle = Duration::from_millis(150);
        let Fixture { pool, network, target, .. } = fixture(&[Peer::Good], Limits { idle, ..Limits::default() });
        let stream = pool.open(&target, &request()).await.unwrap();
        tokio::time::sleep(idle * 3).await;
        assert_eq!(pool.tunnels(), 1, "a tunnel with a stream is not idle");
        drop(stream);
        eventually("the idle tunnel is gone", || pool.tunnels() == 0).await;
        eventually("its server sees the end", || network.servers.borrow().iter().all(AbortHandle::is_finished)).await;
    });
}

#[test]
fn of_many_idle_tunnels_to_one_peer_one_is_kept() {
    local(async {
        let limits = Limits { client_streams: 1, ..Limits::default() };
        let Fixture { pool, network, target, .. } = fixture(&[Peer::Good, Peer::Good, Peer::Good], limits);
        let message = request();
        let mut streams = Vec::new();
        for _ in 0..3 {
            streams.push(pool.open(&target, &message).await.unwrap());
        }
        assert_eq!((pool.tunnels(), network.dials.get()), (3, 3));
        let busy = streams.pop();
        drop(streams);
        eventually("one of the two idle ones is gone", || pool.tunnels() == 2).await;
        drop(busy);
        eventually("only one is left", || pool.tunnels() == 1).await;
        streams = vec![pool.open(&target, &message).await.unwrap()];
        assert_eq!(network.dials.get(), 3, "and it is used");
        drop(streams);
    });
}

#[test]
fn a_hot_pair_has_its_next_tunnel_before_anybody_asks_and_others_are_left_alone() {
    local(async {
        let Fixture { pool, network, target, authority } = fixture(&[Peer::Good], Limits::default());
        let quiet = Target { source_uid: "pod-2".into(), ..target.clone() };
        drop(pool.open(&quiet, &request()).await.unwrap());
        for _ in 0..11 {
            drop(pool.open(&target, &request()).await.unwrap());
        }
        let same = Arc::clone(&target.certified);
        pool.renew(|_| Some(Arc::clone(&same)));
        pool.renew(|_| None);
        let renewed = authority.certify(CLIENT);
        for _ in 0..3 {
            pool.renew(|identity| (identity.as_str() == CLIENT).then(|| Arc::clone(&renewed)));
        }
        eventually("it is made", || pool.tunnels() == 3).await;
        let message = request();
        let next = Target { certified: Arc::clone(&renewed), ..target.clone() };
        let stream = pool.open(&next, &message).await.unwrap();
        assert_eq!((network.dials.get(), stream.timing()), (3, Timing::default()), "nobody has waited for it");
        drop(pool.open(&Target { certified: renewed, ..quiet }, &message).await.unwrap());
        assert_eq!(network.dials.get(), 4);
    });
}

/// A server whose certificate is renewed after the first dial.
struct Renewing {
    certified: RefCell<Vec<Arc<Certified>>>,
    dials: Rc<Cell<usize>>,
}

impl Connector for Renewing {
    type Io = DuplexStream;

    async fn connect(&self, _: &Target) -> io::Result<DuplexStream> {
        self.dials.set(self.dials.get() + 1);
        let ours = self.certified.borrow_mut().pop().unwrap();
        let (near, far) = duplex(1 << 20);
        spawn_local(async move { serve(far, "10.0.0.9:1".parse().unwrap(), &ours, Limits::default(), Shutdown::new(), hold).await });
        Ok(near)
    }
}

#[test]
fn a_tunnel_leaves_new_streams_to_a_successor_long_before_its_certificate_cuts_it() {
    local(async {
        let authority = Authority::new();
        let certified = vec![authority.certify(SERVER), authority.certify_for(SERVER, Duration::from_secs(8))];
        let dials = Rc::new(Cell::new(0));
        let pool = Pool::new(Renewing { certified: RefCell::new(certified), dials: Rc::clone(&dials) }, Limits::default());
        let Fixture { target, .. } = fixture(&[Peer::Good], Limits::default());
        let target = Target { certified: authority.certify(CLIENT), ..target };
        let first = pool.open(&target, &request()).await.unwrap();
        let message = request();
        drop(pool.open(&target, &message).await.unwrap());
        assert_eq!(dials.get(), 1);
        while dials.get() == 1 {
            let stream = pool.open(&target, &message).await.unwrap();
            assert_eq!(stream.timing(), Timing::default(), "nobody waits for the successor");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        eventually("both are there", || pool.tunnels() == 2).await;
        let late = pool.open(&target, &message).await.unwrap();
        let ((_one, near), (_two, other)) = (support::pair().await, support::pair().await);
        let (meter, kept) = (trackbed_hbone::Meter::new(), trackbed_hbone::Meter::new());
        let mut goes_on = std::pin::pin!(trackbed_hbone::pump::outbound(other, late, &kept));
        let end = tokio::select! {
            end = trackbed_hbone::pump::outbound(near, first, &meter) => end,
            _ = &mut goes_on => unreachable!("the successor's certificate has not ended"),
        };
        assert_eq!((end.reset, end.code), (true, "E_TUNNEL_LOST"));
        assert!(futures_util::poll!(goes_on).is_pending());
        assert_eq!((pool.tunnels(), dials.get()), (1, 2));
    });
}
