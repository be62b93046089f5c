//! Whom a TLS connection out of the mesh trusts: the roots in a file, read when it is opened.
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

/// A system's whole bundle of roots is a quarter of that, a token a few KiB.
const MOST_FILE_BYTES: u64 = 1 << 20;

/// Whoever holds a certificate of these roots for the name that is dialled. Read each time: roots are rotated under a running process.
pub(crate) fn trusting(roots: &Path) -> io::Result<ClientConfig> {
    let wrong = |reason: String| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {reason}", roots.display()));
    let pem = read(roots)?;
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
        store.add(certificate).map_err(|error| wrong(error.to_string()))?;
    }
    if store.is_empty() {
        return Err(wrong("no certificate in it".to_owned()));
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider())).with_safe_default_protocol_versions();
    let mut config = builder.map_err(io::Error::other)?.with_root_certificates(store).with_no_client_auth();
    config.alpn_protocols = vec![trackbed_tls::ALPN.to_vec()];
    Ok(config)
}

/// A small file of a volume in memory, with its name in the error.
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let count = File::open(path).and_then(|file| file.take(MOST_FILE_BYTES + 1).read_to_end(&mut bytes));
    match count {
        Ok(count) if count as u64 <= MOST_FILE_BYTES => Ok(bytes),
        Ok(_) => Err(io::Error::new(io::ErrorKind::InvalidData, format!("{}: longer than {MOST_FILE_BYTES} bytes", path.display()))),
        Err(error) => Err(io::Error::new(error.kind(), format!("{}: {error}", path.display()))),
    }
}
