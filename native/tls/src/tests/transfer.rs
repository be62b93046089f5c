//! Data both ways at once, every byte checked, while keys change and pieces are of every size.
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::LazyLock;
use std::task::Poll;

use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::cipher_suite;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

use super::{Own, own_client, own_pair, own_server, provider};
use crate::TlsStream;

/// A prime length: nothing that is lost, doubled or swapped lines up again.
const PERIOD: usize = 1_000_003;
static PATTERN: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut random = fastrand::Rng::with_seed(7);
    (0..PERIOD).map(|_| random.u8(..)).collect()
});
const WIRE: usize = 1 << 20;

fn pattern(at: usize, most: usize) -> &'static [u8] {
    let rest = &PATTERN[at % PERIOD..];
    &rest[..rest.len().min(most)]
}

/// Sends and receives `total` bytes, ends its side, and waits for the other's end. `between` is called after each write.
async fn talk<S>(stream: &mut S, total: usize, seed: u64, mut between: impl FnMut(&mut S, usize))
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut random = fastrand::Rng::with_seed(seed);
    let (mut sent, mut writes, mut ended) = (0, 0, false);
    let (mut received, mut over) = (0, false);
    let mut memory = vec![0; 300_000];
    poll_fn(|cx| {
        loop {
            let mut progress = false;
            if sent < total {
                let size = if random.bool() { random.usize(1..300) } else { random.usize(1..400_000) };
                if let Poll::Ready(count) = Pin::new(&mut *stream).poll_write(cx, pattern(sent, size.min(total - sent))) {
                    sent += count.unwrap();
                    writes += 1;
                    between(stream, writes);
                    progress = true;
                }
            } else if !ended && let Poll::Ready(result) = Pin::new(&mut *stream).poll_shutdown(cx) {
                result.unwrap();
                (ended, progress) = (true, true);
            }
            if !over {
                let size = random.usize(1..memory.len());
                let mut buffer = ReadBuf::new(&mut memory[..size]);
                if let Poll::Ready(result) = Pin::new(&mut *stream).poll_read(cx, &mut buffer) {
                    result.unwrap();
                    over = buffer.filled().is_empty();
                    for piece in buffer.filled().chunks(1000) {
                        let (first, second) = piece.split_at(pattern(received, piece.len()).len());
                        assert!(first == pattern(received, first.len()) && second == pattern(received + first.len(), second.len()));
                        received += piece.len();
                    }
                    progress = true;
                }
            }
            if ended && over {
                return Poll::Ready(());
            }
            if !progress {
                return Poll::Pending;
            }
        }
    })
    .await;
    assert_eq!(received, total, "seed {seed}");
}

fn seed() -> u64 {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    seed
}

fn rekey(ask: bool, every: usize) -> impl FnMut(&mut Own, usize) {
    move |stream, writes| {
        if writes.is_multiple_of(every) {
            stream.sealer.update(ask, &mut stream.output).unwrap();
        }
    }
}

fn suites() -> [CryptoProvider; 2] {
    [cipher_suite::TLS13_AES_128_GCM_SHA256, cipher_suite::TLS13_AES_256_GCM_SHA384]
        .map(|suite| CryptoProvider { cipher_suites: vec![suite], ..provider() })
}

const LARGE: usize = 64 << 20;

#[tokio::test]
async fn sixty_four_mebibytes_pass_both_ways_between_two_of_ours() {
    let seed = seed();
    let (mut client, mut server) = own_pair(WIRE).await;
    tokio::join!(talk(&mut client, LARGE, seed, |_, _| ()), talk(&mut server, LARGE, !seed, |_, _| ()));
}

#[tokio::test]
async fn sixty_four_mebibytes_pass_both_ways_from_our_client_to_rustls() {
    let seed = seed();
    for suite in suites() {
        let (mut client, mut server) = own_client(WIRE, suite).await;
        tokio::join!(talk(&mut client, LARGE / 2, seed, |_, _| ()), talk(&mut server, LARGE / 2, !seed, |_, _| ()));
    }
}

#[tokio::test]
async fn sixty_four_mebibytes_pass_both_ways_from_rustls_to_our_server() {
    let seed = seed();
    for suite in suites() {
        let (mut client, mut server) = own_server(WIRE, suite).await;
        tokio::join!(talk(&mut client, LARGE / 2, seed, |_, _| ()), talk(&mut server, LARGE / 2, !seed, |_, _| ()));
    }
}

#[tokio::test]
async fn keys_change_in_both_directions_with_and_without_being_asked() {
    let (seed, total) = (seed(), 8 << 20);
    for (ask, records) in [(false, u64::MAX), (true, u64::MAX), (true, 1), (false, 3), (false, 1000)] {
        let (mut client, mut server) = own_pair(WIRE).await;
        client.sealer.rekey_after(records);
        server.sealer.rekey_after(records.saturating_mul(2));
        tokio::join!(talk(&mut client, total, seed, rekey(ask, 5)), talk(&mut server, total, !seed, rekey(ask, 3)));
        assert!(client.sealer.generations > 5 && server.sealer.generations > 5);

        let (mut client, mut server) = own_client(WIRE, provider()).await;
        client.sealer.rekey_after(records);
        let refresh = |stream: &mut super::Server, writes: usize| {
            if writes.is_multiple_of(4) {
                stream.get_mut().1.refresh_traffic_keys().unwrap();
            }
        };
        tokio::join!(talk(&mut client, total, seed, rekey(ask, 5)), talk(&mut server, total, !seed, refresh));
        assert!(client.sealer.generations > 5);

        let (mut client, mut server) = own_server(WIRE, provider()).await;
        server.sealer.rekey_after(records);
        let refresh = |stream: &mut super::Client, writes: usize| {
            if writes.is_multiple_of(4) {
                stream.get_mut().1.refresh_traffic_keys().unwrap();
            }
        };
        tokio::join!(talk(&mut client, total, seed, refresh), talk(&mut server, total, !seed, rekey(ask, 5)));
        assert!(server.sealer.generations > 5);
    }
}

#[tokio::test]
async fn new_keys_come_before_the_limit_and_only_when_data_follows() {
    let (mut client, mut server) = own_pair(WIRE).await;
    client.sealer.rekey_after(10);
    for _ in 0..35 {
        client.write_all(b"x").await.unwrap();
    }
    assert_eq!(client.sealer.generations, 3);
    let mut seen = [0; 35];
    server.read_exact(&mut seen).await.unwrap();
    // Asked many times, we answer once, and not before there is something to say.
    for _ in 0..5 {
        client.sealer.update(true, &mut client.output).unwrap();
        client.write_all(b"y").await.unwrap();
    }
    server.read_exact(&mut seen[..5]).await.unwrap();
    assert_eq!(server.sealer.generations, 0);
    server.write_all(b"z").await.unwrap();
    assert_eq!(server.sealer.generations, 1);
    client.read_exact(&mut seen[..1]).await.unwrap();
}

#[tokio::test]
async fn a_wire_of_single_bytes_carries_everything() {
    let seed = seed();
    for wire in [1, 2, 3, 7, 22, 4096] {
        let (mut client, mut server) = own_pair(wire).await;
        let total = if wire < 4096 { 40_000 } else { 4_000_000 };
        tokio::join!(talk(&mut client, total, seed, rekey(true, 2)), talk(&mut server, total, !seed, rekey(false, 2)));
        let (mut client, mut server) = own_client(wire, provider()).await;
        tokio::join!(talk(&mut client, total, seed, rekey(true, 2)), talk(&mut server, total, !seed, |_, _| ()));
        let (mut client, mut server) = own_server(wire, provider()).await;
        tokio::join!(talk(&mut client, total, seed, |_, _| ()), talk(&mut server, total, !seed, rekey(true, 2)));
    }
}

#[tokio::test]
async fn slices_are_joined_and_empty_ones_change_nothing() {
    use std::io::IoSlice;
    let (mut client, mut server) = own_server(WIRE, provider()).await;
    let body = &PATTERN[..100_000];
    let slices = [&[][..], b"head", &[], body, b"tail", &[]].map(IoSlice::new);
    let written = poll_fn(|cx| Pin::new(&mut server).poll_write_vectored(cx, &slices)).await.unwrap();
    assert_eq!(written, 100_008);
    assert_eq!(server.write(&[]).await.unwrap(), 0);
    assert!(server.is_write_vectored());
    server.shutdown().await.unwrap();
    let mut seen = Vec::new();
    client.read_to_end(&mut seen).await.unwrap();
    assert!(seen == [b"head", body, b"tail"].concat());
}

#[tokio::test]
async fn large_buffers_are_held_only_while_data_moves() {
    /// Beside the two expanded keys on the heap (about 600 bytes each).
    const LIMIT: usize = 320;
    let (mut client, mut server) = own_pair(WIRE).await;
    let held = |stream: &Own| stream.input.size() + stream.output.size();
    assert_eq!(held(&client) + held(&server), 0, "after the handshake");
    let mut seen = vec![0; 600_000];
    client.write_all(&PATTERN[..600_000]).await.unwrap();
    client.flush().await.unwrap();
    server.read_exact(&mut seen).await.unwrap();
    assert!(seen == PATTERN[..600_000]);
    assert_eq!(held(&client) + held(&server), 0, "after data");
    assert!((1..=4).contains(&crate::record::idle_buffers()), "{} buffers wait for the next", crate::record::idle_buffers());
    // A reader that waits for more keeps what came of a record, not the buffer it came in.
    let part = {
        client
            .sealer
            .seal(&[std::io::IoSlice::new(b"half a record")], {
                client.output = crate::record::Buffer::scratch();
                &mut client.output
            })
            .unwrap();
        std::mem::take(&mut client.output).filled().to_vec()
    };
    client.io.write_all(&part[..20]).await.unwrap();
    let waiting = tokio::time::timeout(std::time::Duration::from_millis(5), server.read(&mut seen)).await;
    assert!(waiting.is_err() && held(&server) == 20);
    client.io.write_all(&part[20..]).await.unwrap();
    assert_eq!(server.read(&mut seen).await.unwrap(), 13);
    assert_eq!(held(&server), 0);
    let size = std::mem::size_of::<TlsStream<()>>();
    assert!(size <= LIMIT, "a connection's state takes {size} bytes");
    println!("state of a connection: {size} bytes");
}

#[tokio::test]
async fn a_peer_that_does_not_read_stops_the_writer_and_a_flush_tells_when_it_went_on() {
    let (mut client, mut server) = own_pair(1000).await;
    let first = client.write(&PATTERN[..500_000]).await.unwrap();
    assert!(first > 200_000, "one buffer was taken: {first}");
    let patience = std::time::Duration::from_millis(5);
    assert!(tokio::time::timeout(patience, client.write(b"more")).await.is_err());
    assert!(tokio::time::timeout(patience, client.flush()).await.is_err());
    let mut seen = vec![0; first];
    let (flushed, read) = tokio::join!(client.flush(), server.read_exact(&mut seen));
    flushed.unwrap();
    read.unwrap();
    assert!(seen == PATTERN[..first]);
}
