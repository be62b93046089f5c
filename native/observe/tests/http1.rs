//! HTTP/1.1 connections: each request is told once, with its status, however the bytes are cut.
#![allow(clippy::unwrap_used)] // in tests a failed unwrap is the message
mod talk;

use std::time::Duration;

use talk::{Talk, told};
use trackbed_observe::{Depth, GaveUp, Protocol, Side};

/// The statuses that are told of a talk, and its observer's last word.
fn statuses(talk: &Talk) -> Vec<Option<u16>> {
    let seen = told(talk, Depth::Requests, usize::MAX);
    assert_eq!(seen.gave_up, None);
    for piece in [1, 2, 7, 64] {
        let again = told(talk, Depth::Requests, piece);
        assert_eq!((again.statuses(), again.protocol, again.gave_up), (seen.statuses(), seen.protocol, None), "in pieces of {piece}");
    }
    seen.statuses()
}

#[test]
fn each_request_is_told_with_the_status_of_its_answer() {
    let talk = Talk::new()
        .client("GET / HTTP/1.1\r\nHost: shop\r\n\r\n")
        .server("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
        .client("POST /cart HTTP/1.1\r\ncontent-length: 21\r\n\r\nGET / HTTP/1.1\r\n\r\nxyz")
        .server("HTTP/1.1 503 Unavailable\r\nTransfer-Encoding: gzip, chunked\r\n\r\n5;x=y\r\nHTTP/\r\n0\r\nTrailer: 1\r\n\r\n")
        .client("PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
        .server("HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(statuses(&talk), [Some(200), Some(503), Some(201)]);
}

#[test]
fn answers_without_a_body_have_none_whatever_they_say() {
    let talk = Talk::new()
        .client("HEAD / HTTP/1.1\r\n\r\n")
        .server("HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n")
        .client("GET / HTTP/1.1\r\n\r\n")
        .server("HTTP/1.1 304 Not Modified\r\nContent-Length: 500\r\n\r\n")
        .client("DELETE / HTTP/1.1\r\n\r\n")
        .server("HTTP/1.1 204 No Content\r\n\r\n")
        .client("POST / HTTP/1.1\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n")
        .server("HTTP/1.1 100 Continue\r\n\r\n")
        .client("x")
        .server("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 422 No\r\nContent-Length: 2\r\n\r\nno");
    assert_eq!(statuses(&talk), [Some(200), Some(304), Some(204), Some(422)]);
}

#[test]
fn requests_that_do_not_wait_get_their_answers_in_order() {
    // None of these has no body.
    let expected: Vec<u16> = (400..420).collect();
    let answers: Vec<_> = expected.iter().map(|status| format!("HTTP/1.1 {status} x\r\nContent-Length: 1\r\n\r\nx")).collect();
    let talk = Talk::new().client("GET / HTTP/1.1\r\n\r\n".repeat(20)).server(answers.concat());
    let expected: Vec<_> = expected.into_iter().map(Some).collect();
    assert_eq!(statuses(&talk), expected);
}

#[test]
fn an_answer_that_ends_with_its_connection_ends_there() {
    let asked = Talk::new().client("GET / HTTP/1.0\r\n\r\n").server("HTTP/1.0 200 OK\r\n\r\nsome of it");
    assert_eq!(statuses(&asked.clone().finished(Side::Server)), [Some(200)]);
    assert_eq!(statuses(&asked), [Some(200)], "or is cut");
    assert_eq!(statuses(&Talk::new().client("GET / HTTP/1.1\r\n\r\n")), [None], "or does not begin");
    let half = Talk::new().client("GET /a HTTP/1.1\r\n\r\nGET /b HTTP/1.1\r\n\r\n").server("HTTP/1.1 500 Oh\r\nContent-Length: 9\r\n\r\nx");
    assert_eq!(statuses(&half), [Some(500), None]);
}

#[test]
fn after_an_upgrade_nothing_is_looked_at() {
    let talk = Talk::new()
        .client("GET /chat HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
        .server("HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\n\r\n\x01\x02GET")
        .client("\x01\x02 anything");
    assert_eq!(statuses(&talk), [Some(101)]);
    for depth in [Depth::Requests, Depth::Protocol] {
        assert_eq!(told(&talk, depth, 3).protocol, Some(Protocol::WebSocket));
    }
    let tunnel = Talk::new().client("CONNECT a:443 HTTP/1.1\r\n\r\n").server("HTTP/1.1 200 OK\r\n\r\n").client("\x16\x03\x01");
    assert_eq!(statuses(&tunnel), [Some(200)]);
    let declined = Talk::new()
        .client("GET / HTTP/1.1\r\nUpgrade: h2c\r\n\r\n")
        .server("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        .client("GET / HTTP/1.1\r\n\r\n")
        .server("HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(statuses(&declined), [Some(200), Some(404)]);
}

#[test]
fn the_protocol_alone_needs_no_more_than_a_head_without_an_upgrade() {
    let talk = Talk::new().client("POST / HTTP/1.1\r\nContent-Length: 1000000\r\n\r\nxxx");
    let seen = told(&talk, Depth::Protocol, 5);
    assert_eq!((seen.protocol, seen.over, seen.exchanges.len()), (Some(Protocol::Http1), true, 0));
}

#[test]
fn what_breaks_the_rules_or_the_bounds_is_given_up_and_what_was_told_stays() {
    let good = || Talk::new().client("GET / HTTP/1.1\r\n\r\n").server("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    for (talk, why) in [
        (good().client("\0\0\0\0\n"), GaveUp::Malformed),
        (good().client("GET\r\n\r\n"), GaveUp::Malformed),
        (good().server("HTTP/1.1 200 OK\r\n\r\n"), GaveUp::Malformed),
        (good().client("GET / HTTP/1.1\r\n\r\n").server("HTTP/2 what\r\n\r\n"), GaveUp::Malformed),
        (good().client("POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"), GaveUp::Malformed),
        (good().client("POST / HTTP/1.1\r\nContent-Length: +1\r\n\r\n"), GaveUp::Malformed),
        (good().client("POST / HTTP/1.1\r\nTransfer-Encoding: chunked, gzip\r\n\r\n"), GaveUp::Malformed),
        (good().client("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n"), GaveUp::Malformed),
        (good().client("GET / HTTP/1.1\r\n\r\n".repeat(33)), GaveUp::Bound),
    ] {
        for piece in [1, 5, usize::MAX] {
            let seen = told(&talk, Depth::Requests, piece);
            assert_eq!((seen.gave_up, seen.exchanges[0].status), (Some(why), Some(200)), "{talk:?} in pieces of {piece}");
        }
    }
    let long = format!("POST / HTTP/1.1\r\nTransfer-Encoding: {}chunked\r\n\r\n", "x, ".repeat(100));
    assert_eq!(told(&good().client(&long), Depth::Requests, 9).gave_up, Some(GaveUp::Bound));
    let other = format!("GET /{} HTTP/1.1\r\nCookie: {}\r\n\r\n", "x".repeat(5000), "y".repeat(9000));
    let seen = told(&good().client(&other).server("HTTP/1.1 204 x\r\n\r\n"), Depth::Requests, 100);
    assert_eq!((seen.gave_up, seen.exchanges.len()), (None, 2), "long lines that tell nothing of lengths are fine");
}

#[test]
fn a_gap_ends_it() {
    let mut observer = trackbed_observe::Observer::new(Depth::Requests);
    let now = std::time::Instant::now();
    let mut count = 0;
    observer.feed(Side::Client, 0, b"GET / HTTP/1.1\r\n\r\n", now, &mut |_| count += 1);
    observer.feed(Side::Server, 5, b"HTTP/1.1 200 OK\r\n\r\n", now, &mut |_| count += 1);
    assert_eq!((observer.gave_up(), observer.is_over(), count), (Some(GaveUp::Gap), true, 0));
    assert_eq!(observer.protocol(), Some(Protocol::Http1));
}

#[test]
fn a_request_takes_from_its_first_byte_to_the_last_of_its_answer() {
    let mut observer = trackbed_observe::Observer::new(Depth::Requests);
    let start = std::time::Instant::now();
    let at = |milliseconds| start + Duration::from_millis(milliseconds);
    let mut durations = Vec::new();
    let mut offsets = [0, 0];
    for (side, bytes, moment) in [
        (Side::Client, "GET / HT", 0),
        (Side::Client, "TP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n", 10),
        (Side::Server, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nx", 20),
        (Side::Server, "xHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 50),
    ] {
        let offset = &mut offsets[usize::from(side == Side::Server)];
        observer.feed(side, *offset, bytes.as_bytes(), at(moment), &mut |exchange| durations.push(exchange.duration.as_millis()));
        *offset += bytes.len() as u64;
    }
    assert_eq!(durations, [50, 40]);
}
