//! State that outlives a worker: bytes in sealed memory files, which nobody can change once they are written.

use std::{
    fs::File,
    io::{self, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::FileExt,
    },
};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, memfd_create};

/// Nothing about the file can change any more, these seals included.
const SEALED: SealFlags = SealFlags::WRITE.union(SealFlags::GROW).union(SealFlags::SHRINK).union(SealFlags::SEAL);

/// A sealed memory file with these bytes. `name` is what /proc/PID/fd shows.
pub fn write_sealed(name: &str, bytes: &[u8]) -> io::Result<OwnedFd> {
    let mut file = File::from(memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | MemfdFlags::NOEXEC_SEAL)?);
    file.write_all(bytes)?;
    fcntl_add_seals(&file, SEALED)?;
    Ok(file.into())
}

/// The bytes of a sealed memory file of at most `limit` bytes; `InvalidData` for a file that is not sealed or longer.
pub fn read_sealed(file: &impl AsFd, limit: usize) -> io::Result<Vec<u8>> {
    let refuse = |why| Err(io::Error::new(io::ErrorKind::InvalidData, why));
    match fcntl_get_seals(file) {
        Ok(seals) if seals.contains(SEALED) => {}
        _ => return refuse("not a sealed memory file"),
    }
    let file = File::from(file.as_fd().try_clone_to_owned()?);
    let length = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
    if length > limit {
        return refuse("the sealed memory file is longer than its limit");
    }
    let mut bytes = vec![0; length];
    // Positioned, because every holder of the descriptor shares one offset.
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}
