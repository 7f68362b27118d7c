//! The network as the kernel sees it. Every test owns the network namespace of its thread, which
//! goes with the thread; workloads are `unshare --net` processes.
//!
//! ```text
//!   [world] 192.0.2.2 ──veth── 192.0.2.1 [capsule's namespace] ── bridge ── workloads
//! ```

mod fabric;

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use capsule_fabric::{map::MemberMap, policy::Directory};
use tempfile::TempDir;

use super::*;
use crate::sys::{
    netlink::{in_netns, netns_of},
    testing::{ip, story},
};

const ID: &str = "a3f2c0de-0000-4000-8000-000000000000";
const PATIENCE: Duration = Duration::from_millis(600);

/// A process in a network namespace of its own.
struct Place {
    child: Child,
}

impl Place {
    fn new() -> Self {
        let mut child = Command::new("unshare")
            .args(["--net", "sh", "-c", "echo; exec sleep 600"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // The line comes from inside the namespace.
        let mut line = [0];
        child.stdout.as_mut().unwrap().read_exact(&mut line).unwrap();
        Self { child }
    }

    /// A host beyond the capsule's uplink, with a way back to nowhere but the uplink.
    fn world() -> Self {
        let place = Self::new();
        ip(&format!("link add up0 type veth peer name up1 netns {}", place.pid()));
        ip("addr add 192.0.2.1/24 dev up0");
        ip("addr add 2001:db8::1/64 dev up0 nodad");
        ip("link set up0 up");
        place.inside(|| {
            ip("link set lo up");
            ip("addr add 192.0.2.2/24 dev up1");
            ip("addr add 2001:db8::2/64 dev up1 nodad");
            ip("link set up1 up");
        });
        place
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }

    fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        in_netns(&netns_of(self.pid()), || Ok(work())).unwrap()
    }

    /// Answers every connection with the client's address.
    fn echo(&self, at: &str) {
        let listener = self.inside(|| TcpListener::bind(at).unwrap());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let Ok(peer) = stream.peer_addr() else { continue };
                let _ = stream.write_all(peer.ip().to_string().as_bytes());
            }
        });
    }

    fn ask(&self, to: &str) -> Option<String> {
        self.inside(|| ask(to))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the echo there says.
fn ask(to: &str) -> Option<String> {
    let to: SocketAddr = to.parse().unwrap();
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).ok()?;
    Some(said)
}

struct Capsule {
    dir: TempDir,
    store: Store,
    network: Network,
    map: watch::Sender<Option<Arc<MemberMap>>>,
    directory: watch::Sender<Directory>,
}

impl Capsule {
    async fn new() -> Self {
        Self::with(ID, None).await
    }

    async fn with(id: &str, subnet: Option<&str>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("resolv.conf"), "search example.com\n").unwrap();
        let store = Store::open(dir.path()).unwrap();
        let (map, directory) = (watch::Sender::new(None), watch::Sender::default());
        let network = start(dir.path(), &store, id, subnet, (&map, &directory)).await;
        Self { dir, store, network, map, directory }
    }

    fn resolv_conf(&self) -> PathBuf {
        self.dir.path().join("resolv.conf")
    }

    /// As if the agent had been killed and started.
    async fn restart(self) -> Self {
        let Self { dir, store, network, map, directory } = self;
        drop(network);
        tokio::task::yield_now().await;
        let network = start(dir.path(), &store, ID, None, (&map, &directory)).await;
        Self { dir, store, network, map, directory }
    }

    async fn reserve(&self, name: &str, ports: Vec<v1::Port>) -> Result<Reservation, NetworkError> {
        self.reserve_in_fabric(name, ports, None).await
    }

    async fn reserve_in_fabric(
        &self,
        name: &str,
        ports: Vec<v1::Port>,
        fabric: Option<v1::FabricSpec>,
    ) -> Result<Reservation, NetworkError> {
        let (network, name) = (self.network.clone(), name.parse().unwrap());
        let work = move |tx: &rusqlite::Transaction<'_>| {
            network.reserve(tx, &name, &ports, v1::NetworkMode::Bridge, fabric.as_ref()).map(Option::unwrap)
        };
        self.store.write(work).await
    }

    async fn run(&self, name: &str, ports: Vec<v1::Port>) -> (Place, Reservation) {
        let place = Place::new();
        let reservation = self.reserve(name, ports).await.unwrap();
        self.network.attach(&name.parse().unwrap(), place.pid(), &reservation).await.unwrap();
        (place, reservation)
    }
}

async fn start(
    dir: &Path,
    store: &Store,
    id: &str,
    subnet: Option<&str>,
    (map, directory): (&watch::Sender<Option<Arc<MemberMap>>>, &watch::Sender<Directory>),
) -> Network {
    let config = NetworkConfig {
        capsule_id: id.into(),
        state_dir: dir.to_owned(),
        bridge_subnet: subnet.map(str::to_owned),
        resolv_conf: dir.join("resolv.conf"),
        membership: Membership {
            capsule: id.parse().unwrap(),
            map: map.subscribe(),
            directory: directory.subscribe(),
        },
    };
    Network::start(config, store.clone(), Events::start(store.clone())).await.unwrap()
}

fn tcp(container_port: u32, host_port: u32, host_ip: &str) -> v1::Port {
    let protocol = v1::Protocol::Tcp as i32;
    v1::Port { container_port, host_port: Some(host_port), protocol, host_ip: host_ip.into() }
}

#[test]
fn root_workloads_reach_each_other_over_both_families_and_see_true_addresses() {
    story(async || {
        let capsule = Capsule::new().await;
        let (web, at) = capsule.run("web", vec![]).await;
        let (job, from) = capsule.run("job", vec![]).await;
        web.echo("[::]:80");
        assert_eq!(job.ask(&format!("{}:80", at.ipv4)).unwrap(), format!("::ffff:{}", from.ipv4));
        assert_eq!(job.ask(&format!("[{}]:80", at.ipv6)).unwrap(), from.ipv6.to_string());
        assert!(ask(&format!("{}:80", at.ipv4)).is_some(), "the host reaches it, too");
        capsule.network.attach(&"web".parse().unwrap(), web.pid(), &at).await.unwrap();
        assert!(job.ask(&format!("{}:80", at.ipv4)).is_some(), "attaching again changes nothing");
    });
}

#[test]
fn root_published_ports_answer_from_outside_from_localhost_and_from_workloads() {
    story(async || {
        let capsule = Capsule::new().await;
        let world = Place::world();
        let (web, _) = capsule.run("web", vec![tcp(80, 8080, ""), tcp(80, 8081, "127.0.0.1")]).await;
        let (job, _) = capsule.run("job", vec![]).await;
        web.echo("[::]:80");
        assert_eq!(world.ask("192.0.2.1:8080").unwrap(), "::ffff:192.0.2.2", "the client's address is kept");
        assert_eq!(world.ask("[2001:db8::1]:8080").unwrap(), "2001:db8::2");
        assert!(world.ask("192.0.2.1:8081").is_none(), "published on the loopback only");
        assert!(ask("127.0.0.1:8080").is_some());
        assert!(ask("127.0.0.1:8081").is_some());
        assert!(ask("192.0.2.1:8080").is_some());
        assert!(job.ask("192.0.2.1:8080").is_some());
        assert!(job.ask("[2001:db8::1]:8080").is_some());
        assert!(web.ask("192.0.2.1:8080").is_some(), "hairpin");
        capsule.network.detach(&"web".parse().unwrap()).await.unwrap();
        assert!(ask("127.0.0.1:8080").is_none());
    });
}

#[test]
fn root_only_the_uplink_masquerades_and_nothing_unasked_comes_in() {
    story(async || {
        let capsule = Capsule::new().await;
        let world = Place::world();
        let (web, at) = capsule.run("web", vec![]).await;
        web.echo("[::]:80");
        world.echo("[::]:7000");
        assert_eq!(web.ask("192.0.2.2:7000").unwrap(), "::ffff:192.0.2.1");
        assert_eq!(web.ask("[2001:db8::2]:7000").unwrap(), "2001:db8::1");
        let route = format!("route add {}/32 via 192.0.2.1", at.ipv4);
        world.inside(|| ip(&route));
        assert!(world.ask(&format!("{}:80", at.ipv4)).is_none(), "not published");
    });
}

#[test]
fn root_a_spoofed_source_and_the_host_s_loopback_are_dropped() {
    story(async || {
        let capsule = Capsule::new().await;
        let (web, _) = capsule.run("web", vec![]).await;
        let (_db, victim) = capsule.run("db", vec![]).await;
        let gateway = capsule.network.inner.layout.subnet4.gateway();
        let heard = UdpSocket::bind((gateway, 9999)).unwrap();
        heard.set_read_timeout(Some(PATIENCE)).unwrap();
        let send = |from: IpAddr| {
            web.inside(|| UdpSocket::bind((from, 0)).unwrap().send_to(b"x", (gateway, 9999)).unwrap());
            heard.recv_from(&mut [0; 8]).is_ok()
        };
        assert!(send(Ipv4Addr::UNSPECIFIED.into()), "its own address");
        for spoofed in [victim.ipv4, Ipv4Addr::new(203, 0, 113, 5)] {
            web.inside(|| ip(&format!("addr add {spoofed}/32 dev eth0")));
            assert!(!send(spoofed.into()), "{spoofed}");
        }
        let service = UdpSocket::bind("127.0.0.1:9998").unwrap();
        service.set_read_timeout(Some(PATIENCE)).unwrap();
        web.inside(|| {
            ip("addr del 127.0.0.1/8 dev lo");
            std::fs::write("/proc/sys/net/ipv4/conf/eth0/route_localnet", "1").unwrap();
            ip("route add 127.0.0.1/32 via 10.88.0.1 dev eth0 onlink");
            let _ = UdpSocket::bind("0.0.0.0:0").unwrap().send_to(b"x", "127.0.0.1:9998");
        });
        assert!(service.recv_from(&mut [0; 8]).is_err());
    });
}

#[test]
fn root_two_capsules_in_one_namespace_keep_apart() {
    story(async || {
        let one = Capsule::new().await;
        let two = Capsule::with("b401c0de-0000-4000-8000-000000000000", None).await;
        assert_ne!(one.network.subnets().0, two.network.subnets().0);
        let (web, at) = one.run("web", vec![tcp(80, 8080, "")]).await;
        let (job, _) = two.run("job", vec![]).await;
        web.echo("0.0.0.0:80");
        assert!(job.ask(&format!("{}:80", at.ipv4)).is_none(), "not published");
        let gateway = one.network.inner.layout.subnet4.gateway();
        assert!(job.ask(&format!("{gateway}:8080")).is_some(), "published");
        two.network.teardown().await.unwrap();
        assert!(ask(&format!("{}:80", at.ipv4)).is_some());
        one.network.teardown().await.unwrap();
        let left = Command::new("nft").args(["list", "tables"]).output().unwrap();
        assert!(left.stdout.is_empty(), "{}", String::from_utf8_lossy(&left.stdout));
    });
}

/// A resolver that knows one name, over UDP.
fn fake_upstream() {
    use hickory_proto::{
        op::Message,
        rr::{RData, Record, rdata::A},
    };
    let socket = UdpSocket::bind("127.0.0.1:53").unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((length, client)) = socket.recv_from(&mut buffer) {
            let query = Message::from_vec(&buffer[..length]).unwrap();
            let mut reply = Message::response(query.metadata.id, query.metadata.op_code);
            let question = query.queries[0].clone();
            let known = question.name.to_ascii() == "example.com.";
            if known {
                let data = RData::A(A::from(Ipv4Addr::new(192, 0, 2, 80)));
                reply.add_answer(Record::from_rdata(question.name.clone(), 60, data));
            } else {
                reply.metadata.response_code = hickory_proto::op::ResponseCode::NXDomain;
            }
            reply.add_query(question);
            socket.send_to(&reply.to_vec().unwrap(), client).unwrap();
        }
    });
}

/// Asks a name server from inside for an IPv4 address; the response code and the answers.
async fn dig(place: &Place, server: IpAddr, name: &'static str) -> (String, Vec<String>) {
    use hickory_proto::{
        op::{Message, Query},
        rr::{Name, RecordType},
    };
    let namespace = netns_of(place.pid());
    let ask = move || {
        let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any)?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut query = Message::query();
        query.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
        socket.send_to(&query.to_vec().unwrap(), (server, 53))?;
        let mut buffer = [0; 512];
        let length = socket.recv(&mut buffer)?;
        Ok(Message::from_vec(&buffer[..length]).unwrap())
    };
    // Not on this thread: the name service runs here.
    let reply = tokio::task::spawn_blocking(move || in_netns(&namespace, ask)).await.unwrap().unwrap();
    let answers = reply.answers.iter().map(|record| record.data.to_string()).collect();
    (format!("{:?}", reply.metadata.response_code), answers)
}

#[test]
fn root_workloads_resolve_each_other_and_the_world() {
    story(async || {
        let capsule = Capsule::new().await;
        let (web, at) = capsule.run("web", vec![]).await;
        let found = |code: &str, answers: &[&str]| {
            (code.to_owned(), answers.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        let [four, six] = capsule.network.inner.layout.gateways();
        let dig = |server, name| dig(&web, server, name);
        for server in [four, six] {
            assert_eq!(dig(server, "web.").await, found("NoError", &[&at.ipv4.to_string()]));
            assert_eq!(dig(server, "none.capsule.").await, found("NXDomain", &[]));
            assert_eq!(dig(server, "example.com.").await.0, "ServFail", "no upstream");
        }
        fake_upstream();
        std::fs::write(capsule.resolv_conf(), "nameserver 127.0.0.1\n").unwrap();
        assert_eq!(dig(four, "example.com.").await, found("NoError", &["192.0.2.80"]));
        assert_eq!(dig(four, "nowhere.example.").await, found("NXDomain", &[]));
        let files = capsule.network.resolver_files(&"web".parse().unwrap(), Some(&at)).unwrap();
        let resolv = std::fs::read_to_string(&files[0].source).unwrap();
        assert_eq!(resolv, "nameserver 10.88.0.1\nsearch capsule\n");
    });
}

#[test]
fn root_a_restart_leaves_the_attached_untouched_and_removes_strays() {
    story(async || {
        let capsule = Capsule::new().await;
        let (web, at) = capsule.run("web", vec![tcp(80, 8080, "")]).await;
        let (_gone, _) = capsule.run("gone", vec![]).await;
        web.echo("0.0.0.0:80");
        let mut open = TcpStream::connect((at.ipv4, 80)).unwrap();
        let capsule = capsule.restart().await;
        assert!(ask("127.0.0.1:8080").is_some(), "before restore");
        capsule.network.restore(&[("web".parse().unwrap(), web.pid())]).await.unwrap();
        assert!(ask("127.0.0.1:8080").is_some(), "after restore");
        let mut said = String::new();
        open.read_to_string(&mut said).unwrap();
        assert!(!said.is_empty());
        let veths = plumbing::veths(&capsule.network.inner.layout).unwrap();
        assert_eq!(veths, [capsule.network.inner.layout.veth(2)]);
        assert_eq!(capsule.reserve("web", vec![tcp(80, 8080, "")]).await.unwrap(), at, "sticky");
    });
}

#[test]
fn root_ports_taken_on_the_host_or_by_a_workload_are_refused_and_picked_ones_stay() {
    story(async || {
        let capsule = Capsule::new().await;
        let _taken = TcpListener::bind("127.0.0.1:8080").unwrap();
        let none = std::collections::HashSet::new();
        let check = async |port| capsule.network.check_host_ports(&[port], &none).await;
        assert!(matches!(check(tcp(80, 8080, "")).await, Err(NetworkError::PortBusy { .. })));
        assert!(matches!(check(tcp(80, 8082, "203.0.113.1")).await, Err(NetworkError::PortBusy { .. })));
        check(tcp(80, 8081, "")).await.unwrap();
        let _low = TcpListener::bind("0.0.0.0:30000").unwrap();
        let picked = capsule.reserve("a", vec![tcp(80, 0, "")]).await.unwrap();
        assert_eq!(picked.ports[0].host_port(), 30_001);
        assert_eq!(capsule.reserve("a", vec![tcp(80, 0, "")]).await.unwrap(), picked);
        let error = capsule.reserve("b", vec![tcp(80, 30_001, "127.0.0.1")]).await.unwrap_err();
        assert!(error.to_string().contains("workload a has it"), "{error}");
    });
}

#[test]
fn root_fifty_attaches_at_once_are_quick() {
    story(async || {
        let capsule = Capsule::new().await;
        let mut places = Vec::new();
        for n in 0..50 {
            let name = format!("w{n}");
            places.push((
                name.clone(),
                Place::new(),
                capsule.reserve(&name, vec![tcp(80, 0, "")]).await.unwrap(),
            ));
        }
        let (name, place, reservation) = &places[0];
        let begin = Instant::now();
        capsule.network.attach(&name.parse().unwrap(), place.pid(), reservation).await.unwrap();
        let one = begin.elapsed();
        let begin = Instant::now();
        let all = places[1..].iter().map(|(name, place, reservation)| {
            let network = capsule.network.clone();
            async move { network.attach(&name.parse().unwrap(), place.pid(), reservation).await.unwrap() }
        });
        futures_util::future::join_all(all).await;
        let rest = begin.elapsed();
        println!("one attach {one:?}, 49 more at once {rest:?}");
        assert!(rest < Duration::from_secs(10), "{rest:?}");
    });
}
