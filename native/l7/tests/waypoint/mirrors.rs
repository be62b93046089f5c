//! Copies of requests: the client neither waits for them nor sees them.
use crate::support::*;
use bytes::Bytes;
use http::Response;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use trackbed_contract::route::{self, filter::Kind};
use trackbed_l7::Copied;

fn mirrored(numerator: u32, denominator: u32) -> route::Port {
    let mut to_mirror = weighted("shop/mirror", 1);
    let set = vec![route::Header { name: "x-copy".into(), value: "1".into() }];
    to_mirror.filters = vec![route::Filter { kind: Some(Kind::RequestHeaders(route::HeaderChange { set, ..Default::default() })) }];
    let mirror = route::Mirror { backend: Some(to_mirror), numerator, denominator };
    one_rule(route::HttpRule { filters: vec![route::Filter { kind: Some(Kind::Mirror(mirror)) }], ..to("shop/v1") })
}

#[test]
fn a_copy_has_the_same_head_and_body_and_its_answer_is_dropped() {
    run(async {
        let waypoint = waypoint(mirrored(1, 1)).await;
        let v1 = backend("v1").await;
        let mirror = backend_that("mirror", |_| async { Response::builder().status(500).body(body("never seen")).unwrap() }).await;
        waypoint.backend("shop/v1", &v1);
        waypoint.backend("shop/mirror", &mirror);
        let text = "x".repeat(200_000);
        let got = waypoint.http1().await.send(get("/a?b").method("PUT").header("x-own", "1").body(body(text.clone())).unwrap()).await;
        assert_eq!((got.status.as_u16(), got.body.len()), (200, text.len()));
        until("the copy was answered", || *waypoint.ledger().copies.borrow() == [Copied::Answered(500)]).await;
        let seen = mirror.seen.borrow();
        assert_eq!(
            (seen[0].method.as_str(), seen[0].uri.as_str(), seen[0].header("x-own"), seen[0].header("x-copy")),
            ("PUT", "/a?b", "1", "1")
        );
        assert_eq!(seen[0].body, text);
        assert_eq!(v1.seen.borrow()[0].header("x-copy"), "");
    });
}

#[test]
fn a_share_of_the_requests_is_copied() {
    run(async {
        let waypoint = waypoint(mirrored(20, 100)).await;
        let (v1, mirror) = (backend("v1").await, backend("mirror").await);
        waypoint.backend("shop/v1", &v1);
        waypoint.backend("shop/mirror", &mirror);
        let mut client = waypoint.http2().await;
        for _ in 0..200 {
            client.get("/").await;
        }
        until("all copies were answered", || waypoint.ledger().copies.borrow().len() == mirror.seen.borrow().len()).await;
        let copies = mirror.seen.borrow().len();
        assert!((38..=42).contains(&copies), "{copies} of 200");
    });
}

#[test]
fn a_mirror_that_is_away_or_stands_still_harms_nobody() {
    run(async {
        let waypoint = waypoint(mirrored(1, 1)).await;
        let v1 = backend("v1").await;
        waypoint.backend("shop/v1", &v1);
        let mut client = waypoint.http1().await;
        assert_eq!(client.get("/").await.status, 200);
        until("the copy was given up", || *waypoint.ledger().copies.borrow() == [Copied::Failed]).await;
        // Takes the connection and never reads: more than it, and we, may hold goes through to the client.
        let still = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        waypoint.endpoint("shop/mirror", PORT, "still", still.local_addr().unwrap());
        let pieces = (0..2048).map(|_| Ok(Frame::data(Bytes::from(vec![b'x'; 16 * 1024]))));
        let upload = BodyExt::boxed(StreamBody::new(futures_util::stream::iter(pieces)));
        let got = client.send(get("/").method("POST").body(upload).unwrap()).await;
        assert_eq!(got.body.len(), 2048 * 16 * 1024);
        until("the copy was given up", || waypoint.ledger().copies.borrow().len() == 2).await;
        assert_eq!(waypoint.ledger().copies.borrow()[1], Copied::Failed);
    });
}
