//! A record layer as plain values, for a successor that goes on with the connection: the secrets of both directions and where they stand.
//!
//! Whoever thaws it must be the only one who goes on: a record number that two use gives both their texts away.
use std::time::{Duration, SystemTime};

use trackbed_contract::Identity;
use zeroize::Zeroize;

use crate::peer::VERSION;
use crate::record::{Keys, Messages, Opener, RecordError, Role, Sealer, Secret, Suite};
use crate::{Channel, PeerInfo, config};

/// The parts of a [`Channel`]. Field numbers are for ever: what changes its meaning gets a new one.
#[derive(Clone, PartialEq, Eq, prost::Message)]
#[prost(skip_debug)]
pub struct FrozenChannel {
    /// We were the client of the handshake.
    #[prost(bool, tag = "1")]
    client: bool,
    #[prost(message, optional, tag = "2")]
    sending: Option<Direction>,
    #[prost(message, optional, tag = "3")]
    receiving: Option<Direction>,
    /// The peer asked for new keys of ours, which come before the next data.
    #[prost(bool, tag = "4")]
    update_owed: bool,
    /// Of a handshake message that is not whole: its head as far as it is there, and how much of its body is missing.
    #[prost(bytes = "vec", tag = "5")]
    message_head: Vec<u8>,
    #[prost(uint32, tag = "6")]
    message_left: u32,
    /// Records without data that came in a row.
    #[prost(uint32, tag = "7")]
    quiet: u32,
}

/// One direction. The secret is wiped when this is dropped, and nothing prints it.
#[derive(Clone, PartialEq, Eq, prost::Message)]
#[prost(skip_debug)]
struct Direction {
    /// Number of the cipher suite, as in TLS.
    #[prost(uint32, tag = "1")]
    suite: u32,
    /// Of the present generation; keys are made from it, and the next one.
    #[prost(bytes = "vec", tag = "2")]
    secret: Vec<u8>,
    /// Number of the next record.
    #[prost(uint64, tag = "3")]
    sequence: u64,
}

impl Drop for Direction {
    fn drop(&mut self) {
        self.secret.zeroize();
    }
}

/// Values that no record layer of ours has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no TLS connection stands like this: {0}")]
pub struct NoChannel(&'static str);

impl From<RecordError> for NoChannel {
    fn from(_: RecordError) -> Self {
        Self("a secret does not fit its cipher suite")
    }
}

impl Channel {
    /// From here on nothing may be sealed or opened with this one: its successor does.
    pub fn freeze(&self) -> FrozenChannel {
        let (head, left) = self.opener.messages().position();
        FrozenChannel {
            client: self.opener.role() == Role::Client,
            sending: Some(Direction::of(self.sealer.keys())),
            receiving: Some(Direction::of(self.opener.keys())),
            update_owed: self.sealer.owes_update(),
            message_head: head.to_vec(),
            message_left: u32::try_from(left).unwrap_or(u32::MAX),
            quiet: self.opener.quiet().into(),
        }
    }

    pub fn thaw(frozen: &FrozenChannel) -> Result<Self, NoChannel> {
        let role = if frozen.client { Role::Client } else { Role::Server };
        let sending = frozen.sending.as_ref().ok_or(NoChannel("nothing about sending"))?.keys()?;
        let receiving = frozen.receiving.as_ref().ok_or(NoChannel("nothing about receiving"))?.keys()?;
        if sending.suite() != receiving.suite() {
            return Err(NoChannel("a cipher suite for each direction"));
        }
        let left = usize::try_from(frozen.message_left).unwrap_or(usize::MAX);
        let messages = Messages::at(&frozen.message_head, left, role).ok_or(NoChannel("a place that no handshake message has"))?;
        let quiet = u8::try_from(frozen.quiet).ok();
        let opener = quiet.and_then(|quiet| Opener::resume(receiving, role, messages, quiet));
        let mut sealer = Sealer::new(sending);
        if frozen.update_owed {
            sealer.owe_update();
        }
        Ok(Self::new(sealer, opener.ok_or(NoChannel("too many records without data"))?))
    }
}

impl Direction {
    fn of(keys: &Keys) -> Self {
        Self { suite: keys.suite().number().into(), secret: keys.secret().bytes().to_vec(), sequence: keys.sequence() }
    }

    fn keys(&self) -> Result<Keys, NoChannel> {
        let suite = u16::try_from(self.suite).ok().and_then(|number| Suite::of(number.into()));
        Ok(Keys::resume(suite.ok_or(NoChannel("a cipher suite that we do not offer"))?, Secret::new(&self.secret), self.sequence)?)
    }
}

/// What was proven about the peer, and cannot be proven again.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct FrozenPeer {
    #[prost(string, tag = "1")]
    identity: String,
    #[prost(string, tag = "2")]
    serial: String,
    /// Unix seconds; certificates know no others.
    #[prost(uint64, tag = "3")]
    not_after: u64,
    #[prost(string, tag = "4")]
    version: String,
    #[prost(string, tag = "5")]
    cipher: String,
    #[prost(string, tag = "6")]
    group: String,
}

/// No facts about a peer that we could have written down.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no peer is known like this: {0}")]
pub struct NoPeer(&'static str);

impl PeerInfo {
    pub fn freeze(&self) -> FrozenPeer {
        FrozenPeer {
            identity: self.identity.as_str().into(),
            serial: (*self.serial).into(),
            not_after: self.not_after.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs(),
            version: self.version.into(),
            cipher: self.cipher.into(),
            group: self.group.into(),
        }
    }

    pub fn thaw(frozen: &FrozenPeer) -> Result<Self, NoPeer> {
        let provider = config::provider();
        let mut ciphers = provider.cipher_suites.iter().filter_map(|suite| suite.suite().as_str());
        let mut groups = provider.kx_groups.iter().filter_map(|group| group.name().as_str());
        let end = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(frozen.not_after));
        Ok(Self {
            identity: Identity::parse(&frozen.identity).map_err(|_| NoPeer("its identity is none"))?,
            serial: frozen.serial.as_str().into(),
            not_after: end.ok_or(NoPeer("its certificate ends beyond all time"))?,
            version: Some(VERSION).filter(|version| *version == frozen.version).ok_or(NoPeer("a version of TLS that we do not speak"))?,
            cipher: ciphers.find(|name| *name == frozen.cipher).ok_or(NoPeer("a cipher suite that we do not offer"))?,
            group: groups.find(|name| *name == frozen.group).ok_or(NoPeer("a group that we do not offer"))?,
        })
    }
}

/// What is inside is nobody's business.
impl std::fmt::Debug for FrozenChannel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FrozenChannel").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Direction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Direction").field("sequence", &self.sequence).finish_non_exhaustive()
    }
}
