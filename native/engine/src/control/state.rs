//! The mesh state as the director sent it: applied to the world, and left with the keeper so that a new worker starts with it.
//!
//! A successor works with all of it or with none: a policy for a whole namespace is named by nobody, so nothing would be missed if the delta
//! that brought it were lost. Each delta therefore says which generation it builds on.
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use prost::Message;
use trackbed_contract::engine::{HeldResource, MeshSettings, Rejected, Resource, StateDelta};
use trackbed_decide::{Settings, SettingsError, World};

use crate::blob;
use crate::routes::{Routes, kind_of};
use crate::worker::heritage::{Heritage, Safe};

const SETTINGS: &str = "settings";
const BASE: &str = "state/base";
const DELTAS: &str = "state/delta/";
const ALL: &str = "state/";
/// Deltas kept beside the base before they are merged into it: bounds descriptors and the time of a restart.
const MOST_DELTAS: usize = 64;
/// And their bytes, beside half of the base's: merging a large base for every small delta would cost more than it saves.
const DELTA_BYTES: usize = 1 << 20;

#[derive(Debug, Default)]
pub(crate) struct State {
    /// Of a waypoint; a node has none.
    routes: Option<Arc<Routes>>,
    world: Option<World>,
    settings: Option<MeshSettings>,
    base: Option<OwnedFd>,
    base_bytes: usize,
    deltas: Vec<OwnedFd>,
    delta_bytes: usize,
    /// Something could not be left: nothing is, until the director says everything again.
    broken: bool,
}

/// A delta as it was left, and the generation that it builds on.
struct Left {
    delta: StateDelta,
    after: u64,
}

impl State {
    /// Nothing, and nothing of it will be left: a waypoint that starts anew asks for everything.
    pub(crate) fn of_waypoint() -> Self {
        Self { routes: Some(Arc::default()), ..Self::default() }
    }

    /// What earlier workers left, if it is whole; otherwise nothing, and the director is asked for everything.
    pub(crate) fn inherit(heritage: &mut Heritage, safe: &Safe) -> Self {
        let mut state = Self::default();
        let settings = heritage.take(SETTINGS).and_then(|memory| read_settings(&memory));
        let base = heritage.take(BASE);
        let deltas = heritage.take_below(DELTAS);
        if let Some(settings) = settings
            && let Err(error) = state.set_settings(settings, safe)
        {
            tracing::error!(target: "state", %error, "kept settings are not usable");
        }
        if base.is_none() && deltas.is_empty() {
            return state;
        }
        if state.inherit_all(base, deltas).is_none() {
            tracing::error!(target: "state", "what an earlier worker left is not whole: nothing of it is used");
            state.world = state.world.map(|world| World::new(world.settings().clone()));
            state.forget(safe);
            // Nothing is held and nothing left: what comes next is everything.
            state.broken = false;
        }
        state
    }

    /// Base and deltas in their order. None when one is missing or cannot be read.
    fn inherit_all(&mut self, base: Option<OwnedFd>, deltas: Vec<(String, OwnedFd)>) -> Option<()> {
        for memory in std::iter::once(base?).chain(deltas.into_iter().map(|(_, memory)| memory)) {
            let world = self.world.as_ref()?;
            let Left { delta, after } = read(&memory)?;
            // A base that was merged replaced deltas that may still have been there.
            if self.base.is_some() && delta.generation <= world.generation() {
                continue;
            }
            if after != world.generation() {
                return None;
            }
            self.world = Some(world.apply(&delta).0);
            self.remember(&delta, memory);
        }
        Some(())
    }

    pub(crate) fn world(&self) -> Option<&World> {
        self.world.as_ref()
    }

    pub(crate) fn routes(&self) -> Option<&Arc<Routes>> {
        self.routes.as_ref()
    }

    /// Everything as it was accepted, for Hello.
    pub(crate) fn held(&self) -> Vec<HeldResource> {
        let mut held = self.world.as_ref().map(World::held).unwrap_or_default();
        held.extend(self.routes.iter().flat_map(|routes| routes.held()));
        held
    }

    pub(crate) fn set_settings(&mut self, wire: MeshSettings, safe: &Safe) -> Result<(), SettingsError> {
        let settings = if self.routes.is_some() { Settings::of_waypoint(&wire) } else { Settings::from_wire(&wire) }?;
        self.world = Some(match &self.world {
            Some(world) => world.with_settings(settings),
            None => World::new(settings),
        });
        safe.put_blob(SETTINGS, [&wire.encode_to_vec()[..]]);
        self.settings = Some(wire);
        Ok(())
    }

    pub(crate) fn settings(&self) -> Option<&MeshSettings> {
        self.settings.as_ref()
    }

    /// Applies a delta as one and leaves it with the keeper. Without settings there is no world to apply it to.
    pub(crate) fn apply(&mut self, delta: &StateDelta, safe: &Safe) -> Option<Vec<Rejected>> {
        let world = self.world.as_ref()?;
        // A base is complete in itself.
        let after = if delta.reset || self.base.is_none() { 0 } else { world.generation() };
        let (next, mut rejected) = world.apply(delta);
        self.world = Some(next);
        if let Some(routes) = &mut self.routes {
            // No part of where a connection may go, and nothing that the world knows.
            rejected.retain(|rejected| kind_of(rejected.r#type).is_none());
            let (next, unusable) = routes.apply(delta);
            *routes = Arc::new(next);
            rejected.extend(unusable);
        }
        if !safe.has_keeper() {
            return Some(rejected);
        }
        if delta.reset {
            self.broken = false;
            safe.drop_prefix(ALL);
            self.base = None;
            self.deltas.clear();
            self.delta_bytes = 0;
        }
        if self.broken {
            return Some(rejected);
        }
        let key = if self.base.is_none() { BASE.to_owned() } else { format!("{DELTAS}{:020}", delta.generation) };
        match leave(safe, &key, delta, after) {
            Some(memory) => self.remember(delta, memory),
            // A gap would make a successor believe that it has what it has not.
            None => self.forget(safe),
        }
        if self.deltas.len() > MOST_DELTAS || self.delta_bytes > DELTA_BYTES + self.base_bytes / 2 {
            self.merge(delta.generation, safe);
        }
        Some(rejected)
    }

    fn remember(&mut self, delta: &StateDelta, memory: OwnedFd) {
        if self.base.is_none() {
            self.base_bytes = delta.encoded_len();
            self.base = Some(memory);
        } else {
            self.delta_bytes += delta.encoded_len();
            self.deltas.push(memory);
        }
    }

    fn forget(&mut self, safe: &Safe) {
        safe.drop_prefix(ALL);
        *self = Self { world: self.world.take(), settings: self.settings.take(), broken: true, ..Self::default() };
    }

    /// Makes one base of base and deltas. The base is replaced first: deltas that it already contains are passed over at a restart.
    fn merge(&mut self, generation: u64, safe: &Safe) {
        let mut resources = BTreeMap::new();
        for memory in self.base.iter().chain(&self.deltas) {
            let Some(Left { delta, .. }) = read(memory) else { return self.forget(safe) };
            fold(&mut resources, delta);
        }
        let base = StateDelta { generation, reset: true, upsert: resources.into_values().collect(), remove: Vec::new() };
        match leave(safe, BASE, &base, 0) {
            Some(memory) => {
                safe.drop_prefix(DELTAS);
                self.deltas.clear();
                self.delta_bytes = 0;
                self.base = None;
                self.remember(&base, memory);
            }
            None => self.forget(safe),
        }
    }
}

fn fold(resources: &mut BTreeMap<(i32, String), Resource>, delta: StateDelta) {
    if delta.reset {
        resources.clear();
    }
    for key in delta.remove {
        resources.remove(&(key.r#type, key.name));
    }
    for resource in delta.upsert {
        resources.insert((resource.r#type, resource.name.clone()), resource);
    }
}

fn leave(safe: &Safe, key: &str, delta: &StateDelta, after: u64) -> Option<OwnedFd> {
    safe.put_blob(key, [&delta.encode_to_vec()[..], &after.to_le_bytes()])
}

fn read(memory: &OwnedFd) -> Option<Left> {
    let left = || -> Result<Left, String> {
        let parts = blob::open(memory).map_err(|error| error.to_string())?;
        let [delta, after] = &parts[..] else { return Err("not a delta and a generation".to_owned()) };
        let after = after.as_slice().try_into().map(u64::from_le_bytes).map_err(|_| "no generation of 8 bytes")?;
        Ok(Left { delta: StateDelta::decode(&delta[..]).map_err(|error| error.to_string())?, after })
    };
    left().inspect_err(|error| tracing::error!(target: "keeper", error, "state kept by the keeper is not usable")).ok()
}

fn read_settings(memory: &OwnedFd) -> Option<MeshSettings> {
    let parts =
        blob::open(memory).inspect_err(|error| tracing::error!(target: "keeper", %error, "the kept settings cannot be read")).ok()?;
    MeshSettings::decode(&parts.first()?[..]).ok()
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, socketpair};
    use trackbed_contract::engine::{ResourceKey, ResourceType};

    use super::*;
    use crate::keeper::packet::{self, Packet};
    use crate::worker::heritage;

    /// A keeper that forgets what a test wants it to forget.
    struct Keeper {
        socket: OwnedFd,
        held: BTreeMap<String, OwnedFd>,
    }

    impl Keeper {
        /// The worker that starts now, with what is held for it.
        fn successor(held: BTreeMap<String, OwnedFd>) -> (Self, State, Safe) {
            let (socket, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).expect("socketpair");
            for (key, memory) in &held {
                packet::put(&socket, key, memory.as_fd()).expect("put");
            }
            packet::end(&socket).expect("end");
            let (mut heritage, safe) = heritage::receive(theirs).expect("heritage");
            let state = State::inherit(&mut heritage, &safe);
            (Self { socket, held }, state, safe)
        }

        /// What the worker left until now.
        fn take_in(mut self) -> BTreeMap<String, OwnedFd> {
            while let Ok(Some(packet)) = packet::receive(&self.socket, RecvFlags::DONTWAIT) {
                match packet {
                    Packet::Put(key, memory) => drop(self.held.insert(key, memory)),
                    Packet::Drop(prefix) => self.held.retain(|key, _| !key.starts_with(&prefix)),
                    other => panic!("{other:?}"),
                }
            }
            self.held
        }
    }

    fn settings() -> MeshSettings {
        MeshSettings {
            node: "one".into(),
            trust_domain: "cluster.local".into(),
            cluster_domain: "cluster.local".into(),
            ..MeshSettings::default()
        }
    }

    /// A policy that no workload names.
    fn delta(generation: u64) -> StateDelta {
        let name = format!("shop/p{generation}");
        let policy = trackbed_contract::istio::security::Authorization {
            name: format!("p{generation}"),
            namespace: "shop".into(),
            scope: trackbed_contract::istio::security::Scope::Namespace.into(),
            ..Default::default()
        };
        let resource = Resource { r#type: ResourceType::Authorization.into(), name, version: "1".into(), body: policy.encode_to_vec() };
        StateDelta { generation, reset: generation == 1, upsert: vec![resource], remove: Vec::new() }
    }

    /// What a worker that applied these generations left.
    fn left_by(generations: std::ops::RangeInclusive<u64>) -> BTreeMap<String, OwnedFd> {
        let (keeper, mut state, safe) = Keeper::successor(BTreeMap::new());
        state.set_settings(settings(), &safe).expect("settings");
        for generation in generations {
            assert_eq!(state.apply(&delta(generation), &safe).expect("a world"), []);
        }
        keeper.take_in()
    }

    fn held(state: &State) -> usize {
        state.world().expect("settings were left").held().len()
    }

    #[test]
    fn a_successor_has_everything_that_was_left_also_after_a_merge() {
        for last in [1, 5, MOST_DELTAS as u64 + 20] {
            let (keeper, state, _safe) = Keeper::successor(left_by(1..=last));
            assert_eq!((held(&state) as u64, state.world().expect("a world").generation()), (last, last));
            let (_, again, _safe) = Keeper::successor(keeper.take_in());
            assert_eq!(held(&again) as u64, last);
        }
    }

    #[test]
    fn a_successor_uses_nothing_when_a_part_was_lost_or_is_damaged() {
        let keys: Vec<_> = left_by(1..=5).into_keys().filter(|key| key != SETTINGS).collect();
        // The last one is not missed by what comes after it; the director's answer to Hello brings it.
        for key in keys.iter().rev().skip(1) {
            let mut left = left_by(1..=5);
            left.remove(key);
            let (keeper, state, _safe) = Keeper::successor(left);
            assert_eq!((held(&state), state.world().expect("settings").generation()), (0, 0), "without {key}");
            assert_eq!(keeper.take_in().into_keys().collect::<Vec<_>>(), [SETTINGS], "the rest is not kept for the next one either");
        }
        for key in keys {
            let mut left = left_by(1..=5);
            left.insert(key.clone(), blob::seal([&b"\xff"[..]]).expect("seal"));
            assert_eq!(held(&Keeper::successor(left).1), 0, "with a damaged {key}");
        }
    }

    #[test]
    fn what_follows_a_part_that_could_not_be_left_is_no_base_until_everything_is_said_again() {
        let (keeper, mut state, safe) = Keeper::successor(left_by(1..=3));
        state.forget(&safe);
        state.apply(&delta(4), &safe).expect("a world");
        let (keeper, after, _) = Keeper::successor(keeper.take_in());
        assert_eq!(held(&after), 0, "one delta is not the mesh");
        drop(keeper);
        let (keeper, mut state, safe) = Keeper::successor(left_by(1..=3));
        state.forget(&safe);
        state.apply(&StateDelta { reset: true, ..delta(5) }, &safe).expect("a world");
        state.apply(&delta(6), &safe).expect("a world");
        assert_eq!(held(&Keeper::successor(keeper.take_in()).1), 2);
    }

    #[test]
    fn folding_deltas_gives_what_applying_them_gives() {
        let resource = |name: &str, version: &str| Resource { r#type: 1, name: name.into(), version: version.into(), body: Vec::new() };
        let mut resources = BTreeMap::new();
        fold(
            &mut resources,
            StateDelta { generation: 1, reset: true, upsert: vec![resource("a", "1"), resource("b", "1")], remove: vec![] },
        );
        let remove = vec![ResourceKey { r#type: 1, name: "b".into() }, ResourceKey { r#type: 2, name: "a".into() }];
        fold(&mut resources, StateDelta { generation: 2, reset: false, upsert: vec![resource("a", "2")], remove });
        assert_eq!(resources.values().map(|r| (r.name.as_str(), r.version.as_str())).collect::<Vec<_>>(), [("a", "2")]);
    }
}
