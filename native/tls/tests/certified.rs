//! Keys, certificate requests, and which replies of an authority are taken.
#![allow(clippy::unwrap_used)] // in tests a failed unwrap is the message

mod support;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::ExtendedKeyUsagePurpose;
use support::{Authority, Leaf, OURS, PEER, good, identity, provider, uri};
use trackbed_tls::{Certified, KeyPair, identity_of};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;

#[test]
fn a_request_has_an_empty_subject_one_critical_uri_and_a_good_signature() {
    let key = KeyPair::generate().unwrap();
    let der = key.csr(&identity(OURS)).unwrap();
    let (rest, request) = X509CertificationRequest::from_der(&der).unwrap();
    assert!(rest.is_empty());
    let info = &request.certification_request_info;
    assert_eq!(info.subject.iter().count(), 0);
    assert_eq!(info.subject_pki.raw, key.public_key());
    let sans: Vec<_> = info.iter_attributes().collect();
    assert_eq!(sans.len(), 1, "only the extension request");
    let extensions: Vec<_> = request.requested_extensions().unwrap().collect();
    assert!(matches!(extensions.as_slice(), [ParsedExtension::SubjectAlternativeName(names)]
        if matches!(names.general_names.as_slice(), [GeneralName::URI(text)] if *text == OURS)));
    // 06 03 55 1d 11 = subjectAltName, then BOOLEAN TRUE = critical.
    assert!(der.windows(8).any(|bytes| bytes == [0x06, 0x03, 0x55, 0x1d, 0x11, 0x01, 0x01, 0xff]), "the name is critical");
    assert_eq!(request.signature_algorithm.algorithm.to_id_string(), "1.2.840.10045.4.3.2", "ECDSA with SHA-256");
    let point = info.subject_pki.subject_public_key.data.as_ref();
    let algorithms = provider().signature_verification_algorithms.all;
    let verified = algorithms.iter().any(|one| one.verify_signature(point, info.raw, request.signature_value.data.as_ref()).is_ok());
    assert!(verified, "signed with its own key");
}

#[test]
fn a_key_survives_the_hand_over_and_never_shows_itself() {
    let key = KeyPair::generate().unwrap();
    let bytes = key.serialize();
    let again = KeyPair::deserialize(&bytes).unwrap();
    assert_eq!(key.public_key(), again.public_key());
    assert_eq!(format!("{key:?}"), "KeyPair(secret)");
    assert_ne!(key.public_key(), KeyPair::generate().unwrap().public_key());
    for bad in [&bytes[..bytes.len() - 1], &[], &[0x30, 0x00]] {
        assert_eq!(KeyPair::deserialize(bad).unwrap_err().code(), "E_IDENTITY_MISSING");
    }
    let other_curve = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    KeyPair::deserialize(other_curve.serialized_der()).expect_err("only P-256 is ours");
}

#[test]
fn a_good_reply_is_taken_with_all_its_facts() {
    let root = Authority::new();
    let issuer = root.below("issuer");
    let mut leaf = issuer.leaf(&good(vec![uri(OURS)]));
    leaf.chain.push(issuer.root());
    let certified = root.accept(OURS, &leaf).unwrap();
    assert_eq!(certified.identity(), &identity(OURS));
    assert!(certified.chain().eq(leaf.chain.iter().map(Vec::as_slice)));
    assert!(certified.roots().eq([root.root().as_slice()]));
    assert!(!certified.serial().is_empty() && certified.serial().len().is_multiple_of(2));
    assert!(certified.not_before() < SystemTime::now() && certified.not_after() > SystemTime::now());
    assert!(Arc::ptr_eq(&certified.server_config(), &certified.server_config()), "made once");
    let renewed = root.accept(OURS, &leaf).unwrap();
    assert_ne!(certified.generation(), renewed.generation());
    let text = format!("{certified:?}");
    assert!(text.contains(OURS) && text.len() < 200, "identity and serial only: {text}");
}

#[test]
fn a_reply_that_is_wrong_in_one_way_is_refused_with_a_reason() {
    let root = Authority::new();
    let now = SystemTime::now();
    let refuse = |what: &str, leaf: &Leaf, roots: &[Vec<u8>], words: &str| {
        let key = Arc::new(KeyPair::deserialize(leaf.key.serialized_der()).unwrap());
        let error = Certified::new(&identity(OURS), key, &leaf.chain, roots, now).expect_err(what);
        assert_eq!(error.code(), "E_IDENTITY_MISSING", "{what}");
        assert!(error.to_string().contains(words), "{what}: {error}");
    };
    let roots = [root.root()];
    let mine = || good(vec![uri(OURS)]);
    let leaf = |spoil: &dyn Fn(&mut rcgen::CertificateParams)| {
        let mut params = mine();
        spoil(&mut params);
        root.leaf(&params)
    };
    let fine = || root.leaf(&mine());

    refuse("another key", &Leaf { key: rcgen::KeyPair::generate().unwrap(), ..fine() }, &roots, "another key");
    refuse("another identity", &root.leaf(&good(vec![uri(PEER)])), &roots, PEER);
    refuse("two names", &root.leaf(&good(vec![uri(OURS), uri(PEER)])), &roots, "exactly one");
    refuse("no name", &root.leaf(&good(vec![])), &roots, "no subject alternative name");
    refuse("no certificate", &Leaf { chain: vec![], ..fine() }, &roots, "empty");
    refuse("no root", &fine(), &[], "no root");
    refuse("a root that is none", &fine(), &[vec![1, 2, 3]], "does not parse");
    refuse("another root", &fine(), &[Authority::new().root()], "invalid peer certificate");
    refuse("expired", &leaf(&|p| p.not_after = (now - Duration::from_secs(5)).into()), &roots, "expired");
    refuse("not yet valid", &leaf(&|p| p.not_before = (now + Duration::from_mins(5)).into()), &roots, "not valid yet");
    refuse("server only", &leaf(&|p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]), &roots, "");
    refuse("client only", &leaf(&|p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]), &roots, "");
    let mut trailing = fine();
    trailing.chain[0].push(0);
    refuse("bytes after the certificate", &trailing, &roots, "follow");
    let mut crowd = fine();
    crowd.chain.resize(9, root.root());
    refuse("too many certificates", &crowd, &roots, "more than");
}

#[test]
fn old_and_new_root_are_both_trusted_in_an_overlap() {
    let (old, new) = (Authority::new(), Authority::new());
    let leaf = new.leaf(&good(vec![uri(OURS)]));
    let key = Arc::new(KeyPair::deserialize(leaf.key.serialized_der()).unwrap());
    Certified::new(&identity(OURS), key, &leaf.chain, &[old.root(), new.root()], SystemTime::now()).unwrap();
}

#[test]
fn a_damaged_certificate_never_gives_another_identity_and_never_panics() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let leaf = Authority::new().leaf(&good(vec![uri(OURS)])).chain.remove(0);
    let name = leaf.windows(OURS.len()).position(|bytes| bytes == OURS.as_bytes()).unwrap();
    for _ in 0..50_000 {
        let mut damaged = leaf.clone();
        for _ in 0..random.usize(1..4) {
            let at = random.usize(..damaged.len());
            match random.u8(..4) {
                0 => damaged.truncate(at.max(1)),
                1 => damaged.insert(at, random.u8(..)),
                _ => damaged[at] = random.u8(..),
            }
        }
        // Another identity may come out only if the name itself was changed into it.
        if let Ok(found) = identity_of(&damaged) {
            assert!(damaged.windows(found.as_str().len()).any(|bytes| bytes == found.as_str().as_bytes()));
            assert!(damaged[name..] != leaf[name..] || found == identity(OURS));
        }
    }
}
