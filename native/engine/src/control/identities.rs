//! The certificates of this node's identities: a key made here, a request, a checked reply, a renewal at half life.
//!
//! Pure but for the keys: what is to be asked, kept and published comes out as values.
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use prost::Message;
use trackbed_contract::Identity;
use trackbed_contract::engine::{CertificateReply, CertificateRequest};
use trackbed_contract::tables::errors;
use trackbed_tls::{Certified, KeyPair, TlsError};
use zeroize::Zeroizing;

const FIRST_RETRY: Duration = Duration::from_millis(500);
const LONGEST_RETRY: Duration = Duration::from_secs(150);
/// The CA's own limit is shorter: an answer that is later than this was lost with a stream.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// A certificate that has already passed half of its life is renewed at once, but not in a loop.
const SOONEST_RENEWAL: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(crate) struct Identities {
    known: HashMap<Identity, Known>,
    next_request: u64,
}

#[derive(Debug)]
struct Known {
    /// Pods of this node that are this identity.
    pods: BTreeSet<Arc<str>>,
    certified: Option<Arc<Certified>>,
    request: Option<Request>,
    /// When to ask next.
    due: Instant,
    retry: Duration,
    trouble: Option<Trouble>,
}

#[derive(Debug)]
struct Request {
    id: u64,
    key: Arc<KeyPair>,
    sent: Instant,
}

/// Why there is no certificate, or no newer one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Trouble {
    pub(crate) code: String,
    pub(crate) reason: String,
}

/// What a reply came to.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// To be published and left with the keeper.
    Certified {
        certified: Arc<Certified>,
        key: Zeroizing<Vec<u8>>,
        reply: Vec<u8>,
    },
    Failed {
        identity: Identity,
        trouble: Trouble,
    },
    /// Of a request that nobody waits for any more.
    Stale,
}

impl Identities {
    pub(crate) fn add(&mut self, identity: &Identity, uid: &Arc<str>, now: Instant) {
        self.known.entry(identity.clone()).or_insert_with(|| Known::new(now)).pods.insert(Arc::clone(uid));
    }

    /// True when this was the identity's last pod: key and certificate are to be forgotten everywhere.
    pub(crate) fn remove(&mut self, identity: &Identity, uid: &str) -> bool {
        let Some(known) = self.known.get_mut(identity) else { return false };
        known.pods.remove(uid);
        known.pods.is_empty() && self.known.remove(identity).is_some()
    }

    /// A certificate that an earlier worker left. One that does not stand the checks any more is as if there were none.
    pub(crate) fn inherit(&mut self, identity: &Identity, key: &[u8], reply: &[u8], now: Instant) -> Result<Arc<Certified>, TlsError> {
        let reply = CertificateReply::decode(reply).map_err(|error| TlsError::Key(error.to_string()))?;
        let key = Arc::new(KeyPair::deserialize(key)?);
        let certified = Arc::new(Certified::new(identity, key, &reply.chain, &reply.roots, SystemTime::now())?);
        let known = self.known.entry(identity.clone()).or_insert_with(|| Known::new(now));
        known.due = now + renewal(&certified);
        known.certified = Some(Arc::clone(&certified));
        Ok(certified)
    }

    /// Identities inherited without a pod: nobody came back for them.
    pub(crate) fn without_pods(&self) -> Vec<Identity> {
        self.known.iter().filter(|(_, known)| known.pods.is_empty()).map(|(identity, _)| identity.clone()).collect()
    }

    pub(crate) fn forget(&mut self, identity: &Identity) {
        self.known.remove(identity);
    }

    /// The stream to the director is new: what was asked on the old one will not be answered.
    pub(crate) fn reconnected(&mut self, now: Instant) {
        for known in self.known.values_mut() {
            if known.request.take().is_some() {
                known.due = now;
            }
        }
    }

    /// What is to be asked now.
    pub(crate) fn due(&mut self, now: Instant) -> Vec<CertificateRequest> {
        let mut requests = Vec::new();
        for (identity, known) in &mut self.known {
            if known.request.as_ref().is_some_and(|request| now.duration_since(request.sent) > ANSWER_LIMIT) {
                known.failed(now, errors::CONTROL_AWAY, format!("no answer within {} s", ANSWER_LIMIT.as_secs()));
            }
            let Some(pod) = known.pods.first() else { continue };
            if known.request.is_some() || known.due > now {
                continue;
            }
            let made = KeyPair::generate().and_then(|key| Ok((key.csr(identity)?, key)));
            match made {
                Ok((csr, key)) => {
                    self.next_request += 1;
                    let request =
                        CertificateRequest { request_id: self.next_request, identity: identity.to_string(), pod_uid: pod.to_string(), csr };
                    known.request = Some(Request { id: self.next_request, key: Arc::new(key), sent: now });
                    requests.push(request);
                }
                Err(error) => known.failed(now, error.code(), error.to_string()),
            }
        }
        requests
    }

    pub(crate) fn reply(&mut self, reply: &CertificateReply, now: Instant) -> Outcome {
        let answered = |known: &Known| known.request.as_ref().is_some_and(|request| request.id == reply.request_id);
        let Some((identity, known)) = self.known.iter_mut().find(|(_, known)| answered(known)) else { return Outcome::Stale };
        let Some(request) = known.request.take() else { return Outcome::Stale };
        let result = if reply.code.is_empty() {
            Certified::new(identity, Arc::clone(&request.key), &reply.chain, &reply.roots, SystemTime::now())
                .map_err(|error| (error.code().to_owned(), error.to_string()))
        } else {
            Err((reply.code.clone(), reply.reason.clone()))
        };
        match result {
            Ok(certified) => {
                let certified = Arc::new(certified);
                known.certified = Some(Arc::clone(&certified));
                (known.retry, known.trouble) = (FIRST_RETRY, None);
                known.due = now + renewal(&certified);
                Outcome::Certified { certified, key: request.key.serialize(), reply: reply.encode_to_vec() }
            }
            Err((code, reason)) => {
                known.failed(now, &code, reason);
                Outcome::Failed {
                    identity: identity.clone(),
                    trouble: known.trouble.clone().unwrap_or(Trouble { code, reason: String::new() }),
                }
            }
        }
    }

    pub(crate) fn certified(&self, identity: &Identity) -> Option<&Arc<Certified>> {
        self.known.get(identity)?.certified.as_ref().filter(|certified| certified.check(SystemTime::now()).is_ok())
    }

    pub(crate) fn trouble(&self, identity: &Identity) -> Option<&Trouble> {
        self.known.get(identity)?.trouble.as_ref()
    }

    /// For all threads.
    pub(crate) fn published(&self) -> HashMap<Identity, Arc<Certified>> {
        self.known.iter().filter_map(|(identity, known)| Some((identity.clone(), Arc::clone(known.certified.as_ref()?)))).collect()
    }
}

impl Known {
    fn new(now: Instant) -> Self {
        Self { pods: BTreeSet::new(), certified: None, request: None, due: now, retry: FIRST_RETRY, trouble: None }
    }

    fn failed(&mut self, now: Instant, code: &str, reason: String) {
        self.request = None;
        self.trouble = Some(Trouble { code: code.to_owned(), reason });
        self.due = now + self.retry.mul_f64(0.75 + fastrand::f64() / 2.0);
        self.retry = (self.retry * 2).min(LONGEST_RETRY);
    }
}

/// Half of the whole life, a tenth earlier or later so that a node's identities do not all renew at once.
fn renewal(certified: &Certified) -> Duration {
    let life = certified.not_after().duration_since(certified.not_before()).unwrap_or_default();
    let at = certified.not_before() + life.mul_f64(0.45 + fastrand::f64() / 10.0);
    at.duration_since(SystemTime::now()).unwrap_or_default().max(SOONEST_RENEWAL)
}
