//! Patterns through tunnels, in every mix of streams with slow readers, half closes and resets, while keys change every 1000 records: each byte
//! that arrives is looked at. 500 MB here; `make long` has ten gigabytes (TRACKBED_TRANSFER_MB).
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)] // in tests a failed unwrap is the message

mod ends;
mod foreign;
mod frozen;
mod ours;
mod plan;
#[path = "../support/mod.rs"]
mod support;

use std::time::Instant;

use plan::{Plan, Progress};

/// Streams at a time in one tunnel.
const MIXES: [usize; 4] = [1, 2, 16, 100];
const MEGABYTE: usize = 1_000_000;
/// Records under one generation of keys.
const REKEY: u64 = 1000;

fn megabytes() -> usize {
    std::env::var("TRACKBED_TRANSFER_MB").map_or(500, |text| text.parse().unwrap())
}

fn seed() -> u64 {
    let seed = std::env::var("TRACKBED_TRANSFER_SEED").map_or_else(|_| fastrand::u64(..), |text| text.parse().unwrap());
    println!("TRACKBED_TRANSFER_SEED={seed}");
    seed
}

/// Runs `mix` for each number of streams, `total` bytes in all, and says how fast it went.
fn mixes<F: Future<Output = u64>>(name: &str, total: usize, mix: impl Fn(Vec<Plan>, std::rc::Rc<Progress>) -> F) {
    trackbed_tls::testing::rekey_after(REKEY);
    let mut random = fastrand::Rng::with_seed(seed());
    let mut all = 0;
    for streams in MIXES {
        let (start, updates) = (Instant::now(), trackbed_tls::testing::updates());
        let plans = plan::mix(streams, total / MIXES.len(), &mut random);
        let progress = std::rc::Rc::new(Progress::new(&plans));
        let mut arrived = 0;
        support::local_within(plan::patience(total), async { arrived = mix(plans, progress).await });
        let updates = trackbed_tls::testing::updates() - updates;
        println!("{name}, {streams} streams: {arrived} bytes checked in {:.1} s, {updates} key updates", start.elapsed().as_secs_f64());
        all += updates;
    }
    // Each way of a tunnel begins to count anew, and a library's own updates are not seen: at least one, of many.
    assert!(all > 0, "keys did not change");
}

#[test]
fn every_byte_arrives_between_two_of_ours_in_every_mix() {
    mixes("ours", megabytes() * MEGABYTE, ours::mix);
}

#[test]
fn every_byte_arrives_while_both_ends_are_frozen_and_thawed_all_the_time() {
    mixes("frozen", megabytes() * MEGABYTE / 2, frozen::mix);
}

#[test]
fn every_byte_arrives_at_a_library_server_and_from_it_in_every_mix() {
    mixes("library server", megabytes() * MEGABYTE / 2, foreign::server);
}

#[test]
fn every_byte_arrives_from_a_library_client_and_at_it_in_every_mix() {
    mixes("library client", megabytes() * MEGABYTE / 2, foreign::client);
}
