//! Records: two ends talk while a third party puts its own records and bytes between; each end sees what a plain model of TLS 1.3 says,
//! however the bytes are cut, and nothing more once something was wrong.
use trackbed_tls::channel::{ALERT_BYTES, Front, PREPARE_BYTES, RECORD_DATA, RECORD_HEAD, RECORD_TAIL};
use trackbed_tls::testing::{Deframer, channels, follow, record as any_record, update};
use trackbed_tls::{Channel, RecordError};

use crate::script::{Script, cut};

const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const DATA: u8 = 23;
/// Records without data that a peer may send in a row.
const QUIET: usize = 32;
/// Of a ticket, which only a server sends.
const TICKET: u8 = 4;
const TICKET_BYTES: usize = (1 << 17) + 270;
const KEY_UPDATE: u8 = 24;
/// Any alert that is not the end; the model does not say which one it would be.
const UNTOLD: u8 = 80;
/// Longer than any record may be.
const LONG: usize = 17_000;
/// Long scripts say nothing new, only slower.
const ENOUGH: usize = 1 << 18;

pub fn record(data: &[u8]) {
    let mut script = Script::new(data);
    let (Some(seed), Some(sizes)) = (script.byte(), script.piece()) else { return };
    if seed & 2 == 0 {
        return deframe(script.rest(), sizes);
    }
    let Ok(ends) = channels(seed) else { panic!("a suite of ours") };
    let (mut client, mut server) = (End::new(ends.0, false), End::new(ends.1, true));
    let mut total = 0;
    while let Some(what) = script.byte() {
        let (from, to) = if what & 128 == 0 { (&mut client, &mut server) } else { (&mut server, &mut client) };
        let Some(bytes) = from.say(what & 127, &mut script, &mut to.model) else { break };
        total += bytes.len();
        if total > ENOUGH {
            break;
        }
        if let Some(alert) = to.hear(&bytes, sizes) {
            from.model.record(&[2, UNTOLD], ALERT);
            from.hear(&alert, sizes);
            break; // nobody says anything more
        }
    }
}

/// One end, and what it should make of what it hears.
struct End {
    channel: Channel,
    /// Hears the same, in one piece.
    model: Model,
    pending: Vec<u8>,
    seen: Vec<u8>,
    over: Option<Result<(), RecordError>>,
}

impl End {
    fn new(channel: Channel, is_server: bool) -> Self {
        Self { channel, model: Model { is_server, ..Model::default() }, pending: Vec::new(), seen: Vec::new(), over: None }
    }

    /// What goes to the wire, with a note to the hearer's model of what it means.
    fn say(&mut self, what: u8, script: &mut Script<'_>, hearer: &mut Model) -> Option<Vec<u8>> {
        match what % 8 {
            0..=2 => {
                let length = usize::from(script.short()?).min(RECORD_DATA);
                let data: Vec<u8> = (0..length).map(|at| (at * 7 + length) as u8).collect();
                let mut bytes = vec![0; PREPARE_BYTES];
                let prepared = self.channel.prepare(&mut bytes).expect("room for a key update");
                bytes.truncate(prepared);
                assert_eq!(
                    prepared > 0,
                    std::mem::take(&mut self.model.owes_update),
                    "new keys come when they were asked for, and then only"
                );
                if prepared > 0 {
                    hearer.update(0);
                }
                let mut sealed = vec![0; RECORD_HEAD + length + RECORD_TAIL];
                if what.is_multiple_of(2) {
                    self.channel.seal(&data, &mut sealed).expect("a record");
                } else {
                    sealed[RECORD_HEAD..RECORD_HEAD + length].copy_from_slice(&data);
                    self.channel.seal_in_place(&mut sealed).expect("a record");
                }
                hearer.record(&data, DATA);
                bytes.extend(sealed);
                Some(bytes)
            }
            3 => {
                let (kind, padding, content) = (script.byte()?, script.short()?, script.piece()?);
                // Types that mean something more often than all the others together.
                let kind = if kind < 240 { kind % 4 + 20 } else { kind };
                let mut content = content[..content.len().min(LONG)].to_vec();
                let last = if padding == 0 {
                    kind
                } else {
                    content.push(kind);
                    content.resize((content.len() + usize::from(padding) - 1).min(LONG), 0);
                    0
                };
                let bytes = any_record(&mut self.channel, &content, last).expect("a record");
                let before = hearer.updates;
                hearer.record(&content, last);
                if hearer.updates > before {
                    follow(&mut self.channel).expect("keys");
                }
                Some(bytes)
            }
            4 => {
                let ask = script.byte()? & 1;
                hearer.update(ask);
                self.model.owes_update = false;
                Some(update(&mut self.channel, ask == 1).expect("room"))
            }
            5 => {
                let mut bytes = vec![0; ALERT_BYTES];
                let length = self.channel.close_notify(&mut bytes).expect("room");
                hearer.record(&[1, 0], ALERT);
                bytes.truncate(length);
                Some(bytes)
            }
            6 => {
                // A true record with one bit changed.
                let (place, content) = (usize::from(script.short()?), script.piece()?);
                let mut bytes = any_record(&mut self.channel, &content[..content.len().min(LONG)], DATA).expect("a record");
                let place = place % (bytes.len() * 8);
                bytes[place / 8] ^= 1 << (place % 8);
                hearer.foreign(place / 8);
                Some(bytes)
            }
            _ => {
                let bytes = script.piece()?.to_vec();
                if !bytes.is_empty() {
                    hearer.foreign(0);
                }
                Some(bytes)
            }
        }
    }

    /// Returns the alert that says why the connection ends.
    fn hear(&mut self, bytes: &[u8], sizes: &[u8]) -> Option<Vec<u8>> {
        for piece in cut(bytes, sizes) {
            self.pending.extend_from_slice(piece);
            while self.over.is_none() && self.open() {}
        }
        if !self.model.foreign {
            assert_eq!(self.over.map(|over| over.is_ok()), self.model.over, "{:?}", self.over);
        } else if self.model.changed_body {
            assert!(matches!(self.over, Some(Err(_))) || self.model.over.is_some(), "a changed record was taken");
        }
        assert!(self.seen == self.model.data, "{} bytes of data instead of {}", self.seen.len(), self.model.data.len());
        let Some(Err(error)) = self.over else { return None };
        let mut alert = vec![0; ALERT_BYTES];
        let length = self.channel.alert(error, &mut alert).expect("room");
        assert_eq!(length == 0, matches!(error, RecordError::Alert(_)), "{error}");
        alert.truncate(length);
        Some(alert).filter(|_| length > 0)
    }

    /// False when nothing more is to be had of what came.
    fn open(&mut self) -> bool {
        let opened = self.channel.open(&mut self.pending);
        let gone = match opened {
            Ok(Front::More) => return false,
            Ok(Front::Data { record, data }) => {
                assert!(!data.is_empty() && data.end <= record);
                self.seen.extend_from_slice(&self.pending[data]);
                record
            }
            Ok(Front::Control { record }) => record,
            Ok(Front::Closed) => {
                self.over = Some(Ok(()));
                return false;
            }
            Err(error) => {
                self.over = Some(Err(error));
                return false;
            }
        };
        self.pending.drain(..gone);
        true
    }
}

/// RFC 8446, sections 4.6, 5 and 6, for one direction, as plainly as it can be said.
#[derive(Default)]
#[allow(clippy::struct_excessive_bools)] // each is a fact of its own
struct Model {
    is_server: bool,
    data: Vec<u8>,
    /// Handshake messages that have not ended.
    messages: Vec<u8>,
    quiet: usize,
    /// How often the speaker's keys changed, and whether it asked for new ones of the hearer.
    updates: usize,
    owes_update: bool,
    /// An update came in the middle of another message: nothing can be opened any more.
    lost: bool,
    /// Ok when the peer ended, an error when the connection must.
    over: Option<bool>,
    /// Bytes came that are no record of the peer: from here on only an error is certain, once they are enough.
    foreign: bool,
    changed_body: bool,
}

impl Model {
    fn foreign(&mut self, place: usize) {
        // A changed length may wait for more. The version is part of what is protected.
        self.changed_body |= !self.foreign && place > 0 && !(3..RECORD_HEAD).contains(&place);
        self.foreign = true;
    }

    /// The speaker's keys change, whatever the hearer takes it for.
    fn update(&mut self, ask: u8) {
        let before = self.updates;
        self.record(&[KEY_UPDATE, 0, 0, 1, ask], HANDSHAKE);
        self.lost = self.updates == before;
    }

    fn record(&mut self, content: &[u8], last: u8) {
        if self.over.is_some() || self.foreign {
            return;
        }
        if self.lost || self.take(content, last).is_none() {
            self.over = Some(false);
        }
    }

    /// None when the peer broke a rule.
    fn take(&mut self, content: &[u8], last: u8) -> Option<()> {
        let mut inner = content.to_vec();
        inner.push(last);
        if inner.len() > RECORD_DATA + 1 {
            return None;
        }
        let end = inner.iter().rposition(|byte| *byte != 0)?;
        let kind = inner[end];
        inner.truncate(end);
        if kind != HANDSHAKE && !self.messages.is_empty() {
            return None;
        }
        let is_data = kind == DATA && !inner.is_empty();
        match kind {
            DATA => self.data.extend(&inner),
            HANDSHAKE => self.handshake(&inner)?,
            ALERT => match inner[..] {
                [_, 0] => self.over = Some(true),
                [_, 90] => {}
                _ => return None,
            },
            _ => return None,
        }
        self.quiet = if is_data { 0 } else { self.quiet + 1 };
        if self.quiet > QUIET { None } else { Some(()) }
    }

    fn handshake(&mut self, content: &[u8]) -> Option<()> {
        if content.is_empty() {
            return None;
        }
        self.messages.extend(content);
        while let [kind, high, middle, low, body @ ..] = &self.messages[..] {
            let length = u32::from_be_bytes([0, *high, *middle, *low]) as usize;
            match *kind {
                TICKET if !self.is_server && (1..=TICKET_BYTES).contains(&length) => {}
                KEY_UPDATE if length == 1 => {}
                _ => return None,
            }
            if body.len() < length {
                return Some(());
            }
            if *kind == KEY_UPDATE {
                // Nothing stands behind it in its record, and the next one has other keys.
                if body.len() > 1 || body[0] > 1 {
                    return None;
                }
                self.updates += 1;
                self.owes_update |= body[0] == 1;
            }
            self.messages.drain(..4 + length);
        }
        Some(())
    }
}

/// The records of a handshake end where their lengths say, however they come.
fn deframe(bytes: &[u8], sizes: &[u8]) {
    let mut ends = Vec::new();
    let mut at = 0;
    while let Some(header) = bytes.get(at..at + RECORD_HEAD) {
        ends.push(at + RECORD_HEAD);
        at += RECORD_HEAD + usize::from(u16::from_be_bytes([header[3], header[4]]));
        ends.push(at);
    }
    let (mut deframer, mut position) = (Deframer::default(), 0);
    for mut piece in cut(bytes, sizes) {
        while !piece.is_empty() {
            let count = deframer.within(piece);
            assert!(count > 0 && count <= piece.len());
            let next = position + count;
            assert!(!ends.iter().any(|end| (position + 1..next).contains(end)), "{position}..{next} goes beyond the end of a part");
            (position, piece) = (next, &piece[count..]);
        }
    }
}
