//! Backends on loopback, each on an address of its own: they take as long as they are told to, work on so many requests at once, and fail when they are to.
use std::future::pending;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response};
use http_body_util::BodyExt;
use http_body_util::channel::Channel;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Handle};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;

use crate::{Failure, sockets};

/// A head of the bench and what a waypoint adds to it.
const HEAD_BYTES: usize = 4096;
/// Of the time that a request takes, up or down: servers are not clocks.
const SPREAD: f64 = 0.33;

/// The thread that all of them run on; it lives as long as the program.
#[derive(Debug, Clone)]
pub(super) struct Servers(Handle);

#[derive(Debug)]
pub(super) struct Server {
    pub(super) address: SocketAddr,
    pub(super) state: Arc<State>,
    handle: Handle,
    accepting: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
pub(super) struct State {
    number: u16,
    pub(super) status: AtomicU16,
    /// Of gRPC, whose answers are 200 always.
    pub(super) grpc_status: AtomicU16,
    speaks_grpc: AtomicBool,
    pub(super) service: AtomicU64,
    slots: Option<Semaphore>,
    pub(super) asked: AtomicU32,
    work: Mutex<Work>,
}

/// What its slots did.
#[derive(Debug)]
struct Work {
    under_way: u32,
    idle_since: Option<Instant>,
    longest_idle: Duration,
    busy: Duration,
}

impl Servers {
    pub(super) fn start() -> Result<Self, Failure> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        thread::Builder::new().name("servers".into()).spawn(move || runtime.block_on(pending::<()>()))?;
        Ok(Self(handle))
    }

    /// Each request takes `service`, a third more or less; with `slots`, so many at once, the others in their order.
    pub(super) fn server(&self, number: u16, service: Duration, slots: Option<usize>) -> Result<Server, Failure> {
        let state = Arc::new(State {
            number,
            status: AtomicU16::new(200),
            grpc_status: AtomicU16::new(0),
            speaks_grpc: AtomicBool::new(false),
            service: AtomicU64::new(u64::try_from(service.as_micros())?),
            slots: slots.map(Semaphore::new),
            asked: AtomicU32::new(0),
            work: Mutex::new(Work { under_way: 0, idle_since: None, longest_idle: Duration::ZERO, busy: Duration::ZERO }),
        });
        let listener = sockets::listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        let server = Server { address: listener.local_addr()?, state, handle: self.0.clone(), accepting: Mutex::new(None) };
        server.accept(listener);
        Ok(server)
    }
}

impl Server {
    /// Its listener and all of its connections are gone when this returns, as those of a process that was killed.
    pub(super) fn close(&self) {
        let accepting = self.accepting.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(accepting) = accepting {
            accepting.abort();
            while !accepting.is_finished() {
                thread::yield_now();
            }
        }
    }

    /// On the same address again.
    pub(super) fn open(&self) -> Result<(), Failure> {
        self.accept(sockets::listen(self.address)?);
        Ok(())
    }

    pub(super) fn speak_grpc(&self, status: u16) {
        self.state.speaks_grpc.store(true, Relaxed);
        self.state.grpc_status.store(status, Relaxed);
    }

    fn accept(&self, listener: TcpListener) {
        let state = Arc::clone(&self.state);
        let accepting = self.handle.spawn(async move {
            let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
            // Dropped with this task, which ends its connections.
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let state = Arc::clone(&state);
                connections.spawn(async move {
                    // A client that goes away is none of our errors.
                    let _ = if state.speaks_grpc.load(Relaxed) { grpc(stream, state).await } else { answer(stream, &state).await };
                });
                while connections.try_join_next().is_some() {}
            }
        });
        *self.accepting.lock().unwrap_or_else(PoisonError::into_inner) = Some(accepting);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.close();
    }
}

impl State {
    /// One request.
    async fn work(&self) {
        self.asked.fetch_add(1, Relaxed);
        let _slot = match &self.slots {
            Some(slots) => slots.acquire().await.ok(),
            None => None,
        };
        let service = Duration::from_micros(self.service.load(Relaxed));
        if service.is_zero() {
            return;
        }
        self.turn(|work| {
            work.under_way += 1;
            if let Some(since) = work.idle_since.take() {
                work.longest_idle = work.longest_idle.max(since.elapsed());
            }
        });
        let begun = Instant::now();
        sleep(service.mul_f64(1.0 - SPREAD + 2.0 * SPREAD * fastrand::f64())).await;
        self.turn(|work| {
            work.under_way -= 1;
            work.busy += begun.elapsed();
            if work.under_way == 0 {
                work.idle_since = Some(Instant::now());
            }
        });
    }

    fn turn<T>(&self, turn: impl FnOnce(&mut Work) -> T) -> T {
        turn(&mut self.work.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Time that its slots worked, all together, and the longest in which none of them did, since this was asked before.
    pub(super) fn worked(&self) -> (Duration, Duration) {
        self.turn(|work| {
            let idle = work.idle_since.map_or(Duration::ZERO, |since| since.elapsed());
            let found = (work.busy, work.longest_idle.max(idle));
            (work.busy, work.longest_idle) = (Duration::ZERO, Duration::ZERO);
            work.idle_since = work.idle_since.map(|_| Instant::now());
            found
        })
    }
}

async fn answer(mut stream: TcpStream, state: &State) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = [0; HEAD_BYTES];
    let mut have = 0;
    loop {
        while let Some(end) = buffer[..have].windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4) {
            buffer.copy_within(end..have, 0);
            have -= end;
            state.work().await;
            let (status, number) = (state.status.load(Relaxed), state.number);
            stream.write_all(format!("HTTP/1.1 {status} .\r\nX-Backend: {number}\r\nContent-Length: 2\r\n\r\nok").as_bytes()).await?;
        }
        match stream.read(&mut buffer[have..]).await? {
            0 => return Ok(()),
            count => have += count,
        }
    }
}

/// Each call has a body and trailers, as of a real server.
async fn grpc(stream: TcpStream, state: Arc<State>) -> std::io::Result<()> {
    let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
        let state = Arc::clone(&state);
        async move {
            request.into_body().collect().await?;
            state.work().await;
            let code = HeaderValue::from(state.grpc_status.load(Relaxed));
            let trailers = HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), code)]);
            // Of no length that is told before, as streams of gRPC are.
            let (mut send, body) = Channel::<Bytes>::new(2);
            // There is room for both, and who asks has not gone yet.
            let _ = send.send_data(Bytes::from_static(b"\0\0\0\0\x01a")).await;
            let _ = send.send_trailers(trailers).await;
            let mut response = Response::new(body);
            response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
            response.headers_mut().insert("x-backend", HeaderValue::from(state.number));
            Ok::<_, hyper::Error>(response)
        }
    });
    let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    server.serve_connection(TokioIo::new(stream), service).await.map_err(std::io::Error::other)
}
