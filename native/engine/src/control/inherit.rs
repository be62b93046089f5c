//! Going on where an earlier worker ended.
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use prost::Message;
use trackbed_contract::Identity;
use trackbed_contract::engine::AddPod;
use trackbed_contract::tables::errors;
use trackbed_netns::Netns;

use super::bind::Left;
use super::pods::Entry;
use super::{Control, identity_key, pod_key};
use crate::blob;
use crate::worker::heritage::Heritage;

impl Control {
    /// Takes the heritage up: identities first, so that the pods' listeners can serve at once.
    pub(super) async fn inherit(&mut self, heritage: &mut Heritage) {
        let now = Instant::now();
        let restarts = self.shared.counters.restarts.load(Ordering::Relaxed);
        if restarts > 0 {
            let message = format!("the worker was replaced ({restarts} so far); connections of the old one are gone");
            self.shared.reports.event("warn", errors::ENGINE_RESTARTED, "", message);
        }
        for (key, memory) in heritage.take_below("identity/") {
            let uri = key.trim_end_matches('/');
            let inherited = Identity::parse(uri).map_err(|error| error.to_string()).and_then(|identity| {
                let parts = blob::open(&memory).map_err(|error| error.to_string())?;
                let [key, reply] = &parts[..] else { return Err("not a key and a reply".to_owned()) };
                self.identities.inherit(&identity, key, reply, now).map(drop).map_err(|error| error.to_string())
            });
            if let Err(error) = inherited {
                tracing::warn!(target: "identity", uri, error, "the kept certificate is not used");
                self.safe.drop_prefix(&identity_key(uri));
            }
        }
        self.publish_identities();
        self.publish_world();
        let mut left: HashMap<String, Left> = HashMap::new();
        for (key, descriptor) in heritage.take_below("pod/") {
            // A uid has no slash; the parts below it may.
            if let Some((uid, part)) = key.split_once('/') {
                left.entry(uid.to_owned()).or_default().push((part.to_owned(), descriptor));
            }
        }
        for (uid, parts) in left {
            if let Err(reason) = self.inherit_pod(parts).await {
                tracing::warn!(target: "pods", uid, reason, "the kept pod is not used; the director sends it again");
                self.safe.drop_prefix(&pod_key(&uid));
            }
        }
        for identity in self.identities.without_pods() {
            self.forget_identity(&identity);
        }
    }

    pub(super) async fn inherit_pod(&mut self, parts: Left) -> Result<(), String> {
        let (mut spec, mut netns, mut left) = (None, None, Left::new());
        for (part, descriptor) in parts {
            match part.as_str() {
                "spec" => {
                    let parts = blob::open(&descriptor).map_err(|error| error.to_string())?;
                    let bytes = parts.first().ok_or("no spec")?;
                    spec = Some(AddPod::decode(&bytes[..]).map_err(|error| error.to_string())?);
                }
                "netns" => netns = Some(Netns::from_fd(descriptor).map_err(|error| error.to_string())?),
                _ => left.extend(part.strip_prefix("listen/").map(|name| (name.to_owned(), descriptor))),
            }
        }
        let (spec, netns) = (spec.ok_or("no spec")?, netns.ok_or("no namespace")?);
        if netns.cookie() != spec.netns_cookie {
            return Err("the namespace is another one".to_owned());
        }
        let uid: Arc<str> = spec.uid.as_str().into();
        let mut entry = Entry::new(spec, Instant::now());
        (entry.named, entry.netns) = (false, Some(Arc::new(netns)));
        self.pods.insert(Arc::clone(&uid), entry);
        self.open(&uid, left).await;
        Ok(())
    }
}
