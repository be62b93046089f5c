//! The far hop: each CONNECT stream becomes a connection to the application.
use std::net::SocketAddr;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::{Builder, SendResponse};
use http::{Request, Response};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use crate::copy::{CONNECTION_WINDOW, FRAME, SEND_BUFFER, STREAM_WINDOW, STREAMS};
use crate::{Failure, copy, sockets, tls};

pub(crate) async fn run(listen: SocketAddr, next: SocketAddr, directory: &str) -> Result<(), Failure> {
    let (listener, acceptor) = (sockets::listen(listen)?, tls::acceptor(directory)?);
    loop {
        let (socket, _) = listener.accept().await?;
        let acceptor = acceptor.clone();
        tokio::task::spawn_local(async move {
            if let Err(error) = tunnel(socket, next, &acceptor).await {
                eprintln!("trackbed-library: {error}");
            }
        });
    }
}

async fn tunnel(socket: TcpStream, next: SocketAddr, acceptor: &TlsAcceptor) -> Result<(), Failure> {
    let mut connection = Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        .max_send_buffer_size(SEND_BUFFER)
        .max_concurrent_streams(STREAMS)
        .handshake::<_, Bytes>(acceptor.accept(socket).await?)
        .await?;
    while let Some(request) = connection.accept().await {
        let (request, respond) = request?;
        tokio::task::spawn_local(async move {
            if let Err(error) = stream(request, respond, next).await {
                eprintln!("trackbed-library: {error}");
            }
        });
    }
    Ok(())
}

async fn stream(request: Request<RecvStream>, mut respond: SendResponse<Bytes>, next: SocketAddr) -> Result<(), Failure> {
    let socket = sockets::dial(next).await?;
    let send = respond.send_response(Response::new(()), false)?;
    copy::both(socket, send, request.into_body()).await
}
