//! A hostile peer, in either role: however its bytes are cut the codec says the same, keeps its own rules, and stays within its bounds.
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use trackbed_hbone::testing::{Codec, SERVER_STREAMS, Seen};

use crate::script::{Script, cut};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEAD: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const FIRST_WINDOW: u64 = 65_535;
/// A CONNECT to 10.0.0.1:80: method and authority as literals, and what answers it.
const CONNECT: &[u8] = b"\x02\x07CONNECT\x01\x0b10.0.0.1:80";
const OK: &[u8] = b"\x88";

pub(crate) fn frames(script: &mut Script<'_>) {
    let (Some(role), Some(sizes)) = (script.byte(), script.piece()) else { return };
    let server = role & 1 == 0;
    let rest = script.rest();
    let whole = Run::new(server).follow(rest, &[]);
    if !sizes.is_empty() {
        assert_eq!(Run::new(server).follow(rest, sizes), whole, "another cut, another outcome");
    }
}

/// What happened: events with the payload of each stream put together, and everything that we said.
#[derive(Debug, Default, PartialEq, Eq)]
struct Story {
    events: Vec<Seen>,
    payload: BTreeMap<u32, Vec<u8>>,
    said: Vec<u8>,
    end: Option<(u32, &'static str)>,
}

struct Run {
    codec: Codec,
    server: bool,
    now: Instant,
    story: Story,
    heard: usize,
    /// The peer's next stream, or ours.
    next: u32,
    asked: BTreeSet<u32>,
    over: BTreeSet<u32>,
    ended: BTreeSet<u32>,
    ours: Ours,
}

impl Run {
    fn new(server: bool) -> Self {
        let now = Instant::now();
        let codec = if server { Codec::server(now) } else { Codec::client(now) };
        let ours = Ours { server, ..Ours::default() };
        Self {
            codec,
            server,
            now,
            story: Story::default(),
            heard: 0,
            next: 1,
            asked: BTreeSet::new(),
            over: BTreeSet::new(),
            ended: BTreeSet::new(),
            ours,
        }
    }

    fn follow(mut self, script: &[u8], sizes: &[u8]) -> Story {
        let mut script = Script::new(script);
        // Most scripts begin as a proper peer does.
        let Some(first) = script.byte() else { return self.story };
        if first & 1 == 0 {
            let mut hello = if self.server { PREFACE.to_vec() } else { Vec::new() };
            hello.extend(frame(SETTINGS, 0, 0, &[]));
            self.hear(&hello, sizes);
        }
        while self.story.end.is_none() && self.step(&mut script, sizes).is_some() {
            let said = std::mem::take(self.codec.out());
            self.ours.check(&said);
            self.story.said.extend(said);
            assert!(self.codec.kept() <= 2 * SERVER_STREAMS as usize || !self.server);
        }
        let said = std::mem::take(self.codec.out());
        self.ours.check(&said);
        self.story.said.extend(said);
        if let Some((code, _)) = self.story.end {
            assert_eq!(self.ours.goaway, Some(code));
        }
        // A frame of ours for a frame of the peer, and what we say of our own.
        assert!(self.story.said.len() <= 8 * self.heard + self.ours.own + 1024, "{} bytes for {}", self.story.said.len(), self.heard);
        self.story
    }

    fn step(&mut self, script: &mut Script<'_>, sizes: &[u8]) -> Option<()> {
        let what = script.byte()?;
        if what % 20 > 12 {
            return self.act(what, script);
        }
        let bytes = self.speak(what, script)?;
        self.hear(&bytes, sizes);
        Some(())
    }

    /// What the peer says.
    fn speak(&mut self, what: u8, script: &mut Script<'_>) -> Option<Vec<u8>> {
        Some(match what % 20 {
            0 | 1 => {
                let end = (what / 20) & END_STREAM;
                if self.server {
                    let id = self.next;
                    self.next += 2;
                    frame(HEADERS, END_HEADERS | end, id, CONNECT)
                } else {
                    frame(HEADERS, END_HEADERS | end, id(script, self.next.saturating_sub(2))?, OK)
                }
            }
            2 | 3 => {
                let (id, length) = (id(script, self.next.saturating_sub(2))?, usize::from(script.short()?));
                frame(DATA, (what / 20) & 9, id, &vec![what; length])
            }
            4 => frame(WINDOW_UPDATE, 0, id(script, self.next)?, &[script.byte()? & 0x7f, script.byte()?, script.byte()?, script.byte()?]),
            5 => frame(RST_STREAM, 0, id(script, self.next)?, &[0, 0, 0, script.byte()?]),
            6 => frame(SETTINGS, (what / 20) & ACK, 0, script.piece()?),
            7 => frame(PING, (what / 20) & ACK, 0, if what & 64 == 0 { b"trackbed" } else { b"12345678" }),
            8 => frame(GOAWAY, 0, 0, &[0, 0, 0, script.byte()?, 0, 0, 0, 0]),
            9 => frame(HEADERS, script.byte()?, id(script, self.next)?, script.piece()?),
            10 => frame(CONTINUATION, script.byte()?, id(script, self.next)?, script.piece()?),
            11 => {
                let (kind, flags, stream) = (script.byte()?, script.byte()?, script.short()?);
                frame(kind, flags, stream.into(), script.piece()?)
            }
            _ => script.piece()?.to_vec(),
        })
    }

    /// What we do of our own.
    fn act(&mut self, what: u8, script: &mut Script<'_>) -> Option<()> {
        match what % 20 {
            13 if self.server => {
                let (id, refuse) = (id(script, self.next)?, script.byte()? > 200);
                self.codec.answer(id, if refuse { 503 } else { 200 }, refuse);
                self.ours.own += 64;
            }
            13 => {
                if let Some(id) = self.codec.ask("10.0.0.1:80", self.now) {
                    self.ours.own += 64;
                    self.next = id + 2;
                }
            }
            14 => {
                let (id, length) = (id(script, self.next)?, usize::from(script.short()?));
                let length = length.min(self.codec.room(id)).min(16 << 10);
                // Only who was accepted is sent anything.
                if length > 0 && (!self.server || self.ours.answered.contains(&id)) {
                    let head = self.codec.data(id, u32::try_from(length).expect("short"));
                    let out = self.codec.out();
                    out.extend(head);
                    out.resize(out.len() + length, 0);
                    self.ours.own += HEAD + length;
                }
            }
            15 => {
                let id = id(script, self.next)?;
                if !self.server || self.ours.answered.contains(&id) {
                    self.codec.end(id);
                    self.ours.own += HEAD;
                }
            }
            16 => {
                let id = id(script, self.next)?;
                if what & 64 == 0 {
                    self.codec.reset(id);
                } else {
                    self.codec.release(id);
                }
                if if self.server { self.asked.contains(&id) } else { id < self.next } {
                    self.over.insert(id);
                }
                self.ours.own += 13;
            }
            17 => {
                let (id, length) = (id(script, self.next)?, usize::from(script.short()?));
                let unread = self.ours.unread.entry(id).or_default();
                let length = length.min(*unread);
                *unread -= length;
                let keeps_up = *unread == 0;
                self.codec.read(id, length, keeps_up, self.now);
                self.ours.own += 13;
            }
            18 => {
                self.now += Duration::from_millis(script.byte()?.into());
            }
            _ => {
                match script.byte()? {
                    0 => self.codec.announce_leave(),
                    1 => self.codec.leave(),
                    _ => self.codec.ping(),
                }
                self.ours.own += 34;
            }
        }
        Some(())
    }

    fn hear(&mut self, bytes: &[u8], sizes: &[u8]) {
        self.heard += bytes.len();
        for piece in cut(bytes, sizes) {
            let mut at = 0;
            loop {
                match self.codec.next(piece, &mut at, self.now) {
                    Ok(Some(seen)) => self.note(seen, piece),
                    Ok(None) => break,
                    Err(end) => {
                        self.story.end = Some(end);
                        return;
                    }
                }
            }
            assert_eq!(at, piece.len(), "input was left over");
        }
    }

    fn note(&mut self, seen: Seen, piece: &[u8]) {
        match &seen {
            Seen::Data { id, range } => {
                assert!(!range.is_empty() && self.is_open(*id), "data of a stream that is not open");
                let all = self.story.payload.entry(*id).or_default();
                all.extend(&piece[range.clone()]);
                *self.ours.unread.entry(*id).or_default() += range.len();
                // Windows of ours that were announced until now, also in what is not looked at yet.
                self.ours.check_window(*id, all.len() as u64, self.codec.out());
                return;
            }
            Seen::Asked { id, authority, .. } => {
                assert!(self.server && !authority.is_empty() && id % 2 == 1);
                assert!(self.asked.last().is_none_or(|last| last < id), "an id out of order");
                self.asked.insert(*id);
            }
            Seen::Answered { id, status } => {
                assert!(!self.server && (200..1000).contains(status) && self.asked.insert(*id), "answered twice");
            }
            Seen::End { id } => assert!(self.is_open(*id) && self.ended.insert(*id), "an end of a stream that is not open"),
            Seen::Reset { id, .. } => assert!(self.over.insert(*id), "reset twice"),
            Seen::Settings | Seen::Room { .. } | Seen::GoAway { .. } | Seen::Pong => {}
        }
        self.story.events.push(seen);
    }

    fn is_open(&self, id: u32) -> bool {
        self.asked.contains(&id) && !self.over.contains(&id) && !self.ended.contains(&id)
    }
}

/// What we said, read as any peer would: frames that are whole and within the rules.
#[derive(Default)]
struct Ours {
    server: bool,
    begun: bool,
    goaway: Option<u32>,
    answered: BTreeSet<u32>,
    ended: BTreeSet<u32>,
    granted: BTreeMap<u32, u64>,
    unread: BTreeMap<u32, usize>,
    hpack: Option<loona_hpack::Decoder<'static>>,
    /// Bytes at most that we say without being spoken to.
    own: usize,
}

impl Ours {
    fn check(&mut self, mut said: &[u8]) {
        if !std::mem::replace(&mut self.begun, true) && !self.server {
            said = said.strip_prefix(PREFACE).expect("a client's preface");
        }
        while let Some((head, rest)) = said.split_first_chunk::<HEAD>() {
            let (kind, flags, id, length) = parse(*head);
            let (payload, behind) = rest.split_at_checked(length).expect("a whole frame");
            assert!(length <= 16 << 10, "larger than a peer must take");
            self.frame(kind, flags, id, payload);
            said = behind;
        }
        assert!(said.is_empty(), "half a frame");
    }

    fn frame(&mut self, kind: u8, flags: u8, id: u32, payload: &[u8]) {
        match kind {
            HEADERS => {
                assert!(id % 2 == 1 && flags & END_HEADERS != 0 && !self.ended.contains(&id));
                assert!(self.answered.insert(id), "headers twice");
                let decoder = self.hpack.get_or_insert_with(loona_hpack::Decoder::new);
                let fields = decoder.decode(payload).expect("a block that others read");
                assert!(fields[0].0.starts_with(b":") && !fields[0].1.is_empty());
                if flags & END_STREAM != 0 {
                    self.ended.insert(id);
                }
            }
            DATA => {
                assert!(self.answered.contains(&id) && !self.ended.contains(&id), "data where none may be");
                if flags & END_STREAM != 0 {
                    self.ended.insert(id);
                }
            }
            RST_STREAM => {
                assert!(payload.len() == 4 && id > 0);
                self.ended.insert(id);
            }
            SETTINGS => assert!(id == 0 && payload.len().is_multiple_of(6) && (flags & ACK == 0 || payload.is_empty())),
            PING => assert!(id == 0 && payload.len() == 8),
            GOAWAY => {
                assert!(id == 0 && payload.len() == 8);
                self.goaway = Some(u32::from_be_bytes([payload[4], payload[5], payload[6], payload[7]]));
            }
            WINDOW_UPDATE => self.grant(id, payload),
            _ => panic!("a frame of kind {kind}"),
        }
    }

    fn grant(&mut self, id: u32, payload: &[u8]) {
        let by = u32::from_be_bytes(payload.try_into().expect("four bytes"));
        assert!(by > 0 && i32::try_from(by).is_ok() && (id == 0 || !self.ended.contains(&id) || self.unread.contains_key(&id)));
        *self.granted.entry(id).or_default() += u64::from(by);
    }

    /// Nobody is given more payload than windows allow.
    fn check_window(&self, id: u32, received: u64, mut out: &[u8]) {
        let mut most = FIRST_WINDOW + self.granted.get(&id).copied().unwrap_or(0);
        while let Some((head, rest)) = out.split_first_chunk::<HEAD>() {
            let (kind, _, stream, length) = parse(*head);
            if (kind, stream) == (WINDOW_UPDATE, id) {
                most += u64::from(u32::from_be_bytes(rest[..4].try_into().expect("four bytes")));
            }
            out = &rest[length..];
        }
        assert!(received <= most, "{received} bytes of a window of {most}");
    }
}

/// One of the streams there were lately, or the next one.
fn id(script: &mut Script<'_>, next: u32) -> Option<u32> {
    Some(next.saturating_sub(2 * u32::from(script.byte()? % 16)))
}

fn parse([a, b, c, kind, flags, id @ ..]: [u8; HEAD]) -> (u8, u8, u32, usize) {
    (kind, flags, u32::from_be_bytes(id), u32::from_be_bytes([0, a, b, c]) as usize)
}

pub(crate) fn frame(kind: u8, flags: u8, id: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(payload.len()).expect("short").to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(id.to_be_bytes());
    bytes.extend(payload);
    bytes
}
