//! What one worker has seen of the endpoints: open streams, and failures in a row that eject one for a while.
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Failures to connect in a row before an endpoint is passed over. One may be chance, three in a row are a pattern that a client notices.
pub const EJECTION_AFTER_FAILURES: u32 = 3;
/// First ejection; each further one in a row doubles it.
const EJECTION_BASE: Duration = Duration::from_secs(5);
/// Longest ejection: health from the control plane has spoken long before.
const EJECTION_MAX: Duration = Duration::from_mins(1);
/// Endpoints with failures that are remembered; more than any node talks to at once. When full, those whose ejection is over are forgotten
/// first, then the new one is not recorded.
const FAILURES_REMEMBERED: usize = 4096;

/// Keyed by workload uid. Belongs to one worker; nothing is shared.
#[derive(Debug, Default)]
pub struct Load {
    open: HashMap<Arc<str>, u32>,
    failures: HashMap<Arc<str>, Failures>,
}

#[derive(Debug, Clone, Copy)]
struct Failures {
    in_a_row: u32,
    ejected_until: Option<Instant>,
}

impl Load {
    /// A stream to this endpoint begins. Every call is paired with one of [`Load::closed`].
    pub fn opened(&mut self, uid: &Arc<str>) {
        *self.open.entry(Arc::clone(uid)).or_default() += 1;
    }

    pub fn closed(&mut self, uid: &str) {
        if let Some(open) = self.open.get_mut(uid) {
            *open -= 1;
            if *open == 0 {
                self.open.remove(uid);
            }
        }
    }

    /// The endpoint answered: what came before is forgotten.
    pub fn succeeded(&mut self, uid: &str) {
        self.failures.remove(uid);
    }

    /// It could not be connected to, or the tunnel to it failed. Refusals by policy are answers, not failures.
    pub fn failed(&mut self, uid: &Arc<str>, now: Instant) {
        if self.failures.len() >= FAILURES_REMEMBERED && !self.failures.contains_key(uid) {
            self.failures.retain(|_, failures| failures.ejected_until.is_some_and(|until| until > now));
            if self.failures.len() >= FAILURES_REMEMBERED {
                return;
            }
        }
        let failures = self.failures.entry(Arc::clone(uid)).or_insert(Failures { in_a_row: 0, ejected_until: None });
        failures.in_a_row = failures.in_a_row.saturating_add(1);
        if let Some(further) = failures.in_a_row.checked_sub(EJECTION_AFTER_FAILURES) {
            let doubled = EJECTION_BASE.saturating_mul(1 << further.min(8));
            failures.ejected_until = Some(now + doubled.min(EJECTION_MAX));
        }
    }

    pub fn open(&self, uid: &str) -> u32 {
        self.open.get(uid).copied().unwrap_or_default()
    }

    pub fn ejected(&self, uid: &str, now: Instant) -> bool {
        self.failures.get(uid).and_then(|failures| failures.ejected_until).is_some_and(|until| now < until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_ejected_after_failures_in_a_row_and_comes_back_by_itself() {
        let (mut load, uid, start) = (Load::default(), Arc::from("a"), Instant::now());
        for _ in 1..EJECTION_AFTER_FAILURES {
            load.failed(&uid, start);
            assert!(!load.ejected("a", start));
        }
        load.failed(&uid, start);
        assert!(load.ejected("a", start));
        assert!(!load.ejected("a", start + EJECTION_BASE));
        load.failed(&uid, start + EJECTION_BASE);
        assert!(load.ejected("a", start + 2 * EJECTION_BASE), "a further failure ejects for longer");
        load.succeeded("a");
        assert!(!load.ejected("a", start + 2 * EJECTION_BASE));
    }

    #[test]
    fn ejection_is_bounded_in_time_and_number() {
        let (mut load, uid, start) = (Load::default(), Arc::from("a"), Instant::now());
        (0..1000).for_each(|_| load.failed(&uid, start));
        assert!(!load.ejected("a", start + EJECTION_MAX));
        (0..10 * FAILURES_REMEMBERED).for_each(|index| load.failed(&Arc::from(index.to_string()), start));
        assert!(load.failures.len() <= FAILURES_REMEMBERED);
        assert!(load.ejected("a", start), "a running ejection is not forgotten for newcomers");
    }

    #[test]
    fn nothing_is_kept_of_an_endpoint_whose_streams_are_closed() {
        let (mut load, uid) = (Load::default(), Arc::from("a"));
        load.opened(&uid);
        load.opened(&uid);
        assert_eq!(load.open("a"), 2);
        load.closed("a");
        load.closed("a");
        load.closed("a");
        assert_eq!(load.open("a"), 0);
        assert!(load.open.is_empty());
    }
}
