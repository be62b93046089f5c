//! The identity parser against the vectors that both languages run.
use serde_json::Value;
use trackbed_contract::{Identity, IdentityError};

const VECTORS: &str = include_str!("../../../proto/vectors/spiffe.json");

fn reason(error: IdentityError) -> &'static str {
    match error {
        IdentityError::Scheme => "scheme",
        IdentityError::TrustDomain => "trust_domain",
        IdentityError::Path => "path",
        IdentityError::Namespace => "namespace",
        IdentityError::ServiceAccount => "service_account",
    }
}

#[test]
fn the_parser_agrees_with_every_vector() {
    let vectors: Value = serde_json::from_str(VECTORS).expect("vectors are JSON");
    let cases = vectors["cases"].as_array().expect("cases");
    assert!(cases.len() > 20, "the vectors are not empty");
    for case in cases {
        let uri = case["uri"].as_str().expect("uri");
        match Identity::parse(uri) {
            Ok(identity) => {
                assert_eq!(case["reason"], Value::Null, "{uri:?} was accepted");
                assert_eq!(case["trust_domain"], identity.trust_domain(), "{uri}");
                assert_eq!(case["namespace"], identity.namespace(), "{uri}");
                assert_eq!(case["service_account"], identity.service_account(), "{uri}");
                assert_eq!(identity.as_str(), uri);
            }
            Err(error) => assert_eq!(case["reason"], reason(error), "{uri:?}"),
        }
    }
}

/// The same form, written down a second time: character by character, without a look at the parser.
fn is_identity(uri: &str) -> bool {
    let label = |text: &str| {
        let bytes = text.as_bytes();
        let alphanumeric = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let within = bytes.iter().all(|byte| alphanumeric(byte) || *byte == b'-');
        within && bytes.len() <= 63 && bytes.first().is_some_and(alphanumeric) && bytes.last().is_some_and(alphanumeric)
    };
    let domain = |text: &str| {
        let within = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-_".contains(&byte);
        !text.is_empty() && text.len() <= 255 && text.bytes().all(within)
    };
    match uri.split('/').collect::<Vec<_>>()[..] {
        ["spiffe:", "", trust_domain, "ns", namespace, "sa", account] => {
            domain(trust_domain) && label(namespace) && account.len() <= 253 && account.split('.').all(label)
        }
        _ => false,
    }
}

#[test]
fn every_text_that_is_one_byte_away_from_an_identity_is_judged_right() {
    let (mut taken, mut refused) = (0, 0);
    let mut judge = |text: &str| {
        let parsed = Identity::parse(text);
        assert_eq!(parsed.is_ok(), is_identity(text), "{text:?}: {parsed:?}");
        if let Ok(identity) = parsed {
            let parts = (identity.trust_domain(), identity.namespace(), identity.service_account());
            assert_eq!(format!("spiffe://{}/ns/{}/sa/{}", parts.0, parts.1, parts.2), text);
            taken += 1;
        } else {
            refused += 1;
        }
    };
    for base in ["spiffe://cluster.local/ns/shop/sa/web", "spiffe://td_1-x.example/ns/a/sa/w.v-1.example", "spiffe://a/ns/b/sa/c"] {
        for at in 0..=base.len() {
            let (before, after) = base.split_at(at);
            // Every byte that UTF-8 text can have at one place, and two that need more than one.
            for new in (0..128).map(char::from).chain(['é', '\u{ff0f}']) {
                judge(&format!("{before}{new}{after}"));
                if !after.is_empty() {
                    judge(&format!("{before}{new}{}", &after[1..]));
                }
            }
            if !after.is_empty() {
                judge(&format!("{before}{}", &after[1..]));
            }
            judge(&format!("{before}{base}{after}"));
            judge(before);
            judge(after);
        }
    }
    assert!(taken > 1000 && refused > 10_000, "{taken} taken, {refused} refused");
}
