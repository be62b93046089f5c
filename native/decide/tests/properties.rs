//! What holds of every world and every decision, over random sequences of deltas on few names and few addresses.
#![allow(clippy::unwrap_used)] // a test that cannot set up its case should panic

mod mesh;

use std::cell::Cell;
use std::collections::BTreeMap;

use mesh::{code, decide, identity, ip, local, of_policy, of_service, of_workload, policy, principal, service, serving};
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use trackbed_contract::engine::{Resource, StateDelta};
use trackbed_contract::istio::security::{Action, Authorization, Rule};
use trackbed_contract::istio::workload as wire;
use trackbed_decide::{
    Addressed, LocalPod, Outbound, Protocol, World, candidates, inbound_plain, inbound_waypoint, recheck_inbound, recheck_outbound,
    recheck_waypoint, relay_inbound,
};

const NAMES: [&str; 4] = ["a", "b", "c", "d"];
const ADDRESSES: [&str; 5] = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "fd00::1", "fd00::2"];
const VIPS: [&str; 4] = ["10.96.0.1", "10.96.0.0/30", "10.0.0.0/24", "fd00::1"];
const TARGETS: [&str; 8] = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "[fd00::1]", "[fd00::2]", "10.96.0.1", "10.96.0.2", "192.0.2.1"];
const PRINCIPAL: &str = "cluster.local/ns/shop/sa/";

fn workload() -> impl Strategy<Value = wire::Workload> {
    let shape = (select(&NAMES[..]), select(vec!["n1", "n2"]), prop::collection::vec(select(&ADDRESSES[..]), 0..3), select(&NAMES[..]));
    let kind = (select(vec![0, 1, 1, 1, 2]), prop::bool::weighted(0.2), prop::bool::weighted(0.2), prop::bool::weighted(0.1));
    let bound = (prop::collection::vec(select(&NAMES[..]), 0..2), prop::collection::vec(select(&NAMES[..]), 0..3));
    (shape, kind, bound).prop_map(|((name, node, addresses, account), (protocol, sick, host, far), (policies, services))| {
        let mut workload = mesh::pod(name, node, &addresses);
        account.clone_into(&mut workload.service_account);
        workload.tunnel_protocol = protocol;
        workload.status = i32::from(sick);
        workload.network_mode = i32::from(host);
        if far { "far" } else { "" }.clone_into(&mut workload.network);
        workload.authorization_policies = policies.iter().map(|name| format!("shop/{name}")).collect();
        services.iter().fold(workload, |workload, name| serving(workload, name, &[(80, 8080), (81, 0)]))
    })
}

fn a_service() -> impl Strategy<Value = wire::Service> {
    (select(&NAMES[..]), prop::collection::vec(select(&VIPS[..]), 0..3), 0..4i32, any::<bool>()).prop_map(|(name, vips, mode, all)| {
        let load_balancing = Some(wire::LoadBalancing { mode, routing_preference: Vec::new(), health_policy: i32::from(all) });
        wire::Service { load_balancing, ..service(name, &vips, &[(80, 8080), (81, 0)]) }
    })
}

fn a_policy() -> impl Strategy<Value = Authorization> {
    let rules = prop_oneof![
        3 => select(&NAMES[..]).prop_map(|name| vec![principal(&format!("{PRINCIPAL}{name}"))]),
        1 => Just(vec![Rule::default()]),
        1 => Just(Vec::new()),
    ];
    // Scope 3 does not exist: such a policy is rejected.
    (select(&NAMES[..]), 0..4i32, select(vec![Action::Allow, Action::Deny]), rules, prop::bool::weighted(0.1))
        .prop_map(|(name, scope, action, rules, dry_run)| Authorization { scope, dry_run, ..policy(name, action, rules) })
}

#[derive(Debug, Clone)]
enum Step {
    Put(Resource),
    Remove(Resource),
}

fn step() -> impl Strategy<Value = Step> {
    let resource = prop_oneof![
        6 => workload().prop_map(|one| of_workload(&one)),
        2 => a_service().prop_map(|one| of_service(&one)),
        2 => a_policy().prop_map(|one| of_policy(&one)),
    ];
    (resource, prop::bool::weighted(0.75)).prop_map(|(resource, put)| if put { Step::Put(resource) } else { Step::Remove(resource) })
}

/// Deltas: some steps each, sometimes a reset.
fn deltas() -> impl Strategy<Value = Vec<(bool, Vec<Step>)>> {
    prop::collection::vec((prop::bool::weighted(0.1), prop::collection::vec(step(), 1..12)), 1..8)
}

/// One delta's steps as the wire has them: one entry per resource, removals apart.
fn delta(generation: u64, reset: bool, steps: &[Step]) -> StateDelta {
    let last: BTreeMap<(i32, String), &Step> = steps
        .iter()
        .map(|step| match step {
            Step::Put(resource) | Step::Remove(resource) => ((resource.r#type, resource.name.clone()), step),
        })
        .collect();
    let mut delta = StateDelta { generation, reset, ..StateDelta::default() };
    for step in last.into_values() {
        match step {
            Step::Put(resource) => delta.upsert.push(resource.clone()),
            Step::Remove(resource) => delta.remove.push(mesh::removal(resource)),
        }
    }
    delta
}

/// The world after the deltas, every world on the way, and the resources that remain.
fn run(deltas: &[(bool, Vec<Step>)]) -> (Vec<World>, Vec<Resource>) {
    let mut worlds = vec![World::new(mesh::settings())];
    let mut left = BTreeMap::new();
    for (index, (reset, steps)) in deltas.iter().enumerate() {
        let delta = delta(index as u64 + 1, *reset, steps);
        if *reset {
            left.clear();
        }
        delta.remove.iter().for_each(|key| drop(left.remove(&(key.r#type, key.name.clone()))));
        delta.upsert.iter().for_each(|one| drop(left.insert((one.r#type, one.name.clone()), one.clone())));
        let next = worlds.last().unwrap().apply(&delta).0;
        worlds.push(next);
    }
    (worlds, left.into_values().collect())
}

fn pods() -> Vec<LocalPod> {
    NAMES
        .iter()
        .flat_map(|name| NAMES.iter().map(|account| LocalPod { service_account: (*account).into(), ..local(name, &ADDRESSES) }))
        .collect()
}

fn check(cases: u32, test: impl Fn(Vec<(bool, Vec<Step>)>) -> Result<(), TestCaseError>) {
    let seed = std::env::var("TEST_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    println!("seed: run again with TEST_SEED={seed}");
    let bytes: Vec<u8> = seed.to_le_bytes().iter().copied().cycle().take(32).collect();
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes)).run(&deltas(), test).unwrap();
}

#[test]
fn a_world_of_many_deltas_equals_one_built_from_what_is_left() {
    check(1500, |deltas| {
        let (worlds, left) = run(&deltas);
        let reached = worlds.last().unwrap();
        let generation = reached.generation();
        let scratch = World::new(mesh::settings()).apply(&StateDelta { generation, reset: true, upsert: left, remove: Vec::new() }).0;
        prop_assert!(*reached == scratch, "{reached:#?}\n{scratch:#?}");
        prop_assert!(reached.with_settings(mesh::settings()) == scratch, "the same settings change nothing");
        Ok(())
    });
}

/// Mutual TLS to whoever was promised it, and to nobody else than that.
fn keeps_the_promise(world: &World, decided: &Outbound) -> Result<(), TestCaseError> {
    match decided {
        Outbound::Plain(plain) => {
            let meshed = world.workloads_at(plain.address.ip()).iter().any(|one| one.protocol != Protocol::Plain);
            prop_assert!(!meshed, "{decided:?}");
            prop_assert!(plain.endpoint.as_ref().is_none_or(|one| one.protocol == Protocol::Plain));
        }
        Outbound::Tunnel(tunnel) | Outbound::Relay(trackbed_decide::Relay { tunnel, .. }) => {
            prop_assert_eq!(tunnel.endpoint.protocol, Protocol::Hbone);
            prop_assert!(tunnel.accept.contains(&tunnel.endpoint.identity));
            prop_assert!(tunnel.endpoint.addresses.contains(&tunnel.dial.ip()));
            prop_assert_eq!(tunnel.dial.port(), 15008);
        }
        Outbound::Refuse(_) => {}
    }
    Ok(())
}

#[test]
fn a_waypoint_serves_what_it_has_routes_for_and_keeps_every_promise_behind_it() {
    let seen = Cell::new([0u32; 4]);
    let count = |index: usize| {
        let mut counts = seen.get();
        counts[index] += 1;
        seen.set(counts);
    };
    check(1500, |deltas| {
        let (worlds, _) = run(&deltas);
        let world = worlds.last().unwrap();
        let keys = NAMES.map(|name| format!("shop/{name}.shop.svc.cluster.local"));
        for pod in pods().iter().filter(|pod| world.local(pod).is_ok()) {
            for target in TARGETS {
                for port in [80, 82] {
                    match inbound_waypoint(world, pod, &identity("a"), ip("10.0.0.1"), &format!("{target}:{port}"), |name| name != keys[3])
                    {
                        Ok(served) => {
                            count(0);
                            match &served.addressed {
                                Addressed::Service(service) => {
                                    prop_assert!(*service.key != *keys[3] && service.ports.contains_key(&port));
                                    prop_assert_eq!(service.addresses.is_empty(), false);
                                }
                                Addressed::Pod(pod, ip) => prop_assert!(pod.waypoint.is_some() && pod.addresses.contains(ip)),
                            }
                            let again = recheck_waypoint(world, pod, &served);
                            prop_assert!(again.is_ok(), "{again:?}");
                        }
                        Err(refusal) => {
                            count(1);
                            prop_assert!(matches!(refusal.status.code(), 400 | 401 | 503), "{refusal}");
                        }
                    }
                }
            }
            for key in &keys {
                let Ok(candidates) = candidates(world, pod, key, 80) else {
                    count(3);
                    continue;
                };
                for index in 0..candidates.members().len() {
                    let decided = candidates.reach(world, index);
                    count(if matches!(decided, Outbound::Refuse(_)) { 3 } else { 2 });
                    keeps_the_promise(world, &decided)?;
                    if let Outbound::Tunnel(tunnel) | Outbound::Relay(trackbed_decide::Relay { tunnel, .. }) = &decided {
                        prop_assert!(tunnel.endpoint.services.contains_key(&**key), "{decided:?}");
                    }
                }
            }
        }
        Ok(())
    });
    println!("served, not served, sent, not sent: {:?}", seen.get());
    assert!(seen.get().iter().all(|count| *count > 300), "a kind of decision was hardly reached: {:?}", seen.get());
}

#[test]
fn no_decision_sends_plaintext_to_an_address_that_has_hbone() {
    let seen = Cell::new([0u32; 4]);
    check(1500, |deltas| {
        let (worlds, _) = run(&deltas);
        let world = worlds.last().unwrap();
        for pod in pods().iter().filter(|pod| world.local(pod).is_ok()) {
            for target in TARGETS {
                for port in [80, 81, 9000] {
                    let decided = decide(world, pod, &format!("{target}:{port}"));
                    let mut counts = seen.get();
                    counts[["relay", "tunnel", "plain"].iter().position(|kind| *kind == code(&decided)).unwrap_or(3)] += 1;
                    seen.set(counts);
                    keeps_the_promise(world, &decided)?;
                }
            }
        }
        Ok(())
    });
    println!("relay, tunnel, plain, refused: {:?}", seen.get());
    assert!(seen.get().iter().all(|count| *count > 300), "a kind of decision was hardly reached: {:?}", seen.get());
}

#[test]
fn rechecks_agree_with_fresh_decisions() {
    let seen = Cell::new([0u32; 2]);
    check(1500, |deltas| {
        let (worlds, _) = run(&deltas);
        for (before, after) in worlds.iter().zip(&worlds[1..]) {
            for pod in pods() {
                for source in [None, Some(identity("a")), Some(identity("b"))] {
                    for target in ["10.0.0.1:80", "[fd00::1]:80"].map(mesh::at) {
                        let ask = |world: &World| match &source {
                            Some(source) => relay_inbound(world, &pod, source, ip("10.0.0.9"), target),
                            None => inbound_plain(world, &pod, ip("10.0.0.9"), target),
                        };
                        let Ok(live) = ask(before) else { continue };
                        let (fresh, again) = (ask(after), recheck_inbound(after, &pod, &live));
                        let same = fresh.as_ref().is_ok_and(|fresh| {
                            fresh.workload.uid == live.workload.uid && fresh.workload.identity == live.workload.identity
                        });
                        let mut counts = seen.get();
                        counts[usize::from(again.is_err())] += 1;
                        seen.set(counts);
                        match (fresh, again) {
                            (Ok(fresh), Ok(again)) => prop_assert_eq!(fresh, again),
                            (Err(fresh), Err(again)) => prop_assert_eq!(fresh, again),
                            (Ok(_), Err(again)) => prop_assert!(!same, "cut without a reason: {again}"),
                            (Err(fresh), Ok(_)) => prop_assert!(false, "goes on although refused: {fresh}"),
                        }
                    }
                }
            }
        }
        Ok(())
    });
    println!("kept, cut: {:?}", seen.get());
    assert!(seen.get().iter().all(|count| *count > 100), "{:?}", seen.get());
}

#[test]
fn an_address_that_moved_never_yields_the_identity_it_had() {
    check(800, |deltas| {
        let (worlds, _) = run(&deltas);
        for (before, after) in worlds.iter().zip(&worlds[1..]) {
            for pod in pods() {
                // By address alone: services choose by uid.
                for target in ["10.0.0.1", "10.0.0.2", "[fd00::2]"] {
                    let live = decide(before, &pod, &format!("{target}:9000"));
                    let now = decide(after, &pod, &format!("{target}:9000"));
                    let holders = after.workloads_at(target.trim_matches(['[', ']']).parse().unwrap());
                    if let Outbound::Tunnel(tunnel) | Outbound::Relay(trackbed_decide::Relay { tunnel, .. }) = &now {
                        let meshed = holders.iter().filter(|one| one.protocol == Protocol::Hbone);
                        for accepted in &tunnel.accept {
                            prop_assert!(meshed.clone().all(|holder| holder.identity == *accepted), "{now:?}");
                        }
                    }
                    if let Outbound::Tunnel(tunnel) | Outbound::Relay(trackbed_decide::Relay { tunnel, .. }) = &live {
                        let still = after
                            .workload(&tunnel.endpoint.uid)
                            .is_some_and(|one| one.identity == tunnel.endpoint.identity && one.addresses.contains(&tunnel.dial.ip()));
                        prop_assert!(still || recheck_outbound(after, &pod, &tunnel.standing()).is_err(), "{live:?} goes on");
                    }
                }
            }
        }
        Ok(())
    });
}

#[test]
fn deltas_that_are_doubled_or_split_lead_to_the_same_world() {
    check(500, |deltas| {
        let (worlds, _) = run(&deltas);
        let mut split = World::new(mesh::settings());
        for (index, (reset, steps)) in deltas.iter().enumerate() {
            let whole = delta(index as u64 + 1, *reset, steps);
            if *reset {
                split = split.apply(&StateDelta { generation: whole.generation, reset: true, ..StateDelta::default() }).0;
            }
            for key in &whole.remove {
                split = split.apply(&StateDelta { generation: whole.generation, remove: vec![key.clone()], ..StateDelta::default() }).0;
            }
            for resource in whole.upsert.iter().rev().chain(&whole.upsert) {
                split =
                    split.apply(&StateDelta { generation: whole.generation, upsert: vec![resource.clone()], ..StateDelta::default() }).0;
            }
        }
        prop_assert!(*worlds.last().unwrap() == split);
        Ok(())
    });
}

#[test]
fn garbage_is_rejected_and_never_panics() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let good = of_workload(&serving(mesh::pod("a", "n1", &["10.0.0.1"]), "a", &[(80, 8080)])).body;
    let mut world = World::new(mesh::settings());
    for round in 0..20_000 {
        let mut body = good.clone();
        for _ in 0..rng.usize(1..6) {
            let index = rng.usize(..body.len());
            body[index] = rng.u8(..);
        }
        body.truncate(rng.usize(1..=body.len()));
        let resource = Resource { r#type: rng.i32(0..4), name: "Kubernetes//Pod/shop/a".to_owned(), version: round.to_string(), body };
        let (next, rejected) = world.apply(&StateDelta { generation: round, reset: false, upsert: vec![resource], remove: Vec::new() });
        assert!(rejected.iter().all(|one| !one.reason.is_empty() && one.code.starts_with("E_")));
        world = if rng.u8(..) == 0 { World::new(mesh::settings()) } else { next };
        assert!(world.workloads_at(ip("10.0.0.1")).len() <= 1);
    }
}
