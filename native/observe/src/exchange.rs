//! A request and its answer, when both have passed.
use std::time::Duration;

use crate::Protocol;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exchange {
    /// HTTP/1.1, HTTP/2 or gRPC.
    pub protocol: Protocol,
    /// None when no answer came.
    pub status: Option<u16>,
    /// Of gRPC, when the answer came to its end.
    pub grpc_status: Option<u16>,
    /// From the first byte of the request to the last of its answer.
    pub duration: Duration,
}

/// Why requests of a connection are not followed to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GaveUp {
    /// Bytes passed unseen.
    Gap,
    /// It breaks its protocol's rules.
    Malformed,
    /// More would have to be kept than may be.
    Bound,
}

impl GaveUp {
    pub const ALL: [Self; 3] = [Self::Gap, Self::Malformed, Self::Bound];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Gap => "gap",
            Self::Malformed => "malformed",
            Self::Bound => "bound",
        }
    }
}
