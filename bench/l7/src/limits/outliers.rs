//! An endpoint of four that fails, each in a way of its own: it leaves within a bound, is asked nothing meanwhile, and returns by and by when it is well.
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use trackbed_contract::route::{HttpRule, Protocol};
use trackbed_contract::traffic::{Algorithm, BackendPort, HealthCheck, LoadBalancer, SlowStart};

use super::claim::{Bound, Claims, number};
use super::offer::{Ask, Got, offer, since};
use super::servers::{Server, Servers};
use super::waypoint::Waypoint;
use crate::{Failure, rule};

const BAD: u16 = 3;
const IN_A_ROW: u32 = 5;
const RATE: f64 = 400.0;
const EJECTION: Duration = Duration::from_secs(3);
/// It is well again before that is over.
const WELL: Duration = Duration::from_millis(1500);
const SLOW_START: Duration = Duration::from_secs(4);
const TIME: Duration = Duration::from_secs(12);
/// What an answer may take. A request that is asked of the slow one meanwhile is known to fail only then.
const LATE: Duration = Duration::from_millis(250);

#[derive(Debug, Clone, Copy, PartialEq)]
enum Fails {
    Status,
    Refuses,
    Slow,
    Grpc,
}

struct Place {
    waypoint: Waypoint,
    servers: Vec<Server>,
}

impl Place {
    fn new(servers: &Servers, fails: Fails) -> Result<Self, Failure> {
        let servers: Vec<Server> = (0..=BAD).map(|number| servers.server(number, Duration::ZERO, None)).collect::<Result<_, _>>()?;
        let bad = &servers[usize::from(BAD)];
        if fails == Fails::Grpc {
            for server in &servers {
                server.speak_grpc(0);
            }
        }
        match fails {
            Fails::Status => bad.state.status.store(500, Relaxed),
            Fails::Refuses => bad.close(),
            Fails::Slow => bad.state.service.store(5_000_000, Relaxed),
            Fails::Grpc => bad.speak_grpc(14),
        }
        let mut rule = HttpRule { backend_timeout_milliseconds: milliseconds(LATE), ..rule() };
        if fails == Fails::Grpc {
            rule.backends.iter_mut().for_each(|backend| backend.protocol = Protocol::Grpc.into());
        }
        let mut waypoint = Waypoint::start(&["web"], rule)?;
        waypoint.endpoints((0..).zip(&servers));
        let load_balancer = Some(LoadBalancer {
            algorithm: Algorithm::RoundRobin.into(),
            slow_start: Some(SlowStart { window_milliseconds: milliseconds(SLOW_START), ..SlowStart::default() }),
            ..LoadBalancer::default()
        });
        let health_check = Some(HealthCheck {
            consecutive_5xx_errors: IN_A_ROW,
            base_ejection_milliseconds: milliseconds(EJECTION),
            max_ejection_percent: 50,
            ..HealthCheck::default()
        });
        waypoint.backend(BackendPort { load_balancer, health_check, ..BackendPort::default() })?;
        Ok(Self { waypoint, servers })
    }

    fn well(&self, fails: Fails) -> Result<(), Failure> {
        let bad = &self.servers[usize::from(BAD)];
        bad.state.status.store(200, Relaxed);
        bad.state.service.store(0, Relaxed);
        bad.state.grpc_status.store(0, Relaxed);
        if fails == Fails::Refuses { bad.open() } else { Ok(()) }
    }
}

fn milliseconds(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}

pub(super) fn run(servers: &Servers, claims: &mut Claims) -> Result<(), Failure> {
    let kinds = [
        (Fails::Status, "answers 500"),
        (Fails::Refuses, "refuses connections"),
        (Fails::Slow, "answers too late"),
        (Fails::Grpc, "says UNAVAILABLE in gRPC's trailers"),
    ];
    let places = kinds.iter().map(|(fails, _)| Place::new(servers, *fails)).collect::<Result<Vec<_>, _>>()?;
    let ask = |place: &Place, fails| {
        let lines = if fails == Fails::Grpc { "Content-Type: application/grpc\r\nTE: trailers\r\nConnection: TE\r\n" } else { "" };
        Ask::with(place.waypoint.addresses[0], RATE, move |_| lines.into())
    };
    let asks: Vec<Ask> = places.iter().zip(kinds).map(|(place, (fails, _))| ask(place, fails)).collect();
    let well = || places.iter().zip(kinds).try_for_each(|(place, (fails, _))| place.well(fails));
    let (start, all) = offer(&asks, TIME, vec![(WELL, Box::new(well))])?;
    for (((fails, name), place), gots) in kinds.iter().zip(&places).zip(&all) {
        let ejections = place.waypoint.ejected(BAD, start);
        let first = ejections.first().map_or(TIME, |(at, _)| *at);
        claims.add(format!("{name}: ejected after"), Bound::Most(500.0), first.as_secs_f64() * 1e3, "ms");
        // It gets a quarter, of which those that came before their first failure was known are none of its fault.
        let unknown = if *fails == Fails::Slow { RATE / 4.0 * LATE.as_secs_f64() * 1.7 } else { 3.0 };
        let failed = gots.iter().filter(|got| is_failure(got)).count();
        claims.add("  requests that failed", Bound::Most(f64::from(IN_A_ROW) + unknown), number(failed), "");
        // Those that were sent just before know of it only later.
        let meanwhile = gots.iter().filter(|got| got.backend == Some(BAD) && (first + LATE..first + EJECTION).contains(&got.sent)).count();
        claims.add("  requests that it got meanwhile", Bound::Most(0.0), number(meanwhile), "");
        let back = first + EJECTION;
        claims.add(
            "  its share in the first fifth of its slow start",
            Bound::Within(0.005, 0.1),
            share(gots, back, back + SLOW_START / 5),
            "",
        );
        claims.add("  its share after that", Bound::Within(0.2, 0.3), share(gots, back + SLOW_START, TIME), "");
        claims.add("  ejections", Bound::Within(1.0, 1.0), number(ejections.len()), "");
    }
    Ok(())
}

fn is_failure(got: &Got) -> bool {
    got.status != 200 || got.grpc_status != 0
}

fn share(gots: &[Got], from: Duration, to: Duration) -> f64 {
    let within = || since(gots, from).filter(|got| got.due < to);
    number(within().filter(|got| got.backend == Some(BAD)).count()) / number(within().count())
}
