//! One question to the daemon: HTTP/1.1 over its Unix socket, blocking, with a deadline for the first word and one for the whole.
use std::{
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use serde::Deserialize;

/// An answer is a line of JSON.
const ANSWER_BYTES: u64 = 64 * 1024;
/// Status lines and headers of our own daemon are short.
const HEAD_LINES: usize = 64;
/// So often is looked whether a daemon that is away has come.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    Done,
    /// The daemon says no, and why.
    Refused {
        code: String,
        reason: String,
    },
    /// Nobody answers, or not in time.
    Away(Away),
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Away {
    pub(crate) reason: String,
    /// It had taken the pod up before it fell silent, so the pod is the mesh's whatever older news say.
    pub(crate) working: bool,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// Until somebody listens.
    pub(crate) coming: Duration,
    /// Until the daemon says anything at all: 102 means that it works on it.
    pub(crate) first_word: Duration,
    pub(crate) whole: Duration,
}

#[derive(Deserialize)]
struct Refusal {
    code: String,
    reason: String,
}

pub(crate) fn ask(socket: &Path, verb: &str, body: &[u8], patience: Patience) -> Reply {
    let mut working = false;
    let exchanged = connect(socket, patience.coming).and_then(|stream| exchange(stream, verb, body, patience, &mut working));
    let reason = match exchanged {
        Ok((200, _)) => return Reply::Done,
        Ok((status, body)) => match serde_json::from_slice::<Refusal>(&body) {
            Ok(Refusal { code, reason }) => return Reply::Refused { code, reason },
            Err(_) => format!("answered {status} without a reason"),
        },
        Err(error) => match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => "does not answer in time".to_owned(),
            _ => format!("does not answer: {error}"),
        },
    };
    Reply::Away(Away { reason: format!("{} {reason}", socket.display()), working })
}

fn connect(socket: &Path, coming: Duration) -> io::Result<UnixStream> {
    let started = Instant::now();
    loop {
        match UnixStream::connect(socket) {
            Err(error) if nobody_listens(&error) && started.elapsed() < coming => thread::sleep(LOOK_AGAIN),
            connected => return connected,
        }
    }
}

fn nobody_listens(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

fn exchange(mut stream: UnixStream, verb: &str, body: &[u8], patience: Patience, working: &mut bool) -> io::Result<(u16, Vec<u8>)> {
    let started = Instant::now();
    stream.set_write_timeout(Some(patience.first_word))?;
    stream.set_read_timeout(Some(patience.first_word))?;
    let head = format!(
        "POST /cni/{verb} HTTP/1.1\r\nhost: trackbed\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)?;
    let mut reader = BufReader::new(stream.take(ANSWER_BYTES));
    loop {
        let (status, length) = read_head(&mut reader)?;
        if !(100..200).contains(&status) {
            let mut answer = Vec::new();
            match length {
                Some(length) => (&mut reader).take(length).read_to_end(&mut answer)?,
                None => reader.read_to_end(&mut answer)?,
            };
            return Ok((status, answer));
        }
        *working = true;
        let left = patience.whole.checked_sub(started.elapsed()).filter(|left| !left.is_zero());
        reader.get_ref().get_ref().set_read_timeout(Some(left.ok_or(io::ErrorKind::TimedOut)?))?;
    }
}

/// Status and content-length of one response head.
fn read_head(reader: &mut impl BufRead) -> io::Result<(u16, Option<u64>)> {
    let wrong = |line: &str| io::Error::new(io::ErrorKind::InvalidData, format!("it answered {:?}", line.trim_end()));
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let status = line.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)).and_then(|digits| digits.parse().ok());
    let status = status.ok_or_else(|| wrong(&line))?;
    let mut length = None;
    for _ in 0..HEAD_LINES {
        let mut header = String::new();
        if reader.read_line(&mut header)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match header.trim_end().split_once(':') {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                length = Some(value.trim().parse().map_err(|_| wrong(&header))?);
            }
            Some(_) => {}
            None => return Ok((status, length)),
        }
    }
    Err(wrong("more headers than the daemon sends"))
}
