//! The record layer of a connection without its bytes: for a caller that keeps the buffers itself, and seals and opens where the data lies.
use std::ops::Range;

use crate::RecordError;
use crate::record::{self, Alert, Opened, Opener, Sealer};

/// In front of the data of a record.
pub const RECORD_HEAD: usize = record::HEADER;
/// Behind it: the inner content type and the tag.
pub const RECORD_TAIL: usize = 1 + record::TAG;
/// Most data of one record.
pub const RECORD_DATA: usize = record::MAX_PLAINTEXT;
/// The largest record that a peer may send, and more than the largest that we send.
pub const RECORD_BYTES: usize = record::HEADER + record::MAX_BODY;
/// Room for what `Channel::prepare` may say: a key update.
pub const PREPARE_BYTES: usize = record::KEY_UPDATE;
/// Room for an alert.
pub const ALERT_BYTES: usize = RECORD_HEAD + 2 + RECORD_TAIL;

/// What stood at the front of the input, and how long it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Front {
    /// Not a whole record yet.
    More,
    /// Application data, in this part of the input.
    Data { record: usize, data: Range<usize> },
    /// Nothing for the application.
    Control { record: usize },
    /// close_notify: the peer sends nothing more.
    Closed,
}

pub struct Channel {
    pub(crate) sealer: Sealer,
    pub(crate) opener: Opener,
}

impl Channel {
    pub(crate) fn new(sealer: Sealer, opener: Opener) -> Self {
        Self { sealer, opener }
    }

    /// Opens the record at the front of `input` in place.
    pub fn open(&mut self, input: &mut [u8]) -> Result<Front, RecordError> {
        let (record, opened) = self.opener.front(input)?;
        Ok(match opened {
            Opened::More => Front::More,
            Opened::Data(data) => Front::Data { record, data },
            Opened::Control | Opened::Updated { asked: false } => Front::Control { record },
            Opened::Updated { asked: true } => {
                self.sealer.owe_update();
                Front::Control { record }
            }
            Opened::Closed => Front::Closed,
        })
    }

    /// What must be sent before the next data: nothing, or a key update at the front of `out`. Returns its length.
    pub fn prepare(&mut self, out: &mut [u8]) -> Result<usize, RecordError> {
        if self.sealer.update_is_due() { self.sealer.update_into(false, out) } else { Ok(0) }
    }

    /// Makes a record of the data that stands in it, `RECORD_HEAD` behind its start. `record` is exactly as long as the record.
    pub fn seal_in_place(&mut self, record: &mut [u8]) -> Result<(), RecordError> {
        self.sealer.record(None, record)
    }

    /// Makes a record of `data`, of at most `RECORD_DATA` bytes; `record` is exactly as long as the record.
    pub fn seal(&mut self, data: &[u8], record: &mut [u8]) -> Result<(), RecordError> {
        self.sealer.record(Some(data), record)
    }

    /// Says that we send nothing more; returns the length of the record.
    pub fn close_notify(&mut self, out: &mut [u8]) -> Result<usize, RecordError> {
        self.sealer.alert_into(Alert::CloseNotify, out)
    }

    /// Tells the peer why the connection ends, when there is anything to tell.
    pub fn alert(&mut self, error: RecordError, out: &mut [u8]) -> Result<usize, RecordError> {
        error.alert().map_or(Ok(0), |alert| self.sealer.alert_into(alert, out))
    }
}

impl std::fmt::Debug for Channel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Channel").finish_non_exhaustive()
    }
}
