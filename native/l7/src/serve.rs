//! One connection of a client, from its first byte to its last: what it speaks, and who carries it.
use crate::attempt::connected;
use crate::authorize::authorize_connection;
use crate::balancing::{Chosen, NotChosen, observe};
use crate::carry::Carried;
use crate::hello::{Hello, hello};
use crate::http_server::{serve_http1, serve_http2};
use crate::learnt::First;
use crate::limits::{CLIENT_FIRST, FIRST_WORDS, HEAD_WAIT, HELLO_BYTES, TELLING, UNHEARD_TRIES};
use crate::onward::{Way, authorize_connection_onward};
use crate::rewound::Rewound;
use crate::service::{Port, Rules};
use crate::session::Session;
use crate::stream_rules::StreamRule;
use crate::telling::{Spoken, spoken};
use crate::{Client, Context, Flag, Outcome, Served, Upstream};
use bytes::{Bytes, BytesMut};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::select;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{sleep, timeout};
use trackbed_balance::Wish;
use trackbed_contract::route::Protocol;

/// How a connection ended. In every case `io` was dropped: shut down before if the end was orderly, not shut down if it is to be a reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// By either side, or drained.
    Closed,
    /// Nothing is known of the service, or no rule matches, or the backend cannot be used: nothing was carried.
    Refused,
    /// Broken off by an error of the client's side.
    Client,
    /// Broken off by an error of the backend's side (TCP and TLS; of HTTP each request has its own end).
    Upstream,
}

/// Serves `io`, whose other end is `client` and who addressed `served`, until it ends. Runs in the task of its caller, which may drop it.
pub async fn serve<Io, U>(io: Io, client: Client, served: Served, context: Rc<Context<U>>) -> End
where
    Io: AsyncRead + AsyncWrite + Unpin + 'static,
    U: Upstream,
{
    let session = Session::new(context, client, served);
    let Some(port) = session.port() else { return refused(&session) };
    let begun = Begun { io, read: BytesMut::new(), session };
    match (port.rules(begun.session.parties.client.namespace()), port.protocol) {
        // What turns out to be HTTP obeys the rules, and the rest goes to the service itself.
        (Some(Rules::Http(_)) | None, Protocol::Unspecified) => begun.undeclared(&port).await,
        (Some(Rules::Http(_)), _) | (None, Protocol::Http | Protocol::Http2 | Protocol::Grpc) => begun.http(port.protocol).await,
        (Some(Rules::Tls(rules)), _) => begun.tls(|server_name| rules.find(server_name)).await,
        (Some(Rules::Tcp(rules)), _) => match rules.find(None) {
            Some(rule) => begun.stream(rule, None).await,
            None => refused(&begun.session),
        },
        (None, Protocol::Tcp | Protocol::Tls) => begun.stream(&port.own.stream, None).await,
    }
}

/// A connection, and what was read of it.
struct Begun<Io, U: Upstream> {
    io: Io,
    read: BytesMut,
    session: Rc<Session<U>>,
}

/// Somebody else is there already, or came.
struct Reached<U: Upstream> {
    endpoint: Chosen<U::Detail>,
    io: Rewound<U::Io>,
    /// One of the connections that may be open.
    permit: Option<OwnedSemaphorePermit>,
}

impl<Io, U> Begun<Io, U>
where
    Io: AsyncRead + AsyncWrite + Unpin + 'static,
    U: Upstream,
{
    /// The version is told by the first bytes. What is neither is refused by the parser of the one that the port is declared for.
    async fn http(mut self, declared: Protocol) -> End {
        let told = loop {
            if let Some(told) = spoken(&self.read) {
                break told;
            }
            let read = if self.read.is_empty() {
                self.first().await
            } else {
                timeout(HEAD_WAIT, self.more()).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            };
            match read {
                Ok(0) if self.read.is_empty() => return End::Closed,
                Ok(0) => break Spoken::Other,
                Ok(_) => {}
                Err(_) => return End::Client,
            }
        };
        let http2 = matches!(declared, Protocol::Http2 | Protocol::Grpc);
        self.http_as(told == Spoken::Http2 || (told == Spoken::Other && http2)).await
    }

    async fn http_as(self, http2: bool) -> End {
        let io = Rewound::new(self.read.freeze(), self.io);
        if http2 { serve_http2(io, self.session).await } else { serve_http1(io, self.session).await }
    }

    /// A server name, then a rule.
    async fn tls<'a>(mut self, find: impl Fn(Option<&str>) -> Option<&'a Arc<StreamRule>>) -> End {
        let told = timeout(HEAD_WAIT, async {
            loop {
                match hello(&self.read) {
                    Hello::Incomplete if self.read.len() < HELLO_BYTES => {}
                    Hello::Names(name) => return Some(name),
                    Hello::NotTls | Hello::Incomplete => return None,
                }
                self.more().await.ok().filter(|count| *count > 0)?;
            }
        });
        let Ok(Some(name)) = told.await else { return refused(&self.session) };
        match find(name.as_deref()) {
            Some(rule) => self.stream(rule, name).await,
            None => refused(&self.session),
        }
    }

    async fn stream(self, rule: &StreamRule, server_name: Option<String>) -> End {
        self.stream_to(rule, server_name, None).await
    }

    /// `reached`: the endpoint that is there already, of the rule's first choice.
    async fn stream_to(self, rule: &StreamRule, server_name: Option<String>, reached: Option<Reached<U>>) -> End {
        let mut carried = Carried::begin(&self.session.parties, rule.name.as_ref());
        let admitted = authorize_connection(&self.session, server_name.as_deref(), &mut carried);
        if !admitted {
            carried.server_name = server_name;
            return End::Refused;
        }
        let backend = rule.backends.choose().filter(|backend| backend.refuse.is_none());
        let Some(backend) = backend else {
            carried.server_name = server_name;
            carried.flag = Some(Flag::NoBackend);
            return End::Refused;
        };
        carried.backend = Some(backend);
        let way = Way::of(&self.session.parties.served, rule.name.as_ref(), &backend.key);
        let admitted = way.is_none_or(|way| authorize_connection_onward(&self.session, way, server_name.as_deref(), &mut carried));
        carried.server_name = server_name;
        if !admitted {
            return End::Refused;
        }
        let reached = match reached {
            Some(reached) => Ok(reached),
            None => reach(&self.session.context, &backend.key).await,
        };
        match reached {
            Err(flag) => {
                carried.flag = Some(flag);
                End::Upstream
            }
            Ok(Reached { endpoint, io, permit: _permit }) => {
                carried.endpoint = Some((Arc::clone(&endpoint.uid), endpoint.address));
                carried.carry(Rewound::new(self.read.freeze(), self.io), io).await
            }
        }
    }

    /// Nobody said what is spoken: whoever speaks first tells. A server that does is not kept waiting for a client that never will.
    async fn undeclared(mut self, port: &Port) -> End {
        let learnt = self.session.context.learnt.of(&self.session.parties.served, Instant::now());
        if learnt == Some(First::Server) {
            return self.stream(&port.own.stream, None).await;
        }
        let first = match learnt {
            Some(_) => match self.first().await {
                Ok(0) => return End::Closed,
                first => Ok(first),
            },
            None => timeout(CLIENT_FIRST, self.more()).await,
        };
        match first {
            // Also one that ends without a word: its server may have something to say.
            Ok(Ok(_)) => self.client_first(port, None).await,
            Ok(Err(_)) => End::Client,
            Err(_) => self.nobody_yet(port).await,
        }
    }

    /// Both are listened to.
    async fn nobody_yet(mut self, port: &Port) -> End {
        let rule = &port.own.stream;
        let Some(backend) = rule.backends.choose() else { return refused(&self.session) };
        let mut reached = match reach(&self.session.context, &backend.key).await {
            Ok(reached) => reached,
            Err(flag) => {
                let mut carried = Carried::begin(&self.session.parties, None);
                carried.backend = Some(&**backend);
                carried.flag = Some(flag);
                return End::Upstream;
            }
        };
        let mut said = BytesMut::new();
        select! {
            biased;
            count = self.io.read_buf(&mut self.read) => match count {
                // It ends without a word: so does the other side.
                Ok(0) => self.stream_to(rule, None, Some(reached)).await,
                Ok(_) => self.client_first(port, Some(reached)).await,
                Err(_) => End::Client,
            },
            count = reached.io.read_buf(&mut said) => {
                let Ok(count) = count else { return End::Upstream };
                if count > 0 {
                    self.session.context.learnt.learn(&self.session.parties.served, First::Server, Instant::now());
                }
                reached.io.rewind(said.freeze());
                self.stream_to(rule, None, Some(reached)).await
            }
        }
    }

    /// Something is there from the client.
    async fn client_first(mut self, port: &Port, reached: Option<Reached<U>>) -> End {
        let told = timeout(TELLING, async {
            loop {
                match spoken(&self.read) {
                    Some(spoken) => return spoken,
                    None if self.more().await.is_ok_and(|count| count > 0) => {}
                    None => return Spoken::Other,
                }
            }
        });
        match told.await.unwrap_or(Spoken::Other) {
            Spoken::Other => self.stream_to(&port.own.stream, None, reached).await,
            http => {
                self.session.context.learnt.learn(&self.session.parties.served, First::Client, Instant::now());
                drop(reached);
                self.http_as(http == Spoken::Http2).await
            }
        }
    }

    /// Without a limit in time, but not long beyond a drain: who has only just connected has something to say, and is heard.
    async fn first(&mut self) -> io::Result<usize> {
        let mut draining = self.session.context.draining();
        select! {
            biased;
            count = self.io.read_buf(&mut self.read) => count,
            () = async {
                let _ = draining.wait_for(|draining| *draining).await;
                sleep(FIRST_WORDS).await;
            } => Ok(0),
        }
    }

    async fn more(&mut self) -> io::Result<usize> {
        self.io.read_buf(&mut self.read).await
    }
}

async fn reach<U: Upstream>(context: &Context<U>, backend: &crate::BackendKey) -> Result<Reached<U>, Flag> {
    let mut avoid = Vec::new();
    loop {
        let wish = Wish { avoid: &avoid, ..Wish::default() };
        let endpoint = context.balancers.choose(context, backend, &wish, Instant::now()).map_err(|none| match none {
            NotChosen::NoEndpoint(_) => Flag::NoEndpoint,
            NotChosen::Open(_) => Flag::Overflow,
        })?;
        let told = |outcome| observe(context, backend, &endpoint, outcome, Instant::now());
        let breaker = &endpoint.settings().breaker;
        let pending = breaker.pending().map_err(|_| Flag::Overflow)?;
        let permit = breaker.connection().await;
        let connected = connected(&context.upstream, &endpoint).await;
        drop(pending);
        match connected {
            Ok(io) => {
                told(Outcome::Answered(0));
                return Ok(Reached { endpoint, io: Rewound::new(Bytes::new(), io), permit });
            }
            Err(error) => {
                tracing::debug!(endpoint = %endpoint.uid, %error, "an endpoint was not reached");
                told(Outcome::Unreachable);
                if avoid.len() >= UNHEARD_TRIES as usize {
                    return Err(Flag::ConnectFailure);
                }
                avoid.push(Arc::clone(&endpoint.uid));
            }
        }
    }
}

fn refused<U: Upstream>(session: &Session<U>) -> End {
    Carried::begin(&session.parties, None).flag = Some(Flag::NoRoute);
    End::Refused
}
