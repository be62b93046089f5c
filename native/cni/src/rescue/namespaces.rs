//! Every network namespace of the node but its own: those of processes and those that have a name.
use std::{
    collections::HashSet,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use rustix::io::Errno;

/// One path for each namespace, and what kept us from seeing another one: a node is not free of what nobody looked at.
pub(super) fn all(proc: &Path, named: &Path) -> io::Result<(Vec<PathBuf>, Option<io::Error>)> {
    let own = fs::metadata("/proc/self/ns/net")?;
    let mut seen = HashSet::from([(own.dev(), own.ino())]);
    let mut found = Vec::new();
    let mut unseen = None;
    let mut add = |path: PathBuf| match fs::metadata(&path) {
        Ok(there) if there.dev() == own.dev() && seen.insert((there.dev(), there.ino())) => found.push(path),
        Ok(_) => {}
        // A process that has ended meanwhile took its link along.
        Err(error) if error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(Errno::SRCH.raw_os_error()) => {}
        Err(error) => unseen = Some(io::Error::new(error.kind(), format!("{}: {error}", path.display()))),
    };
    // Names first: they do not go away while we work.
    match fs::read_dir(named) {
        Ok(entries) => entries.flatten().for_each(|entry| add(entry.path())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    for entry in fs::read_dir(proc)?.flatten() {
        if entry.file_name().to_str().is_some_and(|name| name.bytes().all(|byte| byte.is_ascii_digit())) {
            add(entry.path().join("ns/net"));
        }
    }
    Ok((found, unseen))
}
