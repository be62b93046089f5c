//! What is around a frozen state: which form it has, how long it is, and a digest, so that nothing but the whole of it is ever read.
//!
//! The digest is against accidents: whoever can write here holds the secrets anyway.
use aws_lc_rs::digest::{Context, SHA256, SHA256_OUTPUT_LEN};
use prost::Message;
use zeroize::Zeroizing;

use super::ThawError;

/// Of all forms together. It changes with every field that is added, removed, or means something else: what a program does not know it must
/// not go on with.
pub(super) const VERSION: u16 = 1;
const MAGIC: [u8; 8] = *b"trackbed";
/// Magic, version, kind, length.
const HEAD: usize = MAGIC.len() + 2 + 2 + 4;
const FRONT: usize = HEAD + SHA256_OUTPUT_LEN;
/// No connection is larger: its windows, 16 MiB and 64 KiB for each stream, are what it may hold unread, and as much again.
const MOST: usize = 64 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Tunnel = 1,
    /// Two sockets.
    Joined = 2,
}

/// None for what is larger than anything that could be thawed.
pub(super) fn seal(kind: Kind, state: &impl Message) -> Option<Zeroizing<Vec<u8>>> {
    let length = state.encoded_len();
    if length > MOST {
        return None;
    }
    // Of its full size at once: memory that grew would leave secrets behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(FRONT + length));
    bytes.extend(MAGIC);
    bytes.extend(VERSION.to_be_bytes());
    bytes.extend((kind as u16).to_be_bytes());
    bytes.extend(u32::try_from(length).ok()?.to_be_bytes());
    bytes.extend([0; SHA256_OUTPUT_LEN]);
    state.encode(&mut *bytes).ok()?;
    let digest = digest_of(&bytes);
    bytes[HEAD..FRONT].copy_from_slice(&digest);
    Some(bytes)
}

pub(super) fn open<M: Message + Default>(kind: Kind, bytes: &[u8]) -> Result<M, ThawError> {
    let (head, rest) = bytes.split_first_chunk::<HEAD>().ok_or(ThawError::Damaged("it is cut off"))?;
    let [magic @ .., v1, v0, k1, k0, l3, l2, l1, l0] = *head;
    if magic != MAGIC {
        return Err(ThawError::Damaged("it does not begin as one"));
    }
    let version = u16::from_be_bytes([v1, v0]);
    if version != VERSION {
        return Err(ThawError::Version { found: version });
    }
    let length = u32::from_be_bytes([l3, l2, l1, l0]) as usize;
    if length > MOST || rest.len() != SHA256_OUTPUT_LEN + length {
        return Err(ThawError::Damaged("it has another length than it says"));
    }
    if rest[..SHA256_OUTPUT_LEN] != digest_of(bytes) {
        return Err(ThawError::Damaged("its digest is another one"));
    }
    if u16::from_be_bytes([k1, k0]) != kind as u16 {
        return Err(ThawError::Damaged("it is of another kind of connection"));
    }
    let body = &rest[SHA256_OUTPUT_LEN..];
    let state = M::decode(body).map_err(|_| ThawError::Damaged("it does not parse"))?;
    // What is unknown, doubled or in another order would be taken half.
    let again = Zeroizing::new(state.encode_to_vec());
    if again.as_slice() == body { Ok(state) } else { Err(ThawError::Damaged("it has parts that are not known")) }
}

#[cfg(test)]
pub(super) fn body(bytes: &[u8]) -> &[u8] {
    &bytes[FRONT..]
}

/// Of everything but the digest itself.
fn digest_of(bytes: &[u8]) -> [u8; SHA256_OUTPUT_LEN] {
    let mut context = Context::new(&SHA256);
    context.update(&bytes[..HEAD]);
    context.update(&bytes[FRONT..]);
    let mut out = [0; SHA256_OUTPUT_LEN];
    out.copy_from_slice(context.finish().as_ref());
    out
}
