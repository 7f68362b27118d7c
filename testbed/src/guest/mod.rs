//! A guest whose kernel has what this host's may lack: Debian's, with WireGuard.
//!
//! ```text
//!   target/guest/kernel ──▶ initramfs ──▶ Machine ──▶ init.sh: this host's files, read by 9p,
//!   target/guest/qemu ──────────────────────┘         below a layer of memory
//!                                                       └─▶ start.sh ──▶ one command, power off
//! ```
//!
//! So every program of this host runs there as it is, the tests among them, and nothing that it
//! writes is kept. The machine is [`capsule_vm`]'s.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use capsule_vm::{Access, Kernel, Machine, Share, initramfs::Archive};
use tokio::runtime::Runtime;

use crate::sys;

const BUSYBOX: &str = "/bin/busybox";
/// Where things are mounted before the guest has its root.
const DIRECTORIES: [&str; 8] = ["bin", "dev", "host", "layer", "lib", "proc", "root", "sys"];
/// To meet the host's files.
const MODULES: [&str; 4] = ["virtio_pci", "9pnet_virtio", "9p", "overlay"];

/// As many as the smallest machine has that this is meant for.
const CPUS: u32 = 2;
/// Files written there are in it, too.
const MEMORY_MIB: u32 = 2048;

/// What a guest is made of.
#[derive(Clone, Debug)]
pub struct Guest {
    program: PathBuf,
    kernel: PathBuf,
    /// Holds one directory, called after the kernel's version.
    modules: PathBuf,
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// As a shell has it.
    pub code: i32,
    /// Everything that it wrote.
    pub output: String,
}

impl Guest {
    /// With the kernel and the QEMU that `scripts/setup` fetches.
    pub fn find() -> Result<Self> {
        let dir = sys::target_dir().join("guest");
        let part = |path: &str| {
            let path = dir.join(path);
            let present = path.exists();
            present
                .then_some(path.clone())
                .with_context(|| format!("there is no {}; scripts/setup fetches it", path.display()))
        };
        Ok(Self {
            program: part("qemu/run")?,
            kernel: part("kernel/vmlinuz")?,
            modules: part("kernel/lib/modules")?,
        })
    }

    /// Boots it and runs a shell script as root, in this program's working directory. Such a machine
    /// is ten times slower than this one: `limit` is for all of it.
    pub fn run(&self, script: &str, limit: Duration) -> Result<Outcome> {
        let share = tempfile::tempdir().context("cannot make a directory for a guest")?;
        let (share, file) = (share.path(), |name: &str| share.path().join(name));
        let here = std::env::current_dir().context("cannot tell where this program is")?;
        fs::write(file("initramfs"), self.initramfs()?)?;
        fs::write(file("start"), include_str!("start.sh"))?;
        fs::write(file("command"), format!("cd '{}'\n{script}\n", here.display()))?;
        let (ended, console) = Runtime::new()?.block_on(async {
            let mut vm = self.machine(share).start().await?;
            anyhow::Ok((vm.wait(limit).await, vm.console.text()))
        })?;
        let output = fs::read(file("output")).unwrap_or_default();
        let output = String::from_utf8_lossy(&output).into_owned();
        let ended = ended.with_context(|| format!("its command has written:\n{output}"))?;
        let Ok(code) = fs::read_to_string(file("status")) else {
            bail!(
                "the guest ended ({ended}) before its command did, which has written:\n{output}\nits console:\n{console}"
            );
        };
        let code = code.trim().parse().with_context(|| format!("{code:?} is no exit code"))?;
        Ok(Outcome { code, output })
    }

    fn initramfs(&self) -> Result<Vec<u8>> {
        let busybox = fs::read(BUSYBOX).with_context(|| format!("cannot read {BUSYBOX}"))?;
        let directories = DIRECTORIES.into_iter().fold(Archive::new(), Archive::directory);
        let archive = directories.program("bin/busybox", &busybox).program("init", include_bytes!("init.sh"));
        Ok(archive.modules(&self.own_modules()?, &MODULES)?.build())
    }

    fn own_modules(&self) -> Result<PathBuf> {
        let entries = fs::read_dir(&self.modules);
        let first = entries.with_context(|| format!("cannot read {}", self.modules.display()))?.next();
        Ok(first.with_context(|| format!("{} is empty", self.modules.display()))??.path())
    }

    /// Emulated, so that it is the same wherever this program runs.
    fn machine(&self, own: &Path) -> Machine {
        // It lives for minutes and trusts what it runs.
        let kernel = Kernel::new(&self.kernel).arguments(|line| line.flag("quiet").set("mitigations", "off"));
        let share =
            |tag: &str, dir: &Path, access| Share { tag: tag.to_owned(), dir: dir.to_owned(), access };
        Machine::new(&self.program)
            .cpus(CPUS)
            .memory_mib(MEMORY_MIB)
            .kernel(kernel.initramfs(own.join("initramfs")))
            .share(share("host", Path::new("/"), Access::Read))
            .share(share("modules", &self.modules, Access::Read))
            .share(share("guest", own, Access::Write))
    }
}
