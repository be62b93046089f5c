//! Load shedding at five times what a backend of a known capacity can do.
use std::time::Duration;

use trackbed_contract::route::{HttpMatch, NamedText, Text, text};
use trackbed_contract::traffic::load_shedding::Limit;
use trackbed_contract::traffic::{AdaptiveConcurrency, LoadShedding, Priority, RequestScope, Selector};

use super::claim::{Bound, Claims, number};
use super::offer::{Ask, Got, offer, percentile, since};
use super::servers::{Server, Servers};
use super::waypoint::Waypoint;
use crate::{Failure, rule};

const SLOTS: u32 = 20;
const SERVICE: Duration = Duration::from_millis(60);
/// Each second.
const CAPACITY: f64 = SLOTS as f64 / 0.06;
/// Until a limit is found.
const WARM: Duration = Duration::from_secs(8);
const TIME: Duration = Duration::from_secs(20);

fn before(server: &Server, shedding: Option<LoadShedding>) -> Result<Waypoint, Failure> {
    let mut waypoint = Waypoint::start(&["web"], rule())?;
    waypoint.endpoints([(0, server)]);
    if let Some(shedding) = shedding {
        waypoint.scope(RequestScope {
            load_shedding: Some(LoadShedding { name: "bench/shed".into(), ..shedding }),
            ..RequestScope::default()
        })?;
    }
    Ok(waypoint)
}

fn adaptive() -> LoadShedding {
    LoadShedding { limit: Some(Limit::Adaptive(AdaptiveConcurrency::default())), ..LoadShedding::default() }
}

fn low(percent: u32) -> Priority {
    let text = Some(Text { kind: Some(text::Kind::Exact("low".into())) });
    let matches = vec![HttpMatch { headers: vec![NamedText { name: "x-priority".into(), value: text }], ..HttpMatch::default() }];
    Priority { selector: Some(Selector { matches, ..Selector::default() }), limit_percent: percent }
}

fn admitted(gots: &[Got]) -> impl Iterator<Item = Duration> {
    since(gots, WARM).filter(|got| got.status == 200).map(|got| got.took)
}

pub(super) fn run(servers: &Servers, claims: &mut Claims) -> Result<(), Failure> {
    let server = || servers.server(0, SERVICE, Some(SLOTS as usize));
    let own = server()?;
    let calm = before(&own, None)?;
    let time = Duration::from_secs(14);
    let (_, all) = offer(&[Ask::plain(calm.addresses[0], CAPACITY / 2.0)], time, Vec::new())?;
    let half = percentile(admitted(&all[0]), 99);
    claims.add("p99 at half of what the backend can do, nothing shed", Bound::None, half, "ms");

    let fixed = LoadShedding { limit: Some(Limit::MaxParallelRequests(SLOTS)), ..LoadShedding::default() };
    let prioritised = LoadShedding { priorities: vec![low(50)], ..adaptive() };
    let mut places = Vec::new();
    for shedding in [adaptive(), fixed, prioritised] {
        let server = server()?;
        let waypoint = before(&server, Some(shedding))?;
        places.push((server, waypoint));
    }
    let asks = [
        Ask::plain(places[0].1.addresses[0], CAPACITY * 5.0),
        Ask::plain(places[1].1.addresses[0], CAPACITY * 5.0),
        Ask::with(places[2].1.addresses[0], CAPACITY * 4.7, |_| "X-Priority: low\r\n".into()),
        Ask::plain(places[2].1.addresses[0], CAPACITY * 0.3),
    ];
    let states: Vec<_> = places.iter().map(|(server, _)| &server.state).collect();
    // What they did before is not of that time.
    let forget = || {
        for state in &states {
            state.worked();
        }
        Ok(())
    };
    let (_, all) = offer(&asks, TIME, vec![(WARM, Box::new(forget))])?;
    let slots = f64::from(SLOTS) * TIME.saturating_sub(WARM).as_secs_f64();
    for (name, gots, state) in [("adaptive", &all[0], states[0]), ("fixed", &all[1], states[1])] {
        let p99 = percentile(admitted(gots), 99);
        claims.add(format!("{name}, 5 times as much: p99 of what is admitted, of that"), Bound::Most(2.0), p99 / half, "");
        let (busy, idle) = state.worked();
        claims.add("  the backend's slots that worked", Bound::Within(0.9, 1.05), busy.as_secs_f64() / slots, "");
        claims.add("  longest time in which none did", Bound::Most(SERVICE.as_secs_f64() * 1e3), idle.as_secs_f64() * 1e3, "ms");
        let others = since(gots, Duration::ZERO).filter(|got| !matches!(got.status, 200 | 503)).count();
        claims.add("  answered neither 200 nor 503", Bound::Most(0.0), number(others), "");
    }
    let share = |gots: &[Got]| number(admitted(gots).count()) / number(since(gots, WARM).count());
    claims.add("low priority has half: of the others, with 0.3 of the capacity, admitted", Bound::Least(0.99), share(&all[3]), "");
    claims.add("  of the low ones, with 4.7 times the capacity", Bound::None, share(&all[2]), "");
    Ok(())
}
