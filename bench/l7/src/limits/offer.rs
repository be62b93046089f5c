//! Open-loop load: requests come by chance at their rate, whatever became of those before, each on a connection that is idle or on a new one, and are timed from
//! when they were due.
use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use fastrand::Rng;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, LocalOptions};
use tokio::task::{JoinSet, yield_now};
use tokio::time::{Instant, sleep_until, timeout};

use crate::Failure;

/// Of one client: more than that under way is a server that has stopped answering.
const CONNECTIONS: usize = 4096;
pub(super) const ANSWER_BYTES: usize = 4096;
/// Far longer than anything that is waited for here.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// Time enough for as many as a client asks at most.
pub(super) const ALL: Duration = Duration::from_mins(1);
/// Requests that are begun before their answers get a turn.
const TURN: usize = 64;

/// One client.
pub(super) struct Ask {
    pub(super) to: SocketAddr,
    /// Each second, on the average.
    pub(super) rate: f64,
    /// The lines of the head of each, beside those that all have.
    pub(super) lines: Box<dyn Fn(usize) -> String>,
    /// How many at most.
    pub(super) most: usize,
}

impl Ask {
    pub(super) fn plain(to: SocketAddr, rate: f64) -> Self {
        Self::with(to, rate, |_| String::new())
    }

    pub(super) fn with(to: SocketAddr, rate: f64, lines: impl Fn(usize) -> String + 'static) -> Self {
        Self { to, rate, lines: Box::new(lines), most: usize::MAX }
    }
}

/// What became of one request. Times are since the load began.
#[derive(Debug, Clone, Default)]
pub(super) struct Got {
    pub(super) number: usize,
    pub(super) due: Duration,
    pub(super) sent: Duration,
    pub(super) took: Duration,
    /// 0: none came.
    pub(super) status: u16,
    /// In trailers; 0 as well where nothing was said.
    pub(super) grpc_status: u16,
    pub(super) backend: Option<u16>,
    pub(super) session: Option<Box<str>>,
}

/// Something that happens meanwhile.
pub(super) type Event<'a> = (Duration, Box<dyn FnOnce() -> Result<(), Failure> + 'a>);

/// What each client got, in the order in which the requests were due.
pub(super) fn offer(asks: &[Ask], time: Duration, events: Vec<Event<'_>>) -> Result<(std::time::Instant, Vec<Vec<Got>>), Failure> {
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    runtime.block_on(async {
        let mut rng = Rng::new();
        let clients: Vec<Rc<Idle>> = asks.iter().map(|ask| Rc::new(Idle { to: ask.to, connections: RefCell::default() })).collect();
        let (mut due, mut counts): (Vec<Duration>, Vec<usize>) = asks.iter().map(|ask| (gap(&mut rng, ask.rate), 0)).unzip();
        let mut events = events.into_iter().peekable();
        let mut under_way: JoinSet<(usize, Got)> = JoinSet::new();
        let mut all: Vec<Vec<Got>> = asks.iter().map(|_| Vec::new()).collect();
        let start = Instant::now();
        for turn in 0.. {
            if let Some((_, event)) = events.next_if(|(at, _)| start.elapsed() >= *at) {
                event()?;
            }
            let left = (0..asks.len()).filter(|index| counts[*index] < asks[*index].most);
            let Some(next) = left.min_by_key(|index| due[*index]).filter(|index| due[*index] < time) else { break };
            let at = due[next];
            if start.elapsed() < at {
                let soon = events.peek().map_or(at, |(event, _)| at.min(*event));
                sleep_until(start + soon).await;
                if start.elapsed() < at {
                    continue;
                }
            } else if turn % TURN == 0 {
                yield_now().await;
            }
            let number = counts[next];
            let head = format!("GET /bench HTTP/1.1\r\nHost: bench.test\r\n{}\r\n", (asks[next].lines)(number));
            under_way.spawn_local(one(Rc::clone(&clients[next]), next, number, head, start, at));
            counts[next] += 1;
            due[next] = at + gap(&mut rng, asks[next].rate);
            while let Some(done) = under_way.try_join_next() {
                let (client, got) = done?;
                all[client].push(got);
            }
        }
        for (_, event) in events {
            event()?;
        }
        while let Some(done) = under_way.join_next().await {
            let (client, got) = done?;
            all[client].push(got);
        }
        for gots in &mut all {
            gots.sort_by_key(|got| got.number);
        }
        Ok((start.into_std(), all))
    })
}

/// Between two arrivals that know nothing of each other.
fn gap(rng: &mut Rng, rate: f64) -> Duration {
    Duration::from_secs_f64(-(1.0 - rng.f64()).ln() / rate)
}

#[derive(Debug)]
struct Idle {
    to: SocketAddr,
    connections: RefCell<Vec<TcpStream>>,
}

async fn one(idle: Rc<Idle>, client: usize, number: usize, head: String, start: Instant, due: Duration) -> (usize, Got) {
    let sent = start.elapsed();
    let mut got = Got { number, due, sent, took: Duration::ZERO, status: 0, grpc_status: 0, backend: None, session: None };
    let exchanged = timeout(PATIENCE, exchange(&idle, head.as_bytes(), &mut got)).await;
    got.took = start.elapsed().saturating_sub(due);
    if !matches!(exchanged, Ok(Ok(()))) {
        got.status = 0;
    }
    (client, got)
}

async fn exchange(idle: &Idle, head: &[u8], got: &mut Got) -> std::io::Result<()> {
    let kept = idle.connections.borrow_mut().pop();
    let mut stream = if let Some(stream) = kept {
        stream
    } else {
        let stream = TcpStream::connect(idle.to).await?;
        stream.set_nodelay(true)?;
        stream
    };
    stream.write_all(head).await?;
    let mut buffer = [0; ANSWER_BYTES];
    let mut have = 0;
    let keep = loop {
        match stream.read(&mut buffer[have..]).await? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            count => have += count,
        }
        if let Some(keep) = understood(&buffer[..have], got) {
            break keep;
        }
    };
    let mut connections = idle.connections.borrow_mut();
    if keep && connections.len() < CONNECTIONS {
        connections.push(stream);
    }
    Ok(())
}

/// Whether the connection stays, once the answer is whole.
pub(super) fn understood(bytes: &[u8], got: &mut Got) -> Option<bool> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let (mut length, mut chunked, mut keep) = (None, false, true);
    for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.parse::<usize>().ok(),
            "transfer-encoding" => chunked = true,
            "connection" => keep = !value.eq_ignore_ascii_case("close"),
            "x-backend" => got.backend = value.parse().ok(),
            "x-session" => got.session = Some(value.into()),
            "grpc-status" => got.grpc_status = value.parse().ok()?,
            _ => {}
        }
    }
    if chunked {
        let (_, trailers) = body.split_once("\r\n0\r\n").filter(|(_, trailers)| trailers.ends_with("\r\n"))?;
        if !(trailers == "\r\n" || trailers.ends_with("\r\n\r\n")) {
            return None;
        }
        for (name, value) in trailers.split("\r\n").filter_map(|line| line.split_once(": ")) {
            if name.eq_ignore_ascii_case("grpc-status") {
                got.grpc_status = value.parse().ok()?;
            }
        }
    } else if body.len() < length.unwrap_or_default() {
        return None;
    }
    got.status = status;
    Some(keep)
}

/// Of those that were due from then on.
pub(super) fn since(gots: &[Got], from: Duration) -> impl Iterator<Item = &Got> {
    gots.iter().filter(move |got| got.due >= from)
}

pub(super) fn percentile(gots: impl Iterator<Item = Duration>, percent: usize) -> f64 {
    let mut times: Vec<Duration> = gots.collect();
    times.sort_unstable();
    times.get(times.len().saturating_sub(1) * percent / 100).map_or(f64::NAN, |time| time.as_secs_f64() * 1e3)
}
