//! What is not HTTP: TCP and TLS rules, and ports that nobody declared.
use crate::support::*;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::spawn_local;
use trackbed_contract::route::{self, Protocol};
use trackbed_l7::{End, Flag};

/// Greets at once where it is to speak first, then says back what it hears, with its name before it.
async fn talker(waypoint: &Waypoint, service: &str, name: &'static str, greets: bool) -> std::rc::Rc<std::cell::Cell<usize>> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    waypoint.endpoint(service, PORT, name, listener.local_addr().unwrap());
    let count = std::rc::Rc::<std::cell::Cell<usize>>::default();
    let accepted = std::rc::Rc::clone(&count);
    spawn_local(async move {
        while let Ok((mut io, _)) = listener.accept().await {
            accepted.set(accepted.get() + 1);
            spawn_local(async move {
                if greets {
                    io.write_all(format!("220 {name}\r\n").as_bytes()).await?;
                }
                let mut heard = Vec::new();
                io.read_to_end(&mut heard).await?;
                io.write_all(format!("{name}:").as_bytes()).await?;
                io.write_all(&heard).await
            });
        }
    });
    count
}

async fn says(waypoint: &Waypoint, bytes: &[u8]) -> String {
    let mut io = TcpStream::connect(waypoint.address).await.unwrap();
    io.write_all(bytes).await.unwrap();
    io.shutdown().await.unwrap();
    let mut heard = Vec::new();
    io.read_to_end(&mut heard).await.unwrap();
    String::from_utf8_lossy(&heard).into_owned()
}

fn stream_rules(rules: &[(&[&str], Vec<route::Backend>)]) -> route::StreamRules {
    let rule = |(index, (names, backends)): (usize, &(&[&str], Vec<route::Backend>))| route::StreamRule {
        id: Some(route::RuleId { kind: "TCPRoute".into(), name: format!("stream-{index}"), ..Default::default() }),
        server_names: names.iter().map(ToString::to_string).collect(),
        backends: backends.clone(),
    };
    route::StreamRules { rules: rules.iter().enumerate().map(rule).collect() }
}

#[test]
fn tcp_goes_by_weight_and_each_direction_ends_by_itself() {
    run(async {
        let rules = stream_rules(&[(&[], vec![weighted("shop/v1", 3), weighted("shop/v2", 1)])]);
        let waypoint = waypoint(port(Protocol::Tcp, Some(route::RuleSet { kind: Some(route::rule_set::Kind::Tcp(rules)) }))).await;
        let (v1, v2) = (talker(&waypoint, "shop/v1", "v1", true).await, talker(&waypoint, "shop/v2", "v2", false).await);
        for _ in 0..40 {
            let heard = says(&waypoint, b"GET / HTTP/1.1\r\n\r\n").await;
            assert!(["220 v1\r\nv1:GET / HTTP/1.1\r\n\r\n", "v2:GET / HTTP/1.1\r\n\r\n"].contains(&heard.as_str()), "{heard}");
        }
        assert!((29..=31).contains(&v1.get()), "{}", v1.get());
        assert_eq!(v2.get(), 40 - v1.get());
        assert_eq!(waypoint.ended().await, End::Closed);
        let told = waypoint.ledger().connections.borrow_mut().remove(0);
        assert_eq!((told.route.as_deref(), told.request_bytes, told.flags), (Some("stream-0"), 18, vec![]));
    });
}

#[test]
fn tls_goes_by_its_server_name_untouched() {
    run(async {
        let rules = stream_rules(&[(&["a.example"], vec![weighted("shop/v1", 1)]), (&["*.b.example"], vec![weighted("shop/v2", 1)])]);
        let waypoint = waypoint(port(Protocol::Tls, Some(route::RuleSet { kind: Some(route::rule_set::Kind::Tls(rules)) }))).await;
        talker(&waypoint, "shop/v1", "v1", false).await;
        talker(&waypoint, "shop/v2", "v2", false).await;
        for (name, expected) in [("A.example", "v1"), ("x.b.example", "v2"), ("x.y.b.example", "v2")] {
            let hello = client_hello(name);
            assert_eq!(says(&waypoint, &hello).await, format!("{expected}:{}", String::from_utf8_lossy(&hello)));
            assert_eq!(waypoint.told_connection().await.server_name, Some(name.to_lowercase()));
            assert_eq!(waypoint.ended().await, End::Closed);
        }
        for bytes in [client_hello("b.example"), b"GET / HTTP/1.1\r\n\r\n".to_vec(), b"\x16\x03\x01".to_vec()] {
            let mut io = TcpStream::connect(waypoint.address).await.unwrap();
            io.write_all(&bytes).await.unwrap();
            io.shutdown().await.unwrap();
            assert!(io.read(&mut [0; 100]).await.is_ok_and(|count| count == 0) || bytes.len() > 3);
            assert_eq!(waypoint.ended().await, End::Refused);
            assert_eq!(waypoint.told_connection().await.flags, [Flag::NoRoute]);
        }
    });
}

fn client_hello(name: &str) -> Vec<u8> {
    let vector = |length_bytes: usize, body: &[u8]| {
        let length = u32::try_from(body.len()).unwrap().to_be_bytes();
        [&length[4 - length_bytes..], body].concat()
    };
    let sni = [&[0, 0][..], &vector(2, &vector(2, &[&[0][..], &vector(2, name.as_bytes())].concat()))].concat();
    let body = [&[3, 3][..], &[7; 32], &[0], &vector(2, &[19, 1]), &vector(1, &[0]), &vector(2, &sni)].concat();
    let message = [&[1][..], &vector(3, &body)].concat();
    [&[22, 3, 1][..], &vector(2, &message)].concat()
}

#[test]
fn backends_that_cannot_be_used_or_reached_are_a_reset() {
    run(async {
        let refused = route::Backend { refuse_status: 500, weight: 1, ..Default::default() };
        let tcp = |backends| {
            let rules = stream_rules(&[(&[], backends)]);
            port(Protocol::Tcp, Some(route::RuleSet { kind: Some(route::rule_set::Kind::Tcp(rules)) }))
        };
        let waypoint = waypoint(tcp(vec![refused])).await;
        waypoint.endpoint("shop/dead", PORT, "dead", nobody().await);
        for (of_port, end, flag) in [
            (tcp(vec![route::Backend { refuse_status: 500, weight: 1, ..Default::default() }]), End::Refused, Flag::NoBackend),
            (tcp(vec![]), End::Refused, Flag::NoBackend),
            (tcp(vec![weighted("shop/none", 1)]), End::Upstream, Flag::NoEndpoint),
            (tcp(vec![weighted("shop/dead", 1)]), End::Upstream, Flag::ConnectFailure),
            (
                port(Protocol::Tcp, Some(route::RuleSet { kind: Some(route::rule_set::Kind::Tcp(stream_rules(&[]))) })),
                End::Refused,
                Flag::NoRoute,
            ),
        ] {
            waypoint.replace(of_port);
            drop(TcpStream::connect(waypoint.address).await.unwrap());
            assert_eq!(waypoint.ended().await, end, "{flag:?}");
            assert_eq!(waypoint.told_connection().await.flags, [flag]);
        }
    });
}

#[test]
fn an_undeclared_port_is_http_when_the_client_speaks_it() {
    run(async {
        let waypoint = waypoint(port(Protocol::Unspecified, None)).await;
        let own = backend("own").await;
        waypoint.backend(SERVICE, &own);
        assert_eq!(waypoint.http1().await.get("/").await.header("x-backend"), "own");
        assert_eq!(waypoint.http2().await.get("/").await.header("x-backend"), "own");
        // A client that takes its time, and its bytes one by one.
        let mut io = TcpStream::connect(waypoint.address).await.unwrap();
        for byte in b"GET /slow HTTP/1.1\r\nHost: cart\r\nConnection: close\r\n\r\n" {
            tokio::time::sleep(Duration::from_millis(2)).await;
            io.write_all(&[*byte]).await.unwrap();
        }
        let mut heard = String::new();
        io.read_to_string(&mut heard).await.unwrap();
        assert!(heard.starts_with("HTTP/1.1 200"), "{heard}");
        assert_eq!(waypoint.ledger().requests.borrow().len(), 3);
    });
}

#[test]
fn a_server_that_speaks_first_is_never_kept_waiting() {
    run(async {
        let waypoint = waypoint(port(Protocol::Unspecified, None)).await;
        talker(&waypoint, SERVICE, "mail", true).await;
        for turn in 0..3 {
            let begun = Instant::now();
            let mut io = TcpStream::connect(waypoint.address).await.unwrap();
            let mut greeting = [0; 10];
            io.read_exact(&mut greeting).await.unwrap();
            assert_eq!(&greeting, b"220 mail\r\n");
            // Far below every time-out there is; the first has the ten milliseconds in which the client did not speak.
            assert!(begun.elapsed() < Duration::from_secs(1), "turn {turn}: {:?}", begun.elapsed());
            io.write_all(b"EHLO x\r\n").await.unwrap();
            io.shutdown().await.unwrap();
            let mut rest = String::new();
            io.read_to_string(&mut rest).await.unwrap();
            assert_eq!(rest, "mail:EHLO x\r\n");
            assert_eq!(waypoint.told_connection().await.response_bytes, 23);
        }
    });
}

#[test]
fn an_undeclared_port_carries_what_it_does_not_know() {
    run(async {
        let waypoint = waypoint(port(Protocol::Unspecified, None)).await;
        let count = talker(&waypoint, SERVICE, "db", false).await;
        for bytes in [&b"\x00\x00\x00\x08\x04\xd2\x16\x2f"[..], b"*1\r\n$4\r\nPING\r\n", b"G", b"", &client_hello("a.example")] {
            assert_eq!(says(&waypoint, bytes).await.as_bytes(), [b"db:", String::from_utf8_lossy(bytes).as_bytes()].concat());
        }
        assert_eq!(count.get(), 5);
        assert!(waypoint.ledger().requests.borrow().is_empty());
    });
}

#[test]
fn a_port_that_nothing_is_said_of_is_tcp() {
    run(async {
        let waypoint = waypoint(route::Port { port: 9999, protocol: Protocol::Http.into(), ..Default::default() }).await;
        talker(&waypoint, SERVICE, "own", false).await;
        assert_eq!(says(&waypoint, b"GET / HTTP/1.1\r\n\r\n").await, "own:GET / HTTP/1.1\r\n\r\n");
    });
}
