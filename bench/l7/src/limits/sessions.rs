//! Sessions stay with their endpoint while servers are restarted, their own included.
use std::time::Duration;

use trackbed_contract::traffic::{BackendPort, SessionPersistence, SessionType};

use super::claim::{Bound, Claims, number};
use super::offer::{ALL, Ask, offer};
use super::servers::{Server, Servers};
use super::waypoint::Waypoint;
use crate::{Failure, rule};

const SERVERS: u16 = 8;
const SESSIONS: usize = 400;
const RATE: f64 = 1500.0;
/// Between two restarts.
const APART: Duration = Duration::from_millis(400);

pub(super) fn run(servers: &Servers, claims: &mut Claims) -> Result<(), Failure> {
    let all: Vec<Server> = (0..SERVERS).map(|number| servers.server(number, Duration::ZERO, None)).collect::<Result<_, _>>()?;
    let mut waypoint = Waypoint::start(&["web"], rule())?;
    waypoint.endpoints((0..).zip(&all));
    let session_persistence =
        Some(SessionPersistence { r#type: SessionType::Header.into(), session_name: "x-session".into(), ..SessionPersistence::default() });
    waypoint.backend(BackendPort { session_persistence, ..BackendPort::default() })?;
    let first = Ask { most: SESSIONS, ..Ask::plain(waypoint.addresses[0], RATE) };
    let (_, begun) = offer(&[first], ALL, Vec::new())?;
    let sessions: Vec<(String, u16)> =
        begun[0].iter().filter_map(|got| Some((format!("X-Session: {}\r\n", got.session.as_ref()?), got.backend?))).collect();
    claims.add("sessions that began", Bound::Within(1.0, 1.0), share(sessions.len(), SESSIONS), "");

    let lines: Vec<String> = sessions.iter().map(|(line, _)| line.clone()).collect();
    let ask = Ask::with(waypoint.addresses[0], RATE, move |number| lines[number % lines.len()].clone());
    let restart = |server: &Server| {
        server.close();
        server.open()
    };
    let events = (1..).zip(&all).map(|(index, server)| (APART * index, Box::new(move || restart(server)) as Box<dyn FnOnce() -> _>));
    let (_, asked) = offer(&[ask], APART * u32::from(SERVERS + 2), events.collect())?;
    let gots = &asked[0];
    let answered = gots.iter().filter(|got| got.status == 200);
    let elsewhere = answered.clone().filter(|got| got.backend != Some(sessions[got.number % sessions.len()].1)).count();
    claims.add("while each server is restarted: answered by another than its own", Bound::Most(0.0), share(elsewhere, gots.len()), "");
    claims.add(
        "  told of another session",
        Bound::Most(0.0),
        share(answered.clone().filter(|got| got.session.is_some()).count(), gots.len()),
        "",
    );
    claims.add("  not answered", Bound::Most(0.01), share(gots.len() - answered.count(), gots.len()), "");
    Ok(())
}

fn share(count: usize, of: usize) -> f64 {
    number(count) / number(of)
}
