//! A small certificate authority, loopback sockets and patterns for the tests of this folder.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)] // each test binary uses a part of it; in tests a failed unwrap is the message

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, KeyPair, SanType};
use tokio::net::{TcpListener, TcpStream};
use trackbed_contract::Identity;
use trackbed_tls::Certified;

pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub fn certify(&self, identity: &str) -> Arc<Certified> {
        self.certify_for(identity, Duration::from_hours(1))
    }

    pub fn certify_for(&self, identity: &str, lifetime: Duration) -> Arc<Certified> {
        let identity = Identity::parse(identity).unwrap();
        let pair = KeyPair::generate().unwrap();
        let key = Arc::new(trackbed_tls::KeyPair::deserialize(pair.serialized_der()).unwrap());
        let now = SystemTime::now();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(identity.as_str().try_into().unwrap())];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = (now - Duration::from_mins(1)).into();
        params.not_after = (now + lifetime).into();
        let leaf = params.signed_by(&pair, &self.0).unwrap();
        let root = self.0.der().to_vec();
        Arc::new(Certified::new(&identity, key, &[leaf.der().to_vec()], &[root], now).unwrap())
    }
}

pub const CLIENT: &str = "spiffe://cluster.local/ns/shop/sa/web";
pub const SERVER: &str = "spiffe://cluster.local/ns/shop/sa/cart";

pub fn identity(text: &str) -> Identity {
    Identity::parse(text).unwrap()
}

/// Runs a test as an engine's worker does: one thread, local tasks, and never for ever.
pub fn local<F: Future<Output = ()>>(test: F) {
    local_within(Duration::from_mins(1), test);
}

pub fn local_within<F: Future<Output = ()>>(patience: Duration, test: F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let tasks = tokio::task::LocalSet::new();
    tasks.block_on(&runtime, async { tokio::time::timeout(patience, test).await.expect("the test hangs") });
}

pub async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// Two ends of one TCP connection over loopback.
pub async fn pair() -> (TcpStream, TcpStream) {
    let (listener, address) = listen().await;
    let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
    (near.unwrap(), far.unwrap().0)
}

/// Waits until `what` holds, with a deadline and without a fixed sleep.
pub async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(tokio::time::Instant::now() < deadline, "never so: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Byte at an offset of a stream that repeats only after 2^31 bytes or so: lost, doubled and swapped pieces all show.
pub fn pattern(offset: u64, buffer: &mut [u8]) {
    for (at, byte) in (offset..).zip(buffer.iter_mut()) {
        *byte = (at >> 3).wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes()[(at & 7) as usize];
    }
}
