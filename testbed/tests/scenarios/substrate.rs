//! The ground that scenarios stand on: namespaces, faults, and that nothing of them is left.

use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    time::Duration,
};

use testbed::{
    fixtures,
    registry::{Access, Registry},
    scenario::Fleet,
    substrate::{
        Owner, Record, Request, State, Substrate, Testbed, fault::Faults, nat::INSIDE, node_names,
        remove_stale,
    },
    sys::{link, netns, process::Process},
};

const SOON: Duration = Duration::from_secs(2);

fn request(name: &str, nodes: usize) -> Request {
    let dir = PathBuf::from("/var/lib/capsule-testbed").join(name);
    let nodes = node_names(nodes);
    let (name, behind_nat) = (name.to_owned(), Vec::new());
    Request { name, dir, nodes, behind_nat, owner: Owner::ThisProgram, substrate: Substrate::Netns }
}

/// Takes the testbed down also where the test fails.
struct Guard(&'static str);

impl Drop for Guard {
    fn drop(&mut self) {
        if let Ok(Some(testbed)) = Testbed::open(self.0) {
            testbed.remove(State::Remove).expect("the testbed goes");
        }
    }
}

fn up(name: &'static str, nodes: usize) -> (Guard, Testbed) {
    (Guard(name), Testbed::ensure(&request(name, nodes)).expect("the testbed comes up"))
}

#[test]
fn nodes_reach_each_other_and_the_operator_until_they_are_cut_off() {
    let (_guard, testbed) = up("tsub-reach", 2);
    let plan = testbed.plan();
    let (v4, v6) = plan.node(0);
    let listeners: Vec<TcpListener> = netns::inside(&plan.namespace("a"), || {
        [SocketAddr::from((v4, 80)), SocketAddr::from((v6, 80))].map(|at| TcpListener::bind(at).unwrap())
    })
    .unwrap()
    .into();
    let connect = |address: SocketAddr| TcpStream::connect_timeout(&address, SOON);
    for listener in &listeners {
        let address = listener.local_addr().unwrap();
        connect(address).unwrap();
        netns::inside(&plan.namespace("b"), || connect(address)).unwrap().unwrap();
    }
    let address = listeners[0].local_addr().unwrap();
    let mut faults = Faults::default();
    faults.lose("a", 100).unwrap();
    testbed.set_faults(&faults).unwrap();
    connect(address).unwrap_err();
    faults.lose("a", 0).unwrap();
    testbed.set_faults(&faults).unwrap();
    connect(address).unwrap();
}

#[test]
fn down_removes_processes_mounts_namespaces_and_files() {
    let (_guard, mut testbed) = up("tsub-down", 2);
    let plan = testbed.plan();
    testbed.limit_disk("a", 1 << 20).unwrap();
    let state = testbed.record.state_dir("a");
    std::fs::create_dir_all(&state).unwrap();
    testbed::sys::disk::ensure_small(&state, 1 << 20).unwrap();
    let script = "setsid sleep 1000 & exec sleep 1000";
    let mut command = netns::command(&plan.namespace("a"), "sh");
    let shell = testbed.spawn(command.args(["-c", script]), "a").unwrap();
    let dir = testbed.record.dir.clone();
    while testbed.processes("a").len() < 2 {
        std::thread::yield_now();
    }
    let processes = testbed.processes("a");
    assert!(processes.contains(&shell));

    testbed.remove(State::Remove).unwrap();
    assert!(!processes.into_iter().any(Process::is_alive));
    assert!(!dir.exists() && !netns::exists(&plan.hub()) && !netns::exists(&plan.namespace("b")));
    assert!(!link::exists(&plan.operator_link()));
    assert!(Record::load("tsub-down").unwrap().is_none());
}

#[test]
fn up_twice_is_up_once_and_may_grow() {
    let (_guard, first) = up("tsub-grow", 1);
    let inode = netns::inode(&first.plan().namespace("a"));
    let second = Testbed::ensure(&request("tsub-grow", 3)).unwrap();
    assert_eq!(second.record.subnet, first.record.subnet);
    assert_eq!(netns::inode(&first.plan().namespace("a")), inode);
    assert!(netns::exists(&second.plan().namespace("c")));
}

#[test]
fn what_a_crashed_program_left_is_collected() {
    let (_guard, mut testbed) = up("tsub-stale", 1);
    let this = Process::this().unwrap();
    testbed.record.owner = Some(Process { start_ticks: this.start_ticks + 1, ..this });
    testbed.record.save().unwrap();
    remove_stale().unwrap();
    assert!(!netns::exists(&testbed.plan().namespace("a")));
}

#[test]
fn a_directory_with_foreign_files_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("precious"), "x").unwrap();
    let request = Request { dir: dir.path().to_owned(), ..request("tsub-dir", 1) };
    let refused = Testbed::ensure(&request).unwrap_err().to_string();
    assert!(refused.contains("no testbed made"), "{refused}");
    assert!(!netns::exists("tsub-dir-hub"));
}

#[test]
fn the_registry_stores_what_is_pushed_and_asks_for_a_password() {
    for access in [Access::Open, Access::Password] {
        let (_guard, mut testbed) = up("tsub-reg", 1);
        let mut registry = Registry::start(&mut testbed, access).unwrap();
        let reference = registry.push(&fixtures::echo().unwrap(), "team/echo", "1").unwrap();
        assert_eq!(reference, format!("{}/team/echo:1", registry.host()));
        registry.stop();
        registry.resume(&mut testbed).unwrap();
        testbed.remove(State::Remove).unwrap();
    }
}

#[tokio::test]
async fn a_capsule_behind_a_router_is_reached_at_its_api_and_by_no_other_way() -> anyhow::Result<()> {
    let fleet = Fleet::builder(2).behind_nat("a").without_images().start().await?;
    let (a, b) = (fleet.capsule("a"), fleet.capsule("b"));
    a.fleetctl(&["capsule", "info"]).await?.ok()?;
    let connects = |from: &str, to: SocketAddr| {
        netns::inside(from, || TcpStream::connect_timeout(&to, SOON).map_err(|error| error.kind()))
    };
    // It calls others, as one that they see elsewhere than it is.
    assert!(connects(&a.namespace(), b.api()?)?.is_ok());
    let listener = netns::inside(&b.namespace(), || TcpListener::bind("0.0.0.0:7000"))??;
    let calls = connects(&a.namespace(), SocketAddr::new(b.api()?.ip(), 7000))?;
    assert!(calls.is_ok());
    assert_eq!(listener.accept()?.1.ip(), a.api()?.ip());
    assert!(connects(&b.namespace(), a.api()?)?.is_ok());
    let _inside = netns::inside(&a.namespace(), || TcpListener::bind((INSIDE, 7000)))??;
    assert!(connects(&b.namespace(), SocketAddr::new(a.api()?.ip(), 7000))?.is_err());
    fleet.passed();
    Ok(())
}
