//! Which authorities and paths of a service are told apart in its edges: as many as a ledger of days can hold, whatever paths clients make up.
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Of one service. An API has fewer paths, or has names of things in them, which are without number.
const MOST_TARGETS: usize = 64;
/// Of one thread.
const MOST_SERVICES: usize = 1024;
/// Both together: longer ones are not for reading.
const MOST_BYTES: usize = 512;
/// What nobody asked for in that time makes room.
const FORGOTTEN: Duration = Duration::from_mins(10);

/// As the client sent them, the path without its query.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Target {
    pub(super) authority: Box<str>,
    pub(super) path: Box<str>,
}

/// One thread's.
#[derive(Debug, Default)]
pub(super) struct Targets(HashMap<Arc<str>, Vec<(Arc<Target>, Instant)>>);

impl Targets {
    /// None: there are too many.
    pub(super) fn of(&mut self, service: &Arc<str>, authority: &str, path: &str, now: Instant) -> Option<Arc<Target>> {
        if authority.len() + path.len() > MOST_BYTES || (self.0.len() >= MOST_SERVICES && !self.0.contains_key(service)) {
            return None;
        }
        let known = self.0.entry(Arc::clone(service)).or_default();
        if let Some(at) = known.iter().position(|(target, _)| *target.path == *path && *target.authority == *authority) {
            known[at].1 = now;
            let found = Arc::clone(&known[at].0);
            // What is asked for often is soon found first, and what is not stands last.
            known.swap(at, at.saturating_sub(1));
            return Some(found);
        }
        let room = known.len() < MOST_TARGETS || known.pop_if(|(_, used)| now.duration_since(*used) > FORGOTTEN).is_some();
        room.then(|| {
            let target = Arc::new(Target { authority: authority.into(), path: path.into() });
            known.push((Arc::clone(&target), now));
            target
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_without_number_are_told_apart_as_far_as_the_bound_and_make_room_when_nobody_asks_for_them() {
        let (mut targets, service, begin) = (Targets::default(), Arc::from("shop/api"), Instant::now());
        let mut known = |path: &str, now| targets.of(&service, "api", path, now).is_some();
        let told = (0..1_000_000_u32).filter(|number| known(&format!("/items/{number}"), begin)).count();
        assert_eq!(told, MOST_TARGETS);
        assert!(known("/items/0", begin) && !known("/other", begin));
        let later = begin + FORGOTTEN + Duration::from_secs(1);
        assert!(known("/items/0", later) && known("/other", later), "what was forgotten made room");
        assert!(known("/items/0", later), "and what is used stays");
        assert!(!known(&"/".repeat(MOST_BYTES), later));
    }

    #[test]
    fn each_service_and_each_authority_has_targets_of_its_own() {
        let (mut targets, now) = (Targets::default(), Instant::now());
        let services: Vec<Arc<str>> = (0..=MOST_SERVICES).map(|number| Arc::from(format!("shop/{number}"))).collect();
        let told = services.iter().filter(|service| targets.of(service, "a", "/", now).is_some()).count();
        assert_eq!(told, MOST_SERVICES);
        let (one, other) = (targets.of(&services[0], "a", "/", now), targets.of(&services[0], "b", "/", now));
        assert!(one.is_some() && other.is_some() && one != other);
    }
}
