//! The evaluator against a model that is deliberately naive: the rules of L4 authorization, sentence by sentence, over the wire messages.
#![allow(clippy::unwrap_used)] // a test that cannot set up its case should panic

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use trackbed_contract::Identity;
use trackbed_contract::istio::security::string_match::MatchType;
use trackbed_contract::istio::security::{Action, Address, Authorization, Clause, Match, Rule, Scope, ServiceAccountMatch, StringMatch};
use trackbed_policy::{Candidate, Connection, Decision, Policy, Rejected, evaluate, explain};

const CASES: u32 = 12_000;

/// The source as three strings, so that the model shares no code with `Identity`.
type Source = Option<(String, String, String)>;

#[derive(Debug, Clone)]
struct Facts {
    source: Source,
    source_ip: IpAddr,
    destination_ip: IpAddr,
    port: u16,
}

#[derive(Debug, Clone)]
enum Entry {
    Known(Authorization),
    Rejected { enforced: bool },
    Unknown,
}

/// Code (empty = allowed), and index of the entry and the rule that decided.
type Expected = (&'static str, Option<(usize, Option<usize>)>);

mod naive {
    use super::*;

    /// Order: any DENY that matches → deny; what is not usable → deny; no enforced ALLOW at all → allow; any ALLOW that matches → allow;
    /// else deny. Dry-run policies do not count.
    pub(crate) fn verdict(entries: &[Entry], facts: &Facts) -> Expected {
        let known: Vec<(usize, &Authorization)> = entries
            .iter()
            .enumerate()
            .filter_map(|(index, entry)| if let Entry::Known(policy) = entry { Some((index, policy)) } else { None })
            .filter(|(_, policy)| !policy.dry_run)
            .collect();
        for (index, policy) in &known {
            if policy.action == Action::Deny as i32
                && let Some(rule) = matching_rule(policy, facts)
            {
                let strict = policy.name == "istio_converted_static_strict" && facts.source.is_none();
                return (if strict { "E_POLICY_STRICT" } else { "E_POLICY_DENIED" }, Some((*index, Some(rule))));
            }
        }
        for (index, entry) in entries.iter().enumerate() {
            if let Entry::Rejected { enforced: true } = entry {
                return ("E_POLICY_INVALID", Some((index, None)));
            }
        }
        for (index, entry) in entries.iter().enumerate() {
            if let Entry::Unknown = entry {
                return ("E_POLICY_UNKNOWN", Some((index, None)));
            }
        }
        let allows: Vec<_> = known.iter().filter(|(_, policy)| policy.action == Action::Allow as i32).collect();
        if allows.is_empty() {
            return ("", None);
        }
        for (index, policy) in &allows {
            if let Some(rule) = matching_rule(policy, facts) {
                return ("", Some((*index, Some(rule))));
            }
        }
        ("E_POLICY_NO_ALLOW", Some((allows[0].0, None)))
    }

    /// Rules OR. An empty list never matches.
    pub(crate) fn matching_rule(policy: &Authorization, facts: &Facts) -> Option<usize> {
        for (index, rule) in policy.rules.iter().enumerate() {
            // Clauses AND. A rule without clauses always matches.
            let mut all = true;
            for clause in &rule.clauses {
                // Matches OR. A clause without matches is true.
                let mut any = clause.matches.is_empty();
                for one in &clause.matches {
                    any = any || matches(one, facts);
                }
                all = all && any;
            }
            if all {
                return Some(index);
            }
        }
        None
    }

    /// Field types AND, values of one type OR, no value of the not_ list. No fields = never.
    fn matches(m: &Match, facts: &Facts) -> bool {
        let (namespace, principal) = match &facts.source {
            None => (String::new(), String::new()),
            Some((domain, namespace, account)) => (namespace.clone(), [domain, "/ns/", namespace, "/sa/", account].concat()),
        };
        let set = [
            m.namespaces.len(),
            m.not_namespaces.len(),
            m.principals.len(),
            m.not_principals.len(),
            m.source_ips.len(),
            m.not_source_ips.len(),
            m.destination_ips.len(),
            m.not_destination_ips.len(),
            m.destination_ports.len(),
            m.not_destination_ports.len(),
            m.service_accounts.len(),
            m.not_service_accounts.len(),
        ];
        if set.iter().sum::<usize>() == 0 {
            return false;
        }
        let field = |wanted: Vec<bool>, unwanted: Vec<bool>| (wanted.is_empty() || wanted.contains(&true)) && !unwanted.contains(&true);
        let texts = |list: &[StringMatch], value: &str| list.iter().map(|one| text(one, value)).collect::<Vec<_>>();
        let ips = |list: &[Address], value: IpAddr| list.iter().map(|one| holds(one, value)).collect::<Vec<_>>();
        let ports = |list: &[u32]| list.iter().map(|one| *one == u32::from(facts.port)).collect::<Vec<_>>();
        let accounts = |list: &[ServiceAccountMatch]| list.iter().map(|one| account(one, &facts.source)).collect::<Vec<_>>();
        field(texts(&m.namespaces, &namespace), texts(&m.not_namespaces, &namespace))
            && field(texts(&m.principals, &principal), texts(&m.not_principals, &principal))
            && field(ips(&m.source_ips, facts.source_ip), ips(&m.not_source_ips, facts.source_ip))
            && field(ips(&m.destination_ips, facts.destination_ip), ips(&m.not_destination_ips, facts.destination_ip))
            && field(ports(&m.destination_ports), ports(&m.not_destination_ports))
            && field(accounts(&m.service_accounts), accounts(&m.not_service_accounts))
    }

    fn text(one: &StringMatch, value: &str) -> bool {
        match one.match_type.as_ref().unwrap() {
            MatchType::Exact(exact) => exact == value,
            MatchType::Prefix(prefix) => value.len() >= prefix.len() && value.as_bytes()[..prefix.len()] == *prefix.as_bytes(),
            MatchType::Suffix(suffix) => {
                value.len() >= suffix.len() && value.as_bytes()[value.len() - suffix.len()..] == *suffix.as_bytes()
            }
            MatchType::Presence(()) => !value.is_empty(),
        }
    }

    /// Bit by bit.
    fn holds(block: &Address, address: IpAddr) -> bool {
        let bytes = match address {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
                Some(v4) => v4.octets().to_vec(),
                None => v6.octets().to_vec(),
            },
        };
        let bit = |bytes: &[u8], index: u32| bytes[index as usize / 8] >> (7 - index % 8) & 1;
        bytes.len() == block.address.len() && (0..block.length).all(|index| bit(&bytes, index) == bit(&block.address, index))
    }

    fn account(one: &ServiceAccountMatch, source: &Source) -> bool {
        match source {
            None => false,
            Some((_, namespace, account)) => *namespace == one.namespace && *account == one.service_account,
        }
    }
}

fn namespace() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["shop", "shop-2", "pay", "a"]).prop_map(str::to_owned)
}

fn account() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["web", "web.v1", "default"]).prop_map(str::to_owned)
}

fn source() -> impl Strategy<Value = Source> {
    let domain = prop::sample::select(vec!["cluster.local", "other"]).prop_map(str::to_owned);
    prop::option::weighted(0.8, (domain, namespace(), account()))
}

fn text(of_namespace: bool) -> BoxedStrategy<StringMatch> {
    let whole = if of_namespace {
        namespace().boxed()
    } else {
        (prop::sample::select(vec!["cluster.local", "other"]), namespace(), account())
            .prop_map(|(domain, namespace, account)| format!("{domain}/ns/{namespace}/sa/{account}"))
            .boxed()
    };
    // Parts that cut anywhere: dots and slashes have no meaning of their own.
    let part = (whole.clone(), any::<prop::sample::Index>(), any::<bool>()).prop_map(|(text, cut, head)| {
        let cut = cut.index(text.len());
        if head { MatchType::Prefix(text[..=cut].to_owned()) } else { MatchType::Suffix(text[cut..].to_owned()) }
    });
    prop_oneof![3 => whole.prop_map(MatchType::Exact), 4 => part, 1 => Just(MatchType::Presence(()))]
        .prop_map(|match_type| StringMatch { match_type: Some(match_type) })
        .boxed()
}

fn ip() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        (0..3u8, 0..3u8).prop_map(|(c, d)| IpAddr::from([10, 0, c, d])),
        (0..3u16, 0..3u16).prop_map(|(c, d)| IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, c, d))),
        (0..3u8).prop_map(|d| IpAddr::V6(Ipv4Addr::new(10, 0, 0, d).to_ipv6_mapped())),
    ]
}

fn block() -> impl Strategy<Value = Address> {
    (ip(), any::<prop::sample::Index>(), any::<bool>()).prop_map(|(ip, length, narrow)| {
        let address = match ip.to_canonical() {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        let bits = address.len() * 8;
        let length = if narrow { bits - length.index(11) } else { length.index(bits + 1) };
        Address { address, length: u32::try_from(length).unwrap() }
    })
}

fn few<T: std::fmt::Debug + Clone + 'static>(one: impl Strategy<Value = T> + 'static) -> BoxedStrategy<Vec<T>> {
    prop_oneof![5 => Just(Vec::new()), 2 => prop::collection::vec(one, 1..3)].boxed()
}

fn a_match() -> impl Strategy<Value = Match> {
    let port = || prop::sample::select(vec![80u32, 443, 8080]);
    let account = || (namespace(), account()).prop_map(|(namespace, service_account)| ServiceAccountMatch { namespace, service_account });
    let texts = (few(text(true)), few(text(true)), few(text(false)), few(text(false)));
    let ips = (few(block()), few(block()), few(block()), few(block()));
    (texts, ips, few(port()), few(port()), few(account()), few(account())).prop_map(
        |(texts, ips, ports, not_ports, accounts, not_accounts)| Match {
            namespaces: texts.0,
            not_namespaces: texts.1,
            principals: texts.2,
            not_principals: texts.3,
            source_ips: ips.0,
            not_source_ips: ips.1,
            destination_ips: ips.2,
            not_destination_ips: ips.3,
            destination_ports: ports,
            not_destination_ports: not_ports,
            service_accounts: accounts,
            not_service_accounts: not_accounts,
            extensions: Vec::new(),
        },
    )
}

fn policy() -> impl Strategy<Value = Authorization> {
    let clause = prop::collection::vec(a_match(), 0..3).prop_map(|matches| Clause { matches });
    let rule = prop::collection::vec(clause, 0..3).prop_map(|clauses| Rule { clauses });
    let name = prop::sample::select(vec!["p", "q", "istio_converted_static_strict"]);
    (name, namespace(), 0..3i32, 0..2i32, prop::collection::vec(rule, 0..4), prop::bool::weighted(0.15)).prop_map(
        |(name, namespace, scope, action, rules, dry_run)| Authorization {
            name: name.to_owned(),
            namespace,
            scope,
            action,
            rules,
            dry_run,
            extensions: Vec::new(),
        },
    )
}

fn entry() -> impl Strategy<Value = Entry> {
    prop_oneof![
        20 => policy().prop_map(Entry::Known),
        1 => any::<bool>().prop_map(|enforced| Entry::Rejected { enforced }),
        1 => Just(Entry::Unknown),
    ]
}

fn facts() -> impl Strategy<Value = Facts> {
    (source(), ip(), ip(), prop::sample::select(vec![80u16, 443, 8080])).prop_map(|(source, source_ip, destination_ip, port)| Facts {
        source,
        source_ip,
        destination_ip,
        port,
    })
}

fn runner(cases: u32) -> TestRunner {
    let seed = std::env::var("TEST_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    println!("seed: run again with TEST_SEED={seed}");
    let bytes: Vec<u8> = seed.to_le_bytes().iter().copied().cycle().take(32).collect();
    TestRunner::new_with_rng(
        Config { cases, failure_persistence: None, ..Config::default() },
        TestRng::from_seed(RngAlgorithm::ChaCha, &bytes),
    )
}

#[test]
fn the_evaluator_agrees_with_the_naive_model() {
    let seen = RefCell::new(BTreeMap::<&str, u32>::new());
    runner(CASES)
        .run(&(prop::collection::vec(entry(), 0..5), facts()), |(entries, facts)| {
            let (code, _) = agree(&entries, &facts);
            *seen.borrow_mut().entry(code).or_default() += 1;
            Ok(())
        })
        .unwrap();
    let seen = seen.into_inner();
    println!("{seen:?}");
    // A generator that never reaches a verdict would prove nothing about it.
    for code in ["", "E_POLICY_DENIED", "E_POLICY_STRICT", "E_POLICY_INVALID", "E_POLICY_UNKNOWN", "E_POLICY_NO_ALLOW"] {
        assert!(seen.get(code).is_some_and(|count| *count > CASES / 500), "{code:?} was hardly reached: {seen:?}");
    }
}

fn agree(entries: &[Entry], facts: &Facts) -> Expected {
    let unknown: Arc<str> = "ns/unknown".into();
    let rejected = |enforced| Rejected {
        name: "ns/rejected".into(),
        scope: Some(trackbed_policy::Scope::Namespace),
        namespace: "ns".into(),
        reason: "broken".into(),
        enforced,
    };
    let (on, off) = (rejected(true), rejected(false));
    let compiled: Vec<Option<Policy>> = entries
        .iter()
        .map(
            |entry| {
                if let Entry::Known(wire) = entry { Some(Policy::from_wire(wire).expect("generated policies are valid")) } else { None }
            },
        )
        .collect();
    let candidates = entries.iter().zip(&compiled).map(|(entry, policy)| match (entry, policy) {
        (Entry::Known(_), Some(policy)) => Candidate::Known(policy),
        (Entry::Rejected { enforced }, _) => Candidate::Rejected(if *enforced { &on } else { &off }),
        _ => Candidate::Unknown(&unknown),
    });
    let identity = facts.source.as_ref().map(|(domain, ns, sa)| Identity::parse(&format!("spiffe://{domain}/ns/{ns}/sa/{sa}")).unwrap());
    let connection = Connection {
        source: identity.as_ref(),
        source_ip: facts.source_ip,
        destination_ip: facts.destination_ip,
        destination_port: facts.port,
    };
    let evaluation = evaluate(candidates.clone(), &connection);
    let expected = naive::verdict(entries, facts);
    let name = |index: usize| match &entries[index] {
        Entry::Known(policy) => format!("{}/{}", policy.namespace, policy.name),
        Entry::Rejected { .. } => "ns/rejected".to_owned(),
        Entry::Unknown => "ns/unknown".to_owned(),
    };
    let expected_policy = expected.1.map(|(index, rule)| (name(index), rule));
    let (code, policy) = match &evaluation.decision {
        Decision::Allowed { by } => ("", by.clone()),
        Decision::Denied(refused) => (refused.code, Some(refused.policy.clone())),
    };
    let policy = policy.map(|policy| (policy.name.to_string(), policy.rule));
    assert_eq!((code, &policy), (expected.0, &expected_policy), "{entries:#?}\n{facts:#?}");

    let dry: Vec<_> = entries
        .iter()
        .filter_map(|entry| match entry {
            Entry::Known(policy) if policy.dry_run => naive::matching_rule(policy, facts).map(|rule| (policy.action, rule)),
            _ => None,
        })
        .map(|(_, rule)| Some(rule))
        .collect();
    assert_eq!(evaluation.dry_run.iter().map(|one| one.policy.rule).collect::<Vec<_>>(), dry, "{entries:#?}\n{facts:#?}");

    let enforced: Vec<_> = entries.iter().cloned().map(enforced).collect();
    let would = naive::verdict(&enforced, facts);
    let turned = would.0.is_empty() != expected.0.is_empty();
    assert_eq!(evaluation.audit.is_some(), turned, "dry runs enforced would say {would:?}\n{entries:#?}\n{facts:#?}");
    if let Some(audit) = &evaluation.audit {
        assert_eq!(audit.admits(), would.0.is_empty(), "{entries:#?}\n{facts:#?}");
    }

    let (considered, explained) = explain(candidates.clone(), &connection);
    assert_eq!(explained, evaluation, "an explanation says what enforcement does");
    assert_eq!(considered.len(), entries.len());
    for (candidate, considered) in candidates.zip(considered) {
        let rules = candidate.rules(&connection);
        let first = rules.iter().find(|rule| rule.matches).map(|rule| rule.rule);
        assert_eq!(first, considered.policy.rule, "the rules say what the policy says: {rules:#?}\n{entries:#?}\n{facts:#?}");
        assert!(rules.iter().all(|rule| rule.matches == rule.misses.is_empty()));
    }
    expected
}

/// The same without dry runs.
fn enforced(entry: Entry) -> Entry {
    match entry {
        Entry::Known(policy) => Entry::Known(Authorization { dry_run: false, ..policy }),
        Entry::Rejected { .. } => Entry::Rejected { enforced: true },
        Entry::Unknown => Entry::Unknown,
    }
}

#[test]
fn a_policy_survives_the_wire_and_any_further_field_makes_it_unusable() {
    use prost::Message;
    runner(2000)
        .run(&(policy(), 100u32..2000, any::<u32>()), |(wire, tag, value)| {
            let name = format!("{}/{}", wire.namespace, wire.name);
            let mut body = wire.encode_to_vec();
            prop_assert_eq!(Policy::decode(&name, &body).unwrap(), Policy::from_wire(&wire).unwrap());
            prost::encoding::uint32::encode(tag, &value, &mut body);
            let rejected = Policy::decode(&name, &body).unwrap_err();
            prop_assert!(rejected.enforced, "{}", rejected.reason);
            prop_assert!(rejected.scope.is_some());
            let other = Policy::decode("other/name", &wire.encode_to_vec()).unwrap_err();
            prop_assert_eq!(other.scope, None, "a policy under another's name may apply anywhere");
            Ok(())
        })
        .unwrap();
}

#[test]
fn garbage_never_panics_and_denies_everywhere() {
    runner(4000)
        .run(&prop::collection::vec(any::<u8>(), 0..64), |body| {
            if let Err(rejected) = Policy::decode("shop/p", &body) {
                prop_assert_eq!(rejected.name.as_ref(), "shop/p");
                prop_assert!(rejected.enforced);
            } else {
                prop_assert!(false, "random bytes named shop/p: {:?}", body);
            }
            Ok(())
        })
        .unwrap();
}

#[test]
fn names_are_never_patterns() {
    let dotted = ServiceAccountMatch { namespace: "shop".to_owned(), service_account: "web.v1".to_owned() };
    let policy = wire_allow(Match { service_accounts: vec![dotted], ..Match::default() });
    let policy = Policy::from_wire(&policy).unwrap();
    for (account, matches) in [("web.v1", true), ("web-v1", false), ("webxv1", false)] {
        let source = Identity::parse(&format!("spiffe://any.domain/ns/shop/sa/{account}")).unwrap();
        let any = IpAddr::from([10, 0, 0, 1]);
        let connection = Connection { source: Some(&source), source_ip: any, destination_ip: any, destination_port: 80 };
        assert_eq!(policy.matches(&connection).is_some(), matches, "{account}");
    }
}

fn wire_allow(one: Match) -> Authorization {
    Authorization {
        name: "p".to_owned(),
        namespace: "shop".to_owned(),
        scope: Scope::Namespace.into(),
        action: Action::Allow.into(),
        rules: vec![Rule { clauses: vec![Clause { matches: vec![one] }] }],
        dry_run: false,
        extensions: Vec::new(),
    }
}
