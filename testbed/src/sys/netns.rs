//! Network namespaces kept by name below `/run/netns`, as `ip netns` keeps them.
//!
//! They are entered by `setns` or `nsenter --net`, never by `ip netns exec`: that mounts a new
//! /sys, which hides the host's cgroups.

use std::{
    fs::File,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, anyhow};
use nix::sched::{CloneFlags, setns};

use super::run;

/// Where a namespace of this name is kept. A whole path, such as `/proc/PID/ns/net`, names itself.
pub fn path(name: &str) -> PathBuf {
    Path::new("/run/netns").join(name)
}

/// Whether it exists.
pub fn exists(name: &str) -> bool {
    path(name).exists()
}

/// Makes it, where there is none.
pub fn ensure(name: &str) -> Result<()> {
    if exists(name) {
        return Ok(());
    }
    run(Command::new("ip").args(["netns", "add", name]), "").map(drop)
}

/// Removes it, where there is one; interfaces inside go with it.
pub fn remove(name: &str) -> Result<()> {
    if !exists(name) {
        return Ok(());
    }
    run(Command::new("ip").args(["netns", "delete", name]), "").map(drop)
}

/// What tells it from every other namespace: equals the inode of `/proc/PID/ns/net` of whoever
/// lives in it. `None` where there is none.
pub fn inode(name: &str) -> Option<u64> {
    std::fs::metadata(path(name)).ok().map(|meta| meta.ino())
}

/// A command that will run inside the namespace, with the PID that it is spawned with.
pub fn command(name: &str, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", path(name).display())).arg("--").arg(program);
    command
}

/// Calls `work` on a thread of its own that lives in the namespace; what it starts lives there too.
pub fn inside<T: Send>(name: &str, work: impl FnOnce() -> T + Send) -> Result<T> {
    inside_at(&path(name), work)
}

/// The same in the namespace of this process.
pub fn inside_of<T: Send>(pid: u64, work: impl FnOnce() -> T + Send) -> Result<T> {
    inside_at(Path::new(&format!("/proc/{pid}/ns/net")), work)
}

fn inside_at<T: Send>(path: &Path, work: impl FnOnce() -> T + Send) -> Result<T> {
    let shown = path.display();
    let file = File::open(path).with_context(|| format!("there is no network namespace {shown}"))?;
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            setns(&file, CloneFlags::CLONE_NEWNET)
                .with_context(|| format!("cannot enter network namespace {shown}"))?;
            Ok(work())
        });
        thread.join().map_err(|_| anyhow!("the thread in network namespace {shown} panicked"))?
    })
}
