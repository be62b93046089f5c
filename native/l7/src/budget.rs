//! How many tries beside the first a worker may make: when everything fails, retries must not be the storm that keeps it down.
use std::cell::RefCell;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// The Gateway API's defaults: a fifth of the requests of the last ten seconds, and ten in each second besides, so that rare requests have some.
const PERCENT: u32 = 20;
const WINDOW: Duration = Duration::from_secs(10);
const LEAST_PER_SECOND: u32 = 10;
/// Services that are counted; the counts of the others are forgotten when a new one comes, which gives, and does not take.
const SERVICES: usize = 1024;

/// By what requests are addressed to, for each worker by itself.
#[derive(Debug)]
pub(crate) struct Budgets<K>(RefCell<HashMap<K, Budget>>);

#[derive(Debug)]
struct Budget {
    /// The window that runs, and the one before it, which counts by as much of it as is still in view.
    began: Instant,
    now: Count,
    before: Count,
}

#[derive(Debug, Clone, Copy, Default)]
struct Count {
    requests: u32,
    retries: u32,
}

impl<K> Default for Budgets<K> {
    fn default() -> Self {
        Self(RefCell::default())
    }
}

impl<K: std::hash::Hash + Eq + Clone> Budgets<K> {
    /// A request whose rule may try again.
    pub(crate) fn request(&self, key: &K, now: Instant) {
        self.with(key, now, |budget| budget.now.requests = budget.now.requests.saturating_add(1));
    }

    /// Takes one try out, if there is one.
    pub(crate) fn retry(&self, key: &K, now: Instant) -> bool {
        self.with(key, now, |budget| {
            let left = budget.allowed(now);
            budget.now.retries += u32::from(left);
            left
        })
    }

    fn with<R>(&self, key: &K, now: Instant, act: impl FnOnce(&mut Budget) -> R) -> R {
        let mut budgets = self.0.borrow_mut();
        if !budgets.contains_key(key) {
            if budgets.len() >= SERVICES {
                budgets.clear();
            }
            budgets.insert(key.clone(), Budget { began: now, now: Count::default(), before: Count::default() });
        }
        let budget = budgets.entry(key.clone()).or_insert_with(|| Budget { began: now, now: Count::default(), before: Count::default() });
        budget.turn(now);
        act(budget)
    }
}

impl Budget {
    fn turn(&mut self, now: Instant) {
        let age = now.saturating_duration_since(self.began);
        if age >= WINDOW {
            self.before = if age < 2 * WINDOW { self.now } else { Count::default() };
            self.now = Count::default();
            self.began = now;
        }
    }

    fn allowed(&self, now: Instant) -> bool {
        let age = now.saturating_duration_since(self.began).as_secs_f64() / WINDOW.as_secs_f64();
        let seen = |now: u32, before: u32| f64::from(now) + f64::from(before) * (1.0 - age).clamp(0.0, 1.0);
        let least = f64::from(LEAST_PER_SECOND) * WINDOW.as_secs_f64();
        let share = seen(self.now.requests, self.before.requests) * f64::from(PERCENT) / 100.0;
        seen(self.now.retries, self.before.retries) < least + share
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // in tests a failed unwrap is the message

    use super::*;

    fn granted(budgets: &Budgets<u8>, now: Instant, asked: u32) -> u32 {
        (0..asked).map(|_| u32::from(budgets.retry(&0, now))).sum()
    }

    #[test]
    fn a_fifth_of_the_requests_is_tried_again_beside_the_least() {
        let budgets = Budgets::default();
        let now = Instant::now();
        (0..1000).for_each(|_| budgets.request(&0, now));
        assert_eq!(granted(&budgets, now, 1000), 300);
    }

    #[test]
    fn without_requests_there_are_ten_a_second() {
        let budgets = Budgets::default();
        let now = Instant::now();
        assert_eq!(granted(&budgets, now, 1000), 100);
        assert_eq!(granted(&budgets, now + WINDOW, 1000), 0, "the window before is still in view");
        assert_eq!(granted(&budgets, now + WINDOW * 5, 1000), 100);
    }

    #[test]
    fn services_do_not_take_from_each_other() {
        let budgets = Budgets::default();
        let now = Instant::now();
        assert_eq!(granted(&budgets, now, 1000), 100);
        assert!(budgets.retry(&1, now));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let budgets = Budgets::default();
        (0..10_000_u32).for_each(|key| budgets.request(&key, Instant::now()));
        assert!(budgets.0.borrow().len() <= SERVICES);
    }
}
