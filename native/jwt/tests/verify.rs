//! Tokens signed with real keys, and everything that must not pass for one.
#![allow(clippy::unwrap_used)] // in tests a failed unwrap is the message

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RsaKeyPair};
use aws_lc_rs::{hmac, signature::RsaEncoding};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use trackbed_jwt::{Keys, Refused, SKEW, Token};

const NOW: u64 = 1_800_000_000;

fn encoded(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

enum Signer {
    Rsa(RsaKeyPair),
    Ec(EcdsaKeyPair, &'static str),
    Ed(Ed25519KeyPair),
}

impl Signer {
    fn rsa() -> Self {
        Self::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).unwrap())
    }

    fn p256() -> Self {
        Self::Ec(EcdsaKeyPair::generate(&signature::ECDSA_P256_SHA256_FIXED_SIGNING).unwrap(), "P-256")
    }

    fn p384() -> Self {
        Self::Ec(EcdsaKeyPair::generate(&signature::ECDSA_P384_SHA384_FIXED_SIGNING).unwrap(), "P-384")
    }

    fn p521() -> Self {
        Self::Ec(EcdsaKeyPair::generate(&signature::ECDSA_P521_SHA512_FIXED_SIGNING).unwrap(), "P-521")
    }

    fn ed() -> Self {
        Self::Ed(Ed25519KeyPair::generate().unwrap())
    }

    fn key(&self, more: &Value) -> Value {
        let mut key = match self {
            Self::Rsa(pair) => {
                // RSAPublicKey: a sequence of a modulus of 256 bytes behind a zero, and 65537.
                let der = pair.public_key().as_ref();
                assert_eq!((der.len(), &der[265..]), (270, &[2, 3, 1, 0, 1][..]));
                json!({"kty": "RSA", "n": encoded(&der[9..265]), "e": "AQAB"})
            }
            Self::Ec(pair, curve) => {
                let point = &pair.public_key().as_ref()[1..];
                let (x, y) = point.split_at(point.len() / 2);
                json!({"kty": "EC", "crv": curve, "x": encoded(x), "y": encoded(y)})
            }
            Self::Ed(pair) => json!({"kty": "OKP", "crv": "Ed25519", "x": encoded(pair.public_key())}),
        };
        key.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        key
    }

    fn keys(&self, more: &Value) -> Keys {
        set(&[self.key(more)])
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        let input = format!("{}.{}", encoded(header.to_string()), encoded(claims.to_string()));
        let random = SystemRandom::new();
        let signature = match self {
            Self::Rsa(pair) => {
                let by: &'static dyn RsaEncoding = match header["alg"].as_str().unwrap() {
                    "RS384" => &signature::RSA_PKCS1_SHA384,
                    "RS512" => &signature::RSA_PKCS1_SHA512,
                    "PS256" => &signature::RSA_PSS_SHA256,
                    "PS384" => &signature::RSA_PSS_SHA384,
                    "PS512" => &signature::RSA_PSS_SHA512,
                    _ => &signature::RSA_PKCS1_SHA256,
                };
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(by, &random, input.as_bytes(), &mut signature).unwrap();
                signature
            }
            Self::Ec(pair, _) => pair.sign(&random, input.as_bytes()).unwrap().as_ref().to_vec(),
            Self::Ed(pair) => pair.sign(input.as_bytes()).as_ref().to_vec(),
        };
        format!("{input}.{}", encoded(signature))
    }
}

fn set(keys: &[Value]) -> Keys {
    Keys::parse(&json!({"keys": keys}).to_string()).unwrap()
}

fn verified(token: &str, keys: &Keys, audiences: &[&str]) -> Result<(), Refused> {
    let audiences: Vec<String> = audiences.iter().map(ToString::to_string).collect();
    Token::parse(token)?.verify(keys, &audiences, NOW)
}

#[test]
fn every_algorithm_verifies_what_its_own_key_signed() {
    let rsa = Signer::rsa();
    for algorithm in ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"] {
        let token = rsa.sign(&json!({"alg": algorithm}), &json!({"iss": "https://issuer"}));
        assert_eq!(verified(&token, &rsa.keys(&json!({})), &[]), Ok(()), "{algorithm}");
        assert_eq!(Token::parse(&token).unwrap().issuer(), Some("https://issuer"));
        assert_eq!(verified(&token, &Signer::rsa().keys(&json!({})), &[]), Err(Refused::Signature), "{algorithm}");
    }
    for (algorithm, signer) in [("ES256", Signer::p256()), ("ES384", Signer::p384()), ("ES512", Signer::p521()), ("EdDSA", Signer::ed())] {
        let token = signer.sign(&json!({"alg": algorithm}), &json!({}));
        assert_eq!(verified(&token, &signer.keys(&json!({})), &[]), Ok(()), "{algorithm}");
        let (signed, signature) = token.rsplit_once('.').unwrap();
        let mut signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
        signature[5] ^= 1;
        assert_eq!(verified(&format!("{signed}.{}", encoded(signature)), &signer.keys(&json!({})), &[]), Err(Refused::Signature));
    }
}

#[test]
fn no_algorithm_is_taken_for_another() {
    let (rsa, p256) = (Signer::rsa(), Signer::p256());
    let claims = encoded(json!({"iss": "x"}).to_string());
    // Signed with what everybody knows: the public key as the secret of an HMAC.
    let input = format!("{}.{claims}", encoded(json!({"alg": "HS256"}).to_string()));
    let secret = hmac::Key::new(hmac::HMAC_SHA256, rsa.key(&json!({}))["n"].as_str().unwrap().as_bytes());
    let token = format!("{input}.{}", encoded(hmac::sign(&secret, input.as_bytes())));
    assert_eq!(verified(&token, &rsa.keys(&json!({})), &[]), Err(Refused::Algorithm));
    let symmetric = json!({"kty": "oct", "k": encoded(b"secret"), "alg": "HS256"});
    assert!(set(&[symmetric]).is_empty());
    for algorithm in ["none", "NONE", "", "HS512", "RS1", "rs256"] {
        let header = encoded(json!({"alg": algorithm}).to_string());
        assert_eq!(verified(&format!("{header}.{claims}."), &rsa.keys(&json!({})), &[]), Err(Refused::Algorithm), "{algorithm}");
    }
    // Its header says one, its key is of another kind, or for another.
    let token = rsa.sign(&json!({"alg": "RS256"}), &json!({}));
    assert_eq!(verified(&token, &p256.keys(&json!({})), &[]), Err(Refused::NoKey));
    assert_eq!(verified(&token, &rsa.keys(&json!({"alg": "PS256"})), &[]), Err(Refused::NoKey));
    assert_eq!(verified(&token, &rsa.keys(&json!({"use": "enc"})), &[]), Err(Refused::NoKey));
    assert_eq!(verified(&token, &rsa.keys(&json!({"key_ops": ["encrypt"]})), &[]), Err(Refused::NoKey));
    let token = rsa.sign(&json!({"alg": "ES256"}), &json!({}));
    assert_eq!(verified(&token, &set(&[rsa.key(&json!({})), p256.key(&json!({}))]), &[]), Err(Refused::Signature));
    let token = rsa.sign(&json!({"alg": "RS256", "crit": ["b64"], "b64": false}), &json!({}));
    assert_eq!(verified(&token, &rsa.keys(&json!({})), &[]), Err(Refused::Critical));
}

#[test]
fn a_token_that_names_its_key_is_verified_by_that_one() {
    let (old, new) = (Signer::p256(), Signer::p256());
    let keys = set(&[old.key(&json!({"kid": "old"})), new.key(&json!({"kid": "new"}))]);
    assert_eq!(verified(&new.sign(&json!({"alg": "ES256", "kid": "new"}), &json!({})), &keys, &[]), Ok(()));
    assert_eq!(verified(&new.sign(&json!({"alg": "ES256"}), &json!({})), &keys, &[]), Ok(()), "any, without a name");
    assert_eq!(verified(&new.sign(&json!({"alg": "ES256", "kid": "old"}), &json!({})), &keys, &[]), Err(Refused::Signature));
    assert_eq!(verified(&new.sign(&json!({"alg": "ES256", "kid": "gone"}), &json!({})), &keys, &[]), Err(Refused::NoKey));
    assert_eq!(verified(&new.sign(&json!({"alg": "ES256", "kid": 1}), &json!({})), &keys, &[]), Err(Refused::Malformed));
    let unnamed = new.keys(&json!({}));
    assert_eq!(verified(&new.sign(&json!({"alg": "ES256", "kid": "any"}), &json!({})), &unnamed, &[]), Ok(()));
}

#[test]
fn times_and_audiences_are_kept_to() {
    let signer = Signer::ed();
    let keys = signer.keys(&json!({}));
    let result = |claims: Value, audiences: &[&str]| verified(&signer.sign(&json!({"alg": "EdDSA"}), &claims), &keys, audiences);
    for (claims, expected) in [
        (json!({"exp": NOW}), Ok(())),
        (json!({"exp": NOW - SKEW}), Ok(())),
        (json!({"exp": NOW - SKEW - 1}), Err(Refused::Expired)),
        (json!({"exp": 0}), Err(Refused::Expired)),
        (json!({"exp": 1.8e9}), Ok(())),
        (json!({"exp": u64::MAX}), Ok(())),
        (json!({"exp": "2100-01-01"}), Err(Refused::Malformed)),
        (json!({"exp": -1}), Err(Refused::Malformed)),
        (json!({"exp": null}), Err(Refused::Malformed)),
        (json!({"nbf": NOW + SKEW}), Ok(())),
        (json!({"nbf": NOW + SKEW + 1}), Err(Refused::NotYet)),
        (json!({"nbf": u64::MAX}), Err(Refused::NotYet)),
        (json!({}), Ok(())),
    ] {
        assert_eq!(result(claims.clone(), &[]), expected, "{claims}");
    }
    for (claims, expected) in [
        (json!({"aud": "shop"}), Ok(())),
        (json!({"aud": ["x", "till"]}), Ok(())),
        (json!({"aud": "bank"}), Err(Refused::Audience)),
        (json!({"aud": ["bank", 1]}), Err(Refused::Audience)),
        (json!({"aud": []}), Err(Refused::Audience)),
        (json!({"aud": {"shop": "shop"}}), Err(Refused::Audience)),
        (json!({}), Err(Refused::Audience)),
    ] {
        assert_eq!(result(claims.clone(), &["shop", "till"]), expected, "{claims}");
    }
}

#[test]
fn what_is_no_token_is_malformed() {
    let good = Signer::ed().sign(&json!({"alg": "EdDSA"}), &json!({}));
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let array = encoded("[]");
    for text in [
        "",
        "a",
        ".",
        "..",
        "a.b",
        "a.b.c",
        &format!("{signed}.{signature}.x"),
        &format!("{signed}.{signature}="),
        &format!("{signed}.{signature} "),
        &format!("{array}.{array}.{array}"),
        &format!("{}.{}.", encoded("{\"alg\":1}"), encoded("{}")),
        &"a".repeat(16 * 1024 + 1),
    ] {
        assert_eq!(Token::parse(text).map(|_| ()), Err(Refused::Malformed), "{text}");
    }
}

#[test]
fn keys_that_cannot_be_used_are_passed_over() {
    let signer = Signer::rsa();
    let small = json!({"kty": "RSA", "n": encoded([0xFF; 128]), "e": "AQAB"});
    let even = json!({"kty": "RSA", "n": encoded([0xFF; 256]), "e": "Ag"});
    let short = json!({"kty": "EC", "crv": "P-256", "x": "AQ", "y": "AQ"});
    let unknown = json!({"kty": "EC", "crv": "secp256k1", "x": encoded([1; 32]), "y": encoded([1; 32])});
    let odd = [small, even, short, unknown, json!({"kty": "RSA"}), json!({}), json!(1), json!({"kty": 1})];
    assert!(set(&odd).is_empty());
    let with = set(&[&odd[..], &[signer.key(&json!({"x5c": ["..."], "unknown": {}}))]].concat());
    assert_eq!(verified(&signer.sign(&json!({"alg": "RS256"}), &json!({})), &with, &[]), Ok(()));
    for text in ["", "{}", "[]", "{\"keys\":{}}", "<html>"] {
        assert!(Keys::parse(text).is_err(), "{text}");
    }
    assert!(Keys::parse(&json!({"keys": vec![json!({}); 65]}).to_string()).is_err());
    assert!(Keys::parse(&format!("{{\"keys\":[]}}{}", " ".repeat(64 * 1024))).is_err());
}
