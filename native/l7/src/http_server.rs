//! HTTP on a client's connection, either version, until the client has enough of it or the worker drains.
use crate::carry::Carried;
use crate::exchange::exchange;
use crate::guard::Guard;
use crate::limits::{CONNECTION_WINDOW, HEAD_BYTES, HEADERS, STREAM_WINDOW, STREAMS};
use crate::link::Local;
use crate::rewound::Rewound;
use crate::session::Session;
use crate::{End, Flag, Upstream};
use http::header::CONNECTION;
use http::{HeaderValue, StatusCode};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::select;
use tokio::sync::watch;

pub(crate) async fn serve_http1<Io, U>(io: Io, session: Rc<Session<U>>) -> End
where
    Io: AsyncRead + AsyncWrite + Unpin + 'static,
    U: Upstream,
{
    let mut draining = session.context.draining();
    let requests = Rc::clone(&session);
    let service = service_fn(move |request| {
        let session = Rc::clone(&requests);
        Box::pin(async move {
            let mut response = exchange(Rc::clone(&session), request).await;
            if (session.context.is_leaving() || session.is_spent()) && response.status() != StatusCode::SWITCHING_PROTOCOLS {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(response)
        })
    });
    let mut connection = http1::Builder::new()
        .max_headers(HEADERS)
        .max_header_size(HEAD_BYTES as usize)
        .serve_connection(TokioIo::new(Guard::new(io, Rc::clone(&session.upgrading))), service);
    let mut told = false;
    let served = loop {
        select! {
            biased;
            served = poll_fn(|cx| connection.poll_without_shutdown(cx)) => break served,
            () = drained(&mut draining), if !told => {
                told = true;
                Pin::new(&mut connection).graceful_shutdown();
            }
        }
    };
    if let Err(cause) = served {
        tracing::debug!(client = %session.parties.client.address, %cause, "an HTTP/1.1 connection of a client broke off");
        if cause.is_parse() {
            // No request came of it that could be told of.
            Carried::begin(&session.parties, None).flag = Some(Flag::ProtocolError);
        }
        return End::Client;
    }
    let parts = connection.into_parts();
    let mut io = parts.io.into_inner();
    let upgraded = session.upgraded.borrow_mut().take();
    let Some(upgraded) = upgraded else {
        // The client may be gone already; then there is nobody to say goodbye to.
        return if io.shutdown().await.is_ok() { End::Closed } else { End::Client };
    };
    let held = upgraded.held;
    let carried = held.carried(&session.parties);
    upgraded.backend.carry(carried, Rewound::new(parts.read_buf, io)).await
}

pub(crate) async fn serve_http2<Io, U>(io: Io, session: Rc<Session<U>>) -> End
where
    Io: AsyncRead + AsyncWrite + Unpin + 'static,
    U: Upstream,
{
    let mut draining = session.context.draining();
    let client = session.parties.client.address;
    let requests = Rc::clone(&session);
    let service = service_fn(move |request| {
        let session = Rc::clone(&requests);
        async move { Ok::<_, Infallible>(exchange(session, request).await) }
    });
    let mut connection = pin!(
        http2::Builder::new(Local)
            .timer(TokioTimer::new())
            .enable_connect_protocol()
            .max_concurrent_streams(STREAMS)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(HEAD_BYTES)
            .serve_connection(TokioIo::new(io), service)
    );
    let mut told = false;
    let served = loop {
        select! {
            biased;
            served = connection.as_mut() => break served,
            () = ended(&mut draining, &session), if !told => {
                told = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    };
    match served {
        Ok(()) => End::Closed,
        Err(cause) => {
            tracing::debug!(%client, %cause, "an HTTP/2 connection of a client broke off");
            End::Client
        }
    }
}

/// No more requests are wanted: the worker drains, or the connection has had as many as it may.
async fn ended<U: Upstream>(draining: &mut watch::Receiver<bool>, session: &Session<U>) {
    select! {
        () = drained(draining) => {}
        () = session.spent.notified() => {}
    }
}

async fn drained(draining: &mut watch::Receiver<bool>) {
    // The context lives as long as the session does: there is no error.
    if draining.wait_for(|draining| *draining).await.is_err() {
        std::future::pending::<()>().await;
    }
}
