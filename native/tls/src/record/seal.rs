//! Application data into records, as many as fit, and the little that we say beside it.
use std::io::IoSlice;

use super::{Alert, Buffer, HEADER, Keys, MAX_PLAINTEXT, RecordError, TAG, content};

/// Records under one generation of keys. AES-GCM stays safe for 2^24.5 full records (RFC 8446, 5.5); an update costs a microsecond.
const REKEY_AFTER: u64 = 1 << 24;
/// What a record is longer than its data.
const OVERHEAD: usize = HEADER + 1 + TAG;
/// A key update: type 24, length 1, and whether the peer shall follow.
const KEY_UPDATE_HEAD: [u8; 4] = [24, 0, 0, 1];
/// Room for what may stand in front of the data: our key update.
pub(crate) const KEY_UPDATE: usize = OVERHEAD + KEY_UPDATE_HEAD.len() + 1;
const FATAL: u8 = 2;
const WARNING: u8 = 1;

pub(crate) struct Sealer {
    keys: Keys,
    rekey_after: u64,
    /// The peer asked for new keys; they come before the next data.
    owed: bool,
    #[cfg(test)]
    pub(crate) generations: usize,
}

impl Sealer {
    pub(crate) fn new(keys: Keys) -> Self {
        #[cfg(any(test, feature = "testing"))]
        let rekey_after = crate::testing::rekey_after_or(REKEY_AFTER);
        #[cfg(not(any(test, feature = "testing")))]
        let rekey_after = REKEY_AFTER;
        Self {
            keys,
            rekey_after,
            owed: false,
            #[cfg(test)]
            generations: 0,
        }
    }

    pub(crate) fn owe_update(&mut self) {
        self.owed = true;
    }

    pub(crate) fn owes_update(&self) -> bool {
        self.owed
    }

    /// Seals from the front of `slices` until `out` is full; returns how many of their bytes are now in it.
    pub(crate) fn seal(&mut self, slices: &[IoSlice<'_>], out: &mut Buffer) -> Result<usize, RecordError> {
        let mut source = Source { slices, at: 0 };
        let mut total = 0;
        loop {
            if self.update_is_due() {
                if out.room().len() < KEY_UPDATE {
                    return Ok(total);
                }
                self.update(false, out)?;
            }
            let length = source.remaining(MAX_PLAINTEXT).min(out.room().len().saturating_sub(OVERHEAD));
            if length == 0 {
                return Ok(total);
            }
            let record = &mut out.room()[..length + OVERHEAD];
            // Data that lies together is sealed on its way into the record; only joined data is copied first.
            if let Some(data) = source.together(length) {
                self.keys.seal(content::APPLICATION_DATA, Some(data), record)?;
            } else {
                source.gather(&mut record[HEADER..HEADER + length]);
                self.keys.seal(content::APPLICATION_DATA, None, record)?;
            }
            source.advance(length);
            out.extend(length + OVERHEAD);
            total += length;
        }
    }

    /// New keys come before the next data.
    pub(crate) fn update_is_due(&self) -> bool {
        self.owed || self.keys.sequence() >= self.rekey_after
    }

    /// One record of application data; see `Keys::seal`.
    pub(crate) fn record(&mut self, data: Option<&[u8]>, record: &mut [u8]) -> Result<(), RecordError> {
        self.keys.seal(content::APPLICATION_DATA, data, record)
    }

    /// Tells the peer that the next record has new keys, and takes them. `ask` for new keys of the peer too.
    pub(crate) fn update(&mut self, ask: bool, out: &mut Buffer) -> Result<(), RecordError> {
        let length = self.update_into(ask, room(out, KEY_UPDATE))?;
        out.extend(length);
        Ok(())
    }

    pub(crate) fn alert(&mut self, alert: Alert, out: &mut Buffer) -> Result<(), RecordError> {
        let length = self.alert_into(alert, room(out, OVERHEAD + 2))?;
        out.extend(length);
        Ok(())
    }

    pub(crate) fn update_into(&mut self, ask: bool, out: &mut [u8]) -> Result<usize, RecordError> {
        let [kind, a, b, length] = KEY_UPDATE_HEAD;
        let length = self.small(content::HANDSHAKE, &[kind, a, b, length, u8::from(ask)], out)?;
        self.owed = false;
        #[cfg(test)]
        {
            self.generations += 1;
        }
        #[cfg(any(test, feature = "testing"))]
        crate::testing::note_update();
        self.keys.update()?;
        Ok(length)
    }

    pub(crate) fn alert_into(&mut self, alert: Alert, out: &mut [u8]) -> Result<usize, RecordError> {
        let level = if alert == Alert::CloseNotify { WARNING } else { FATAL };
        self.small(content::ALERT, &[level, alert as u8], out)
    }

    fn small(&mut self, kind: u8, message: &[u8], out: &mut [u8]) -> Result<usize, RecordError> {
        let length = message.len() + OVERHEAD;
        let record = out.get_mut(..length).ok_or(RecordError::Internal { what: "no room for a record of our own" })?;
        self.keys.seal(kind, Some(message), record)?;
        Ok(length)
    }

    /// One record of any content type.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn record_of(&mut self, kind: u8, content: &[u8], record: &mut [u8]) -> Result<(), RecordError> {
        self.keys.seal(kind, Some(content), record)
    }

    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn follow(&mut self) -> Result<(), RecordError> {
        self.keys.update()
    }

    #[cfg(test)]
    pub(crate) fn rekey_after(&mut self, records: u64) {
        self.rekey_after = records;
    }

    pub(crate) fn keys(&self) -> &Keys {
        &self.keys
    }

    #[cfg(test)]
    pub(crate) fn keys_mut(&mut self) -> &mut Keys {
        &mut self.keys
    }
}

/// Room of `out` for `length` bytes; it grows when it has none left.
fn room(out: &mut Buffer, length: usize) -> &mut [u8] {
    if out.room().len() < length {
        out.grow(length);
    }
    out.room()
}

/// A reading position in several slices.
struct Source<'a, 'b> {
    slices: &'a [IoSlice<'b>],
    /// In the first of them.
    at: usize,
}

impl<'a> Source<'a, '_> {
    /// Bytes left, counted up to `most`.
    fn remaining(&self, most: usize) -> usize {
        let mut sum = 0;
        for slice in self.slices {
            sum += slice.len();
            if sum >= most + self.at {
                return most;
            }
        }
        sum.saturating_sub(self.at)
    }

    fn together(&mut self, length: usize) -> Option<&'a [u8]> {
        self.skip_empty();
        self.slices.first()?.get(self.at..self.at + length)
    }

    fn gather(&self, mut out: &mut [u8]) {
        let mut skip = self.at;
        for slice in self.slices {
            let part = &slice[skip..];
            let count = part.len().min(out.len());
            let (now, later) = out.split_at_mut(count);
            now.copy_from_slice(&part[..count]);
            out = later;
            skip = 0;
        }
    }

    fn advance(&mut self, count: usize) {
        self.at += count;
        self.skip_empty();
    }

    fn skip_empty(&mut self) {
        while let Some((first, rest)) = self.slices.split_first()
            && self.at >= first.len()
        {
            self.at -= first.len();
            self.slices = rest;
        }
    }
}
