//! What the keeper holds for the next worker: descriptors by key, never looked into.
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use super::packet::{self, Packet};

#[derive(Debug, Default)]
pub(crate) struct Held(BTreeMap<String, OwnedFd>);

impl Held {
    pub(crate) fn keep(&mut self, key: impl Into<String>, descriptor: OwnedFd) {
        self.0.insert(key.into(), descriptor);
    }

    /// Takes what a worker sent to heart. `End` and `Stop` are the keeper's own words and mean nothing here.
    pub(crate) fn take_in(&mut self, packet: Packet) {
        match packet {
            Packet::Put(key, descriptor) => self.keep(key, descriptor),
            // What an older descriptor of this key says is not true any more. The next worker asks the director.
            Packet::Lost(key) => {
                eprintln!("trackbed-engine: keeper: no descriptor left to keep {key}; raise the hard limit of open files");
                self.0.remove(&key);
            }
            Packet::Drop(prefix) => self.0.retain(|key, _| !key.starts_with(&prefix)),
            Packet::End | Packet::Stop => {}
        }
    }

    /// Gives a new worker everything, closed by `End`.
    pub(crate) fn give(&self, socket: impl AsFd) -> io::Result<()> {
        for (key, descriptor) in &self.0 {
            packet::put(&socket, key, descriptor.as_fd())?;
        }
        packet::end(&socket)
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, socketpair};

    use super::*;

    #[test]
    fn a_new_worker_gets_the_last_descriptor_of_each_key_and_none_that_was_dropped() {
        let (worker, keeper) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).expect("socketpair");
        let (old, new) = (rustix::pipe::pipe().expect("pipe"), rustix::pipe::pipe().expect("pipe"));
        packet::put(&worker, "pod/a/netns", old.1.as_fd()).expect("put");
        packet::put(&worker, "pod/a/netns", new.1.as_fd()).expect("put");
        packet::put(&worker, "pod/b/netns", old.1.as_fd()).expect("put");
        packet::drop_prefix(&worker, "pod/b/").expect("drop");
        let mut held = Held::default();
        for _ in 0..4 {
            held.take_in(packet::receive(&keeper, RecvFlags::DONTWAIT).expect("receive").expect("open"));
        }
        held.give(&keeper).expect("give");
        let Some(Packet::Put(key, descriptor)) = packet::receive(&worker, RecvFlags::empty()).expect("receive") else {
            panic!("expected Put")
        };
        assert_eq!(key, "pod/a/netns");
        rustix::io::write(&descriptor, b"x").expect("write");
        let mut byte = [0];
        assert_eq!(rustix::io::read(&new.0, &mut byte).expect("read"), 1, "it is the newer pipe");
        assert!(matches!(packet::receive(&worker, RecvFlags::empty()), Ok(Some(Packet::End))));
    }
}
