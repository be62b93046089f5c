//! The endpoints of one backend as one thread chooses among them: nearest first, without those that are ejected, by the backend's algorithm.
use crate::ewma::PeakEwma;
use crate::hash::hash;
use crate::maglev::Maglev;
use crate::outlier::{Board, Met, Standing};
use crate::ring::Ring;
use crate::slow_start::SlowStart;
use fastrand::Rng;
use std::cell::Cell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Draws that meet somebody unusable before all are looked at one by one: with half of them unusable one choice in a million gets there.
const DRAWS: usize = 20;

/// One endpoint that may be asked. What may not (unhealthy, unreachable) is left out by whoever makes the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    pub uid: Arc<str>,
    /// 0 gets none.
    pub weight: u32,
    /// Locality: only the lowest that has somebody to ask is used.
    pub rank: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Balancing {
    pub algorithm: Algorithm,
    pub slow_start: Option<SlowStart>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Algorithm {
    #[default]
    PeakEwma,
    RoundRobin,
    LeastRequest,
    Random,
    /// With the least number of points.
    RingHash(u32),
    /// With its size, a prime.
    Maglev(u32),
}

/// What a request says about who should have it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wish<'a> {
    /// For the algorithms that go by it.
    pub hash: Option<u64>,
    /// [`session`] of the endpoint that has its session.
    pub session: Option<u64>,
    /// Uids that failed it already.
    pub avoid: &'a [Arc<str>],
}

/// One endpoint, and what this thread has seen of it.
#[derive(Debug)]
pub struct Seat {
    uid: Arc<str>,
    weight: u32,
    standing: Arc<Standing>,
    open: Cell<u32>,
    latency: Cell<PeakEwma>,
    hash: u64,
}

/// A request under way at an endpoint, until it is dropped.
#[derive(Debug)]
pub struct Turn(Rc<Seat>);

#[derive(Debug)]
pub struct Group {
    balancing: Balancing,
    seats: Box<[Rc<Seat>]>,
    /// By rank, nearest first; those without a weight are in none.
    tiers: Box<[Tier]>,
}

/// Endpoints of one rank, by index of their seats.
#[derive(Debug)]
struct Tier {
    seats: Box<[usize]>,
    /// Sums of weights up to and with each.
    sums: Box<[u64]>,
    equal: bool,
    turn: Cell<u32>,
    hashed: Hashed,
}

#[derive(Debug)]
enum Hashed {
    No,
    Ring(Rc<Ring>),
    Maglev(Rc<Maglev>),
}

/// What a session is known by: nothing that anybody could read an endpoint's name or address from without knowing it.
pub fn session(uid: &str) -> u64 {
    hash(uid.as_bytes())
}

impl Group {
    /// What was seen of those that were in `before` stays, and tables of hashes whose endpoints are the same.
    pub fn new(members: &[Member], balancing: Balancing, board: &Board, before: Option<&Self>, rng: &mut Rng, now: Instant) -> Self {
        let known: HashMap<&str, &Rc<Seat>> = before.iter().flat_map(|before| before.seats.iter()).map(|seat| (&*seat.uid, seat)).collect();
        let standings = board.seat(members.iter().map(|member| &member.uid), now);
        let seats: Box<[_]> = members
            .iter()
            .zip(standings)
            .map(|(member, standing)| match known.get(&*member.uid) {
                Some(seat) if seat.weight == member.weight && Arc::ptr_eq(&seat.standing, &standing) => Rc::clone(seat),
                seen => Rc::new(Seat {
                    uid: Arc::clone(&member.uid),
                    weight: member.weight,
                    standing,
                    open: Cell::new(0),
                    latency: seen.map_or_else(Cell::default, |seen| Cell::new(seen.latency.get())),
                    hash: session(&member.uid),
                }),
            })
            .collect();
        let mut ranks: Vec<usize> = members.iter().filter(|member| member.weight > 0).map(|member| member.rank).collect();
        ranks.sort_unstable();
        ranks.dedup();
        let of = |rank: usize| {
            let chosen = members.iter().enumerate().filter(|(_, member)| member.rank == rank && member.weight > 0);
            Tier::new(chosen.map(|(index, _)| index).collect(), &seats, balancing.algorithm, before, rng)
        };
        let tiers = ranks.into_iter().map(of).collect();
        Self { balancing, seats, tiers }
    }

    /// Index of the chosen member. One that is ejected, or failed this request before, is passed over for the next rank; when there is nobody else
    /// the guess is that the fault is ours, and ejection does not count; when all failed it, none of that does.
    pub fn choose(&self, wish: &Wish<'_>, board: &Board, rng: &mut Rng, now: Instant) -> Option<usize> {
        let panics = board.panics(now);
        let tried = |seat: &Seat| wish.avoid.contains(&seat.uid);
        let spared = |seat: &Seat| !panics && board.is_ejected(&seat.standing, now);
        let share = |seat: &Seat| match (self.balancing.slow_start, board.age(&seat.standing, now)) {
            (Some(slow_start), Some(age)) => slow_start.share(age),
            _ => 1.0,
        };
        let mut choice = Choice { group: self, wish, rng, now, share: &share };
        choice.best(&|seat| !spared(seat) && !tried(seat)).or_else(|| choice.best(&|seat| !tried(seat))).or_else(|| choice.best(&|_| true))
    }

    /// The member is asked from now on.
    pub fn begin(&self, index: usize) -> Turn {
        let seat = Rc::clone(&self.seats[index]);
        seat.open.set(seat.open.get() + 1);
        Turn(seat)
    }

    pub fn is_empty(&self) -> bool {
        self.tiers.is_empty()
    }
}

impl Turn {
    pub fn uid(&self) -> &Arc<str> {
        &self.0.uid
    }

    /// How long its answer, or its failure, let wait; to be told once.
    pub fn took(&self, met: Met, took: Duration, now: Instant) {
        let mut latency = self.0.latency.get();
        match met {
            Met::Status(status) if !(502..=504).contains(&status) => latency.answered(took, now),
            Met::Status(_) | Met::Failure => latency.failed(took, now),
        }
        self.0.latency.set(latency);
    }

    /// What came of it, which is known later than that where only the end of an answer tells; to be told once.
    pub fn counts(&self, met: Met, board: &Board, now: Instant) -> Option<crate::Ejection> {
        board.met(&self.0.standing, met, now)
    }

    /// For a session that begins.
    pub fn session(&self) -> u64 {
        self.0.hash
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get().saturating_sub(1));
    }
}

impl Tier {
    fn new(seats: Box<[usize]>, all: &[Rc<Seat>], algorithm: Algorithm, before: Option<&Group>, rng: &mut Rng) -> Self {
        let weight = |index: &usize| all[*index].weight;
        let sums = seats
            .iter()
            .scan(0_u64, |sum, index| {
                *sum += u64::from(weight(index));
                Some(*sum)
            })
            .collect();
        let equal = seats.windows(2).all(|pair| weight(&pair[0]) == weight(&pair[1]));
        let hashed = Hashed::of(&seats, all, algorithm, before);
        // Where threads and replicas began together, not all should begin with the same endpoint.
        Self { seats, sums, equal, turn: Cell::new(rng.u32(..)), hashed }
    }

    /// `point` below the sum of all weights.
    fn at(&self, point: u64) -> usize {
        self.seats[self.sums.partition_point(|sum| *sum <= point)]
    }

    fn total(&self) -> u64 {
        self.sums.last().copied().unwrap_or_default()
    }

    fn drawn(&self, rng: &mut Rng) -> usize {
        if self.equal { self.seats[rng.usize(..self.seats.len())] } else { self.at(rng.u64(..self.total())) }
    }

    /// Whoever's turn it is: one after the other, or evenly by weight (steps of the golden ratio).
    fn next(&self) -> usize {
        if self.equal {
            let turn = self.turn.get();
            self.turn.set(turn.wrapping_add(1));
            return self.seats[turn as usize % self.seats.len()];
        }
        let turn = self.turn.get().wrapping_add(0x9E37_79B9);
        self.turn.set(turn);
        let point = (u128::from(turn) * u128::from(self.total())) >> 32;
        self.at(u64::try_from(point).unwrap_or_default())
    }
}

impl Hashed {
    fn of(seats: &[usize], all: &[Rc<Seat>], algorithm: Algorithm, before: Option<&Group>) -> Self {
        let (Algorithm::RingHash(_) | Algorithm::Maglev(_)) = algorithm else { return Self::No };
        let endpoints = || seats.iter().map(|index| (Arc::clone(&all[*index].uid), all[*index].weight)).collect::<Vec<_>>();
        // Most changes of the mesh leave a backend's endpoints as they are.
        let same = |before: &&Group| before.balancing.algorithm == algorithm;
        let same = before.filter(same).and_then(|before| {
            before.tiers.iter().find(|tier| {
                tier.seats.len() == seats.len()
                    && tier.seats.iter().zip(seats).all(|(then, now)| {
                        let (then, now) = (&before.seats[*then], &all[*now]);
                        then.uid == now.uid && then.weight == now.weight
                    })
            })
        });
        match (same.map(|tier| &tier.hashed), algorithm) {
            (Some(Self::Ring(ring)), _) => Self::Ring(Rc::clone(ring)),
            (Some(Self::Maglev(maglev)), _) => Self::Maglev(Rc::clone(maglev)),
            (_, Algorithm::RingHash(size)) => Self::Ring(Rc::new(Ring::new(&endpoints(), size))),
            (_, Algorithm::Maglev(size)) => Self::Maglev(Rc::new(Maglev::new(&endpoints(), size))),
            _ => Self::No,
        }
    }
}

/// One choice, and what it depends on.
struct Choice<'a> {
    group: &'a Group,
    wish: &'a Wish<'a>,
    rng: &'a mut Rng,
    now: Instant,
    /// Of its weight, that a seat has now.
    share: &'a dyn Fn(&Seat) -> f64,
}

impl Choice<'_> {
    fn best(&mut self, usable: &dyn Fn(&Seat) -> bool) -> Option<usize> {
        let group = self.group;
        if let Some(session) = self.wish.session {
            let has = |(_, seat): &(usize, &Rc<Seat>)| seat.hash == session && seat.weight > 0 && usable(seat);
            if let Some((index, _)) = group.seats.iter().enumerate().find(has) {
                return Some(index);
            }
        }
        group.tiers.iter().find_map(|tier| self.among(tier, usable))
    }

    fn among(&mut self, tier: &Tier, usable: &dyn Fn(&Seat) -> bool) -> Option<usize> {
        let seats = &self.group.seats;
        if let [only] = &*tier.seats {
            return Some(*only).filter(|only| usable(&seats[*only]));
        }
        match (self.group.balancing.algorithm, &tier.hashed, self.wish.hash) {
            (_, Hashed::Ring(ring), Some(hash)) => ring.prefers(hash).map(|at| tier.seats[at]).find(|index| usable(&seats[*index])),
            (_, Hashed::Maglev(maglev), Some(hash)) => maglev.prefers(hash).map(|at| tier.seats[at]).find(|index| usable(&seats[*index])),
            (Algorithm::PeakEwma, ..) => {
                self.of_two(tier, usable, |seat, now| seat.latency.get().wait(now) * (f64::from(seat.open.get()) + 1.0))
            }
            (Algorithm::LeastRequest, ..) => self.of_two(tier, usable, |seat, _| f64::from(seat.open.get())),
            (Algorithm::RoundRobin, ..) => self.drawn(tier, usable, |tier, _| tier.next()),
            (Algorithm::Random | Algorithm::RingHash(_) | Algorithm::Maglev(_), ..) => self.drawn(tier, usable, Tier::drawn),
        }
    }

    /// Strictly cheaper per weight, or the first that was drawn: that keeps the shares which the weights ask for while everything is idle.
    fn of_two(&mut self, tier: &Tier, usable: &dyn Fn(&Seat) -> bool, cost: impl Fn(&Seat, Instant) -> f64) -> Option<usize> {
        let first = self.drawn(tier, usable, Tier::drawn)?;
        // The second is another one, so that two are always compared.
        let Some(second) = self.drawn(tier, &|seat| !std::ptr::eq(seat, &raw const *self.group.seats[first]) && usable(seat), Tier::drawn)
        else {
            return Some(first);
        };
        let cost = |index: usize| {
            let seat = &self.group.seats[index];
            cost(seat, self.now) / (f64::from(seat.weight) * (self.share)(seat))
        };
        Some(if cost(second) < cost(first) { second } else { first })
    }

    /// Drawn again while it meets somebody unusable, or, by chance, somebody new: their share of the weight is that of the draws that stand.
    fn drawn(&mut self, tier: &Tier, usable: &dyn Fn(&Seat) -> bool, draw: impl Fn(&Tier, &mut Rng) -> usize) -> Option<usize> {
        let seats = &self.group.seats;
        for _ in 0..DRAWS {
            let index = draw(tier, self.rng);
            if usable(&seats[index]) && self.stands(&seats[index]) {
                return Some(index);
            }
        }
        let weighed = |index: usize| (f64::from(seats[index].weight) * (self.share)(&seats[index])).max(f64::MIN_POSITIVE);
        let left: Vec<usize> = tier.seats.iter().copied().filter(|index| usable(&seats[*index])).collect();
        let total: f64 = left.iter().map(|index| weighed(*index)).sum();
        let mut point = self.rng.f64() * total;
        let found = left.iter().find(|index| {
            point -= weighed(**index);
            point < 0.0
        });
        found.or(left.last()).copied()
    }

    fn stands(&mut self, seat: &Seat) -> bool {
        let share = (self.share)(seat);
        share >= 1.0 || self.rng.f64() < share
    }
}
