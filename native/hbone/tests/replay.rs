//! A client's first words and endpoints that fail: whatever happens to a tunnel, at most one application hears them.
#![allow(clippy::unwrap_used)] // in tests a failed unwrap is the message

mod support;

use std::cell::{Cell, RefCell};
use std::future::pending;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use support::{Authority, CLIENT, SERVER, identity, local, pair, pattern};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex, split};
use tokio::task::spawn_local;
use tokio::time::timeout;
use trackbed_hbone::limits::Limits;
use trackbed_hbone::{ConnectRequest, Connector, Meter, Pool, Request, Shutdown, Target, TunnelError, TunnelStream, pump, serve};
use trackbed_tls::Certified;

/// Endpoints of the service, each behind tunnels of its own.
const ENDPOINTS: u8 = 3;
/// How long an answer is awaited here.
const ANSWER: Duration = Duration::from_secs(2);

/// What becomes of one CONNECT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Accepted,
    /// No application there.
    Unavailable,
    Denied,
    /// RST_STREAM.
    Reset,
    /// The tunnel ends before anybody has looked.
    Cut,
    /// The application hears the client, and the tunnel ends with the answer in it.
    CutBehindTheWords,
    /// GOAWAY, and accepted all the same.
    Draining,
    Mute,
}

/// Mute is not among them: it takes its time.
const FATES: [Fate; 6] = [Fate::Unavailable, Fate::Denied, Fate::Reset, Fate::Cut, Fate::CutBehindTheWords, Fate::Draining];

/// What an application got on one connection, and for which client.
struct Heard {
    client: u16,
    bytes: Vec<u8>,
}

struct World {
    certified: Arc<Certified>,
    choose: RefCell<Box<dyn FnMut() -> Fate>>,
    heard: RefCell<Vec<Heard>>,
    asked: Cell<usize>,
}

struct Wires(Rc<World>);

impl Connector for Wires {
    type Io = DuplexStream;

    async fn connect(&self, _: &Target) -> io::Result<DuplexStream> {
        let (near, wire) = duplex(1 << 18);
        let (other, far) = duplex(1 << 18);
        // What the server says is lost from the moment on that it is `deaf`.
        let deaf = Rc::new(Cell::new(false));
        let ((mut near_read, mut near_write), (mut far_read, mut far_write)) = (split(wire), split(other));
        let silenced = Rc::clone(&deaf);
        spawn_local(async move {
            let mut buffer = vec![0; 1 << 16];
            while let Ok(count @ 1..) = far_read.read(&mut buffer).await {
                if !silenced.get() && near_write.write_all(&buffer[..count]).await.is_err() {
                    break;
                }
            }
            let _ = near_write.shutdown().await;
        });
        spawn_local(async move { tokio::io::copy(&mut near_read, &mut far_write).await });
        let (world, shutdown) = (Rc::clone(&self.0), Shutdown::new());
        let ours = Arc::clone(&world.certified);
        let order = shutdown.clone();
        let handler = move |request| answer(Rc::clone(&world), request, order.clone(), Rc::clone(&deaf));
        spawn_local(async move { serve(far, "10.0.0.9:1".parse().unwrap(), &ours, Limits::default(), shutdown, handler).await });
        Ok(near)
    }
}

async fn answer(world: Rc<World>, request: Request, shutdown: Shutdown, deaf: Rc<Cell<bool>>) {
    world.asked.set(world.asked.get() + 1);
    let client = request.authority.rsplit_once(':').unwrap().1.parse().unwrap();
    let fate = if client == WARM { Fate::Accepted } else { world.choose.borrow_mut()() };
    match fate {
        Fate::Unavailable => request.refuse(503),
        Fate::Denied => request.refuse(401),
        Fate::Reset => drop(request),
        Fate::Cut => shutdown.close(),
        Fate::Mute => pending().await,
        Fate::Accepted => application(&world, client, request.accept(None)).await,
        Fate::Draining => {
            shutdown.drain();
            application(&world, client, request.accept(None)).await;
        }
        Fate::CutBehindTheWords => {
            deaf.set(true);
            let heard = async {
                while !world.heard.borrow().iter().any(|heard| heard.client == client && !heard.bytes.is_empty()) {
                    tokio::task::yield_now().await;
                }
            };
            tokio::select! {
                () = application(&world, client, request.accept(None)) => {}
                // In a tunnel so young that the client does not know yet that it may, it has said nothing.
                _ = timeout(ANSWER / 10, heard) => {}
            }
            shutdown.close();
        }
    }
}

/// Listens to its end.
async fn application(world: &World, client: u16, stream: Result<TunnelStream, TunnelError>) {
    let Ok(stream) = stream else { return };
    let (mut application, near) = pair().await;
    let place = {
        let mut heard = world.heard.borrow_mut();
        heard.push(Heard { client, bytes: Vec::new() });
        heard.len() - 1
    };
    let listen = async {
        let mut buffer = vec![0; 5000];
        while let Ok(count @ 1..) = application.read(&mut buffer).await {
            world.heard.borrow_mut()[place].bytes.extend_from_slice(&buffer[..count]);
        }
        drop(application);
    };
    let meter = Meter::new();
    tokio::join!(pump::inbound(stream, near, &meter), listen);
}

/// The client that only makes tunnels.
const WARM: u16 = 1;

struct Fixture {
    world: Rc<World>,
    pool: Pool<Wires>,
    targets: Vec<Target>,
}

/// Endpoints with a tunnel each, whose settings the client knows.
async fn fixture(choose: impl FnMut() -> Fate + 'static) -> Fixture {
    let authority = Authority::new();
    let certified = authority.certify(SERVER);
    let choose: Box<dyn FnMut() -> Fate> = Box::new(choose);
    let world = Rc::new(World { certified, choose: RefCell::new(choose), heard: RefCell::default(), asked: Cell::default() });
    let target = |number| Target {
        source_uid: "pod-1".into(),
        source_address: "10.0.0.2".parse().unwrap(),
        certified: authority.certify(CLIENT),
        expected: vec![identity(SERVER)],
        destination: format!("10.0.1.{number}:15008").parse().unwrap(),
    };
    let targets: Vec<_> = (0..ENDPOINTS).map(target).collect();
    let pool = Pool::new(Wires(Rc::clone(&world)), Limits { connect_answer: ANSWER, ..Limits::default() });
    for target in &targets {
        drop(pool.open(target, &to(WARM)).await.unwrap());
    }
    world.asked.set(0);
    Fixture { world, pool, targets }
}

fn to(client: u16) -> ConnectRequest {
    ConnectRequest { authority: format!("10.0.0.1:{client}"), ..ConnectRequest::default() }
}

/// One connection as the engine carries it: at most one attempt per endpoint. True when it ended in order.
async fn connection(fixture: &Fixture, number: u16, words: &[u8], first: usize, half_closed: bool) -> Result<bool, TunnelError> {
    let (mut client, captured) = pair().await;
    client.write_all(&words[..first]).await.unwrap();
    if half_closed && first == words.len() {
        client.shutdown().await.unwrap();
    }
    let mut last = None;
    for attempt in 0..fixture.targets.len() {
        let target = &fixture.targets[(usize::from(number) + attempt) % fixture.targets.len()];
        let stream = match fixture.pool.open_for(target, &to(number), Some(&captured)).await {
            Ok(stream) => stream,
            Err(error) => {
                let again = error.before_application() && !matches!(error, TunnelError::Refused { status: 401 });
                last = Some(error);
                if again {
                    continue;
                }
                break;
            }
        };
        let rest = async {
            // The connection may be reset meanwhile, which its outcome says.
            let _ = client.write_all(&words[first..]).await;
            let _ = client.shutdown().await;
            let _ = client.read_to_end(&mut Vec::new()).await;
        };
        let meter = Meter::new();
        let (outcome, ()) = tokio::join!(pump::outbound(captured, stream, &meter), rest);
        return Ok(!outcome.reset);
    }
    Err(last.unwrap())
}

fn words(client: u16, length: usize) -> Vec<u8> {
    let mut words = vec![0; length];
    pattern(u64::from(client) << 20, &mut words);
    words
}

#[test]
fn words_that_may_have_been_heard_are_told_nobody_else() {
    local(async {
        for fate in [Fate::CutBehindTheWords, Fate::Mute, Fate::Reset, Fate::Cut] {
            let fixture = fixture(move || fate).await;
            let error = connection(&fixture, 7, b"pay 5", 5, false).await.unwrap_err();
            assert!(matches!(error, TunnelError::InDoubt(_)), "{fate:?}: {error:?}");
            assert_eq!(fixture.world.asked.get(), 1, "{fate:?}");
            let heard: Vec<_> =
                fixture.world.heard.borrow().iter().filter(|heard| heard.client == 7).map(|heard| heard.bytes.clone()).collect();
            let expected: &[&[u8]] = if fate == Fate::CutBehindTheWords { &[b"pay 5"] } else { &[] };
            assert_eq!(heard, expected, "{fate:?}");
        }
    });
}

#[test]
fn who_has_said_nothing_is_tried_elsewhere_whatever_happened() {
    local(async {
        for fate in [Fate::CutBehindTheWords, Fate::Mute, Fate::Reset, Fate::Cut, Fate::Unavailable] {
            let mut first = true;
            let fixture = fixture(move || if std::mem::take(&mut first) { fate } else { Fate::Accepted }).await;
            assert_eq!(connection(&fixture, 7, b"hello", 0, false).await, Ok(true), "{fate:?}");
            let heard = fixture.world.heard.borrow();
            let told = heard.iter().filter(|heard| heard.client == 7 && !heard.bytes.is_empty());
            assert!(told.map(|heard| heard.bytes.as_slice()).eq([b"hello"]), "{fate:?}");
        }
    });
}

#[test]
fn one_application_at_most_hears_a_client_and_all_of_it_when_the_connection_ends_well() {
    let seed = std::env::var("SEED").ok().map_or_else(|| fastrand::u64(..), |text| text.parse().unwrap());
    println!("SEED={seed}");
    local(async move {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut fates = rng.fork();
        let mut fixture = fixture(move || if fates.bool() { Fate::Accepted } else { FATES[fates.usize(..FATES.len())] }).await;
        let (mut well, mut elsewhere) = (0, 0);
        for round in 0..12u16 {
            let connections = (0..8u16).map(|index| {
                let number = 100 + round * 8 + index;
                let words = words(number, [0, 1, 700, 16 << 10, (16 << 10) + 1, 90_000][rng.usize(..6)]);
                let first = [0, words.len(), rng.usize(..=words.len())][rng.usize(..3)];
                let (half_closed, fixture) = (rng.bool(), &fixture);
                async move { (number, connection(fixture, number, &words, first, half_closed).await, words) }
            });
            let before = fixture.world.asked.get();
            for (number, outcome, words) in join_all(connections).await {
                let heard = fixture.world.heard.borrow();
                let told: Vec<_> = heard.iter().filter(|heard| heard.client == number && !heard.bytes.is_empty()).collect();
                assert!(told.len() <= 1, "{} applications were told the same, {outcome:?}", told.len());
                assert!(told.iter().all(|heard| words.starts_with(&heard.bytes)), "{outcome:?}");
                if outcome == Ok(true) {
                    assert!(
                        told.first().map_or(&[][..], |heard| &heard.bytes) == words,
                        "{} bytes of {}",
                        told[0].bytes.len(),
                        words.len()
                    );
                    well += 1;
                }
            }
            elsewhere += fixture.world.asked.get() - before - 8;
            fixture.world.heard.borrow_mut().retain(|heard| heard.client == WARM);
        }
        println!("{well} ended well, {elsewhere} were tried again");
        assert!(well > 20 && elsewhere > 0, "{well} ended well, {elsewhere} were tried again");
        fixture.targets.clear();
    });
}
