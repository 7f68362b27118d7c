//! Answers about this capsule's workloads, `web` and `web.capsule`, and about the fabric's:
//! `web.nuc-1.fabric`, and `web.fabric` where one member only has it.

use std::{
    collections::{BTreeMap, HashMap},
    net::{Ipv4Addr, Ipv6Addr},
    sync::{Arc, PoisonError, RwLock},
};

use capsule_fabric::policy::Directory;
use capsule_proto::Name as WorkloadName;
use hickory_proto::{
    op::{Message, MessageType, OpCode, ResponseCode},
    rr::{
        DNSClass, Name, RData, Record, RecordType,
        rdata::{A, AAAA, SOA},
    },
};

use crate::network::{files::DOMAIN, layout::Member};

/// Seconds that an answer may be kept: workloads come and go.
const TTL: u32 = 5;

/// Domain of the fabric's workloads, in a fabric.
const FABRIC: &str = "fabric";

type Table = HashMap<String, (Ipv4Addr, Ipv6Addr)>;

/// Names of the attached workloads; cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Names {
    table: Arc<RwLock<Table>>,
    fabric: Arc<RwLock<Option<Arc<Directory>>>>,
}

impl Names {
    pub(crate) fn add(&self, name: &WorkloadName, ipv4: Ipv4Addr, ipv6: Ipv6Addr) {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        table.insert(name.to_string(), (ipv4, ipv6));
    }

    pub(crate) fn remove(&self, name: &WorkloadName) {
        self.table.write().unwrap_or_else(PoisonError::into_inner).remove(name.as_str());
    }

    pub(crate) fn replace(&self, members: &BTreeMap<WorkloadName, Member>) {
        let all = members.iter().map(|(name, member)| (name.to_string(), (member.ipv4, member.ipv6)));
        *self.table.write().unwrap_or_else(PoisonError::into_inner) = all.collect();
    }

    /// Who is in the fabric; `None` where this capsule is in none.
    pub(crate) fn set_fabric(&self, names: Option<Arc<Directory>>) {
        *self.fabric.write().unwrap_or_else(PoisonError::into_inner) = names;
    }

    /// The addresses that a question for this name is answered with.
    pub(crate) fn find(&self, name: &str) -> Option<(Ipv4Addr, Ipv6Addr)> {
        match lookup(self, &Name::from_ascii(name).ok()?) {
            Found::Workload(ipv4, ipv6) => Some((ipv4, ipv6)),
            Found::Domain | Found::Nothing | Found::Foreign => None,
        }
    }

    fn get(&self, name: &str) -> Option<(Ipv4Addr, Ipv6Addr)> {
        self.table.read().unwrap_or_else(PoisonError::into_inner).get(name).copied()
    }
}

/// What becomes of a query.
#[derive(Debug, PartialEq)]
pub(super) enum Answer {
    /// It is about this capsule, or no query that anyone could answer.
    Local(Box<Message>),
    /// Someone else knows.
    Forward,
    /// Not DNS: no answer at all.
    Ignore,
}

/// Looks a query up.
pub(super) fn answer(names: &Names, packet: &[u8]) -> Answer {
    let Ok(query) = Message::from_vec(packet) else { return Answer::Ignore };
    if query.metadata.message_type != MessageType::Query {
        return Answer::Ignore;
    }
    if query.metadata.op_code != OpCode::Query || query.queries.len() != 1 {
        return Answer::Local(Box::new(reply(&query, ResponseCode::NotImp)));
    }
    let question = &query.queries[0];
    match lookup(names, &question.name) {
        Found::Foreign => Answer::Forward,
        _ if question.query_class != DNSClass::IN => {
            Answer::Local(Box::new(reply(&query, ResponseCode::Refused)))
        }
        Found::Workload(ipv4, ipv6) => Answer::Local(Box::new(addresses(&query, ipv4, ipv6))),
        Found::Domain => Answer::Local(Box::new(negative(&query, ResponseCode::NoError))),
        Found::Nothing => Answer::Local(Box::new(negative(&query, ResponseCode::NXDomain))),
    }
}

/// A reply that says why there is none.
pub(super) fn failure(packet: &[u8], code: ResponseCode) -> Option<Message> {
    Some(reply(&Message::from_vec(packet).ok()?, code))
}

enum Found {
    Workload(Ipv4Addr, Ipv6Addr),
    /// The domain itself, which has no addresses.
    Domain,
    Nothing,
    Foreign,
}

fn lookup(names: &Names, name: &Name) -> Found {
    let text = name.to_ascii().to_ascii_lowercase();
    let text = text.trim_end_matches('.');
    let here = |name: &str| names.get(name).map(|(ipv4, ipv6)| Found::Workload(ipv4, ipv6));
    if let Some(found) = in_fabric(names, text) {
        return here(text).unwrap_or(found);
    }
    if text == DOMAIN {
        return here(text).unwrap_or(Found::Domain);
    }
    match text.strip_suffix(DOMAIN).and_then(|rest| rest.strip_suffix('.')) {
        Some(label) => here(label).unwrap_or(Found::Nothing),
        None => here(text).unwrap_or(Found::Foreign),
    }
}

/// What the fabric says of a name below its domain; `None` of other names, and outside a fabric.
fn in_fabric(names: &Names, text: &str) -> Option<Found> {
    let fabric = names.fabric.read().unwrap_or_else(PoisonError::into_inner);
    let members = fabric.as_ref()?;
    if text == FABRIC {
        return Some(Found::Domain);
    }
    let labels: Vec<&str> = text.strip_suffix(FABRIC)?.strip_suffix('.')?.split('.').collect();
    let workload = |member: &str, workload: &str| {
        let found = members.get(&member.parse().ok()?)?.get(&workload.parse().ok()?)?;
        Some(Found::Workload(found.ipv4, found.ipv6))
    };
    Some(match labels.as_slice() {
        [name, member] => workload(member, name).unwrap_or(Found::Nothing),
        [name] => {
            let mut holders = members.keys().filter_map(|member| workload(member.as_str(), name));
            match (holders.next(), holders.next()) {
                (Some(only), None) => only,
                // A member's own name has names below it.
                _ if members.keys().any(|member| member.as_str() == *name) => Found::Domain,
                _ => Found::Nothing,
            }
        }
        _ => Found::Nothing,
    })
}

fn reply(query: &Message, code: ResponseCode) -> Message {
    let mut reply = Message::response(query.metadata.id, query.metadata.op_code);
    reply.metadata.recursion_desired = query.metadata.recursion_desired;
    reply.metadata.recursion_available = true;
    reply.metadata.response_code = code;
    reply.add_queries(query.queries.iter().cloned());
    reply
}

fn addresses(query: &Message, ipv4: Ipv4Addr, ipv6: Ipv6Addr) -> Message {
    let question = &query.queries[0];
    let mut data = Vec::new();
    if matches!(question.query_type, RecordType::A | RecordType::ANY) {
        data.push(RData::A(A::from(ipv4)));
    }
    if matches!(question.query_type, RecordType::AAAA | RecordType::ANY) {
        data.push(RData::AAAA(AAAA::from(ipv6)));
    }
    if data.is_empty() {
        return negative(query, ResponseCode::NoError);
    }
    let mut reply = reply(query, ResponseCode::NoError);
    reply.metadata.authoritative = true;
    reply.add_answers(data.into_iter().map(|data| Record::from_rdata(question.name.clone(), TTL, data)));
    reply
}

/// NXDOMAIN, or a name without such a record; the SOA says how long that may be kept (RFC 2308).
fn negative(query: &Message, code: ResponseCode) -> Message {
    let mut reply = reply(query, code);
    reply.metadata.authoritative = true;
    let name = query.queries.first().map(|question| question.name.to_ascii().to_ascii_lowercase());
    let is_of_fabric = name.is_some_and(|name| name.trim_end_matches('.').rsplit('.').next() == Some(FABRIC));
    let zone = if is_of_fabric { FABRIC } else { DOMAIN };
    if let Ok(zone) = Name::from_ascii(format!("{zone}.")) {
        let soa = SOA::new(zone.clone(), zone.clone(), 1, 0, 0, 0, TTL);
        reply.add_authority(Record::from_rdata(zone, TTL, RData::SOA(soa)));
    }
    reply
}
