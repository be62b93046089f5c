//! A hundred real endpoints, one of which leaves and comes back: whose clients move, beside its own.
use std::collections::HashMap;
use std::time::Duration;

use trackbed_contract::traffic::{Algorithm, BackendPort, HashKey, LoadBalancer, hash_key};

use super::claim::{Bound, Claims, number};
use super::offer::{ALL, Ask, offer};
use super::servers::{Server, Servers};
use super::waypoint::Waypoint;
use crate::{Failure, rule};

const SERVERS: u16 = 100;
const LEAVES: u16 = 37;
const KEYS: usize = 8000;
const RATE: f64 = 4000.0;

pub(super) fn run(servers: &Servers, claims: &mut Claims) -> Result<(), Failure> {
    let all: Vec<Server> = (0..SERVERS).map(|number| servers.server(number, Duration::ZERO, None)).collect::<Result<_, _>>()?;
    for (algorithm, name, most) in [(Algorithm::Maglev, "Maglev", 0.02), (Algorithm::RingHash, "ring hash", 0.05)] {
        let mut waypoint = Waypoint::start(&["web"], rule())?;
        waypoint.endpoints((0..).zip(&all));
        let hash = vec![HashKey { kind: Some(hash_key::Kind::Header("x-user".into())) }];
        let load_balancer = Some(LoadBalancer { algorithm: algorithm.into(), hash, ..LoadBalancer::default() });
        waypoint.backend(BackendPort { load_balancer, ..BackendPort::default() })?;
        let before = places(&waypoint)?;
        waypoint.endpoints((0..).zip(&all).filter(|(number, _)| *number != LEAVES));
        let without = places(&waypoint)?;
        waypoint.endpoints((0..).zip(&all));
        let after = places(&waypoint)?;
        let users = || before.iter().zip(&without).zip(&after).map(|((before, without), after)| (*before, *without, *after));
        let own = users().filter(|(before, ..)| *before == Some(LEAVES)).count();
        claims.add(format!("{name}: clients of the one that leaves, of all"), Bound::Within(0.005, 0.02), share(own), "");
        let moved = users().filter(|(before, without, _)| *before != Some(LEAVES) && before != without).count();
        claims.add("  moved beside those", Bound::Most(most), share(moved), "");
        let still = users().filter(|(_, without, _)| *without == Some(LEAVES)).count();
        claims.add("  went to it though it has left, or nowhere", Bound::Most(0.0), share(still + nowhere(&without)), "");
        let elsewhere = users().filter(|(before, _, after)| before != after).count();
        claims.add("  elsewhere than at first when it is back", Bound::Most(0.0), share(elsewhere), "");
        let mut counts: HashMap<u16, usize> = HashMap::new();
        before.iter().flatten().for_each(|number| *counts.entry(*number).or_default() += 1);
        let fullest = counts.values().copied().max().unwrap_or_default();
        claims.add("  the fullest one's share, times the even one", Bound::Most(2.0), share(fullest) * f64::from(SERVERS), "");
    }
    Ok(())
}

/// Where each user is sent.
fn places(waypoint: &Waypoint) -> Result<Vec<Option<u16>>, Failure> {
    let lines = |number| format!("X-User: user-{number}\r\n");
    let ask = Ask { most: KEYS, ..Ask::with(waypoint.addresses[0], RATE, lines) };
    let (_, all) = offer(&[ask], ALL, Vec::new())?;
    Ok(all[0].iter().map(|got| got.backend.filter(|_| got.status == 200)).collect())
}

fn nowhere(places: &[Option<u16>]) -> usize {
    places.iter().filter(|place| place.is_none()).count()
}

fn share(count: usize) -> f64 {
    number(count) / number(KEYS)
}
