//! What was killed, cut short, or does not answer: agents, containerd, shims, tasks that are half made.

use std::os::unix::process::ExitStatusExt as _;

use nix::{
    sys::signal::{self, Signal},
    unistd::Pid,
};

use super::{
    super::{ContainerdConfig, leftovers},
    *,
};

impl Bed {
    /// What containerd leaves that gave up on a call: a bundle, and sometimes a shim that it forgot.
    fn leave_half_a_task(&self, name: &str) -> std::process::Child {
        let bundle =
            self.dir.path().join("containerd/state/io.containerd.runtime.v2.task/capsule").join(name);
        std::fs::create_dir_all(bundle.join("rootfs")).unwrap();
        let tmpfs = (Some("tmpfs"), bundle.join("rootfs"), Some("tmpfs"), nix::mount::MsFlags::empty());
        nix::mount::mount(tmpfs.0, &tmpfs.1, tmpfs.2, tmpfs.3, None::<&str>).unwrap();
        std::process::Command::new("sh")
            .arg0("/usr/bin/containerd-shim-runc-v2")
            .args(["-c", "read line", "shim", "-namespace", "capsule", "-id", name, "-address"])
            .arg(self.dir.path().join("containerd/containerd.sock"))
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap()
    }
}

fn engine_pid(dir: &Path) -> u32 {
    std::fs::read_to_string(dir.join("containerd/pid")).unwrap().trim().parse().unwrap()
}

fn send(signal: Signal, pid: i32) {
    signal::kill(Pid::from_raw(pid), signal).unwrap();
}

#[tokio::test]
async fn root_a_task_whose_shim_does_not_answer_is_the_one_it_was() {
    let bed = Bed::new().await;
    let name = bed.run_shell("web", "sleep 1000").await;
    let task = async || bed.containerd.get(&name).await.unwrap().unwrap().task.unwrap();
    let was = task().await;
    let shims = leftovers::shims(&bed.containerd.layout.socket());
    let shim = shims.iter().find(|shim| shim.name == "web").unwrap().pid;
    send(Signal::SIGSTOP, shim);
    assert_eq!(task().await, was);
    let listed = bed.containerd.list().await.unwrap().into_iter().find(|sandbox| sandbox.name == name);
    assert_eq!(listed.unwrap().task, Some(was));
    send(Signal::SIGCONT, shim);
    bed.close().await;
}

#[tokio::test]
async fn root_the_next_agent_takes_over_containerd_and_containers_and_ends_stray_execs() {
    let mut bed = Bed::new().await;
    let name = bed.run_shell("web", "sleep 1000").await;
    let before = bed.containerd.get(&name).await.unwrap().unwrap();
    let engine = engine_pid(bed.dir.path());
    let exec = bed.containerd.exec(&name, command(&["sleep", "1000"])).await.unwrap();
    // A killed agent drops nothing.
    std::mem::forget(exec);
    bed.containerd = testing::test_containerd(bed.dir.path()).await;
    assert_eq!(engine_pid(bed.dir.path()), engine);
    assert_eq!(bed.containerd.get(&name).await.unwrap().unwrap(), before);
    let execs = bed.dir.path().join("tmp/exec");
    eventually("the stray exec is ended", || std::fs::read_dir(&execs).unwrap().count() == 0).await;
    let ps = bed.containerd.exec(&name, command(&["ps"])).await.unwrap();
    let (out, ..) = finish(ps).await;
    assert_eq!(out.matches("sleep 1000").count(), 1, "{out}");
    bed.close().await;
}

#[tokio::test]
async fn root_containers_and_execs_survive_a_kill_of_containerd_and_reconnected_arrives() {
    let mut bed = Bed::new().await;
    for round in 0..2 {
        let name = bed.run_shell(&format!("web{round}"), "sleep 1000").await;
        let before = bed.containerd.get(&name).await.unwrap().unwrap();
        let spec = ExecSpec { stdin: true, ..command(&["sh", "-c", "read x; exit 5"]) };
        let mut exec = bed.containerd.exec(&name, spec).await.unwrap();
        let mut events = bed.containerd.subscribe();
        send(Signal::SIGKILL, engine_pid(bed.dir.path()) as i32);
        let event = tokio::time::timeout(PATIENCE, events.recv()).await.unwrap().unwrap();
        assert!(matches!(event, RuntimeEvent::Reconnected), "{event:?}");
        assert_eq!(bed.containerd.get(&name).await.unwrap().unwrap(), before);
        exec.take_stdin().unwrap().write_all(b"\n").await.unwrap();
        assert_eq!(exec.wait().await.unwrap().code, 5);
        drop(exec);
        send(Signal::SIGKILL, before.task.unwrap().pid as i32);
        let event = tokio::time::timeout(PATIENCE, events.recv()).await.unwrap().unwrap();
        assert!(matches!(event, RuntimeEvent::Exited { .. }), "{event:?}");
        assert_eq!(bed.exited(&name).await.code, 137);
        // The second time it is one that this object did not start.
        bed.containerd = testing::test_containerd(bed.dir.path()).await;
    }
    bed.close().await;
}

#[tokio::test]
async fn root_what_is_left_of_a_task_that_was_cut_short_is_removed_and_another_can_start() {
    let bed = Bed::new().await;
    let setup = bed.setup("web", shell("sleep 1000"));
    bed.containerd.create(&setup).await.unwrap();
    let mut shim = bed.leave_half_a_task("web");
    // As long as it is young, it may be containerd that is at work.
    let until = Instant::now() + PATIENCE;
    while let Err(error) = bed.containerd.prepare_task(&setup.name, &bed.logs("web")).await {
        assert!(error.to_string().contains("an earlier try was cut short"), "{error}");
        assert!(Instant::now() < until, "it stays");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    bed.containerd.start_task(&setup.name).await.unwrap();
    assert_eq!(shim.wait().unwrap().signal(), Some(9));
    bed.close().await;
}

#[tokio::test]
async fn root_an_agent_does_not_wait_for_what_is_left_of_a_task_and_only_its_name_does() {
    let mut bed = Bed::new().await;
    let mut shim = bed.leave_half_a_task("web");
    let (web, other) = ("web".parse().unwrap(), "other".parse().unwrap());
    bed.containerd = testing::test_containerd(bed.dir.path()).await;
    bed.containerd.settled(&other).await;
    assert_eq!(shim.try_wait().unwrap(), None, "the agent started, and the rest is still there");
    bed.containerd.settled(&web).await;
    assert_eq!(shim.wait().unwrap().signal(), Some(9));
    bed.run_shell("web", "sleep 1000").await;
    bed.close().await;
}

#[tokio::test]
async fn root_calls_fail_as_retryable_while_containerd_is_gone() {
    let bed = Bed::new().await;
    bed.containerd.shutdown().await;
    let error = bed.containerd.list().await.unwrap_err();
    assert!(matches!(error, RuntimeError::Unavailable(_)) && error.is_retryable(), "{error}");
    drop(bed);
    let dir = tempfile::tempdir().unwrap();
    let config = ContainerdConfig { containerd: "/nope".into(), ..testing::config(dir.path()) };
    let events = crate::event::Events::start(crate::store::Store::open(dir.path()).unwrap());
    let error = Containerd::start(&config, events).await.err().unwrap().to_string();
    assert!(error.contains("install containerd"), "{error}");
}
