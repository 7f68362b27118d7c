//! Machines do not outlive whoever started them.

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use capsule_vm::Vm;
use tokio::time::{Instant, sleep};

use crate::guest::{Guest, LIMIT};

const POLL: Duration = Duration::from_millis(20);

/// More than a zombie that nobody waits for.
fn runs(pid: &str) -> bool {
    let status = Path::new("/proc").join(pid).join("stat");
    std::fs::read_to_string(&status).is_ok_and(|stat| !stat.contains(") Z "))
}

async fn gone(pid: &str) {
    let end = Instant::now() + LIMIT;
    while runs(pid) {
        assert!(Instant::now() < end, "process {pid} still runs");
        sleep(POLL).await;
    }
}

async fn running() -> (Guest, Vm) {
    let guest = Guest::new(&[], "");
    let vm = guest.start().await;
    (guest, vm)
}

#[tokio::test]
async fn a_dropped_machine_is_gone() {
    let (_guest, vm) = running().await;
    let pid = vm.pid().unwrap().to_string();
    drop(vm);
    gone(&pid).await;
}

#[test]
#[ignore = "is killed by the test below"]
fn an_owner_waits_for_its_machine() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    // On a thread that goes away while the machine stays.
    let start = || runtime.block_on(running());
    let (_guest, mut vm) = std::thread::scope(|scope| scope.spawn(start).join().unwrap());
    println!("machine {}", vm.pid().unwrap());
    let _ = runtime.block_on(vm.wait(LIMIT));
}

#[tokio::test]
async fn a_killed_owners_machine_is_gone() {
    let mut owner = Command::new(std::env::current_exe().unwrap());
    owner.args(["--exact", "owner::an_owner_waits_for_its_machine", "--ignored", "--nocapture"]);
    let mut owner = owner.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(owner.stdout.take().unwrap()).lines().map(Result::unwrap);
    let pid = lines.find_map(|line| line.split_once("machine ").map(|(_, pid)| pid.to_owned())).unwrap();
    assert!(runs(&pid), "the machine has ended before its owner did");
    owner.kill().unwrap();
    owner.wait().unwrap();
    gone(&pid).await;
}
