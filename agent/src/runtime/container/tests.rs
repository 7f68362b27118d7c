//! The whole runtime against a real containerd. Everything is below a directory of its own, and
//! [`Bed`] takes it all away, also on failure.

use std::{
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use capsule_proto::{Name, v1};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Containerd, testing};
use crate::{
    image::ImageInfo,
    runtime::{
        Access, BindMount, ExecProcess, ExecSpec, Exit, Reach, Runtime, RuntimeError, RuntimeEvent, Setup,
        TaskState, Whom,
    },
};

mod trouble;

const PATIENCE: Duration = Duration::from_secs(20);

struct Bed {
    dir: tempfile::TempDir,
    containerd: Arc<Containerd>,
    image: ImageInfo,
}

impl Bed {
    async fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("ct").tempdir_in("/tmp").unwrap();
        let containerd = testing::test_containerd(dir.path()).await;
        let image = testing::import_busybox(&containerd, dir.path());
        Self { dir, containerd, image }
    }

    fn setup(&self, name: &str, spec: v1::ContainerSpec) -> Setup {
        let (name, spec_hash) = (name.parse().unwrap(), "hash-1".to_owned());
        Setup { name, spec_hash, spec, image: self.image.clone(), mounts: Vec::new(), reach: Reach::Spec }
    }

    fn logs(&self, name: &str) -> PathBuf {
        self.dir.path().join("logs").join(name)
    }

    async fn run(&self, setup: &Setup) -> u32 {
        self.containerd.create(setup).await.unwrap();
        let logs = self.logs(setup.name.as_str());
        let pid = self.containerd.prepare_task(&setup.name, &logs).await.unwrap();
        self.containerd.start_task(&setup.name).await.unwrap();
        pid
    }

    async fn run_shell(&self, name: &str, script: &str) -> Name {
        let setup = self.setup(name, shell(script));
        self.run(&setup).await;
        setup.name
    }

    async fn exited(&self, name: &Name) -> Exit {
        let until = Instant::now() + PATIENCE;
        loop {
            let sandbox = self.containerd.get(name).await.unwrap().unwrap();
            match sandbox.task.unwrap().state {
                TaskState::Exited(_) => return self.containerd.delete_task(name).await.unwrap().unwrap(),
                state => assert!(Instant::now() < until, "{name} is still {state:?}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Runs a script to its end; its exit and what it wrote to stdout.
    async fn output(&self, name: &str, spec: v1::ContainerSpec) -> (Exit, String) {
        let setup = self.setup(name, spec);
        self.run(&setup).await;
        let exit = self.exited(&setup.name).await;
        self.containerd.remove(&setup.name).await.unwrap();
        (exit, std::fs::read_to_string(self.logs(name).join("stdout")).unwrap())
    }

    async fn close(self) {
        for sandbox in self.containerd.list().await.unwrap() {
            let _ = self.containerd.signal(&sandbox.name, 9, Whom::All).await;
            if sandbox.task.is_some() {
                self.exited(&sandbox.name).await;
            }
            self.containerd.remove(&sandbox.name).await.unwrap();
        }
        self.containerd.shutdown().await;
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        testing::remove_all(self.dir.path());
    }
}

fn shell(script: &str) -> v1::ContainerSpec {
    let command = ["sh", "-c", script].map(str::to_owned).to_vec();
    v1::ContainerSpec { command, ..v1::ContainerSpec::default() }
}

fn command(words: &[&str]) -> ExecSpec {
    ExecSpec { command: words.iter().map(ToString::to_string).collect(), ..ExecSpec::default() }
}

/// Stdout, stderr and exit code.
async fn finish(mut exec: Box<dyn ExecProcess>) -> (String, String, u32) {
    let (mut out, mut err) = (String::new(), String::new());
    let mut stdout = exec.take_stdout().unwrap();
    match exec.take_stderr() {
        Some(mut stderr) => {
            tokio::try_join!(stdout.read_to_string(&mut out), stderr.read_to_string(&mut err)).unwrap();
        }
        None => drop(stdout.read_to_string(&mut out).await.unwrap()),
    }
    let code = exec.wait().await.unwrap().code;
    (out, err, code)
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < until, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn alive(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

#[tokio::test]
async fn root_a_workload_goes_from_create_to_remove_and_every_step_may_be_repeated() {
    let bed = Bed::new().await;
    let runtime = &bed.containerd;
    let mut events = runtime.subscribe();
    let setup = bed.setup("web", shell("echo out; echo err >&2; exit 7"));
    runtime.create(&setup).await.unwrap();
    runtime.create(&setup).await.unwrap();
    let other = Setup { spec_hash: "hash-2".into(), ..setup.clone() };
    assert!(runtime.create(&other).await.unwrap_err().to_string().contains("another spec"));

    let pid = runtime.prepare_task(&setup.name, &bed.logs("web")).await.unwrap();
    assert_eq!(runtime.prepare_task(&setup.name, &bed.logs("web")).await.unwrap(), pid);
    assert!(Path::new(&format!("/proc/{pid}/ns/net")).exists());
    let sandbox = runtime.get(&setup.name).await.unwrap().unwrap();
    assert_eq!((sandbox.spec_hash.as_str(), sandbox.image_digest.as_str()), ("hash-1", "sha256:test"));
    assert_eq!(sandbox.task.unwrap().state, TaskState::Created);
    runtime.start_task(&setup.name).await.unwrap();

    match tokio::time::timeout(PATIENCE, events.recv()).await.unwrap().unwrap() {
        RuntimeEvent::Exited { name, pid: ended } => assert_eq!((name.as_str(), ended), ("web", pid)),
        other @ RuntimeEvent::Reconnected => panic!("{other:?}"),
    }
    assert!(matches!(
        runtime.list().await.unwrap()[0].task.as_ref().unwrap().state,
        TaskState::Exited(Exit { code: 7, oom_killed: false, .. })
    ));
    assert!(runtime.remove(&setup.name).await.is_err(), "the task is still there");
    assert_eq!(bed.exited(&setup.name).await.code, 7);
    assert_eq!(runtime.delete_task(&setup.name).await.unwrap(), None);
    assert_eq!(std::fs::read_to_string(bed.logs("web").join("stdout")).unwrap(), "out\n");
    assert_eq!(std::fs::read_to_string(bed.logs("web").join("stderr")).unwrap(), "err\n");
    runtime.remove(&setup.name).await.unwrap();
    runtime.remove(&setup.name).await.unwrap();
    runtime.create(&other).await.unwrap();
    bed.close().await;
}

#[tokio::test]
async fn root_a_prepared_task_can_be_deleted_and_the_writable_layer_stays_with_the_sandbox() {
    let bed = Bed::new().await;
    let runtime = &bed.containerd;
    let setup = bed.setup("web", shell("cat /kept 2>/dev/null; echo again >/kept"));
    runtime.create(&setup).await.unwrap();
    let pid = runtime.prepare_task(&setup.name, &bed.logs("web")).await.unwrap();
    runtime.delete_task(&setup.name).await.unwrap().unwrap();
    eventually("the prepared process is gone", || !alive(pid)).await;
    for _ in 0..2 {
        bed.run(&setup).await;
        bed.exited(&setup.name).await;
    }
    assert_eq!(std::fs::read_to_string(bed.logs("web").join("stdout")).unwrap(), "again\n");
    let at = bed.dir.path().join("root");
    std::fs::create_dir(&at).unwrap();
    runtime.mount_rootfs(&setup.name, &at).await.unwrap();
    let kept = std::fs::read_to_string(at.join("kept"));
    nix::mount::umount2(&at, nix::mount::MntFlags::MNT_DETACH).unwrap();
    assert_eq!(kept.unwrap(), "again\n");
    bed.close().await;
}

#[tokio::test]
async fn root_signals_and_memory_limits_show_in_the_exit() {
    let bed = Bed::new().await;
    let name = bed.run_shell("sleeper", "trap 'exit 3' TERM; while :; do sleep 0.05; done").await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    bed.containerd.signal(&name, 15, Whom::Init).await.unwrap();
    assert_eq!(bed.exited(&name).await.code, 3);
    let gone = bed.containerd.signal(&name, 15, Whom::Init).await.unwrap_err();
    assert!(matches!(gone, RuntimeError::NotFound(..)), "{gone}");

    let name = bed.run_shell("killed", "sleep 1000").await;
    bed.containerd.signal(&name, 9, Whom::All).await.unwrap();
    let exit = bed.exited(&name).await;
    assert_eq!((exit.code, exit.oom_killed), (137, false));

    let resources = Some(v1::Resources { memory_mib: 16, ..v1::Resources::default() });
    let hungry =
        v1::ContainerSpec { resources, ..shell("exec dd if=/dev/zero of=/dev/null bs=200M count=1") };
    let (exit, _) = bed.output("hungry", hungry).await;
    assert_eq!((exit.code, exit.oom_killed), (137, true));
    bed.close().await;
}

#[tokio::test]
async fn root_isolation_is_what_docker_users_expect() {
    let bed = Bed::new().await;
    let script = "grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status; id; hostname; echo $FROM_IMAGE; \
                  ls -A /proc/acpi /sys/firmware 2>/dev/null | grep -v :; cat /proc/1/comm; ip addr show lo | \
                  grep -o 127.0.0.1; unshare -m true 2>&1; pwd";
    let (exit, out) = bed.output("plain", shell(script)).await;
    assert_eq!(exit.code, 0, "{out}");
    for expected in [
        "CapEff:\t00000000a80425fb",
        "CapBnd:\t00000000a80425fb",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
        "uid=0(root) gid=0(root) groups=10(wheel)",
        "plain",
        "yes",
        "127.0.0.1",
        "Operation not permitted",
    ] {
        assert!(out.contains(expected), "{expected} is missing in:\n{out}");
    }

    let user = v1::ContainerSpec { user: "web".into(), ..shell("id; grep CapEff /proc/self/status") };
    let (_, out) = bed.output("user", user).await;
    assert!(out.contains("uid=101(web) gid=102(web) groups=20(log)"), "{out}");
    assert!(out.contains("CapEff:\t0000000000000000"), "{out}");

    let missing = bed.setup("missing", v1::ContainerSpec { user: "nobody".into(), ..shell("id") });
    assert!(matches!(bed.containerd.create(&missing).await.unwrap_err(), RuntimeError::Invalid(_)));

    let capabilities = v1::Capabilities { add: vec!["NET_ADMIN".into()], drop: vec!["ALL".into()] };
    let spec = v1::ContainerSpec {
        capabilities: Some(capabilities),
        read_only_rootfs: true,
        resources: Some(v1::Resources { pids_max: 5, ..v1::Resources::default() }),
        working_dir: "/made/here".into(),
        ..shell(
            "grep CapEff /proc/self/status; touch /x 2>&1; for i in 1 2 3 4 5 6 7; do sleep 1 & done 2>&1; pwd",
        )
    };
    let (_, out) = bed.output("closed", spec.clone()).await;
    assert!(out.contains("CapEff:\t0000000000001000") && out.contains("Read-only file system"), "{out}");
    assert!(out.contains("can't fork"), "{out}");

    let spec = v1::ContainerSpec {
        privileged: true,
        host_pid: true,
        host_ipc: true,
        host_mount: true,
        network_mode: v1::NetworkMode::Host.into(),
        ..shell(
            "mount -t tmpfs none /mnt && grep -q proc /host/proc/mounts && touch /host/x 2>&1; ls /dev/loop-control; \
                 grep Seccomp: /proc/self/status",
        )
    };
    let mut spec = spec;
    spec.command[2].insert_str(0, "mkdir -p /mnt; ");
    let (_, out) = bed.output("privileged", spec).await;
    assert!(out.contains("Read-only") && out.contains("Seccomp:\t0"), "{out}");
    bed.close().await;
}

#[tokio::test]
async fn root_binds_are_mounted_and_read_only_ones_refuse_writes() {
    let bed = Bed::new().await;
    let source = bed.dir.path().join("volume");
    std::fs::create_dir(&source).unwrap();
    let bind = |target: &str, access| BindMount { source: source.clone(), target: target.into(), access };
    let mut setup = bed.setup("web", shell("echo hi >/data/file; echo no >/ro/file || cat /ro/file"));
    setup.mounts = vec![bind("/data", Access::ReadWrite), bind("/ro", Access::ReadOnly)];
    bed.run(&setup).await;
    bed.exited(&setup.name).await;
    assert_eq!(std::fs::read_to_string(bed.logs("web").join("stdout")).unwrap(), "hi\n");
    bed.close().await;
}

#[tokio::test]
async fn root_a_command_that_is_not_there_is_127_and_one_that_cannot_run_126() {
    let bed = Bed::new().await;
    let code = |error: RuntimeError| match error {
        RuntimeError::Command { code, .. } => code,
        other => panic!("{other:?}"),
    };
    for (number, words, expected) in [(1, "nope", 127), (2, "/nope/x", 127), (3, "/etc/passwd", 126)] {
        let spec = v1::ContainerSpec { command: vec![words.to_owned()], ..v1::ContainerSpec::default() };
        let setup = bed.setup(&format!("w{number}"), spec);
        bed.containerd.create(&setup).await.unwrap();
        let error = bed.containerd.prepare_task(&setup.name, &bed.logs("w")).await.unwrap_err();
        assert_eq!(code(error), expected, "{words}");
        assert_eq!(bed.containerd.get(&setup.name).await.unwrap().unwrap().task, None);
    }
    let name = bed.run_shell("web", "sleep 1000").await;
    for (words, expected) in [("nope", 127), ("/nope/x", 127), ("/etc/passwd", 126)] {
        let error = bed.containerd.exec(&name, command(&[words])).await.err().unwrap();
        assert_eq!(code(error), expected, "{words}");
    }
    let leftovers = std::fs::read_dir(bed.dir.path().join("tmp/exec")).unwrap().count();
    assert_eq!(leftovers, 0);
    bed.close().await;
}

#[tokio::test]
async fn root_execs_keep_streams_apart_pass_input_and_codes_and_run_many_at_once() {
    let bed = Bed::new().await;
    let name = bed.run_shell("web", "sleep 1000").await;
    let runtime = &bed.containerd;
    let mut spec = command(&["sh", "-c", "read line; echo \"$line $X\"; echo err >&2; id -u; pwd; exit 42"]);
    spec.stdin = true;
    spec.env.insert("X".into(), "var".into());
    spec.user = "web".into();
    spec.working_dir = "/etc".into();
    let mut exec = runtime.exec(&name, spec).await.unwrap();
    exec.take_stdin().unwrap().write_all(b"hello\n").await.unwrap();
    assert_eq!(finish(exec).await, ("hello var\n101\n/etc\n".into(), "err\n".into(), 42));

    let mut cat = runtime.exec(&name, ExecSpec { stdin: true, ..command(&["md5sum"]) }).await.unwrap();
    let mut stdin = cat.take_stdin().unwrap();
    let feed = tokio::spawn(async move {
        stdin.write_all(&vec![b'x'; 1 << 20]).await.unwrap();
        stdin.shutdown().await.unwrap();
    });
    let (sum, _, code) = finish(cat).await;
    feed.await.unwrap();
    assert_eq!((sum.as_str(), code), ("b561f87202d04959e37588ee05cf5b10  -\n", 0));

    let many = (0..20).map(|number| {
        let (runtime, name) = (runtime.clone(), name.clone());
        tokio::spawn(async move {
            let script = format!("echo {number}; exit {number}");
            finish(runtime.exec(&name, command(&["sh", "-c", &script])).await.unwrap()).await
        })
    });
    for (number, one) in many.collect::<Vec<_>>().into_iter().enumerate() {
        assert_eq!(one.await.unwrap(), (format!("{number}\n"), String::new(), number as u32));
    }
    bed.close().await;
}

fn holds(bytes: &[u8], text: &str) -> bool {
    String::from_utf8_lossy(bytes).contains(text)
}

#[tokio::test]
async fn root_a_terminal_has_the_size_it_was_given_and_dropping_an_exec_kills_it() {
    let bed = Bed::new().await;
    let name = bed.run_shell("web", "sleep 1000").await;
    let spec = ExecSpec {
        tty: true,
        stdin: true,
        window: Some((100, 30)),
        ..command(&["sh", "-c", "stty size; read x; stty size; test -t 2 && echo $TERM; read x"])
    };
    let mut exec = bed.containerd.exec(&name, spec).await.unwrap();
    let mut stdout = exec.take_stdout().unwrap();
    let mut first = [0; 8];
    stdout.read_exact(&mut first).await.unwrap();
    assert_eq!(std::str::from_utf8(&first).unwrap().trim(), "30 100");
    exec.resize(120, 40).await.unwrap();
    let mut stdin = exec.take_stdin().unwrap();
    stdin.write_all(b"\n").await.unwrap();
    // It ends only when all of this was read: containerd 1.6 closes the terminal of a process that
    // ended without waiting for its last output.
    let mut rest = Vec::new();
    while !(holds(&rest, "40 120") && holds(&rest, "xterm")) {
        assert_ne!(stdout.read_buf(&mut rest).await.unwrap(), 0, "{:?}", String::from_utf8_lossy(&rest));
    }
    stdin.write_all(b"\n").await.unwrap();
    assert_eq!(exec.wait().await.unwrap().code, 0);
    drop(exec);

    let exec = bed.containerd.exec(&name, command(&["sleep", "4321"])).await.unwrap();
    let running = || {
        std::fs::read_dir("/proc").unwrap().flatten().any(|entry| {
            std::fs::read(entry.path().join("cmdline")).is_ok_and(|line| line == b"sleep\x004321\0")
        })
    };
    eventually("the command runs", running).await;
    drop(exec);
    eventually("the dropped command is killed", || !running()).await;
    let execs = bed.dir.path().join("tmp/exec");
    eventually("its FIFOs are removed", || std::fs::read_dir(&execs).unwrap().count() == 0).await;
    bed.close().await;
}
