//! HTTP as applications of a test speak it: a server that says who it is, and a client that keeps its connection.
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::lab::Pod;

/// Answers every request with the pod's name, what it was asked, how long its body was, and its trace; `/slow` after a while.
pub(crate) fn serve(pod: &Pod, port: u16) {
    let name = pod.name.clone();
    pod.accept(port, move |stream| {
        let mut writer = stream.try_clone()?;
        let mut reader = BufReader::new(stream);
        while let Some(head) = head(&mut reader)? {
            let mut body = vec![0; length(&head)];
            reader.read_exact(&mut body)?;
            let line = head.lines().next().unwrap_or_default();
            if line.contains(" /slow") {
                std::thread::sleep(Duration::from_millis(300));
            }
            let context = header(&head, "traceparent").unwrap_or_default();
            let body = format!("{name}|{line}|{}|{context}", body.len());
            // In one piece: the rest of one in several would wait for the other side's acknowledgement.
            writer.write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()).as_bytes())?;
        }
        Ok(())
    });
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
    /// The connection ends behind it.
    pub(crate) last: bool,
}

impl Answer {
    /// The pod that answered.
    pub(crate) fn by(&self) -> &str {
        self.body.split('|').next().unwrap_or_default()
    }
}

/// A connection that is kept, of an application in a pod.
pub(crate) struct Client {
    writer: TcpStream,
    reader: BufReader<TcpStream>,
}

impl Client {
    pub(crate) fn new(from: &Pod, ip: &str, port: u16) -> std::io::Result<Self> {
        let stream = from.connect(ip, port)?.0;
        Ok(Self { writer: stream.try_clone()?, reader: BufReader::new(stream) })
    }

    /// `None` when the connection had ended before anything was said: it may be asked again.
    pub(crate) fn ask(&mut self, request: &str) -> std::io::Result<Option<Answer>> {
        let gone = |error: &std::io::Error| matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset);
        if let Err(error) = self.writer.write_all(request.as_bytes()) {
            return if gone(&error) { Ok(None) } else { Err(error) };
        }
        let head = match head(&mut self.reader) {
            Ok(Some(head)) => head,
            Ok(None) => return Ok(None),
            Err(error) => return if gone(&error) { Ok(None) } else { Err(error) },
        };
        let mut body = vec![0; length(&head)];
        self.reader.read_exact(&mut body)?;
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        let last = head.to_ascii_lowercase().contains("\r\nconnection: close\r\n");
        Ok(Some(Answer { status, body: String::from_utf8(body).expect("text"), last }))
    }

    pub(crate) fn get(&mut self, path: &str) -> Answer {
        self.ask(&format!("GET {path} HTTP/1.1\r\nhost: somewhere.example\r\n\r\n")).expect("an answer").expect("it is open")
    }
}

/// Up to the empty line; `None` at the end of the connection.
fn head(reader: &mut impl BufRead) -> std::io::Result<Option<String>> {
    let mut head = String::new();
    loop {
        if reader.read_line(&mut head)? == 0 {
            return if head.is_empty() { Ok(None) } else { Err(ErrorKind::UnexpectedEof.into()) };
        }
        if head.ends_with("\r\n\r\n") {
            return Ok(Some(head));
        }
    }
}

fn length(head: &str) -> usize {
    header(head, "content-length").map_or(0, |value| value.parse().expect("a length"))
}

fn header(head: &str, name: &str) -> Option<String> {
    let mut lines = head.lines().filter_map(|line| line.split_once(':'));
    lines.find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().to_owned())
}
