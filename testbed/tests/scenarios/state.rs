//! What a capsule does with a state directory that is not as it left it.

use std::{fs, net::TcpListener, os::unix::ffi::OsStrExt as _, path::Path, process::Command, time::Duration};

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use testbed::{
    scenario::{Capsule, Fleet},
    sys::{self, process::Process},
};

/// The agent must not start, and say so with these words.
async fn refuses(a: &Capsule<'_>, words: &[&str]) -> Result<()> {
    let Err(error) = a.start_agent().await else { anyhow::bail!("the agent starts; expected {words:?}") };
    let said = format!("{error:#}");
    ensure!(words.iter().all(|word| said.contains(word)), "not all of {words:?}: {said}");
    Ok(())
}

#[tokio::test]
async fn a_capsule_whose_state_is_lost_or_damaged_does_not_start_as_another_one() -> Result<()> {
    let fleet = Fleet::builder(1).without_images().start().await?;
    let a = fleet.capsule("a");
    a.stop_agent()?;
    let (dir, kept) = (a.state_dir(), fleet.dir().join("kept"));
    ensure!(!dir.join("agent.pid").exists(), "a clean stop leaves its PID file");
    fs::create_dir(&kept)?;
    let files = ["state.db", "state.db-wal", "identity/server.key"];
    let there: Vec<_> = files.iter().filter(|file| dir.join(file).exists()).collect();
    for file in &there {
        fs::copy(dir.join(file), kept.join(file.replace('/', "-")))?;
    }
    let restore = || -> Result<()> {
        for file in &there {
            // The key may be read only.
            let _ = fs::remove_file(dir.join(file));
            fs::copy(kept.join(file.replace('/', "-")), dir.join(file))?;
        }
        Ok(())
    };
    let db = dir.join("state.db");
    fs::remove_file(&db)?;
    refuses(&a, &["state.db is gone", "backup"]).await?;
    ensure!(!db.exists(), "a database was made in the place of the lost one");
    restore()?;
    fs::write(&db, "")?;
    refuses(&a, &["damaged", "empty", "nothing was changed"]).await?;
    restore()?;
    fs::File::options().write(true).open(&db)?.set_len(5000)?;
    refuses(&a, &["damaged", "nothing was changed", "backup"]).await?;
    restore()?;
    fs::remove_file(dir.join("identity/server.key"))?;
    refuses(&a, &["server.key is missing", "backup"]).await?;
    restore()?;
    a.start_agent().await?;
    a.fleetctl(&["whoami"]).await?.ok()?;
    // Its PID file stays and is no obstacle.
    a.kill_agent()?;
    ensure!(dir.join("agent.pid").exists());
    a.start_agent().await?;
    a.fleetctl(&["whoami"]).await?.ok()?;
    fleet.passed();
    Ok(())
}

#[tokio::test]
async fn a_disk_that_takes_no_writes_is_named() -> Result<()> {
    let fleet = Fleet::builder(1).disk("a", 64 << 20).without_images().start().await?;
    let a = fleet.capsule("a");
    a.stop_agent()?;
    a.fill_disk(0)?;
    refuses(&a, &["No space left on device"]).await?;
    a.free_disk()?;
    let dir = a.state_dir();
    let remount = |how: &str| sys::run(Command::new("mount").args(["-o", how]).arg(&dir), "");
    a.start_agent().await?;
    a.fleetctl(&["whoami"]).await?.ok()?;
    let mut containerd = a.containerd().ok();
    a.stop_agent()?;
    if let Some(containerd) = containerd.take() {
        containerd.signal(nix::sys::signal::Signal::SIGKILL);
        ensure!(containerd.wait_gone(std::time::Duration::from_secs(10)), "containerd does not end");
    }
    remount("remount,ro")?;
    let refused = refuses(&a, &["Read-only file system"]).await;
    remount("remount,rw")?;
    refused?;
    a.start_agent().await?;
    a.fleetctl(&["whoami"]).await?.ok()?;
    fleet.passed();
    Ok(())
}

/// Every process that has this path on its command line.
fn naming(path: &Path) -> Result<Vec<Process>> {
    let path = path.as_os_str().as_bytes();
    let pids = fs::read_dir("/proc")?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let names = |pid: &u32| {
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        words.windows(path.len()).any(|part| part == path)
    };
    Ok(pids.filter(names).filter_map(Process::of).collect())
}

#[test]
fn an_agent_that_does_not_start_leaves_nothing_running() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut capsuled = Command::new(sys::program("capsuled")?);
    capsuled.arg("--state-dir").arg(dir.path()).args(["--listen", "127.0.0.1:0"]);
    let refused = capsuled.args(["--bridge-subnet", "10.88.0.1/24"]).output()?;
    let said = String::from_utf8_lossy(&refused.stderr);
    let left = naming(dir.path())?;
    left.iter().for_each(|process| process.signal(Signal::SIGKILL));
    ensure!(!refused.status.success() && said.contains("10.88.0.1/24"), "{said}");
    ensure!(left.is_empty(), "{left:?} were left");
    Ok(())
}

#[tokio::test]
async fn an_agent_whose_port_is_taken_names_the_process_that_has_it() -> Result<()> {
    let fleet = Fleet::builder(1).without_images().start().await?;
    let a = fleet.capsule("a");
    a.stop_agent()?;
    let port = a.api()?.port();
    let holder = fleet.from_capsule("a", move || Ok(TcpListener::bind(("0.0.0.0", port))?)).await?;
    let agent = a.spawn_agent()?;
    ensure!(agent.wait_gone(Duration::from_secs(10)), "an agent runs without its port");
    let console = fs::read_to_string(fleet.testbed().record.console("a"))?;
    for words in [format!("(PID {}) has", std::process::id()), "--listen".into(), format!(":{port}")] {
        ensure!(console.contains(&words), "{words:?} is not in: {console}");
    }
    drop(holder);
    a.start_agent().await?;
    a.fleetctl(&["whoami"]).await?.ok()?;
    fleet.passed();
    Ok(())
}
