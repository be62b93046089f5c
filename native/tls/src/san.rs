//! The one identity of a certificate: exactly one URI as subject alternative name, in exactly the form of a mesh identity.
use trackbed_contract::{Identity, IdentityError};
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::oid_registry::OID_X509_EXT_SUBJECT_ALT_NAME;
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
    #[error("its subject alternative names are not valid DER")]
    Encoding,
    #[error("{uri:?}: {reason}")]
    Uri { uri: String, reason: IdentityError },
}

/// Reads the identity out of a DER certificate. The common name is never looked at, and no name is skipped to find a better one.
pub fn identity_of(certificate: &[u8]) -> Result<Identity, SanError> {
    let parsed = parse(certificate)?;
    // "Unique" fails on a doubled extension, which is what we want.
    let extension =
        parsed.get_extension_unique(&OID_X509_EXT_SUBJECT_ALT_NAME).map_err(|error| SanError::Certificate(error.to_string()))?;
    let extension = extension.ok_or(SanError::Missing)?;
    let ParsedExtension::SubjectAlternativeName(names) = extension.parsed_extension() else {
        return Err(SanError::Encoding);
    };
    let uri = match names.general_names.as_slice() {
        [] => return Err(SanError::Missing),
        [GeneralName::URI(uri)] => uri,
        [_] => return Err(SanError::NotUri),
        several => return Err(SanError::Several(several.len())),
    };
    let identity = Identity::parse(uri).map_err(|reason| SanError::Uri { uri: shorten(uri), reason })?;
    // The parser forgives what DER forbids; there is one right encoding, so compare with it.
    if extension.value == encoded(0x30, &encoded(0x86, uri.as_bytes())) { Ok(identity) } else { Err(SanError::Encoding) }
}

/// One DER element; a name of a mesh identity is far shorter than 64 KiB.
fn encoded(tag: u8, content: &[u8]) -> Vec<u8> {
    let [high, low] = u16::try_from(content.len()).unwrap_or(u16::MAX).to_be_bytes();
    let head: &[u8] = match (high, low) {
        (0, ..0x80) => &[tag, low],
        (0, _) => &[tag, 0x81, low],
        _ => &[tag, 0x82, high, low],
    };
    [head, content].concat()
}

/// A certificate with nothing after its end.
pub(crate) fn parse(certificate: &[u8]) -> Result<X509Certificate<'_>, SanError> {
    match X509Certificate::from_der(certificate) {
        Ok(([], parsed)) => Ok(parsed),
        Ok((rest, _)) => Err(SanError::Certificate(format!("{} bytes follow it", rest.len()))),
        Err(error) => Err(SanError::Certificate(error.to_string())),
    }
}

/// A hostile name must not fill a log line: 256 characters identify it.
fn shorten(uri: &str) -> String {
    uri.chars().take(256).collect()
}
