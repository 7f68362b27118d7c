//! Where containerd's files are, and its configuration.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use nix::unistd::mkdir;

use crate::{image::NAMESPACE, runtime::RuntimeError, sys::file};

/// The kernel's limit for the path of a Unix socket, without the closing NUL.
const SOCKET_PATH_MAX: usize = 107;
/// containerd also listens on its address with this suffix.
const TTRPC_SUFFIX: &str = ".ttrpc";
/// The log is moved aside at start when it is larger, in bytes.
const LOG_MAX: u64 = 10 * 1024 * 1024;
/// Parts of containerd that a capsule has no use for; each costs memory and start-up time.
const DISABLED_PLUGINS: [&str; 10] = [
    "io.containerd.grpc.v1.cri",
    "io.containerd.internal.v1.opt",
    "io.containerd.internal.v1.restart",
    "io.containerd.internal.v1.tracing",
    "io.containerd.monitor.v1.cgroups",
    "io.containerd.snapshotter.v1.aufs",
    "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.snapshotter.v1.zfs",
    "io.containerd.tracing.processor.v1.otlp",
];

/// Files below the state directory. Absolute: shims remember them.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    state_dir: PathBuf,
}

impl Layout {
    /// Makes the directories, closed to everyone but root.
    pub(super) fn make(state_dir: &Path) -> Result<Self, RuntimeError> {
        fs::create_dir_all(state_dir).map_err(|error| io_error("make the directory", state_dir, &error))?;
        let state_dir =
            state_dir.canonicalize().map_err(|error| io_error("resolve the path", state_dir, &error))?;
        let layout = Self { state_dir };
        layout.check_socket_path()?;
        for dir in [layout.dir(), layout.tmp(), layout.execs()] {
            match mkdir(&dir, nix::sys::stat::Mode::S_IRWXU) {
                Ok(()) | Err(nix::errno::Errno::EEXIST) => {}
                Err(errno) => return Err(io_error("make the directory", &dir, &errno.into())),
            }
        }
        Ok(layout)
    }

    fn check_socket_path(&self) -> Result<(), RuntimeError> {
        let length = self.socket().as_os_str().len() + TTRPC_SUFFIX.len();
        if length <= SOCKET_PATH_MAX {
            return Ok(());
        }
        Err(RuntimeError::Invalid(format!(
            "the state directory {} is {} bytes too long: containerd's socket below it would exceed the \
             kernel's limit for socket paths; choose a shorter --state-dir",
            self.state_dir.display(),
            length - SOCKET_PATH_MAX,
        )))
    }

    pub(super) fn dir(&self) -> PathBuf {
        self.state_dir.join("containerd")
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.dir().join("containerd.sock")
    }

    pub(super) fn config(&self) -> PathBuf {
        self.dir().join("config.toml")
    }

    pub(super) fn pid_file(&self) -> PathBuf {
        self.dir().join("pid")
    }

    /// Locked by containerd for as long as it lives; see `supervise.rs`.
    pub(super) fn lock_file(&self) -> PathBuf {
        self.dir().join("lock")
    }

    pub(super) fn log(&self) -> PathBuf {
        self.dir().join("containerd.log")
    }

    /// runc's own state: by default it is shared by all containerds of a kernel.
    pub(super) fn runc_root(&self) -> PathBuf {
        self.dir().join("runc")
    }

    /// What runc keeps of each container that it has.
    pub(super) fn runc_containers(&self) -> PathBuf {
        self.runc_root().join(NAMESPACE)
    }

    /// What containerd keeps of each task while it runs.
    pub(super) fn bundles(&self) -> PathBuf {
        self.engine_state().join("io.containerd.runtime.v2.task").join(NAMESPACE)
    }

    fn engine_state(&self) -> PathBuf {
        self.dir().join("state")
    }

    pub(super) fn tmp(&self) -> PathBuf {
        self.state_dir.join("tmp")
    }

    /// One directory per running exec.
    pub(super) fn execs(&self) -> PathBuf {
        self.tmp().join("exec")
    }

    /// Writes containerd's configuration. A running one reads it when it is started again.
    pub(super) fn write_config(&self, cgroup_parent: &str) -> Result<(), RuntimeError> {
        let (path, part) = (self.config(), self.config().with_extension("part"));
        fs::write(&part, self.render_config(cgroup_parent))
            .and_then(|()| fs::rename(&part, &path))
            .map_err(|error| io_error("write", &path, &error))
    }

    fn render_config(&self, cgroup_parent: &str) -> String {
        let quoted = |path: PathBuf| serde_json::Value::from(path.display().to_string()).to_string();
        let disabled = DISABLED_PLUGINS.map(|plugin| format!("  \"{plugin}\",\n")).concat();
        format!(
            "# Written by capsuled at every start.\n\
             version = 2\n\
             root = {root}\n\
             state = {state}\n\
             disabled_plugins = [\n{disabled}]\n\n\
             [grpc]\naddress = {socket}\n\n\
             [debug]\nlevel = \"warn\"\n\n\
             [cgroup]\npath = \"/{engine}\"\n",
            root = quoted(self.dir().join("root")),
            state = quoted(self.engine_state()),
            socket = quoted(self.socket()),
            engine = engine_cgroup(cgroup_parent),
        )
    }

    /// Removes what containerd and runc keep of tasks that run, if that was in another boot of this
    /// machine: none of them runs, and runc takes a new one for what it believes to be there. For
    /// whoever starts a containerd, while none runs.
    pub(super) fn forget_other_boots(&self, boot_id: &str) -> io::Result<()> {
        let mark = self.dir().join("boot");
        match fs::read_to_string(&mark) {
            Ok(known) if known == boot_id => return Ok(()),
            Ok(_) => {
                for state in [self.runc_root(), self.engine_state()] {
                    file::remove_all_if_exists(&state)?;
                }
            }
            // Nobody has started one here.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        file::write_atomic(&mark, boot_id.as_bytes(), 0o600)
    }

    /// The log, opened for appending; one earlier log is kept once it is full.
    pub(super) fn open_log(&self) -> io::Result<fs::File> {
        let path = self.log();
        if fs::metadata(&path).is_ok_and(|found| found.len() > LOG_MAX) {
            fs::rename(&path, path.with_extension("log.1"))?;
        }
        fs::File::options().create(true).append(true).open(path)
    }
}

/// The cgroup of containerd and its shims, below that of the capsule.
pub(super) fn engine_cgroup(parent: &str) -> String {
    format!("{parent}/engine")
}

/// Path of the running executable, also after it was replaced on disk by another version.
pub(super) fn own_executable() -> PathBuf {
    let path = std::env::current_exe().unwrap_or_else(|_| "/proc/self/exe".into());
    match path.to_str().and_then(|text| text.strip_suffix(" (deleted)")) {
        Some(replaced) => replaced.into(),
        None => path,
    }
}

pub(super) fn io_error(attempt: &str, path: &Path, error: &io::Error) -> RuntimeError {
    RuntimeError::Engine { attempt: format!("{attempt} {}", path.display()), message: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_directory_too_deep_for_a_socket_is_refused_with_advice() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("x".repeat(100));
        let error = Layout::make(&deep).unwrap_err().to_string();
        assert!(error.contains("shorter --state-dir"), "{error}");
    }

    #[test]
    fn the_configuration_names_only_paths_below_the_state_directory() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::make(dir.path()).unwrap();
        layout.write_config("capsule-a3f2").unwrap();
        let text = fs::read_to_string(layout.config()).unwrap();
        assert!(text.contains("path = \"/capsule-a3f2/engine\""), "{text}");
        assert!(text.contains(&format!("address = \"{}\"", layout.socket().display())), "{text}");
    }

    #[test]
    fn tasks_of_another_boot_are_forgotten_and_those_of_this_one_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::make(dir.path()).unwrap();
        let states = [layout.bundles().join("web"), layout.runc_containers().join("web")];
        for (boot, stay) in [("1", true), ("1", true), ("2", false), ("2", false)] {
            if stay {
                states.iter().for_each(|state| fs::create_dir_all(state).unwrap());
            }
            layout.forget_other_boots(boot).unwrap();
            assert_eq!(states.each_ref().map(|state| state.exists()), [stay; 2], "boot {boot}");
        }
    }
}
