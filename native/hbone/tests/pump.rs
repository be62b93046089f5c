//! The pump over real sockets: every byte, every FIN and every reset of one side arrives at the other.
#![allow(clippy::unwrap_used)] // in tests a failed unwrap is the message

mod support;

use std::io::ErrorKind;
use std::rc::Rc;
use std::time::Duration;

use support::{Authority, CLIENT, SERVER, eventually, identity, listen, local, pair, pattern};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use trackbed_hbone::limits::Limits;
use trackbed_hbone::{ClosedBy, ConnectRequest, Meter, Outcome, Request, Shutdown, Tunnel, pump, serve};

/// application | outbound pump = tunnel over loopback = inbound pump | application
struct Path {
    client: TcpStream,
    server: TcpStream,
    outbound: JoinHandle<Outcome>,
    inbound: JoinHandle<Outcome>,
    outbound_meter: Rc<Meter>,
}

/// A tunnel whose server hands every stream's socket out, and what opens paths in it.
struct Fixture {
    tunnel: Tunnel,
    arrivals: tokio::sync::mpsc::UnboundedReceiver<(TcpStream, JoinHandle<Outcome>)>,
}

impl Fixture {
    async fn new() -> Self {
        let authority = Authority::new();
        let (ours, theirs) = (authority.certify(CLIENT), authority.certify(SERVER));
        let (near, far) = pair().await;
        let (arrived, arrivals) = tokio::sync::mpsc::unbounded_channel();
        tokio::task::spawn_local(async move {
            let handler = move |request: Request| {
                let arrived = arrived.clone();
                async move {
                    let stream = request.accept(None).unwrap();
                    let (near, far) = pair().await;
                    let task = tokio::task::spawn_local(async move { pump::inbound(stream, near, &Meter::new()).await });
                    arrived.send((far, task)).unwrap();
                }
            };
            let peer = far.peer_addr().unwrap();
            serve(far, peer, &theirs, Limits::default(), Shutdown::new(), handler).await
        });
        let tunnel = Tunnel::connect(near, &ours, &[identity(SERVER)], Limits::default()).await.unwrap();
        Self { tunnel, arrivals }
    }

    async fn path(&mut self) -> Path {
        let request = ConnectRequest { authority: "10.0.0.1:80".into(), ..ConnectRequest::default() };
        let stream = self.tunnel.open(&request).await.unwrap();
        let (client, captured) = pair().await;
        let outbound_meter = Meter::new();
        let meter = Rc::clone(&outbound_meter);
        let outbound = tokio::task::spawn_local(async move { pump::outbound(captured, stream, &meter).await });
        let (server, inbound) = self.arrivals.recv().await.unwrap();
        Path { client, server, outbound, inbound, outbound_meter }
    }
}

fn abort(socket: TcpStream) {
    pump::reset(socket);
}

async fn read_error(socket: &mut TcpStream) -> Option<ErrorKind> {
    let mut buffer = [0; 4096];
    loop {
        match socket.read(&mut buffer).await {
            Ok(0) => return None,
            Ok(_) => {}
            Err(error) => return Some(error.kind()),
        }
    }
}

async fn send_pattern(socket: &mut (impl AsyncWriteExt + Unpin), total: u64) {
    let mut buffer = vec![0; 100_003];
    let mut sent = 0;
    while sent < total {
        let size = usize::try_from(total - sent).unwrap().min(buffer.len());
        pattern(sent, &mut buffer[..size]);
        socket.write_all(&buffer[..size]).await.unwrap();
        sent += size as u64;
    }
    socket.shutdown().await.unwrap();
}

async fn check_pattern(socket: &mut (impl AsyncReadExt + Unpin), total: u64) {
    let (mut buffer, mut expected, mut seen) = (vec![0; 65536], vec![0; 65536], 0);
    loop {
        let count = socket.read(&mut buffer).await.unwrap();
        if count == 0 {
            break;
        }
        pattern(seen, &mut expected[..count]);
        assert!(buffer[..count] == expected[..count], "bytes differ after offset {seen}");
        seen += count as u64;
    }
    assert_eq!(seen, total);
}

#[test]
fn sixty_four_mebibytes_arrive_unchanged_both_ways_at_once() {
    const TOTAL: u64 = 64 << 20;
    local(async {
        let mut path = Fixture::new().await.path().await;
        let (mut client_read, mut client_write) = path.client.split();
        let (mut server_read, mut server_write) = path.server.split();
        tokio::join!(
            send_pattern(&mut client_write, TOTAL),
            check_pattern(&mut server_read, TOTAL),
            send_pattern(&mut server_write, TOTAL),
            check_pattern(&mut client_read, TOTAL),
        );
        for end in [path.outbound.await.unwrap(), path.inbound.await.unwrap()] {
            assert_eq!((end.sent, end.received, end.reset, end.code), (TOTAL, TOTAL, false, ""));
            assert!(end.first_byte.is_some());
        }
    });
}

#[test]
fn fin_of_the_client_leaves_the_way_back_open() {
    local(async {
        let mut path = Fixture::new().await.path().await;
        path.client.write_all(b"question").await.unwrap();
        path.client.shutdown().await.unwrap();
        let mut seen = String::new();
        path.server.read_to_string(&mut seen).await.unwrap();
        assert_eq!(seen, "question");
        path.server.write_all(b"answer").await.unwrap();
        drop(path.server);
        let mut answer = String::new();
        path.client.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "answer");
        let end = path.outbound.await.unwrap();
        assert_eq!((end.closed_by, end.reset, end.sent, end.received), (ClosedBy::Client, false, 8, 6));
    });
}

#[test]
fn fin_of_the_server_leaves_the_way_there_open() {
    local(async {
        let mut path = Fixture::new().await.path().await;
        path.server.shutdown().await.unwrap();
        assert_eq!(path.client.read(&mut [0; 1]).await.unwrap(), 0);
        path.client.write_all(b"still talking").await.unwrap();
        drop(path.client);
        let mut seen = String::new();
        path.server.read_to_string(&mut seen).await.unwrap();
        assert_eq!(seen, "still talking");
        let end = path.inbound.await.unwrap();
        assert_eq!((end.closed_by, end.reset), (ClosedBy::Server, false));
    });
}

#[test]
fn reset_of_the_client_is_a_reset_at_the_server() {
    local(async {
        let mut path = Fixture::new().await.path().await;
        abort(path.client);
        assert_eq!(read_error(&mut path.server).await, Some(ErrorKind::ConnectionReset));
        for end in [path.outbound.await.unwrap(), path.inbound.await.unwrap()] {
            assert_eq!((end.closed_by, end.reset, end.code), (ClosedBy::Client, true, ""));
        }
    });
}

#[test]
fn reset_of_the_server_is_a_reset_at_the_client_after_the_bytes_before_it() {
    local(async {
        let mut path = Fixture::new().await.path().await;
        let body = vec![7; 30_000]; // fits what the kernel sends at once: a reset drops what is still queued in its own socket
        let reader = async {
            let mut seen = vec![0; body.len()];
            path.client.read_exact(&mut seen).await.unwrap();
            assert!(seen == body);
            read_error(&mut path.client).await
        };
        let writer = async {
            path.server.write_all(&body).await.unwrap();
            abort(path.server);
        };
        let (error, ()) = tokio::join!(reader, writer);
        assert_eq!(error, Some(ErrorKind::ConnectionReset));
        let end = path.outbound.await.unwrap();
        assert_eq!((end.closed_by, end.reset, end.received), (ClosedBy::Server, true, 30_000));
    });
}

#[test]
fn fin_and_then_reset_is_a_reset_and_no_second_fin() {
    local(async {
        let mut path = Fixture::new().await.path().await;
        path.client.write_all(b"x").await.unwrap();
        path.client.shutdown().await.unwrap();
        assert_eq!(path.server.read(&mut [0; 9]).await.unwrap(), 1);
        assert_eq!(path.server.read(&mut [0; 9]).await.unwrap(), 0);
        abort(path.client);
        let end = path.inbound.await.unwrap();
        assert!(end.reset, "the server's pump must not go on as half open");
        let refused = async {
            while path.server.write_all(b"into the void").await.is_ok() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), refused).await.expect("writes of the server fail after the reset");
    });
}

#[test]
fn reset_is_seen_while_the_other_side_does_not_read() {
    local(async {
        let mut path = Fixture::new().await.path().await;
        let block = vec![1; 1 << 20];
        // Fill every buffer and window on the way until nothing moves.
        while let Ok(result) = tokio::time::timeout(Duration::from_millis(200), path.client.write_all(&block)).await {
            result.unwrap();
        }
        abort(path.client);
        let end = tokio::time::timeout(Duration::from_secs(5), path.outbound).await.expect("the reset is noticed").unwrap();
        assert!(end.reset);
        assert_eq!(end.closed_by, ClosedBy::Client);
        assert_eq!(read_error(&mut path.server).await, Some(ErrorKind::ConnectionReset));
    });
}

#[test]
fn a_cut_resets_both_sides_at_once_and_says_so() {
    local(async {
        let mut path = Fixture::new().await.path().await;
        path.client.write_all(b"hello").await.unwrap();
        assert_eq!(path.server.read(&mut [0; 9]).await.unwrap(), 5);
        path.outbound_meter.cut();
        assert_eq!(read_error(&mut path.client).await, Some(ErrorKind::ConnectionReset));
        assert_eq!(read_error(&mut path.server).await, Some(ErrorKind::ConnectionReset));
        let end = path.outbound.await.unwrap();
        assert_eq!((end.closed_by, end.reset, end.code), (ClosedBy::Engine, true, ""));
    });
}

#[test]
fn a_lost_tunnel_resets_the_application_and_names_the_code() {
    local(async {
        let mut fixture = Fixture::new().await;
        let mut path = fixture.path().await;
        fixture.tunnel.close();
        assert_eq!(read_error(&mut path.client).await, Some(ErrorKind::ConnectionReset));
        assert_eq!(read_error(&mut path.server).await, Some(ErrorKind::ConnectionReset));
        assert_eq!(path.outbound.await.unwrap().code, "E_TUNNEL_LOST");
        assert_eq!(path.inbound.await.unwrap().code, "E_TUNNEL_LOST");
    });
}

#[test]
fn both_sides_filled_to_the_brim_and_ended_move_again_once_they_are_read() {
    const TOTAL: u64 = 24 << 20;
    local(async {
        for server_reads_first in [true, false] {
            let path = Fixture::new().await.path().await;
            let (mut client_read, client_write) = path.client.into_split();
            let (mut server_read, server_write) = path.server.into_split();
            let senders = [client_write, server_write].map(|mut writer| {
                let progress = Rc::new(std::cell::Cell::new(0));
                let sent = Rc::clone(&progress);
                let task = tokio::task::spawn_local(async move {
                    let mut buffer = vec![0; 100_003];
                    while sent.get() < TOTAL {
                        let size = usize::try_from(TOTAL - sent.get()).unwrap().min(buffer.len());
                        pattern(sent.get(), &mut buffer[..size]);
                        writer.write_all(&buffer[..size]).await.unwrap();
                        sent.set(sent.get() + size as u64);
                    }
                    writer.shutdown().await.unwrap();
                });
                (task, progress)
            });
            // Until nothing moves any more: the kernel's buffers and the windows hold less than what is to be sent, or all but the FIN.
            let mut before = (1, 1);
            while before != (senders[0].1.get(), senders[1].1.get()) {
                before = (senders[0].1.get(), senders[1].1.get());
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            if server_reads_first {
                check_pattern(&mut server_read, TOTAL).await;
                check_pattern(&mut client_read, TOTAL).await;
            } else {
                check_pattern(&mut client_read, TOTAL).await;
                check_pattern(&mut server_read, TOTAL).await;
            }
            for (task, _) in senders {
                task.await.unwrap();
            }
            assert!(!path.outbound.await.unwrap().reset && !path.inbound.await.unwrap().reset);
        }
    });
}

#[test]
fn a_hundred_streams_fill_one_tunnel_and_all_answer() {
    local(async {
        let mut fixture = Fixture::new().await;
        let mut paths = Vec::new();
        for _ in 0..100 {
            paths.push(fixture.path().await);
        }
        assert!(!fixture.tunnel.has_room(), "100 streams are the most for one tunnel");
        for path in &mut paths {
            path.client.write_all(b"ping").await.unwrap();
        }
        for path in &mut paths {
            let mut seen = [0; 4];
            path.server.read_exact(&mut seen).await.unwrap();
            path.server.write_all(&seen).await.unwrap();
        }
        for path in &mut paths {
            let mut seen = [0; 4];
            path.client.read_exact(&mut seen).await.unwrap();
            assert_eq!(&seen, b"ping");
        }
        drop(paths);
        eventually("all slots are given back", || fixture.tunnel.streams() == 0).await;
    });
}

#[test]
fn four_streams_that_nobody_reads_do_not_stall_a_fifth() {
    local(async {
        let mut fixture = Fixture::new().await;
        let mut stalled = Vec::new();
        let block = vec![1; 1 << 20];
        for _ in 0..4 {
            let mut path = fixture.path().await;
            while tokio::time::timeout(Duration::from_millis(200), path.client.write_all(&block)).await.is_ok() {}
            stalled.push(path);
        }
        let mut path = fixture.path().await;
        let (mut client_read, mut client_write) = path.client.split();
        let (mut server_read, mut server_write) = path.server.split();
        tokio::join!(
            send_pattern(&mut client_write, 8 << 20),
            check_pattern(&mut server_read, 8 << 20),
            send_pattern(&mut server_write, 8 << 20),
            check_pattern(&mut client_read, 8 << 20),
        );
    });
}

#[test]
fn a_relay_between_two_sockets_keeps_bytes_fins_and_resets() {
    local(async {
        for total in [0, 1, 5 << 20] {
            let ((mut client, near), (far, mut server)) = (pair().await, pair().await);
            let relay = tokio::task::spawn_local(async move { pump::relay(near, far, &Meter::new()).await });
            let (mut client_read, mut client_write) = client.split();
            let (mut server_read, mut server_write) = server.split();
            tokio::join!(
                send_pattern(&mut client_write, total),
                check_pattern(&mut server_read, total),
                send_pattern(&mut server_write, total),
                check_pattern(&mut client_read, total),
            );
            let end = relay.await.unwrap();
            assert_eq!((end.sent, end.received, end.reset), (total, total, false));
        }
        let ((client, near), (far, mut server)) = (pair().await, pair().await);
        let relay = tokio::task::spawn_local(async move { pump::relay(near, far, &Meter::new()).await });
        abort(client);
        assert_eq!(read_error(&mut server).await, Some(ErrorKind::ConnectionReset));
        assert!(relay.await.unwrap().reset);
    });
}

#[test]
fn a_relay_keeps_half_open_connections_and_delivers_bytes_before_a_reset() {
    local(async {
        let ((mut client, near), (far, mut server)) = (pair().await, pair().await);
        let meter = Meter::new();
        let live = Rc::clone(&meter);
        let relay = tokio::task::spawn_local(async move { pump::relay(near, far, &meter).await });
        client.write_all(b"question").await.unwrap();
        client.shutdown().await.unwrap();
        let mut seen = String::new();
        server.read_to_string(&mut seen).await.unwrap();
        assert_eq!((seen.as_str(), live.sent(), live.received()), ("question", 8, 0));
        server.write_all(&vec![7; 30_000]).await.unwrap();
        abort(server);
        let mut answer = vec![0; 30_000];
        client.read_exact(&mut answer).await.unwrap();
        assert!(answer.iter().all(|byte| *byte == 7));
        assert_eq!(read_error(&mut client).await, Some(ErrorKind::ConnectionReset));
        let end = relay.await.unwrap();
        assert_eq!((end.closed_by, end.reset, end.received), (ClosedBy::Client, true, 30_000), "the client's FIN came first");
    });
}

#[test]
fn bytes_that_the_kernel_still_holds_arrive_after_an_orderly_end_and_then_fin() {
    // More than a socket takes before its application reads, less than the sending one holds.
    const TOTAL: u64 = 300_000;
    local(async {
        let ((mut client, near), (far, mut server)) = (pair().await, pair().await);
        socket2::SockRef::from(&near).set_send_buffer_size(1 << 20).unwrap();
        socket2::SockRef::from(&client).set_recv_buffer_size(4096).unwrap();
        let relay = tokio::task::spawn_local(async move { pump::relay(near, far, &Meter::new()).await });
        send_pattern(&mut server, TOTAL).await;
        client.shutdown().await.unwrap();
        assert!(!relay.await.unwrap().reset, "the pump is done, and its sockets are closed");
        let arrived = client.peek(&mut vec![0; 300_000]).await.unwrap();
        assert!((arrived as u64) < TOTAL, "{arrived} bytes: the sending kernel holds nothing, the claim is not tried");
        check_pattern(&mut client, TOTAL).await;
        assert_eq!(read_error(&mut server).await, None);
    });
}

#[test]
fn a_pump_that_is_dropped_in_mid_life_resets_what_it_held() {
    local(async {
        let ((mut client, near), (far, mut server)) = (pair().await, pair().await);
        let relay = tokio::task::spawn_local(async move { pump::relay(near, far, &Meter::new()).await });
        client.write_all(b"x").await.unwrap();
        server.read_exact(&mut [0]).await.unwrap();
        relay.abort();
        assert_eq!(read_error(&mut client).await, Some(ErrorKind::ConnectionReset));
        assert_eq!(read_error(&mut server).await, Some(ErrorKind::ConnectionReset));
        let mut path = Fixture::new().await.path().await;
        path.client.write_all(b"x").await.unwrap();
        path.server.read_exact(&mut [0]).await.unwrap();
        path.outbound.abort();
        assert_eq!(read_error(&mut path.client).await, Some(ErrorKind::ConnectionReset));
        assert_eq!(read_error(&mut path.server).await, Some(ErrorKind::ConnectionReset));
    });
}

#[test]
fn a_relay_to_a_reader_that_stopped_is_cut_at_once() {
    local(async {
        let ((mut client, near), (far, mut server)) = (pair().await, pair().await);
        let meter = Meter::new();
        let cut = Rc::clone(&meter);
        let relay = tokio::task::spawn_local(async move { pump::relay(near, far, &meter).await });
        let block = vec![1; 1 << 20];
        while tokio::time::timeout(Duration::from_millis(200), client.write_all(&block)).await.is_ok() {}
        let start = std::time::Instant::now();
        cut.cut();
        assert_eq!(relay.await.unwrap().closed_by, ClosedBy::Engine);
        assert!(start.elapsed() < Duration::from_millis(900), "a cut does not linger");
        assert_eq!(read_error(&mut client).await, Some(ErrorKind::ConnectionReset));
        assert_eq!(read_error(&mut server).await, Some(ErrorKind::ConnectionReset));
    });
}

#[test]
fn many_relays_at_once_keep_their_bytes_apart() {
    // More at a time than a worker keeps pipes, each slower on one side: bytes left in a pipe must never reach another connection.
    const TOTAL: u64 = 1 << 20;
    local(async {
        let relays = (0..40).map(|index| async move {
            let ((client, near), (far, server)) = (pair().await, pair().await);
            let relay = tokio::task::spawn_local(async move { pump::relay(near, far, &Meter::new()).await });
            if index % 4 == 3 {
                let (mut client, block) = (client, vec![0; 100_000]);
                while tokio::time::timeout(Duration::from_millis(50), client.write_all(&block)).await.is_ok() {}
                abort(client);
                assert!(relay.await.unwrap().reset);
                return;
            }
            let (_, mut write) = client.into_split();
            let (mut read, server_write) = server.into_split();
            tokio::join!(send_pattern(&mut write, TOTAL), check_pattern(&mut read, TOTAL));
            drop(server_write);
            assert_eq!(relay.await.unwrap().sent, TOTAL);
        });
        futures_util::future::join_all(relays).await;
    });
}

#[test]
fn a_connection_refused_before_any_pump_is_reset() {
    local(async {
        let (listener, address) = listen().await;
        let (mut client, accepted) = tokio::join!(async { TcpStream::connect(address).await.unwrap() }, listener.accept());
        pump::reset(accepted.unwrap().0);
        assert_eq!(read_error(&mut client).await, Some(ErrorKind::ConnectionReset));
    });
}

#[test]
fn what_an_idle_connection_holds_does_not_grow() {
    local(async {
        let mut fixture = Fixture::new().await;
        let request = ConnectRequest { authority: "10.0.0.1:80".into(), ..ConnectRequest::default() };
        let stream = fixture.tunnel.open(&request).await.unwrap();
        let ((_client, near), (far, _server)) = (pair().await, pair().await);
        let meter = Meter::new();
        let outbound = size_of_val(&pump::outbound(near, stream, &meter));
        let (_other, near) = pair().await;
        let relay = size_of_val(&pump::relay(near, far, &meter));
        println!("outbound {outbound}, relay {relay}, meter {}", size_of::<Meter>());
        assert!(outbound <= 96 && relay <= 256 && size_of::<Meter>() <= 72, "outbound {outbound}, relay {relay} bytes");
        drop(fixture.arrivals.recv().await);
    });
}
