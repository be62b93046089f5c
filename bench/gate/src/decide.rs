//! Decisions: a pod's connections to services and to pods, and a peer's to a pod, in a mesh of 200 pods behind 20 services.
use std::hint::black_box;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use trackbed_balance::Load;
use trackbed_contract::{Identity, engine};
use trackbed_decide::{Chooser, LocalPod, Outbound, Settings, World, inbound_tunnel, outbound};

use crate::wire::{PODS, PORT, SERVICES};
use crate::{Failure, measured, wire};

const ROUNDS: u64 = 5;
/// The maps of a world hash with a random seed: several worlds even out how deep their tries are.
const WORLDS: u64 = 8;

pub(crate) fn run() -> Result<u64, Failure> {
    let settings = engine::MeshSettings {
        node: "n1".to_owned(),
        trust_domain: "cluster.local".to_owned(),
        cluster_domain: "cluster.local".to_owned(),
        ..engine::MeshSettings::default()
    };
    let settings = Settings::from_wire(&settings)?;
    let worlds = (0..WORLDS).map(|_| world(&settings)).collect::<Result<Vec<_>, _>>()?;
    let pod = LocalPod {
        uid: "uid".into(),
        name: "s0-0".into(),
        namespace: "shop".into(),
        service_account: "s0".into(),
        addresses: vec![IpAddr::from([10, 1, 0, 0])],
    };
    let peer = Identity::parse(&wire::principal(3))?;
    let (mut rng, load, now) = (fastrand::Rng::with_seed(7), Load::default(), Instant::now());
    let mut decided = 0;
    measured(&mut || {
        for world in &worlds {
            for _ in 0..ROUNDS {
                for service in 0..SERVICES {
                    for address in [[10, 2, 0, service], [10, 1, service, 1], [10, 1, service, PODS - 2]] {
                        let destination = SocketAddr::new(address.into(), PORT);
                        let mut chooser = Chooser { rng: &mut rng, load: &load, now, exclude: &[] };
                        let path = outbound(world, black_box(&pod), destination, &mut chooser);
                        decided += u64::from(matches!(path, Outbound::Relay(_) | Outbound::Tunnel(_)));
                    }
                    let admitted = inbound_tunnel(world, &pod, black_box(&peer), [10, 1, 3, 1].into(), "10.1.0.0:8080");
                    decided += u64::from(admitted.is_ok());
                }
            }
        }
    });
    let wanted = WORLDS * ROUNDS * u64::from(SERVICES) * 4;
    if decided == wanted { Ok(wanted) } else { Err(format!("{decided} of {wanted} were carried").into()) }
}

fn world(settings: &Settings) -> Result<World, Failure> {
    let empty = World::new(settings.clone());
    let delta = engine::StateDelta { generation: 1, reset: false, upsert: wire::resources(), remove: Vec::new() };
    let (world, rejected) = empty.apply(&delta);
    if rejected.is_empty() { Ok(world) } else { Err(format!("{rejected:?}").into()) }
}
