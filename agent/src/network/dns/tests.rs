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

#[test]
fn the_fabrics_workloads_are_found_by_member_and_alone_where_there_is_only_one() {
    let names = names();
    let fabric = "fabric.";
    let ask = |names: &Names, name: &str, kind: RecordType| {
        let mut query = Message::query();
        query.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        match answer(names, &query.to_vec().unwrap()) {
            Answer::Local(reply) => {
                let found: Vec<String> = reply.answers.iter().map(|record| record.data.to_string()).collect();
                assert!(reply.answers.iter().all(|record| record.ttl == 5));
                assert!(reply.authorities.iter().all(|record| record.name.to_ascii() == fabric));
                (reply.metadata.response_code, found)
            }
            other => panic!("{name}: {other:?}"),
        }
    };
    let mut query = Message::query();
    query.add_query(Query::query(Name::from_ascii("web.a.fabric.").unwrap(), RecordType::A));
    assert_eq!(answer(&names, &query.to_vec().unwrap()), Answer::Forward, "in no fabric");
    let at = |last: u8| capsule_fabric::map::Addresses {
        ipv4: Ipv4Addr::new(100, 64, 0, last),
        ipv6: std::net::Ipv6Addr::from(0xfd12_u128 << 112 | u128::from(last)),
    };
    let of = |workloads: &[(&str, u8)]| {
        workloads.iter().map(|(name, last)| (name.parse().unwrap(), at(*last))).collect()
    };
    let directory = capsule_fabric::policy::Directory::from([
        ("a".parse().unwrap(), of(&[("web", 2), ("db", 3)])),
        ("b".parse().unwrap(), of(&[("web", 4)])),
    ]);
    names.set_fabric(Some(Arc::new(directory)));
    let found = |text: &str| (ResponseCode::NoError, vec![text.to_owned()]);
    assert_eq!(ask(&names, "web.a.fabric.", RecordType::A), found("100.64.0.2"));
    assert_eq!(ask(&names, "WEB.B.Fabric.", RecordType::AAAA), found("fd12::4"));
    assert_eq!(ask(&names, "db.fabric.", RecordType::A), found("100.64.0.3"));
    for (name, code) in [
        ("web.fabric.", ResponseCode::NXDomain),
        ("none.a.fabric.", ResponseCode::NXDomain),
        ("web.c.fabric.", ResponseCode::NXDomain),
        ("x.web.a.fabric.", ResponseCode::NXDomain),
        ("a.fabric.", ResponseCode::NoError),
        ("fabric.", ResponseCode::NoError),
    ] {
        assert_eq!(ask(&names, name, RecordType::A), (code, vec![]), "{name}");
    }
    assert_eq!(ask(&names, "web.a.fabric.", RecordType::MX), (ResponseCode::NoError, vec![]));
}
