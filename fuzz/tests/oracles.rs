//! The oracles hold for the seeds, for what fuzzers found before, and for as many random changes of both as a test has time for.
#![allow(clippy::unwrap_used)] // in tests a failed unwrap is the message

use std::path::Path;

use trackbed_fuzz::seeds::{TARGETS, Target};

/// Inputs that once broke an oracle, each with its mend: `findings/TARGET/`.
fn findings(target: &Target) -> Vec<Vec<u8>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("findings").join(target.name);
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    entries.map(|entry| std::fs::read(entry.unwrap().path()).unwrap()).collect()
}

#[test]
fn oracles_hold_for_the_seeds_and_for_everything_that_was_found_before() {
    for target in &TARGETS {
        let seeds = (target.seeds)();
        assert!(seeds.len() > 3);
        for input in seeds.into_iter().chain(findings(target)) {
            println!("{} {input:x?}", target.name);
            (target.oracle)(&input);
        }
    }
}

#[test]
fn oracles_hold_for_changed_seeds() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    for target in &TARGETS {
        let seeds = (target.seeds)();
        for _ in 0..2000 {
            let mut input = random.choice(&seeds).unwrap().clone();
            for _ in 0..random.usize(1..6) {
                let at = random.usize(..=input.len());
                match random.u8(..4) {
                    0 => input.insert(at, random.u8(..)),
                    1 => drop(input.drain(at..)),
                    2 => input.extend(random.choice(&seeds).unwrap()),
                    _ if at < input.len() => input[at] = random.u8(..),
                    _ => {}
                }
            }
            if let Err(panic) = std::panic::catch_unwind(|| (target.oracle)(&input)) {
                println!("{} {input:x?}", target.name);
                std::panic::resume_unwind(panic);
            }
        }
    }
}
