//! Why a connection is refused or cut, in the words of flow, log and response.
use trackbed_contract::tables::errors;
use trackbed_policy::{PolicyRef, Refused};

/// What the peer of a tunnel is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// The request asks for something that nobody may ask for.
    BadRequest,
    /// Policy.
    Unauthorized,
    /// Not now, or not here.
    Unavailable,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {reason}")]
pub struct Refusal {
    /// From the errors of proto/tables.json.
    pub code: &'static str,
    pub reason: String,
    /// The policy that decided, where one did.
    pub policy: Option<PolicyRef>,
    pub status: Status,
}

impl Status {
    pub fn code(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::Unauthorized => 401,
            Self::Unavailable => 503,
        }
    }
}

impl Refusal {
    /// Worth holding the connection for, at most `settings.hold`: the next world may know what is missing.
    pub fn may_pass(&self) -> bool {
        matches!(self.code, errors::WORKLOAD_UNKNOWN | errors::POLICY_UNKNOWN | errors::ROUTES_UNKNOWN)
    }

    /// The destination is not one to ask for.
    pub(crate) fn destination(reason: impl Into<String>) -> Self {
        Self { code: errors::DESTINATION_REFUSED, reason: reason.into(), policy: None, status: Status::BadRequest }
    }

    pub(crate) fn own_port(port: u16) -> Self {
        let reason = format!("port {port} is one of the mesh's own");
        Self { code: errors::DESTINATION_OWN_PORT, reason, policy: None, status: Status::Unavailable }
    }

    pub(crate) fn unavailable(code: &'static str, reason: impl Into<String>) -> Self {
        Self { code, reason: reason.into(), policy: None, status: Status::Unavailable }
    }

    pub(crate) fn identity(reason: impl Into<String>) -> Self {
        Self { code: errors::IDENTITY_MISMATCH, reason: reason.into(), policy: None, status: Status::Unauthorized }
    }
}

impl From<Refused> for Refusal {
    fn from(refused: Refused) -> Self {
        Self { code: refused.code, reason: refused.reason, policy: Some(refused.policy), status: Status::Unauthorized }
    }
}
