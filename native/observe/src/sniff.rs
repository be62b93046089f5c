//! Which protocol a connection speaks, by the first bytes of its client, or of its server where that speaks first.
use std::borrow::Cow;

use crate::Protocol;
use crate::hello::{Hello, Read};
use crate::limits::FIRST;

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// As far as the first bytes go.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Guess {
    More,
    Is(Protocol),
    None,
}

#[derive(Debug, Default)]
pub(crate) struct Sniffer {
    /// What the client has said, while that does not tell.
    first: Vec<u8>,
    /// And the server, where it speaks first.
    greeting: Vec<u8>,
    hello: Option<Box<Hello>>,
    pub(crate) server_name: Option<Box<str>>,
}

impl Sniffer {
    /// What the client and the server said before the piece that told.
    pub(crate) fn before(&mut self) -> [Vec<u8>; 2] {
        [std::mem::take(&mut self.first), std::mem::take(&mut self.greeting)]
    }

    pub(crate) fn client(&mut self, bytes: &[u8]) -> Guess {
        if let Some(hello) = &mut self.hello {
            let read = hello.read(bytes);
            return self.named(read);
        }
        let fresh = self.first.is_empty();
        let all = joined(&self.first, bytes);
        match client(&all) {
            Guess::Is(Protocol::Tls) => {
                let mut hello = Box::new(Hello::new());
                let mut read = if fresh { Read::More } else { hello.read(&self.first) };
                if read == Read::More {
                    read = hello.read(bytes);
                }
                self.hello = Some(hello);
                self.named(read)
            }
            Guess::More if all.len() >= FIRST => Guess::None,
            Guess::More => {
                self.first = all.into_owned();
                Guess::More
            }
            told => told,
        }
    }

    /// A server that speaks while its client has not told. Of TLS it is clear, be it without a name.
    pub(crate) fn server(&mut self, bytes: &[u8]) -> Guess {
        if self.hello.is_some() {
            return Guess::Is(Protocol::Tls);
        }
        let all = joined(&self.greeting, bytes);
        match server(&all) {
            Guess::More if all.len() >= FIRST => Guess::None,
            Guess::More => {
                self.greeting = all.into_owned();
                Guess::More
            }
            told => told,
        }
    }

    fn named(&mut self, read: Read) -> Guess {
        match read {
            Read::More => Guess::More,
            Read::NotTls => Guess::None,
            Read::Names(name) => {
                self.server_name = name.map(String::into_boxed_str);
                Guess::Is(Protocol::Tls)
            }
        }
    }
}

/// What was kept and what came, as far as is looked at.
fn joined<'a>(kept: &[u8], bytes: &'a [u8]) -> Cow<'a, [u8]> {
    if kept.is_empty() {
        Cow::Borrowed(&bytes[..bytes.len().min(FIRST)])
    } else {
        [kept, &bytes[..bytes.len().min(FIRST - kept.len())]].concat().into()
    }
}

fn client(bytes: &[u8]) -> Guess {
    any(&[http2, tls, http1, postgresql, redis, ssh, kafka], bytes)
}

fn server(bytes: &[u8]) -> Guess {
    any(&[settings, mysql, ssh], bytes)
}

fn any(rules: &[fn(&[u8]) -> Guess], bytes: &[u8]) -> Guess {
    let mut open = false;
    for rule in rules {
        match rule(bytes) {
            Guess::None => {}
            Guess::More => open = true,
            told @ Guess::Is(_) => return told,
        }
    }
    if open { Guess::More } else { Guess::None }
}

/// `Is` when `bytes` begin with `wanted`, `More` while they may.
fn begins(bytes: &[u8], wanted: &[u8], protocol: Protocol) -> Guess {
    if bytes.starts_with(wanted) {
        Guess::Is(protocol)
    } else if wanted.starts_with(bytes) {
        Guess::More
    } else {
        Guess::None
    }
}

fn http2(bytes: &[u8]) -> Guess {
    begins(bytes, PREFACE, Protocol::Http2)
}

/// A handshake record of version 3; whether it is a hello is seen when it is read.
fn tls(bytes: &[u8]) -> Guess {
    begins(bytes, &[22, 3], Protocol::Tls)
}

fn ssh(bytes: &[u8]) -> Guess {
    begins(bytes, b"SSH-2.0-", Protocol::Ssh)
}

/// A known method and the beginning of what it can be about.
fn http1(bytes: &[u8]) -> Guess {
    const METHODS: [&[u8]; 20] = [
        b"GET ",
        b"HEAD ",
        b"POST ",
        b"PUT ",
        b"DELETE ",
        b"CONNECT ",
        b"OPTIONS ",
        b"TRACE ",
        b"PATCH ",
        b"PROPFIND ",
        b"PROPPATCH ",
        b"MKCOL ",
        b"COPY ",
        b"MOVE ",
        b"LOCK ",
        b"UNLOCK ",
        b"REPORT ",
        b"SEARCH ",
        b"PURGE ",
        b"QUERY ",
    ];
    let mut open = false;
    for method in METHODS {
        match bytes.strip_prefix(method) {
            Some([b'/' | b'*', ..]) => return Guess::Is(Protocol::Http1),
            Some([_, ..]) if method == b"CONNECT " => return Guess::Is(Protocol::Http1),
            Some([]) => return Guess::More,
            Some(target) => return begins(target, b"http://", Protocol::Http1),
            None => open |= method.starts_with(bytes),
        }
    }
    if open { Guess::More } else { Guess::None }
}

/// StartupMessage of version 3, or one of the requests that take its place.
fn postgresql(bytes: &[u8]) -> Guess {
    const LONGEST: u32 = 10_000;
    const CANCEL: u32 = 80_877_102;
    const SSL: u32 = 80_877_103;
    const GSSENC: u32 = 80_877_104;
    let Some((length, rest)) = bytes.split_first_chunk() else {
        // Its length has two zeros in front.
        return if bytes.iter().take(2).all(|byte| *byte == 0) { Guess::More } else { Guess::None };
    };
    let length = u32::from_be_bytes(*length);
    let Some((code, rest)) = rest.split_first_chunk() else { return if length <= LONGEST { Guess::More } else { Guess::None } };
    match (u32::from_be_bytes(*code), length) {
        (CANCEL, 16..=268) | (SSL | GSSENC, 8) => Guess::Is(Protocol::Postgresql),
        // The name of the first setting.
        (version, 9..=LONGEST) if version >> 16 == 3 => match rest.first() {
            None => Guess::More,
            Some(first) if first.is_ascii_alphabetic() || *first == b'_' || length == 9 => Guess::Is(Protocol::Postgresql),
            Some(_) => Guess::None,
        },
        _ => Guess::None,
    }
}

/// A command as RESP writes it: a list of texts, each behind its length.
fn redis(bytes: &[u8]) -> Guess {
    const DIGITS: usize = 7;
    let Some(rest) = bytes.strip_prefix(b"*") else { return if bytes.is_empty() { Guess::More } else { Guess::None } };
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let fits = digits <= DIGITS && rest.first().is_none_or(|first| (b'1'..=b'9').contains(first));
    if fits { begins(&rest[digits..], b"\r\n$", Protocol::Redis) } else { Guess::None }
}

/// The head of a request that clients begin with: key and version of the call, a number, and who they are.
fn kafka(bytes: &[u8]) -> Guess {
    const LONGEST: u32 = 64 << 10;
    /// Calls with their highest versions, with room for some more.
    const METADATA: (u16, u16) = (3, 15);
    const SASL_HANDSHAKE: (u16, u16) = (17, 2);
    const API_VERSIONS: (u16, u16) = (18, 6);
    const HEAD: usize = 14;
    let at = |index: usize| bytes.get(index).copied();
    let short = |index: usize| Some(u16::from_be_bytes([at(index)?, at(index + 1)?]));
    let length = bytes.first_chunk().map(|length| u32::from_be_bytes(*length));
    if length.map_or(at(0).is_some_and(|first| first != 0), |length| !(10..=LONGEST).contains(&length)) {
        return Guess::None;
    }
    let known = |key: u16, version: u16| [METADATA, SASL_HANDSHAKE, API_VERSIONS].iter().any(|call| call.0 == key && version <= call.1);
    match (short(4), short(6)) {
        (Some(key), Some(version)) if !known(key, version) => return Guess::None,
        _ => {}
    }
    let Some(name) = short(12) else { return Guess::More };
    // No name, or a text that is within the request.
    let name = if name == u16::MAX { 0 } else { usize::from(name) };
    let fits = length.is_some_and(|length| name + 10 <= length as usize);
    let said = &bytes[HEAD..bytes.len().min(HEAD + name)];
    if !fits || !said.iter().all(|byte| byte.is_ascii_graphic() || *byte == b' ') {
        Guess::None
    } else if bytes.len() < FIRST.min(HEAD + name) {
        Guess::More
    } else {
        Guess::Is(Protocol::Kafka)
    }
}

/// A server of HTTP/2 may say its SETTINGS before it has heard anything: a frame of some pairs, on no stream.
fn settings(bytes: &[u8]) -> Guess {
    const PAIR: u8 = 6;
    const LONGEST: u8 = 20 * PAIR;
    const KIND: u8 = 4;
    let fits = |(index, byte): (usize, &u8)| match index {
        2 => *byte <= LONGEST && byte.is_multiple_of(PAIR),
        3 => *byte == KIND,
        _ => *byte == 0,
    };
    match (bytes.iter().take(9).enumerate().all(fits), bytes.len() >= 9) {
        (false, _) => Guess::None,
        (true, true) => Guess::Is(Protocol::Http2),
        (true, false) => Guess::More,
    }
}

/// The greeting of version 10: a packet with number 0, and the server's version in words.
fn mysql(bytes: &[u8]) -> Guess {
    const LONGEST: usize = 512;
    let (head, version) = bytes.split_at(bytes.len().min(5));
    let length = head.iter().take(3).rev().fold(0, |length, byte| length << 8 | usize::from(*byte));
    if length > LONGEST || !head.iter().skip(3).zip([0, 10]).all(|(byte, wanted)| *byte == wanted) {
        return Guess::None;
    }
    let end = version.iter().position(|byte| *byte == 0);
    let text = &version[..end.unwrap_or(version.len())];
    let fits = text.iter().all(u8::is_ascii_graphic) && text.first().is_none_or(u8::is_ascii_digit) && (end != Some(0));
    match (fits, end.is_some() || bytes.len() >= FIRST) {
        (false, _) => Guess::None,
        (true, true) => Guess::Is(Protocol::Mysql),
        (true, false) => Guess::More,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the client's bytes tell, in pieces of that size.
    fn told(bytes: &[u8], piece: usize) -> Guess {
        let mut sniffer = Sniffer::default();
        bytes.chunks(piece).map(|piece| sniffer.client(piece)).find(|guess| *guess != Guess::More).unwrap_or(Guess::More)
    }

    #[test]
    fn the_first_bytes_of_a_client_tell_its_protocol_however_they_are_cut() {
        let startup = [&[0, 0, 0, 41, 0, 3, 0, 0][..], b"user\0shop\0database\0shop\0\0"].concat();
        let versions = [&[0, 0, 0, 23, 0, 18, 0, 3, 0, 0, 0, 1, 0, 7][..], b"rdkafka\0\x01\x01\x01\x01"].concat();
        for (bytes, protocol) in [
            (&b"GET / HTTP/1.1\r\n"[..], Protocol::Http1),
            (b"OPTIONS * HTTP/1.1\r\n", Protocol::Http1),
            (b"POST http://shop/ HTTP/1.1\r\n", Protocol::Http1),
            (b"CONNECT shop:443 HTTP/1.1\r\n", Protocol::Http1),
            (b"PUT /x HTTP/1.1\r\n", Protocol::Http1),
            (PREFACE, Protocol::Http2),
            (&startup, Protocol::Postgresql),
            (&[0, 0, 0, 8, 4, 210, 22, 47], Protocol::Postgresql),
            (b"*1\r\n$4\r\nPING\r\n", Protocol::Redis),
            (b"*12\r\n$3\r\nDEL\r\n", Protocol::Redis),
            (&versions, Protocol::Kafka),
            (b"SSH-2.0-OpenSSH_9.6\r\n", Protocol::Ssh),
        ] {
            for piece in [1, 2, 3, 7, 1000] {
                assert_eq!(told(bytes, piece), Guess::Is(protocol), "{:?} by {piece}", String::from_utf8_lossy(bytes));
            }
        }
    }

    #[test]
    fn what_only_resembles_a_protocol_is_none() {
        for bytes in [
            &b"GETTING started"[..],
            b"GET key\r\n",
            b"*x\r\n",
            b"*0\r\n$4\r\n",
            b"PRI * HTTP/1.1\r\n\r\n",
            b"EHLO shop\r\n",
            &[0, 0, 0, 8, 0, 3, 0, 0, 1],
            &[0, 0, 0, 23, 0, 18, 0, 99, 0, 0, 0, 1, 0, 7],
            &[0, 0, 0, 23, 0, 3, 0, 1, 0, 0, 0, 1, 0, 7, 1, 2, 3],
            &[22, 1, 0],
            &[0; 80],
        ] {
            for piece in [1, 5, 1000] {
                assert_eq!(told(bytes, piece), Guess::None, "{bytes:?} by {piece}");
            }
        }
    }

    #[test]
    fn a_server_that_speaks_first_tells_too() {
        let greeting = [&[74, 0, 0, 0, 10][..], b"8.4.2\0", &[0; 68]].concat();
        let told = |bytes: &[u8], piece| {
            let mut sniffer = Sniffer::default();
            bytes.chunks(piece).map(|piece| sniffer.server(piece)).find(|guess| *guess != Guess::More)
        };
        for piece in [1, 3, 1000] {
            assert_eq!(told(&greeting, piece), Some(Guess::Is(Protocol::Mysql)));
            assert_eq!(told(b"SSH-2.0-dropbear\r\n", piece), Some(Guess::Is(Protocol::Ssh)));
            assert_eq!(told(&[0, 0, 12, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 100], piece), Some(Guess::Is(Protocol::Http2)));
            assert_eq!(told(&[0, 0, 5, 4, 0, 0, 0, 0, 0], piece), Some(Guess::None));
            assert_eq!(told(b"220 mail ESMTP\r\n", piece), Some(Guess::None));
            assert_eq!(told(b"\x4a\0\0\0\x0a-8.4", piece), Some(Guess::None));
        }
    }
}
