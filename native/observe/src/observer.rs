//! One connection as its bytes pass: first what it speaks, then its requests.
use std::time::Instant;

use trackbed_hbone::Side;

use crate::exchange::{Exchange, GaveUp};
use crate::http1::Http1;
use crate::http2::Http2;
use crate::protocol::Protocol;
use crate::sniff::{Guess, Sniffer};

/// How far the bytes are looked into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Until the protocol is known, or is none that we know.
    Protocol,
    /// To the end: requests and their answers.
    Requests,
}

#[derive(Debug)]
pub struct Observer {
    depth: Depth,
    state: State,
    protocol: Option<Protocol>,
    server_name: Option<Box<str>>,
    gave_up: Option<GaveUp>,
    /// Bytes seen of the client and of the server.
    seen: [u64; 2],
}

#[derive(Debug)]
enum State {
    Sniff(Sniffer),
    Http1(Box<Http1>),
    Http2(Box<Http2>),
    Over,
}

/// What the bytes of a protocol's connection came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    More,
    /// It goes on as something else, or nothing more is wanted of it.
    Over(Protocol),
    GaveUp(GaveUp),
}

impl Observer {
    pub fn new(depth: Depth) -> Self {
        Self { depth, state: State::Sniff(Sniffer::default()), protocol: None, server_name: None, gave_up: None, seen: [0; 2] }
    }

    pub fn protocol(&self) -> Option<Protocol> {
        self.protocol
    }

    /// Of TLS, in lower case.
    pub fn server_name(&self) -> Option<&str> {
        self.server_name.as_deref()
    }

    pub fn gave_up(&self) -> Option<GaveUp> {
        self.gave_up
    }

    /// Nothing more is to be learned from its bytes.
    pub fn is_over(&self) -> bool {
        matches!(self.state, State::Over)
    }

    /// More bytes of this side, behind `offset` others; each request that is over is told.
    pub fn feed(&mut self, from: Side, offset: u64, bytes: &[u8], now: Instant, tell: &mut dyn FnMut(Exchange)) {
        let tell = if self.depth == Depth::Requests { tell } else { &mut |_| {} };
        let seen = &mut self.seen[usize::from(from == Side::Server)];
        if *seen != offset {
            return self.abandon(GaveUp::Gap);
        }
        *seen += bytes.len() as u64;
        let progress = match &mut self.state {
            State::Sniff(_) => return self.sniff(from, bytes, now, tell),
            State::Http1(http) => http.feed(from, bytes, now, tell),
            State::Http2(http) => http.feed(from, bytes, now, tell),
            State::Over => return,
        };
        self.went(progress);
    }

    /// This side says nothing more.
    pub fn finished(&mut self, from: Side, now: Instant, tell: &mut dyn FnMut(Exchange)) {
        let tell = if self.depth == Depth::Requests { tell } else { &mut |_| {} };
        if let State::Http1(http) = &mut self.state {
            http.finished(from, now, tell);
        }
    }

    /// The connection is over: requests that wait are told as they are.
    pub fn end(&mut self, now: Instant, tell: &mut dyn FnMut(Exchange)) {
        let tell = if self.depth == Depth::Requests { tell } else { &mut |_| {} };
        match std::mem::replace(&mut self.state, State::Over) {
            State::Http1(mut http) => http.end(now, tell),
            State::Http2(mut http) => http.end(now, tell),
            // A client of TLS has said who it is only in part.
            State::Sniff(mut sniffer) => {
                if let Guess::Is(protocol) = sniffer.server(&[]) {
                    self.protocol = Some(protocol);
                }
            }
            State::Over => {}
        }
    }

    fn sniff(&mut self, from: Side, bytes: &[u8], now: Instant, tell: &mut dyn FnMut(Exchange)) {
        let State::Sniff(sniffer) = &mut self.state else { return };
        let guess = match from {
            Side::Client => sniffer.client(bytes),
            Side::Server => sniffer.server(bytes),
        };
        match guess {
            Guess::More => return,
            Guess::None => return self.state = State::Over,
            Guess::Is(protocol) => self.protocol = Some(protocol),
        }
        let [first, greeting] = sniffer.before();
        self.server_name = sniffer.server_name.take();
        self.state = match self.protocol {
            // A server of HTTP/1.1 says nothing unasked.
            Some(Protocol::Http1) if !greeting.is_empty() => return self.abandon(GaveUp::Malformed),
            Some(Protocol::Http1) => State::Http1(Box::new(Http1::new(self.depth))),
            Some(Protocol::Http2) => State::Http2(Box::new(Http2::new(self.depth))),
            _ => return self.state = State::Over,
        };
        for (from, piece) in [(Side::Client, &first[..]), (Side::Server, &greeting), (from, bytes)] {
            let progress = match &mut self.state {
                State::Http1(http) => http.feed(from, piece, now, tell),
                State::Http2(http) => http.feed(from, piece, now, tell),
                State::Sniff(_) | State::Over => return,
            };
            self.went(progress);
        }
    }

    fn went(&mut self, progress: Progress) {
        // Also when the same bytes went on to what cannot be read.
        if let State::Http2(http) = &self.state
            && http.is_grpc()
        {
            self.protocol = Some(Protocol::Grpc);
        }
        match progress {
            Progress::More => {}
            Progress::Over(protocol) => {
                self.protocol = Some(protocol);
                self.state = State::Over;
            }
            Progress::GaveUp(why) => {
                // What only the server has said is not certain.
                if let State::Http2(http) = &self.state
                    && !http.is_begun()
                {
                    self.protocol = None;
                }
                self.abandon(why);
            }
        }
    }

    /// What was learned so far stays.
    fn abandon(&mut self, why: GaveUp) {
        if !self.is_over() {
            self.state = State::Over;
            self.gave_up = Some(why);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each observed connection holds one; tables and lists beside it are bounded by `limits` and begin empty.
    #[test]
    fn what_is_kept_of_a_connection_is_small() {
        println!("observer {}, http1 {}, http2 {}", size_of::<Observer>(), size_of::<Http1>(), size_of::<Http2>());
        assert!(size_of::<Observer>() <= 160, "{}", size_of::<Observer>());
        assert!(size_of::<Http1>() <= 320, "{}", size_of::<Http1>());
        assert!(size_of::<Http2>() <= 400, "{}", size_of::<Http2>());
    }
}
