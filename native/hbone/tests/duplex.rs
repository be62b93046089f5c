//! A stream of a tunnel that is served in this process: every byte and every end of one side arrives at the other, and what is not read stays.
#![allow(clippy::unwrap_used)] // in tests a failed unwrap is the message

mod support;

use std::cell::Cell;
use std::io::{ErrorKind, IoSlice};
use std::rc::Rc;

use support::{Authority, CLIENT, SERVER, eventually, identity, local, pair, pattern};
use tokio::io::{AsyncReadExt, AsyncWriteExt, split};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::spawn_local;
use trackbed_hbone::frozen::FreezeError;
use trackbed_hbone::limits::Limits;
use trackbed_hbone::{ConnectRequest, Duplex, Meter, Request, Shutdown, Tunnel, pump, serve};

struct Fixture {
    tunnel: Tunnel,
    shutdown: Shutdown,
    arrivals: UnboundedReceiver<Duplex>,
}

impl Fixture {
    async fn new() -> Self {
        let authority = Authority::new();
        let (ours, theirs) = (authority.certify(CLIENT), authority.certify(SERVER));
        let (near, far) = pair().await;
        let (arrived, arrivals) = unbounded_channel();
        let shutdown = Shutdown::new();
        let handle = shutdown.clone();
        spawn_local(async move {
            let handler = move |request: Request| {
                // The receiver may be gone at the end of a test.
                let _ = arrived.send(request.accept(None).unwrap().into_duplex());
                async {}
            };
            let peer = far.peer_addr().unwrap();
            serve(far, peer, &theirs, Limits::default(), handle, handler).await
        });
        let tunnel = Tunnel::connect(near, &ours, &[identity(SERVER)], Limits::default()).await.unwrap();
        Self { tunnel, shutdown, arrivals }
    }

    /// Both ends of a new stream: the client's first.
    async fn stream(&mut self) -> (Duplex, Duplex) {
        let request = ConnectRequest { authority: "10.0.0.1:80".into(), ..ConnectRequest::default() };
        let client = self.tunnel.open(&request).await.unwrap().into_duplex();
        (client, self.arrivals.recv().await.unwrap())
    }
}

/// In pieces of every size, also by several slices at a time.
async fn send(io: &mut (impl AsyncWriteExt + Unpin), total: u64, random: &mut fastrand::Rng) {
    let mut buffer = vec![0; 300_000];
    let mut sent = 0;
    while sent < total {
        let most = if random.bool() { 300 } else { buffer.len() };
        let size = usize::try_from(total - sent).unwrap().min(random.usize(1..=most));
        pattern(sent, &mut buffer[..size]);
        let (first, second) = buffer[..size].split_at(random.usize(..=size));
        let count = io.write_vectored(&[IoSlice::new(first), IoSlice::new(&[]), IoSlice::new(second)]).await.unwrap();
        sent += count as u64;
    }
    io.shutdown().await.unwrap();
}

async fn check(io: &mut (impl AsyncReadExt + Unpin), total: u64, random: &mut fastrand::Rng) {
    let (mut buffer, mut expected, mut seen) = (vec![0; 100_000], vec![0; 100_000], 0);
    loop {
        let most = random.usize(1..=buffer.len());
        let count = io.read(&mut buffer[..most]).await.unwrap();
        if count == 0 {
            break;
        }
        pattern(seen, &mut expected[..count]);
        assert!(buffer[..count] == expected[..count], "bytes differ after offset {seen}");
        seen += count as u64;
    }
    assert_eq!(seen, total);
}

/// Streams beside each other, each read by one task and written by another, at both ends.
#[test]
fn every_byte_arrives_both_ways_at_once_and_each_direction_ends_by_itself() {
    const TOTAL: u64 = 8 << 20;
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    local(async move {
        let mut fixture = Fixture::new().await;
        let mut tasks = Vec::new();
        let mut random = fastrand::Rng::with_seed(seed);
        for _ in 0..3 {
            let (near, far) = fixture.stream().await;
            for end in [near, far] {
                let (mut reader, mut writer) = split(end);
                let (mut one, mut two) = (random.fork(), random.fork());
                tasks.push(spawn_local(async move { check(&mut reader, TOTAL, &mut one).await }));
                tasks.push(spawn_local(async move { send(&mut writer, TOTAL, &mut two).await }));
            }
        }
        for task in tasks {
            task.await.unwrap();
        }
        eventually("no stream is left", || fixture.tunnel.streams() == 0).await;
    });
}

#[test]
fn an_answer_still_comes_after_the_question_has_ended() {
    local(async {
        let (mut near, mut far) = Fixture::new().await.stream().await;
        near.write_all(b"question").await.unwrap();
        near.shutdown().await.unwrap();
        let mut text = String::new();
        far.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "question");
        assert_eq!(near.write(b"more").await.unwrap_err().kind(), ErrorKind::BrokenPipe);
        far.write_all(b"answer").await.unwrap();
        drop(far.shutdown().await);
        text.clear();
        near.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "answer");
    });
}

/// The first window of a stream, and what one turn may take of the sender's memory beyond it: nothing.
#[test]
fn what_is_not_read_stops_its_writer_and_nobody_else() {
    const WINDOW: usize = (1 << 16) - 1;
    local(async {
        let mut fixture = Fixture::new().await;
        let (mut near, mut far) = fixture.stream().await;
        let written = Rc::new(Cell::new(0));
        let counter = Rc::clone(&written);
        let writer = spawn_local(async move {
            let block = [7; 10_000];
            while counter.get() < 1 << 20 {
                counter.set(counter.get() + near.write(&block).await.unwrap());
            }
            near
        });
        eventually("the window is full", || written.get() == WINDOW).await;
        let (mut beside, mut far_beside) = fixture.stream().await;
        beside.write_all(b"and I?").await.unwrap();
        let mut six = [0; 6];
        far_beside.read_exact(&mut six).await.unwrap();
        assert_eq!((&six, written.get()), (b"and I?", WINDOW));
        let mut all = vec![0; 1 << 20];
        far.read_exact(&mut all).await.unwrap();
        assert!(all.iter().all(|byte| *byte == 7));
        drop(writer.await.unwrap());
    });
}

#[test]
fn dropping_one_end_resets_the_other_after_what_was_written() {
    local(async {
        let mut fixture = Fixture::new().await;
        let (mut near, mut far) = fixture.stream().await;
        near.write_all(b"last words").await.unwrap();
        drop(near);
        let mut text = Vec::new();
        let error = far.read_to_end(&mut text).await.unwrap_err();
        assert_eq!((&text[..], error.kind()), (&b"last words"[..], ErrorKind::ConnectionReset));
        assert_eq!(far.write(b"!").await.unwrap_err().kind(), ErrorKind::ConnectionReset);
        let (mut near, far) = fixture.stream().await;
        fixture.tunnel.close();
        assert_eq!(near.read(&mut [0]).await.unwrap_err().kind(), ErrorKind::ConnectionAborted);
        drop(far);
    });
}

/// A server that has said its last word does not wait for its client's, and must not cut that one off from reading it.
#[test]
fn dropping_an_end_that_was_shut_down_leaves_the_other_time_to_finish() {
    local(async {
        let mut fixture = Fixture::new().await;
        let (stream, mut far) = fixture.stream().await;
        let (mut client, captured) = pair().await;
        let request = ConnectRequest { authority: "10.0.0.1:80".into(), ..ConnectRequest::default() };
        drop(stream);
        drop(far);
        let stream = fixture.tunnel.open(&request).await.unwrap();
        let pumping = spawn_local(async move { pump::outbound(captured, stream, &Meter::new()).await });
        far = fixture.arrivals.recv().await.unwrap();
        far.write_all(b"bye").await.unwrap();
        far.shutdown().await.unwrap();
        drop(far);
        // Still on its way when the other end is gone already.
        client.write_all(b"what?").await.unwrap();
        let mut text = String::new();
        client.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "bye");
        client.shutdown().await.unwrap();
        assert!(!pumping.await.unwrap().reset, "it ended in order");
    });
}

#[test]
fn a_client_that_never_ends_is_reset_when_the_linger_is_over() {
    local(async {
        let mut fixture = Fixture::new().await;
        let (near, mut far) = fixture.stream().await;
        far.shutdown().await.unwrap();
        drop(far);
        eventually("the stream is gone at its server too", || {
            let _ = &near;
            fixture.tunnel.streams() == 0
        })
        .await;
    });
}

#[test]
fn a_tunnel_with_a_stream_that_is_served_here_cannot_be_frozen_and_goes_on() {
    local(async {
        let mut fixture = Fixture::new().await;
        let (mut near, mut far) = fixture.stream().await;
        assert!(matches!(fixture.tunnel.freeze(), Err(FreezeError::Served)));
        let frozen = fixture.shutdown.freeze();
        assert!(matches!(frozen[..], [Err(FreezeError::Served)]), "{frozen:?}");
        near.write_all(b"on").await.unwrap();
        let mut two = [0; 2];
        far.read_exact(&mut two).await.unwrap();
        assert_eq!(&two, b"on");
    });
}
