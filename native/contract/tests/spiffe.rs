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
