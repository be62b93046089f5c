//! Two codecs of ours, client and server, on wires that deliver in any pieces: neither ever blames the other, and what was sent arrives.
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use trackbed_hbone::testing::{Codec, Seen};

use crate::script::Script;

/// Resets that a client may do before the server calls it a flood.
const RESETS: usize = 200;
/// GOAWAY with this code ends a flood.
const CALM: u32 = 11;
/// Payload of one frame; the codec sends no larger ones.
const FRAME: usize = 16 << 10;

pub(crate) fn talk(script: &mut Script<'_>) {
    let now = Instant::now();
    let mut pair =
        Pair { client: Side::new(Codec::client(now)), server: Side::new(Codec::server(now)), now, streams: BTreeMap::new(), resets: 0 };
    while let Some(what) = script.byte() {
        if pair.act(what, script).is_none() {
            break;
        }
        if pair.resets > RESETS {
            return;
        }
    }
    pair.finish();
}

struct Pair {
    client: Side,
    server: Side,
    now: Instant,
    streams: BTreeMap<u32, Stream>,
    resets: usize,
}

struct Side {
    codec: Codec,
    /// Frames and payload on their way to the other side.
    wire: Vec<u8>,
}

#[derive(Default)]
#[allow(clippy::struct_excessive_bools)] // each is a fact of its own
struct Stream {
    /// Towards the server, and back.
    up: Way,
    down: Way,
    accepted: bool,
    asked: bool,
    answered: bool,
    /// Reset by one side or refused: what is on its way may be lost.
    broken: bool,
}

#[derive(Default)]
struct Way {
    sent: usize,
    received: usize,
    unread: usize,
    ended: bool,
    end_seen: bool,
}

impl Side {
    fn new(codec: Codec) -> Self {
        Self { codec, wire: Vec::new() }
    }

    fn flush(&mut self) {
        self.wire.append(self.codec.out());
    }
}

fn pattern(id: u32, at: usize) -> u8 {
    (at.wrapping_mul(31) >> 3) as u8 ^ id as u8
}

impl Pair {
    fn act(&mut self, what: u8, script: &mut Script<'_>) -> Option<()> {
        let (up, what) = (what & 128 == 0, what & 127);
        match what % 10 {
            0 => self.ask(),
            1 => {
                let (id, accept) = (self.pick(script)?, script.byte()? < 224);
                self.answer(id, accept);
            }
            2 | 3 => {
                let (id, length) = (self.pick(script)?, usize::from(script.short()?));
                self.send(id, length, up);
            }
            4 => {
                let id = self.pick(script)?;
                self.end(id, up);
            }
            5 => {
                let id = self.pick(script)?;
                self.reset(id, up);
            }
            6 => {
                let (id, length) = (self.pick(script)?, usize::from(script.short()?));
                self.read(id, length, up);
            }
            7 => {
                let length = usize::from(script.short()?);
                self.deliver(length, up);
            }
            8 => self.now += Duration::from_millis(script.byte()?.into()),
            _ => match script.byte()? % 16 {
                0 => self.server.codec.announce_leave(),
                1 => self.server.codec.leave(),
                _ => self.side(up).codec.ping(),
            },
        }
        Some(())
    }

    fn side(&mut self, up: bool) -> &mut Side {
        if up { &mut self.client } else { &mut self.server }
    }

    /// One of the streams there were, the latest ones most of all.
    fn pick(&self, script: &mut Script<'_>) -> Option<u32> {
        let back = usize::from(script.byte()?);
        self.streams.keys().rev().cycle().nth(back).copied().or(Some(1))
    }

    fn ask(&mut self) {
        if let Some(id) = self.client.codec.ask("10.0.0.1:80", self.now) {
            assert!(self.streams.insert(id, Stream::default()).is_none(), "an id was used again");
        }
    }

    fn answer(&mut self, id: u32, accept: bool) {
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| stream.asked && !stream.answered && !stream.broken) else { return };
        stream.answered = true;
        stream.accepted = accept;
        stream.broken |= !accept;
        self.server.codec.answer(id, if accept { 200 } else { 503 }, !accept);
    }

    fn send(&mut self, id: u32, length: usize, up: bool) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let way = if up { &mut stream.up } else { &mut stream.down };
        if way.ended || stream.broken || (!up && !stream.accepted) {
            return;
        }
        let side = if up { &mut self.client } else { &mut self.server };
        let length = length.min(side.codec.room(id)).min(FRAME);
        if length == 0 {
            return;
        }
        side.flush();
        let head = side.codec.data(id, length as u32);
        side.wire.extend(head);
        side.wire.extend((way.sent..way.sent + length).map(|at| pattern(id, at)));
        way.sent += length;
    }

    fn end(&mut self, id: u32, up: bool) {
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| !stream.broken) else { return };
        if !up && !stream.accepted {
            return;
        }
        let way = if up { &mut stream.up } else { &mut stream.down };
        way.ended = true;
        self.side(up).codec.end(id);
    }

    fn reset(&mut self, id: u32, up: bool) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if !up && !stream.asked {
            return;
        }
        stream.broken = true;
        self.resets += 1;
        self.side(up).codec.release(id);
    }

    /// The reader of one end takes bytes.
    fn read(&mut self, id: u32, length: usize, up: bool) {
        let now = self.now;
        let Some(stream) = self.streams.get_mut(&id) else { return };
        // What went up is read at the server.
        let way = if up { &mut stream.up } else { &mut stream.down };
        let length = length.min(way.unread);
        way.unread -= length;
        let keeps_up = way.unread == 0;
        self.side(!up).codec.read(id, length, keeps_up, now);
    }

    /// Bytes of one side's wire to the other side.
    fn deliver(&mut self, length: usize, up: bool) {
        let side = if up { &mut self.client } else { &mut self.server };
        side.flush();
        let bytes: Vec<u8> = side.wire.drain(..length.min(side.wire.len())).collect();
        let mut at = 0;
        loop {
            let now = self.now;
            match self.side(!up).codec.next(&bytes, &mut at, now) {
                Ok(Some(seen)) => self.note(seen, &bytes, up),
                Ok(None) => break,
                Err((code, what)) => {
                    assert!(code == CALM && self.resets > RESETS / 2, "one of ours blames the other: {what}");
                    self.resets = RESETS + 1;
                    break;
                }
            }
        }
        assert_eq!(at, bytes.len());
    }

    fn note(&mut self, seen: Seen, bytes: &[u8], up: bool) {
        match seen {
            Seen::Asked { id, authority, .. } => {
                assert!(up && authority == "10.0.0.1:80");
                let stream = self.streams.get_mut(&id).expect("somebody asked for it");
                assert!(!std::mem::replace(&mut stream.asked, true));
            }
            Seen::Answered { id, status } => {
                let stream = &self.streams[&id];
                assert!(!up && stream.answered && (status == 200) == stream.accepted);
            }
            Seen::Data { id, range } => {
                let stream = self.streams.get_mut(&id).expect("a stream");
                let way = if up { &mut stream.up } else { &mut stream.down };
                assert!(!way.end_seen);
                for byte in &bytes[range] {
                    assert_eq!(*byte, pattern(id, way.received));
                    way.received += 1;
                    way.unread += 1;
                }
            }
            Seen::End { id } => {
                let stream = self.streams.get_mut(&id).expect("a stream");
                let way = if up { &mut stream.up } else { &mut stream.down };
                assert!(way.ended && !way.end_seen && way.received == way.sent, "an end before its data");
                way.end_seen = true;
            }
            Seen::Reset { id, .. } => {
                let stream = self.streams.get_mut(&id).expect("a stream");
                // A refusal for want of room is the server's own.
                assert!(stream.broken || !up, "nobody reset it");
                stream.broken = true;
            }
            Seen::GoAway { last, .. } => {
                for id in self.side(!up).codec.abandon_beyond(last) {
                    self.streams.get_mut(&id).expect("a stream").broken = true;
                }
            }
            Seen::Settings | Seen::Room { .. } | Seen::Pong => {}
        }
    }

    /// Everything that is on its way arrives, every reader reads: then every stream that nobody broke has all of it, and room for more.
    fn finish(&mut self) {
        loop {
            for up in [true, false] {
                self.deliver(usize::MAX, up);
                for id in self.streams.keys().copied().collect::<Vec<_>>() {
                    self.read(id, usize::MAX, up);
                }
            }
            if self.resets > RESETS {
                return;
            }
            if [&mut self.client, &mut self.server].into_iter().all(|side| side.wire.is_empty() && side.codec.out().is_empty()) {
                break;
            }
        }
        for (id, stream) in &self.streams {
            if stream.broken {
                continue;
            }
            assert!(stream.asked, "stream {id} was lost");
            for (way, up) in [(&stream.up, true), (&stream.down, false)] {
                assert_eq!((way.received, way.end_seen), (way.sent, way.ended), "of stream {id}, up: {up}");
                let codec = if up { &self.client.codec } else { &self.server.codec };
                assert!(way.ended || codec.room(*id) > 0, "stream {id} stands still, up: {up}");
            }
        }
        let live = |codec: &Codec| codec.live();
        let open = self.streams.values().filter(|stream| !(stream.broken || stream.up.ended && stream.down.ended)).count();
        assert_eq!((live(&self.client.codec), live(&self.server.codec)), (open, open), "streams that nobody has");
    }
}
