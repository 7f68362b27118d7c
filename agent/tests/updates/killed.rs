//! Machines whose power is cut in the middle: an agent in a process of its own, killed.

use std::{
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    process::{Child, Command, Stdio},
    time::Duration,
};

use capsule_client::{
    Capsule,
    update::{PushOptions, UpdateFile, push},
};
use capsule_proto::v1;
use tokio::time::timeout;

use crate::rig::{Boot, Rig, system};

/// Tell the child its disk and its boot.
const DISK: &str = "CAPSULE_TEST_DISK";
const BOOT: &str = "CAPSULE_TEST_BOOT";
const CUTS: u64 = 30;

#[tokio::test]
#[ignore = "is killed by the test below"]
async fn an_agent_serves_until_it_is_killed() {
    let rig = Rig::at(std::path::Path::new(&std::env::var_os(DISK).unwrap()));
    let boot: Boot = serde_json::from_str(&std::env::var(BOOT).unwrap()).unwrap();
    let agent = rig.agent(&boot).await;
    println!("serves {}", agent.address());
    std::future::pending::<()>().await;
}

/// A machine that is on.
struct On(Child);

impl On {
    async fn boot(rig: &Rig) -> (Self, Capsule) {
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "killed::an_agent_serves_until_it_is_killed", "--ignored", "--nocapture"]);
        child.env(DISK, rig.path("")).env(BOOT, serde_json::to_string(&rig.load()).unwrap());
        let mut child = child.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let told = lines.find_map(|line| line.split_once("serves ").map(|(_, address)| address.to_owned()));
        let address: SocketAddr = told.unwrap().parse().unwrap();
        (Self(child), rig.connect(address).await)
    }

    fn cut(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn machines_that_lose_power_at_any_moment_of_a_push_always_boot_a_whole_system() {
    let rig = Rig::new();
    let (mut machine, mut capsule) = On::boot(&rig).await;
    let (mut minor, mut kept, mut moment) = (2, 0, 5);
    for _ in 0..CUTS {
        let next = format!("0.{minor}.0");
        let file = UpdateFile::open(&rig.bundle_of(&next, system(&next), &rig.key), |_| ()).unwrap();
        let options = PushOptions { force: true, ..Default::default() };
        let ended = timeout(Duration::from_millis(moment), push(&capsule, &file, &options, |_| ())).await;
        machine.cut();
        // Checks that what is booted is one of the systems that were made, byte for byte.
        (machine, capsule) = On::boot(&rig).await;
        let status = capsule.updates().get_status(v1::GetUpdateStatusRequest {}).await.unwrap().into_inner();
        let is_new = status.version == next;
        assert!(is_new || !matches!(ended, Ok(Ok(_))), "{next} was armed and is not booted: {status:?}");
        // Every moment up to the one at which a push is through, and then anew.
        moment = if is_new { 5 } else { moment * 4 / 3 + 5 };
        if is_new {
            capsule.updates().confirm(v1::ConfirmUpdateRequest {}).await.unwrap();
            (minor, kept) = (minor + 1, kept + 1);
        }
    }
    machine.cut();
    assert!(kept > 0, "no push ever came to its end");
}
