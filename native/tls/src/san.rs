//! The one identity of a certificate: exactly one URI as subject alternative name, in exactly the form of a mesh identity.
use trackbed_contract::{Identity, IdentityError};
use x509_parser::extensions::{GeneralName, SubjectAlternativeName};
use x509_parser::prelude::{FromDer, X509Certificate};

/// Why a certificate names no identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SanError {
    #[error("the certificate does not parse as X.509: {0}")]
    Certificate(String),
    #[error("it has no subject alternative name")]
    Missing,
    #[error("it has {0} subject alternative names, exactly one URI is allowed")]
    Several(usize),
    #[error("its subject alternative name is not a URI")]
    NotUri,
    #[error("{uri:?}: {reason}")]
    Uri { uri: String, reason: IdentityError },
}

/// Reads the identity out of a DER certificate. The common name is never looked at, and no name is skipped to find a better one.
pub fn identity_of(certificate: &[u8]) -> Result<Identity, SanError> {
    let parsed = parse(certificate)?;
    let names = alternative_names(&parsed)?;
    match names.general_names.as_slice() {
        [] => Err(SanError::Missing),
        [GeneralName::URI(uri)] => Identity::parse(uri).map_err(|reason| SanError::Uri { uri: shorten(uri), reason }),
        [_] => Err(SanError::NotUri),
        several => Err(SanError::Several(several.len())),
    }
}

/// A certificate with nothing after its end.
pub(crate) fn parse(certificate: &[u8]) -> Result<X509Certificate<'_>, SanError> {
    match X509Certificate::from_der(certificate) {
        Ok(([], parsed)) => Ok(parsed),
        Ok((rest, _)) => Err(SanError::Certificate(format!("{} bytes follow it", rest.len()))),
        Err(error) => Err(SanError::Certificate(error.to_string())),
    }
}

/// `subject_alternative_name` of the parser fails on a doubled extension, which is what we want.
fn alternative_names<'a>(certificate: &'a X509Certificate<'_>) -> Result<&'a SubjectAlternativeName<'a>, SanError> {
    match certificate.subject_alternative_name() {
        Ok(Some(extension)) => Ok(extension.value),
        Ok(None) => Err(SanError::Missing),
        Err(error) => Err(SanError::Certificate(error.to_string())),
    }
}

/// A hostile name must not fill a log line: 256 characters identify it.
fn shorten(uri: &str) -> String {
    uri.chars().take(256).collect()
}
