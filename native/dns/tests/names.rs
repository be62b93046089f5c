//! Claims about the decision on one query: names, families, limits, and bytes of any kind.
#![allow(clippy::unwrap_used, reason = "a test that cannot build its input shall stop")]

use std::{
    collections::{HashMap, HashSet},
    net::{Ipv4Addr, Ipv6Addr},
};

use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{DNSClass, Name, RData, RecordType},
};
use proptest::prelude::*;
use trackbed_dns::{Addresses, Names, Reply, TTL_SECONDS, Transport, UDP_PAYLOAD_BYTES, answer, failure};

struct Mesh(HashMap<&'static str, Addresses>);

impl Names for Mesh {
    fn lookup(&self, hostname: &str) -> Option<Addresses> {
        assert_eq!(hostname, hostname.to_ascii_lowercase());
        assert!(!hostname.ends_with('.'));
        self.0.get(hostname).cloned()
    }
    fn search(&self) -> impl AsRef<[String]> {
        ["shop.svc.cluster.local", "svc.cluster.local", "cluster.local"].map(str::to_owned)
    }
}

fn v4(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 96, 0, last)
}

fn mesh() -> Mesh {
    let both = Addresses { v4: vec![v4(1)], v6: vec![Ipv6Addr::LOCALHOST], headless: false };
    let four = Addresses { v4: vec![v4(2)], ..Addresses::default() };
    let other = Addresses { v4: vec![v4(3)], ..Addresses::default() };
    let pods = Addresses { v4: (0..200).map(v4).collect(), v6: vec![], headless: true };
    Mesh(HashMap::from([
        ("cart.shop.svc.cluster.local", both),
        ("four.shop.svc.cluster.local", four),
        ("cart.bank.svc.cluster.local", other),
        ("db.shop.svc.cluster.local", pods),
        ("api.example.com", Addresses { v4: vec![v4(9)], ..Addresses::default() }),
    ]))
}

fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(0x1234, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

fn ask(message: &Message, transport: Transport) -> Reply {
    answer(&message.to_vec().unwrap(), transport, &mesh(), &mut fastrand::Rng::with_seed(7))
}

fn answered(message: &Message, transport: Transport) -> Message {
    match ask(message, transport) {
        Reply::Answer(bytes) => Message::from_vec(&bytes).unwrap(),
        other => panic!("{other:?}"),
    }
}

fn addresses(message: &Message) -> Vec<String> {
    message.answers.iter().map(|record| record.data.to_string()).collect()
}

#[test]
fn mesh_names_have_their_addresses_of_the_family_that_was_asked() {
    let response = answered(&query("cart.shop.svc.cluster.local.", RecordType::A), Transport::Udp);
    assert_eq!(addresses(&response), ["10.96.0.1"]);
    assert_eq!(response.metadata.id, 0x1234);
    assert_eq!(response.metadata.message_type, MessageType::Response);
    assert!(response.metadata.recursion_desired && response.metadata.recursion_available && !response.metadata.truncation);
    assert!(response.answers.iter().all(|record| record.ttl == TTL_SECONDS));
    let response = answered(&query("cart.shop.svc.cluster.local.", RecordType::AAAA), Transport::Udp);
    assert_eq!(addresses(&response), ["::1"]);
}

#[test]
fn a_family_that_a_mesh_name_lacks_is_empty_and_not_an_error() {
    let response = answered(&query("four.shop.svc.cluster.local.", RecordType::AAAA), Transport::Udp);
    assert_eq!(response.metadata.response_code, ResponseCode::NoError);
    assert!(response.answers.is_empty());
    assert!(response.metadata.authoritative, "or glibc takes it for a lame referral");
    assert!(response.edns.is_none(), "nobody asked for EDNS");
}

#[test]
fn short_names_resolve_as_the_pod_s_search_list_would() {
    for (name, expected) in [
        ("cart.", "10.96.0.1"),
        ("cart.shop.", "10.96.0.1"),
        ("cart.bank.", "10.96.0.3"),
        ("cart.bank.svc.", "10.96.0.3"),
        ("api.example.com.", "10.96.0.9"),
    ] {
        let response = answered(&query(name, RecordType::A), Transport::Udp);
        assert_eq!(addresses(&response), [expected], "{name}");
        assert_eq!(response.answers.first().unwrap().name, Name::from_ascii(name).unwrap(), "the owner is the name that was asked");
    }
}

#[test]
fn everything_else_is_forwarded() {
    for (name, kind) in [
        ("example.org.", RecordType::A),
        ("cart.nowhere.svc.cluster.local.", RecordType::A),
        ("bank.", RecordType::A),
        (".", RecordType::NS),
        (".", RecordType::A),
        ("cart.shop.svc.cluster.local.", RecordType::SRV),
        ("cart.shop.svc.cluster.local.", RecordType::ANY),
        ("1.0.96.10.in-addr.arpa.", RecordType::PTR),
    ] {
        assert_eq!(ask(&query(name, kind), Transport::Udp), Reply::Forward, "{name} {kind}");
    }
    let mut chaos = query("cart.shop.svc.cluster.local.", RecordType::A);
    chaos.queries.first_mut().unwrap().set_query_class(DNSClass::CH);
    assert_eq!(ask(&chaos, Transport::Udp), Reply::Forward);
    let mut notify = query("cart.shop.svc.cluster.local.", RecordType::A);
    notify.metadata.op_code = OpCode::Notify;
    assert_eq!(ask(&notify, Transport::Udp), Reply::Forward);
}

#[test]
fn a_dot_inside_a_label_is_not_a_label_s_end() {
    let mut bytes = query("cartxshop.svc.cluster.local.", RecordType::A).to_vec().unwrap();
    let at = bytes.iter().position(|byte| *byte == b'x').unwrap();
    bytes[at] = b'.';
    assert_eq!(answer(&bytes, Transport::Udp, &mesh(), &mut fastrand::Rng::new()), Reply::Forward);
}

#[test]
fn the_question_comes_back_bit_for_bit_in_the_case_it_was_asked() {
    let query = query("CaRt.sHoP.SVC.cluster.LOCAL.", RecordType::A);
    let bytes = query.to_vec().unwrap();
    let Reply::Answer(response) = ask(&query, Transport::Udp) else { panic!("not answered") };
    assert_eq!(response.get(12..bytes.len()), bytes.get(12..));
    assert_eq!(addresses(&Message::from_vec(&response).unwrap()), ["10.96.0.1"]);
    assert_eq!(response.len(), bytes.len() + 16, "and the answer's name is a pointer to it");
}

#[test]
fn answers_over_udp_keep_the_client_s_limit_and_say_when_they_are_cut() {
    let plain = query("db.shop.svc.cluster.local.", RecordType::A);
    let mut sizes = vec![(plain.clone(), 512)];
    for (announced, limit) in [(100, 512), (700, 700), (1232, 1232), (65535, usize::from(UDP_PAYLOAD_BYTES))] {
        let mut with_edns = plain.clone();
        let mut edns = Edns::new();
        edns.set_max_payload(announced).set_dnssec_ok(true);
        with_edns.set_edns(edns);
        sizes.push((with_edns, limit));
    }
    for (query, limit) in sizes {
        let Reply::Answer(bytes) = ask(&query, Transport::Udp) else { panic!("not answered") };
        assert!(bytes.len() <= limit && bytes.len() + 16 > limit, "{} of {limit}", bytes.len());
        let response = Message::from_vec(&bytes).unwrap();
        assert!(response.metadata.truncation);
        assert_eq!(response.edns.is_some(), query.edns.is_some());
        if let Some(edns) = &response.edns {
            assert_eq!((edns.version(), edns.max_payload(), edns.flags().dnssec_ok), (0, UDP_PAYLOAD_BYTES, true));
        }
    }
    let whole = answered(&plain, Transport::Tcp);
    assert_eq!(whole.answers.len(), 200);
    assert!(!whole.metadata.truncation);
}

#[test]
fn headless_answers_are_shuffled_and_lose_none() {
    let (mut random, bytes) = (fastrand::Rng::with_seed(1), query("db.shop.svc.cluster.local.", RecordType::A).to_vec().unwrap());
    let mut firsts = HashSet::new();
    for _ in 0..50 {
        let Reply::Answer(bytes) = answer(&bytes, Transport::Tcp, &mesh(), &mut random) else { panic!("not answered") };
        let told = addresses(&Message::from_vec(&bytes).unwrap());
        assert_eq!(told.iter().collect::<HashSet<_>>().len(), 200);
        firsts.insert(told.first().cloned().unwrap());
    }
    assert!(firsts.len() > 20, "{} different first addresses in 50 answers", firsts.len());
}

#[test]
fn an_unknown_edns_version_is_named() {
    let mut query = query("cart.shop.svc.cluster.local.", RecordType::A);
    let mut edns = Edns::new();
    edns.set_version(1);
    query.set_edns(edns);
    let response = answered(&query, Transport::Udp);
    assert_eq!(u16::from(response.metadata.response_code), u16::from(ResponseCode::BADVERS), "16 has two names");
    assert!(response.answers.is_empty());
    assert_eq!(response.edns.unwrap().version(), 0);
}

#[test]
fn malformed_queries_are_told_and_what_is_no_query_is_dropped() {
    let refused = |bytes: &[u8]| match answer(bytes, Transport::Udp, &mesh(), &mut fastrand::Rng::new()) {
        Reply::Refuse(reply) => Message::from_vec(&reply).unwrap(),
        other => panic!("{other:?}"),
    };
    let good = query("cart.shop.svc.cluster.local.", RecordType::A);
    let bytes = good.to_vec().unwrap();
    let mut two = good.clone();
    two.add_query(Query::query(Name::from_ascii("example.org.").unwrap(), RecordType::A));
    let mut none = good.clone();
    none.queries.clear();
    let mut tail = bytes.clone();
    tail[11] = 1;
    for malformed in [&two.to_vec().unwrap()[..], &none.to_vec().unwrap(), &bytes[..20], &bytes[..bytes.len() - 1], &tail] {
        let response = refused(malformed);
        assert_eq!((response.metadata.id, response.metadata.response_code), (0x1234, ResponseCode::FormErr));
        assert_eq!(response.metadata.message_type, MessageType::Response);
    }
    let mut response = bytes.clone();
    response[2] |= 0x80;
    for silent in [&[][..], &bytes[..11], &response] {
        assert_eq!(answer(silent, Transport::Udp, &mesh(), &mut fastrand::Rng::new()), Reply::Drop);
    }
}

#[test]
fn a_failure_is_servfail_to_the_same_question() {
    let query = query("eXample.org.", RecordType::MX);
    let failure = Message::from_vec(&failure(&query.to_vec().unwrap()).unwrap()).unwrap();
    assert_eq!((failure.metadata.id, failure.metadata.response_code), (0x1234, ResponseCode::ServFail));
    assert_eq!(failure.queries, query.queries);
}

/// What must hold for any bytes: no panic, and what is sent is a readable response to this id within the transport's limit.
fn holds(bytes: &[u8], transport: Transport) {
    let _ = failure(bytes);
    let reply = answer(bytes, transport, &mesh(), &mut fastrand::Rng::with_seed(3));
    if let Reply::Answer(reply) | Reply::Refuse(reply) = reply {
        assert_eq!(reply.get(..2), bytes.get(..2));
        let response = Message::from_vec(&reply).expect("readable");
        assert_eq!(response.metadata.message_type, MessageType::Response);
        assert!(transport == Transport::Tcp || reply.len() <= usize::from(UDP_PAYLOAD_BYTES));
        assert!(response.answers.iter().all(|record| matches!(record.data, RData::A(_) | RData::AAAA(_))));
    }
}

proptest! {
    #[test]
    fn no_bytes_can_break_the_decision(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        holds(&bytes, Transport::Udp);
    }

    #[test]
    fn no_mutation_of_a_query_can_break_the_decision(
        name in "(cart|db|x)\\.(shop|bank|[a-z]{1,9})(\\.svc\\.cluster\\.local)?\\.",
        kind in prop_oneof![Just(RecordType::A), Just(RecordType::AAAA), any::<u16>().prop_map(RecordType::from)],
        payload in proptest::option::of(any::<u16>()),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in proptest::option::of(any::<prop::sample::Index>()),
        tcp in any::<bool>(),
    ) {
        let mut message = query(&name, kind);
        if let Some(payload) = payload {
            let mut edns = Edns::new();
            edns.set_max_payload(payload);
            message.set_edns(edns);
        }
        let mut bytes = message.to_vec().unwrap();
        for (index, byte) in changes {
            let at = index.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        holds(&bytes, if tcp { Transport::Tcp } else { Transport::Udp });
    }
}
