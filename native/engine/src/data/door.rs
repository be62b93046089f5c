//! Who may still come in: what peers may hold of a pod's HBONE port before and after they have asked for something, and what a pod may
//! hold of the engine when descriptors become few.
//!
//! A handshake costs a signature and buffers before anything is known about the peer, and a stalled one costs them until its deadline.
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::worker::shared::{Pod, Shared};

/// Tunnels of one peer address that have not asked for anything yet. An engine dials one at a time per pair of pods and data thread; the
/// rest is room for other dialers.
pub(super) const WAITING_OF_PEER: usize = 64;
/// The same of all peers of a pod: some 40 MB of handshakes at most.
pub(super) const WAITING_OF_POD: usize = 1024;
/// Open tunnels of one peer address: 200,000 streams, more than a pod has ports for.
pub(super) const OPEN_OF_PEER: usize = 1024;
/// A flood is told once in this time, not once per connection.
const TOLD_AGAIN: Duration = Duration::from_mins(1);

/// The kernel gives the lowest free descriptor, so a new one above this share of the limit means that the rest is in use. What is left
/// serves the pods that hold less than others.
const CROWDED_EIGHTHS: u64 = 7;

/// Descriptors are nearly used up and this pod holds as many connections as the average of all or more: it is turned away, or the next
/// connection of any pod would find none left.
pub(super) fn crowds_others(accepted: &impl AsFd, pod: &Pod, shared: &Shared) -> bool {
    let few = u64::try_from(accepted.as_fd().as_raw_fd()).is_ok_and(|number| number >= shared.descriptors / 8 * CROWDED_EIGHTHS);
    few && pod.open.taken() >= shared.pods.load().average_taken()
}

#[derive(Debug, Default)]
pub(super) struct Door {
    waiting: Cell<usize>,
    peers: RefCell<HashMap<IpAddr, Held>>,
    told: Cell<Option<Instant>>,
}

/// What one peer address has. Forgotten when it has nothing.
#[derive(Debug, Default, Clone, Copy)]
struct Held {
    waiting: usize,
    open: usize,
}

/// A tunnel's place, given back when it ends.
#[derive(Debug)]
pub(super) struct Place {
    door: Rc<Door>,
    peer: IpAddr,
    waits: Cell<bool>,
}

impl Door {
    /// A place for one more tunnel of this peer, or the name of the bound that is reached.
    pub(super) fn enter(self: &Rc<Self>, peer: IpAddr) -> Result<Place, &'static str> {
        let mut peers = self.peers.borrow_mut();
        let held = peers.get(&peer).copied().unwrap_or_default();
        if held.waiting >= WAITING_OF_PEER {
            return Err("unfinished tunnels of one peer");
        }
        if held.open >= OPEN_OF_PEER {
            return Err("tunnels of one peer");
        }
        if self.waiting.get() >= WAITING_OF_POD {
            return Err("unfinished tunnels of all peers");
        }
        peers.insert(peer, Held { waiting: held.waiting + 1, open: held.open + 1 });
        self.waiting.set(self.waiting.get() + 1);
        Ok(Place { door: Rc::clone(self), peer, waits: Cell::new(true) })
    }

    /// Whether a refusal is to be told in the log, which a flood of them must not fill.
    pub(super) fn tells(&self, now: Instant) -> bool {
        let tells = self.told.get().is_none_or(|told| now.duration_since(told) >= TOLD_AGAIN);
        if tells {
            self.told.set(Some(now));
        }
        tells
    }
}

impl Place {
    /// The peer proved itself and asked for a stream.
    pub(super) fn asked(&self) {
        if self.waits.replace(false) {
            self.door.waiting.set(self.door.waiting.get().saturating_sub(1));
            if let Some(held) = self.door.peers.borrow_mut().get_mut(&self.peer) {
                held.waiting = held.waiting.saturating_sub(1);
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.asked();
        let mut peers = self.door.peers.borrow_mut();
        if let Some(held) = peers.get_mut(&self.peer) {
            held.open = held.open.saturating_sub(1);
            if held.open == 0 {
                peers.remove(&self.peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
    const OTHER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));

    #[test]
    fn a_peer_that_never_asks_keeps_no_other_out() {
        let door = Rc::new(Door::default());
        let stalled: Vec<_> = (0..WAITING_OF_PEER).map(|_| door.enter(PEER).expect("a place")).collect();
        assert!(door.enter(PEER).is_err());
        let other = door.enter(OTHER).expect("another peer has its own places");
        drop(stalled);
        drop(door.enter(PEER).expect("places were given back"));
        drop(other);
        assert!(door.peers.borrow().is_empty(), "who has nothing is not remembered");
        assert_eq!(door.waiting.get(), 0);
    }

    #[test]
    fn tunnels_that_asked_make_room_for_more_up_to_the_bound_of_open_ones() {
        let door = Rc::new(Door::default());
        let mut open = Vec::new();
        for _ in 0..OPEN_OF_PEER {
            let place = door.enter(PEER).expect("a place");
            place.asked();
            place.asked();
            open.push(place);
        }
        assert!(door.enter(PEER).is_err());
        open.pop();
        assert!(door.enter(PEER).is_ok());
    }

    #[test]
    fn many_peers_together_are_bounded_and_a_flood_is_told_once() {
        let door = Rc::new(Door::default());
        let address = |n: usize| IpAddr::from(u32::try_from(n).expect("small").to_be_bytes());
        let places: Vec<_> = (0..WAITING_OF_POD).map(|n| door.enter(address(n)).expect("a place")).collect();
        assert!(door.enter(PEER).is_err());
        drop(places);
        let now = Instant::now();
        assert!(door.tells(now));
        assert!(!door.tells(now + TOLD_AGAIN / 2));
        assert!(door.tells(now + TOLD_AGAIN));
    }
}
