//! The root of a workload, opened so that nothing beneath it leads out.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use capsule_proto::v1;
use nix::mount::{MntFlags, umount2};
use pathrs::Root;

use super::CopyError;
use crate::workload::{WorkloadError, Workloads, handle::Handle};

/// Of a root or a mount.
pub(in crate::workload) const READ_ONLY: &str = "the workload has it mounted read-only (readOnlyRootfs, or readOnly of a \
                                  mount); copy to a writable volume of it";

/// An open root, and the path in it that the caller named.
pub(in crate::workload) struct RootOf {
    pub root: Root,
    pub path: PathBuf,
    mount: Option<Mounted>,
    /// Why it is not written, though nothing would keep anybody from it.
    unwritable: Option<String>,
}

impl RootOf {
    /// `path` is absolute, or below the workload's working directory.
    pub async fn open(all: &Workloads, name: &str, path: &str) -> Result<Self, WorkloadError> {
        if path.is_empty() {
            return Err(WorkloadError::Invalid("the path inside the workload is empty".into()));
        }
        let handle = all.handle(name)?;
        let image = all.parts.images.get(&handle.desired().spec.image).await.ok().flatten();
        let of_image = image.and_then(|image| image.config.config().as_ref()?.working_dir().clone());
        let of_spec = Some(handle.desired().spec.working_dir.clone()).filter(|dir| !dir.is_empty());
        let below = of_spec.or(of_image).unwrap_or_else(|| "/".into());
        // Joined as text: a path's trailing `/` and `/.` mean something here.
        let path =
            PathBuf::from(if path.starts_with('/') { path.to_owned() } else { format!("{below}/{path}") });
        let pid = handle.workload().and_then(|workload| Some(workload.status.as_ref()?.pid)).unwrap_or(0);
        if pid != 0 {
            let paused = handle.workload().and_then(|workload| {
                let status = workload.status.as_ref().filter(|status| status.phase() == v1::Phase::Paused)?;
                Some(format!("workload {name} is paused: {}", status.reason))
            });
            let attempt = format!("opening the root of workload {name}");
            let opened = File::open(format!("/proc/{pid}/root")).map_err(WorkloadError::io(attempt))?;
            return Ok(Self { root: Root::from_fd(opened), path, mount: None, unwritable: paused });
        }
        Self::mount(all, handle, path).await
    }

    async fn mount(all: &Workloads, handle: Arc<Handle>, path: PathBuf) -> Result<Self, WorkloadError> {
        let name = handle.name.clone();
        let spec = handle.desired().spec.clone();
        // The workload would see it so, and only the workload does not run.
        let unwritable = spec.read_only_rootfs.then(|| READ_ONLY.to_owned());
        if let Some(mount) = mount_above(&spec, &path) {
            return Err(WorkloadError::Conflict(format!(
                "{} is on a volume or directory that is mounted at {mount} only while workload {name} runs; \
                 start it first",
                path.display()
            )));
        }
        if all.parts.runtime.get(&name).await?.is_none() {
            return Err(WorkloadError::Conflict(format!(
                "workload {name} has no files yet: it was never started; start it first"
            )));
        }
        let target = all.parts.tmp_dir().join(format!("root-{name}-{:08x}", rand::random::<u32>()));
        fs::create_dir_all(&target).map_err(WorkloadError::io(format!("making {}", target.display())))?;
        // Locked as long as it is mounted: two mounts of one writable layer would damage it.
        let guard = handle.root.clone().lock_owned().await;
        let mounted = Mounted { target: target.clone(), _guard: guard };
        all.parts.runtime.mount_rootfs(&name, &target).await?;
        let root = Root::open(&target).map_err(|error| {
            WorkloadError::io(format!("opening the root of workload {name}"))(io::Error::other(error))
        })?;
        Ok(Self { root, path, mount: Some(mounted), unwritable })
    }

    /// Refuses where the workload itself could not write, or must not now.
    pub fn ensure_writable(&self) -> Result<(), CopyError> {
        self.unwritable.clone().map_or(Ok(()), |why| Err(CopyError::Refused(why)))
    }

    /// Lets go of descriptors first: a mount in use cannot be taken away.
    pub fn close(self) {
        let Self { root, mount, .. } = self;
        drop(root);
        drop(mount);
    }
}

/// Where `path`, as it is written, lies on something that is mounted into the root.
fn mount_above(spec: &v1::ContainerSpec, path: &Path) -> Option<String> {
    let volumes = spec.mounts.iter().map(|mount| &mount.mount_path);
    let binds = spec.host_bind_paths.iter().map(|bind| &bind.mount_path);
    volumes.chain(binds).find(|mount| path.starts_with(mount)).cloned()
}

struct Mounted {
    target: PathBuf,
    _guard: tokio::sync::OwnedMutexGuard<()>,
}

impl Drop for Mounted {
    fn drop(&mut self) {
        unmount(&self.target);
    }
}

fn unmount(target: &Path) {
    match umount2(target, MntFlags::MNT_DETACH) {
        // Never mounted.
        Ok(()) | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => {}
        Err(error) => tracing::warn!(path = %target.display(), %error, "a root stays mounted"),
    }
    // Only if empty, and so never what is mounted there.
    let _ = fs::remove_dir(target);
}

/// After a start of the agent: what an earlier one left mounted.
pub(in crate::workload) fn clean_up(tmp: &Path) {
    let Ok(entries) = fs::read_dir(tmp) else { return };
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().starts_with("root-") {
            unmount(&entry.path());
        }
    }
}
