//! Parts of bytes in one sealed memory file: what a worker leaves with the keeper for its successor.
use std::io;
use std::os::fd::OwnedFd;

use trackbed_netns::memory;
use zeroize::Zeroizing;

/// Name in /proc/PID/fd.
const NAME: &str = "trackbed";
/// 10k services and 100k pods are about 60 MiB; more than this is damage.
const MOST_BYTES: usize = 1 << 30;
const LENGTH_BYTES: usize = size_of::<u64>();

/// The parts, each with its length before it.
pub(crate) fn seal<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> io::Result<OwnedFd> {
    let parts: Vec<_> = parts.into_iter().collect();
    // Zeroizing, and never grown: a part may be a private key, which a reallocation would leave behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(parts.iter().map(|part| part.len() + LENGTH_BYTES).sum()));
    for part in parts {
        bytes.extend_from_slice(&(part.len() as u64).to_le_bytes());
        bytes.extend_from_slice(part);
    }
    memory::write_sealed(NAME, &bytes)
}

/// The parts of a sealed descriptor. Anything not made by `seal` is an error.
pub(crate) fn open(memory: &OwnedFd) -> io::Result<Vec<Zeroizing<Vec<u8>>>> {
    let bytes = Zeroizing::new(memory::read_sealed(memory, MOST_BYTES)?);
    let (mut parts, mut rest) = (Vec::new(), &bytes[..]);
    while let Some((length, after)) = rest.split_first_chunk::<LENGTH_BYTES>() {
        let length = usize::try_from(u64::from_le_bytes(*length)).unwrap_or(usize::MAX);
        let (part, after) = after.split_at_checked(length).ok_or_else(damaged)?;
        parts.push(Zeroizing::new(part.to_vec()));
        rest = after;
    }
    if rest.is_empty() { Ok(parts) } else { Err(damaged()) }
}

fn damaged() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "memory kept by the keeper is not made of whole parts")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_come_back_whole_and_cannot_be_changed() {
        let memory = seal([&b"key"[..], b"", &vec![7; 100_000]]).expect("seal");
        let parts = open(&memory).expect("open");
        assert_eq!(parts.iter().map(|part| part.len()).collect::<Vec<_>>(), [3, 0, 100_000]);
        assert_eq!(&parts[0][..], b"key");
        assert!(rustix::io::pwrite(&memory, b"x", 8).is_err());
        assert!(rustix::fs::ftruncate(&memory, 0).is_err());
    }

    #[test]
    fn a_part_that_is_cut_short_is_an_error() {
        let memory = memory::write_sealed("short", &[9, 0, 0, 0, 0, 0, 0, 0, 1]).expect("seal");
        assert_eq!(open(&memory).expect_err("refused").kind(), io::ErrorKind::InvalidData);
    }
}
