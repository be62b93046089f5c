//! Faults on purpose hit the share of the requests that was asked for.
use std::time::Duration;

use trackbed_contract::traffic::{Abort, Delay, FaultInjection, RequestScope, Share, abort};

use super::claim::{Bound, Claims, number};
use super::offer::{ALL, Ask, offer};
use super::servers::Servers;
use super::waypoint::Waypoint;
use crate::{Failure, rule};

const REQUESTS: u32 = 20_000;
const RATE: f64 = 2000.0;
/// Far beyond what anything else takes here, and beyond the pauses of a machine that others use too.
const DELAY: u32 = 400;
/// Of a binomial distribution: beyond that chance comes once in 16,000 runs.
const DEVIATIONS: f64 = 4.0;

pub(super) fn run(servers: &Servers, claims: &mut Claims) -> Result<(), Failure> {
    let (aborted, delayed) = (0.05, 0.02);
    let server = servers.server(0, Duration::ZERO, None)?;
    let mut waypoint = Waypoint::start(&["web"], rule())?;
    waypoint.endpoints([(0, &server)]);
    let fault_injection = Some(FaultInjection {
        abort: Some(Abort { status: Some(abort::Status::HttpStatus(418)), share: Some(Share { numerator: 5, denominator: 100 }) }),
        delay: Some(Delay { fixed_delay_milliseconds: DELAY, share: Some(Share { numerator: 2, denominator: 100 }) }),
    });
    waypoint.scope(RequestScope { fault_injection, ..RequestScope::default() })?;
    let ask = Ask { most: REQUESTS as usize, ..Ask::plain(waypoint.addresses[0], RATE) };
    let (_, all) = offer(&[ask], ALL, Vec::new())?;
    let gots = &all[0];
    let share = |count: usize| number(count) / f64::from(REQUESTS);
    let around = |wanted: f64| {
        let deviation = (wanted * (1.0 - wanted) / f64::from(REQUESTS)).sqrt() * DEVIATIONS;
        Bound::Within(wanted - deviation, wanted + deviation)
    };
    let hit = gots.iter().filter(|got| got.status == 418).count();
    claims.add("abort 5 percent: aborted", around(aborted), share(hit), "");
    let late = gots.iter().filter(|got| got.took >= Duration::from_millis(DELAY.into())).count();
    claims.add("delay 2 percent: delayed", around(delayed), share(late), "");
    claims.add("neither 200 nor aborted", Bound::Most(0.0), share(gots.iter().filter(|got| !matches!(got.status, 200 | 418)).count()), "");
    let reached = usize::try_from(server.state.asked.load(std::sync::atomic::Ordering::Relaxed))?;
    claims.add("reached the backend of what was not aborted", Bound::Within(1.0, 1.0), share(reached) / share(gots.len() - hit), "");
    Ok(())
}
