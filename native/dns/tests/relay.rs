//! Claims about a captured pod's resolver, with real servers outside and the rules of an enrolled pod.
#![allow(clippy::unwrap_used, reason = "a test that cannot set up shall stop")]

#[path = "../../netns/tests/net/mod.rs"]
mod net;

use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use hickory_proto::{
    op::{Message, MessageType, OpCode, Query, ResponseCode},
    rr::{Name, RData, Record, RecordType, rdata::A},
};
use net::{OUTSIDE_V4, OUTSIDE_V6, PATIENCE, any, at, captured_pod};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    time::{sleep, timeout},
};
use trackbed_dns::{Addresses, IN_FLIGHT, Names, RESEND_AFTER, Resolver, UPSTREAM_LIMIT};
use trackbed_netns::{Netns, socket};

const MESH_NAME: &str = "cart.shop.svc.cluster.local.";
const MESH_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
const SERVER_IP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// Addresses that nobody has.
const NOWHERE: [&str; 2] = ["10.1.2.3", "fd00:1::5"];

struct Mesh;

impl Names for Mesh {
    fn lookup(&self, hostname: &str) -> Option<Addresses> {
        (hostname == MESH_NAME.trim_end_matches('.')).then(|| Addresses { v4: vec![MESH_IP], ..Addresses::default() })
    }
    fn search(&self) -> impl AsRef<[String]> {
        [String::from("shop.svc.cluster.local")]
    }
}

/// What the server outside saw.
#[derive(Default)]
struct Seen {
    queries: AtomicUsize,
    ids_and_ports: Mutex<Vec<(u16, u16)>>,
}

fn message(name: &str, id: u16) -> Message {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    message
}

fn response(query: &Message, ip: Ipv4Addr) -> Message {
    let mut response = Message::response(query.metadata.id, query.metadata.op_code);
    let question = query.queries.first().unwrap().clone();
    response.add_answer(Record::from_rdata(question.name.clone(), 60, RData::A(A(ip))));
    response.add_query(question);
    response
}

/// A DNS server outside, on UDP and TCP; the first label says how it behaves.
fn server(outside: &Netns, address: SocketAddr) -> Arc<Seen> {
    let seen = Arc::new(Seen::default());
    let (udp, tcp) =
        outside.enter(|| (std::net::UdpSocket::bind(address).unwrap(), std::net::TcpListener::bind(address).unwrap())).unwrap();
    let log = Arc::clone(&seen);
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok((length, from)) = udp.recv_from(&mut buffer) {
            let query = Message::from_vec(&buffer[..length]).unwrap();
            log.ids_and_ports.lock().unwrap().push((query.metadata.id, from.port()));
            log.queries.fetch_add(1, Ordering::SeqCst);
            let say = |message: &Message| udp.send_to(&message.to_vec().unwrap(), from).unwrap();
            match query.queries.first().unwrap().name.iter().next().unwrap() {
                b"silent" => {}
                // The first datagram is taken for lost.
                b"lossy" if log.queries.load(Ordering::SeqCst) % 2 == 1 => {}
                b"forged" => {
                    let forged = Ipv4Addr::new(203, 0, 113, 66);
                    let mut other_id = response(&query, forged);
                    other_id.metadata.id = query.metadata.id.wrapping_add(1);
                    say(&other_id);
                    say(&response(&message("other.example.", query.metadata.id), forged));
                    let mut no_response = response(&query, forged);
                    no_response.metadata.message_type = MessageType::Query;
                    say(&no_response);
                    udp.send_to(b"short", from).unwrap();
                    say(&response(&query, SERVER_IP));
                }
                _ => {
                    say(&response(&query, SERVER_IP));
                }
            }
        }
    });
    let log = Arc::clone(&seen);
    thread::spawn(move || {
        while let Ok((mut stream, _)) = tcp.accept() {
            let log = Arc::clone(&log);
            thread::spawn(move || {
                let mut length = [0; 2];
                while stream.read_exact(&mut length).is_ok() {
                    let mut bytes = vec![0; usize::from(u16::from_be_bytes(length))];
                    stream.read_exact(&mut bytes).unwrap();
                    log.queries.fetch_add(1, Ordering::SeqCst);
                    let query = Message::from_vec(&bytes).unwrap();
                    match query.queries.first().unwrap().name.iter().next().unwrap() {
                        b"silent" => continue,
                        b"hangup" => return,
                        _ => {}
                    }
                    let bytes = response(&query, SERVER_IP).to_vec().unwrap();
                    stream.write_all(&u16::try_from(bytes.len()).unwrap().to_be_bytes()).unwrap();
                    stream.write_all(&bytes).unwrap();
                }
            });
        }
    });
    seen
}

/// Runs the body while the pod's resolver serves.
async fn serving(pod: &Arc<Netns>, body: impl AsyncFnOnce(&Resolver<Mesh, Arc<Netns>>)) {
    let resolver = Resolver::new(Mesh, Arc::clone(pod));
    let [udp4, udp6] = any(15053).map(|address| socket::listen_dns_udp(pod, address).unwrap());
    let [tcp4, tcp6] = any(15053).map(|address| socket::listen_tcp(pod, address, socket::Peer::Application).unwrap());
    tokio::select! {
        error = resolver.serve_udp(udp4) => panic!("{error}"),
        error = resolver.serve_udp(udp6) => panic!("{error}"),
        error = resolver.serve_tcp(tcp4) => panic!("{error}"),
        error = resolver.serve_tcp(tcp6) => panic!("{error}"),
        () = body(&resolver) => {}
    }
}

/// An application's own UDP socket.
fn app_socket(pod: &Netns, local: SocketAddr) -> UdpSocket {
    let socket = pod.enter(|| std::net::UdpSocket::bind(local)).unwrap().unwrap();
    socket.set_nonblocking(true).unwrap();
    UdpSocket::from_std(socket).unwrap()
}

fn wildcard(server: SocketAddr) -> SocketAddr {
    at(if server.is_ipv4() { "0.0.0.0" } else { "::" }, 0)
}

async fn receive(app: &UdpSocket) -> (Message, SocketAddr) {
    let mut buffer = [0; 4096];
    let (length, from) = timeout(PATIENCE, app.recv_from(&mut buffer)).await.expect("an answer").unwrap();
    (Message::from_vec(&buffer[..length]).unwrap(), from)
}

async fn dig(pod: &Netns, server: SocketAddr, name: &str) -> Message {
    let app = app_socket(pod, wildcard(server));
    app.send_to(&message(name, 77).to_vec().unwrap(), server).await.unwrap();
    let (response, from) = receive(&app).await;
    assert_eq!(from, server, "the answer comes from the server that was asked");
    assert_eq!(response.metadata.id, 77);
    response
}

fn told(message: &Message) -> Vec<IpAddr> {
    message.answers.iter().filter_map(|record| record.data.ip_addr()).collect()
}

#[tokio::test]
async fn mesh_names_are_answered_in_the_name_of_any_server_reachable_or_not() {
    let Some(pair) = captured_pod() else { return };
    let pod = Arc::new(pair.pod);
    serving(&pod, async |resolver| {
        for server in [OUTSIDE_V4, OUTSIDE_V6, NOWHERE[0], NOWHERE[1]] {
            assert_eq!(told(&dig(&pod, at(server, 53), MESH_NAME).await), [MESH_IP]);
            assert_eq!(told(&dig(&pod, at(server, 53), "cart.").await), [MESH_IP]);
        }
        assert_eq!(resolver.counters().answered.get(), 8);
        assert_eq!(resolver.counters().forwarded.get(), 0);
    })
    .await;
}

#[tokio::test]
async fn other_names_are_asked_of_that_server_with_a_new_id_and_port_each() {
    let Some(pair) = captured_pod() else { return };
    let pod = Arc::new(pair.pod);
    let servers = [OUTSIDE_V4, OUTSIDE_V6].map(|ip| (at(ip, 53), server(&pair.outside, at(ip, 53))));
    serving(&pod, async |resolver| {
        for (server, seen) in &servers {
            for _ in 0..8 {
                assert_eq!(told(&dig(&pod, *server, "www.example.").await), [SERVER_IP]);
            }
            let seen = seen.ids_and_ports.lock().unwrap().clone();
            assert_eq!(seen.len(), 8);
            // Of 8 random ids two are equal once in 2000 runs; three never.
            for pick in [|(id, _): &(u16, u16)| *id, |(_, port): &(u16, u16)| *port] {
                assert!(seen.iter().map(pick).collect::<std::collections::HashSet<_>>().len() > 6, "{seen:?}");
            }
        }
        assert_eq!(resolver.counters().forwarded.get(), 16);
    })
    .await;
}

#[tokio::test]
async fn an_app_with_a_connected_socket_or_its_own_port_53_is_served_too() {
    let Some(pair) = captured_pod() else { return };
    let pod = Arc::new(pair.pod);
    server(&pair.outside, at(OUTSIDE_V4, 53));
    serving(&pod, async |_| {
        let _own_server = (app_socket(&pod, at("0.0.0.0", 53)), app_socket(&pod, at("::", 0)));
        let app = app_socket(&pod, at("0.0.0.0", 0));
        app.connect(at(OUTSIDE_V4, 53)).await.unwrap();
        for (name, ip) in [("www.example.", SERVER_IP), (MESH_NAME, MESH_IP), ("www.example.", SERVER_IP)] {
            app.send(&message(name, 5).to_vec().unwrap()).await.unwrap();
            assert_eq!(told(&receive(&app).await.0), [ip]);
        }
    })
    .await;
}

#[tokio::test]
async fn answers_that_do_not_match_are_ignored() {
    let Some(pair) = captured_pod() else { return };
    let pod = Arc::new(pair.pod);
    server(&pair.outside, at(OUTSIDE_V4, 53));
    serving(&pod, async |_| {
        assert_eq!(told(&dig(&pod, at(OUTSIDE_V4, 53), "forged.example.").await), [SERVER_IP]);
    })
    .await;
}

#[tokio::test]
async fn a_server_that_is_closed_or_silent_becomes_servfail_and_mesh_names_go_on() {
    let Some(pair) = captured_pod() else { return };
    let pod = Arc::new(pair.pod);
    serving(&pod, async |resolver| {
        // Nobody listens: known at once.
        let began = Instant::now();
        let response = dig(&pod, at(OUTSIDE_V4, 53), "www.example.").await;
        assert_eq!(response.metadata.response_code, ResponseCode::ServFail);
        assert!(began.elapsed() < UPSTREAM_LIMIT);

        server(&pair.outside, at(OUTSIDE_V4, 53));
        let began = Instant::now();
        let mut over_tcp = tcp_client(&pod, at(OUTSIDE_V4, 53)).await;
        send(&mut over_tcp, &message("silent.example.", 1)).await;
        let silent = dig(&pod, at(OUTSIDE_V4, 53), "silent.example.");
        let (response, streamed, ()) = tokio::join!(silent, next(&mut over_tcp), async {
            assert_eq!(told(&dig(&pod, at(OUTSIDE_V4, 53), MESH_NAME).await), [MESH_IP]);
            assert!(began.elapsed() < UPSTREAM_LIMIT, "a mesh name does not wait behind a silent server");
        });
        assert_eq!(response.metadata.response_code, ResponseCode::ServFail);
        assert_eq!(streamed.metadata.response_code, ResponseCode::ServFail);
        assert!(began.elapsed() >= UPSTREAM_LIMIT);
        assert_eq!(resolver.counters().failed.get(), 3);
        assert_eq!(resolver.counters().limited.get(), 0);
    })
    .await;
}

#[tokio::test]
async fn a_lost_query_is_sent_again_long_before_the_app_would_and_only_once() {
    let Some(pair) = captured_pod() else { return };
    let pod = Arc::new(pair.pod);
    for server_address in [at(OUTSIDE_V4, 53), at(OUTSIDE_V6, 53)] {
        let seen = server(&pair.outside, server_address);
        serving(&pod, async |_| {
            let began = Instant::now();
            assert_eq!(told(&dig(&pod, server_address, "lossy.example.").await), [IpAddr::from(SERVER_IP)]);
            assert!(began.elapsed() >= RESEND_AFTER && began.elapsed() < UPSTREAM_LIMIT);
            assert_eq!(seen.queries.load(Ordering::SeqCst), 2);
            assert_eq!(dig(&pod, server_address, "silent.example.").await.metadata.response_code, ResponseCode::ServFail);
            assert_eq!(seen.queries.load(Ordering::SeqCst), 4, "twice, not more");
            let sent = seen.ids_and_ports.lock().unwrap();
            assert_eq!((sent[0], sent[2]), (sent[1], sent[3]), "the same query, so that either answer will do");
        })
        .await;
    }
}

#[tokio::test]
async fn more_queries_than_the_bound_are_servfail_at_once() {
    let Some(pair) = captured_pod() else { return };
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised).expect("raise the descriptor limit to its maximum");
    let pod = Arc::new(pair.pod);
    let seen = server(&pair.outside, at(OUTSIDE_V4, 53));
    serving(&pod, async |resolver| {
        let app = app_socket(&pod, at("0.0.0.0", 0));
        let began = Instant::now();
        for number in 1..=IN_FLIGHT {
            app.send_to(&message("silent.example.", 1).to_vec().unwrap(), at(OUTSIDE_V4, 53)).await.unwrap();
            // In steps, so that no socket's queue overflows.
            while number % 32 == 0 && seen.queries.load(Ordering::SeqCst) < number {
                assert!(began.elapsed() < PATIENCE, "the server saw {} of {number}", seen.queries.load(Ordering::SeqCst));
                sleep(Duration::from_millis(1)).await;
            }
        }
        app.send_to(&message("silent.example.", 2).to_vec().unwrap(), at(OUTSIDE_V4, 53)).await.unwrap();
        let (response, _) = receive(&app).await;
        assert_eq!((response.metadata.id, response.metadata.response_code), (2, ResponseCode::ServFail));
        assert_eq!((resolver.counters().limited.get(), resolver.counters().failed.get()), (1, 1));
        assert_eq!(told(&dig(&pod, at(OUTSIDE_V4, 53), MESH_NAME).await), [MESH_IP]);
    })
    .await;
}

#[tokio::test]
async fn a_query_straight_to_our_own_port_is_not_answered() {
    let Some(pair) = captured_pod() else { return };
    let pod = Arc::new(pair.pod);
    serving(&pod, async |resolver| {
        for ip in ["127.0.0.1", "::1"] {
            let before = resolver.counters().refused.get();
            let app = app_socket(&pod, wildcard(at(ip, 0)));
            app.send_to(&message("www.example.", 1).to_vec().unwrap(), at(ip, 15053)).await.unwrap();
            let deadline = Instant::now() + PATIENCE;
            while resolver.counters().refused.get() == before {
                assert!(Instant::now() < deadline, "never refused");
                sleep(Duration::from_millis(1)).await;
            }
            let mut over_tcp = tcp_client(&pod, at(ip, 15053)).await;
            let _ = over_tcp.write_all(b"\0\x01x").await;
            let ended = timeout(PATIENCE, over_tcp.read(&mut [0; 1])).await.expect("closed");
            assert!(matches!(ended, Ok(0) | Err(_)));
        }
        assert_eq!(resolver.counters().refused.get(), 4);
    })
    .await;
}

async fn tcp_client(pod: &Netns, server: SocketAddr) -> TcpStream {
    // As an application connects: unmarked.
    let stream = socket::connect_unmarked(pod, server).unwrap();
    timeout(PATIENCE, socket::established(stream)).await.expect("in time").unwrap()
}

async fn send(stream: &mut TcpStream, message: &Message) {
    let bytes = message.to_vec().unwrap();
    let frame = [&u16::try_from(bytes.len()).unwrap().to_be_bytes()[..], &bytes].concat();
    stream.write_all(&frame).await.unwrap();
}

async fn next(stream: &mut TcpStream) -> Message {
    let read = async {
        let mut bytes = vec![0; usize::from(stream.read_u16().await.unwrap())];
        stream.read_exact(&mut bytes).await.unwrap();
        Message::from_vec(&bytes).unwrap()
    };
    timeout(PATIENCE, read).await.expect("an answer")
}

#[tokio::test]
async fn one_tcp_connection_carries_many_queries_of_both_kinds() {
    let Some(pair) = captured_pod() else { return };
    let pod = Arc::new(pair.pod);
    let servers = [OUTSIDE_V4, OUTSIDE_V6].map(|ip| (at(ip, 53), server(&pair.outside, at(ip, 53))));
    serving(&pod, async |resolver| {
        for (server, seen) in &servers {
            let mut client = tcp_client(&pod, *server).await;
            // All at once, then in answers whatever their order.
            for id in 0..40 {
                send(&mut client, &message(if id % 2 == 0 { MESH_NAME } else { "www.example." }, id)).await;
            }
            let mut ids = Vec::new();
            for _ in 0..40 {
                let response = next(&mut client).await;
                let expected = if response.metadata.id % 2 == 0 { MESH_IP } else { SERVER_IP };
                assert_eq!(told(&response), [expected]);
                ids.push(response.metadata.id);
            }
            ids.sort_unstable();
            assert_eq!(ids, (0..40).collect::<Vec<_>>());
            assert_eq!(seen.queries.load(Ordering::SeqCst), 20);
            // A query in two pieces, and one more after the client closed its side.
            let bytes = message(MESH_NAME, 50).to_vec().unwrap();
            client.write_all(&[0]).await.unwrap();
            client.write_all(&[u8::try_from(bytes.len()).unwrap()]).await.unwrap();
            client.write_all(&bytes[..5]).await.unwrap();
            client.write_all(&bytes[5..]).await.unwrap();
            assert_eq!(next(&mut client).await.metadata.id, 50);
            send(&mut client, &message("www.example.", 51)).await;
            client.shutdown().await.unwrap();
            assert_eq!(next(&mut client).await.metadata.id, 51);
            assert_eq!(timeout(PATIENCE, client.read(&mut [0; 1])).await.expect("closed").unwrap(), 0);
        }
        assert_eq!((resolver.counters().answered.get(), resolver.counters().forwarded.get()), (42, 42));
    })
    .await;
}

#[tokio::test]
async fn a_server_that_hangs_up_becomes_servfail_and_the_next_query_reaches_it_again() {
    let Some(pair) = captured_pod() else { return };
    let pod = Arc::new(pair.pod);
    server(&pair.outside, at(OUTSIDE_V4, 53));
    serving(&pod, async |_| {
        let mut client = tcp_client(&pod, at(OUTSIDE_V4, 53)).await;
        send(&mut client, &message("hangup.example.", 1)).await;
        assert_eq!(next(&mut client).await.metadata.response_code, ResponseCode::ServFail);
        send(&mut client, &message("www.example.", 2)).await;
        assert_eq!(told(&next(&mut client).await), [SERVER_IP]);
    })
    .await;
}
