//! Many pods at once: each holds silent connections to many peers, made inside its own network namespace.
use std::collections::BTreeMap;
use std::io::{self, BufRead, Lines, StdinLock};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::exchange::{echo, joined};
use crate::figures::{Figures, Latencies, Start};
use crate::{namespace, server, socket};

/// Longer than any bound of a proxy: who is silent for so long was forgotten, not refused.
const SILENCE: Duration = Duration::from_secs(30);

/// A pod and the peers that it wants.
struct Pod {
    netns: PathBuf,
    peers: Vec<SocketAddr>,
}

/// What came of one pod's wishes.
struct Opened {
    count: usize,
    /// Reasons, and how often.
    failed: BTreeMap<String, u64>,
    latencies: Latencies,
}

#[derive(Serialize)]
struct Report {
    open: usize,
    failed: BTreeMap<String, u64>,
    figures: Figures,
}

/// Reads one line for each pod, `NETNS IP:PORT IP:PORT…`, up to an empty one. Opens everything, all pods at once and in each pod one
/// connection after the other, and prints what came of it. Each line after that asks for one echo on every connection, and the answer says
/// how many live. Ends with standard input.
pub(crate) fn hold() -> io::Result<()> {
    namespace::raise_descriptor_limit()?;
    let mut lines = io::stdin().lock().lines();
    let pods = head(&mut lines)?.iter().map(|line| parse(line)).collect::<io::Result<Vec<_>>>()?;
    let start = Start::now();
    let (say_opened, opened) = channel();
    let (say_alive, alive) = channel();
    let mut asks = Vec::with_capacity(pods.len());
    let mut threads = Vec::with_capacity(pods.len());
    for pod in pods {
        let (ask, asked) = channel();
        let (say_opened, say_alive) = (say_opened.clone(), say_alive.clone());
        asks.push(ask);
        threads.push(thread::spawn(move || live(&pod, say_opened, &asked, &say_alive)));
    }
    // Only the threads may keep the channels open: one that fails must not be waited for.
    drop((say_opened, say_alive));
    println!("{}", serde_json::to_string(&report(start, &opened))?);
    for line in lines {
        line?;
        asks.retain(|ask| ask.send(()).is_ok());
        let count: usize = alive.iter().take(asks.len()).sum();
        println!("{{\"alive\":{count}}}");
    }
    drop(asks);
    threads.into_iter().try_for_each(joined)
}

/// An echo server in each of the namespaces, one a line, that standard input names up to an empty line.
pub(crate) fn serve(listen: SocketAddr) -> io::Result<()> {
    namespace::raise_descriptor_limit()?;
    let mut threads = Vec::new();
    for netns in head(&mut io::stdin().lock().lines())? {
        namespace::enter(netns.as_ref())?;
        let listener = socket::listen(listen)?;
        threads.push(thread::spawn(move || server::accept(&listener)));
    }
    println!("listening in {} namespaces", threads.len());
    threads.into_iter().try_for_each(joined)
}

/// Lines up to the first empty one.
fn head(lines: &mut Lines<StdinLock<'_>>) -> io::Result<Vec<String>> {
    lines.take_while(|line| line.as_ref().map_or(true, |line| !line.is_empty())).collect()
}

fn parse(line: &str) -> io::Result<Pod> {
    let mut words = line.split_ascii_whitespace();
    let netns = words.next().unwrap_or_default().into();
    let address = |word: &str| word.parse().map_err(|_| io::Error::other(format!("{word:?} is not IP:PORT")));
    Ok(Pod { netns, peers: words.map(address).collect::<io::Result<_>>()? })
}

/// A pod's thread.
fn live(pod: &Pod, say_opened: Sender<Opened>, asked: &Receiver<()>, say_alive: &Sender<usize>) -> io::Result<()> {
    namespace::enter(&pod.netns)?;
    let mut held = Vec::with_capacity(pod.peers.len());
    let (mut failed, mut latencies) = (BTreeMap::new(), Latencies::new());
    for peer in &pod.peers {
        let start = Instant::now();
        match open(*peer) {
            Ok(stream) => {
                latencies.record_since(start);
                held.push(stream);
            }
            Err(error) => *failed.entry(error.to_string()).or_insert(0) += 1,
        }
    }
    // Nobody listens any more when the program is at its end.
    let _ = say_opened.send(Opened { count: held.len(), failed, latencies });
    drop(say_opened);
    for () in asked {
        // A dead connection stays dead: what failed once is dropped and never counted again.
        held.retain_mut(|stream| echo::<100>(stream).is_ok());
        let _ = say_alive.send(held.len());
    }
    Ok(())
}

fn open(peer: SocketAddr) -> io::Result<TcpStream> {
    let mut stream = crate::exchange::open(peer, socket::ECHO)?;
    stream.set_read_timeout(Some(SILENCE))?;
    echo::<100>(&mut stream)?;
    Ok(stream)
}

/// Of all pods, once each has tried everything.
fn report(start: Start, opened: &Receiver<Opened>) -> Report {
    let (mut open, mut failed, mut latencies) = (0, BTreeMap::new(), Latencies::new());
    // Ends when every pod has spoken or its thread has failed.
    for pod in opened {
        open += pod.count;
        latencies.add(&pod.latencies);
        for (reason, count) in pod.failed {
            *failed.entry(reason).or_insert(0) += count;
        }
    }
    Report { open, failed, figures: start.figures(0, latencies.count(), &latencies) }
}
