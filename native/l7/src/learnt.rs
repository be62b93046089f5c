//! What undeclared ports turned out to speak, so that the next connection need not find out again.
use crate::Served;
use crate::limits::{LEARNT, LEARNT_TIME};
use std::cell::RefCell;
use std::collections::HashMap;
use std::time::Instant;

#[derive(Debug, Default)]
pub(crate) struct Learnt(RefCell<HashMap<Served, (First, Instant)>>);

/// Who speaks first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum First {
    Client,
    Server,
}

impl Learnt {
    pub(crate) fn of(&self, served: &Served, now: Instant) -> Option<First> {
        let learnt = self.0.borrow();
        learnt.get(served).filter(|(_, since)| now.saturating_duration_since(*since) < LEARNT_TIME).map(|(first, _)| *first)
    }

    pub(crate) fn learn(&self, served: &Served, first: First, now: Instant) {
        let mut learnt = self.0.borrow_mut();
        if learnt.len() >= LEARNT && !learnt.contains_key(served) {
            learnt.retain(|_, (_, since)| now.saturating_duration_since(*since) < LEARNT_TIME);
            if learnt.len() >= LEARNT {
                return;
            }
        }
        learnt.insert(served.clone(), (first, now));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // in tests a failed unwrap is the message

    use super::*;

    fn served(port: u16) -> Served {
        Served { service: "shop/db".into(), port }
    }

    #[test]
    fn what_was_learnt_is_forgotten_in_time() {
        let learnt = Learnt::default();
        let now = Instant::now();
        learnt.learn(&served(1), First::Server, now);
        assert_eq!(learnt.of(&served(1), now), Some(First::Server));
        assert_eq!(learnt.of(&served(2), now), None);
        assert_eq!(learnt.of(&served(1), now + LEARNT_TIME), None);
    }

    #[test]
    fn the_memory_is_bounded_and_makes_room() {
        let learnt = Learnt::default();
        let now = Instant::now();
        (0..10_000).for_each(|port| learnt.learn(&served(port), First::Client, now));
        assert_eq!(learnt.0.borrow().len(), LEARNT);
        learnt.learn(&served(20_000), First::Server, now + LEARNT_TIME);
        assert_eq!(learnt.of(&served(20_000), now + LEARNT_TIME), Some(First::Server));
    }
}
