//! Rate limits: what is admitted over a time, whatever is asked, and how identities share it.
use std::time::Duration;

use trackbed_contract::traffic::{RateLimit, RequestScope};

use super::claim::{Bound, Claims, number};
use super::hammer::hammer;
use super::nginx::Nginx;
use super::offer::{Ask, Got, offer, percentile};
use super::servers::Servers;
use super::waypoint::Waypoint;
use crate::{Failure, rule};

/// Until what may be had at once is used up, and demands are known.
const WARM: Duration = Duration::from_secs(3);

const MOST: u32 = 20_000;

/// That is shared.
const LIMIT: u32 = 500;

/// A waypoint before nginx.
fn limited(nginx: &Nginx, accounts: &[&str], limit: RateLimit) -> Result<Waypoint, Failure> {
    let mut waypoint = Waypoint::start(accounts, rule())?;
    waypoint.addresses_of([(0, nginx.address)]);
    let limit = RateLimit { name: "bench/limit/0".into(), interval_milliseconds: 1000, ..limit };
    waypoint.scope(RequestScope { rate_limits: vec![limit], ..RequestScope::default() })?;
    Ok(waypoint)
}

/// Those of the time after WARM: admitted each second, and how late their asking was.
fn admitted(gots: &[Got], time: Duration) -> f64 {
    let count = gots.iter().filter(|got| got.status == 200 && (WARM..time).contains(&got.sent)).count();
    number(count) / time.saturating_sub(WARM).as_secs_f64()
}

/// What else became of them than the two answers that there may be.
fn others(gots: &[Got]) -> f64 {
    number(gots.iter().filter(|got| !matches!(got.status, 200 | 429)).count())
}

pub(super) fn exact(_: &Servers, claims: &mut Claims) -> Result<(), Failure> {
    let nginx = Nginx::start()?;
    // Together what does not ask for much. 2 % of 10 a second are one request in five seconds; asked 1.5 times as much
    // by chance, five tokens would overflow one time in forty, and what nobody asks for cannot be admitted.
    let rounds: [(u64, &[(u32, f64)]); 2] = [(15, &[(10, 2.0), (10, 100.0), (1000, 1.5)]), (7, &[(1000, 15.0)])];
    for (seconds, limits) in rounds {
        let time = Duration::from_secs(seconds);
        let (mut waypoints, mut asks) = (Vec::new(), Vec::new());
        for (requests, times) in limits {
            // Half a second of them at once: less would be lost when the whole machine stands still for a moment.
            let waypoint =
                limited(&nginx, &["web"], RateLimit { requests: *requests, burst: (*requests / 2).max(2), ..RateLimit::default() })?;
            asks.push(Ask::plain(waypoint.addresses[0], f64::from(*requests) * times));
            waypoints.push(waypoint);
        }
        let (_, all) = offer(&asks, time, Vec::new())?;
        for ((requests, times), gots) in limits.iter().zip(&all) {
            let share = admitted(gots, time) / f64::from(*requests);
            claims.add(
                format!("{requests} a second, asked {times} times as much: admitted, of the limit"),
                Bound::Within(0.98, 1.02),
                share,
                "",
            );
            claims.add("  answered neither 200 nor 429", Bound::Most(0.0), others(gots), "");
            let late = percentile(gots.iter().map(|got| got.sent.saturating_sub(got.due)), 99);
            claims.add("  the load generator's own lateness, p99", Bound::None, late, "ms");
        }
    }
    most(&nginx, claims)
}

/// As much as two CPUs can ask that client, data threads and nginx share.
fn most(nginx: &Nginx, claims: &mut Claims) -> Result<(), Failure> {
    let waypoint = limited(nginx, &["web"], RateLimit { requests: MOST, burst: MOST / 2, ..RateLimit::default() })?;
    let time = Duration::from_secs(9);
    let answers = hammer(waypoint.addresses[0], WARM, time)?;
    let limit = f64::from(MOST) * time.saturating_sub(WARM).as_secs_f64();
    let admitted = answers.admitted.get();
    claims.add(
        format!("{MOST} a second, asked by connections that ask again at once: admitted, of the limit"),
        Bound::Within(0.98, 1.02),
        number(admitted) / limit,
        "",
    );
    // Less than the limit asks nothing of it.
    claims.add("  asked, of the limit", Bound::Least(1.1), number(admitted + answers.refused.get()) / limit, "");
    claims.add("  answered neither 200 nor 429", Bound::Most(0.0), number(answers.others.get()), "");
    Ok(())
}

pub(super) fn fair(_: &Servers, claims: &mut Claims) -> Result<(), Failure> {
    let nginx = Nginx::start()?;
    let time = Duration::from_secs(9);
    let fair = || limited(&nginx, &["modest", "greedy"], RateLimit { requests: LIMIT, fair: true, ..RateLimit::default() });
    let (both, one) = (fair()?, fair()?);
    let asks = [
        // Both want more than half.
        Ask::plain(both.addresses[0], 400.0),
        Ask::plain(both.addresses[1], 4000.0),
        // One leaves something.
        Ask::plain(one.addresses[0], 100.0),
        Ask::plain(one.addresses[1], 1000.0),
    ];
    let (_, all) = offer(&asks, time, Vec::new())?;
    let shares: Vec<f64> = all.iter().map(|gots| admitted(gots, time) / f64::from(LIMIT)).collect();
    claims.add("400 and 4000 asked of 500: the modest one's share", Bound::Within(0.475, 0.525), shares[0], "");
    claims.add("the greedy one's", Bound::Within(0.475, 0.525), shares[1], "");
    claims.add("both together, of the limit", Bound::Within(0.98, 1.02), shares[0] + shares[1], "");
    let asked = all[2].iter().filter(|got| (WARM..time).contains(&got.sent)).count();
    let asked = number(asked) / time.saturating_sub(WARM).as_secs_f64() / f64::from(LIMIT);
    claims.add("100 and 1000 asked of 500: the modest one's, of what it asked", Bound::Within(0.95, 1.0), shares[2] / asked, "");
    claims.add("the greedy one's, of what is left", Bound::Within(0.95, 1.05), shares[3] / (1.0 - shares[2]), "");
    claims.add("answered neither 200 nor 429", Bound::Most(0.0), all.iter().map(|gots| others(gots)).sum(), "");
    Ok(())
}
