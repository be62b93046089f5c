//! The routes of a waypoint as its director sent them: the table that requests are matched by, and which versions are in it.
use std::collections::BTreeMap;
use std::sync::Arc;

use trackbed_contract::engine::{HeldResource, Rejected, Resource, ResourceType, StateDelta};
use trackbed_contract::tables::errors;
use trackbed_l7::Table;

/// Immutable; the next one shares what did not change.
#[derive(Debug, Clone, Default)]
pub(crate) struct Routes {
    table: Arc<Table>,
    /// By "namespace/hostname": the version in force.
    held: BTreeMap<Arc<str>, Arc<str>>,
}

impl Routes {
    /// Of a rejected resource the previous version stays in force, also through a reset.
    pub(crate) fn apply(&self, delta: &StateDelta) -> (Self, Vec<Rejected>) {
        let upserts: BTreeMap<&str, &Resource> =
            delta.upsert.iter().filter(|resource| is_routes(resource.r#type)).map(|resource| (&*resource.name, resource)).collect();
        let removed: Vec<&str> = if delta.reset {
            self.held.keys().map(|name| &**name).filter(|name| !upserts.contains_key(name)).collect()
        } else {
            delta.remove.iter().filter(|key| is_routes(key.r#type)).map(|key| &*key.name).collect()
        };
        if upserts.is_empty() && removed.is_empty() {
            return (self.clone(), Vec::new());
        }
        let (table, rejected) =
            self.table.apply(upserts.values().map(|resource| (&*resource.name, &*resource.body)), removed.iter().copied());
        let mut held = self.held.clone();
        for name in removed {
            held.remove(name);
        }
        for resource in upserts.values().filter(|resource| rejected.iter().all(|rejected| rejected.name != resource.name)) {
            held.insert(resource.name.as_str().into(), resource.version.as_str().into());
        }
        let told = |rejected: trackbed_l7::Rejected| Rejected {
            r#type: ResourceType::Routes.into(),
            version: upserts.get(&*rejected.name).map(|resource| resource.version.clone()).unwrap_or_default(),
            name: rejected.name,
            code: errors::SOURCE_INVALID.to_owned(),
            reason: rejected.reason,
        };
        (Self { table: Arc::new(table), held }, rejected.into_iter().map(told).collect())
    }

    pub(crate) fn table(&self) -> &Arc<Table> {
        &self.table
    }

    pub(crate) fn has(&self, service: &str) -> bool {
        self.held.contains_key(service)
    }

    /// For Hello.
    pub(crate) fn held(&self) -> impl Iterator<Item = HeldResource> {
        let held = |(name, version): (&Arc<str>, &Arc<str>)| HeldResource {
            r#type: ResourceType::Routes.into(),
            name: name.to_string(),
            version: version.to_string(),
        };
        self.held.iter().map(held)
    }
}

pub(crate) fn is_routes(kind: i32) -> bool {
    kind == i32::from(ResourceType::Routes)
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
