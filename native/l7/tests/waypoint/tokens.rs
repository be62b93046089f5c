//! Tokens at a waypoint: who has one that is good is known by it, and everything else is answered 401.
use crate::access::{access, any, exact, policy, prefix};
use crate::support::{Backend, Got, PORT, Waypoint, backend, body, get, one_rule, run, to, waypoint};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use std::time::{SystemTime, UNIX_EPOCH};
use trackbed_contract::authorization::{Access, Action, Claim, ClaimHeader, Match, Policy, Texts, TokenHeader, TokenRule};
use trackbed_l7::Flag;

const ISSUER: &str = "https://issuer.example";

pub(crate) struct Issuer(EcdsaKeyPair);

impl Issuer {
    pub(crate) fn new() -> Self {
        Self(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
    }

    fn keys(&self) -> String {
        let (x, y) = self.0.public_key().as_ref()[1..].split_at(32);
        json!({"keys": [{"kty": "EC", "crv": "P-256", "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y)}]}).to_string()
    }

    pub(crate) fn token(&self, claims: &Value) -> String {
        let mut all = json!({"iss": ISSUER, "sub": "ann"});
        all.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
        let header = URL_SAFE_NO_PAD.encode("{\"alg\":\"ES256\"}");
        let input = format!("{header}.{}", URL_SAFE_NO_PAD.encode(all.to_string()));
        let signature = self.0.sign(&SystemRandom::new(), input.as_bytes()).unwrap();
        format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    pub(crate) fn rule(&self) -> TokenRule {
        TokenRule {
            policy: "shop/jwt".into(),
            issuer: ISSUER.into(),
            jwks: self.keys(),
            headers: vec![TokenHeader { name: "authorization".into(), prefix: "Bearer ".into() }],
            parameters: vec!["access_token".into()],
            ..TokenRule::default()
        }
    }
}

async fn served(rules: Vec<TokenRule>, policies: Vec<Policy>) -> (Waypoint, Backend) {
    let waypoint = waypoint(one_rule(to("shop/v1"))).await;
    let v1 = backend("v1").await;
    waypoint.endpoint("shop/v1", PORT, "v1", v1.address);
    waypoint.guard(one_rule(to("shop/v1")), Some(&Access { tokens: rules, ..access(policies) }));
    (waypoint, v1)
}

async fn with(waypoint: &Waypoint, token: &str) -> Got {
    let request = get("/").header("authorization", format!("Bearer {token}")).body(body("")).unwrap();
    waypoint.http1().await.send(request).await
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

#[test]
fn a_good_token_passes_and_every_other_is_refused() {
    run(async {
        let (issuer, other) = (Issuer::new(), Issuer::new());
        let (waypoint, v1) = served(vec![TokenRule { audiences: vec!["shop".into()], ..issuer.rule() }], vec![]).await;
        let good = json!({"aud": "shop", "exp": now() + 60});
        assert_eq!(with(&waypoint, &issuer.token(&good)).await.status, 200);
        // The second time it is remembered.
        let again = issuer.token(&good);
        for _ in 0..2 {
            assert_eq!(with(&waypoint, &again).await.status, 200);
        }
        let (signed, _) = again.rsplit_once('.').unwrap();
        let none = URL_SAFE_NO_PAD.encode("{\"alg\":\"none\"}");
        let payload = again.split('.').nth(1).unwrap();
        for (token, expected) in [
            (other.token(&good), "the token's signature is wrong"),
            (issuer.token(&json!({"aud": "shop", "exp": now() - 61})), "the token has expired"),
            (issuer.token(&json!({"aud": "shop", "nbf": now() + 90})), "the token is not valid yet"),
            (issuer.token(&json!({"aud": "bank"})), "the token is for another audience"),
            (issuer.token(&json!({"aud": "shop", "iss": "https://other"})), "the token's issuer is not known here"),
            (format!("{signed}."), "the token's signature is wrong"),
            (format!("{none}.{payload}."), "the token's algorithm is not one of those that are allowed"),
            ("opaque".into(), "the token is malformed"),
            (String::new(), "the token is malformed"),
        ] {
            let got = with(&waypoint, &token).await;
            assert_eq!((got.status.as_u16(), got.body.as_str()), (401, expected));
            let challenge = format!("Bearer error=\"invalid_token\", error_description=\"{expected}\"");
            assert_eq!(got.header("www-authenticate"), challenge);
        }
        assert_eq!(v1.seen.borrow().len(), 3);
        let told = waypoint.ledger().requests.borrow();
        assert_eq!((told[3].flags.as_slice(), told[3].decided.as_str()), (&[Flag::TokenRefused][..], "E_TOKEN_REFUSED shop/jwt -"));
    });
}

#[test]
fn without_keys_every_token_is_refused_and_only_who_has_none_passes() {
    run(async {
        let issuer = Issuer::new();
        for jwks in ["", "<html>", "{}", "{\"keys\":[]}", "{\"keys\":[{\"kty\":\"oct\",\"k\":\"AAAA\"}]}"] {
            let (waypoint, _v1) = served(vec![TokenRule { jwks: jwks.into(), ..issuer.rule() }], vec![]).await;
            assert_eq!(with(&waypoint, &issuer.token(&json!({}))).await.status, 401, "{jwks}");
            assert_eq!(waypoint.http1().await.get("/").await.status, 200, "a policy has to ask for one");
        }
    });
}

#[test]
fn new_keys_end_what_was_remembered() {
    run(async {
        let (old, new) = (Issuer::new(), Issuer::new());
        let (waypoint, _v1) = served(vec![old.rule()], vec![]).await;
        let token = old.token(&json!({}));
        assert_eq!(with(&waypoint, &token).await.status, 200);
        waypoint.guard(one_rule(to("shop/v1")), Some(&Access { tokens: vec![new.rule()], ..access(vec![]) }));
        assert_eq!(with(&waypoint, &token).await.status, 401);
    });
}

#[test]
fn policies_see_who_a_token_is_of() {
    run(async {
        let issuer = Issuer::new();
        let claim = |path: &[&str], text: &str| Claim { path: path.iter().map(ToString::to_string).collect(), values: any(&[exact(text)]) };
        let anybody = Some(Texts { any: vec![], none: vec![exact("")] });
        let status = async |matches: Match, claims: Option<&Value>| {
            let (waypoint, _v1) = served(vec![issuer.rule()], vec![policy("who", Action::Allow, &[matches])]).await;
            match claims {
                Some(claims) => with(&waypoint, &issuer.token(claims)).await.status.as_u16(),
                None => waypoint.http1().await.get("/").await.status.as_u16(),
            }
        };
        let ann = || Match { request_principals: any(&[exact("https://issuer.example/ann")]), ..Match::default() };
        assert_eq!(status(ann(), Some(&json!({}))).await, 200);
        assert_eq!(status(ann(), Some(&json!({"sub": "bob"}))).await, 403);
        assert_eq!(status(ann(), None).await, 403);
        assert_eq!(status(Match { request_principals: anybody, ..Match::default() }, None).await, 403);
        let of_issuer = || Match { request_principals: any(&[prefix("https://issuer.example/")]), ..Match::default() };
        assert_eq!(status(of_issuer(), Some(&json!({}))).await, 200);
        let group = || Match { claims: vec![claim(&["groups"], "admins")], ..Match::default() };
        assert_eq!(status(group(), Some(&json!({"groups": ["users", "admins"]}))).await, 200);
        assert_eq!(status(group(), Some(&json!({"groups": "admins"}))).await, 200);
        assert_eq!(status(group(), Some(&json!({"groups": ["users"]}))).await, 403);
        assert_eq!(status(group(), None).await, 403);
        let nested = || Match { claims: vec![claim(&["realm", "role"], "admin")], ..Match::default() };
        assert_eq!(status(nested(), Some(&json!({"realm": {"role": "admin"}}))).await, 200);
        assert_eq!(status(nested(), Some(&json!({"realm.role": "admin", "realm": "admin"}))).await, 403);
        let scope = || Match { claims: vec![claim(&["scope"], "write")], ..Match::default() };
        assert_eq!(status(scope(), Some(&json!({"scope": "read write"}))).await, 200);
        assert_eq!(status(scope(), Some(&json!({"scope": "read rewrite"}))).await, 403);
        let audience = || Match { audiences: any(&[exact("shop")]), presenters: any(&[exact("till")]), ..Match::default() };
        assert_eq!(status(audience(), Some(&json!({"aud": ["x", "shop"], "azp": "till"}))).await, 200);
        assert_eq!(status(audience(), Some(&json!({"aud": "shop"}))).await, 403);
    });
}

#[test]
fn a_token_is_found_in_its_places_and_goes_on_only_where_it_should() {
    run(async {
        let issuer = Issuer::new();
        let rule = TokenRule {
            headers: vec![
                TokenHeader { name: "x-token".into(), prefix: String::new() },
                TokenHeader { name: "authorization".into(), prefix: "Bearer ".into() },
            ],
            cookies: vec!["session".into()],
            payload_header: "x-payload".into(),
            claim_headers: vec![
                ClaimHeader { header: "x-user".into(), claim: vec!["sub".into()] },
                ClaimHeader { header: "x-age".into(), claim: vec!["age".into()] },
            ],
            ..issuer.rule()
        };
        let (waypoint, v1) = served(
            vec![rule.clone()],
            vec![policy("who", Action::Allow, &[Match { request_principals: any(&[prefix("https://")]), ..Match::default() }])],
        )
        .await;
        let token = issuer.token(&json!({"age": 7}));
        let payload = token.split('.').nth(1).unwrap().to_owned();
        let encoded = token.replace('.', "%2E");
        for (path, header) in [
            ("/".to_owned(), Some(("x-token", token.clone()))),
            ("/".to_owned(), Some(("authorization", format!("bearer {token}")))),
            (format!("/?a=1&access_token={token}&b=2"), None),
            (format!("/?access%5Ftoken={encoded}&a=1&b=2"), None),
            ("/".to_owned(), Some(("cookie", format!("a=1; session={token}; b=2")))),
        ] {
            let request = header
                .iter()
                .fold(get(&path), |request, (name, value)| request.header(*name, value))
                .header("x-user", "root")
                .body(body(""))
                .unwrap();
            assert_eq!(waypoint.http1().await.send(request).await.status, 200, "{path} {header:?}");
            let seen = v1.seen.borrow().last().unwrap().clone();
            assert_eq!((seen.header("x-payload"), seen.header("x-user"), seen.header("x-age")), (payload.as_str(), "ann", "7"));
            assert_eq!(seen.headers.get_all("x-user").iter().count(), 1);
            assert!(!seen.uri.contains("token") && seen.headers.get("x-token").is_none() && seen.headers.get("authorization").is_none());
            assert!(seen.uri == "/" || seen.uri == "/?a=1&b=2", "{}", seen.uri);
            assert!(["", "a=1; b=2"].contains(&seen.header("cookie")), "{}", seen.header("cookie"));
        }
        let several =
            get(&format!("/?access_token={token}")).header("x-token", issuer.token(&json!({"sub": "bob"}))).body(body("")).unwrap();
        assert_eq!(waypoint.http1().await.send(several).await.body, "the request has more than one token");
        waypoint.guard(one_rule(to("shop/v1")), Some(&Access { tokens: vec![TokenRule { forward: true, ..rule }], ..access(vec![]) }));
        let request = get("/").header("x-token", &token).body(body("")).unwrap();
        assert_eq!(waypoint.http1().await.send(request).await.status, 200);
        assert_eq!(v1.seen.borrow().last().unwrap().header("x-token"), token);
        let request = get("/").header("x-user", "root").header("authorization", "Basic YTpi").body(body("")).unwrap();
        assert_eq!(waypoint.http1().await.send(request).await.status, 200);
        let seen = v1.seen.borrow().last().unwrap().clone();
        assert_eq!(
            (seen.headers.get("x-user"), seen.header("authorization")),
            (None, "Basic YTpi"),
            "what is ours to say is not the client's"
        );
    });
}

#[test]
fn rules_that_say_nowhere_where_a_token_is_are_rejected() {
    run(async {
        let issuer = Issuer::new();
        let (waypoint, _v1) = served(vec![issuer.rule()], vec![]).await;
        let nowhere = TokenRule { headers: vec![], parameters: vec![], ..issuer.rule() };
        let upper = TokenRule { payload_header: "X-Payload".into(), ..issuer.rule() };
        for (rule, place) in [(nowhere, "tokens[0].headers, parameters, cookies"), (upper, "tokens[0].payload_header")] {
            let access = prost::Message::encode_to_vec(&Access { tokens: vec![rule], ..access(vec![]) });
            let rejected = waypoint.guard_with(one_rule(to("shop/v1")), Some(&access));
            assert!(rejected.starts_with(place), "{rejected}");
            assert_eq!(waypoint.http1().await.get("/").await.status, 403);
        }
    });
}
