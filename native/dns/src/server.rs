//! The resolver of one pod: serves its captured UDP and TCP queries on one thread.

use std::{
    cell::RefCell,
    io,
    net::{TcpListener as StdTcpListener, UdpSocket as StdUdpSocket},
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::{
    io::Interest,
    net::{TcpListener, UdpSocket},
    time::{sleep, timeout},
};
use trackbed_contract::tables::ports;
use trackbed_netns::{
    datagram::{self, Datagram},
    socket,
};

use crate::{
    answer::{Names, Reply, Transport, answer, failure},
    counters::{Counters, count},
    relay::{self, Dial, IN_FLIGHT, Slot, Slots, UPSTREAM_LIMIT},
};

/// Largest query over UDP: resolvers send under 300 bytes, dynamic updates up to a few thousand.
const QUERY_BYTES: usize = 4096;
/// TCP connections of one pod at a time; resolvers keep one or two.
const CONNECTIONS: usize = 128;
/// Without descriptors accept fails at once and for ever: wait instead of spinning.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Answers and relays the queries of one pod. Dropping the futures of its serve functions ends everything they do.
#[derive(Debug)]
pub struct Resolver<N, D> {
    pub(crate) names: N,
    pub(crate) dial: D,
    pub(crate) counters: Counters,
    random: RefCell<fastrand::Rng>,
    slots: Slots,
    scratch: RefCell<Vec<u8>>,
}

impl<N: Names, D: Dial> Resolver<N, D> {
    pub fn new(names: N, dial: D) -> Self {
        Self {
            names,
            dial,
            counters: Counters::default(),
            random: RefCell::default(),
            slots: Slots::default(),
            scratch: RefCell::default(),
        }
    }

    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Serves a socket of `netns::socket::listen_dns_udp` until it fails.
    pub async fn serve_udp(&self, socket: StdUdpSocket) -> io::Error {
        let socket = match UdpSocket::from_std(socket) {
            Ok(socket) => socket,
            Err(error) => return error,
        };
        let mut relayed = FuturesUnordered::new();
        let mut buffer = vec![0; QUERY_BYTES];
        loop {
            let received = tokio::select! {
                received = socket.async_io(Interest::READABLE, || datagram::receive(&socket, &mut buffer)) => received,
                Some(()) = relayed.next() => continue,
            };
            let asked = match received {
                Ok(asked) => asked,
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    count(&self.counters.refused);
                    continue;
                }
                Err(error) => return error,
            };
            let query = buffer.get(..asked.length).unwrap_or_default();
            // Straight to our own port, not captured: relaying it would ask ourselves.
            if !asked.whole || asked.server.port() == ports::DNS {
                count(&self.counters.refused);
                continue;
            }
            match self.decide(query, Transport::Udp) {
                Decision::Tell(reply) => tell(&socket, &reply, &asked),
                Decision::Relay(slot) => relayed.push(self.relay(&socket, query.to_vec(), asked, slot)),
                Decision::Silence => {}
            }
        }
    }

    /// Serves the pod's TCP listener until it fails. Only captured connections are served.
    pub async fn serve_tcp(&self, listener: StdTcpListener) -> io::Error {
        let listener = match TcpListener::from_std(listener) {
            Ok(listener) => listener,
            Err(error) => return error,
        };
        let mut connections = FuturesUnordered::new();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                Some(()) = connections.next() => continue,
            };
            match accepted {
                Ok((stream, from)) if connections.len() < CONNECTIONS => connections.push(self.connection(stream, from)),
                Ok((stream, _over_the_bound)) => {
                    count(&self.counters.limited);
                    // The reset tells the resolver at once; when it fails the connection ends all the same.
                    let _closed = socket::reset(stream);
                }
                // Not a listener any more.
                Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput) => return error,
                Err(_transient) => sleep(ACCEPT_PAUSE).await,
            }
        }
    }

    pub(crate) fn decide(&self, query: &[u8], transport: Transport) -> Decision<'_> {
        match answer(query, transport, &self.names, &mut self.random.borrow_mut()) {
            Reply::Answer(reply) => {
                count(&self.counters.answered);
                Decision::Tell(reply)
            }
            Reply::Refuse(reply) => {
                count(&self.counters.refused);
                Decision::Tell(reply)
            }
            Reply::Drop => {
                count(&self.counters.refused);
                Decision::Silence
            }
            Reply::Forward => {
                if let Some(slot) = self.slots.take(IN_FLIGHT) {
                    return Decision::Relay(slot);
                }
                count(&self.counters.limited);
                self.fail(query).map_or(Decision::Silence, Decision::Tell)
            }
        }
    }

    /// Counts a failed query and says SERVFAIL.
    pub(crate) fn fail(&self, query: &[u8]) -> Option<Vec<u8>> {
        count(&self.counters.failed);
        failure(query)
    }

    async fn relay(&self, socket: &UdpSocket, query: Vec<u8>, asked: Datagram, _slot: Slot<'_>) {
        let answered = timeout(UPSTREAM_LIMIT, relay::udp(&self.dial, &query, asked.server, &self.scratch)).await;
        let reply = if let Ok(Ok(reply)) = answered {
            count(&self.counters.forwarded);
            Some(reply)
        } else {
            self.fail(&query)
        };
        if let Some(reply) = reply {
            tell(socket, &reply, &asked);
        }
    }
}

/// A datagram that cannot be sent now is lost like any other; the client asks again.
fn tell(socket: &UdpSocket, reply: &[u8], asked: &Datagram) {
    let _lost = datagram::send_as(socket, reply, asked.client, asked.server);
}

pub(crate) enum Decision<'a> {
    Tell(Vec<u8>),
    Relay(Slot<'a>),
    Silence,
}
