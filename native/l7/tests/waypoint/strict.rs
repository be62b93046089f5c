//! Requests that two servers could read in two ways: none gets past the waypoint, and none brings a second one along.
use crate::support::*;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use trackbed_l7::Flag;

async fn ready() -> (Waypoint, Backend) {
    let waypoint = waypoint(one_rule(to("shop/v1"))).await;
    let v1 = backend("v1").await;
    waypoint.backend("shop/v1", &v1);
    (waypoint, v1)
}

/// Each is followed by what a smuggler wants to be taken for a request.
pub(crate) const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: cart\r\n\r\n";

/// With the status that it is refused with.
pub(crate) fn refused() -> Vec<(u16, String)> {
    let long = format!("GET / HTTP/1.1\r\nHost: cart\r\nX: {}\r\n\r\n", "x".repeat(70_000));
    let many = format!("GET / HTTP/1.1\r\nHost: cart\r\n{}\r\n", "X: 1\r\n".repeat(200));
    let all = [
        (400, "GET / HTTP/1.1\nHost: cart\n\n"),
        (400, "GET / HTTP/1.1\r\nHost: cart\r\nX: 1\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: cart\r\n X: folded\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: cart\r\nX: a\0b\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: cart\r\nX: a\rb\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: cart\r\nX : 1\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: cart\r\n: 1\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: cart\r\nno colon\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: cart\r\nHost: cart\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: cart, till\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: user@cart\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: cart/x\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: \r\n\r\n"),
        (400, "GET http://user@cart/ HTTP/1.1\r\nHost: cart\r\n\r\n"),
        (400, "GET x HTTP/1.1\r\nHost: cart\r\n\r\n"),
        (400, "GET / HTTP/2.0\r\nHost: cart\r\n\r\n"),
        (400, "GET / HTTP/1.2\r\nHost: cart\r\n\r\n"),
        (400, "GET  / HTTP/1.1\r\nHost: cart\r\n\r\n"),
        (400, "GET / HTTP/1.1 \r\nHost: cart\r\n\r\n"),
        (400, "G\x01T / HTTP/1.1\r\nHost: cart\r\n\r\n"),
        (400, "POST / HTTP/1.1\r\nHost: cart\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello"),
        (400, "POST / HTTP/1.1\r\nHost: cart\r\nContent-Length: 5, 6\r\n\r\nhello"),
        (400, "POST / HTTP/1.1\r\nHost: cart\r\nContent-Length: -5\r\n\r\nhello"),
        (400, "POST / HTTP/1.1\r\nHost: cart\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        (400, "POST / HTTP/1.1\r\nHost: cart\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n"),
        (400, "POST / HTTP/1.1\r\nHost: cart\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n"),
        (400, "POST / HTTP/1.1\r\nHost: cart\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
        (400, "POST / HTTP/1.1\r\nHost: cart\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n"),
        (400, "POST / HTTP/1.1\r\nHost: cart\r\nTransfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n"),
        (400, "POST / HTTP/1.0\r\nHost: cart\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: cart\r\nConnection: content-length, host\r\n\r\n"),
        (431, &long),
        (431, &many),
    ];
    all.into_iter().map(|(status, request)| (status, request.to_owned())).collect()
}

#[test]
fn no_request_of_the_corpus_reaches_a_backend() {
    run(async {
        let (waypoint, v1) = ready().await;
        for (status, request) in refused() {
            let answer = waypoint.raw(format!("{request}{SMUGGLED}").as_bytes()).await;
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status} ")) || (status == 400 && answer.starts_with("HTTP/1.0 400 ")),
                "{request:?}: {answer}"
            );
            assert_eq!(answer.matches("HTTP/1.").count(), 1, "{request:?}: {answer}");
            assert!(v1.seen.borrow().is_empty(), "{request:?}: {:?}", v1.seen.borrow());
        }
    });
}

pub(crate) const MALFORMED_BODIES: [&str; 10] = [
    "3\nabc\r\n0\r\n\r\n",
    "3;x\nabc\r\n0\r\n\r\n",
    "3 \r\nabc\r\n0\r\n\r\n",
    "0x3\r\nabc\r\n0\r\n\r\n",
    "3\r\nabcd\r\n0\r\n\r\n",
    "3\r\nabc\n0\r\n\r\n",
    "fffffffffffffffff\r\nabc\r\n0\r\n\r\n",
    "-3\r\nabc\r\n0\r\n\r\n",
    "\r\nabc\r\n0\r\n\r\n",
    "0\r\nx: 1\n\r\n",
];

#[test]
fn no_malformed_body_reaches_a_backend_as_a_whole_one() {
    run(async {
        let (waypoint, v1) = ready().await;
        for chunks in MALFORMED_BODIES {
            let head = "POST / HTTP/1.1\r\nHost: cart\r\nTransfer-Encoding: chunked\r\n\r\n";
            let answer = waypoint.raw(format!("{head}{chunks}{SMUGGLED}").as_bytes()).await;
            assert!(!answer.contains("HTTP/1.1 200"), "{chunks:?}: {answer}");
            assert!(v1.seen.borrow().is_empty(), "{chunks:?}: {:?}", v1.seen.borrow());
        }
    });
}

/// And right. The head goes on.
pub(crate) const ODD: [&str; 6] = [
    "\r\n\r\nGET / HTTP/1.1\r\nHost: cart\r\n",
    "GET http://cart/ HTTP/1.1\r\nHost: other\r\n",
    "GET / HTTP/1.1\r\nHOST:cart  \r\nX-Empty:\r\n",
    "GET / HTTP/1.1\r\nHost: [2001:db8::1]:80\r\n",
    "OPTIONS / HTTP/1.1\r\nHost: cart\r\n",
    "GET /?a=%zz&b=%3C HTTP/1.1\r\nHost: cart\r\n",
];

#[test]
fn what_is_odd_and_right_passes() {
    run(async {
        let (waypoint, v1) = ready().await;
        for request in ODD {
            let answer = waypoint.raw(format!("{request}Connection: close\r\n\r\n").as_bytes()).await;
            assert!(answer.starts_with("HTTP/1.1 200 "), "{request:?}: {answer}");
        }
        let chunked = "POST / HTTP/1.1\r\nHost: cart\r\nTransfer-Encoding: CHUNKED\r\nConnection: close\r\n\r\n3;e=\"x\"\r\nabc\r\n00\r\nx: 1\r\n\r\n";
        assert!(waypoint.raw(chunked.as_bytes()).await.starts_with("HTTP/1.1 200 "));
        let seen = v1.seen.borrow();
        let hosts: Vec<_> = seen.iter().map(|seen| seen.header("host")).collect();
        assert_eq!(hosts, ["cart", "cart", "cart", "[2001:db8::1]:80", "cart", "cart", "cart"]);
        assert_eq!(seen[6].body, "abc");
    });
}

#[test]
fn requests_that_come_at_once_are_answered_in_their_order() {
    run(async {
        let (waypoint, v1) = ready().await;
        let posts = (0..20).map(|n| format!("POST /{n} HTTP/1.1\r\nHost: cart\r\nContent-Length: 2\r\n\r\n{n:02}"));
        let all: String = posts.chain(["GET /end HTTP/1.1\r\nHost: cart\r\nConnection: close\r\n\r\n".to_owned()]).collect();
        let answer = waypoint.raw(all.as_bytes()).await;
        assert_eq!(answer.matches("HTTP/1.1 200").count(), 21);
        let bodies: Vec<_> = v1.seen.borrow().iter().map(|seen| seen.body.clone()).collect();
        let expected: Vec<_> = (0..20).map(|n| format!("{n:02}")).chain([String::new()]).collect();
        assert_eq!(bodies, expected);
    });
}

#[test]
fn a_wish_to_upgrade_that_is_not_granted_opens_no_way_past_the_guard() {
    run(async {
        let (waypoint, v1) = ready().await;
        let wish = "POST /wish HTTP/1.1\r\nHost: cart\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 3\r\n\r\nabc";
        let answer =
            waypoint.raw(format!("{wish}GET /next HTTP/1.1\r\nHost: cart\r\n\r\nGET /bare HTTP/1.1\nHost: cart\n\n").as_bytes()).await;
        assert_eq!((answer.matches("HTTP/1.1 200").count(), answer.matches("HTTP/1.1 400").count()), (2, 1), "{answer}");
        let seen: Vec<_> = v1.seen.borrow().iter().map(|seen| (seen.uri.clone(), seen.body.clone())).collect();
        assert_eq!(seen, [("/wish".into(), "abc".into()), ("/next".into(), String::new())]);
    });
}

#[test]
fn what_is_no_http_is_told_as_such() {
    run(async {
        let (waypoint, _v1) = ready().await;
        assert!(waypoint.raw(b"GET / HTTP/1.1\nHost: cart\n\n").await.starts_with("HTTP/1.1 400 "));
        assert_eq!(waypoint.told_connection().await.flags, [Flag::ProtocolError]);
        assert!(waypoint.raw(b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n").await.starts_with("HTTP/1.1 400 "));
        assert_eq!(waypoint.told().await.flags, [Flag::ProtocolError]);
    });
}

#[test]
fn a_head_that_trickles_ends_and_an_idle_connection_does_not() {
    // The clock stands still unless everybody waits; then it jumps to the next timer.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let (waypoint, _v1) = ready().await;
        let mut io = TcpStream::connect(waypoint.address).await.unwrap();
        for turn in 0..2 {
            io.write_all(b"GET / HTTP/1.1\r\nHost: cart\r\n\r\n").await.unwrap();
            let mut answer = [0; 15];
            io.read_exact(&mut answer).await.unwrap();
            assert_eq!(&answer, b"HTTP/1.1 200 OK", "turn {turn}");
            let mut rest = Vec::new();
            while !rest.ends_with(b"\r\n\r\n") {
                rest.push(io.read_u8().await.unwrap());
            }
            tokio::time::sleep(Duration::from_mins(10)).await;
        }
        let begun = tokio::time::Instant::now();
        io.write_all(b"GET / HT").await.unwrap();
        let mut rest = Vec::new();
        drop(io.read_to_end(&mut rest).await);
        let waited = begun.elapsed();
        assert!((Duration::from_secs(30)..Duration::from_secs(40)).contains(&waited), "{waited:?}");
    });
}
