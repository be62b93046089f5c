//! What ends a tunnel by time: a peer that says nothing, a PING without answer, and the end of a certificate. Pure: times in, orders out.
use std::time::{Duration, Instant, SystemTime};

use crate::limits::Limits;
use crate::server::millis;

/// The wall clock may jump while we sleep: it is looked at again at least this often.
const CLOCK_CHECK: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(crate) struct Vigil {
    interval: Duration,
    patience: Duration,
    /// When the next PING goes, or until when its answer must have come.
    ping: Ping,
    /// Until when the peer must have said something of its own: its settings, or its first request.
    first: Option<First>,
    /// The earlier one of both certificates.
    end: SystemTime,
    clock: Instant,
}

#[derive(Debug)]
enum Ping {
    Due(Instant),
    Sent(Instant),
}

#[derive(Debug)]
struct First {
    until: Instant,
    patience: Duration,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Order {
    Nothing,
    Ping,
    Dead(String),
    /// The peer did not say its first word within this time.
    Mute(Duration),
}

impl Vigil {
    /// `first` bounds the peer's first word.
    pub(crate) fn new(limits: &Limits, first: Duration, end: SystemTime, now: Instant) -> Self {
        let mut vigil = Self {
            interval: limits.ping_interval,
            patience: limits.ping_timeout,
            ping: Ping::Due(now + limits.ping_interval),
            first: Some(First { until: now + first, patience: first }),
            end,
            clock: now,
        };
        vigil.set_clock(now, SystemTime::now());
        vigil
    }

    pub(crate) fn spoke(&mut self) {
        self.first = None;
    }

    pub(crate) fn ponged(&mut self, now: Instant) {
        if matches!(self.ping, Ping::Sent(_)) {
            self.ping = Ping::Due(now + self.interval);
        }
    }

    /// When `at` must be asked again.
    pub(crate) fn next(&self) -> Instant {
        let (Ping::Due(ping) | Ping::Sent(ping)) = self.ping;
        let first = self.first.as_ref().map_or(self.clock, |first| first.until);
        ping.min(self.clock).min(first)
    }

    pub(crate) fn at(&mut self, now: Instant, wall: SystemTime) -> Order {
        if let Some(first) = self.first.as_ref().filter(|first| first.until <= now) {
            return Order::Mute(first.patience);
        }
        if self.clock <= now {
            if self.end <= wall {
                return Order::Dead("a certificate of the tunnel ended".into());
            }
            self.set_clock(now, wall);
        }
        match self.ping {
            Ping::Due(at) if at <= now => {
                self.ping = Ping::Sent(now + self.patience);
                Order::Ping
            }
            Ping::Sent(until) if until <= now => Order::Dead(format!("no answer to PING within {} ms", millis(self.patience))),
            _ => Order::Nothing,
        }
    }

    fn set_clock(&mut self, now: Instant, wall: SystemTime) {
        self.clock = now + self.end.duration_since(wall).unwrap_or_default().min(CLOCK_CHECK);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits::default()
    }

    #[test]
    fn pings_go_out_and_their_answers_keep_the_tunnel() {
        let (start, wall) = (Instant::now(), SystemTime::now());
        let hour = Duration::from_hours(1);
        let mut vigil = Vigil::new(&limits(), hour, wall + hour, start);
        let mut now = start;
        for _ in 0..50 {
            now += limits().ping_interval;
            assert_eq!(vigil.at(now, wall), Order::Ping);
            assert_eq!(vigil.at(now, wall), Order::Nothing);
            vigil.ponged(now);
        }
        now += limits().ping_interval;
        assert_eq!(vigil.at(now, wall), Order::Ping);
        now += limits().ping_timeout;
        assert!(matches!(vigil.at(now, wall), Order::Dead(why) if why.contains("PING")));
    }

    #[test]
    fn a_mute_peer_and_a_certificate_end_it_by_the_wall_clock() {
        let (start, wall) = (Instant::now(), SystemTime::now());
        let second = Duration::from_secs(1);
        let mut vigil = Vigil::new(&limits(), second, wall + Duration::from_hours(1), start);
        assert_eq!(vigil.next(), start + second);
        assert_eq!(vigil.at(start + second, wall), Order::Mute(second));
        vigil.spoke();
        assert_eq!(vigil.at(start + second, wall), Order::Nothing);
        let mut vigil = Vigil::new(&limits(), Duration::from_hours(9), wall + Duration::from_hours(1), start);
        assert_eq!(vigil.at(start + CLOCK_CHECK, wall + Duration::from_hours(2)), Order::Dead("a certificate of the tunnel ended".into()));
    }
}
