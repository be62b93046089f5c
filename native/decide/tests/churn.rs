//! Addresses that are used again: whoever holds one now is the only one it stands for.
#![allow(clippy::unwrap_used)] // a test that cannot set up its case should panic

mod mesh;

use mesh::{WEB, apply, code, decide, identity, local, of_workload, pod, world};
use trackbed_contract::istio::workload::Workload;
use trackbed_decide::{Outbound, World};

const CYCLES: usize = 10_000;
const POOL: u8 = 16;
const NAMES: [&str; 2] = ["alpha", "beta"];

fn address(slot: u8) -> String {
    format!("10.0.1.{slot}")
}

/// Whom a connection to this address accepts at its end, or why there is none.
fn accepted(world: &World, slot: u8) -> Result<String, &'static str> {
    match decide(world, &local("web", &[WEB]), &format!("{}:80", address(slot))) {
        Outbound::Tunnel(tunnel) if tunnel.accept.len() == 1 => Ok(tunnel.accept[0].to_string()),
        other => Err(code(&other)),
    }
}

#[test]
fn ten_thousand_pods_on_sixteen_addresses_never_answer_for_who_was_there_before() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut world = world(vec![of_workload(&pod("web", "n1", &[WEB]))]);
    let mut held: [Option<Workload>; POOL as usize] = std::array::from_fn(|_| None);
    for number in 0..CYCLES {
        let slot = rng.u8(..POOL);
        let old = held[usize::from(slot)].take();
        let remove: Vec<_> = old.iter().map(of_workload).collect();
        let mut new = Vec::new();
        // Mostly taken over at once, in the same delta; sometimes left empty for a while.
        if old.is_none() || rng.u8(..4) > 0 {
            let name = NAMES[rng.usize(..NAMES.len())];
            let mut workload = pod(name, "n2", &[&address(slot)]);
            workload.uid = format!("{}-{number}", workload.uid);
            new.push(of_workload(&workload));
            held[usize::from(slot)] = Some(workload);
        }
        let (next, rejected) = apply(&world, new, &remove);
        assert!(rejected.is_empty(), "{rejected:?}");
        world = next;
        for slot in [slot, rng.u8(..POOL)] {
            let owner = held[usize::from(slot)].as_ref().map(|workload| workload.service_account.clone());
            match &owner {
                Some(owner) => assert_eq!(accepted(&world, slot), Ok(identity(owner).to_string()), "cycle {number}"),
                None => assert_eq!(accepted(&world, slot), Err("plain"), "cycle {number}: nobody of the mesh is there"),
            }
            let there: Vec<_> = world.workloads_at(address(slot).parse().unwrap()).iter().map(|one| one.identity.to_string()).collect();
            assert_eq!(there, owner.iter().map(|owner| identity(owner).to_string()).collect::<Vec<_>>(), "cycle {number}");
        }
    }
}
