//! Captured DNS over TCP: mesh names answered in place, the rest through one connection to the server that was asked.

use std::{collections::VecDeque, io, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep_until, timeout},
};
use trackbed_contract::tables::ports;
use trackbed_netns::socket;

use crate::{
    answer::{Names, Transport},
    counters::count,
    frames::{Frames, framed},
    question,
    relay::{Dial, Slot, UPSTREAM_LIMIT},
    server::{Decision, Resolver},
};

/// A client that asks nothing for so long has forgotten the connection (RFC 7766 asks for a few seconds).
const IDLE_LIMIT: Duration = Duration::from_secs(10);
/// A client that does not take its answer for so long is gone.
const WRITE_LIMIT: Duration = Duration::from_secs(5);
/// One read; answers of mesh names and most others fit.
const READ_BYTES: usize = 4096;

/// A query that was passed on.
struct Waiting<'a> {
    query: Vec<u8>,
    deadline: Instant,
    _slot: Slot<'a>,
}

/// The connection to the server, made at the first query for it.
#[derive(Default)]
struct Upstream {
    stream: Option<TcpStream>,
    frames: Frames,
}

impl<N: Names, D: Dial> Resolver<N, D> {
    /// Serves one captured connection until either side is done. Several queries may be under way; their order is not kept, as RFC 7766
    /// allows. Zone transfers pass: what the server sends is passed on as it comes.
    pub(crate) async fn connection(&self, client: TcpStream, from: SocketAddr) {
        match socket::original_destination(&client, from) {
            // Straight to our own port, not captured: relaying it would ask ourselves.
            Ok(server) if server.port() != ports::DNS => {
                // What ends it early (reset, silence) ends this connection alone, and each of its queries was counted.
                let _ended = self.converse(client, server).await;
            }
            _ => count(&self.counters.refused),
        }
    }

    async fn converse(&self, mut client: TcpStream, server: SocketAddr) -> io::Result<()> {
        let (mut asked, mut upstream) = (Frames::default(), Upstream::default());
        let mut waiting: VecDeque<Waiting<'_>> = VecDeque::new();
        let (mut from_client, mut from_server) = ([0; READ_BYTES], [0; READ_BYTES]);
        let (mut client_open, mut last_heard) = (true, Instant::now());
        while client_open || !waiting.is_empty() {
            let deadline = waiting.front().map_or(last_heard + IDLE_LIMIT, |first| first.deadline);
            tokio::select! {
                read = client.read(&mut from_client), if client_open => {
                    let read = read?;
                    client_open = read > 0;
                    last_heard = Instant::now();
                    asked.add(from_client.get(..read).unwrap_or_default());
                    while let Some(query) = asked.take() {
                        match self.decide(query, Transport::Tcp) {
                            Decision::Tell(reply) => write(&mut client, &reply).await?,
                            Decision::Silence => {}
                            Decision::Relay(slot) => {
                                let passed = timeout(UPSTREAM_LIMIT, upstream.pass(&self.dial, query, server)).await;
                                waiting.push_back(Waiting { query: query.to_vec(), deadline: Instant::now() + UPSTREAM_LIMIT, _slot: slot });
                                if !matches!(passed, Ok(Ok(()))) {
                                    upstream = Upstream::default();
                                    self.fail_all(&mut client, &mut waiting).await?;
                                }
                            }
                        }
                    }
                }
                read = upstream.read(&mut from_server) => match read {
                    Ok(read) if read > 0 => {
                        last_heard = Instant::now();
                        upstream.frames.add(from_server.get(..read).unwrap_or_default());
                        while let Some(response) = upstream.frames.take() {
                            self.settle(&mut waiting, response);
                            write(&mut client, response).await?;
                        }
                    }
                    _ended => {
                        upstream = Upstream::default();
                        self.fail_all(&mut client, &mut waiting).await?;
                    }
                },
                () = sleep_until(deadline) => {
                    if waiting.is_empty() {
                        return Ok(());
                    }
                    // A server that is late for one query is not trusted with the others on the same connection.
                    upstream = Upstream::default();
                    self.fail_all(&mut client, &mut waiting).await?;
                }
            }
        }
        client.shutdown().await
    }

    /// A response ends the wait of the query it answers.
    fn settle(&self, waiting: &mut VecDeque<Waiting<'_>>, response: &[u8]) {
        let answered = waiting.iter().position(|entry| {
            let Some(id) = entry.query.first_chunk::<2>() else { return false };
            let asked = question::parse(&entry.query).ok().and_then(|question| entry.query.get(question.bytes));
            asked.is_some_and(|asked| question::answers(response, *id, asked))
        });
        if answered.and_then(|index| waiting.remove(index)).is_some() {
            count(&self.counters.forwarded);
        }
    }

    async fn fail_all(&self, client: &mut TcpStream, waiting: &mut VecDeque<Waiting<'_>>) -> io::Result<()> {
        while let Some(entry) = waiting.pop_front() {
            if let Some(reply) = self.fail(&entry.query) {
                write(client, &reply).await?;
            }
        }
        Ok(())
    }
}

impl Upstream {
    async fn pass(&mut self, dial: &impl Dial, query: &[u8], server: SocketAddr) -> io::Result<()> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            none => none.insert(socket::established(dial.tcp(server)?).await?),
        };
        stream.write_all(&framed(query).ok_or(io::ErrorKind::InvalidData)?).await
    }

    /// Pending for ever without a connection. Cancel-safe.
    async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.stream {
            Some(stream) => stream.read(buffer).await,
            None => std::future::pending().await,
        }
    }
}

async fn write(client: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let frame = framed(message).ok_or(io::ErrorKind::InvalidData)?;
    timeout(WRITE_LIMIT, client.write_all(&frame)).await?
}
