//! The record layer without a handshake, and with another pace of key updates: for fuzz targets, instruction counts and tests of other
//! crates, behind a feature that no program of ours turns on.
use std::sync::atomic::{AtomicU64, Ordering};

use crate::channel::PREPARE_BYTES;
use crate::record::{HEADER, Keys, Opener, RecordError, Role, Sealer, Secret, Suite, TAG};
use crate::{Channel, handshake};

/// Records under one generation of keys; 0 = as always.
static REKEY_AFTER: AtomicU64 = AtomicU64::new(0);
static UPDATES: AtomicU64 = AtomicU64::new(0);

/// Every connection that is made from now on, in the whole process, changes its keys after so many records.
pub fn rekey_after(records: u64) {
    REKEY_AFTER.store(records, Ordering::Relaxed);
}

/// Key updates that were sent in the whole process.
pub fn updates() -> u64 {
    UPDATES.load(Ordering::Relaxed)
}

pub(crate) fn note_update() {
    UPDATES.fetch_add(1, Ordering::Relaxed);
}

pub(crate) fn rekey_after_or(always: u64) -> u64 {
    match REKEY_AFTER.load(Ordering::Relaxed) {
        0 => always,
        records => records,
    }
}

/// Client and server of one connection whose handshake is over; equal seeds give equal secrets.
pub fn channels(seed: u8) -> Result<(Channel, Channel), RecordError> {
    let suite = if seed & 1 == 0 { Suite::Aes128GcmSha256 } else { Suite::Aes256GcmSha384 };
    let length = if seed & 1 == 0 { 32 } else { 48 };
    let keys = |direction: u8| Keys::new(suite, Secret::new(&vec![seed ^ direction; length]));
    let end = |ours, theirs, role| Ok(Channel::new(Sealer::new(keys(ours)?), Opener::new(keys(theirs)?, role)));
    Ok((end(1, 2, Role::Client)?, end(2, 1, Role::Server)?))
}

/// A record with any content, the last byte of which that is not zero is its content type.
pub fn record(channel: &mut Channel, content: &[u8], last: u8) -> Result<Vec<u8>, RecordError> {
    let mut record = vec![0; HEADER + content.len() + 1 + TAG];
    channel.sealer.record_of(last, content, &mut record)?;
    Ok(record)
}

/// A key update, asked of the peer too or not; what is sealed from then on has the new keys.
pub fn update(channel: &mut Channel, ask: bool) -> Result<Vec<u8>, RecordError> {
    let mut record = vec![0; PREPARE_BYTES];
    let length = channel.sealer.update_into(ask, &mut record)?;
    record.truncate(length);
    Ok(record)
}

/// Takes the next keys without a word, when the update was said by `record`.
pub fn follow(channel: &mut Channel) -> Result<(), RecordError> {
    channel.sealer.follow()
}

/// Where the records of a handshake end.
#[derive(Debug, Default)]
pub struct Deframer(handshake::Records);

impl Deframer {
    /// How many of `bytes` go to the handshake at once: never beyond the end of a record's header, nor of its body.
    pub fn within(&mut self, bytes: &[u8]) -> usize {
        self.0.within(bytes)
    }
}
