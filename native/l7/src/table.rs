//! Everything that this waypoint knows of routes: one immutable table, replaced as a whole and shared by all workers.
use crate::service::Service;
use prost::Message;
use std::collections::HashMap;
use std::sync::Arc;
use trackbed_contract::route;

/// Empty at first: nothing is served then, everything is refused.
#[derive(Debug, Clone, Default)]
pub struct Table {
    services: HashMap<Arc<str>, Arc<Service>>,
}

/// A resource that is not as proto/route.proto says; what was in force for the service before still is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    pub name: String,
    pub reason: String,
}

impl Table {
    /// The table after one delta. `upserts`: name of the resource and its body, a `trackbed.route.v1.Routes`. Removals come first.
    #[must_use]
    pub fn apply<'a>(
        &self,
        upserts: impl IntoIterator<Item = (&'a str, &'a [u8])>,
        removes: impl IntoIterator<Item = &'a str>,
    ) -> (Self, Vec<Rejected>) {
        let mut services = self.services.clone();
        for name in removes {
            services.remove(name);
        }
        let mut rejected = Vec::new();
        for (name, body) in upserts {
            match parse(name, body) {
                Ok(service) => {
                    services.insert(name.into(), Arc::new(service));
                }
                Err(reason) => rejected.push(Rejected { name: name.into(), reason }),
            }
        }
        (Self { services }, rejected)
    }

    pub fn len(&self) -> usize {
        self.services.len()
    }

    pub fn is_empty(&self) -> bool {
        self.services.is_empty()
    }

    /// None: nothing was ever said of it that could be used, so it is refused.
    pub(crate) fn service(&self, name: &str) -> Option<&Arc<Service>> {
        self.services.get(name)
    }
}

fn parse(name: &str, body: &[u8]) -> Result<Service, String> {
    let routes = route::Routes::decode(body).map_err(|cause| cause.to_string())?;
    if routes.service != name {
        return Err(format!("the resource is named {name} and speaks of {:?}", routes.service));
    }
    Service::parse(&routes).map_err(|invalid| invalid.to_string())
}
