//! What a waypoint's director sent it of what it serves: the table that requests are decided by, and which versions are in it.
use std::collections::BTreeMap;
use std::sync::Arc;

use trackbed_contract::engine::{HeldResource, Rejected, Resource, ResourceType, StateDelta};
use trackbed_contract::tables::errors;
use trackbed_l7::{Kind, Table};

/// Immutable; the next one shares what did not change.
#[derive(Debug, Clone, Default)]
pub(crate) struct Routes {
    table: Arc<Table>,
    /// By kind and name: the version in force.
    held: BTreeMap<(Kind, Arc<str>), Arc<str>>,
}

impl Routes {
    /// Of rejected routes the previous version stays in force, also through a reset.
    pub(crate) fn apply(&self, delta: &StateDelta) -> (Self, Vec<Rejected>) {
        let mine = delta.upsert.iter().filter_map(|resource| Some(((kind_of(resource.r#type)?, &*resource.name), resource)));
        let upserts: BTreeMap<(Kind, &str), &Resource> = mine.collect();
        let removed: Vec<(Kind, &str)> = if delta.reset {
            self.held.keys().map(|(kind, name)| (*kind, &**name)).filter(|key| !upserts.contains_key(key)).collect()
        } else {
            delta.remove.iter().filter_map(|key| Some((kind_of(key.r#type)?, &*key.name))).collect()
        };
        if upserts.is_empty() && removed.is_empty() && !delta.reset {
            return (self.clone(), Vec::new());
        }
        // What is not held of what there is, is rejected access: a reset forgets it too.
        let before = if delta.reset { self.table.without_unusable() } else { (*self.table).clone() };
        let (table, rejected) =
            before.apply(upserts.iter().map(|((kind, name), resource)| (*kind, *name, &*resource.body)), removed.iter().copied());
        let mut held = self.held.clone();
        for (kind, name) in removed {
            held.remove(&(kind, name.into()));
        }
        for (key, resource) in &upserts {
            let key = (key.0, Arc::from(key.1));
            if rejected.iter().all(|rejected| (rejected.kind, &*rejected.name) != (key.0, &*key.1)) {
                held.insert(key, resource.version.as_str().into());
            } else if key.0 == Kind::Access {
                // Nothing of it is in force but that everything is denied.
                held.remove(&key);
            }
        }
        let told = |rejected: trackbed_l7::Rejected| Rejected {
            r#type: type_of(rejected.kind).into(),
            version: upserts.get(&(rejected.kind, &*rejected.name)).map(|resource| resource.version.clone()).unwrap_or_default(),
            name: rejected.name,
            code: if rejected.kind == Kind::Access { errors::POLICY_INVALID } else { errors::SOURCE_INVALID }.to_owned(),
            reason: rejected.reason,
        };
        (Self { table: Arc::new(table), held }, rejected.into_iter().map(told).collect())
    }

    pub(crate) fn table(&self) -> &Arc<Table> {
        &self.table
    }

    /// Whether there are routes of it.
    pub(crate) fn has(&self, service: &str) -> bool {
        self.table.has(service)
    }

    /// For Hello.
    pub(crate) fn held(&self) -> impl Iterator<Item = HeldResource> {
        let held = |((kind, name), version): (&(Kind, Arc<str>), &Arc<str>)| HeldResource {
            r#type: type_of(*kind).into(),
            name: name.to_string(),
            version: version.to_string(),
        };
        self.held.iter().map(held)
    }
}

/// None: nothing of a waypoint's.
pub(crate) fn kind_of(r#type: i32) -> Option<Kind> {
    match ResourceType::try_from(r#type) {
        Ok(ResourceType::Routes) => Some(Kind::Routes),
        Ok(ResourceType::Access) => Some(Kind::Access),
        Ok(ResourceType::BackendSettings) => Some(Kind::BackendSettings),
        Ok(ResourceType::RequestSettings) => Some(Kind::RequestSettings),
        _ => None,
    }
}

fn type_of(kind: Kind) -> ResourceType {
    match kind {
        Kind::Routes => ResourceType::Routes,
        Kind::Access => ResourceType::Access,
        Kind::BackendSettings => ResourceType::BackendSettings,
        Kind::RequestSettings => ResourceType::RequestSettings,
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use trackbed_contract::engine::ResourceKey;

    use super::*;

    fn routes(name: &str, version: &str) -> Resource {
        let body = trackbed_contract::route::Routes { service: name.into(), ports: Vec::new(), guarded: false }.encode_to_vec();
        Resource { r#type: ResourceType::Routes.into(), name: name.into(), version: version.into(), body }
    }

    fn delta(reset: bool, upsert: Vec<Resource>, remove: &[&str]) -> StateDelta {
        let key = |name: &&str| ResourceKey { r#type: ResourceType::Routes.into(), name: (*name).into() };
        StateDelta { generation: 1, reset, upsert, remove: remove.iter().map(key).collect() }
    }

    fn names(routes: &Routes) -> Vec<(String, String)> {
        routes.held().map(|held| (held.name, held.version)).collect()
    }

    #[test]
    fn a_delta_changes_what_it_names_and_a_reset_forgets_the_rest() {
        let (first, rejected) = Routes::default().apply(&delta(true, vec![routes("a/a", "1"), routes("a/b", "1")], &[]));
        assert!(rejected.is_empty() && first.has("a/a") && first.table().len() == 2);
        let (next, _) = first.apply(&delta(false, vec![routes("a/c", "1")], &["a/a"]));
        assert_eq!(names(&next), [("a/b".into(), "1".into()), ("a/c".into(), "1".into())]);
        let (next, _) = next.apply(&delta(true, vec![routes("a/c", "2")], &[]));
        assert_eq!((names(&next), next.table().len()), (vec![("a/c".into(), "2".into())], 1));
        assert!(first.has("a/a"), "who reads an older one is not disturbed");
    }

    #[test]
    fn of_a_rejected_resource_the_version_before_stays_in_force() {
        let (first, _) = Routes::default().apply(&delta(true, vec![routes("a/a", "1")], &[]));
        let broken = Resource { body: routes("a/other", "").body, ..routes("a/a", "2") };
        for reset in [false, true] {
            let (next, rejected) = first.apply(&delta(reset, vec![broken.clone()], &[]));
            assert_eq!(names(&next), [("a/a".into(), "1".into())]);
            let [one] = &rejected[..] else { panic!("{rejected:?}") };
            assert_eq!((one.r#type, &*one.name, &*one.version, &*one.code), (3, "a/a", "2", "E_SOURCE_INVALID"));
        }
        let (never, rejected) = Routes::default().apply(&delta(false, vec![broken], &[]));
        assert!(rejected.len() == 1 && !never.has("a/a"));
    }
}
