//! Whom a tunnel's ends accept, asked with real handshakes against peers that are wrong in one way each.
#![allow(clippy::unwrap_used)] // in tests a failed unwrap is the message

mod support;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, SanType};
use rustls::crypto::aws_lc_rs::{cipher_suite, kx_group};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ServerConfig};
use support::{Authority, Leaf, OURS, PEER, good, identity, provider, uri};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio_rustls::{LazyConfigAcceptor, TlsAcceptor, TlsConnector};
use trackbed_tls::{Certified, PeerInfo, TlsError, accept, connect};

const WIRE: usize = 1 << 20;

fn name() -> ServerName<'static> {
    ServerName::try_from("ignored.example").unwrap()
}

/// Our server's verdict on a client made of rustls alone, which must not get as far as reading application data when it is refused.
async fn server_verdict(ours: &Certified, client: ClientConfig) -> Result<PeerInfo, TlsError> {
    let (near, far) = duplex(WIRE);
    let client = async {
        let Ok(mut stream) = TlsConnector::from(Arc::new(client)).connect(name(), near).await else { return false };
        stream.write_all(b"x").await.is_ok() && matches!(stream.read(&mut [0; 1]).await, Ok(1))
    };
    let server = async {
        let (mut stream, peer) = accept(far, ours).await?;
        let mut byte = [0];
        stream.read_exact(&mut byte).await.unwrap();
        stream.write_all(&byte).await.unwrap();
        Ok(peer)
    };
    let (answered, verdict) = tokio::join!(client, server);
    assert_eq!(answered, verdict.is_ok(), "the client's view and ours differ");
    verdict
}

/// Our client's verdict on a server made of rustls alone.
async fn client_verdict(ours: &Certified, server: ServerConfig) -> Result<PeerInfo, TlsError> {
    let (near, far) = duplex(WIRE);
    let expected = [identity(PEER)];
    let (_, verdict) = tokio::join!(TlsAcceptor::from(Arc::new(server)).accept(far), connect(near, ours, &expected));
    verdict.map(|(_, peer)| peer)
}

/// Shows the same certificate to both roles.
async fn verdicts(authority: &Authority, params: &CertificateParams) -> [Result<PeerInfo, TlsError>; 2] {
    let ours = authority.certify(OURS);
    let leaf = authority.leaf(params);
    [server_verdict(&ours, leaf.client(provider())).await, client_verdict(&ours, leaf.server(provider())).await]
}

async fn both_refuse(what: &str, authority: &Authority, params: &CertificateParams, code: &str) {
    for verdict in verdicts(authority, params).await {
        match verdict {
            Ok(peer) => panic!("{what}: accepted as {}", peer.identity),
            Err(error) => assert_eq!(error.code(), code, "{what}: {error}"),
        }
    }
}

#[tokio::test]
async fn the_right_peer_is_accepted_and_described() {
    let authority = Authority::new();
    for verdict in verdicts(&authority, &good(vec![uri(PEER)])).await {
        let peer = verdict.unwrap();
        assert_eq!(peer.identity, identity(PEER));
        assert_eq!((peer.version, peer.group), ("TLSv1.3", "X25519MLKEM768"));
        assert!(peer.not_after > SystemTime::now());
    }
    let (ours, theirs) = (authority.certify(OURS), authority.certify(PEER));
    let (near, far) = duplex(WIRE);
    let expected = [identity("spiffe://cluster.local/ns/a/sa/b"), identity(PEER)];
    let (client, server) = tokio::join!(connect(near, &ours, &expected), accept(far, &theirs));
    let (client, server) = (client.unwrap().1, server.unwrap().1);
    assert_eq!(client.cipher, "TLS13_AES_128_GCM_SHA256", "between two of ours the cheaper suite");
    assert_eq!((&client.identity, &*client.serial, client.not_after), (theirs.identity(), theirs.serial(), theirs.not_after()));
    assert_eq!((&server.identity, &*server.serial, server.not_after), (ours.identity(), ours.serial(), ours.not_after()));
}

#[tokio::test]
async fn every_uri_that_is_no_identity_is_refused_by_both_roles() {
    let vectors: serde_json::Value = serde_json::from_str(include_str!("../../../proto/vectors/spiffe.json")).unwrap();
    let authority = Authority::new();
    let mut tried = 0;
    for case in vectors["cases"].as_array().unwrap() {
        let text = case["uri"].as_str().unwrap();
        if case["reason"].is_null() || !text.is_ascii() {
            continue; // a URI in a certificate is ASCII by its type; other bytes are tried below
        }
        both_refuse(&format!("{text:?}"), &authority, &good(vec![uri(text)]), "E_IDENTITY_MALFORMED").await;
        tried += 1;
    }
    assert!(tried > 20, "only {tried} vectors");
}

#[tokio::test]
async fn anything_but_exactly_one_uri_name_is_refused_by_both_roles() {
    let authority = Authority::new();
    let dns = |text: &str| SanType::DnsName(text.try_into().unwrap());
    let other = SanType::OtherName((vec![1, 3, 6, 1, 4, 1, 311, 20, 2, 3], rcgen::OtherNameValue::Utf8String(PEER.into())));
    let rows: Vec<(&str, Vec<SanType>)> = vec![
        ("no name", vec![]),
        ("the same URI twice", vec![uri(PEER), uri(PEER)]),
        ("two URIs", vec![uri(PEER), uri("spiffe://cluster.local/ns/shop/sa/admin")]),
        ("another URI first", vec![uri("https://example.com/"), uri(PEER)]),
        ("another URI last", vec![uri(PEER), uri("https://example.com/")]),
        ("a DNS name", vec![dns("cluster.local")]),
        ("a DNS name that looks like SPIFFE", vec![dns(PEER)]),
        ("a DNS name beside it", vec![uri(PEER), dns("cluster.local")]),
        ("an OTHERNAME that looks like SPIFFE", vec![other.clone()]),
        ("an OTHERNAME beside it", vec![uri(PEER), other]),
        ("an address", vec![SanType::IpAddress("10.0.0.1".parse().unwrap())]),
        ("a mail address", vec![SanType::Rfc822Name("a@cluster.local".try_into().unwrap())]),
        ("NUL at the end", vec![uri(&format!("{PEER}\0"))]),
        ("NUL inside", vec![uri("spiffe://cluster.local/ns/shop/sa/peer\0.evil")]),
    ];
    for (what, names) in rows {
        let mut params = good(names);
        // A name that looks right in a place nobody may look at.
        params.distinguished_name.push(DnType::CommonName, PEER);
        both_refuse(what, &authority, &params, "E_IDENTITY_MALFORMED").await;
    }
}

#[tokio::test]
async fn identities_of_every_valid_length_are_accepted_by_the_server() {
    let vectors: serde_json::Value = serde_json::from_str(include_str!("../../../proto/vectors/spiffe.json")).unwrap();
    for case in vectors["cases"].as_array().unwrap().iter().filter(|case| case["reason"].is_null()) {
        let authority = Authority::new();
        let text = case["uri"].as_str().unwrap();
        let ours = authority.certify(text);
        let peer = server_verdict(&ours, authority.leaf(&good(vec![uri(text)])).client(provider())).await.unwrap();
        assert_eq!(peer.identity.as_str(), text);
    }
}

#[tokio::test]
async fn names_in_a_broken_extension_are_refused_by_both_roles() {
    let authority = Authority::new();
    let san = |content: Vec<u8>| {
        let mut params = good(vec![]);
        params.custom_extensions = vec![CustomExtension::from_oid_content(&[2, 5, 29, 17], content)];
        params
    };
    let length = u8::try_from(PEER.len()).unwrap();
    let named = |tag: u8, text: &[u8]| [&[0x30, length + 2, tag, length], text].concat();
    assert!(verdicts(&authority, &san(named(0x86, PEER.as_bytes()))).await.iter().all(Result::is_ok), "the encoding itself is right");
    let mut high = PEER.as_bytes().to_vec();
    high[20] = 0xe9;
    for (what, content) in [
        ("an empty list", vec![0x30, 0]),
        ("bytes outside ASCII", named(0x86, &high)),
        ("bytes after the list", [named(0x86, PEER.as_bytes()), vec![5, 0]].concat()),
        ("a length beyond the end", [&[0x30, length + 2, 0x86, length + 1], PEER.as_bytes()].concat()),
        ("a constructed URI", named(0xa6, PEER.as_bytes())),
    ] {
        for verdict in verdicts(&authority, &san(content)).await {
            // webpki may refuse the certificate before we read it.
            let code = verdict.expect_err(what).code();
            assert!(["E_IDENTITY_MALFORMED", "E_TUNNEL_HANDSHAKE"].contains(&code), "{what}: {code}");
        }
    }
    let mut doubled = good(vec![uri(PEER)]);
    doubled.custom_extensions = vec![CustomExtension::from_oid_content(&[2, 5, 29, 17], named(0x86, PEER.as_bytes()))];
    for verdict in verdicts(&authority, &doubled).await {
        verdict.expect_err("two name extensions");
    }
}

#[tokio::test]
async fn another_identity_is_refused_by_the_client_and_another_trust_domain_by_the_server() {
    let authority = Authority::new();
    for (text, server_takes_it) in [
        ("spiffe://cluster.local/ns/shop/sa/other", true),
        ("spiffe://cluster.local/ns/other/sa/peer", true),
        ("spiffe://cluster.locale/ns/shop/sa/peer", false),
        ("spiffe://cluster/ns/shop/sa/peer", false),
        ("spiffe://local/ns/shop/sa/peer", false),
    ] {
        let [server, client] = verdicts(&authority, &good(vec![uri(text)])).await;
        assert_eq!(client.unwrap_err().code(), "E_IDENTITY_MISMATCH", "{text}");
        assert_eq!(server.map_err(|error| error.code()).map(|_| ()), if server_takes_it { Ok(()) } else { Err("E_IDENTITY_MISMATCH") });
    }
    let ours = authority.certify(OURS);
    let (near, far) = duplex(WIRE);
    let leaf = authority.leaf(&good(vec![uri(PEER)]));
    let (_, nobody) = tokio::join!(TlsAcceptor::from(Arc::new(leaf.server(provider()))).accept(far), connect(near, &ours, &[]));
    assert_eq!(nobody.unwrap_err().code(), "E_IDENTITY_MISMATCH", "an empty set of expected identities accepts nobody");
}

#[tokio::test]
async fn expired_early_foreign_and_misused_certificates_are_refused() {
    let authority = Authority::new();
    let now = SystemTime::now();
    let mut expired = good(vec![uri(PEER)]);
    expired.not_before = (now - Duration::from_hours(2)).into();
    expired.not_after = (now - Duration::from_mins(1)).into();
    both_refuse("expired", &authority, &expired, "E_TUNNEL_HANDSHAKE").await;
    let mut early = good(vec![uri(PEER)]);
    early.not_before = (now + Duration::from_mins(10)).into();
    both_refuse("not yet valid", &authority, &early, "E_TUNNEL_HANDSHAKE").await;

    let ours = authority.certify(OURS);
    let foreign = Authority::new().leaf(&good(vec![uri(PEER)]));
    assert_eq!(server_verdict(&ours, foreign.client(provider())).await.unwrap_err().code(), "E_TUNNEL_HANDSHAKE");
    assert_eq!(client_verdict(&ours, foreign.server(provider())).await.unwrap_err().code(), "E_TUNNEL_HANDSHAKE");

    for (usage, server_takes_it, client_takes_it) in [
        (ExtendedKeyUsagePurpose::ClientAuth, true, false),
        (ExtendedKeyUsagePurpose::ServerAuth, false, true),
        (ExtendedKeyUsagePurpose::CodeSigning, false, false),
    ] {
        let mut params = good(vec![uri(PEER)]);
        params.extended_key_usages = vec![usage];
        let [server, client] = verdicts(&authority, &params).await;
        assert_eq!((server.is_ok(), client.is_ok()), (server_takes_it, client_takes_it), "{:?}", params.extended_key_usages);
    }
    // A certificate authority is no workload, even with the right name.
    let mut issuer = good(vec![uri(PEER)]);
    issuer.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    both_refuse("an authority's own certificate", &authority, &issuer, "E_TUNNEL_HANDSHAKE").await;
}

#[tokio::test]
async fn chains_pass_with_their_issuers_and_not_without_or_too_long() {
    let root = Authority::new();
    let ours = root.certify(OURS);
    let issuer = root.below("issuer");
    let mut leaf = issuer.leaf(&good(vec![uri(PEER)]));
    server_verdict(&ours, leaf.client(provider())).await.expect_err("the issuer is missing");
    leaf.chain.push(issuer.root());
    server_verdict(&ours, leaf.client(provider())).await.unwrap();
    client_verdict(&ours, leaf.server(provider())).await.unwrap();

    let mut issuers = vec![root.below("0")];
    for depth in 1..10 {
        issuers.push(issuers[depth - 1].below(&depth.to_string()));
    }
    let mut long = issuers[9].leaf(&good(vec![uri(PEER)]));
    long.chain.extend(issuers.iter().rev().map(Authority::root));
    server_verdict(&ours, long.client(provider())).await.expect_err("a chain of ten issuers");
    client_verdict(&ours, long.server(provider())).await.expect_err("a chain of ten issuers");

    let mut large = good(vec![uri(PEER)]);
    large.custom_extensions = vec![CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 1], vec![7; 100_000])];
    let large = root.leaf(&large);
    server_verdict(&ours, large.client(provider())).await.expect_err("a certificate of 100 kB");
    client_verdict(&ours, large.server(provider())).await.expect_err("a certificate of 100 kB");
}

fn peer(authority: &Authority) -> Leaf {
    authority.leaf(&good(vec![uri(PEER)]))
}

#[tokio::test]
async fn old_tls_other_protocols_and_missing_client_certificates_are_refused() {
    let authority = Authority::new();
    let (ours, leaf) = (authority.certify(OURS), peer(&authority));

    let old = |suites: &[rustls::SupportedCipherSuite]| rustls::crypto::CryptoProvider { cipher_suites: suites.to_vec(), ..provider() };
    let tls12 = [cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256];
    let code = server_verdict(&ours, leaf.client(old(&tls12))).await.unwrap_err().code();
    assert_eq!(code, "E_TUNNEL_HANDSHAKE", "TLS 1.2 client");
    client_verdict(&ours, leaf.server(old(&tls12))).await.expect_err("TLS 1.2 server");
    let chacha = [cipher_suite::TLS13_CHACHA20_POLY1305_SHA256];
    server_verdict(&ours, leaf.client(old(&chacha))).await.expect_err("ChaCha20 client");
    client_verdict(&ours, leaf.server(old(&chacha))).await.expect_err("ChaCha20 server");

    for protocols in [vec![], vec![b"http/1.1".to_vec()], vec![b"h3".to_vec(), b"http/1.1".to_vec()], vec![b"H2".to_vec()]] {
        let mut client = leaf.client(provider());
        client.alpn_protocols.clone_from(&protocols);
        let (near, far) = duplex(WIRE);
        let (_, verdict) = tokio::join!(TlsConnector::from(Arc::new(client)).connect(name(), near), accept(far, &ours));
        assert_eq!(verdict.unwrap_err().code(), "E_TUNNEL_HANDSHAKE", "client with ALPN {protocols:?}");
        let mut server = leaf.server(provider());
        server.alpn_protocols.clone_from(&protocols);
        assert_eq!(client_verdict(&ours, server).await.unwrap_err().code(), "E_TUNNEL_HANDSHAKE", "server with ALPN {protocols:?}");
    }

    let builder = ClientConfig::builder_with_provider(Arc::new(provider())).with_safe_default_protocol_versions().unwrap();
    let mut nobody = builder.dangerous().with_custom_certificate_verifier(Arc::new(support::AnyServer)).with_no_client_auth();
    nobody.alpn_protocols = vec![b"h2".to_vec()];
    assert_eq!(server_verdict(&ours, nobody).await.unwrap_err().code(), "E_TUNNEL_HANDSHAKE", "no client certificate");
}

#[tokio::test]
async fn the_strongest_common_group_is_chosen_and_older_ones_still_work() {
    let authority = Authority::new();
    let (ours, leaf) = (authority.certify(OURS), peer(&authority));
    let only = |group| rustls::crypto::CryptoProvider { kx_groups: vec![group], ..provider() };
    for (group, named) in [(kx_group::X25519MLKEM768, "X25519MLKEM768"), (kx_group::X25519, "X25519"), (kx_group::SECP256R1, "secp256r1")] {
        assert_eq!(server_verdict(&ours, leaf.client(only(group))).await.unwrap().group, named);
        assert_eq!(client_verdict(&ours, leaf.server(only(group))).await.unwrap().group, named);
    }
    server_verdict(&ours, leaf.client(only(kx_group::SECP384R1))).await.expect_err("a group we do not offer");
    let strong = rustls::crypto::CryptoProvider { cipher_suites: vec![cipher_suite::TLS13_AES_256_GCM_SHA384], ..provider() };
    assert_eq!(server_verdict(&ours, leaf.client(strong)).await.unwrap().cipher, "TLS13_AES_256_GCM_SHA384");
}

#[tokio::test]
async fn our_client_hello_names_nobody_and_offers_exactly_what_we_say() {
    let authority = Authority::new();
    let (near, far) = duplex(WIRE);
    let ours = authority.certify(OURS);
    let expected = [identity(PEER)];
    let looked = async {
        let start = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), far).await.unwrap();
        let hello = start.client_hello();
        assert_eq!(hello.server_name(), None, "no SNI");
        assert_eq!(hello.alpn().unwrap().collect::<Vec<_>>(), [b"h2"]);
        let suites: Vec<_> = hello.cipher_suites().iter().filter_map(rustls::CipherSuite::as_str).collect();
        assert_eq!(suites, ["TLS13_AES_128_GCM_SHA256", "TLS13_AES_256_GCM_SHA384", "TLS_EMPTY_RENEGOTIATION_INFO_SCSV"][..suites.len()]);
        assert!(suites.len() >= 2);
        let groups: Vec<_> = hello.named_groups().unwrap().iter().filter_map(rustls::NamedGroup::as_str).collect();
        assert_eq!(groups, ["X25519MLKEM768", "X25519", "secp256r1"]);
    };
    tokio::select! {
        () = looked => {}
        _ = connect(near, &ours, &expected) => panic!("nobody answered, yet the client is done"),
    }
}

#[tokio::test]
async fn nothing_is_resumed() {
    let authority = Authority::new();
    let ours = authority.certify(OURS);
    let client = Arc::new(peer(&authority).client(provider()));
    for round in 0..2 {
        let (near, far) = duplex(WIRE);
        let talk = async {
            let mut stream = TlsConnector::from(Arc::clone(&client)).connect(name(), near).await.unwrap();
            let _ = stream.read(&mut [0; 1]).await; // would take in tickets
            stream.get_ref().1.handshake_kind().unwrap()
        };
        let (kind, ()) = tokio::join!(talk, async {
            let (mut stream, _) = accept(far, &ours).await.unwrap();
            stream.shutdown().await.unwrap();
        });
        assert_eq!(kind, rustls::HandshakeKind::Full, "round {round}");
    }
}

#[tokio::test]
async fn a_certificate_that_ended_is_not_used_by_its_owner() {
    let authority = Authority::new();
    let mut brief = good(vec![uri(OURS)]);
    brief.not_after = (SystemTime::now() + Duration::from_secs(3)).into();
    let ours = authority.accept(OURS, &authority.leaf(&brief)).unwrap();
    ours.check(SystemTime::now()).unwrap();
    let later = ours.not_after() + Duration::from_secs(1);
    assert_eq!(ours.check(later).unwrap_err().code(), "E_IDENTITY_MISSING");
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while ours.check(SystemTime::now()).is_ok() {
        assert!(tokio::time::Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (near, far) = duplex(WIRE);
    assert_eq!(connect(near, &ours, &[identity(PEER)]).await.unwrap_err().code(), "E_IDENTITY_MISSING");
    assert_eq!(accept(far, &ours).await.unwrap_err().code(), "E_IDENTITY_MISSING");
}
