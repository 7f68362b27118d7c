//! Requests of every kind, most of them wrong, against a device without an interface.

use std::{
    io::{Read as _, Write as _},
    net::Shutdown,
    os::unix::net::UnixStream,
};

use proptest::prelude::*;

use super::{
    Target as _,
    connection::{Connection, Next},
};
use crate::device::{Offloads, state::State};

const KEYS: [&str; 3] = [
    "0000000000000000000000000000000000000000000000000000000000000000",
    "e84b5a6d2717c1003a13b431570353dbaca9146cf150c5f8575680feba52027a",
    "b85996fecc9c7f1fc6d2572a76eda11d59bcd20be8e543b15ce4bd85a8e75a33",
];

fn ask(state: &mut State, words: &[u8]) -> String {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let mut connection = Connection::new(ours).unwrap();
    let writer = std::thread::spawn({
        let (mut stream, words) = (theirs.try_clone().unwrap(), words.to_vec());
        move || {
            let _ = stream.write_all(&words);
            let _ = stream.shutdown(Shutdown::Write);
        }
    });
    while connection.proceed(state) != Next::Close {
        std::thread::yield_now();
    }
    drop(connection);
    let mut answer = String::new();
    let _ = theirs.read_to_string(&mut answer);
    writer.join().unwrap();
    answer
}

fn shown(state: &State) -> String {
    String::from_utf8(state.show().to_vec()).unwrap()
}

fn value() -> impl Strategy<Value = String> {
    let known = prop::sample::select(vec![
        "true",
        "false",
        "0",
        "1",
        "25",
        "65536",
        "10.0.0.0/8",
        "-10.0.0.0/8",
        "fd00::/48",
        "10.1.2.3/33",
        "192.0.2.1:7",
        "[2001:db8::1]:7",
        "[fe80::1%2]:7",
        "",
        "0x10",
    ]);
    prop_oneof![
        4 => known.prop_map(str::to_owned),
        4 => prop::sample::select(KEYS.to_vec()).prop_map(str::to_owned),
        1 => "[ -~]{0,80}",
    ]
}

fn line() -> impl Strategy<Value = String> {
    let key = prop::sample::select(vec![
        "private_key",
        "listen_port",
        "fwmark",
        "replace_peers",
        "public_key",
        "remove",
        "update_only",
        "preshared_key",
        "endpoint",
        "persistent_keepalive_interval",
        "replace_allowed_ips",
        "allowed_ip",
        "protocol_version",
        "get",
        "set",
        "errno",
        "",
    ]);
    // A real port could be somebody's.
    (key, value())
        .prop_filter("no other port", |(key, value)| *key != "listen_port" || value != "25" && value != "1")
        .prop_map(|(key, value)| format!("{key}={value}\n"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn a_request_is_done_whole_or_not_at_all(lines in prop::collection::vec(line(), 0..12), ends in any::<bool>()) {
        let mut state = State::new(0, 0, Offloads::ALL).unwrap();
        let set = format!("set=1\nprivate_key={}\npublic_key={}\nallowed_ip=10.0.0.0/8\n\n", KEYS[1], KEYS[2]);
        prop_assert_eq!(ask(&mut state, set.as_bytes()), "errno=0\n\n");
        let before = shown(&state);
        let request = format!("set=1\n{}{}", lines.concat(), if ends { "\n" } else { "" });
        let answer = ask(&mut state, request.as_bytes());
        prop_assert!(answer.is_empty() || answer.starts_with("errno="), "{}", answer);
        if answer != "errno=0\n\n" {
            prop_assert_eq!(shown(&state), before);
        }
    }

    #[test]
    fn bytes_of_any_kind_harm_nobody(bytes in prop::collection::vec(any::<u8>(), 0..4000)) {
        let mut state = State::new(0, 0, Offloads::ALL).unwrap();
        let before = shown(&state);
        ask(&mut state, &bytes);
        prop_assert_eq!(shown(&state), before);
    }
}

#[test]
fn many_requests_on_one_connection_are_answered_in_order() {
    let mut state = State::new(0, 0, Offloads::ALL).unwrap();
    let answer = ask(&mut state, b"set=1\nfwmark=7\n\nset=1\nfwmark=x\n\nget=1\n\n");
    let port = state.sockets.port();
    assert_eq!(answer, format!("errno=0\n\nerrno=22\n\nlisten_port={port}\nfwmark=7\nerrno=0\n\n"));
}

#[test]
fn a_port_that_is_taken_changes_nothing() {
    let taken = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    let mut state = State::new(0, 0, Offloads::ALL).unwrap();
    let before = shown(&state);
    let port = taken.local_addr().unwrap().port();
    let request = format!("set=1\nprivate_key={}\nlisten_port={port}\n\n", KEYS[1]);
    assert_eq!(ask(&mut state, request.as_bytes()), format!("errno={}\n\n", libc::EADDRINUSE));
    assert_eq!(shown(&state), before);
}

#[test]
fn nobody_is_its_own_peer() {
    let mut state = State::new(0, 0, Offloads::ALL).unwrap();
    let secret = boringtun::x25519::StaticSecret::from([7; 32]);
    let public = hex::encode(boringtun::x25519::PublicKey::from(&secret).as_bytes());
    let request = format!("set=1\npublic_key={public}\nprivate_key={}\n\n", "07".repeat(32));
    assert!(ask(&mut state, request.as_bytes()).starts_with("errno=22"), "an own key comes before peers");
    ask(&mut state, format!("set=1\npublic_key={public}\n\n").as_bytes());
    assert!(shown(&state).contains(&public));
    ask(&mut state, format!("set=1\nprivate_key={}\n\n", "07".repeat(32)).as_bytes());
    assert!(!shown(&state).contains(&public));
}
