//! How a waypoint comes into being: whom it believes, who believes it, when it is ready, and whom it lets in.
use std::sync::Arc;

use tokio::net::TcpStream;
use trackbed_contract::engine::{RemovePod, ResourceType, from_engine, to_engine};
use trackbed_contract::istio::workload::TunnelProtocol;
use trackbed_contract::route::Protocol;
use trackbed_hbone::limits::Limits;
use trackbed_hbone::{ConnectRequest, Tunnel, TunnelError};
use trackbed_tls::Certified;

use super::lab::{self, TOKEN, Waypoint, of_waypoint, routes, spec, through_gate};
use crate::director::Authority;
use crate::lab::{Fabric, Pod, of_workload};
use crate::mesh::{Mesh, deny};

fn shop(gate: &Pod) -> Vec<trackbed_contract::engine::Resource> {
    vec![
        of_waypoint(gate),
        through_gate("gate", "10.96.0.9", 15008),
        through_gate("cart", "10.96.0.1", 80),
        through_gate("news", "10.96.0.2", 80),
        routes("cart", 80, Protocol::Http, None),
    ]
}

/// What a client in `from` with this certificate gets for a CONNECT to the waypoint.
fn connect(from: &Pod, certified: &Arc<Certified>, gate: &Pod, authority: &str) -> Result<(), TunnelError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let tasks = tokio::task::LocalSet::new();
    let stream = from.netns.enter(|| std::net::TcpStream::connect((gate.v4.as_str(), 15008))).unwrap().unwrap();
    stream.set_nonblocking(true).unwrap();
    let expected = [trackbed_contract::Identity::parse(&gate.identity()).unwrap()];
    tasks.block_on(&runtime, async {
        let tunnel = Tunnel::connect(TcpStream::from_std(stream).unwrap(), certified, &expected, Limits::default()).await?;
        tunnel.open(&ConnectRequest { authority: authority.to_owned(), ..ConnectRequest::default() }).await.map(drop)
    })
}

#[test]
fn a_waypoint_without_the_right_token_gets_nothing_until_it_shows_another() {
    let Some(fabric) = Fabric::new() else { return };
    let gate = fabric.pod("gate");
    let waypoint = Waypoint::begin(&fabric, &gate, "stale", None);
    waypoint.director.turned_away(2);
    assert_eq!(waypoint.readiness(), 503);
    waypoint.show(TOKEN);
    waypoint.hello();
}

#[test]
fn a_waypoint_does_not_speak_to_whom_its_roots_do_not_vouch_for_until_they_are_replaced() {
    let Some(fabric) = Fabric::new() else { return };
    let gate = fabric.pod("gate");
    let stranger = rcgen::generate_simple_self_signed(["control.test".to_owned()]).unwrap().cert.pem();
    let waypoint = Waypoint::begin(&fabric, &gate, TOKEN, Some(&stranger));
    let log = || std::fs::read_to_string(waypoint.run.join("engine.log")).unwrap_or_default();
    lab::eventually("it is told why", || log().contains("UnknownIssuer") || log().contains("BadSignature"));
    assert_eq!(waypoint.director.count(|_| true), 0, "nothing was said to the stranger");
    waypoint.trust();
    waypoint.hello();
}

#[test]
fn a_waypoint_is_ready_once_it_has_everything_and_not_any_more_when_it_is_let_go() {
    let Some(fabric) = Fabric::new() else { return };
    let gate = fabric.pod("gate");
    let waypoint = Waypoint::begin(&fabric, &gate, TOKEN, None);
    waypoint.hello();
    waypoint.director.certificate_life(None);
    assert_eq!(waypoint.director.state(shop(&gate)), []);
    waypoint.director.add(spec(&gate));
    waypoint.director.pod_state(&gate.uid(), |state| state.listening && state.policy && !state.identity);
    assert_eq!(waypoint.readiness(), 503, "nobody vouches for it");
    waypoint.director.certificate_life(Some(std::time::Duration::from_hours(1)));
    waypoint.director.ready(&gate.uid());
    waypoint.becomes(200);
    // The last state stays in force without its director, and is told to it when it comes back.
    waypoint.director.disconnect();
    waypoint.director.hellos(1);
    let held = waypoint.director.hears("Hello with what is held", |message| match message {
        from_engine::Message::Hello(hello) if !hello.resources.is_empty() => Some(hello.resources.clone()),
        _ => None,
    });
    let routes: Vec<_> = held.iter().filter(|held| held.r#type == i32::from(ResourceType::Routes)).map(|held| &*held.name).collect();
    assert_eq!((held.len(), routes), (5, vec!["shop/cart.shop.svc.cluster.local"]));
    assert_eq!(waypoint.readiness(), 200);
    waypoint.director.send(to_engine::Message::RemovePod(RemovePod { uid: gate.uid(), drain_milliseconds: 1000 }));
    assert_eq!(waypoint.director.gone(&gate.uid()), 0);
    waypoint.becomes(503);
    waypoint.director.add(spec(&gate));
    waypoint.becomes(200);
}

#[test]
fn a_waypoint_listens_on_all_its_addresses_also_on_those_that_it_hears_of_later() {
    let Some(fabric) = Fabric::new() else { return };
    let gate = fabric.pod("gate");
    let waypoint = Waypoint::begin(&fabric, &gate, TOKEN, None);
    waypoint.hello();
    assert_eq!(waypoint.director.state(shop(&gate)), []);
    let mut one = spec(&gate);
    one.addresses.truncate(1);
    waypoint.director.add(one);
    waypoint.becomes(200);
    let listens = |address: &str| crate::net::output(&gate.netns, "ss -Htln sport = :15008").contains(address);
    assert!(listens(&gate.v4) && !listens(&gate.v6));
    waypoint.director.add(spec(&gate));
    lab::eventually("the other address", || listens(&gate.v6));
    assert!(!listens("127.0.0.1:15008") && !listens("0.0.0.0:15008"));
}

#[test]
fn only_services_that_the_waypoint_has_routes_for_are_open_to_members_of_its_trust_domain() {
    let Some(fabric) = Fabric::new() else { return };
    let (gate, web) = (fabric.pod("gate"), fabric.pod("web"));
    let waypoint = Waypoint::start(&fabric, &gate, &shop(&gate));
    let member = fabric.authority.certify(&web.identity());
    let ask = |authority: &str| connect(&web, &member, &gate, authority);
    for served in ["10.96.0.1:80", "cart.shop.svc.cluster.local:80"] {
        assert_eq!(ask(served), Ok(()), "{served}");
    }
    for (authority, status) in [
        ("10.96.0.2:80", 503),
        ("10.96.0.1:81", 503),
        ("news.shop.svc.cluster.local:80", 503),
        ("nobody.example:80", 503),
        ("10.96.0.9:15008", 400),
        ("10.77.0.1:80", 400),
        ("127.0.0.1:15020", 400),
        (&format!("{}:80", web.v4), 400),
    ] {
        assert_eq!(ask(authority), Err(TunnelError::Refused { status }), "{authority}");
    }
    let metrics = waypoint.metrics();
    let cart = |line: &&str| line.contains("destination_service=\"cart.shop.svc.cluster.local\"") && line.contains(&web.identity());
    let opened = metrics.lines().filter(|line| line.starts_with("istio_tcp_connections_opened_total{")).find(cart);
    assert!(opened.is_some_and(|line| line.ends_with("} 2")), "{metrics}");
    let stranger = Authority::new().certify(&web.identity());
    assert!(connect(&web, &stranger, &gate, "10.96.0.1:80").is_err(), "another root");
    let foreigner = fabric.authority.certify("spiffe://elsewhere/ns/shop/sa/web");
    assert!(connect(&web, &foreigner, &gate, "10.96.0.1:80").is_err(), "another trust domain");
    // What was routed until now is not any more.
    let without: Vec<_> = shop(&gate).into_iter().filter(|one| one.r#type != i32::from(ResourceType::Routes)).collect();
    assert_eq!(waypoint.director.state(without), []);
    assert_eq!(ask("10.96.0.1:80"), Err(TunnelError::Refused { status: 503 }));
}

#[test]
fn a_client_that_a_policy_of_the_pods_keeps_out_is_refused_by_the_waypoint() {
    let Some(fabric) = Fabric::new() else { return };
    let (gate, web, cart) = (fabric.pod("gate"), fabric.pod("web"), fabric.pod("cart"));
    let mut resources = shop(&gate);
    resources.push(of_workload(&lab::behind(cart.workload("two", TunnelProtocol::Hbone), "cart", 80)));
    let waypoint = Waypoint::start(&fabric, &gate, &resources);
    let member = fabric.authority.certify(&web.identity());
    assert_eq!(connect(&web, &member, &gate, "10.96.0.1:80"), Ok(()));
    resources.push(deny("keep-web-out", &web.identity()));
    assert_eq!(waypoint.director.state(resources), []);
    assert_eq!(connect(&web, &member, &gate, "10.96.0.1:80"), Err(TunnelError::Refused { status: 401 }));
    let flow = waypoint.director.flow("the refusal", |flow| flow.code == "E_POLICY_DENIED");
    assert_eq!(flow.policy, "shop/keep-web-out");
}

#[test]
fn a_waypoint_needs_no_privilege_and_little_memory() {
    let Some(fabric) = Fabric::new() else { return };
    let gate = fabric.pod("gate");
    let waypoint = Waypoint::start(&fabric, &gate, &shop(&gate));
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(u64::from_str_radix(&waypoint.status(set), 16), Ok(0), "{set}");
    }
    assert!(waypoint.status("Uid").starts_with("65534"));
    println!("resident: {}", waypoint.status("VmRSS"));
    // What it allocated: how much of the program itself is resident depends on how that was built.
    let own: u64 = waypoint.status("RssAnon").trim_end_matches(" kB").parse().unwrap();
    assert!(own < 8_000, "{own} kB");
}

#[test]
fn a_waypoint_that_is_told_to_stop_says_so_before_it_goes() {
    let Some(fabric) = Fabric::new() else { return };
    let gate = fabric.pod("gate");
    let mut waypoint = Waypoint::start(&fabric, &gate, &shop(&gate));
    waypoint.terminate();
    waypoint.becomes(503);
    assert!(waypoint.ends().success());
}

#[test]
fn routes_that_cannot_be_read_are_rejected_and_those_before_stay() {
    let Some(fabric) = Fabric::new() else { return };
    let (gate, web) = (fabric.pod("gate"), fabric.pod("web"));
    let waypoint = Waypoint::start(&fabric, &gate, &shop(&gate));
    let mut resources = shop(&gate);
    let broken = resources.last_mut().unwrap();
    (broken.body, broken.version) = (vec![0xff], "broken".into());
    let rejected = waypoint.director.state(resources);
    let [one] = &rejected[..] else { panic!("{rejected:?}") };
    assert_eq!((one.r#type, &*one.code, &*one.version), (i32::from(ResourceType::Routes), "E_SOURCE_INVALID", "broken"));
    assert_eq!(connect(&web, &fabric.authority.certify(&web.identity()), &gate, "10.96.0.1:80"), Ok(()));
}

#[test]
fn a_nodes_engine_is_no_waypoint() {
    let Some(mesh) = Mesh::new() else { return };
    let director = &mesh.one.director;
    director.add(lab::spec(&mesh.api));
    let state = director.pod_state(&mesh.api.uid(), |state| !state.code.is_empty());
    assert_eq!((&*state.code, state.listening), ("E_SOURCE_INVALID", false));
    let rejected = director.state(vec![routes("cart", 80, Protocol::Http, None)]);
    let [one] = &rejected[..] else { panic!("{rejected:?}") };
    assert_eq!((one.r#type, &*one.code), (i32::from(ResourceType::Routes), "E_SOURCE_UNSUPPORTED"));
}
