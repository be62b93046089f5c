//! What is enforced for one service: its policies, in the form in which requests are decided.
use crate::invalid::{At, Invalid, Parsed, each};
use crate::provider::Provider;
use crate::tokens::Tokens;
use prost::Message;
use trackbed_contract::authorization as wire;
use trackbed_policy::Policies;

/// The name of the resource for clients that address pods by their own addresses.
pub(crate) const OF_PODS: &str = "*";

#[derive(Debug)]
pub(crate) struct Access {
    pub(crate) tokens: Tokens,
    pub(crate) policies: Policies,
    providers: Box<[Provider]>,
    pub(crate) trusted_proxies: usize,
    /// Not in place of one that was rejected.
    pub(crate) usable: bool,
}

/// Proxies in a row that anybody has.
const MOST_PROXIES: u32 = 16;

impl Access {
    pub(crate) fn decode(name: &str, body: &[u8]) -> Result<Self, String> {
        let wire = wire::Access::decode(body).map_err(|cause| cause.to_string())?;
        if wire.service != name {
            return Err(format!("the resource is named {name} and speaks of {:?}", wire.service));
        }
        // A condition that was dropped would open what it closes. There are no maps in it: every encoder writes the same number of bytes.
        if wire.encoded_len() != body.len() {
            return Err("it has fields that this version does not know".to_owned());
        }
        Self::parse(&wire).map_err(|invalid| invalid.to_string())
    }

    fn parse(wire: &wire::Access) -> Parsed<Self> {
        let policies = Policies::from_wire(&wire.policies).map_err(|error| Invalid::because(error.to_string()))?;
        let providers = each("providers", &wire.providers, Provider::parse)?;
        let known = |name: &str| providers.iter().any(|provider| *provider.name == *name);
        if let Some((policy, provider)) = policies.providers().find(|(_, provider)| !known(provider)) {
            return Err(Invalid::because(format!("{policy} asks {provider:?}, which is not there"))).at("providers");
        }
        let tokens = Tokens::parse(&wire.tokens)?;
        let trusted_proxies =
            Some(wire.trusted_proxies).filter(|count| *count <= MOST_PROXIES).and_then(|count| usize::try_from(count).ok());
        let trusted_proxies = trusted_proxies.ok_or_else(|| Invalid::because("is not a number of proxies")).at("trusted_proxies")?;
        Ok(Self { tokens, policies, providers, trusted_proxies, usable: true })
    }

    /// One that a policy names; `parse` has seen that it is there.
    pub(crate) fn provider(&self, name: &str) -> Option<&Provider> {
        self.providers.iter().find(|provider| *provider.name == *name)
    }

    /// In place of one that cannot be used: it denies everything.
    pub(crate) fn unusable(name: &str, reason: &str) -> Self {
        Self {
            tokens: Tokens::default(),
            policies: Policies::unusable(name, reason),
            providers: Box::default(),
            trusted_proxies: 0,
            usable: false,
        }
    }
}
