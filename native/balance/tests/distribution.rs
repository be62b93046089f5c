//! How choices spread: fair when all are equal, by weight when idle, and away from the loaded.
use fastrand::Rng;
use proptest::prelude::*;
use trackbed_balance::{Endpoint, pick};

const IDLE: Endpoint = Endpoint { weight: 1, rank: 0, open: 0, ejected: false };

fn rng() -> Rng {
    let seed = std::env::var("TEST_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    println!("seed: run again with TEST_SEED={seed}");
    Rng::with_seed(seed)
}

/// Picks that never close: the open counts grow.
fn opened(mut endpoints: Vec<Endpoint>, picks: usize, rng: &mut Rng) -> Vec<u32> {
    for _ in 0..picks {
        let index = pick(&endpoints, rng).expect("an endpoint");
        endpoints[index].open += 1;
    }
    endpoints.iter().map(|endpoint| endpoint.open).collect()
}

/// Picks that close at once: everything stays idle.
fn shares(endpoints: &[Endpoint], picks: usize, rng: &mut Rng) -> Vec<f64> {
    let mut counts = vec![0u32; endpoints.len()];
    (0..picks).for_each(|_| counts[pick(endpoints, rng).expect("an endpoint")] += 1);
    let picks = u32::try_from(picks).expect("fits");
    counts.iter().map(|count| f64::from(*count) / f64::from(picks)).collect()
}

#[test]
fn open_streams_stay_level_where_random_choice_would_not() {
    let open = opened(vec![IDLE; 20], 20_000, &mut rng());
    let (least, most) = (open.iter().min().expect("some"), open.iter().max().expect("some"));
    // Random choice alone would spread by about ±100 (three standard deviations of a mean of 1000).
    assert!(most - least <= 20, "{open:?}");
}

#[test]
fn idle_endpoints_share_by_weight() {
    let endpoints = [Endpoint { weight: 1, ..IDLE }, Endpoint { weight: 3, ..IDLE }, Endpoint { weight: 6, ..IDLE }];
    for (share, wanted) in shares(&endpoints, 50_000, &mut rng()).iter().zip([0.1, 0.3, 0.6]) {
        assert!((share - wanted).abs() < 0.015, "{share} instead of {wanted}");
    }
}

#[test]
fn busy_endpoints_share_by_weight() {
    let open = opened(vec![Endpoint { weight: 1, ..IDLE }, Endpoint { weight: 3, ..IDLE }], 4000, &mut rng());
    assert!(open[0].abs_diff(1000) <= 5, "{open:?}");
}

#[test]
fn a_loaded_endpoint_gets_nothing_while_a_lighter_one_is_drawn_beside_it() {
    let endpoints = [Endpoint { open: 100, ..IDLE }, IDLE];
    assert!(shares(&endpoints, 1000, &mut rng())[0] < f64::EPSILON);
}

#[test]
fn the_same_seed_makes_the_same_choices() {
    let endpoints = vec![IDLE; 9];
    assert_eq!(opened(endpoints.clone(), 500, &mut Rng::with_seed(1)), opened(endpoints, 500, &mut Rng::with_seed(1)));
}

#[test]
fn an_ejected_endpoint_is_passed_over_unless_all_are() {
    let (ejected, far) = (Endpoint { ejected: true, ..IDLE }, Endpoint { rank: 1, ..IDLE });
    assert_eq!(pick(&[ejected, far], &mut rng()), Some(1), "the next rank is better than a broken near one");
    assert_eq!(pick(&[ejected, Endpoint { ejected: true, ..far }], &mut rng()), Some(0), "all broken: nearness counts again");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(3000) })]
    #[test]
    fn a_choice_is_always_admissible(
        endpoints in prop::collection::vec((0..3u32, 0..3usize, 0..4u32, any::<bool>()), 0..8),
        seed in any::<u64>(),
    ) {
        let endpoints: Vec<_> = endpoints.into_iter().map(|(weight, rank, open, ejected)| Endpoint { weight, rank, open, ejected }).collect();
        let weighted = || endpoints.iter().filter(|endpoint| endpoint.weight > 0);
        match pick(&endpoints, &mut Rng::with_seed(seed)) {
            None => prop_assert_eq!(weighted().count(), 0),
            Some(index) => {
                let chosen = endpoints[index];
                prop_assert!(chosen.weight > 0);
                prop_assert!(!chosen.ejected || weighted().all(|other| other.ejected));
                let nearest = weighted().filter(|other| other.ejected == chosen.ejected).map(|other| other.rank).min();
                prop_assert_eq!(Some(chosen.rank), nearest);
            }
        }
    }
}

#[test]
fn huge_weights_and_counts_do_not_overflow() {
    let huge = Endpoint { weight: u32::MAX, open: u32::MAX, ..IDLE };
    assert!(pick(&vec![huge; 100], &mut rng()).is_some());
}
