//! HTTP/1.1 with keep-alive, both ends: the least that a reverse proxy has to carry. A GET without a body, and 100 bytes back.
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};

use crate::exchange::Exchange;
use crate::socket;

const BODY: usize = 100;
const REQUEST: &[u8] = b"GET /bench HTTP/1.1\r\nhost: bench.test\r\nuser-agent: trackbed-load\r\naccept: */*\r\n\r\n";
/// What proxies add to a head of some 60 bytes fits many times.
const MOST: usize = 4096;
const HEAD_END: &[u8] = b"\r\n\r\n";

#[derive(Debug)]
pub(crate) struct Http {
    stream: TcpStream,
    buffer: [u8; MOST],
}

impl Exchange for Http {
    const BYTES: u64 = BODY as u64;

    /// An HTTP server has no say in where it runs.
    fn warm(to: SocketAddr, _apart: bool) -> io::Result<Self> {
        let mut client = Self { stream: socket::connect(to)?, buffer: [0; MOST] };
        client.exchange()?;
        Ok(client)
    }

    fn exchange(&mut self) -> io::Result<()> {
        self.stream.write_all(REQUEST)?;
        let (mut have, mut wanted) = (0, None);
        while wanted.is_none_or(|wanted| have < wanted) {
            let room = self.buffer.get_mut(have..).filter(|room| !room.is_empty()).ok_or_else(|| other("the answer does not fit"))?;
            match self.stream.read(room)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => have += count,
            }
            if wanted.is_none() {
                wanted = answer_length(&self.buffer[..have])?;
            }
        }
        if wanted == Some(have) { Ok(()) } else { Err(other("more than one answer came")) }
    }
}

/// Head and body; `None` while the head is not whole. Anything but a 200 with the whole body is no answer to count.
fn answer_length(bytes: &[u8]) -> io::Result<Option<usize>> {
    let Some(head) = bytes.windows(HEAD_END.len()).position(|window| window == HEAD_END) else { return Ok(None) };
    let text = std::str::from_utf8(&bytes[..head]).map_err(|_| other("the head is no text"))?;
    let mut lines = text.split("\r\n");
    let status = lines.next().unwrap_or_default();
    if !status.starts_with("HTTP/1.1 200") {
        return Err(other(&format!("answered {status:?}")));
    }
    let length = lines.filter_map(|line| line.split_once(':')).find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    match length.and_then(|(_, value)| value.trim().parse::<usize>().ok()) {
        Some(BODY) => Ok(Some(head + HEAD_END.len() + BODY)),
        _ => Err(other("an answer without the body that was asked for")),
    }
}

/// Answers every request on the connection; `first` is the byte by which it was known to speak HTTP.
pub(crate) fn answer(mut stream: TcpStream, first: u8) -> io::Result<()> {
    let answer =
        [format!("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {BODY}\r\n\r\n").into_bytes(), vec![b'x'; BODY]].concat();
    let mut buffer = [0; MOST];
    buffer[0] = first;
    let mut have = 1;
    loop {
        while let Some(head) = buffer[..have].windows(HEAD_END.len()).position(|window| window == HEAD_END) {
            let end = head + HEAD_END.len();
            buffer.copy_within(end..have, 0);
            have -= end;
            stream.write_all(&answer)?;
        }
        match stream.read(buffer.get_mut(have..).filter(|room| !room.is_empty()).ok_or_else(|| other("the request does not fit"))?)? {
            0 => return Ok(()),
            count => have += count,
        }
    }
}

fn other(text: &str) -> io::Error {
    io::Error::other(text.to_owned())
}
