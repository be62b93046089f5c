//! Two joined sockets, frozen at any moment: every byte arrives once, and the ends stay what they were.
use std::cell::{Cell, RefCell};
use std::io::ErrorKind;
use std::net::Shutdown;
use std::rc::Rc;
use std::time::Instant;

use fastrand::Rng;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::{JoinHandle, spawn_local, yield_now};

use super::support::{local, pair, pattern};
use super::{Frozen, ThawError};
use crate::frozen::FreezeError;
use crate::limits::Limits;
use crate::relay::Joined;
use crate::{Meter, Outcome, Tunnel, pump};

const BYTES: u64 = 20_000_000;

/// Two applications whose sockets are joined, and the pump of the moment.
struct Pair {
    client: TcpStream,
    server: TcpStream,
    pump: Pump,
}

struct Pump {
    meter: RefCell<Rc<Meter>>,
    task: RefCell<JoinHandle<Outcome>>,
    /// States with bytes in them.
    loaded: Cell<usize>,
}

impl Pair {
    async fn new() -> Self {
        let ((client, near), (far, server)) = (pair().await, pair().await);
        let meter = Meter::new();
        let task = spawn_local(pump::relay(near, far, &meter));
        Self { client, server, pump: Pump { meter: meter.into(), task: task.into(), loaded: Cell::new(0) } }
    }
}

impl Pump {
    async fn frozen(&self) -> Result<Frozen, FreezeError> {
        let meter = Rc::clone(&self.meter.borrow());
        let frozen = meter.freeze().await?;
        self.loaded.set(self.loaded.get() + usize::from(frozen.state.len() > 1000));
        Ok(frozen)
    }

    fn go_on(&self, frozen: Frozen) {
        let joined = pump::thaw(frozen).unwrap();
        self.meter.replace(Rc::clone(joined.meter()));
        self.task.replace(spawn_local(joined.run()));
    }

    /// False when it was over.
    async fn freeze_and_thaw(&self) -> bool {
        match self.frozen().await {
            Ok(frozen) => {
                self.go_on(twice(frozen));
                true
            }
            Err(FreezeError::Ending | FreezeError::NoSocket) => false,
            Err(error) => panic!("{error}"),
        }
    }
}

/// Frozen, thawed and frozen again at one moment: the same bytes.
fn twice(frozen: Frozen) -> Frozen {
    let (now, bytes) = (Instant::now(), frozen.state.clone());
    let again = Joined::thaw(frozen, now).unwrap().freeze(now).unwrap();
    assert!(again.state == bytes, "it froze to other bytes");
    again
}

async fn say(socket: &mut (impl AsyncWriteExt + Unpin), seed: u64) {
    let (mut random, mut at, mut bytes) = (Rng::with_seed(seed), 0, vec![0; 300_000]);
    while at < BYTES {
        let most = if random.bool() { 300_000 } else { 3000 };
        let piece = &mut bytes[..random.usize(1..most).min(usize::try_from(BYTES - at).unwrap())];
        pattern(at + seed, piece);
        socket.write_all(piece).await.unwrap();
        at += piece.len() as u64;
    }
    socket.shutdown().await.unwrap();
}

async fn hear(socket: &mut (impl AsyncReadExt + Unpin), seed: u64, heard: &Cell<u64>) {
    let (mut random, mut at) = (Rng::with_seed(!seed), 0);
    let (mut bytes, mut expected) = (vec![0; 300_000], vec![0; 300_000]);
    loop {
        for _ in 0..random.u8(..20) {
            yield_now().await;
        }
        let count = socket.read(&mut bytes[..random.usize(1..300_000)]).await.unwrap();
        if count == 0 {
            break;
        }
        pattern(at + seed, &mut expected[..count]);
        assert!(bytes[..count] == expected[..count], "other bytes behind {at}");
        at += count as u64;
        heard.set(heard.get() + count as u64);
    }
    assert_eq!(at, BYTES);
}

#[test]
fn every_byte_between_two_sockets_arrives_however_often_they_are_frozen() {
    let seed = fastrand::u64(..1 << 40);
    println!("seed {seed}");
    local(async move {
        let Pair { client, server, pump } = Pair::new().await;
        let ((mut client_in, mut client_out), (mut server_in, mut server_out)) = (client.into_split(), server.into_split());
        let heard = Cell::new(0);
        let mut random = Rng::with_seed(seed);
        let applications = async {
            tokio::join!(say(&mut client_out, seed), hear(&mut server_in, seed, &heard), say(&mut server_out, !seed >> 24), async {
                hear(&mut client_in, !seed >> 24, &heard).await;
            });
        };
        let mut times = 0;
        let freezing = async {
            while pump.freeze_and_thaw().await {
                times += 1;
                let next = heard.get() + random.u64(..BYTES / 40);
                while heard.get() < next && heard.get() < 2 * BYTES {
                    yield_now().await;
                }
            }
        };
        tokio::join!(applications, freezing);
        println!("frozen {times} times, {} of them with bytes under way", pump.loaded.get());
        assert!(times > 20, "{times}");
        let outcome = pump.task.into_inner().await.unwrap();
        assert_eq!((outcome.sent, outcome.received, outcome.reset, outcome.frozen), (BYTES, BYTES, false, false));
    });
}

#[test]
fn what_waits_in_a_pipe_goes_over() {
    local(async {
        let mut both = Pair::new().await;
        let mut sent = 0;
        let mut still = 0;
        let block = vec![7; 1 << 20];
        // Until nothing moves: the server reads nothing, so the way to it is full.
        while still < 100 {
            match both.client.try_write(&block) {
                Ok(count) => (sent, still) = (sent + count, 0),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::WouldBlock);
                    still += 1;
                    tokio::time::sleep(std::time::Duration::from_millis(1)).await;
                }
            }
        }
        assert!(both.pump.freeze_and_thaw().await);
        assert_eq!(both.pump.loaded.get(), 1, "some of {sent} bytes were between the sockets");
        both.client.shutdown().await.unwrap();
        let mut seen = Vec::new();
        let (read, again) = tokio::join!(both.server.read_to_end(&mut seen), both.pump.freeze_and_thaw());
        assert_eq!((read.unwrap(), seen.iter().all(|byte| *byte == 7)), (sent, true));
        assert!(again);
    });
}

#[test]
fn half_an_end_stays_half_and_a_reset_is_heard_after_a_thaw() {
    local(async {
        let mut both = Pair::new().await;
        both.client.write_all(b"ask").await.unwrap();
        both.client.shutdown().await.unwrap();
        let mut asked = String::new();
        both.server.read_to_string(&mut asked).await.unwrap();
        assert!(both.pump.freeze_and_thaw().await);
        both.server.write_all(b"answer").await.unwrap();
        let mut answer = [0; 6];
        both.client.read_exact(&mut answer).await.unwrap();
        assert_eq!((asked.as_str(), &answer), ("ask", b"answer"));
        assert!(both.pump.freeze_and_thaw().await);
        SockRef::from(&both.server).shutdown(Shutdown::Write).unwrap();
        assert_eq!(both.client.read(&mut [0]).await.unwrap(), 0);
        let outcome = both.pump.task.into_inner().await.unwrap();
        assert_eq!((outcome.sent, outcome.received, outcome.reset), (3, 6, false));

        let mut both = Pair::new().await;
        both.client.write_all(b"x").await.unwrap();
        both.server.read_exact(&mut [0]).await.unwrap();
        let frozen = both.pump.frozen().await.unwrap();
        pump::reset(both.client); // while nobody looks
        both.pump.go_on(frozen);
        assert_eq!(both.server.read(&mut [0]).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
        assert!(both.pump.task.into_inner().await.unwrap().reset);
    });
}

#[test]
fn what_is_not_the_whole_state_of_two_sockets_is_refused_and_both_are_reset() {
    local(async {
        let mut both = Pair::new().await;
        let frozen = both.pump.frozen().await.unwrap();
        assert!(both.pump.task.into_inner().await.unwrap().frozen);
        let with = |state: &[u8], count: usize| {
            let descriptors = frozen.descriptors.iter().take(count).map(|descriptor| descriptor.try_clone().unwrap()).collect();
            Frozen { state: state.to_vec().into(), descriptors }
        };
        for length in 0..frozen.state.len() {
            assert!(matches!(pump::thaw(with(&frozen.state[..length], 2)), Err(ThawError::Damaged(_))));
        }
        for at in 0..frozen.state.len() {
            let mut state = frozen.state.to_vec();
            state[at] ^= 1;
            assert!(pump::thaw(with(&state, 2)).is_err());
        }
        assert!(matches!(pump::thaw(with(&frozen.state, 1)), Err(ThawError::Descriptors { expected: 2, found: 1 })));
        let other = Tunnel::thaw(with(&frozen.state, 2), Limits::default()).map(|_| ());
        assert!(matches!(other, Err(ThawError::Damaged(why)) if why.contains("kind")));
        drop(frozen);
        assert_eq!(both.client.read(&mut [0]).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
        assert_eq!(both.server.read(&mut [0]).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    });
}

#[test]
fn who_is_cut_or_carried_in_a_tunnel_is_not_frozen_alone() {
    local(async {
        let both = Pair::new().await;
        let meter = Rc::clone(&both.pump.meter.borrow());
        let (frozen, ()) = tokio::join!(both.pump.frozen(), async { meter.cut() });
        assert!(matches!(frozen, Err(FreezeError::Ending)));
        assert!(matches!(Meter::new().freeze().await, Err(FreezeError::NoSocket)));
    });
}
