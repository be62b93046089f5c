//! Whatever state a tunnel is in: what thaws is what was frozen. Whatever is not exactly that is refused, and no connection comes of it.
#![allow(clippy::unwrap_used)] // in tests a failed unwrap is the message
mod joined;
#[path = "../../../tests/support/mod.rs"]
mod support;

use std::cell::{Cell, RefCell};
use std::io::{Read, Write};
use std::rc::Rc;
use std::time::{Duration, Instant};

use fastrand::Rng;
use prost::Message;
use socket2::SockRef;
use support::{Authority, CLIENT, SERVER, identity, local, pair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::{JoinHandle, spawn_local, yield_now};

use super::envelope::{self, Kind};
use super::leg::FrozenLeg;
use super::tunnel::FrozenTunnel;
use super::{Frozen, ThawError, Thawed};
use crate::h2::Role;
use crate::limits::Limits;
use crate::{ConnectRequest, Meter, Request, Shutdown, Tunnel, TunnelError, TunnelStream, pump, serve, server};

/// Sockets of the tunnel that hold little: records are cut and wait all the time.
const LITTLE: usize = 8 << 10;

/// A tunnel, the applications at both of its ends, and what was seen of its states.
struct World {
    tunnel: RefCell<Tunnel>,
    shutdown: Shutdown,
    applications: Rc<RefCell<Vec<TcpStream>>>,
    /// Requests that wait for their answer.
    asked: Rc<RefCell<Vec<Request>>>,
    serving: RefCell<Vec<JoinHandle<Result<(), TunnelError>>>>,
    seen: RefCell<Seen>,
}

/// In how many frozen tunnels there was such a thing.
#[derive(Debug, Default)]
struct Seen {
    partial: usize,
    output: usize,
    unread: usize,
    half_closed: usize,
    waiting: usize,
    asking: usize,
}

impl Seen {
    fn everything(&self) -> bool {
        let Self { partial, output, unread, half_closed, waiting, asking } = *self;
        [partial, output, unread, half_closed, waiting, asking].iter().all(|count| *count >= 5)
    }
}

fn request() -> ConnectRequest {
    ConnectRequest { authority: "10.0.0.1:80".into(), ..ConnectRequest::default() }
}

impl World {
    async fn new() -> Self {
        let authority = Authority::new();
        let (ours, theirs) = (authority.certify(CLIENT), authority.certify(SERVER));
        let (near, far) = pair().await;
        for socket in [&near, &far] {
            SockRef::from(socket).set_send_buffer_size(LITTLE).unwrap();
            SockRef::from(socket).set_recv_buffer_size(LITTLE).unwrap();
        }
        let (asked, shutdown, peer) = (Rc::<RefCell<Vec<Request>>>::default(), Shutdown::new(), far.peer_addr().unwrap());
        let server = {
            let (shutdown, handler) = (shutdown.clone(), Self::handler(&asked));
            spawn_local(async move { serve(far, peer, &theirs, Limits::default(), shutdown, handler).await })
        };
        let tunnel = Tunnel::connect(near, &ours, &[identity(SERVER)], Limits::default()).await.unwrap();
        Self {
            tunnel: RefCell::new(tunnel),
            shutdown,
            applications: Rc::default(),
            asked,
            serving: RefCell::new(vec![server]),
            seen: RefCell::default(),
        }
    }

    fn handler(asked: &Rc<RefCell<Vec<Request>>>) -> impl Fn(Request) -> std::future::Ready<()> + Clone + 'static {
        let asked = Rc::clone(asked);
        move |request| {
            asked.borrow_mut().push(request);
            std::future::ready(())
        }
    }

    fn ask(&self) {
        let (tunnel, applications) = (self.tunnel.borrow().clone(), Rc::clone(&self.applications));
        spawn_local(async move {
            if let Ok(stream) = tunnel.open(&request()).await {
                let (application, socket) = pair().await;
                applications.borrow_mut().push(application);
                pump::outbound(socket, stream, &Meter::new()).await;
            }
        });
    }

    fn answer(&self) {
        let Some(request) = self.asked.borrow_mut().pop() else { return };
        let applications = Rc::clone(&self.applications);
        spawn_local(async move {
            let (application, socket) = pair().await;
            if let Ok(stream) = request.accept(None) {
                applications.borrow_mut().push(application);
                pump::inbound(stream, socket, &Meter::new()).await;
            }
        });
    }

    /// Freezes one end, twice at the same moment, and lets it go on.
    fn freeze(&self, role: Role) {
        let frozen = match role {
            Role::Client => self.tunnel.borrow().freeze().ok(),
            Role::Server => self.shutdown.freeze().into_iter().find_map(Result::ok),
        };
        // None when what thawed last has not been served yet.
        let Some(frozen) = frozen else { return };
        self.note(&frozen);
        let again = twice(frozen, role);
        let (streams, server) = match role {
            Role::Client => {
                let (tunnel, streams) = Tunnel::thaw(again, Limits::default()).unwrap();
                self.tunnel.replace(tunnel);
                (streams, false)
            }
            Role::Server => {
                let (resumed, streams) = server::thaw(again, Limits::default()).unwrap();
                let serving = resumed.serve(Limits::default(), self.shutdown.clone(), Self::handler(&self.asked));
                self.serving.borrow_mut().push(spawn_local(serving));
                (streams, true)
            }
        };
        for stream in streams {
            let applications = Rc::clone(&self.applications);
            let begin = async move |stream: TunnelStream| {
                let (application, socket) = pair().await;
                applications.borrow_mut().push(application);
                if server {
                    pump::inbound(stream, socket, &Meter::new()).await
                } else {
                    pump::outbound(socket, stream, &Meter::new()).await
                }
            };
            spawn_local(async move {
                match stream {
                    Thawed::Carried(carried) => _ = carried.run().await,
                    Thawed::Open(stream) => _ = begin(stream).await,
                    Thawed::Asking(asking) => {
                        if let Ok(stream) = asking.answered().await {
                            begin(stream).await;
                        }
                    }
                }
            });
        }
    }

    fn note(&self, frozen: &Frozen) {
        let tunnel: FrozenTunnel = envelope::open(Kind::Tunnel, &frozen.state).unwrap();
        let (seen, legs) = (&mut *self.seen.borrow_mut(), tunnel.legs());
        seen.partial += usize::from(tunnel.has_partial());
        seen.output += usize::from(tunnel.has_output());
        seen.unread += usize::from(legs.iter().any(FrozenLeg::has_backlog));
        seen.half_closed += usize::from(legs.iter().any(FrozenLeg::is_half_closed));
        seen.waiting += usize::from(legs.iter().any(|leg| leg.queued));
        seen.asking += usize::from(legs.iter().any(|leg| leg.port.is_none()));
    }

    fn application(&self, random: &mut Rng, act: impl FnOnce(&TcpStream, &mut Rng)) {
        let applications = self.applications.borrow();
        if let Some(application) = random.choice(&*applications) {
            act(application, random);
        }
    }
}

/// Frozen, thawed and frozen again at one moment: the same bytes, and as many descriptors.
fn twice(frozen: Frozen, role: Role) -> Frozen {
    let (now, bytes, count) = (Instant::now(), frozen.state.clone(), frozen.descriptors.len());
    let (link, facts, streams) = super::thaw(frozen, role, &Limits::default(), now).unwrap();
    let again = super::freeze(&link, &facts, now).unwrap();
    drop(streams);
    assert!(again.state == bytes, "it froze to other bytes");
    assert_eq!(again.descriptors.len(), count);
    again
}

#[test]
fn in_every_state_what_thaws_freezes_to_the_same_bytes() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = Rng::with_seed(seed);
    trackbed_tls::testing::rekey_after(20);
    local(async move {
        let world = World::new().await;
        let mut steps = 0;
        // Long enough, and until there was everything: a test that waits in vain hangs, which is told.
        while steps < 2000 || !world.seen.borrow().everything() {
            steps += 1;
            match random.u8(..24) {
                0 if world.applications.borrow().len() < 30 => world.ask(),
                1 | 2 => world.answer(),
                3..=9 => world.application(&mut random, |socket, random| {
                    let most = if random.u8(..4) == 0 { 200_000 } else { 3000 };
                    let _ = socket.try_write(&vec![7; random.usize(1..most)]);
                }),
                10..=13 => world.application(&mut random, |socket, random| {
                    let _ = socket.try_read(&mut vec![0; random.usize(1..100_000)]);
                }),
                14 if random.u8(..3) == 0 => world.application(&mut random, |socket, _| {
                    let _ = SockRef::from(socket).shutdown(std::net::Shutdown::Write);
                }),
                15 if random.u8(..5) == 0 && !world.applications.borrow().is_empty() => {
                    let at = random.usize(..world.applications.borrow().len());
                    pump::reset(world.applications.borrow_mut().swap_remove(at));
                }
                16 => world.freeze(Role::Client),
                17 => world.freeze(Role::Server),
                18 => tokio::time::sleep(Duration::from_micros(200)).await,
                _ => yield_now().await,
            }
        }
        println!("{steps} steps, {:?}", world.seen.borrow());
    });
}

/// A tunnel with a stream that carries something, at its client.
async fn one() -> (World, Frozen) {
    let world = World::new().await;
    world.ask();
    support::eventually("the request is there", || !world.asked.borrow().is_empty()).await;
    world.answer();
    support::eventually("both applications are there", || world.applications.borrow().len() == 2).await;
    let frozen = world.tunnel.borrow().freeze().unwrap();
    (world, frozen)
}

fn refused(frozen: &Frozen, state: Vec<u8>) -> ThawError {
    let descriptors = frozen.descriptors.iter().map(|descriptor| descriptor.try_clone().unwrap()).collect();
    let thawed = Tunnel::thaw(Frozen { state: state.into(), descriptors }, Limits::default());
    thawed.map(|_| ()).expect_err("it must not become a connection")
}

#[test]
fn bytes_that_were_cut_changed_or_made_up_never_become_a_connection() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = Rng::with_seed(seed);
    local(async move {
        let (_world, frozen) = one().await;
        for length in 0..frozen.state.len() {
            assert!(matches!(refused(&frozen, frozen.state[..length].to_vec()), ThawError::Damaged(_)));
        }
        for at in 0..frozen.state.len() {
            let mut state = frozen.state.to_vec();
            state[at] ^= 1 << random.u8(..8);
            assert_eq!(refused(&frozen, state).code(), "E_HANDOVER_STATE");
        }
        for _ in 0..1000 {
            let mut state: Vec<u8> = (0..random.usize(..300)).map(|_| random.u8(..)).collect();
            refused(&frozen, state.clone());
            state.splice(..state.len().min(10), frozen.state[..10].iter().copied());
            refused(&frozen, state);
        }
        let error = refused(&frozen, [&frozen.state[..], b"x"].concat());
        assert!(error.to_string().contains("length"), "{error}");
    });
}

#[test]
fn a_version_that_is_not_known_is_named_and_nothing_of_it_is_read() {
    local(async {
        let (_world, frozen) = one().await;
        let mut state = frozen.state.to_vec();
        state[9] = 99;
        let error = refused(&frozen, state);
        assert!(matches!(error, ThawError::Version { found: 99 }), "{error}");
        assert!(error.to_string().contains("99") && error.to_string().contains('1'), "{error}");
    });
}

#[test]
fn values_that_no_tunnel_has_are_refused_or_become_themselves_and_never_a_panic() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = Rng::with_seed(seed);
    local(async move {
        let (_world, frozen) = one().await;
        let body = envelope::body(&frozen.state).to_vec();
        let (mut parsed, mut taken) = (0, 0);
        for _ in 0..3000 {
            let mut changed = body.clone();
            for _ in 0..random.usize(1..3) {
                let at = random.usize(..changed.len());
                changed[at] = random.u8(..);
            }
            let Ok(tunnel) = FrozenTunnel::decode(changed.as_slice()) else { continue };
            parsed += 1;
            let state = envelope::seal(Kind::Tunnel, &tunnel).unwrap();
            let descriptors = frozen.descriptors.iter().map(|descriptor| descriptor.try_clone().unwrap()).collect();
            let now = Instant::now();
            if let Ok((link, facts, streams)) =
                super::thaw(Frozen { state: state.clone(), descriptors }, Role::Client, &Limits::default(), now)
            {
                taken += 1;
                let again = super::freeze(&link, &facts, now).unwrap();
                assert!(again.state == state, "it froze to other bytes");
                drop(streams);
            }
        }
        println!("{parsed} parsed, {taken} taken");
        assert!(parsed > 500 && taken > 10 && taken < parsed, "{parsed} parsed, {taken} taken");
    });
}

#[test]
fn a_descriptor_too_many_too_few_or_of_something_else_is_refused_and_everything_is_closed() {
    local(async {
        let (world, frozen) = one().await;
        let clones = |count: usize| frozen.descriptors.iter().take(count).map(|descriptor| descriptor.try_clone().unwrap()).collect();
        let thaw = |descriptors| Tunnel::thaw(Frozen { state: frozen.state.clone(), descriptors }, Limits::default()).map(|_| ());
        assert!(matches!(thaw(clones(1)), Err(ThawError::Descriptors { expected: 2, found: 1 })));
        assert!(matches!(thaw(Vec::new()), Err(ThawError::Descriptors { expected: 2, found: 0 })));
        let mut many = clones(2);
        many.push(std::fs::File::open("/dev/null").unwrap().into());
        assert!(matches!(thaw(many), Err(ThawError::Descriptors { expected: 2, found: 3 })));
        let other =
            vec![std::fs::File::open("/proc/self/status").unwrap().into(), std::fs::File::open("/proc/self/status").unwrap().into()];
        assert!(matches!(thaw(other), Err(ThawError::Socket(_))));
        // Given up, it ends as a connection whose engine died: with a reset.
        drop(frozen);
        let client = world.applications.borrow_mut().remove(1);
        let mut client = client.into_std().unwrap();
        client.set_nonblocking(false).unwrap();
        let end = client.read(&mut [0]);
        assert!(end.is_err() || client.write(b"x").and_then(|_| client.read(&mut [0])).is_err(), "no orderly end");
    });
}

#[test]
fn what_is_printed_of_a_frozen_tunnel_has_none_of_its_bytes() {
    local(async {
        let (_world, frozen) = one().await;
        let count = frozen.state.len();
        assert_eq!(format!("{frozen:?}"), format!("Frozen {{ bytes: {count}, descriptors: 2 }}"));
    });
}

#[test]
fn early_words_are_in_doubt_in_the_next_life_too_and_said_once() {
    local(async {
        let world = World::new().await;
        let (mut application, socket) = pair().await;
        application.write_all(b"early ").await.unwrap();
        let tunnel = world.tunnel.borrow().clone();
        let (asking, socket) = (Cell::new(None), Rc::new(socket));
        let opening = async { asking.set(Some(tunnel.open_for(&request(), Some(&socket)).await.map(|_| ()))) };
        let freezing = async {
            support::eventually("the request is there", || !world.asked.borrow().is_empty()).await;
            let frozen = world.tunnel.borrow().freeze().unwrap();
            Tunnel::thaw(twice(frozen, Role::Client), Limits::default()).unwrap()
        };
        let ((), (_next, mut streams)) = tokio::join!(opening, freezing);
        assert_eq!(asking.take(), Some(Err(TunnelError::Frozen(1))));
        let Some(Thawed::Asking(asking)) = streams.pop() else { panic!("a stream that waits for its answer") };
        world.answer();
        let stream = asking.answered().await.unwrap();
        let socket = Rc::into_inner(socket).unwrap();
        spawn_local(async move { pump::outbound(socket, stream, &Meter::new()).await });
        application.write_all(b"and late").await.unwrap();
        application.shutdown().await.unwrap();
        let mut server = world.applications.borrow_mut().pop().unwrap();
        let mut heard = String::new();
        server.read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, "early and late");
    });
}

#[test]
fn a_request_that_was_not_answered_when_its_server_froze_may_be_asked_again() {
    local(async {
        let world = World::new().await;
        let tunnel = world.tunnel.borrow().clone();
        let freezing = async {
            support::eventually("the request is there", || !world.asked.borrow().is_empty()).await;
            world.freeze(Role::Server);
            let mut request = world.asked.borrow_mut().pop().unwrap();
            request.withdrawn().await;
            assert!(request.accept(None).is_err());
        };
        let ask = request();
        let (opened, ()) = tokio::join!(tunnel.open(&ask), freezing);
        assert!(matches!(opened, Err(TunnelError::NotTaken(_))), "{opened:?}");
        let answering = async {
            support::eventually("it is asked again", || !world.asked.borrow().is_empty()).await;
            world.answer();
        };
        let (opened, ()) = tokio::join!(tunnel.open(&ask), answering);
        assert!(opened.is_ok(), "{opened:?}");
    });
}

#[test]
fn a_tunnel_at_its_end_is_left_to_end() {
    local(async {
        let world = World::new().await;
        let tunnel = world.tunnel.borrow().clone();
        tunnel.close();
        assert!(matches!(tunnel.freeze(), Err(super::FreezeError::Ending)));
        let tunnel = World::new().await.tunnel.into_inner();
        let first = tunnel.freeze().unwrap();
        assert!(matches!(tunnel.freeze(), Err(super::FreezeError::Ending)), "it is not here any more");
        assert!(!tunnel.is_open() && matches!(tunnel.open(&request()).await, Err(TunnelError::NotTaken(_))));
        drop(first);
    });
}
