//! One query to the server that the pod asked, from inside the pod's namespace, hard to answer for anybody else.

use std::{
    cell::{Cell, RefCell},
    io, net,
    net::SocketAddr,
    pin::pin,
    sync::Arc,
    time::Duration,
};

use rustix::{
    net::{RecvFlags, recv},
    rand::{GetRandomFlags, getrandom},
};
use tokio::{io::Interest, net::UdpSocket, time::timeout};
use trackbed_netns::{Netns, SocketError, socket, socket::Peer};

use crate::question;

/// Resolvers wait 5 s before they ask again and hear nothing of what comes later: told before that, they ask their next server.
pub const UPSTREAM_LIMIT: Duration = Duration::from_secs(4);
/// A query that is not answered by then is sent a second time: a lost datagram costs that, not the five seconds of the pod's resolver.
/// Longer than a neighbour that is solicited twice (1 s, RFC 4861), for that query is not lost. Only once, so that a server that is slow
/// because it is busy gets at most twice the queries.
pub const RESEND_AFTER: Duration = Duration::from_millis(1500);
/// Relayed queries of one pod at a time, UDP and TCP together: each UDP one is a descriptor, and a process has 20000.
pub const IN_FLIGHT: usize = 1024;
/// Largest UDP message.
const RESPONSE_BYTES: usize = 65_535;

/// Makes the sockets of the relay: non-blocking, in the pod's namespace, marked.
pub trait Dial {
    /// Connected, so that the kernel picks a new random port for each query and drops what others send to it.
    fn udp(&self, server: SocketAddr) -> io::Result<net::UdpSocket>;
    /// Connecting.
    fn tcp(&self, server: SocketAddr) -> io::Result<net::TcpStream>;
}

impl Dial for Netns {
    fn udp(&self, server: SocketAddr) -> io::Result<net::UdpSocket> {
        socket::connect_udp_marked(self, server).map_err(cause)
    }
    fn tcp(&self, server: SocketAddr) -> io::Result<net::TcpStream> {
        socket::connect_marked(self, server, Peer::Network).map_err(cause)
    }
}

impl<D: Dial> Dial for Arc<D> {
    fn udp(&self, server: SocketAddr) -> io::Result<net::UdpSocket> {
        (**self).udp(server)
    }
    fn tcp(&self, server: SocketAddr) -> io::Result<net::TcpStream> {
        (**self).tcp(server)
    }
}

fn cause(error: SocketError) -> io::Error {
    io::Error::new(error.source.kind(), error)
}

/// Sends the query under a fresh random id from a fresh port and waits for the answer that matches id and question. Others are ignored:
/// one forged packet must not end the wait. Sent again once. The caller bounds the time.
pub(crate) async fn udp(dial: &impl Dial, query: &[u8], server: SocketAddr, scratch: &RefCell<Vec<u8>>) -> io::Result<Vec<u8>> {
    let asked = question::parse(query).map_err(|_| io::ErrorKind::InvalidInput)?;
    let asked = query.get(asked.bytes).unwrap_or_default();
    let mut message = query.to_vec();
    let sent = random_id()?;
    let id = exchange_id(&mut message, sent).ok_or(io::ErrorKind::InvalidInput)?;

    let upstream = UdpSocket::from_std(dial.udp(server)?)?;
    upstream.send(&message).await?;
    let mut answered = pin!(receive(&upstream, sent, asked, scratch));
    let mut response = match timeout(RESEND_AFTER, &mut answered).await {
        Ok(response) => response?,
        Err(_unanswered) => {
            upstream.send(&message).await?;
            answered.await?
        }
    };
    exchange_id(&mut response, id);
    Ok(response)
}

/// The first datagram that answers what was asked.
async fn receive(upstream: &UdpSocket, sent: [u8; 2], asked: &[u8], scratch: &RefCell<Vec<u8>>) -> io::Result<Vec<u8>> {
    loop {
        let answer = upstream
            // A closed port shows as an error alone, without anything to read.
            .async_io(Interest::READABLE | Interest::ERROR, || {
                let mut scratch = scratch.borrow_mut();
                scratch.resize(RESPONSE_BYTES, 0);
                let (length, _) = recv(upstream, scratch.as_mut_slice(), RecvFlags::empty())?;
                let response = scratch.get(..length).unwrap_or_default();
                Ok(question::answers(response, sent, asked).then(|| response.to_vec()))
            })
            .await?;
        if let Some(response) = answer {
            return Ok(response);
        }
    }
}

/// Puts another id into a message and gives the one it had.
fn exchange_id(message: &mut [u8], id: [u8; 2]) -> Option<[u8; 2]> {
    message.first_chunk_mut::<2>().map(|slot| std::mem::replace(slot, id))
}

/// From the kernel: with a guessable id, who can send from the server's address could answer for it.
fn random_id() -> io::Result<[u8; 2]> {
    let mut id = [0; 2];
    getrandom(&mut id, GetRandomFlags::empty())?;
    Ok(id)
}

/// How many relays are under way; a slot is given back when its guard is dropped.
#[derive(Debug, Default)]
pub(crate) struct Slots(Cell<usize>);

pub(crate) struct Slot<'a>(&'a Cell<usize>);

impl Slots {
    pub(crate) fn take(&self, bound: usize) -> Option<Slot<'_>> {
        let used = self.0.get();
        (used < bound).then(|| {
            self.0.set(used + 1);
            Slot(&self.0)
        })
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}
