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
/// Tunnels of one peer address that ended before they asked for anything, in a window: each cost two signatures. A peer of the mesh that
/// fails so often fails at its next try as well, and may try again when the window is over.
pub(super) const FAILED_OF_PEER: u32 = 32;
const FAILED_WINDOW: Duration = Duration::from_secs(10);
/// Peer addresses whose failures are remembered. When full all are forgiven: who has so many addresses cannot be told apart by them.
const MOST_FAILING: usize = 1024;
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
    failing: RefCell<HashMap<IpAddr, Failing>>,
    told: Cell<Option<Instant>>,
}

/// What one peer address has. Forgotten when it has nothing.
#[derive(Debug, Default, Clone, Copy)]
struct Held {
    waiting: usize,
    open: usize,
}

#[derive(Debug, Clone, Copy)]
struct Failing {
    since: Instant,
    times: u32,
}

/// A tunnel's place, given back when it ends.
#[derive(Debug)]
pub(super) struct Place {
    door: Rc<Door>,
    peer: IpAddr,
    waits: Cell<bool>,
    /// Its end before it asked is the peer's failure.
    tried: Cell<bool>,
}

impl Door {
    /// A place for one more tunnel of this peer, or the name of the bound that is reached.
    pub(super) fn enter(self: &Rc<Self>, peer: IpAddr, now: Instant) -> Result<Place, &'static str> {
        if self.failed(peer, now) >= FAILED_OF_PEER {
            return Err("failed handshakes of one peer");
        }
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
        Ok(Place { door: Rc::clone(self), peer, waits: Cell::new(true), tried: Cell::new(false) })
    }

    /// How often this peer has failed in the window that is open.
    fn failed(&self, peer: IpAddr, now: Instant) -> u32 {
        let failing = self.failing.borrow();
        failing.get(&peer).filter(|failing| now.duration_since(failing.since) < FAILED_WINDOW).map_or(0, |failing| failing.times)
    }

    fn fail(&self, peer: IpAddr, now: Instant) {
        let mut failing = self.failing.borrow_mut();
        if failing.len() >= MOST_FAILING && !failing.contains_key(&peer) {
            failing.clear();
        }
        let failing = failing.entry(peer).or_insert(Failing { since: now, times: 0 });
        if now.duration_since(failing.since) >= FAILED_WINDOW {
            *failing = Failing { since: now, times: 0 };
        }
        failing.times += 1;
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
    /// The handshake begins: from now on it is up to the peer.
    pub(super) fn tries(&self) {
        self.tried.set(true);
    }

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
        if self.waits.get() && self.tried.get() {
            self.door.fail(self.peer, Instant::now());
        }
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
        let stalled: Vec<_> = (0..WAITING_OF_PEER).map(|_| door.enter(PEER, Instant::now()).expect("a place")).collect();
        assert!(door.enter(PEER, Instant::now()).is_err());
        let other = door.enter(OTHER, Instant::now()).expect("another peer has its own places");
        other.asked();
        drop(other);
        stalled.iter().for_each(Place::asked);
        drop(stalled);
        let again = door.enter(PEER, Instant::now()).expect("places were given back");
        again.asked();
        drop(again);
        assert!(door.peers.borrow().is_empty(), "who has nothing is not remembered");
        assert_eq!(door.waiting.get(), 0);
    }

    #[test]
    fn tunnels_that_asked_make_room_for_more_up_to_the_bound_of_open_ones() {
        let door = Rc::new(Door::default());
        let mut open = Vec::new();
        for _ in 0..OPEN_OF_PEER {
            let place = door.enter(PEER, Instant::now()).expect("a place");
            place.asked();
            place.asked();
            open.push(place);
        }
        assert!(door.enter(PEER, Instant::now()).is_err());
        open.pop();
        assert!(door.enter(PEER, Instant::now()).is_ok());
    }

    #[test]
    fn a_peer_whose_handshakes_fail_waits_for_the_end_of_the_window_and_no_other_does() {
        let door = Rc::new(Door::default());
        let start = Instant::now();
        for _ in 0..FAILED_OF_PEER {
            let place = door.enter(PEER, start).expect("a place");
            place.tries();
        }
        drop(door.enter(OTHER, start).expect("a place that we ourselves gave up"));
        assert_eq!(door.enter(PEER, start).expect_err("too often"), "failed handshakes of one peer");
        assert_eq!(door.failing.borrow().len(), 1);
        assert!(door.enter(PEER, Instant::now() + FAILED_WINDOW).is_ok());
    }

    #[test]
    fn failures_are_remembered_for_so_many_peers_and_no_more() {
        let door = Rc::new(Door::default());
        for n in 0..u32::try_from(MOST_FAILING).expect("small") * 2 {
            door.fail(IpAddr::from(n.to_be_bytes()), Instant::now());
        }
        assert!(door.failing.borrow().len() <= MOST_FAILING);
    }

    #[test]
    fn many_peers_together_are_bounded_and_a_flood_is_told_once() {
        let door = Rc::new(Door::default());
        let address = |n: usize| IpAddr::from(u32::try_from(n).expect("small").to_be_bytes());
        let places: Vec<_> = (0..WAITING_OF_POD).map(|n| door.enter(address(n), Instant::now()).expect("a place")).collect();
        assert!(door.enter(PEER, Instant::now()).is_err());
        drop(places);
        let now = Instant::now();
        assert!(door.tells(now));
        assert!(!door.tells(now + TOLD_AGAIN / 2));
        assert!(door.tells(now + TOLD_AGAIN));
    }
}
