//! proto/vectors/policy.json through a whole world: delivery, scope, selection and verdict.
#![allow(clippy::unwrap_used)] // a test that cannot set up its case should panic

mod mesh;

use serde_json::{Map, Value};
use trackbed_contract::Identity;
use trackbed_contract::istio::security::string_match::MatchType;
use trackbed_contract::istio::security::{Action, Address, Authorization, Clause, Match, Rule, Scope, ServiceAccountMatch, StringMatch};
use trackbed_contract::istio::workload::Extension;
use trackbed_decide::{World, explain_inbound};

const VECTORS: &str = include_str!("../../../proto/vectors/policy.json");

#[test]
fn every_vector_has_its_verdict() {
    let vectors: Value = serde_json::from_str(VECTORS).unwrap();
    let cases = vectors["cases"].as_array().unwrap();
    assert!(cases.len() >= 70, "the vectors are not empty");
    for case in cases {
        run(case);
    }
}

fn run(case: &Value) {
    let name = case["name"].as_str().unwrap();
    let mut target = mesh::pod("api", "n1", &["10.0.0.2"]);
    target.authorization_policies = texts(&case["named"]);
    let mut resources = vec![mesh::of_workload(&target)];
    resources.extend(list(case, "policies", authorization).iter().map(mesh::of_policy));
    let (world, rejected) = mesh::apply(&World::new(mesh::settings()), resources, &[]);

    let expected = case.get("rejected").and_then(Value::as_object).cloned().unwrap_or_default();
    assert_eq!(rejected.len(), expected.len(), "{name}: {rejected:?}");
    for one in &rejected {
        let place = expected[&one.name].as_str().unwrap();
        assert!(one.reason.contains(&format!(": {place}: ")), "{name}: {} does not name {place}", one.reason);
        assert_eq!(one.code, "E_POLICY_INVALID", "{name}");
    }

    let connection = &case["connection"];
    let source = connection["source"].as_str().map(|uri| Identity::parse(uri).unwrap());
    let port = u16::try_from(connection["destinationPort"].as_u64().unwrap()).unwrap();
    let destination = (mesh::ip(connection["destinationIp"].as_str().unwrap()), port).into();
    let workload = world.workload(&target.uid).unwrap();
    let source_ip = mesh::ip(connection["sourceIp"].as_str().unwrap());
    let explanation = explain_inbound(&world, workload, source.as_ref(), source_ip, destination);

    let got = serde_json::to_value(&explanation).unwrap();
    let (decision, verdict) = (&got["decision"], &case["verdict"]);
    let denied = decision["verdict"] == "denied";
    let policy = if denied { &decision["policy"] } else { &decision["by"] };
    assert_eq!(verdict["allowed"], !denied, "{name}: {got:#}");
    assert_eq!(verdict["code"], decision.get("code").cloned().unwrap_or_default(), "{name}: {got:#}");
    assert_eq!(verdict["policy"], policy.get("name").cloned().unwrap_or_default(), "{name}: {got:#}");
    assert_eq!(verdict["rule"], policy.get("rule").cloned().unwrap_or_default(), "{name}: {got:#}");
    let dry: Vec<&Value> = got["dryRun"].as_array().unwrap().iter().map(|one| &one["policy"]["name"]).collect();
    assert_eq!(verdict["dryRun"].as_array().unwrap().iter().collect::<Vec<_>>(), dry, "{name}");
}

/// Protobuf JSON of exactly the fields that exist: a misspelt one fails the test.
fn authorization(json: &Value) -> Authorization {
    known(json, &["name", "namespace", "scope", "action", "rules", "dryRun", "extensions"]);
    Authorization {
        name: string(json, "name"),
        namespace: string(json, "namespace"),
        scope: number(&json["scope"]).unwrap_or_else(|| Scope::from_str_name(&string(json, "scope")).unwrap().into()),
        action: number(&json["action"]).unwrap_or_else(|| Action::from_str_name(&string(json, "action")).unwrap().into()),
        rules: list(json, "rules", |rule| {
            known(rule, &["clauses"]);
            Rule { clauses: list(rule, "clauses", clause) }
        }),
        dry_run: json.get("dryRun").is_some_and(|value| value.as_bool().unwrap()),
        extensions: list(json, "extensions", |extension| Extension { name: string(extension, "name"), config: None }),
    }
}

fn clause(json: &Value) -> Clause {
    known(json, &["matches"]);
    Clause { matches: list(json, "matches", one_match) }
}

fn one_match(json: &Value) -> Match {
    known(
        json,
        &[
            "namespaces",
            "notNamespaces",
            "principals",
            "notPrincipals",
            "sourceIps",
            "notSourceIps",
            "destinationIps",
            "notDestinationIps",
            "destinationPorts",
            "notDestinationPorts",
            "serviceAccounts",
            "notServiceAccounts",
        ],
    );
    let port = |value: &Value| u32::try_from(value.as_u64().unwrap()).unwrap();
    Match {
        namespaces: list(json, "namespaces", text),
        not_namespaces: list(json, "notNamespaces", text),
        principals: list(json, "principals", text),
        not_principals: list(json, "notPrincipals", text),
        source_ips: list(json, "sourceIps", block),
        not_source_ips: list(json, "notSourceIps", block),
        destination_ips: list(json, "destinationIps", block),
        not_destination_ips: list(json, "notDestinationIps", block),
        destination_ports: list(json, "destinationPorts", port),
        not_destination_ports: list(json, "notDestinationPorts", port),
        service_accounts: list(json, "serviceAccounts", account),
        not_service_accounts: list(json, "notServiceAccounts", account),
        extensions: Vec::new(),
    }
}

fn text(json: &Value) -> StringMatch {
    known(json, &["exact", "prefix", "suffix", "presence"]);
    let match_type = json.as_object().unwrap().iter().next().map(|(kind, value)| match kind.as_str() {
        "exact" => MatchType::Exact(value.as_str().unwrap().to_owned()),
        "prefix" => MatchType::Prefix(value.as_str().unwrap().to_owned()),
        "suffix" => MatchType::Suffix(value.as_str().unwrap().to_owned()),
        _ => MatchType::Presence(()),
    });
    StringMatch { match_type }
}

fn block(json: &Value) -> Address {
    known(json, &["address", "length"]);
    Address { address: base64(json["address"].as_str().unwrap()), length: u32::try_from(json["length"].as_u64().unwrap()).unwrap() }
}

fn account(json: &Value) -> ServiceAccountMatch {
    known(json, &["namespace", "serviceAccount"]);
    ServiceAccountMatch { namespace: string(json, "namespace"), service_account: string(json, "serviceAccount") }
}

fn known(json: &Value, fields: &[&str]) {
    let object: &Map<_, _> = json.as_object().unwrap();
    for field in object.keys() {
        assert!(fields.contains(&field.as_str()), "unknown field {field} in {json}");
    }
}

fn list<T>(json: &Value, field: &str, one: impl Fn(&Value) -> T) -> Vec<T> {
    json.get(field).map_or_else(Vec::new, |values| values.as_array().unwrap().iter().map(one).collect())
}

fn texts(json: &Value) -> Vec<String> {
    json.as_array().unwrap().iter().map(|value| value.as_str().unwrap().to_owned()).collect()
}

fn string(json: &Value, field: &str) -> String {
    json.get(field).map_or_else(String::new, |value| value.as_str().unwrap().to_owned())
}

fn number(json: &Value) -> Option<i32> {
    json.as_i64().map(|value| i32::try_from(value).unwrap())
}

fn base64(text: &str) -> Vec<u8> {
    let digit =
        |byte: u8| b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/".iter().position(|known| *known == byte).unwrap();
    let digits: Vec<usize> = text.bytes().filter(|byte| *byte != b'=').map(digit).collect();
    let bits = |index: usize| {
        (0..8).fold(0, |byte, bit| byte << 1 | u8::from(digits[(index * 8 + bit) / 6] >> (5 - (index * 8 + bit) % 6) & 1 == 1))
    };
    (0..digits.len() * 6 / 8).map(bits).collect()
}
