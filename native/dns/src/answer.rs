//! What to do with one query: pure, from bytes and the mesh's names to bytes.

use std::net::{Ipv4Addr, Ipv6Addr};

use hickory_proto::{
    op::{Edns, Header, Message, Metadata, OpCode, ResponseCode},
    rr::{
        DNSClass, RData, Record, RecordType,
        rdata::{A, AAAA},
    },
};

use crate::question::{self, Malformed, Question};

/// Long enough to spare a busy pod, short enough that a moved service is found again. Also what Istio's node proxy says.
pub const TTL_SECONDS: u32 = 30;
/// Largest answer over UDP, and what we announce (the 2020 DNS flag day's value: never fragmented).
pub const UDP_PAYLOAD_BYTES: u16 = 1232;
/// Limit without EDNS (RFC 1035).
const PLAIN_UDP_BYTES: u16 = 512;
/// Names with as many dots are taken as complete, as resolvers with the cluster's `ndots:5` do.
const COMPLETE_DOTS: usize = 5;
/// Kubernetes admits no longer search list.
const SEARCH_DOMAINS: usize = 32;
const EDNS_VERSION: u8 = 0;
const OPT_BYTES: usize = 11;
/// Pointer to the name, type, class, TTL, length.
const RECORD_BYTES: usize = 12;

/// How a query came, which bounds its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    Udp,
    Tcp,
}

/// The addresses of one mesh name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Addresses {
    pub v4: Vec<Ipv4Addr>,
    pub v6: Vec<Ipv6Addr>,
    /// The addresses are endpoints, not service addresses: shuffled in each answer, so that clients which take the first spread.
    pub headless: bool,
}

/// The mesh's names, as one pod sees them.
pub trait Names {
    /// What the mesh has under exactly this name: lower case, no final dot. None when it is not a name of the mesh.
    fn lookup(&self, hostname: &str) -> Option<Addresses>;
    /// The search list of the pod's resolv.conf (AddPod.dns_search), in order.
    fn search(&self) -> impl AsRef<[String]>;
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// Send this back: the mesh knows the name.
    Answer(Vec<u8>),
    /// Not the mesh's: pass the query on to the server that was asked, as it is.
    Forward,
    /// Send this back: the query is malformed.
    Refuse(Vec<u8>),
    /// Send nothing: not even a header, or not a query.
    Drop,
}

/// Decides on one query. Only A and AAAA of mesh names are answered; a mesh name that lacks the asked family gets an empty answer, because
/// the server that was asked would say NXDOMAIN for it, and resolvers apply that to both families.
pub fn answer(query: &[u8], transport: Transport, names: &impl Names, random: &mut fastrand::Rng) -> Reply {
    let question = match question::parse(query) {
        Ok(question) => question,
        Err(Malformed::Unanswerable) => return Reply::Drop,
        Err(Malformed::Format) => return refuse(query),
    };
    let Some(addresses) = mesh_addresses(&question, names) else { return Reply::Forward };
    // From here on the answer is ours, so all of the query has to make sense.
    let Ok(message) = Message::from_vec(query) else { return refuse(query) };
    respond(message, transport, addresses, random).map_or_else(|| refuse(query), Reply::Answer)
}

/// SERVFAIL for a query that was to be forwarded; None when it has no readable question.
pub fn failure(query: &[u8]) -> Option<Vec<u8>> {
    let question = question::parse(query).ok()?;
    let mut metadata = response_to(&question.header.metadata);
    metadata.response_code = ResponseCode::ServFail;
    let mut failure = Message::response(metadata.id, metadata.op_code);
    failure.metadata = metadata;
    failure.add_query(question.query);
    failure.to_vec().ok()
}

fn mesh_addresses(question: &Question, names: &impl Names) -> Option<Addresses> {
    let Question { header, query, .. } = question;
    let address = matches!(query.query_type, RecordType::A | RecordType::AAAA);
    if header.metadata.op_code != OpCode::Query || query.query_class != DNSClass::IN || !address {
        return None;
    }
    let hostname = question::hostname(&query.name)?;
    names.lookup(&hostname).or_else(|| searched(&hostname, names))
}

/// The name as the pod's search list would complete it: for resolvers that send short names as they are.
fn searched(hostname: &str, names: &impl Names) -> Option<Addresses> {
    if hostname.bytes().filter(|byte| *byte == b'.').count() >= COMPLETE_DOTS {
        return None;
    }
    names.search().as_ref().iter().take(SEARCH_DOMAINS).find_map(|domain| {
        let domain = domain.trim_matches('.').to_ascii_lowercase();
        names.lookup(&format!("{hostname}.{domain}"))
    })
}

fn respond(query: Message, transport: Transport, addresses: Addresses, random: &mut fastrand::Rng) -> Option<Vec<u8>> {
    let question = query.queries.into_iter().next()?;
    let mut response = Message::response(query.metadata.id, query.metadata.op_code);
    response.metadata = response_to(&query.metadata);
    // Without AA or RA an empty answer reads as a lame referral, and glibc goes on to the next server.
    response.metadata.authoritative = true;
    let mut limit = match transport {
        Transport::Tcp => usize::from(u16::MAX),
        Transport::Udp => usize::from(PLAIN_UDP_BYTES),
    };
    if let Some(edns) = &query.edns {
        if transport == Transport::Udp {
            limit = usize::from(edns.max_payload().clamp(PLAIN_UDP_BYTES, UDP_PAYLOAD_BYTES));
        }
        let mut ours = Edns::new();
        ours.set_max_payload(UDP_PAYLOAD_BYTES).set_version(EDNS_VERSION).set_dnssec_ok(edns.flags().dnssec_ok);
        if edns.version() > EDNS_VERSION {
            response.metadata.response_code = ResponseCode::BADVERS;
            ours.set_rcode_high(ResponseCode::BADVERS.high());
        }
        response.set_edns(ours);
    }
    let mut data = match question.query_type {
        RecordType::A => addresses.v4.into_iter().map(|ip| RData::A(A(ip))).collect::<Vec<_>>(),
        _ => addresses.v6.into_iter().map(|ip| RData::AAAA(AAAA(ip))).collect(),
    };
    if addresses.headless {
        random.shuffle(&mut data);
    }
    let record = RECORD_BYTES + if question.query_type == RecordType::A { 4 } else { 16 };
    let fixed = question::HEADER_BYTES + question.name.len() + 4 + if response.edns.is_some() { OPT_BYTES } else { 0 };
    let room = limit.saturating_sub(fixed) / record;
    // As many as fit: resolvers that cannot retry over TCP still get some.
    response.metadata.truncation = data.len() > room && transport == Transport::Udp;
    data.truncate(room);
    if response.metadata.response_code == ResponseCode::NoError {
        response.add_answers(data.into_iter().map(|data| Record::from_rdata(question.name.clone(), TTL_SECONDS, data)));
    }
    response.add_query(question);
    response.to_vec().ok()
}

/// FORMERR with nothing but the header: the question cannot be trusted.
fn refuse(query: &[u8]) -> Reply {
    let mut decoder = hickory_proto::serialize::binary::BinDecoder::new(query);
    let Ok(header) = <Header as hickory_proto::serialize::binary::BinDecodable>::read(&mut decoder) else { return Reply::Drop };
    let mut refusal = Message::response(header.metadata.id, header.metadata.op_code);
    refusal.metadata = response_to(&header.metadata);
    refusal.metadata.response_code = ResponseCode::FormErr;
    refusal.to_vec().map_or(Reply::Drop, Reply::Refuse)
}

fn response_to(query: &Metadata) -> Metadata {
    let mut metadata = Metadata::response_from_request(query);
    metadata.recursion_available = true;
    metadata
}
