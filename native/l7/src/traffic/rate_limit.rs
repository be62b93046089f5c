//! How many requests are admitted in a time, for all or for each of those who differ in something.
use super::about::About;
use super::bucket::{Bucket, Rate};
use super::clock;
use super::fair::{Fair, LEAST_BURST};
use super::keyed::Keyed;
use super::selector::Selector;
use crate::invalid::{At, Invalid, Parsed, each, set};
use crate::matching::header_name;
use http::HeaderName;
use prost::Message;
use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};
use trackbed_contract::traffic;

/// As proto/traffic.proto says.
const KEYS: u32 = 10_000;
const KEYS_MAX: u32 = 1_000_000;

#[derive(Debug)]
pub(super) struct RateLimit {
    selector: Selector,
    limiter: Arc<Limiter>,
}

/// Shared by all threads, and by all settings that name it.
#[derive(Debug)]
pub(crate) struct Limiter {
    name: Box<str>,
    /// None: nothing is admitted.
    rate: Option<Rate>,
    keys: Box<[Key]>,
    buckets: Buckets,
    /// What keys are hashed by: nobody outside can make two of them meet.
    random: RandomState,
}

#[derive(Debug)]
enum Buckets {
    One(Bucket),
    Fair(Fair),
    Keyed(Box<Keyed>),
}

#[derive(Debug)]
enum Key {
    Identity,
    Namespace,
    Header(HeaderName),
    Path,
    Method,
    SourceAddress,
    Route,
}

/// Too much, and until when.
#[derive(Debug)]
pub(crate) struct Exceeded {
    pub(crate) limiter: Arc<Limiter>,
    /// None: it will never be admitted.
    pub(crate) wait: Option<Duration>,
}

/// Those that are in force, by everything that says how they count: one that stays as it is goes on as it was.
pub(super) type Limiters = HashMap<Vec<u8>, Arc<Limiter>>;

impl RateLimit {
    pub(super) fn parse(from: &traffic::RateLimit, known: &mut Limiters) -> Parsed<Self> {
        let selector = Selector::parse(from.selector.as_ref()).at("selector")?;
        let counts = traffic::RateLimit { selector: None, ..from.clone() }.encode_to_vec();
        let limiter = match known.get(&counts) {
            Some(limiter) => Arc::clone(limiter),
            None => Arc::new(Limiter::parse(from)?),
        };
        known.insert(counts, Arc::clone(&limiter));
        Ok(Self { selector, limiter })
    }

    pub(super) fn limiter(&self) -> &Arc<Limiter> {
        &self.limiter
    }

    pub(super) fn take(&self, about: &About<'_>, now: Instant) -> Result<(), Exceeded> {
        if !self.selector.selects(about) {
            return Ok(());
        }
        self.limiter.take(about, now).map_err(|wait| Exceeded { limiter: Arc::clone(&self.limiter), wait })
    }
}

impl Limiter {
    fn parse(from: &traffic::RateLimit) -> Parsed<Self> {
        if from.name.is_empty() {
            return Err(Invalid::because("is not set")).at("name");
        }
        if from.interval_milliseconds == 0 {
            return Err(Invalid::because("is 0")).at("interval_milliseconds");
        }
        let keys = each("keys", &from.keys, Key::parse)?;
        if from.fair && !keys.is_empty() {
            return Err(Invalid::because("there are keys, each of which has a bucket of its own")).at("fair");
        }
        let max_keys = match from.max_keys {
            0 => KEYS,
            keys if keys > KEYS_MAX => return Err(Invalid::because(format!("{keys} is more than {KEYS_MAX}"))).at("max_keys"),
            keys => keys,
        };
        let burst = if from.burst == 0 { from.requests } else { from.burst };
        let burst = if from.fair { burst.max(LEAST_BURST) } else { burst };
        let interval = Duration::from_millis(from.interval_milliseconds.into());
        let buckets = match (from.fair, keys.is_empty()) {
            (true, _) => Buckets::Fair(Fair::default()),
            (false, true) => Buckets::One(Bucket::default()),
            (false, false) => Buckets::Keyed(Box::new(Keyed::new(max_keys))),
        };
        let rate = Rate::new(from.requests, interval, burst);
        Ok(Self { name: from.name.as_str().into(), rate, keys, buckets, random: RandomState::new() })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Requests of keys that there was no room for.
    pub(crate) fn keys_shared(&self) -> u64 {
        if let Buckets::Keyed(keyed) = &self.buckets { keyed.shared() } else { 0 }
    }

    fn take(&self, about: &About<'_>, now: Instant) -> Result<(), Option<Duration>> {
        let rate = self.rate.ok_or(None)?;
        let now = clock::nanoseconds(now);
        let taken = match &self.buckets {
            Buckets::One(bucket) => bucket.take(rate, now),
            Buckets::Fair(fair) => fair.take(self.hash(&[Key::Identity], about), rate, now),
            Buckets::Keyed(keyed) => keyed.take(self.hash(&self.keys, about), rate, now),
        };
        taken.map_err(Some)
    }

    fn hash(&self, keys: &[Key], about: &About<'_>) -> u64 {
        let mut hasher = self.random.build_hasher();
        for key in keys {
            key.hash(about, &mut hasher);
        }
        hasher.finish()
    }
}

impl Key {
    fn parse(from: &traffic::RateLimitKey) -> Parsed<Self> {
        use traffic::rate_limit_key::Kind;
        Ok(match set("kind", from.kind.as_ref())? {
            Kind::Identity(_) => Self::Identity,
            Kind::Namespace(_) => Self::Namespace,
            Kind::Header(name) => Self::Header(header_name(name).at("header")?),
            Kind::Path(_) => Self::Path,
            Kind::Method(_) => Self::Method,
            Kind::SourceAddress(_) => Self::SourceAddress,
            Kind::Route(_) => Self::Route,
        })
    }

    fn hash(&self, about: &About<'_>, hasher: &mut impl Hasher) {
        match self {
            Self::Identity => about.client.identity.as_ref().map(trackbed_contract::Identity::as_str).hash(hasher),
            Self::Namespace => about.client.namespace().hash(hasher),
            // All of its values: a client that sends two is not one that sends the first.
            Self::Header(name) => {
                for value in about.request.headers.get_all(name).iter().filter(|value| !value.is_empty()) {
                    value.as_bytes().hash(hasher);
                }
                0_u8.hash(hasher);
            }
            Self::Path => about.path.hash(hasher),
            Self::Method => about.request.method.hash(hasher),
            Self::SourceAddress => about.client.address.ip().to_canonical().hash(hasher),
            Self::Route => {
                about.route.map(|route| (&route.kind, &route.namespace, &route.name, route.index)).hash(hasher);
            }
        }
    }
}
