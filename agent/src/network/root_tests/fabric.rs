//! Workloads in the fabric, as packets see it. The WireGuard link is a veth here: whoever is behind
//! it has the addresses of another member, `b`.
//!
//! ```text
//!   [b] 100.64.4.1, .2 ──veth── cw-a3f2c0de [capsule a, 100.64.0.1] ── bridge ── workloads
//! ```

use capsule_fabric::{
    MEMBER_PORT,
    map::{AddressPlan, Addresses, Change, NewMember, PublicKey, Slot},
    policy::{Direction, Flow},
};
use capsule_proto::reference::Request;
use nix::sys::socket::{getsockopt, sockopt::TcpMaxSeg};

use super::*;
use crate::{network::fabric::removal, sys::nft};

const LINK: &str = "cw-a3f2c0de";

fn plan() -> AddressPlan {
    AddressPlan::new("100.64.0.0/10".parse().unwrap(), 22, "fd12:3456:789a::/48".parse().unwrap()).unwrap()
}

/// `a`, which is this capsule, and `b`.
fn map() -> MemberMap {
    let new = |n: u8, name: &str, capsule: &str| {
        Change::Enroll(NewMember {
            name: name.parse().unwrap(),
            capsule: capsule.parse().unwrap(),
            public_key: PublicKey::try_from([n + 1; 32].as_slice()).unwrap(),
            slot: Some(Slot(n.into())),
            endpoints: Vec::new(),
            keepalive: 0,
        })
    };
    let other = "b0000000-0000-4000-8000-000000000000";
    MemberMap::found(plan()).with(&[new(0, "a", ID), new(1, "b", other)]).unwrap().unwrap()
}

fn spec(to: &[&str], from: &[&str]) -> v1::FabricSpec {
    let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    v1::FabricSpec { allow_to: owned(to), allow_from: owned(from) }
}

impl Capsule {
    /// In the fabric, with its own addresses on the link.
    async fn in_fabric() -> (Self, Place) {
        let capsule = Self::new().await;
        let b = Place::new();
        let ends = "address 02:00:00:00:00:0a type veth peer name up1 address 02:00:00:00:00:0b";
        ip(&format!("link add {LINK} {ends} netns {}", b.pid()));
        ip(&format!("addr add 100.64.0.1/32 dev {LINK}"));
        ip(&format!("addr add fd12:3456:789a::1/128 dev {LINK} nodad"));
        ip(&format!("link set {LINK} up"));
        ip(&format!("route add 100.64.0.0/10 dev {LINK}"));
        ip(&format!("route add fd12:3456:789a::/48 dev {LINK}"));
        // A WireGuard link asks for no neighbours.
        for address in ["fd12:3456:789a:1::1", "fd12:3456:789a:1::2"] {
            ip(&format!("neigh add {address} lladdr 02:00:00:00:00:0b dev {LINK} nud permanent"));
        }
        b.inside(|| {
            ip("link set lo up");
            ip("link set up1 up");
            ip("neigh add fd12:3456:789a::1 lladdr 02:00:00:00:00:0a dev up1 nud permanent");
            for address in ["100.64.4.1/32", "100.64.4.2/32", "100.64.4.3/32"] {
                ip(&format!("addr add {address} dev up1"));
            }
            for address in ["fd12:3456:789a:1::1/128", "fd12:3456:789a:1::2/128"] {
                ip(&format!("addr add {address} dev up1 nodad"));
            }
            ip("route add 100.64.0.1 dev up1 src 100.64.4.1");
            ip("route add 100.64.0.0/22 via 100.64.0.1 src 100.64.4.2");
            ip("route add 192.0.2.0/24 via 100.64.0.1 src 100.64.4.2");
            ip("route add fd12:3456:789a::1 dev up1 src fd12:3456:789a:1::1");
            ip("route add fd12:3456:789a::/64 via fd12:3456:789a::1 src fd12:3456:789a:1::2");
        });
        capsule.map.send_replace(Some(Arc::new(map())));
        let told = Directory::from([(
            "b".parse().unwrap(),
            BTreeMap::from([("web".parse().unwrap(), plan().workload(Slot(1), 2).unwrap())]),
        )]);
        capsule.directory.send_replace(told);
        (capsule, b)
    }

    /// A workload with this part in the fabric.
    async fn run_in_fabric(&self, name: &str, spec: v1::FabricSpec) -> (Place, Addresses) {
        let place = Place::new();
        let reservation = self.reserve_in_fabric(name, vec![], Some(spec)).await.unwrap();
        let name: Name = name.parse().unwrap();
        self.network.attach(&name, place.pid(), &reservation).await.unwrap();
        let addresses = self.network.fabric_states().borrow()[&name].addresses.unwrap();
        (place, addresses)
    }

    /// Another policy, as an apply commits it.
    async fn allow(&self, name: &str, spec: v1::FabricSpec) {
        self.reserve_in_fabric(name, vec![], Some(spec)).await.unwrap();
        self.network.refresh().await.unwrap();
    }
}

fn at(addresses: Addresses, port: u16) -> [String; 2] {
    [format!("{}:{port}", addresses.ipv4), format!("[{}]:{port}", addresses.ipv6)]
}

/// Who the workload there says was asking, over both families.
fn answers(place: &Place, to: Addresses, port: u16) -> [bool; 2] {
    at(to, port).map(|to| place.ask(&to).is_some())
}

#[test]
fn root_a_flow_passes_where_both_ends_allow_it_and_nothing_else_does() {
    story(async || {
        let (capsule, _b) = Capsule::in_fabric().await;
        let (db, db_at) = capsule.run_in_fabric("db", spec(&[], &[])).await;
        let (web, web_at) = capsule.run_in_fabric("web", spec(&[], &[])).await;
        assert_eq!(db_at.ipv4.to_string(), "100.64.0.2");
        assert_eq!(web_at.ipv6.to_string(), "fd12:3456:789a::3");
        db.echo("[::]:5432");
        db.echo("[::]:5433");
        assert_eq!(answers(&web, db_at, 5432), [false, false], "nobody allows it");
        capsule.allow("web", spec(&["db@a:5432"], &[])).await;
        assert_eq!(answers(&web, db_at, 5432), [false, false], "the receiver does not");
        capsule.allow("db", spec(&[], &["web@a:5432"])).await;
        assert_eq!(web.ask(&at(db_at, 5432)[0]).unwrap(), format!("::ffff:{}", web_at.ipv4));
        assert_eq!(web.ask(&at(db_at, 5432)[1]).unwrap(), web_at.ipv6.to_string());
        assert_eq!(answers(&web, db_at, 5433), [false, false], "another port");
        web.echo("[::]:5432");
        assert_eq!(answers(&db, web_at, 5432), [false, false], "the other way");
        capsule.allow("web", spec(&[], &[])).await;
        assert_eq!(answers(&web, db_at, 5432), [false, false], "the sender does not any more");
        capsule.allow("web", spec(&["*@*:5000-6000"], &[])).await;
        capsule.allow("db", spec(&[], &["cidr:100.64.0.0/24:5432", "cidr:[fd12::/16]:5432"])).await;
        assert_eq!(answers(&web, db_at, 5432), [true, true], "ranges and prefixes");
        assert_eq!(answers(&web, db_at, 5433), [false, false]);
        assert!(ask(&at(db_at, 5432)[0]).is_none(), "the host itself is nobody of the prefix");
        capsule.allow("db", spec(&[], &["host@a:5432"])).await;
        assert_eq!(at(db_at, 5432).map(|to| ask(&to).is_some()), [true, true]);
        assert_eq!(answers(&web, db_at, 5432), [false, false]);
    });
}

#[test]
fn root_a_revoked_rule_cuts_a_flow_that_is_open() {
    story(async || {
        let (capsule, _b) = Capsule::in_fabric().await;
        let (db, db_at) = capsule.run_in_fabric("db", spec(&[], &["web@a:5432"])).await;
        let (web, _) = capsule.run_in_fabric("web", spec(&["db@a:5432"], &[])).await;
        for revoked in ["web", "db"] {
            let listener = db.inside(|| TcpListener::bind("[::]:5432").unwrap());
            let asking = web.inside(|| TcpStream::connect(&at(db_at, 5432)[0]).unwrap());
            let (answering, _) = listener.accept().unwrap();
            assert!(carries(&asking, &answering) && carries(&answering, &asking));
            capsule.allow(revoked, spec(&[], &[])).await;
            assert!(!carries(&asking, &answering), "{revoked}: who asked is cut off");
            assert!(!carries(&answering, &asking), "{revoked}: and so is who answered");
            capsule.allow("web", spec(&["db@a:5432"], &[])).await;
            capsule.allow("db", spec(&[], &["web@a:5432"])).await;
        }
    });
}

/// Whether a byte gets from one end to the other.
fn carries(mut from: &TcpStream, mut to: &TcpStream) -> bool {
    to.set_read_timeout(Some(PATIENCE)).unwrap();
    from.write_all(b"x").is_ok() && to.read_exact(&mut [0]).is_ok()
}

#[test]
fn root_other_members_reach_what_is_allowed_to_them_and_no_more() {
    story(async || {
        let (capsule, b) = Capsule::in_fabric().await;
        let (db, db_at) = capsule.run_in_fabric("db", spec(&[], &["web@b:5432"])).await;
        let (web, web_at) = capsule.run_in_fabric("web", spec(&["web@b:80"], &[])).await;
        db.echo("[::]:5432");
        b.echo("[::]:80");
        assert_eq!(b.ask(&at(db_at, 5432)[0]).unwrap(), "::ffff:100.64.4.2");
        assert_eq!(b.ask(&at(db_at, 5432)[1]).unwrap(), "fd12:3456:789a:1::2");
        assert_eq!(
            web.ask("100.64.4.2:80").unwrap(),
            format!("::ffff:{}", web_at.ipv4),
            "nothing is translated"
        );
        assert_eq!(web.ask("[fd12:3456:789a:1::2]:80").unwrap(), web_at.ipv6.to_string());
        assert!(web.ask("100.64.4.3:80").is_none(), "another workload of b");
        assert!(db.ask("100.64.4.2:80").is_none(), "db may ask nobody");
        b.inside(|| ip("route replace 100.64.0.0/22 via 100.64.0.1 src 100.64.4.1"));
        assert!(b.ask(&at(db_at, 5432)[0]).is_none(), "b itself is not its workload");
        capsule.allow("db", spec(&[], &["operator@b:5432"])).await;
        assert!(b.ask(&at(db_at, 5432)[0]).is_some());
        let (plain, _) = capsule.run("plain", vec![]).await;
        assert!(plain.ask("100.64.4.2:80").is_none(), "it has no part in the fabric");
    });
}

#[test]
fn root_a_capsule_itself_and_what_is_beyond_it_are_out_of_reach() {
    story(async || {
        let (capsule, b) = Capsule::in_fabric().await;
        let world = Place::world();
        let (web, _) = capsule.run("published", vec![tcp(80, 8080, "")]).await;
        web.echo("[::]:80");
        world.echo("[::]:80");
        let (mine, mine_at) = capsule.run_in_fabric("mine", spec(&["*@*:1-65535"], &["*@*:1-65535"])).await;
        mine.echo("[::]:80");
        listen_here("[::]:22");
        listen_here(&format!("[::]:{MEMBER_PORT}"));
        let member_port = format!("100.64.0.1:{MEMBER_PORT}");
        assert!(b.ask(&member_port).is_some(), "members ask each other");
        b.inside(|| ip("route replace 100.64.0.1 dev up1 src 100.64.4.2"));
        assert!(b.ask(&member_port).is_none(), "workloads of members do not");
        assert!(b.ask("100.64.0.1:22").is_none());
        assert!(b.ask("100.64.0.1:8080").is_none(), "nothing is published there");
        assert!(b.ask("192.0.2.2:80").is_none(), "it is no way to elsewhere");
        assert!(mine.ask("100.64.0.1:22").is_none());
        assert!(mine.ask(&member_port).is_none());
        assert!(mine.ask("192.0.2.2:80").is_some(), "from its local address it gets everywhere else");
        world.inside(|| ip("route add 100.64.0.0/10 via 192.0.2.1"));
        assert!(world.ask(&at(mine_at, 80)[0]).is_none(), "from outside there is no way in");
        assert!(b.ask(&at(mine_at, 80)[0]).is_some(), "which b has");
        mine.inside(|| ip("route add 192.0.2.2 via 10.88.0.1 onlink dev eth0 src 100.64.0.2"));
        assert!(mine.ask("192.0.2.2:80").is_none(), "a fabric address has nothing to do there");
    });
}

/// A service of the capsule itself.
fn listen_here(at: &str) {
    let listener = TcpListener::bind(at).unwrap();
    std::thread::spawn(move || listener.incoming().for_each(drop));
}

#[test]
fn root_nobody_speaks_for_another_in_the_fabric() {
    story(async || {
        let (capsule, b) = Capsule::in_fabric().await;
        let (db, db_at) = capsule.run_in_fabric("db", spec(&[], &["web@*:53/udp"])).await;
        let (_web, web_at) = capsule.run_in_fabric("web", spec(&["db@a:53/udp"], &[])).await;
        let (thief, _) = capsule.run_in_fabric("thief", spec(&["db@a:53/udp"], &[])).await;
        let socket = db.inside(|| UdpSocket::bind(&at(db_at, 53)[0]).unwrap());
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let hears = |place: &Place, source: &str| {
            place.inside(|| {
                let from = UdpSocket::bind((source, 0)).unwrap();
                from.send_to(b"x", &at(db_at, 53)[0]).ok();
            });
            socket.recv_from(&mut [0; 8]).is_ok()
        };
        thief.inside(|| ip(&format!("addr add {}/32 dev eth0", web_at.ipv4)));
        assert!(!hears(&thief, &web_at.ipv4.to_string()), "a workload for its neighbour");
        b.inside(|| ip(&format!("addr add {}/32 dev up1", web_at.ipv4)));
        assert!(!hears(&b, &web_at.ipv4.to_string()), "a member for a workload of this capsule");
        assert!(hears(&b, "100.64.4.2"), "but for its own it does");
    });
}

#[test]
fn root_icmp_is_a_protocol_of_its_own_and_errors_pass() {
    story(async || {
        let (capsule, _b) = Capsule::in_fabric().await;
        let (db, db_at) = capsule.run_in_fabric("db", spec(&[], &["web@a:53/udp"])).await;
        let (web, _) = capsule.run_in_fabric("web", spec(&["db@a:53/udp"], &[])).await;
        let ping = |to: IpAddr| {
            let answer =
                web.inside(|| Command::new("ping").args(["-c1", "-W1", &to.to_string()]).output().unwrap());
            answer.status.success()
        };
        assert!(!ping(db_at.ipv4.into()) && !ping(db_at.ipv6.into()));
        capsule.allow("web", spec(&["db@a:53/udp", "db@a/icmp"], &[])).await;
        capsule.allow("db", spec(&[], &["web@a:53/udp", "web@a/icmp"])).await;
        assert!(ping(db_at.ipv4.into()) && ping(db_at.ipv6.into()));
        drop(db.inside(|| UdpSocket::bind("[::]:1").unwrap()));
        for to in at(db_at, 53) {
            let error = web.inside(|| {
                let socket =
                    UdpSocket::bind(if to.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" }).unwrap();
                socket.connect(&to).unwrap();
                socket.set_read_timeout(Some(PATIENCE)).unwrap();
                socket.send(b"x").unwrap();
                socket.recv(&mut [0; 8]).unwrap_err().kind()
            });
            assert_eq!(error, std::io::ErrorKind::ConnectionRefused, "nobody listens at {to}");
        }
    });
}

#[test]
fn root_places_are_kept_over_restarts_and_go_with_the_fabric() {
    story(async || {
        let (capsule, _b) = Capsule::in_fabric().await;
        let (db, db_at) = capsule.run_in_fabric("db", spec(&[], &["web@a:80"])).await;
        let (web, web_at) = capsule.run_in_fabric("web", spec(&["db@a:80"], &[])).await;
        let listener = db.inside(|| TcpListener::bind("[::]:80").unwrap());
        let asking = web.inside(|| TcpStream::connect(&at(db_at, 80)[0]).unwrap());
        let (answering, _) = listener.accept().unwrap();
        drop(listener);
        db.echo("[::]:80");
        let capsule = capsule.restart().await;
        assert!(carries(&asking, &answering), "the connection goes on before anybody is known to run");
        let running = [("db".parse().unwrap(), db.pid()), ("web".parse().unwrap(), web.pid())];
        capsule.network.restore(&running).await.unwrap();
        assert!(carries(&asking, &answering) && carries(&answering, &asking));
        let known = |capsule: &Capsule, name: &str| {
            capsule.network.fabric_states().borrow()[&name.parse::<Name>().unwrap()].clone()
        };
        assert_eq!(known(&capsule, "web").addresses, Some(web_at));
        assert_eq!(answers(&web, db_at, 80), [true, true]);
        let inside = || {
            db.inside(|| {
                String::from_utf8(Command::new("ip").args(["addr", "show"]).output().unwrap().stdout).unwrap()
            })
        };
        assert!(inside().contains("100.64.0.2/32"));
        capsule.map.send_replace(None);
        capsule.network.refresh().await.unwrap();
        assert!(!inside().contains("100.64.0.2") && !inside().contains("fd12:"), "{}", inside());
        assert_eq!(known(&capsule, "db").problem, "the capsule is in no fabric yet");
        assert_eq!(answers(&web, db_at, 80), [false, false]);
        capsule.map.send_replace(Some(Arc::new(map())));
        capsule.network.refresh().await.unwrap();
        assert_eq!(answers(&web, db_at, 80), [true, true], "and come back with it");
    });
}

#[test]
fn root_what_was_refused_is_told_with_who_and_what_would_allow_it() {
    story(async || {
        let (capsule, b) = Capsule::in_fabric().await;
        let (_db, db_at) = capsule.run_in_fabric("db", spec(&[], &[])).await;
        let (web, _) = capsule.run_in_fabric("web", spec(&[], &[])).await;
        assert!(web.ask(&at(db_at, 5432)[0]).is_none());
        assert!(b.ask(&at(db_at, 80)[1]).is_none());
        let told: Vec<String> = capsule
            .network
            .drops()
            .await
            .unwrap()
            .iter()
            .filter(|drop| drop.protocol == "tcp" && drop.packets > 0)
            .map(|drop| format!("{:?} {} {} {}", drop.side(), drop.source_name, drop.port, drop.remedy))
            .collect();
        let wanted = [
            "Sender web@a 5432 allowTo of web@a: db@a:5432/tcp",
            "Receiver web@b 80 allowFrom of db@a: web@b:80/tcp",
        ];
        assert!(wanted.iter().all(|wanted| told.iter().any(|told| told == wanted)), "{told:#?}");
    });
}

#[test]
fn root_consent_is_what_the_kernel_has_and_names_the_reference() {
    story(async || {
        let (capsule, b) = Capsule::in_fabric().await;
        let (db, db_at) = capsule.run_in_fabric("db", spec(&[], &["web@b:5000-6000", "*@b:80"])).await;
        db.echo("[::]:5432");
        let from = |source: &str, port| {
            let source: IpAddr = source.parse().unwrap();
            let to = if source.is_ipv4() { db_at.ipv4.into() } else { db_at.ipv6.into() };
            Flow::new(source, to, Request::Tcp(port)).unwrap()
        };
        let name = "db".parse().unwrap();
        let consent = async |flow| {
            let mut consent = capsule.network.consent(&name, Direction::In, &[flow]).await.unwrap();
            (consent.flows.remove(0), consent.references.len())
        };
        for web in ["100.64.4.2", "fd12:3456:789a:1::2"] {
            let (told, references) = consent(from(web, 5432)).await;
            assert_eq!(told.reference.unwrap().to_string(), "web@b:5000-6000/tcp");
            assert!(told.allowed && references == 2);
            let (told, _) = consent(from(web, 81)).await;
            assert!(!told.allowed && told.reference.is_none());
        }
        // A rule of all workloads is none of the capsule itself.
        assert!(consent(from("100.64.4.3", 80)).await.0.allowed);
        assert!(!consent(from("100.64.4.1", 80)).await.0.allowed);
        capsule.allow("db", spec(&[], &["web@b:5432"])).await;
        assert!(b.ask(&at(db_at, 5432)[0]).is_some());
        let (told, _) = consent(from("100.64.4.2", 5432)).await;
        assert!(told.allowed && told.passed > 0, "{told:?}");
        nft::apply(&removal(&capsule.network.inner.layout)).await.unwrap();
        let (told, _) = consent(from("100.64.4.2", 5432)).await;
        assert!(!told.allowed && told.reference.is_some(), "somebody took the filter away");
    });
}

/// What a connection carries at most in one packet, when its other end allows this much.
#[test]
fn root_segments_of_tcp_fit_the_link() {
    story(async || {
        let (capsule, b) = Capsule::in_fabric().await;
        let (web, _) = capsule.run_in_fabric("web", spec(&["web@b:80"], &[])).await;
        ip(&format!("link set {LINK} mtu 1400"));
        for (to, headers) in [("100.64.4.2:80", 40), ("[fd12:3456:789a:1::2]:80", 60)] {
            let listener = b.inside(|| TcpListener::bind("[::]:80").unwrap());
            let _asking = web.inside(|| TcpStream::connect(to).unwrap());
            let (answering, _) = listener.accept().unwrap();
            let largest = getsockopt(&answering, TcpMaxSeg).unwrap();
            // Timestamps take their part of it (RFC 6691).
            assert!((1400 - headers - 12..=1400 - headers).contains(&largest), "{to}: {largest}");
        }
    });
}

#[test]
fn root_ten_thousand_rules_are_in_force_soon() {
    story(async || {
        let (capsule, _b) = Capsule::in_fabric().await;
        let (db, db_at) = capsule.run_in_fabric("db", spec(&[], &[])).await;
        let (web, _) = capsule.run_in_fabric("web", spec(&["db@a:1-65535"], &[])).await;
        db.echo("[::]:80");
        let rules: Vec<String> = (0..10_000u32)
            .map(|n| match n % 4 {
                0 => format!("cidr:100.{}.{}.0/24:{}", 64 + n / 1000, n % 250, 1000 + n),
                1 => format!("web@a:{}-{}", 10_000 + n, 10_007 + n),
                _ => format!("cidr:100.64.{}.{}/32:{}", 8 + n % 240, 2 + n % 200, 1000 + n),
            })
            .chain(["web@a:80".to_owned()])
            .collect();
        let rules = v1::FabricSpec { allow_to: Vec::new(), allow_from: rules };
        let since = Instant::now();
        capsule.allow("db", rules.clone()).await;
        let all = since.elapsed();
        assert_eq!(answers(&web, db_at, 80), [true, true]);
        let since = Instant::now();
        let fewer = v1::FabricSpec { allow_from: rules.allow_from[..10_000].to_vec(), ..rules };
        capsule.allow("db", fewer).await;
        println!("10 000 rules: {all:?}, one of them: {:?}", since.elapsed());
        assert_eq!(answers(&web, db_at, 80), [false, false]);
        assert!(all < Duration::from_secs(5), "{all:?}");
    });
}
