//! What ends a tunnel by time: a peer that says nothing, a PING without answer, and the end of a certificate. Times in, orders out.
use std::time::{Duration, Instant, SystemTime};

use crate::h2::Role;
use crate::limits::Limits;
use crate::server::millis;

/// The wall clock may jump while we sleep: it is looked at again at least this often.
const CLOCK_CHECK: Duration = Duration::from_secs(30);

/// The share of an interval that a PING may go early, drawn anew each time: thousands of tunnels that were made together would else be
/// asked together for as long as they live.
const SPREAD: f64 = 0.25;

#[derive(Debug)]
pub(crate) struct Vigil {
    interval: Duration,
    patience: Duration,
    /// When something came last: who speaks is not asked whether he lives.
    heard: Instant,
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

/// What was seen of a peer, for another vigil over the same connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) heard: Instant,
    /// When the next PING goes, or, once it was `asked`, until when its answer must have come.
    pub(crate) ping: Instant,
    pub(crate) asked: bool,
    /// Until when the first word must come, and how long it was waited for in all.
    pub(crate) first: Option<(Instant, Duration)>,
    pub(crate) end: SystemTime,
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
    /// `first` bounds the peer's first word. The server waits longer than its client, whose PINGs it then hears: one asks, not both.
    pub(crate) fn new(role: Role, limits: &Limits, first: Duration, end: SystemTime, now: Instant) -> Self {
        let mut vigil = Self {
            interval: if role == Role::Server { limits.ping_interval * 3 / 2 } else { limits.ping_interval },
            patience: limits.ping_timeout,
            heard: now,
            ping: Ping::Due(now),
            first: Some(First { until: now + first, patience: first }),
            end,
            clock: now,
        };
        vigil.ping = Ping::Due(now + vigil.gap());
        vigil.set_clock(now, SystemTime::now());
        vigil
    }

    /// Goes on with what another one saw; its bounds are our own.
    pub(crate) fn resume(role: Role, limits: &Limits, seen: Seen, now: Instant) -> Self {
        let Seen { heard, ping, asked, first, end } = seen;
        let ping = if asked { Ping::Sent(ping) } else { Ping::Due(ping) };
        let first = first.map(|(until, patience)| First { until, patience });
        Self { heard, ping, first, ..Self::new(role, limits, Duration::ZERO, end, now) }
    }

    pub(crate) fn seen(&self) -> Seen {
        let (asked, Ping::Due(ping) | Ping::Sent(ping)) = (matches!(self.ping, Ping::Sent(_)), &self.ping);
        let first = self.first.as_ref().map(|first| (first.until, first.patience));
        Seen { heard: self.heard, ping: *ping, asked, first, end: self.end }
    }

    pub(crate) fn heard(&mut self, now: Instant) {
        self.heard = now;
    }

    pub(crate) fn spoke(&mut self) {
        self.first = None;
    }

    pub(crate) fn ponged(&mut self, now: Instant) {
        if matches!(self.ping, Ping::Sent(_)) {
            self.ping = Ping::Due(now + self.gap());
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
            // Looked at only now: a busy tunnel does not set its alarm anew for every byte.
            Ping::Due(at) if at <= now && now < self.heard + self.interval.mul_f64(1.0 - SPREAD) => {
                self.ping = Ping::Due(self.heard + self.gap());
                Order::Nothing
            }
            Ping::Due(at) if at <= now => {
                self.ping = Ping::Sent(now + self.patience);
                Order::Ping
            }
            Ping::Sent(until) if until <= now => Order::Dead(format!("no answer to PING within {} ms", millis(self.patience))),
            _ => Order::Nothing,
        }
    }

    /// From the last word to the next PING.
    fn gap(&self) -> Duration {
        self.interval.mul_f64(1.0 - SPREAD * fastrand::f64())
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
        let mut vigil = Vigil::new(Role::Client, &limits(), hour, wall + hour, start);
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

    /// Both ends of a tunnel that nobody uses, told of each other's PINGs; how many each sent in `time`, and when the client's went.
    fn silence(time: Duration) -> (Vec<Duration>, usize) {
        let (start, wall, hour) = (Instant::now(), SystemTime::now(), Duration::from_hours(1));
        let mut client = Vigil::new(Role::Client, &limits(), hour, wall + hour, start);
        let mut server = Vigil::new(Role::Server, &limits(), hour, wall + hour, start);
        let (mut asked, mut asked_back) = (Vec::new(), 0);
        loop {
            let now = client.next().min(server.next());
            if now > start + time {
                return (asked, asked_back);
            }
            if client.at(now, wall) == Order::Ping {
                asked.push(now - start);
                server.heard(now);
                client.heard(now);
                client.ponged(now);
            }
            if server.at(now, wall) == Order::Ping {
                asked_back += 1;
                client.heard(now);
                server.heard(now);
                server.ponged(now);
            }
        }
    }

    #[test]
    fn in_a_silent_tunnel_only_the_client_asks() {
        let (asked, asked_back) = silence(Duration::from_mins(10));
        assert!((60..=80).contains(&asked.len()), "{} PINGs in 10 minutes", asked.len());
        assert_eq!(asked_back, 0);
    }

    #[test]
    fn tunnels_made_together_are_not_asked_together() {
        let mut firsts: Vec<_> = (0..1000).map(|_| silence(Duration::from_secs(10)).0[0]).collect();
        firsts.sort_unstable();
        // A quarter of 10 s: 100 neighbours lie some 250 ms apart.
        let apart = |some: &[Duration]| some[99].saturating_sub(some[0]);
        let closest = firsts.windows(100).map(apart).min();
        assert!(closest > Some(Duration::from_millis(50)), "100 of 1000 within {closest:?}");
        assert!(firsts[999] <= limits().ping_interval);
    }

    #[test]
    fn who_speaks_is_not_asked_and_who_falls_silent_is() {
        let (start, wall, hour) = (Instant::now(), SystemTime::now(), Duration::from_hours(1));
        let mut vigil = Vigil::new(Role::Client, &limits(), hour, wall + hour, start);
        let mut now = start;
        while now < start + Duration::from_mins(5) {
            now += Duration::from_secs(1);
            vigil.heard(now);
            assert_eq!(vigil.at(now, wall), Order::Nothing);
        }
        let asked = loop {
            let at = vigil.next();
            match vigil.at(at, wall) {
                Order::Nothing => {}
                order => break (order, at - now),
            }
        };
        assert_eq!(asked.0, Order::Ping);
        assert!(asked.1 > limits().ping_interval / 2 && asked.1 <= limits().ping_interval, "{:?} after the last word", asked.1);
    }

    #[test]
    fn a_mute_peer_and_a_certificate_end_it_by_the_wall_clock() {
        let (start, wall) = (Instant::now(), SystemTime::now());
        let second = Duration::from_secs(1);
        let mut vigil = Vigil::new(Role::Client, &limits(), second, wall + Duration::from_hours(1), start);
        assert_eq!(vigil.next(), start + second);
        assert_eq!(vigil.at(start + second, wall), Order::Mute(second));
        vigil.spoke();
        assert_eq!(vigil.at(start + second, wall), Order::Nothing);
        let mut vigil = Vigil::new(Role::Client, &limits(), Duration::from_hours(9), wall + Duration::from_hours(1), start);
        assert_eq!(vigil.at(start + CLOCK_CHECK, wall + Duration::from_hours(2)), Order::Dead("a certificate of the tunnel ended".into()));
    }
}
