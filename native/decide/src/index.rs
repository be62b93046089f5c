//! A persistent one-to-many index: copies share structure, groups are sorted, so equal contents make equal indexes.
use std::borrow::Borrow;
use std::hash::Hash;
use std::sync::Arc;

use rpds::HashTrieMapSync;

/// What a group is sorted by; unique within an index.
pub(crate) trait Keyed {
    fn key(&self) -> &str;
}

#[derive(Debug)]
pub(crate) struct Index<K: Eq + Hash, T> {
    groups: HashTrieMapSync<K, Arc<Vec<Arc<T>>>>,
}

impl<K: Eq + Hash, T> Default for Index<K, T> {
    fn default() -> Self {
        Self { groups: HashTrieMapSync::new_sync() }
    }
}

impl<K: Eq + Hash, T> Clone for Index<K, T> {
    fn clone(&self) -> Self {
        Self { groups: self.groups.clone() }
    }
}

impl<K: Eq + Hash, T: PartialEq> PartialEq for Index<K, T> {
    fn eq(&self, other: &Self) -> bool {
        self.groups == other.groups
    }
}

impl<K: Clone + Eq + Hash, T: Keyed> Index<K, T> {
    pub(crate) fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> &[Arc<T>]
    where
        K: Borrow<Q>,
    {
        self.groups.get(key).map_or(&[], |group| group.as_slice())
    }

    /// Adds to a group, replacing what has the same key there.
    pub(crate) fn insert(&mut self, key: K, item: Arc<T>) {
        let Some(group) = self.groups.get_mut(&key) else {
            self.groups.insert_mut(key, Arc::new(vec![item]));
            return;
        };
        let group = Arc::make_mut(group);
        match group.binary_search_by(|held| held.key().cmp(item.key())) {
            Ok(found) => group[found] = item,
            Err(place) => group.insert(place, item),
        }
    }

    pub(crate) fn remove<Q: Hash + Eq + ?Sized>(&mut self, key: &Q, item: &T)
    where
        K: Borrow<Q>,
    {
        let Some(group) = self.groups.get_mut(key) else { return };
        let group = Arc::make_mut(group);
        if let Ok(found) = group.binary_search_by(|held| held.key().cmp(item.key())) {
            group.remove(found);
        }
        if group.is_empty() {
            self.groups.remove_mut(key);
        }
    }
}
