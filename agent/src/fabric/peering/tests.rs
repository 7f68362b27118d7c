//! Members whose fabric addresses are all on the loopback of one namespace.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use capsule_fabric::map::{AddressPlan, Change, MemberMap, NewMember};
use capsule_proto::KeyId;
use tokio::{io::AsyncReadExt as _, net::TcpSocket};

use super::*;
use crate::sys::testing::{ip, story};

const LIMIT: Duration = Duration::from_secs(10);

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn capsule(number: u8) -> CapsuleId {
    format!("00000000-0000-4000-8000-0000000000{number:02}").parse().unwrap()
}

/// A map of members `m0`, `m1` …, `changes` generations after the first.
fn map(members: u8, changes: u8) -> MemberMap {
    let plan = AddressPlan::new("100.64.0.0/10".parse().unwrap(), 22, AddressPlan::random_ipv6()).unwrap();
    let member = |number: u8| {
        Change::Enroll(NewMember {
            name: name(&format!("m{number}")),
            capsule: capsule(number),
            public_key: PublicKey::try_from(&[number + 1; 32][..]).unwrap(),
            slot: None,
            endpoints: vec![],
            keepalive: 25,
        })
    };
    let all: Vec<Change> = (0..members).map(member).collect();
    let mut map = MemberMap::found(plan).with(&all).unwrap().unwrap();
    for change in 0..changes {
        map = map.with(&[Change::SetRelay(name("m0"), change % 2 == 0)]).unwrap().unwrap();
    }
    map
}

fn signed(map: &MemberMap) -> SignedMap {
    SignedMap::new(map.clone(), &KeyId::of(&[7; 32]), |_| vec![7; 64])
}

/// Every peer is everywhere: on loopback each path works.
#[derive(Default)]
struct NoWire;

#[async_trait]
impl Wire for NoWire {
    async fn endpoints(&self) -> io::Result<BTreeMap<PublicKey, SocketAddr>> {
        Ok(BTreeMap::new())
    }

    async fn set_endpoint(&self, _: &PublicKey, _: SocketAddr) -> io::Result<()> {
        Ok(())
    }
}

#[derive(Default)]
struct Taken(Mutex<Vec<v1::SignedMap>>);

#[async_trait]
impl Maps for Taken {
    async fn accept(&self, map: v1::SignedMap, _: &str) -> Result<(), String> {
        self.0.lock().unwrap().push(map);
        Ok(())
    }
}

struct Capsule {
    links: Option<Peering>,
    parts: PeeringParts,
    taken: Arc<Taken>,
    workloads: watch::Sender<Locations>,
}

impl Capsule {
    async fn new(number: u8, map: &MemberMap) -> Self {
        let (workloads, own) = watch::channel(Locations::new());
        let taken = Arc::new(Taken::default());
        let parts = PeeringParts {
            capsule: capsule(number),
            wire: Arc::new(NoWire),
            maps: taken.clone(),
            relay_port: 51_900 + u16::from(number),
            relayed: Pairs::default(),
            workloads: own,
            local: watch::channel(vec![]).1,
            directory: watch::Sender::default(),
            reach: watch::Sender::default(),
        };
        let links = Peering::start(parts.clone(), signed(map)).await.unwrap();
        assert!(links.is_some());
        Self { links, parts, taken, workloads }
    }

    /// What it knows of another's workloads.
    async fn hears(&self, of: &str, wanted: &Locations) -> Duration {
        let (start, mut directory) = (Instant::now(), self.parts.directory.subscribe());
        let told = directory.wait_for(|all| all.get(&name(of)) == Some(wanted));
        tokio::time::timeout(LIMIT, told).await.expect("the directory is not told").unwrap();
        start.elapsed()
    }
}

fn addresses(members: u8) {
    for number in 0..members {
        ip(&format!("address add 100.64.{}.1/32 dev lo", u16::from(number) * 4));
    }
}

fn one(workload: &str, at: Addresses) -> Locations {
    [(name(workload), at)].into()
}

#[test]
fn root_members_tell_each_other_where_their_workloads_are_at_once() {
    story(async || {
        addresses(3);
        let map = map(3, 0);
        let [a, b, c] =
            [Capsule::new(0, &map).await, Capsule::new(1, &map).await, Capsule::new(2, &map).await];
        let web = one("web", map.plan().workload(Slot(1), 2).unwrap());
        b.workloads.send_replace(web.clone());
        a.hears("m1", &web).await;
        c.hears("m1", &web).await;
        b.workloads.send_replace(Locations::new());
        let taken = a.hears("m1", &Locations::new()).await;
        assert!(taken < Duration::from_secs(1), "{taken:?}");
        // Whose stream ended is known as it was last: a policy must not forget who is away.
        b.workloads.send_replace(web.clone());
        a.hears("m1", &web).await;
        b.links.unwrap().stop().await;
        let b = Capsule::new(1, &map).await;
        b.workloads.send_replace(web.clone());
        let db = one("db", map.plan().workload(Slot(0), 5).unwrap());
        a.workloads.send_replace(db.clone());
        b.hears("m0", &db).await;
        a.hears("m1", &web).await;
    });
}

#[test]
fn root_an_address_that_is_not_the_tellers_is_not_believed() {
    story(async || {
        addresses(2);
        let map = map(2, 0);
        let (a, b) = (Capsule::new(0, &map).await, Capsule::new(1, &map).await);
        let plan = map.plan();
        let own = plan.workload(Slot(1), 2).unwrap();
        let stolen = plan.workload(Slot(0), 3).unwrap();
        let half = Addresses { ipv4: own.ipv4, ipv6: stolen.ipv6 };
        b.workloads.send_replace([(name("web"), own), (name("db"), stolen), (name("half"), half)].into());
        a.hears("m1", &one("web", own)).await;
    });
}

#[test]
fn root_who_goes_by_an_older_map_is_given_the_newer_one() {
    story(async || {
        addresses(3);
        let (old, new) = (map(3, 0), map(3, 2));
        let a = Capsule::new(0, &new).await;
        let b = Capsule::new(1, &old).await;
        let c = Capsule::new(2, &old).await;
        for behind in [&b, &c] {
            let start = Instant::now();
            while behind.taken.0.lock().unwrap().is_empty() {
                assert!(start.elapsed() < LIMIT, "no map arrived");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            let map = behind.taken.0.lock().unwrap()[0].clone();
            assert_eq!(map, *signed(&new).wire());
        }
        assert!(a.taken.0.lock().unwrap().is_empty(), "nobody has a newer one");
    });
}

#[test]
fn root_who_calls_from_no_members_address_is_hung_up_on() {
    story(async || {
        addresses(1);
        ip("address add 100.64.8.2/32 dev lo");
        let map = map(3, 0);
        let _a = Capsule::new(0, &map).await;
        let start = Instant::now();
        let mut stream = loop {
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind("100.64.8.2:0".parse().unwrap()).unwrap();
            match socket.connect("100.64.0.1:50002".parse().unwrap()).await {
                Ok(stream) => break stream,
                Err(error) => assert!(start.elapsed() < LIMIT, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        let ended = tokio::time::timeout(LIMIT, stream.read(&mut [0; 1])).await.unwrap();
        assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    });
}

#[test]
fn root_peers_that_answer_are_reached_and_told_so() {
    story(async || {
        addresses(2);
        let map = map(3, 0);
        let (a, _b) = (Capsule::new(0, &map).await, Capsule::new(1, &map).await);
        let mut reach = a.parts.reach.subscribe();
        let answers = |all: &ReachOfAll, of: &str| all.get(&name(of)).is_some_and(|reach| reach.answers);
        tokio::time::timeout(LIMIT, reach.wait_for(|all| answers(all, "m1"))).await.unwrap().unwrap();
        assert!(!answers(&reach.borrow(), "m2"), "nobody is there");
        assert!(reach.borrow()[&name("m1")].quality.rtt.is_some());
    });
}
