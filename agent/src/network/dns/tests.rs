use std::net::Ipv4Addr;

use hickory_proto::{
    op::{Message, Query},
    rr::{Name, RecordType},
};

use super::{local::Answer, *};

fn names() -> Names {
    let names = Names::default();
    names.add(&"web".parse().unwrap(), Ipv4Addr::new(10, 88, 0, 2), "fd00::2".parse().unwrap());
    names
}

fn ask(name: &str, kind: RecordType) -> Answer {
    let mut query = Message::query();
    query.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    answer(&names(), &query.to_vec().unwrap())
}

fn local(name: &str, kind: RecordType) -> (ResponseCode, Vec<String>) {
    match ask(name, kind) {
        Answer::Local(reply) => {
            // What is sent can be read again.
            let reply = Message::from_vec(&reply.to_vec().unwrap()).unwrap();
            (
                reply.metadata.response_code,
                reply.answers.iter().map(|record| record.data.to_string()).collect(),
            )
        }
        other => panic!("{name}: {other:?}"),
    }
}

#[test]
fn a_workload_is_found_by_name_and_in_the_domain_whatever_the_case() {
    for name in ["web.", "WEB.", "web.capsule.", "Web.Capsule."] {
        assert_eq!(local(name, RecordType::A), (ResponseCode::NoError, vec!["10.88.0.2".into()]));
        assert_eq!(local(name, RecordType::AAAA), (ResponseCode::NoError, vec!["fd00::2".into()]));
    }
}

#[test]
fn a_known_name_without_such_a_record_is_no_data_and_an_unknown_one_is_nxdomain() {
    assert_eq!(local("web.", RecordType::MX), (ResponseCode::NoError, vec![]));
    assert_eq!(local("capsule.", RecordType::A), (ResponseCode::NoError, vec![]));
    assert_eq!(local("none.capsule.", RecordType::A), (ResponseCode::NXDomain, vec![]));
    assert_eq!(local("a.web.capsule.", RecordType::A), (ResponseCode::NXDomain, vec![]));
}

#[test]
fn other_names_are_forwarded_and_noise_is_ignored() {
    for name in ["none.", "example.com.", "web.example.com.", "xcapsule."] {
        assert_eq!(ask(name, RecordType::A), Answer::Forward, "{name}");
    }
    assert_eq!(answer(&names(), b"noise"), Answer::Ignore);
    assert_eq!(
        answer(&names(), &Message::response(1, hickory_proto::op::OpCode::Query).to_vec().unwrap()),
        Answer::Ignore
    );
}
