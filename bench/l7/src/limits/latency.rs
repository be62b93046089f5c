//! Four endpoints, one of them slow: what clients see of that by either algorithm.
use std::time::Duration;

use trackbed_contract::traffic::{Algorithm, BackendPort, LoadBalancer};

use super::claim::{Bound, Claims, number};
use super::offer::{Ask, offer, percentile, since};
use super::servers::{Server, Servers};
use super::waypoint::Waypoint;
use crate::{Failure, rule};

const WARM: Duration = Duration::from_secs(2);
const TIME: Duration = Duration::from_secs(12);
const FAST: Duration = Duration::from_millis(5);
const SLOW: Duration = Duration::from_millis(100);

pub(super) fn run(servers: &Servers, claims: &mut Claims) -> Result<(), Failure> {
    let mut places = Vec::new();
    for algorithm in [Algorithm::RoundRobin, Algorithm::PeakEwma] {
        let all: Vec<Server> =
            (0..4).map(|number| servers.server(number, if number == 3 { SLOW } else { FAST }, None)).collect::<Result<_, _>>()?;
        let mut waypoint = Waypoint::start(&["web"], rule())?;
        waypoint.endpoints((0..).zip(&all));
        let load_balancer = Some(LoadBalancer { algorithm: algorithm.into(), ..LoadBalancer::default() });
        waypoint.backend(BackendPort { load_balancer, ..BackendPort::default() })?;
        places.push((waypoint, all));
    }
    let asks: Vec<Ask> = places.iter().map(|(waypoint, _)| Ask::plain(waypoint.addresses[0], 300.0)).collect();
    let (_, all) = offer(&asks, TIME, Vec::new())?;
    let p99: Vec<f64> = all.iter().map(|gots| percentile(since(gots, WARM).map(|got| got.took), 99)).collect();
    let slow = |index: usize| since(&all[index], WARM).filter(|got| got.backend == Some(3)).count();
    let share = |index: usize| number(slow(index)) / number(since(&all[index], WARM).count());
    claims.add("one of four takes 100 ms instead of 5: p99 in turn", Bound::Least(67.0), p99[0], "ms");
    claims.add("p99 by peak EWMA", Bound::Most(20.0), p99[1], "ms");
    claims.add("  of p99 in turn", Bound::Most(0.25), p99[1] / p99[0], "");
    claims.add("the slow one's share in turn", Bound::Within(0.24, 0.26), share(0), "");
    claims.add("  by peak EWMA", Bound::Most(0.01), share(1), "");
    Ok(())
}
