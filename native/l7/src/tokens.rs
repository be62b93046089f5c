//! The token of a request: found, verified once and remembered, taken out or passed on, and its claims as policies see them.
use crate::invalid::{At, Invalid, Parsed, each};
use crate::token_place::{Place, header_name};
use http::request::Parts;
use http::{HeaderName, HeaderValue};
use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};
use trackbed_contract::authorization as wire;
use trackbed_jwt::{Keys, Refused, SKEW, Token as Signed};
use trackbed_policy::Token;

/// Verified tokens that are remembered, and their bytes, twice: when they are too many the older half is forgotten.
const MOST_REMEMBERED: usize = 1024;
const MOST_REMEMBERED_BYTES: usize = 1024 * 1024;
/// Of rules for one service.
const MOST_RULES: usize = 64;
/// A token without an end is looked at again after that many seconds.
const ENDLESS: u64 = 300;

/// Every RequestAuthentication of a service. New keys make new ones of these, and nothing is remembered then.
#[derive(Debug, Default)]
pub(crate) struct Tokens {
    rules: Box<[Rule]>,
    /// Headers that only we write.
    written: Box<[HeaderName]>,
    remembered: Mutex<Remembered>,
}

#[derive(Debug)]
struct Rule {
    grounds: Arc<Grounds>,
    keys: Keys,
    /// Why there are none.
    missing: String,
    places: Vec<Place>,
    forward: bool,
    payload_header: Option<HeaderName>,
    claim_headers: Box<[(HeaderName, Vec<String>)]>,
    spaced: Vec<String>,
}

/// What a token is accepted on. Two services for which the same RequestAuthentication holds have rules on the same grounds.
#[derive(Debug, PartialEq, Eq)]
struct Grounds {
    policy: Arc<str>,
    issuer: String,
    audiences: Vec<String>,
}

/// What was verified.
#[derive(Debug)]
pub(crate) struct Accepted {
    rule: usize,
    grounds: Arc<Grounds>,
    pub(crate) token: Arc<Token>,
    headers: Vec<(HeaderName, HeaderValue)>,
    /// Unix seconds.
    until: u64,
}

#[derive(Debug, Default)]
struct Remembered {
    new: HashMap<Box<str>, Arc<Accepted>>,
    old: HashMap<Box<str>, Arc<Accepted>>,
    new_bytes: usize,
}

/// Why a request is answered 401.
#[derive(Debug)]
pub(crate) struct Denied {
    pub(crate) why: Refused,
    pub(crate) policy: Arc<str>,
    /// For operators.
    pub(crate) reason: String,
}

impl Tokens {
    pub(crate) fn parse(from: &[wire::TokenRule]) -> Parsed<Self> {
        if from.len() > MOST_RULES {
            return Err(Invalid::because(format!("has {} rules, more than {MOST_RULES}", from.len()))).at("tokens");
        }
        let rules = each("tokens", from, Rule::parse)?;
        let written = rules.iter().flat_map(|rule| rule.payload_header.iter().chain(rule.claim_headers.iter().map(|(name, _)| name)));
        let written = written.cloned().collect();
        Ok(Self { rules, written, remembered: Mutex::default() })
    }

    /// Nobody's token is read.
    pub(crate) fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// None: no token, which policies may object to. What the client sent in headers that are ours is taken out in any case.
    ///
    /// `earlier`: what another service's rules accepted of the same request, and may have taken out of it.
    pub(crate) fn authenticate(
        &self,
        request: &mut Parts,
        earlier: Option<&Arc<Accepted>>,
        now: SystemTime,
    ) -> Result<Option<Arc<Accepted>>, Denied> {
        if self.rules.is_empty() {
            return Ok(None);
        }
        for name in &self.written {
            request.headers.remove(name);
        }
        let found: Vec<(usize, &Place, Cow<'_, str>)> = self.found(request).collect();
        let Some((first, _, text)) = found.first() else {
            let accepted = earlier.filter(|earlier| self.rules.iter().any(|rule| rule.grounds == earlier.grounds));
            accepted.inspect(|accepted| accepted.tell(request));
            return Ok(accepted.cloned());
        };
        if found.iter().any(|(.., other)| other != text) {
            return Err(self.denied(*first, Refused::Several));
        }
        let now = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let fits = |accepted: &Accepted| now <= accepted.until && found.iter().any(|(rule, ..)| *rule == accepted.rule);
        let remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner).get(text).filter(|accepted| fits(accepted));
        let accepted = if let Some(accepted) = remembered {
            accepted
        } else {
            let accepted = Arc::new(self.verify(text, found.iter().map(|(rule, ..)| *rule), now)?);
            self.remembered.lock().unwrap_or_else(PoisonError::into_inner).put(text, &accepted);
            accepted
        };
        if !self.rules[accepted.rule].forward {
            let places: Vec<&Place> = found.iter().map(|(_, place, _)| *place).collect();
            if !places.iter().all(|place| place.take_out(request)) {
                return Err(self.denied(accepted.rule, Refused::Malformed));
            }
        }
        accepted.tell(request);
        Ok(Some(accepted))
    }

    fn found<'s, 'r>(&'s self, request: &'r Parts) -> impl Iterator<Item = (usize, &'s Place, Cow<'r, str>)> + use<'s, 'r> {
        let places = self.rules.iter().enumerate().flat_map(|(number, rule)| rule.places.iter().map(move |place| (number, place)));
        places.flat_map(|(number, place)| place.tokens(request).into_iter().map(move |token| (number, place, token)))
    }

    /// By the first of those rules that accepts it: of its issuer, with one of the issuer's keys.
    fn verify(&self, text: &str, rules: impl Iterator<Item = usize>, now: u64) -> Result<Accepted, Denied> {
        let mut rules = rules.peekable();
        let first = rules.peek().copied().unwrap_or_default();
        let signed = Signed::parse(text).map_err(|why| self.denied(first, why))?;
        let mut refused = self.denied(first, Refused::Issuer);
        for number in rules {
            let rule = &self.rules[number];
            if signed.issuer() != Some(rule.grounds.issuer.as_str()) {
                continue;
            }
            match signed.verify(&rule.keys, &rule.grounds.audiences, now).and_then(|()| signed.expires()) {
                Err(why) => refused = self.denied(number, why),
                Ok(expires) => {
                    let until = expires.map_or(now + ENDLESS, |expires| expires.saturating_add(SKEW));
                    let payload = signed.payload();
                    let token = Arc::new(Token::of(signed.into_claims(), &rule.spaced));
                    let (grounds, headers) = (Arc::clone(&rule.grounds), rule.headers(&token, payload));
                    return Ok(Accepted { rule: number, grounds, token, headers, until });
                }
            }
        }
        Err(refused)
    }

    fn denied(&self, rule: usize, why: Refused) -> Denied {
        let rule = &self.rules[rule];
        let more = if why == Refused::NoKey && !rule.missing.is_empty() { format!(": {}", rule.missing) } else { String::new() };
        let policy = &rule.grounds.policy;
        Denied { why, policy: Arc::clone(policy), reason: format!("{policy}: {why}{more}") }
    }
}

impl Accepted {
    /// In the headers that only we write.
    fn tell(&self, request: &mut Parts) {
        for (name, value) in &self.headers {
            request.headers.insert(name, value.clone());
        }
    }
}

impl Rule {
    fn parse(from: &wire::TokenRule) -> Parsed<Self> {
        let named = |place: &str, text: &String| {
            if text.is_empty() { Err(Invalid::because("is empty")).at(place) } else { Ok(text.clone()) }
        };
        // Without keys every token of the issuer is refused: that is what a set that cannot be read comes to.
        let (keys, unread) = match Keys::parse(&from.jwks) {
            Ok(keys) if keys.is_empty() => (keys, "none of the issuer's keys can be used".to_owned()),
            Ok(keys) => (keys, String::new()),
            Err(cause) => (Keys::default(), cause.to_string()),
        };
        let claim_header = |from: &wire::ClaimHeader| {
            if from.claim.is_empty() || from.claim.iter().any(String::is_empty) {
                return Err(Invalid::because("is empty")).at("claim");
            }
            Ok((header_name(&from.header).at("header")?, from.claim.clone()))
        };
        let payload_header = Some(&from.payload_header).filter(|name| !name.is_empty());
        let grounds = Grounds {
            policy: named("policy", &from.policy)?.into(),
            issuer: named("issuer", &from.issuer)?,
            audiences: from.audiences.clone(),
        };
        Ok(Self {
            grounds: Arc::new(grounds),
            keys,
            missing: if from.missing.is_empty() { unread } else { from.missing.clone() },
            places: Place::parse(from)?,
            forward: from.forward,
            payload_header: payload_header.map(|name| header_name(name)).transpose().at("payload_header")?,
            claim_headers: each("claim_headers", &from.claim_headers, claim_header)?,
            spaced: from.spaced_claims.clone(),
        })
    }

    fn headers(&self, token: &Token, payload: &str) -> Vec<(HeaderName, HeaderValue)> {
        let claims = self.claim_headers.iter().filter_map(|(name, claim)| Some((name, text(token.claim(claim)?)?)));
        let all = self.payload_header.iter().map(|name| (name, payload.to_owned())).chain(claims);
        all.filter_map(|(name, value)| Some((name.clone(), HeaderValue::from_str(&value).ok()?))).collect()
    }
}

fn text(claim: &serde_json::Value) -> Option<String> {
    match claim {
        serde_json::Value::String(text) => Some(text.clone()),
        serde_json::Value::Bool(_) | serde_json::Value::Number(_) => Some(claim.to_string()),
        _ => None,
    }
}

impl Remembered {
    fn get(&self, token: &str) -> Option<Arc<Accepted>> {
        self.new.get(token).or_else(|| self.old.get(token)).cloned()
    }

    fn put(&mut self, token: &str, accepted: &Arc<Accepted>) {
        if self.new.len() >= MOST_REMEMBERED || self.new_bytes + token.len() > MOST_REMEMBERED_BYTES {
            self.old = std::mem::take(&mut self.new);
            self.new_bytes = 0;
        }
        if self.new.insert(token.into(), Arc::clone(accepted)).is_none() {
            self.new_bytes += token.len();
        }
    }
}
