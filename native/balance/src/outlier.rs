//! Which endpoints of a backend are spared for a while, by what requests met there: shared by all threads, so that what one meets all know.
use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What is counted, and what follows. See proto/traffic.proto, HealthCheck.
#[derive(Debug, Clone, PartialEq)]
pub struct Detection {
    /// None, of these three: not looked at.
    pub consecutive_5xx: Option<u32>,
    pub consecutive_gateway: Option<u32>,
    pub consecutive_local: Option<u32>,
    /// Failures without an answer are none of the first two.
    pub split: bool,
    pub success_rate: Option<SuccessRate>,
    pub interval: Duration,
    pub base: Duration,
    pub longest: Duration,
    pub max_percent: u32,
    pub panic_percent: u32,
    /// Each ejection in a row lasts twice as long as the one before, instead of once the base more.
    pub doubling: bool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SuccessRate {
    pub minimum_hosts: usize,
    pub request_volume: u32,
    pub stdev_factor: f64,
}

/// Where nothing is said: an endpoint that cannot be connected to is passed over, whatever it answers otherwise. One failure may be chance, three
/// in a row are a pattern that a client notices.
impl Default for Detection {
    fn default() -> Self {
        Self {
            consecutive_5xx: None,
            consecutive_gateway: None,
            consecutive_local: Some(3),
            split: false,
            success_rate: None,
            interval: Duration::from_secs(10),
            base: Duration::from_secs(5),
            longest: Duration::from_mins(1),
            max_percent: 100,
            panic_percent: 0,
            doubling: true,
        }
    }
}

/// What came of a try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Met {
    /// No connection, one that was lost before the answer, or an answer that was late.
    Failure,
    Status(u16),
}

/// Why an endpoint was ejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    Consecutive5xx,
    ConsecutiveGateway,
    ConsecutiveLocal,
    SuccessRate,
}

/// For logs and metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ejection {
    pub uid: Arc<str>,
    pub cause: Cause,
    pub time: Duration,
}

/// One endpoint as all threads see it. Times are nanoseconds of the board's clock.
#[derive(Debug)]
pub struct Standing {
    uid: Arc<str>,
    /// When it came, or returned from an ejection; 0: it was there from the beginning.
    since: AtomicU64,
    /// 0: never.
    ejected_until: AtomicU64,
    /// Ejections that weigh on the next one.
    times: AtomicU32,
    errors_5xx: AtomicU32,
    errors_gateway: AtomicU32,
    errors_local: AtomicU32,
    /// In the interval that runs.
    good: AtomicU32,
    all: AtomicU32,
}

#[derive(Debug)]
pub struct Board {
    detection: Detection,
    roster: Arc<Roster>,
    next_look: AtomicU64,
}

/// The endpoints; it outlives a change of the detection.
#[derive(Debug)]
pub struct Roster {
    begun: Instant,
    /// Time 0 is never now.
    standings: Mutex<HashMap<Arc<str>, Arc<Standing>>>,
    ejected: AtomicU32,
}

impl Roster {
    pub fn new(now: Instant) -> Arc<Self> {
        Arc::new(Self { begun: now, standings: Mutex::default(), ejected: AtomicU32::new(0) })
    }

    fn standings(&self) -> MutexGuard<'_, HashMap<Arc<str>, Arc<Standing>>> {
        self.standings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn at(&self, now: Instant) -> u64 {
        nanoseconds(now.saturating_duration_since(self.begun)) + 1
    }
}

impl Board {
    pub fn new(detection: Detection, roster: Arc<Roster>) -> Self {
        Self { detection, roster, next_look: AtomicU64::new(0) }
    }

    pub fn roster(&self) -> &Arc<Roster> {
        &self.roster
    }

    /// The standings of these endpoints, in their order; nothing is kept of any other.
    pub fn seat<'a>(&self, uids: impl ExactSizeIterator<Item = &'a Arc<str>>, now: Instant) -> Vec<Arc<Standing>> {
        let mut standings = self.roster.standings();
        // Those that are there when the first is asked for are not new.
        let since = if standings.is_empty() { 0 } else { self.roster.at(now) };
        let count = uids.len();
        let seated: Vec<_> =
            uids.map(|uid| Arc::clone(standings.entry(Arc::clone(uid)).or_insert_with(|| Arc::new(Standing::new(uid, since))))).collect();
        if standings.len() > count {
            standings.clear();
            standings.extend(seated.iter().map(|standing| (Arc::clone(&standing.uid), Arc::clone(standing))));
        }
        seated
    }

    pub fn is_ejected(&self, standing: &Standing, now: Instant) -> bool {
        let until = standing.ejected_until.load(Relaxed);
        until != 0 && self.roster.at(now) < until
    }

    /// Since it came or returned; None: it was there from the beginning.
    pub fn age(&self, standing: &Standing, now: Instant) -> Option<Duration> {
        let since = standing.since.load(Relaxed);
        (since != 0).then(|| Duration::from_nanos(self.roster.at(now).saturating_sub(since)))
    }

    /// So many are ejected that the fault is taken to be elsewhere, and ejection does not count. Costs nothing while none is.
    pub fn panics(&self, now: Instant) -> bool {
        if self.detection.panic_percent == 0 || self.roster.ejected.load(Relaxed) == 0 {
            return false;
        }
        let standings = self.roster.standings();
        let admitted = standings.values().filter(|standing| !self.is_ejected(standing, now)).count();
        admitted * 100 < standings.len() * self.detection.panic_percent as usize
    }

    /// What one try met. At most one endpoint is told of that was ejected because of it; those of the interval's end come from [`Board::look`].
    pub fn met(&self, standing: &Standing, met: Met, now: Instant) -> Option<Ejection> {
        let Detection { split, .. } = self.detection;
        let (failure, status) = match met {
            Met::Failure => (true, if split { None } else { Some(503) }),
            Met::Status(status) => (false, Some(status)),
        };
        let in_a_row = |counter: &AtomicU32, bad: bool| {
            if bad {
                return counter.fetch_add(1, Relaxed) + 1;
            }
            // Nearly always 0 already: a line that nobody writes to stays in every cache.
            if counter.load(Relaxed) != 0 {
                counter.store(0, Relaxed);
            }
            0
        };
        let local = in_a_row(&standing.errors_local, failure);
        let (mut any, mut gateway) = (0, 0);
        if let Some(status) = status {
            any = in_a_row(&standing.errors_5xx, (500..600).contains(&status));
            gateway = in_a_row(&standing.errors_gateway, (502..=504).contains(&status));
            if self.detection.success_rate.is_some() {
                standing.all.fetch_add(1, Relaxed);
                standing.good.fetch_add(u32::from(status < 500), Relaxed);
            }
        }
        let reached = |limit: Option<u32>, count: u32| limit.is_some_and(|limit| count >= limit);
        let cause = if reached(self.detection.consecutive_local, local) {
            Cause::ConsecutiveLocal
        } else if reached(self.detection.consecutive_gateway, gateway) {
            Cause::ConsecutiveGateway
        } else if reached(self.detection.consecutive_5xx, any) {
            Cause::Consecutive5xx
        } else {
            return None;
        };
        self.eject(standing, cause, now)
    }

    /// Due once in each interval: success rates, and what is forgiven. Cheap when it is not due.
    pub fn look(&self, now: Instant) -> Vec<Ejection> {
        let at = self.roster.at(now);
        let due = self.next_look.load(Relaxed);
        let next = at + nanoseconds(self.detection.interval);
        if at < due || self.next_look.compare_exchange(due, next, Relaxed, Relaxed).is_err() || due == 0 {
            return Vec::new();
        }
        let standings: Vec<_> = self.roster.standings().values().cloned().collect();
        for standing in standings.iter().filter(|standing| standing.times.load(Relaxed) > 0 && !self.is_ejected(standing, now)) {
            // Not in the interval that it returned in.
            if self.age(standing, now).is_none_or(|age| age >= self.detection.interval) {
                standing.times.fetch_sub(1, Relaxed);
            }
        }
        let Some(rate) = self.detection.success_rate else { return Vec::new() };
        let counts = standings.iter().map(|standing| (standing, standing.good.swap(0, Relaxed), standing.all.swap(0, Relaxed)));
        let rates: Vec<_> = counts
            .filter(|(_, _, all)| *all >= rate.request_volume.max(1))
            .map(|(standing, good, all)| (standing, f64::from(good) / f64::from(all)))
            .collect();
        if rates.len() < rate.minimum_hosts {
            return Vec::new();
        }
        let threshold = threshold(&rates.iter().map(|(_, rate)| *rate).collect::<Vec<_>>(), rate.stdev_factor);
        let outliers = rates.iter().filter(|(_, rate)| *rate < threshold);
        outliers.filter_map(|(standing, _)| self.eject(standing, Cause::SuccessRate, now)).collect()
    }

    fn eject(&self, standing: &Standing, cause: Cause, now: Instant) -> Option<Ejection> {
        // Two threads that meet the last failure at the same time eject once.
        let standings = self.roster.standings();
        if self.is_ejected(standing, now) {
            return None;
        }
        let ejected = standings.values().filter(|standing| self.is_ejected(standing, now)).count();
        // The first may always go: of three endpoints ten percent would be none.
        if ejected > 0 && (ejected + 1) * 100 > standings.len() * self.detection.max_percent as usize {
            return None;
        }
        let times = standing.times.fetch_add(1, Relaxed);
        let base = self.detection.base;
        let time = if self.detection.doubling { base.saturating_mul(1 << times.min(16)) } else { base.saturating_mul(times + 1) };
        let time = time.min(self.detection.longest.max(base));
        let until = self.roster.at(now) + nanoseconds(time);
        standing.ejected_until.store(until, Relaxed);
        standing.since.store(until, Relaxed);
        // It returns with nothing against it, but one more failure in a row of connections is enough where that was the reason.
        for counter in [&standing.errors_5xx, &standing.errors_gateway] {
            counter.store(0, Relaxed);
        }
        self.roster.ejected.store(u32::try_from(ejected + 1).unwrap_or(u32::MAX), Relaxed);
        Some(Ejection { uid: Arc::clone(&standing.uid), cause, time })
    }
}

impl Standing {
    fn new(uid: &Arc<str>, since: u64) -> Self {
        let [ejected_until] = [0].map(AtomicU64::new);
        let [times, errors_5xx, errors_gateway, errors_local, good, all] = [0; 6].map(AtomicU32::new);
        let uid = Arc::clone(uid);
        Self { uid, since: AtomicU64::new(since), ejected_until, times, errors_5xx, errors_gateway, errors_local, good, all }
    }
}

/// Of what is still like the others.
fn threshold(rates: &[f64], stdev_factor: f64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "endpoints of one service")]
    let count = rates.len() as f64;
    let mean = rates.iter().sum::<f64>() / count;
    let variance = rates.iter().map(|rate| (rate - mean).powi(2)).sum::<f64>() / count;
    mean - stdev_factor * variance.sqrt()
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX / 4).min(u64::MAX / 4)
}
