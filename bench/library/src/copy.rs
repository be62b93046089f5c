//! Bytes between a socket and a stream of a tunnel, both ways, until both have ended.
use bytes::{Bytes, BytesMut};
use h2::{RecvStream, SendStream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::Failure;

/// What one read takes at most: larger ones cost more than they save, as the library copies each frame once more.
const READ: usize = 64 << 10;
pub(crate) const STREAM_WINDOW: u32 = 4 << 20;
/// Several streams that nobody reads must not stop the others.
pub(crate) const CONNECTION_WINDOW: u32 = 4 * STREAM_WINDOW;
pub(crate) const FRAME: u32 = 1 << 20;
pub(crate) const SEND_BUFFER: usize = 512 << 10;
pub(crate) const STREAMS: u32 = 100;

pub(crate) async fn both(mut socket: TcpStream, send: SendStream<Bytes>, receive: RecvStream) -> Result<(), Failure> {
    let (read, write) = socket.split();
    tokio::try_join!(to_stream(read, send), to_socket(receive, write))?;
    Ok(())
}

async fn to_stream(mut from: tokio::net::tcp::ReadHalf<'_>, mut to: SendStream<Bytes>) -> Result<(), Failure> {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(READ);
        if from.read_buf(&mut buffer).await? == 0 {
            return Ok(to.send_data(Bytes::new(), true)?);
        }
        let mut data = buffer.split().freeze();
        while !data.is_empty() {
            to.reserve_capacity(data.len());
            let room = std::future::poll_fn(|cx| to.poll_capacity(cx)).await.ok_or("the stream is closed")??;
            to.send_data(data.split_to(room.min(data.len())), false)?;
        }
    }
}

async fn to_socket(mut from: RecvStream, mut to: tokio::net::tcp::WriteHalf<'_>) -> Result<(), Failure> {
    while let Some(data) = from.data().await {
        let data = data?;
        to.write_all(&data).await?;
        from.flow_control().release_capacity(data.len())?;
    }
    Ok(to.shutdown().await?)
}
