//! One token bucket for several clients, none of whom can drain it for the others: each may have what the level of a fair division gives, and what
//! is over goes to whoever asks.
//!
//! The level is found as water finds its own: who asks for less than the level gets all of it, the rest is divided by those who want more. Demand
//! is what was asked for in the epoch before.
use super::bucket::Rate;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Shortest time that demand is counted over.
const EPOCH: u64 = 1_000_000_000;
/// An epoch has at least so many tokens: fewer say nothing about shares.
const EPOCH_TOKENS: u64 = 20;
/// What a client may have at once of its own share: so many,
const OWN_BURST: u64 = 2;
/// or what comes to it in so long, where the bucket is deep enough for all of them. Requests come by chance, and whoever asks for more than its share must
/// not lose some of it in each pause that they make.
const OWN_TIME: u64 = EPOCH / 4;
/// Clients that are told apart; those beyond share one account.
const CLIENTS: usize = 10_000;
/// Tokens in the bucket at least: below the half of it only what is a client's own share is given out, and that must be some.
pub(super) const LEAST_BURST: u32 = 20;

#[derive(Debug, Default)]
pub(super) struct Fair(Mutex<Accounts>);

#[derive(Debug, Default)]
struct Accounts {
    full_at: u64,
    clients: HashMap<u64, Account>,
    epoch_ends: u64,
    /// How many times slower than the whole a client's own share is.
    slower: f64,
}

#[derive(Debug, Default, Clone, Copy)]
struct Account {
    full_at: u64,
    /// In the epoch that runs.
    asked: u32,
}

impl Fair {
    /// `client` is a hash that nobody outside can predict.
    pub(super) fn take(&self, client: u64, rate: Rate, now: u64) -> Result<(), Duration> {
        let mut accounts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        accounts.turn(rate, now);
        accounts.take(client, rate, now).map_err(Duration::from_nanos)
    }
}

impl Accounts {
    fn take(&mut self, client: u64, rate: Rate, now: u64) -> Result<(), u64> {
        let known = self.clients.len() < CLIENTS || self.clients.contains_key(&client);
        let new = known && !self.clients.contains_key(&client);
        let account = self.clients.entry(if known { client } else { 0 }).or_default();
        account.asked = account.asked.saturating_add(1);
        let own = rate.slowed(self.slower.max(1.0), OWN_BURST).deepened(OWN_TIME.min(rate.depth() / 4));
        let own_next = own.take(account.full_at, now);
        let next = rate.take(self.full_at, now)?;
        match own_next {
            Ok(own_next) => account.full_at = own_next,
            // Beyond its share, of what nobody else wanted; it owes nothing for that.
            Err(_) if !rate.is_half_empty(next, now) => {}
            Err(wait) => return Err(wait),
        }
        self.full_at = next;
        if new {
            // Until its demand is known: as if all wanted the same.
            #[expect(clippy::cast_precision_loss, reason = "a few thousand clients")]
            let clients = self.clients.len() as f64;
            self.slower = self.slower.max(clients.min(self.slower + 1.0));
        }
        Ok(())
    }

    fn turn(&mut self, rate: Rate, now: u64) {
        if now < self.epoch_ends {
            return;
        }
        let length = EPOCH.max(rate.step().saturating_mul(EPOCH_TOKENS));
        let stale = now >= self.epoch_ends.saturating_add(length);
        self.epoch_ends = now + length;
        if stale {
            self.clients.clear();
            self.slower = 1.0;
            return;
        }
        self.clients.retain(|_, account| account.asked > 0);
        let mut demands: Vec<u64> = self.clients.values_mut().map(|account| u64::from(std::mem::take(&mut account.asked))).collect();
        self.slower = slower(&mut demands, rate.in_time(length));
    }
}

/// How many times the level goes into the whole.
#[expect(clippy::cast_precision_loss, reason = "requests of an epoch")]
fn slower(demands: &mut [u64], whole: u64) -> f64 {
    demands.sort_unstable();
    let mut left = whole as f64;
    for (index, demand) in demands.iter().enumerate() {
        let level = left / (demands.len() - index) as f64;
        if *demand as f64 > level {
            return whole as f64 / level.max(f64::MIN_POSITIVE);
        }
        left -= *demand as f64;
    }
    1.0
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // in tests a failed unwrap is the message

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// What each client gets of 100 a second in the last 20 of 30 seconds, when it asks for so many a second, evenly.
    fn shares(demands: &[u64]) -> Vec<f64> {
        let (fair, rate) = (Fair::default(), Rate::new(100, Duration::from_secs(1), 100).unwrap());
        let mut asked: Vec<(u64, usize)> = Vec::new();
        for (client, demand) in demands.iter().enumerate() {
            asked.extend((0..30 * demand).map(|index| (1 + index * SECOND / demand + client as u64, client)));
        }
        asked.sort_unstable();
        let mut got = vec![0; demands.len()];
        for (now, client) in asked {
            if fair.take(client as u64 + 1, rate, now).is_ok() && now > 10 * SECOND {
                got[client] += 1;
            }
        }
        got.into_iter().map(|count| f64::from(count) / 20.0).collect()
    }

    fn near(got: &[f64], wanted: &[f64]) {
        assert!(got.iter().zip(wanted).all(|(got, wanted)| (got - wanted).abs() <= 2.0), "{got:?}, not {wanted:?}");
    }

    #[test]
    fn who_asks_ten_times_as_much_gets_no_more() {
        near(&shares(&[100, 1000]), &[50.0, 50.0]);
        near(&shares(&[60, 70, 5000]), &[33.3, 33.3, 33.3]);
    }

    #[test]
    fn requests_that_come_by_chance_get_their_share_too() {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut rng = fastrand::Rng::with_seed(seed);
        let (fair, rate) = (Fair::default(), Rate::new(500, Duration::from_secs(1), 500).unwrap());
        let mut asked: Vec<(u64, u64)> = Vec::new();
        for (client, demand) in [(1, 400.0), (2, 4000.0)] {
            let mut now = Duration::ZERO;
            while now < Duration::from_mins(2) {
                now += Duration::from_secs_f64(-(1.0 - rng.f64()).ln() / demand);
                asked.push((u64::try_from(now.as_nanos()).unwrap(), client));
            }
        }
        asked.sort_unstable();
        let admitted = asked.iter().filter(|(now, client)| fair.take(*client, rate, *now).is_ok() && *now > 10 * SECOND);
        let modest = u32::try_from(admitted.filter(|(_, client)| *client == 1).count()).unwrap();
        let share = f64::from(modest) / 110.0 / 500.0;
        assert!((share - 0.5).abs() < 0.01, "{share} instead of half");
    }

    #[test]
    fn what_one_leaves_the_others_have_and_nothing_is_lost() {
        near(&shares(&[10, 1000]), &[10.0, 90.0]);
        near(&shares(&[10, 400, 4000]), &[10.0, 45.0, 45.0]);
        near(&shares(&[1000]), &[100.0]);
        near(&shares(&[30, 40]), &[30.0, 40.0]);
    }

    #[test]
    fn clients_without_number_are_bounded() {
        let (fair, rate) = (Fair::default(), Rate::new(100, Duration::from_secs(1), 100).unwrap());
        let admitted = (0..50_000).filter(|client| fair.take(client + 1, rate, 1).is_ok()).count();
        assert!(admitted <= 100, "{admitted}");
        assert!(fair.0.lock().unwrap().clients.len() <= CLIENTS + 1);
    }
}
