//! `trackbed-l7 limits`: whether limits, shedding and balancing keep what they promise, by the clock, at real backends and at real rates. The same claims without a
//! clock are tests of native/l7 and native/balance.
mod claim;
mod faults;
mod hammer;
mod hashes;
mod latency;
mod nginx;
mod offer;
mod outliers;
mod rates;
mod servers;
mod sessions;
mod shedding;
mod waypoint;

use std::time::Instant;

use claim::{Claim, Claims};
use lexopt::{Arg, Parser, ValueExt};
use servers::Servers;

use crate::Failure;

type Scenario = fn(&Servers, &mut Claims) -> Result<(), Failure>;

const SCENARIOS: [(&str, Scenario); 8] = [
    ("rates", rates::exact),
    ("fairness", rates::fair),
    ("shedding", shedding::run),
    ("latency", latency::run),
    ("outliers", outliers::run),
    ("faults", faults::run),
    ("hashes", hashes::run),
    ("sessions", sessions::run),
];

const HELP: &str = "\
usage: trackbed-l7 limits [--only SCENARIO]... [--seed N] [-o table|json]

--only SCENARIO  this one, may be repeated: rates, fairness, shedding, latency, outliers, faults, hashes, sessions
--seed N         of everything that is drawn; printed, and drawn where it is not given
-o table|json    what is printed

Takes some two minutes and two CPUs with nothing else at work on them. Ends with 1 when something wanted is not met.";

/// Whether everything wanted is met.
pub(crate) fn run(words: &[String]) -> Result<bool, Failure> {
    let (mut only, mut seed, mut json): (Vec<String>, _, _) = (Vec::new(), fastrand::u64(..), false);
    let mut parser = Parser::from_args(words);
    while let Some(arg) = parser.next()? {
        match arg {
            Arg::Short('h') | Arg::Long("help") => {
                println!("{HELP}");
                return Ok(true);
            }
            Arg::Long("only") => only.push(parser.value()?.string()?),
            Arg::Long("seed") => seed = parser.value()?.parse()?,
            Arg::Short('o') => {
                json = match parser.value()?.string()?.as_str() {
                    "json" => true,
                    "table" => false,
                    other => return Err(format!("-o {other:?}: table or json").into()),
                }
            }
            other => return Err(other.unexpected().into()),
        }
    }
    if let Some(unknown) = only.iter().find(|only| !SCENARIOS.iter().any(|(name, _)| name == only)) {
        return Err(format!("--only {unknown:?}: one of {}", SCENARIOS.map(|(name, _)| name).join(", ")).into());
    }
    eprintln!("seed {seed}");
    let servers = Servers::start()?;
    let mut all: Vec<Claim> = Vec::new();
    for (name, scenario) in SCENARIOS.iter().filter(|(name, _)| only.is_empty() || only.iter().any(|only| only == name)) {
        fastrand::seed(seed);
        let (begun, mut claims) = (Instant::now(), Claims::of(name));
        scenario(&servers, &mut claims)?;
        if !json {
            claims.all.iter().for_each(|claim| println!("{claim}"));
        }
        eprintln!("{name}: {:.1} s", begun.elapsed().as_secs_f64());
        all.append(&mut claims.all);
    }
    if json {
        println!("{}", serde_json::to_string_pretty(&all)?);
    }
    let missed = all.iter().filter(|claim| !claim.met).count();
    eprintln!("{missed} missed");
    Ok(missed == 0)
}
