//! SPIFFE identities of workloads, parsed strictly: what is not exactly one of ours is refused, never repaired.
use std::fmt;
use std::sync::Arc;

/// `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`. Cheap to clone, compared whole.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity {
    uri: Arc<str>,
    // Small, for every connection keeps some.
    trust_domain_end: u16,
    namespace_end: u16,
}

/// A SPIFFE trust domain: 1 to 255 of `a-z 0-9 . - _` (SPIFFE-ID, section 2.1).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct TrustDomain(Arc<str>);

/// Why a text is not an identity. The variants are the `reason` values of `proto/vectors/spiffe.json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    #[error("does not start with spiffe://")]
    Scheme,
    #[error("the trust domain is not 1 to 255 of a-z 0-9 . - _")]
    TrustDomain,
    #[error("the path is not /ns/NAMESPACE/sa/SERVICE-ACCOUNT")]
    Path,
    #[error("the namespace is not a DNS-1123 label")]
    Namespace,
    #[error("the service account is not a DNS-1123 subdomain")]
    ServiceAccount,
}

const SCHEME: &str = "spiffe://";

impl Identity {
    /// Identity of a pod's service account.
    pub fn new(trust_domain: &TrustDomain, namespace: &str, service_account: &str) -> Result<Self, IdentityError> {
        Self::parse(&format!("{SCHEME}{}/ns/{namespace}/sa/{service_account}", trust_domain.0))
    }

    /// Parses a URI SAN. Anything but the exact form is an error (the strictness is pinned by `proto/vectors/spiffe.json`).
    pub fn parse(uri: &str) -> Result<Self, IdentityError> {
        let rest = uri.strip_prefix(SCHEME).ok_or(IdentityError::Scheme)?;
        let (trust_domain, path) = rest.split_once('/').ok_or(IdentityError::Path)?;
        TrustDomain::parse(trust_domain)?;
        let mut parts = path.split('/');
        let (Some("ns"), Some(namespace), Some("sa"), Some(service_account), None) =
            (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(IdentityError::Path);
        };
        if !is_label(namespace) {
            return Err(IdentityError::Namespace);
        }
        if service_account.len() > 253 || !service_account.split('.').all(is_label) {
            return Err(IdentityError::ServiceAccount);
        }
        let trust_domain_end = SCHEME.len() + trust_domain.len();
        let namespace_end = trust_domain_end + "/ns/".len() + namespace.len();
        // Both are bounded by now, far below 65,536.
        let short = |end: usize| u16::try_from(end).map_err(|_| IdentityError::TrustDomain);
        Ok(Self { uri: uri.into(), trust_domain_end: short(trust_domain_end)?, namespace_end: short(namespace_end)? })
    }

    pub fn as_str(&self) -> &str {
        &self.uri
    }

    /// The form that policies compare: without `spiffe://`.
    pub fn principal(&self) -> &str {
        &self.uri[SCHEME.len()..]
    }

    pub fn trust_domain(&self) -> &str {
        &self.uri[SCHEME.len()..self.trust_domain_end.into()]
    }

    pub fn namespace(&self) -> &str {
        &self.uri[usize::from(self.trust_domain_end) + "/ns/".len()..self.namespace_end.into()]
    }

    pub fn service_account(&self) -> &str {
        &self.uri[usize::from(self.namespace_end) + "/sa/".len()..]
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri)
    }
}

impl TrustDomain {
    pub fn parse(name: &str) -> Result<Self, IdentityError> {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
        if (1..=255).contains(&name.len()) && name.bytes().all(allowed) { Ok(Self(name.into())) } else { Err(IdentityError::TrustDomain) }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// DNS-1123 label: 1 to 63 of `a-z 0-9 -`, not starting or ending with `-` (Kubernetes object names).
fn is_label(name: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=63).contains(&name.len()) && name.bytes().all(inner) && !name.starts_with('-') && !name.ends_with('-')
}
