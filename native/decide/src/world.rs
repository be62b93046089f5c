//! The mesh as this node knows it: an immutable snapshot, changed only by making the next one, which shares what did not change.
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use rpds::HashTrieMapSync;
use trackbed_contract::Identity;
use trackbed_contract::engine::{self, ResourceType};
use trackbed_contract::tables::errors;
use trackbed_policy::{Candidate, Policy, Rejected, Scope};

use crate::decode::{Decoded, decode};
use crate::index::{Index, Keyed};
use crate::resource::{Service, Workload};
use crate::settings::Settings;

/// Cheap to clone; readers keep the snapshot they started with.
#[derive(Debug, Clone, PartialEq)]
pub struct World {
    settings: Arc<Settings>,
    generation: u64,
    workloads: Map<Held<Workload>>,
    services: Map<Held<Service>>,
    policies: Map<Held<Entry>>,
    /// Addresses of unusable resources, by resource name: nothing goes there in plaintext. Nearly always empty.
    doubted: Map<Arc<[IpNet]>>,
    by_address: Index<IpAddr, Workload>,
    by_service: Index<Arc<str>, Workload>,
    by_vip: Index<IpNet, Service>,
    /// How many virtual addresses have this prefix length, so that the longest is found by a look-up per length.
    vip_lengths: Arc<BTreeMap<u8, usize>>,
    by_hostname: Index<Arc<str>, Service>,
    /// Policies by the namespace that they apply to; everywhere under [`EVERYWHERE`].
    applying: Index<Arc<str>, Entry>,
}

type Map<T> = HashTrieMapSync<Arc<str>, T>;

/// No namespace is called like this.
const EVERYWHERE: &str = "";

#[derive(Debug, PartialEq)]
struct Held<T> {
    version: Arc<str>,
    value: Arc<T>,
}

#[derive(Debug, PartialEq)]
pub(crate) enum Entry {
    Known(Policy),
    Rejected(Rejected),
}

impl World {
    pub fn new(settings: Settings) -> Self {
        Self {
            settings: Arc::new(settings),
            generation: 0,
            workloads: Map::new_sync(),
            services: Map::new_sync(),
            policies: Map::new_sync(),
            doubted: Map::new_sync(),
            by_address: Index::default(),
            by_service: Index::default(),
            by_vip: Index::default(),
            vip_lengths: Arc::default(),
            by_hostname: Index::default(),
            applying: Index::default(),
        }
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Generation of the delta applied last, 0 for none.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The same mesh under other settings: identities follow the trust domain and look-ups the network. Of resources that were rejected
    /// nothing is known any more; the director sends them again.
    #[must_use]
    pub fn with_settings(&self, settings: Settings) -> Self {
        let trust_domain = settings.trust_domain.clone();
        let mut next = Self { generation: self.generation, doubted: self.doubted.clone(), ..Self::new(settings) };
        for held in self.workloads.values() {
            let workload = held.value.in_trust_domain(&trust_domain);
            next.add_workload(Held { version: Arc::clone(&held.version), value: workload });
        }
        self.services.values().for_each(|held| next.add_service(held.clone()));
        self.policies.values().for_each(|held| next.add_policy(held.clone()));
        next
    }

    /// The same mesh as another node sees it: nothing but where a workload runs is told from the node's name.
    #[must_use]
    pub fn seen_from(&self, node: &str) -> Self {
        if *self.settings.node == *node {
            return self.clone();
        }
        Self { settings: Arc::new(Settings { node: node.into(), ..(*self.settings).clone() }), ..self.clone() }
    }

    /// Applies a delta as one. What cannot be used is returned with its reason: a rejected policy from then on denies what it could apply
    /// to, of a rejected address the previous version stays in force.
    pub fn apply(&self, delta: &engine::StateDelta) -> (Self, Vec<engine::Rejected>) {
        let mut next = if delta.reset { Self::new((*self.settings).clone()) } else { self.clone() };
        next.generation = delta.generation;
        for key in &delta.remove {
            next.remove(key.r#type(), &key.name);
        }
        let rejected = delta.upsert.iter().filter_map(|resource| next.upsert(resource, self).err()).collect();
        (next, rejected)
    }

    /// Every resource as it was accepted, for Hello. A rejected one is not held.
    pub fn held(&self) -> Vec<engine::HeldResource> {
        let of = |r#type: ResourceType, name: &Arc<str>, version: &Arc<str>| engine::HeldResource {
            r#type: r#type.into(),
            name: name.to_string(),
            version: version.to_string(),
        };
        let workloads = self.workloads.iter().map(|(name, held)| of(ResourceType::Address, name, &held.version));
        let services = self.services.iter().map(|(name, held)| of(ResourceType::Address, name, &held.version));
        let known = self.policies.iter().filter(|(_, held)| matches!(*held.value, Entry::Known(_)));
        let policies = known.map(|(name, held)| of(ResourceType::Authorization, name, &held.version));
        workloads.chain(services).chain(policies).collect()
    }

    pub fn workload(&self, uid: &str) -> Option<&Arc<Workload>> {
        self.workloads.get(uid).map(|held| &held.value)
    }

    /// Every workload that claims an address of this node's network, by uid; hostNetwork ones never.
    pub fn workloads_at(&self, address: IpAddr) -> &[Arc<Workload>] {
        self.by_address.get(&address.to_canonical())
    }

    /// Addresses of the workloads of an identity, at most so many. It looks at every workload: for questions, not for connections.
    pub(crate) fn addresses_of(&self, identity: &Identity, most: usize) -> Vec<IpAddr> {
        let own = self.workloads.values().filter(|held| held.value.identity == *identity);
        own.flat_map(|held| held.value.addresses.iter().copied()).take(most).collect()
    }

    /// By `namespace/hostname`.
    pub fn service(&self, key: &str) -> Option<&Arc<Service>> {
        self.services.get(key).map(|held| &held.value)
    }

    /// The workloads behind a service, by uid.
    pub fn endpoints(&self, key: &str) -> &[Arc<Workload>] {
        self.by_service.get(key)
    }

    /// Policies that the workload names and nobody knows: it is not ready, and refuses, while there are any.
    pub fn missing_policies(&self, workload: &Workload) -> Vec<Arc<str>> {
        workload.policies.iter().filter(|name| !self.policies.contains_key(*name)).cloned().collect()
    }

    /// Every policy that applies to a workload, each once, and the holes where one should be.
    pub(crate) fn candidates<'a>(&'a self, workload: &'a Workload) -> impl Iterator<Item = Candidate<'a>> {
        let here = self.applying.get(EVERYWHERE).iter().chain(self.applying.get(&workload.namespace));
        let named = workload.policies.iter().filter_map(|name| match self.policies.get(name) {
            None => Some(Candidate::Unknown(name)),
            Some(held) => {
                let listed = held.value.applies_to().is_some_and(|to| to == EVERYWHERE || to == &*workload.namespace);
                (!listed).then(|| held.value.candidate())
            }
        });
        here.map(|entry| entry.candidate()).chain(named)
    }

    /// Services whose virtual address is exactly this one.
    pub(crate) fn services_at(&self, address: IpAddr) -> &[Arc<Service>] {
        self.by_vip.get(&IpNet::from(address))
    }

    /// Services whose block of virtual addresses holds this one, the longest prefix first.
    pub(crate) fn services_around(&self, address: IpAddr) -> impl Iterator<Item = &[Arc<Service>]> {
        let host = IpNet::from(address);
        let lengths = self.vip_lengths.keys().rev().filter(move |length| **length < host.prefix_len());
        lengths.filter_map(move |length| IpNet::new(address, *length).ok()).map(|net| self.by_vip.get(&net.trunc()))
    }

    /// Services of this host name, by key.
    pub(crate) fn services_named(&self, hostname: &str) -> &[Arc<Service>] {
        self.by_hostname.get(hostname)
    }

    /// The unusable resource that may stand at an address.
    pub(crate) fn doubt_at(&self, address: IpAddr) -> Option<&Arc<str>> {
        self.doubted.iter().find(|(_, nets)| nets.iter().any(|net| net.contains(&address))).map(|(name, _)| name)
    }

    fn upsert(&mut self, resource: &engine::Resource, before: &Self) -> Result<(), engine::Rejected> {
        let version: Arc<str> = resource.version.as_str().into();
        match resource.r#type() {
            ResourceType::Address => match decode(&resource.name, &resource.body, &self.settings.trust_domain, &self.settings.network) {
                Ok(decoded) => {
                    self.remove(ResourceType::Address, &resource.name);
                    match decoded {
                        Decoded::Workload(workload) => self.add_workload(Held { version, value: Arc::new(workload) }),
                        Decoded::Service(service) => self.add_service(Held { version, value: Arc::new(service) }),
                    }
                    Ok(())
                }
                Err(unusable) => {
                    self.keep_from(before, &resource.name);
                    let name = Arc::from(resource.name.as_str());
                    if unusable.doubted.is_empty() {
                        self.doubted.remove_mut(&name);
                    } else {
                        self.doubted.insert_mut(name, Arc::from(unusable.doubted.as_slice()));
                    }
                    Err(rejected(resource, errors::SOURCE_INVALID, unusable.to_string()))
                }
            },
            ResourceType::Authorization => {
                self.remove(ResourceType::Authorization, &resource.name);
                let (entry, outcome) = match Policy::decode(&resource.name, &resource.body) {
                    Ok(policy) => (Entry::Known(policy), Ok(())),
                    Err(invalid) => {
                        let outcome = Err(rejected(resource, errors::POLICY_INVALID, invalid.reason.to_string()));
                        (Entry::Rejected(invalid), outcome)
                    }
                };
                self.add_policy(Held { version, value: Arc::new(entry) });
                outcome
            }
            // The rest is no part of where a connection may go.
            _ => Err(rejected(resource, errors::SOURCE_UNSUPPORTED, format!("resource type {}", resource.r#type))),
        }
    }

    /// The previous version of a rejected address, which a reset has dropped.
    fn keep_from(&mut self, before: &Self, name: &str) {
        if let (None, Some(held)) = (self.workloads.get(name), before.workloads.get(name)) {
            self.add_workload(held.clone());
        }
        if let (None, Some(held)) = (self.services.get(name), before.services.get(name)) {
            self.add_service(held.clone());
        }
    }

    fn remove(&mut self, r#type: ResourceType, name: &str) {
        match r#type {
            ResourceType::Address => {
                self.remove_workload(name);
                self.remove_service(name);
                self.doubted.remove_mut(name);
            }
            ResourceType::Authorization => self.remove_policy(name),
            _ => {}
        }
    }

    fn add_workload(&mut self, held: Held<Workload>) {
        let workload = &held.value;
        if workload.network == self.settings.network && !workload.host_network {
            workload.addresses.iter().for_each(|address| self.by_address.insert(*address, Arc::clone(workload)));
        }
        workload.services.keys().for_each(|key| self.by_service.insert(Arc::clone(key), Arc::clone(workload)));
        self.workloads.insert_mut(Arc::clone(&workload.uid), held);
    }

    fn remove_workload(&mut self, uid: &str) {
        let Some(workload) = self.workloads.get(uid).map(|held| Arc::clone(&held.value)) else { return };
        workload.addresses.iter().for_each(|address| self.by_address.remove(address, &workload));
        workload.services.keys().for_each(|key| self.by_service.remove(key, &workload));
        self.workloads.remove_mut(uid);
    }

    fn add_service(&mut self, held: Held<Service>) {
        let service = &held.value;
        for net in self.vips(service) {
            self.by_vip.insert(net, Arc::clone(service));
            *Arc::make_mut(&mut self.vip_lengths).entry(net.prefix_len()).or_default() += 1;
        }
        self.by_hostname.insert(Arc::clone(&service.hostname), Arc::clone(service));
        self.services.insert_mut(Arc::clone(&service.key), held);
    }

    fn remove_service(&mut self, key: &str) {
        let Some(service) = self.services.get(key).map(|held| Arc::clone(&held.value)) else { return };
        for net in self.vips(&service) {
            self.by_vip.remove(&net, &service);
            let lengths = Arc::make_mut(&mut self.vip_lengths);
            let count = lengths.entry(net.prefix_len()).or_default();
            *count = count.saturating_sub(1);
            lengths.retain(|_, count| *count > 0);
        }
        self.by_hostname.remove(&service.hostname, &service);
        self.services.remove_mut(key);
    }

    /// Virtual addresses on this node's network.
    pub(crate) fn vips(&self, service: &Service) -> Vec<IpNet> {
        service.addresses.iter().filter(|(network, _)| *network == self.settings.network).map(|(_, net)| *net).collect()
    }

    fn add_policy(&mut self, held: Held<Entry>) {
        if let Some(to) = held.value.applies_to() {
            self.applying.insert(to.into(), Arc::clone(&held.value));
        }
        self.policies.insert_mut(held.value.key().into(), held);
    }

    fn remove_policy(&mut self, name: &str) {
        let Some(entry) = self.policies.get(name).map(|held| Arc::clone(&held.value)) else { return };
        if let Some(to) = entry.applies_to() {
            self.applying.remove(to, &entry);
        }
        self.policies.remove_mut(name);
    }
}

impl Entry {
    fn candidate(&self) -> Candidate<'_> {
        match self {
            Self::Known(policy) => Candidate::Known(policy),
            Self::Rejected(rejected) => Candidate::Rejected(rejected),
        }
    }

    /// The namespace of all whose workloads it applies to, [`EVERYWHERE`], or `None` for those that name it.
    fn applies_to(&self) -> Option<&str> {
        let (scope, namespace) = match self {
            Self::Known(policy) => (Some(policy.scope()), policy.namespace()),
            Self::Rejected(rejected) => (rejected.scope, &rejected.namespace),
        };
        match scope {
            Some(Scope::WorkloadSelector) => None,
            Some(Scope::Namespace) => Some(namespace),
            Some(Scope::Global) | None => Some(EVERYWHERE),
        }
    }
}

fn rejected(resource: &engine::Resource, code: &str, reason: String) -> engine::Rejected {
    engine::Rejected {
        r#type: resource.r#type,
        name: resource.name.clone(),
        version: resource.version.clone(),
        code: code.to_owned(),
        reason,
    }
}

impl<T> Clone for Held<T> {
    fn clone(&self) -> Self {
        Self { version: Arc::clone(&self.version), value: Arc::clone(&self.value) }
    }
}

impl Keyed for Workload {
    fn key(&self) -> &str {
        &self.uid
    }
}

impl Keyed for Service {
    fn key(&self) -> &str {
        &self.key
    }
}

impl Keyed for Entry {
    fn key(&self) -> &str {
        match self {
            Self::Known(policy) => policy.name(),
            Self::Rejected(rejected) => &rejected.name,
        }
    }
}
