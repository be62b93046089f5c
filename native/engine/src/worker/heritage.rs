//! The worker's line to its keeper: what earlier workers left, and where to leave what the next one needs.
//!
//! Keys: `netns-listener`, `settings`, `state/base`, `state/delta/<generation>`, `identity/<uri>`, `pod/<uid>/spec`, `pod/<uid>/netns`,
//! `pod/<uid>/listen/<name>`.
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::RecvFlags;
use tokio::sync::oneshot;

use crate::blob;
use crate::keeper::packet::{self, Packet};

/// Where descriptors are left with the keeper. It reads at once, so sending does not wait for anything but the scheduler.
#[derive(Debug)]
pub(crate) struct Safe(Option<OwnedFd>);

impl Safe {
    /// Nobody goes on where this process ends: what it is given is forgotten.
    pub(crate) fn without_keeper() -> Self {
        Self(None)
    }

    pub(crate) fn has_keeper(&self) -> bool {
        self.0.is_some()
    }

    pub(crate) fn put(&self, key: &str, descriptor: BorrowedFd<'_>) {
        if let Some(keeper) = &self.0 {
            said(key, packet::put(keeper, key, descriptor));
        }
    }

    /// Seals the parts and leaves them; the sealed descriptor comes back for the worker's own later use.
    pub(crate) fn put_blob<'a>(&self, key: &str, parts: impl IntoIterator<Item = &'a [u8]>) -> Option<OwnedFd> {
        self.0.as_ref()?;
        match blob::seal(parts) {
            Ok(memory) => {
                self.put(key, memory.as_fd());
                Some(memory)
            }
            Err(error) => {
                said(key, Err(error));
                None
            }
        }
    }

    pub(crate) fn drop_prefix(&self, prefix: &str) {
        if let Some(keeper) = &self.0 {
            said(prefix, packet::drop_prefix(keeper, prefix));
        }
    }
}

/// A keeper that cannot be told is at its end, and this process with it (the thread of `await_stop` sees the closed socket); what cannot be
/// sealed for lack of descriptors or memory only costs the next worker a round trip to the director.
fn said(key: &str, result: io::Result<()>) {
    if let Err(error) = result {
        tracing::error!(target: "keeper", key, %error, "the keeper could not be given this; a replaced worker will ask the director");
    }
}

/// Everything that earlier workers left, by key.
#[derive(Debug, Default)]
pub(crate) struct Heritage(BTreeMap<String, OwnedFd>);

impl Heritage {
    pub(crate) fn take(&mut self, key: &str) -> Option<OwnedFd> {
        self.0.remove(key)
    }

    /// Takes every key below a prefix, without the prefix, in order.
    pub(crate) fn take_below(&mut self, prefix: &str) -> Vec<(String, OwnedFd)> {
        let mut below = self.0.split_off(prefix);
        let end = below.keys().find(|key| !key.starts_with(prefix)).cloned();
        if let Some(end) = end {
            self.0.append(&mut below.split_off(&end));
        }
        below.into_iter().map(|(key, descriptor)| (key[prefix.len()..].to_owned(), descriptor)).collect()
    }
}

/// Reads what the keeper has until it says that this was all.
pub(crate) fn receive(socket: OwnedFd) -> io::Result<(Heritage, Safe)> {
    let mut heritage = Heritage::default();
    loop {
        match packet::receive(&socket, RecvFlags::empty())? {
            Some(Packet::Put(key, descriptor)) => drop(heritage.0.insert(key, descriptor)),
            Some(Packet::Lost(key)) => tracing::error!(target: "keeper", key, "no descriptor left to take this over"),
            Some(Packet::End) => return Ok((heritage, Safe(Some(socket)))),
            Some(other) => return Err(io::Error::other(format!("the keeper sent {other:?} before the end of the heritage"))),
            None => return Err(io::Error::other("the keeper closed its socket")),
        }
    }
}

/// Resolves when the keeper asks the worker to stop. A keeper that is gone ends the process: without it, restarts would lose everything.
pub(crate) fn await_stop(safe: &Safe) -> io::Result<oneshot::Receiver<()>> {
    let socket = safe.0.as_ref().ok_or_else(|| io::Error::other("a worker without a keeper"))?.try_clone()?;
    let (stop, stopped) = oneshot::channel();
    std::thread::Builder::new().name("keeper".into()).spawn(move || match packet::receive(&socket, RecvFlags::empty()) {
        Ok(Some(_)) => drop(stop.send(())),
        Ok(None) | Err(_) => std::process::exit(1),
    })?;
    Ok(stopped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taking_a_prefix_leaves_its_neighbours() {
        let mut heritage = Heritage::default();
        for key in ["a", "pod/1/netns", "pod/1/spec", "pod/10/spec", "state/base"] {
            heritage.0.insert(key.into(), rustix::pipe::pipe().expect("pipe").0);
        }
        let names: Vec<_> = heritage.take_below("pod/1/").into_iter().map(|(key, _)| key).collect();
        assert_eq!(names, ["netns", "spec"]);
        assert_eq!(heritage.0.keys().collect::<Vec<_>>(), ["a", "pod/10/spec", "state/base"]);
    }
}
