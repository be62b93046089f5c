//! The near hop: an accepted connection becomes one CONNECT stream of a tunnel that has room.
use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;

use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use http::{Method, Request, StatusCode};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::copy::{CONNECTION_WINDOW, FRAME, SEND_BUFFER, STREAM_WINDOW, STREAMS};
use crate::{Failure, copy, sockets, tls};

/// Tunnels of this thread and how many streams each has.
type Pool = RefCell<Vec<Tunnel>>;

struct Tunnel {
    sender: SendRequest<Bytes>,
    streams: Rc<()>,
}

pub(crate) async fn run(listen: SocketAddr, next: SocketAddr, directory: &str) -> Result<(), Failure> {
    let (listener, connector) = (sockets::listen(listen)?, tls::connector(directory)?);
    let pool = Rc::new(Pool::default());
    loop {
        let (socket, _) = listener.accept().await?;
        let (pool, connector) = (Rc::clone(&pool), connector.clone());
        tokio::task::spawn_local(async move {
            if let Err(error) = carry(socket, next, &connector, &pool).await {
                eprintln!("trackbed-library: {error}");
            }
        });
    }
}

async fn carry(socket: TcpStream, next: SocketAddr, connector: &TlsConnector, pool: &Pool) -> Result<(), Failure> {
    let kept = pool.borrow().iter().find(|tunnel| Rc::strong_count(&tunnel.streams) <= STREAMS as usize).map(Tunnel::share);
    let (sender, _stream) = if let Some(kept) = kept {
        kept
    } else {
        let tunnel = dial(next, connector).await?;
        let shared = tunnel.share();
        pool.borrow_mut().push(tunnel);
        shared
    };
    let request = Request::builder().method(Method::CONNECT).uri(next.to_string()).body(())?;
    let (answer, send) = sender.ready().await?.send_request(request, false)?;
    let answer = answer.await?;
    if answer.status() != StatusCode::OK {
        return Err(format!("the peer answered {}", answer.status()).into());
    }
    copy::both(socket, send, answer.into_body()).await
}

async fn dial(next: SocketAddr, connector: &TlsConnector) -> Result<Tunnel, Failure> {
    let stream = connector.connect(tls::name(), sockets::dial(next).await?).await?;
    let (sender, connection) = Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        .max_send_buffer_size(SEND_BUFFER)
        .handshake(stream)
        .await?;
    tokio::task::spawn_local(connection);
    Ok(Tunnel { sender, streams: Rc::new(()) })
}

impl Tunnel {
    fn share(&self) -> (SendRequest<Bytes>, Rc<()>) {
        (self.sender.clone(), Rc::clone(&self.streams))
    }
}
