//! The mesh state as the director sent it: applied to the world, and left with the keeper so that a new worker starts with it.
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use prost::Message;
use trackbed_contract::engine::{MeshSettings, Rejected, Resource, StateDelta};
use trackbed_decide::{Settings, SettingsError, World};

use crate::blob;
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
    world: Option<World>,
    settings: Option<MeshSettings>,
    base: Option<OwnedFd>,
    base_bytes: usize,
    deltas: Vec<OwnedFd>,
    delta_bytes: usize,
}

impl State {
    /// What earlier workers left. A part that cannot be read is as if it had not been left: the director is asked for everything then.
    pub(crate) fn inherit(heritage: &mut Heritage, safe: &Safe) -> Self {
        let mut state = Self::default();
        let settings = heritage.take(SETTINGS).and_then(|memory| read::<MeshSettings>(&memory));
        let base = heritage.take(BASE);
        let deltas = heritage.take_below(DELTAS);
        if let Some(settings) = settings
            && let Err(error) = state.set_settings(settings, safe)
        {
            tracing::error!(target: "state", %error, "kept settings are not usable");
        }
        for memory in base.into_iter().chain(deltas.into_iter().map(|(_, memory)| memory)) {
            let Some(world) = &state.world else { break };
            let Some(delta) = read::<StateDelta>(&memory) else {
                // Later deltas build on this one.
                state.forget(safe);
                break;
            };
            if delta.generation > world.generation() || state.base.is_none() {
                state.world = Some(world.apply(&delta).0);
                state.remember(&delta, memory);
            }
        }
        state
    }

    pub(crate) fn world(&self) -> Option<&World> {
        self.world.as_ref()
    }

    pub(crate) fn set_settings(&mut self, wire: MeshSettings, safe: &Safe) -> Result<(), SettingsError> {
        let settings = Settings::from_wire(&wire)?;
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
        let (next, rejected) = self.world.as_ref()?.apply(delta);
        self.world = Some(next);
        if delta.reset {
            safe.drop_prefix(ALL);
            self.base = None;
            self.deltas.clear();
            self.delta_bytes = 0;
        }
        let key = if self.base.is_none() { BASE.to_owned() } else { format!("{DELTAS}{:020}", delta.generation) };
        match safe.put_blob(&key, [&delta.encode_to_vec()[..]]) {
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
        *self = Self { world: self.world.take(), settings: self.settings.take(), ..Self::default() };
    }

    /// Makes one base of base and deltas. The base is replaced first: deltas that it already contains are passed over at a restart.
    fn merge(&mut self, generation: u64, safe: &Safe) {
        let mut resources = BTreeMap::new();
        for memory in self.base.iter().chain(&self.deltas) {
            let Some(delta) = read::<StateDelta>(memory) else { return self.forget(safe) };
            fold(&mut resources, delta);
        }
        let base = StateDelta { generation, reset: true, upsert: resources.into_values().collect(), remove: Vec::new() };
        match safe.put_blob(BASE, [&base.encode_to_vec()[..]]) {
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

fn read<M: Message + Default>(memory: &OwnedFd) -> Option<M> {
    let result = blob::open(memory).map_err(|error| error.to_string());
    let result = result.and_then(|parts| {
        let part = parts.first().ok_or("it is empty")?;
        M::decode(&part[..]).map_err(|error| error.to_string())
    });
    result.inspect_err(|error| tracing::error!(target: "keeper", error, "state kept by the keeper is not usable")).ok()
}

#[cfg(test)]
mod tests {
    use trackbed_contract::engine::ResourceKey;

    use super::*;

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
