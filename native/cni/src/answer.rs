//! What the plugin prints: a result that it passes through, or the specification's error object, worded for the Event that people read.
use serde_json::{Value, json};

use crate::tables::errors;

/// Error numbers of the CNI specification.
const INCOMPATIBLE_VERSION: u32 = 1;
const INVALID_ENVIRONMENT: u32 = 4;
const IO_FAILURE: u32 = 5;
const UNDECODABLE: u32 = 6;
const INVALID_CONFIG: u32 = 7;
const TRY_AGAIN_LATER: u32 = 11;

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) text: String,
    pub(crate) failed: bool,
}

/// Why a verb failed. The code is one of proto/tables.json; the kubelet shows reason, code and next step in the pod's Event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    number: u32,
    pub(crate) code: String,
    pub(crate) reason: String,
    next: String,
}

impl Failure {
    pub(crate) fn environment(reason: String) -> Self {
        Self::request(INVALID_ENVIRONMENT, reason)
    }

    pub(crate) fn config(reason: String) -> Self {
        Self::request(INVALID_CONFIG, reason)
    }

    pub(crate) fn undecodable(reason: String) -> Self {
        Self::request(UNDECODABLE, reason)
    }

    pub(crate) fn version(reason: String) -> Self {
        Self::request(INCOMPATIBLE_VERSION, reason)
    }

    pub(crate) fn io(reason: String) -> Self {
        Self::request(IO_FAILURE, reason)
    }

    fn request(number: u32, reason: String) -> Self {
        Self { number, ..Self::later(errors::CNI_REQUEST_INVALID, reason) }
    }

    /// The kubelet tries again, whatever the number; this one says that it makes sense.
    pub(crate) fn later(code: &str, reason: String) -> Self {
        let next = errors::NEXT.iter().find(|(known, _)| *known == code).map_or("", |(_, next)| next);
        Self { number: TRY_AGAIN_LATER, code: code.to_owned(), reason, next: next.to_owned() }
    }
}

impl Answer {
    pub(crate) fn nothing() -> Self {
        Self { text: String::new(), failed: false }
    }

    pub(crate) fn json(value: &Value) -> Self {
        Self { text: format!("{value}\n"), failed: false }
    }

    pub(crate) fn from_failure(version: &str, failure: &Failure) -> Self {
        let Failure { number, code, reason, next } = failure;
        let error = json!({ "cniVersion": version, "code": number, "msg": format!("{reason} ({code})"), "details": next });
        Self { text: format!("{error}\n"), failed: true }
    }
}
