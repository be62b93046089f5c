//! What each algorithm of a waypoint promises: stability of hashes, shares, who is left alone, and who comes back.
#![allow(clippy::unwrap_used, clippy::cast_precision_loss)] // in tests a failed unwrap is the message, and counts are small
use fastrand::Rng;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use trackbed_balance::{
    Algorithm, Balancing, Board, Detection, Group, MAGLEV_SIZE, Member, Met, RING_SIZE, Roster, SlowStart, SuccessRate, Wish, hash, session,
};

fn rng() -> Rng {
    let seed = std::env::var("TEST_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    println!("seed: run again with TEST_SEED={seed}");
    Rng::with_seed(seed)
}

fn member(index: usize) -> Member {
    Member { uid: format!("cluster//Pod/shop/cart-{index}").into(), weight: 1, rank: 0 }
}

fn members(count: usize) -> Vec<Member> {
    (0..count).map(member).collect()
}

struct Lab {
    board: Board,
    rng: Rng,
    now: Instant,
}

impl Lab {
    fn new(detection: Detection) -> Self {
        let now = Instant::now();
        Self { board: Board::new(detection, Roster::new(now)), rng: rng(), now }
    }

    fn group(&mut self, members: &[Member], balancing: Balancing, before: Option<&Group>) -> Group {
        Group::new(members, balancing, &self.board, before, &mut self.rng, self.now)
    }

    fn of(&mut self, members: &[Member], algorithm: Algorithm) -> Group {
        self.group(members, Balancing { algorithm, slow_start: None }, None)
    }

    fn choose(&mut self, group: &Group, wish: &Wish<'_>) -> usize {
        group.choose(wish, &self.board, &mut self.rng, self.now).unwrap()
    }

    /// Of so many choices that end at once.
    fn shares(&mut self, group: &Group, count: usize, choices: usize) -> Vec<f64> {
        let mut counts = vec![0_u32; count];
        (0..choices).for_each(|_| counts[self.choose(group, &Wish::default())] += 1);
        counts.into_iter().map(|count| f64::from(count) / choices as f64).collect()
    }

    fn meet(&mut self, group: &Group, index: usize, met: Met) -> bool {
        let turn = group.begin(index);
        turn.took(met, Duration::from_millis(1), self.now);
        turn.counts(met, &self.board, self.now).is_some()
    }

    fn meets(&mut self, group: &Group, index: usize, met: Met, times: u32) {
        for _ in 0..times {
            self.meet(group, index, met);
        }
    }

    fn later(&mut self, time: Duration) {
        self.now += time;
    }
}

const KEYS: u64 = 100_000;

/// Of the keys whose endpoint is still there, the share that goes elsewhere when one of 100 leaves.
fn moved(algorithm: Algorithm) -> f64 {
    let mut lab = Lab::new(Detection::default());
    let all = members(100);
    let gone = lab.rng.usize(..100);
    let fewer: Vec<_> = all.iter().enumerate().filter(|(index, _)| *index != gone).map(|(_, member)| member.clone()).collect();
    let before = lab.of(&all, algorithm);
    let after = lab.group(&fewer, Balancing { algorithm, slow_start: None }, Some(&before));
    let mut moved = 0;
    for key in 0..KEYS {
        let wish = Wish { hash: Some(hash(&key.to_le_bytes())), ..Wish::default() };
        let (then, now) = (lab.choose(&before, &wish), lab.choose(&after, &wish));
        moved += u32::from(then != gone && all[then] != fewer[now]);
    }
    f64::from(moved) / KEYS as f64
}

#[test]
fn when_one_of_100_leaves_maglev_moves_at_most_two_percent_beyond_its_own() {
    let moved = moved(Algorithm::Maglev(MAGLEV_SIZE));
    println!("{moved}");
    assert!(moved <= 0.02, "{moved}");
}

#[test]
fn when_one_of_100_leaves_a_ring_moves_nothing_beyond_its_own() {
    let moved = moved(Algorithm::RingHash(RING_SIZE));
    assert!(moved <= f64::EPSILON, "{moved}");
}

#[test]
fn a_ring_moves_nothing_beyond_the_necessary_at_any_number() {
    let mut lab = Lab::new(Detection::default());
    for count in [2, 4, 5, 33, 500] {
        let (all, algorithm) = (members(count), Algorithm::RingHash(RING_SIZE));
        let (before, after) = (lab.of(&all, algorithm), lab.of(&all[..count - 1], algorithm));
        let mut moved = 0;
        for key in 0..KEYS / 20 {
            let wish = Wish { hash: Some(hash(&key.to_le_bytes())), ..Wish::default() };
            let (then, now) = (lab.choose(&before, &wish), lab.choose(&after, &wish));
            moved += u32::from(then != count - 1 && then != now);
        }
        assert_eq!(moved, 0, "{count}");
    }
}

#[test]
fn a_hash_goes_to_one_endpoint_whatever_the_order_of_the_list_and_the_thread() {
    for algorithm in [Algorithm::Maglev(MAGLEV_SIZE), Algorithm::RingHash(RING_SIZE)] {
        let (mut one, mut other) = (Lab::new(Detection::default()), Lab::new(Detection::default()));
        let all = members(20);
        let (here, there) = (one.of(&all, algorithm), other.of(&all, algorithm));
        for key in 0..1000_u64 {
            let wish = Wish { hash: Some(hash(&key.to_le_bytes())), ..Wish::default() };
            assert_eq!(one.choose(&here, &wish), other.choose(&there, &wish));
        }
    }
}

#[test]
fn maglev_shares_by_weight() {
    let mut lab = Lab::new(Detection::default());
    let all: Vec<_> = [1, 3, 6].into_iter().zip(members(3)).map(|(weight, member)| Member { weight, ..member }).collect();
    for (algorithm, off) in [(Algorithm::Maglev(MAGLEV_SIZE), 0.01), (Algorithm::RingHash(RING_SIZE), 0.08)] {
        let group = lab.of(&all, algorithm);
        let mut counts = [0_u32; 3];
        (0..KEYS).for_each(|key| counts[lab.choose(&group, &Wish { hash: Some(hash(&key.to_le_bytes())), ..Wish::default() })] += 1);
        for (count, wanted) in counts.into_iter().zip([0.1, 0.3, 0.6]) {
            assert!((f64::from(count) / KEYS as f64 - wanted).abs() < off, "{algorithm:?}: {counts:?}");
        }
    }
}

#[test]
fn whose_endpoint_is_ejected_goes_elsewhere_and_all_others_stay() {
    for algorithm in [Algorithm::Maglev(MAGLEV_SIZE), Algorithm::RingHash(RING_SIZE)] {
        let mut lab = Lab::new(Detection::default());
        let group = lab.of(&members(10), algorithm);
        let wishes: Vec<_> = (0..2000_u64).map(|key| Wish { hash: Some(hash(&key.to_le_bytes())), ..Wish::default() }).collect();
        let before: Vec<_> = wishes.iter().map(|wish| lab.choose(&group, wish)).collect();
        assert!((0..3).map(|_| lab.meet(&group, 4, Met::Failure)).collect::<Vec<_>>() == [false, false, true]);
        let during: Vec<_> = wishes.iter().map(|wish| lab.choose(&group, wish)).collect();
        assert!(during.iter().zip(&before).all(|(now, then)| if *then == 4 { *now != 4 } else { now == then }));
        assert!(
            during.iter().zip(&before).filter(|(_, then)| **then == 4).map(|(now, _)| now).collect::<std::collections::HashSet<_>>().len()
                > 3
        );
        lab.later(Duration::from_secs(6));
        assert_eq!(wishes.iter().map(|wish| lab.choose(&group, wish)).collect::<Vec<_>>(), before, "{algorithm:?}: it has come back");
    }
}

#[test]
fn round_robin_asks_one_after_the_other_and_by_weight_evenly() {
    let mut lab = Lab::new(Detection::default());
    let group = lab.of(&members(5), Algorithm::RoundRobin);
    let first = lab.choose(&group, &Wish::default());
    assert!((1..100).all(|turn| lab.choose(&group, &Wish::default()) == (first + turn) % 5));
    let weighted = [Member { weight: 1, ..member(0) }, Member { weight: 3, ..member(1) }];
    let group = lab.of(&weighted, Algorithm::RoundRobin);
    let shares = lab.shares(&group, 2, 400);
    assert!((shares[0] - 0.25).abs() < 0.01, "{shares:?}");
}

#[test]
fn every_algorithm_shares_by_weight_while_everything_is_idle_and_alike() {
    let all: Vec<_> = [1, 3, 6].into_iter().zip(members(3)).map(|(weight, member)| Member { weight, ..member }).collect();
    for algorithm in [Algorithm::Random, Algorithm::RoundRobin, Algorithm::LeastRequest, Algorithm::Maglev(MAGLEV_SIZE)] {
        let mut lab = Lab::new(Detection::default());
        let group = lab.of(&all, algorithm);
        // Without a hash, Maglev draws by weight too.
        for (share, wanted) in lab.shares(&group, 3, 50_000).iter().zip([0.1, 0.3, 0.6]) {
            assert!((share - wanted).abs() < 0.015, "{algorithm:?}: {share} instead of {wanted}");
        }
    }
}

#[test]
fn least_request_leaves_the_busy_alone() {
    let mut lab = Lab::new(Detection::default());
    let group = lab.of(&members(2), Algorithm::LeastRequest);
    let busy: Vec<_> = (0..5).map(|_| group.begin(0)).collect();
    assert!((0..100).all(|_| lab.choose(&group, &Wish::default()) == 1));
    drop(busy);
    assert!(lab.shares(&group, 2, 1000)[0] > 0.4);
}

#[test]
fn only_the_nearest_rank_that_has_somebody_is_asked() {
    for algorithm in [Algorithm::PeakEwma, Algorithm::RoundRobin, Algorithm::Maglev(MAGLEV_SIZE), Algorithm::RingHash(RING_SIZE)] {
        let mut lab = Lab::new(Detection::default());
        let all = [Member { rank: 2, ..member(0) }, Member { rank: 1, ..member(1) }, Member { rank: 1, weight: 0, ..member(2) }];
        let group = lab.of(&all, algorithm);
        let wish = Wish { hash: Some(7), ..Wish::default() };
        assert!((0..100).all(|_| lab.choose(&group, &wish) == 1));
        lab.meets(&group, 1, Met::Failure, 3);
        assert!((0..100).all(|_| lab.choose(&group, &wish) == 0), "the next rank is better than a broken near one");
        lab.meets(&group, 0, Met::Failure, 3);
        assert!((0..100).all(|_| lab.choose(&group, &wish) == 1), "all broken: nearness counts again");
        let tried = [Arc::clone(&all[1].uid)];
        assert!((0..100).all(|_| lab.choose(&group, &Wish { avoid: &tried, ..wish }) == 0));
    }
}

#[test]
fn nobody_to_ask_is_nobody() {
    let mut lab = Lab::new(Detection::default());
    for all in [vec![], vec![Member { weight: 0, ..member(0) }]] {
        let group = lab.of(&all, Algorithm::PeakEwma);
        assert!(group.is_empty() && group.choose(&Wish::default(), &lab.board, &mut lab.rng, lab.now).is_none());
    }
}

#[test]
fn a_session_goes_to_its_endpoint_while_that_is_there() {
    let mut lab = Lab::new(Detection::default());
    let all = members(10);
    let group = lab.of(&all, Algorithm::PeakEwma);
    let wish = Wish { session: Some(session(&all[7].uid)), ..Wish::default() };
    assert!((0..100).all(|_| lab.choose(&group, &wish) == 7));
    let fewer = lab.group(&all[..7], Balancing::default(), Some(&group));
    assert!((0..100).map(|_| lab.choose(&fewer, &wish)).any(|index| index != 0), "it is gone: anybody");
}

#[test]
fn a_new_endpoint_starts_slowly_and_those_that_were_there_do_not() {
    let slow_start = Some(SlowStart { window: Duration::from_mins(1), aggression: 1.0, least: 0.1 });
    for algorithm in [Algorithm::RoundRobin, Algorithm::Random, Algorithm::LeastRequest] {
        let mut lab = Lab::new(Detection::default());
        let balancing = Balancing { algorithm, slow_start };
        let first = lab.group(&members(3), balancing, None);
        lab.later(Duration::from_secs(5));
        let group = lab.group(&members(4), balancing, Some(&first));
        for (seconds, wanted) in [(0, 0.1 / 3.1), (30, 0.5 / 3.5), (31, 0.25)] {
            lab.later(Duration::from_secs(seconds));
            let share = lab.shares(&group, 4, 40_000)[3];
            assert!((share - wanted).abs() < 0.012, "{algorithm:?}: {share} instead of {wanted} after {seconds} s");
        }
    }
}

/// p99 of 20,000 requests at four endpoints of which one takes 20 times as long; each works on one request at a time.
fn p99(algorithm: Algorithm) -> Duration {
    let mut lab = Lab::new(Detection::default());
    let group = lab.of(&members(4), algorithm);
    let service = [40.0, 2.0, 2.0, 2.0].map(|milliseconds: f64| Duration::from_secs_f64(milliseconds / 1e3));
    let mut free_at = [lab.now; 4];
    let mut under_way = std::collections::BinaryHeap::<std::cmp::Reverse<(Instant, u32, Instant)>>::new();
    let mut turns = HashMap::new();
    let mut latencies = Vec::new();
    for number in 0..20_000_u32 {
        // A hundred a second: the slow one could do 25 of them, which is what round robin gives it.
        let pause = -(1.0 - lab.rng.f64()).ln() / 100.0;
        lab.later(Duration::from_secs_f64(pause));
        while under_way.peek().is_some_and(|std::cmp::Reverse((end, ..))| *end <= lab.now) {
            let std::cmp::Reverse((end, number, begun)) = under_way.pop().unwrap();
            let turn: trackbed_balance::Turn = turns.remove(&number).unwrap();
            turn.took(Met::Status(200), end - begun, end);
            turn.counts(Met::Status(200), &lab.board, end);
        }
        let index = lab.choose(&group, &Wish::default());
        let end = free_at[index].max(lab.now) + service[index];
        free_at[index] = end;
        latencies.push(end - lab.now);
        turns.insert(number, group.begin(index));
        under_way.push(std::cmp::Reverse((end, number, lab.now)));
    }
    latencies.sort_unstable();
    latencies[latencies.len() * 99 / 100]
}

#[test]
fn where_one_endpoint_is_slow_peak_ewma_has_a_lower_p99_than_round_robin() {
    let (ewma, round_robin) = (p99(Algorithm::PeakEwma), p99(Algorithm::RoundRobin));
    println!("p99: peak EWMA {ewma:?}, round robin {round_robin:?}");
    assert!(ewma * 2 < round_robin, "{ewma:?} {round_robin:?}");
}

fn by_status() -> Detection {
    Detection {
        consecutive_5xx: Some(5),
        consecutive_gateway: None,
        consecutive_local: None,
        base: Duration::from_secs(30),
        longest: Duration::from_mins(5),
        max_percent: 50,
        doubling: false,
        ..Detection::default()
    }
}

#[test]
fn five_errors_in_a_row_eject_and_a_good_answer_between_them_does_not() {
    let mut lab = Lab::new(by_status());
    let group = lab.of(&members(4), Algorithm::RoundRobin);
    let bad = Met::Status(500);
    assert!((0..4).all(|_| !lab.meet(&group, 2, bad)));
    assert!(!lab.meet(&group, 2, Met::Status(404)));
    assert!((0..4).all(|_| !lab.meet(&group, 2, bad)));
    assert!(lab.meet(&group, 2, bad));
    assert!(lab.shares(&group, 4, 1000)[2] < f64::EPSILON);
    lab.later(Duration::from_secs(30));
    assert!(lab.shares(&group, 4, 1000)[2] > 0.2, "its time is over");
    lab.meets(&group, 2, bad, 5);
    lab.later(Duration::from_secs(31));
    assert!(lab.shares(&group, 4, 1000)[2] < f64::EPSILON, "the second time lasts twice as long");
    lab.later(Duration::from_secs(30));
    assert!(lab.shares(&group, 4, 1000)[2] > 0.2);
}

#[test]
fn what_was_ejected_is_forgiven_with_time() {
    let mut lab = Lab::new(by_status());
    let group = lab.of(&members(4), Algorithm::RoundRobin);
    let eject = |lab: &mut Lab| lab.meets(&group, 0, Met::Status(503), 5);
    eject(&mut lab);
    lab.later(Duration::from_secs(30));
    for _ in 0..4 {
        lab.later(Duration::from_secs(10));
        assert!(lab.board.look(lab.now).is_empty());
    }
    eject(&mut lab);
    lab.later(Duration::from_secs(31));
    assert!(lab.shares(&group, 4, 1000)[0] > 0.2, "as the first time");
}

#[test]
fn no_more_than_the_share_that_may_be_is_ejected_and_one_always_may() {
    let mut lab = Lab::new(by_status());
    let group = lab.of(&members(10), Algorithm::RoundRobin);
    let ejected: Vec<_> = (0..10).filter(|index| (0..5).any(|_| lab.meet(&group, *index, Met::Status(500)))).collect();
    assert_eq!(ejected, [0, 1, 2, 3, 4]);
    let mut lab = Lab::new(Detection { max_percent: 1, ..by_status() });
    let group = lab.of(&members(3), Algorithm::RoundRobin);
    let ejected: Vec<_> = (0..3).filter(|index| (0..5).any(|_| lab.meet(&group, *index, Met::Status(500)))).collect();
    assert_eq!(ejected, [0]);
}

#[test]
fn gateway_errors_and_those_of_the_connection_have_counts_of_their_own() {
    let detection = Detection { consecutive_5xx: None, consecutive_gateway: Some(3), ..by_status() };
    let mut lab = Lab::new(detection.clone());
    let group = lab.of(&members(4), Algorithm::RoundRobin);
    assert!((0..20).all(|_| !lab.meet(&group, 0, Met::Status(500))), "500 is an answer of the endpoint itself");
    assert_eq!([502, 503, 504].map(|status| lab.meet(&group, 0, Met::Status(status))), [false, false, true]);
    assert_eq!([0; 3].map(|_| lab.meet(&group, 1, Met::Failure)), [false, false, true], "no answer is a gateway error");
    let mut lab = Lab::new(Detection { split: true, consecutive_local: Some(5), ..detection });
    let group = lab.of(&members(4), Algorithm::RoundRobin);
    assert_eq!([0; 5].map(|_| lab.meet(&group, 1, Met::Failure)), [false, false, false, false, true], "unless they are split");
}

#[test]
fn an_endpoint_whose_success_rate_is_far_below_the_others_is_ejected() {
    let rate = SuccessRate { minimum_hosts: 5, request_volume: 100, stdev_factor: 1.9 };
    let mut lab = Lab::new(Detection { consecutive_5xx: None, success_rate: Some(rate), ..by_status() });
    let group = lab.of(&members(10), Algorithm::RoundRobin);
    assert!(lab.board.look(lab.now).is_empty());
    for request in 0..200 {
        for index in 0..10 {
            let bad = if index == 3 { request % 2 == 0 } else { request % 100 == index };
            lab.meet(&group, index, Met::Status(if bad { 500 } else { 200 }));
        }
    }
    assert!(lab.board.look(lab.now + Duration::from_secs(9)).is_empty(), "only at the end of an interval");
    lab.later(Duration::from_secs(10));
    let ejected = lab.board.look(lab.now);
    assert_eq!(ejected.iter().map(|ejection| &*ejection.uid).collect::<Vec<_>>(), ["cluster//Pod/shop/cart-3"]);
    assert!(lab.board.look(lab.now).is_empty());
}

#[test]
fn when_too_many_are_ejected_ejection_does_not_count() {
    let mut lab = Lab::new(Detection { max_percent: 100, panic_percent: 50, ..by_status() });
    let group = lab.of(&members(4), Algorithm::RoundRobin);
    let eject = |lab: &mut Lab, index| lab.meets(&group, index, Met::Status(500), 5);
    eject(&mut lab, 0);
    eject(&mut lab, 1);
    assert!(lab.shares(&group, 4, 1000)[0] < f64::EPSILON, "half of them are left");
    eject(&mut lab, 2);
    assert!(lab.shares(&group, 4, 1000).iter().all(|share| *share > 0.2), "a quarter is not enough");
}

#[test]
fn what_one_thread_meets_the_others_know_and_a_change_of_the_list_forgets_nothing_of_who_stays() {
    let mut lab = Lab::new(by_status());
    let (one, other) = (lab.of(&members(4), Algorithm::RoundRobin), lab.of(&members(4), Algorithm::RoundRobin));
    lab.meets(&one, 2, Met::Status(500), 3);
    lab.meets(&other, 2, Met::Status(500), 2);
    assert!(lab.shares(&one, 4, 1000)[2] < f64::EPSILON);
    let grown = lab.group(&members(6), Balancing { algorithm: Algorithm::RoundRobin, slow_start: None }, Some(&one));
    assert!(lab.shares(&grown, 6, 1000)[2] < f64::EPSILON);
    let board = Board::new(Detection { max_percent: 10, ..by_status() }, Arc::clone(lab.board.roster()));
    lab.board = board;
    assert!(lab.shares(&grown, 6, 1000)[2] < f64::EPSILON, "nor a change of what is looked for");
}
