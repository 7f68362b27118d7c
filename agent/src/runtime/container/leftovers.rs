//! What containerd leaves of a task whose making was cut short.
//!
//! An agent that is killed takes its calls with it. containerd 1.6 then gives up half-way, mostly
//! cleans up behind itself, and sometimes forgets a shim that it has just started, a bundle that was
//! still in use, or a container of runc's. The next task of that name would be refused, and without
//! one they would stay for good. So an agent that starts lets containerd come to rest first, then
//! removes what is left, and only then makes tasks of those names; everything else it does at once.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs, io,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Weak},
    time::{Duration, Instant, SystemTime},
};

use capsule_proto::Name;
use containerd_client::services::v1::DeleteTaskRequest;
use nix::{
    mount::{MntFlags, umount2},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{
    Containerd,
    api::{found, request},
    layout::io_error,
};
use crate::{runtime::RuntimeError, sys::run};

/// Its file name begins so, whatever its version.
const SHIM: &str = "containerd-shim";
/// For runc to kill and remove one container.
const RUNC_DEADLINE: Duration = Duration::from_secs(20);
/// containerd has done by then what it does after a call that was cut off; its own limit is 5 s.
const SETTLED: Duration = Duration::from_secs(6);
/// Between looks at what is left.
const SETTLE_PAUSE: Duration = Duration::from_millis(50);

impl Containerd {
    /// Clears, while the agent serves already, what there is without a task. Who makes a task of such a
    /// name waits in [`Self::wait_settled`] until then.
    pub(super) async fn clear_leftovers(self: &Arc<Self>) -> Result<(), RuntimeError> {
        let left = self.leftovers().await?;
        if !left.is_empty() {
            self.settling.send_replace(left);
            tokio::spawn(settle(Arc::downgrade(self)));
        }
        Ok(())
    }

    /// Waits until nothing of a task that an earlier agent began is in this one's way.
    pub(super) async fn wait_settled(&self, name: &Name) {
        // The sender is ours, so it is not dropped meanwhile.
        let _ = self.settling.subscribe().wait_for(|settling| !settling.contains(name)).await;
    }

    /// Names of which there is something, but no task.
    async fn leftovers(&self) -> Result<BTreeSet<Name>, RuntimeError> {
        let mut names: BTreeSet<String> = children(&self.layout.bundles());
        names.extend(children(&self.layout.runc_containers()));
        names.extend(shims(&self.layout.socket()).into_iter().map(|shim| shim.name));
        let mut left = BTreeSet::new();
        for name in names.iter().filter_map(|name| name.parse().ok()) {
            if self.process(&name).await?.is_none() {
                left.insert(name);
            }
        }
        Ok(left)
    }

    /// The same for a name that is in the way of another task, once it has been for long.
    pub(super) async fn clear_settled(&self, name: &Name) -> Result<(), RuntimeError> {
        if is_young(&self.layout.bundles().join(name.as_str())) {
            return self.discard_shim(name).await;
        }
        self.clear(name).await
    }

    /// A containerd that is killed while it makes a task leaves a shim without one: its successor
    /// finds no task, and yet refuses another. Deleting the task ends the shim.
    pub(super) async fn discard_shim(&self, name: &Name) -> Result<(), RuntimeError> {
        let answer = self.tasks().delete(request(DeleteTaskRequest { container_id: name.to_string() })).await;
        found(answer, format!("remove the rest of a task of workload {name}")).map(drop)
    }

    /// Ends and removes whatever there is of it.
    async fn clear(&self, name: &Name) -> Result<(), RuntimeError> {
        self.discard_shim(name).await?;
        for shim in shims(&self.layout.socket()).iter().filter(|shim| shim.name == name.as_str()) {
            tracing::info!(subject = name.as_str(), pid = shim.pid, "a shim without a task is ended");
            // Gone between the two: what was wanted is so.
            let _ = kill(Pid::from_raw(shim.pid), Signal::SIGKILL);
        }
        if self.layout.runc_containers().join(name.as_str()).exists() {
            self.delete_from_runc(name).await?;
        }
        let bundle = self.layout.bundles().join(name.as_str());
        remove_bundle(&bundle).map_err(|error| io_error("remove", &bundle, &error))
    }

    async fn delete_from_runc(&self, name: &Name) -> Result<(), RuntimeError> {
        let root = self.layout.runc_containers().display().to_string();
        let arguments = ["--root", &root, "delete", "--force", name.as_str()];
        let answer = run::run("runc", &arguments, b"", RUNC_DEADLINE).await;
        answer.map(drop).map_err(|error| RuntimeError::Engine {
            attempt: format!("remove the rest of workload {name}"),
            message: error.to_string(),
        })
    }
}

/// Waits until containerd has cleaned up after an agent that was killed, and then removes what there
/// still is without a task.
async fn settle(engine: Weak<Containerd>) {
    let deadline = Instant::now() + SETTLED;
    while let Some(engine) = engine.upgrade() {
        let mut settling = engine.settling.borrow().clone();
        match engine.leftovers().await {
            Ok(left) => settling.retain(|name| left.contains(name)),
            Err(error) => tracing::debug!(%error, "what an earlier agent left cannot be seen"),
        }
        if Instant::now() > deadline {
            for name in std::mem::take(&mut settling) {
                // One that stays is a trouble of its workload, whose next task will tell of it.
                if let Err(error) = engine.clear(&name).await {
                    tracing::warn!(subject = name.as_str(), "{error}");
                }
            }
        }
        let is_done = settling.is_empty();
        engine.settling.send_replace(settling);
        if is_done {
            return;
        }
        drop(engine);
        tokio::time::sleep(SETTLE_PAUSE).await;
    }
}

/// Whether it was made a short while ago, and containerd may still be at work on it.
fn is_young(path: &Path) -> bool {
    let age = |made| SystemTime::now().duration_since(made).unwrap_or_default();
    fs::metadata(path).and_then(|found| found.modified()).is_ok_and(|made| age(made) < SETTLED)
}

fn children(dir: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

fn remove_bundle(bundle: &Path) -> io::Result<()> {
    while umount2(&bundle.join("rootfs"), MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW).is_ok() {}
    match fs::remove_dir_all(bundle) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// A running shim.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Shim {
    pub(super) pid: i32,
    pub(super) name: String,
}

/// The shims of the containerd that listens on `socket`.
pub(super) fn shims(socket: &Path) -> Vec<Shim> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let shim = |entry: fs::DirEntry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let name = parse(&fs::read(entry.path().join("cmdline")).ok()?, socket)?;
        Some(Shim { pid, name })
    };
    processes.filter_map(shim).collect()
}

/// The workload of a shim by its arguments, each closed by a NUL: `… -id NAME -address SOCKET`.
/// `None` for any other process, such as the short-lived ones that start or delete a shim.
fn parse(cmdline: &[u8], socket: &Path) -> Option<String> {
    let words: Vec<&OsStr> = cmdline.split(|byte| *byte == 0).map(OsStr::from_bytes).collect();
    let program = PathBuf::from(words.first()?);
    let is_shim = program.file_name()?.as_bytes().starts_with(SHIM.as_bytes());
    let value = |flag: &str| words.windows(2).find(|pair| pair[0] == flag).map(|pair| pair[1]);
    let verb = words.iter().skip(1).any(|word| *word == "start" || *word == "delete");
    let ours = is_shim && !verb && value("-address")? == socket;
    ours.then(|| value("-id")?.to_str().map(str::to_owned)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_shims_of_this_containerd_are_ours() {
        let socket = Path::new("/s/containerd.sock");
        let name = |words: &str| parse(words.replace(' ', "\0").as_bytes(), socket);
        let shim = "/usr/bin/containerd-shim-runc-v2 -namespace capsule -id web -address";
        assert_eq!(name(&format!("{shim} /s/containerd.sock ")).as_deref(), Some("web"));
        assert_eq!(name(&format!("{shim} /other/containerd.sock ")), None);
        assert_eq!(name(&format!("{shim} /s/containerd.sock start ")), None);
        assert_eq!(name("/usr/bin/grep -id web -address /s/containerd.sock "), None);
        assert_eq!(name(""), None);
    }
}
