//! A machine's disks.

use std::{
    ffi::{OsStr, OsString},
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::{process::Command, time::timeout};

use crate::{Error, Result, machine::Access};

/// What makes disks.
const QEMU_IMG: &str = "qemu-img";
/// What reads and writes disks that no machine has.
const QEMU_IO: &str = "qemu-io";
/// Either touches a few MiB; a busy disk takes its time.
const LIMIT: Duration = Duration::from_mins(1);

/// In which `qemu-img dd` counts.
const SECTOR_BYTES: u64 = 512;

/// How a file holds a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Byte for byte.
    Raw,
    /// QEMU's own, which grows as it is written and may lie upon another.
    Qcow2,
}

/// A disk. Unless it is said otherwise, it is a virtio one that stays where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    pub(crate) path: PathBuf,
    pub(crate) format: Format,
    pub(crate) access: Access,
    pub(crate) slot: Slot,
    pub(crate) flush: Flush,
    pub(crate) serial: Option<String>,
    pub(crate) boot_index: Option<u32>,
}

/// What a disk is plugged into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slot {
    /// The board.
    Fixed,
    /// A PCI Express port of its own.
    Port,
    /// USB, as a medium that a guest calls removable.
    Usb,
}

/// How far a guest's flush goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flush {
    /// To the host's disk.
    Disk,
    /// To the host's memory.
    Memory,
}

impl Disk {
    /// A file or a block device as it is.
    pub fn raw(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            format: Format::Raw,
            access: Access::Write,
            slot: Slot::Fixed,
            flush: Flush::Disk,
            serial: None,
            boot_index: None,
        }
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
        run(command).await?;
        Ok(Self::qcow2(path))
    }

    /// Makes its file grow to this size, in bytes, while no machine has it. What is new reads as
    /// zeros.
    pub async fn grow(&self, bytes: u64) -> Result<()> {
        let mut command = Command::new(QEMU_IMG);
        command.args(["resize", "-q", "-f", self.format.name()]).arg(&self.path).arg(bytes.to_string());
        run(command).await
    }

    /// What is at `offset`, in bytes, of a disk that no machine writes; whole sectors of 512 bytes.
    pub async fn read(&self, offset: u64, bytes: usize) -> Result<Vec<u8>> {
        let part = tempfile::NamedTempFile::new().map_err(Error::file("write in", std::env::temp_dir()))?;
        let mut command = Command::new(QEMU_IMG);
        command.args(["dd", "-f", self.format.name(), "-O", "raw", "bs=512"]);
        command.arg(format!("skip={}", offset / SECTOR_BYTES));
        command.arg(format!("count={}", offset / SECTOR_BYTES + bytes as u64 / SECTOR_BYTES));
        command.arg(assignment("if=", &self.path)).arg(assignment("of=", part.path()));
        run(command).await?;
        let mut found = fs::read(part.path()).map_err(Error::file("read", part.path()))?;
        // Some qemu-img count what they skip, others do not.
        found.truncate(bytes);
        Ok(found)
    }

    /// Writes these bytes at `offset`, in bytes, of a disk that no machine has.
    pub async fn write(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let part = tempfile::NamedTempFile::new().map_err(Error::file("write in", std::env::temp_dir()))?;
        fs::write(part.path(), bytes).map_err(Error::file("write", part.path()))?;
        let mut command = Command::new(QEMU_IO);
        let order = format!("write -s {} {offset} {}", part.path().display(), bytes.len());
        command.args(["-f", self.format.name(), "-c", &order]).arg(&self.path);
        run(command).await
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

    /// Can be taken out of a running machine and put back ([`crate::Vm::unplug`]).
    #[must_use]
    pub fn hot_plug(mut self) -> Self {
        self.slot = Slot::Port;
        self
    }

    /// A USB stick: a medium that the guest calls removable, and that can be taken out as well.
    #[must_use]
    pub fn usb(mut self) -> Self {
        self.slot = Slot::Usb;
        self
    }

    /// A flush of the guest's goes no further than to the host's memory, which is much faster. A
    /// power cut loses nothing more of it, a host that goes down may.
    #[must_use]
    pub fn flush_to_memory(mut self) -> Self {
        self.flush = Flush::Memory;
        self
    }

    /// Its place in the order in which firmware tries to boot disks, the lowest first.
    #[must_use]
    pub fn boot_index(mut self, index: u32) -> Self {
        self.boot_index = Some(index);
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

/// `key=PATH`, as `qemu-img dd` has it.
fn assignment(key: &str, path: &Path) -> OsString {
    let mut word = OsString::from(key);
    word.push(path);
    word
}

async fn run(mut command: Command) -> Result<()> {
    let shown = format!("{:?}", command.as_std()).replace('"', "");
    let program = PathBuf::from(command.as_std().get_program());
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = timeout(LIMIT, command.output()).await;
    let late = |_| Error::TimedOut { what: shown.clone(), limit: LIMIT, tail: String::new() };
    let output = output.map_err(late)?;
    let output = output.map_err(|source| Error::Spawn { program, source })?;
    if output.status.success() {
        return Ok(());
    }
    // qemu-io complains on its stdout.
    let said = String::from_utf8_lossy(&[output.stderr, output.stdout].concat()).into_owned();
    Err(Error::Failed { command: shown, status: output.status.to_string(), said })
}
