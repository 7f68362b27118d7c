//! A machine's disks.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::{process::Command, time::timeout};

use crate::{Error, Result, machine::Access};

/// What makes overlays.
const QEMU_IMG: &str = "qemu-img";
/// It writes a header; a busy disk takes its time.
const CREATE_LIMIT: Duration = Duration::from_mins(1);

/// How a file holds a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Byte for byte.
    Raw,
    /// QEMU's own, which grows as it is written and may lie upon another.
    Qcow2,
}

/// A virtio disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    pub(crate) path: PathBuf,
    pub(crate) format: Format,
    pub(crate) access: Access,
    pub(crate) serial: Option<String>,
}

impl Disk {
    /// A file or a block device as it is.
    pub fn raw(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), format: Format::Raw, access: Access::Write, serial: None }
    }

    /// A qcow2 file.
    pub fn qcow2(path: impl Into<PathBuf>) -> Self {
        Self { format: Format::Qcow2, ..Self::raw(path) }
    }

    /// Makes the file `path` that holds what differs from this disk, which must not change any more.
    /// It begins anew if it exists.
    pub async fn overlay(&self, path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        let base = std::path::absolute(&self.path).map_err(Error::file("find", &self.path))?;
        let arguments = ["create", "-q", "-f", "qcow2", "-F", self.format.name(), "-b"].map(OsStr::new);
        let mut command = Command::new(QEMU_IMG);
        command.args(arguments).arg(base).arg(&path);
        run(command, CREATE_LIMIT).await?;
        Ok(Self::qcow2(path))
    }

    /// The guest cannot write it.
    #[must_use]
    pub fn read_only(mut self) -> Self {
        self.access = Access::Read;
        self
    }

    /// By which the guest tells it from others; at most 20 bytes.
    #[must_use]
    pub fn serial(mut self, serial: &str) -> Self {
        self.serial = Some(serial.to_owned());
        self
    }

    /// Where it is on the host.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Format {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }
}

async fn run(mut command: Command, limit: Duration) -> Result<()> {
    let shown = format!("{:?}", command.as_std()).replace('"', "");
    let program = PathBuf::from(command.as_std().get_program());
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = timeout(limit, command.output()).await;
    let output = output.map_err(|_| Error::TimedOut { what: shown.clone(), limit, tail: String::new() })?;
    let output = output.map_err(|source| Error::Spawn { program, source })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(Error::Failed { command: shown, status: output.status.to_string(), said })
}
