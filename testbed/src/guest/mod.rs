//! A guest whose kernel has what this host's may lack: Debian's, with WireGuard.
//!
//! ```text
//!   target/guest/kernel ──▶ initramfs ──▶ Qemu ──▶ init.sh: this host's files, read by 9p,
//!   target/guest/qemu ─────────────────────┘       below a layer of memory
//!                                                    └─▶ start.sh ──▶ one command, power off
//! ```
//!
//! So every program of this host runs there as it is, the tests among them, and nothing that it
//! writes is kept. [`qemu`] knows nothing of that: it is a machine, its console and its end.

mod initramfs;
pub mod qemu;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use self::qemu::{Access, Qemu, Share};
use crate::sys;

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
        fs::write(file("initramfs"), initramfs::build(&self.own_modules()?, include_str!("init.sh"))?)?;
        fs::write(file("start"), include_str!("start.sh"))?;
        fs::write(file("command"), format!("cd '{}'\n{script}\n", here.display()))?;
        let qemu = self.machine(share);
        let mut machine = qemu.start(&file("console"))?;
        let ended = machine.wait(limit);
        let output = fs::read(file("output")).unwrap_or_default();
        let output = String::from_utf8_lossy(&output).into_owned();
        let ended = ended.with_context(|| format!("its command has written:\n{output}"))?;
        let Ok(code) = fs::read_to_string(file("status")) else {
            bail!(
                "the guest ended ({ended}) before its command did, which has written:\n{output}\nits console:\n{}",
                machine.console()
            );
        };
        let code = code.trim().parse().with_context(|| format!("{code:?} is no exit code"))?;
        Ok(Outcome { code, output })
    }

    fn own_modules(&self) -> Result<PathBuf> {
        let entries = fs::read_dir(&self.modules);
        let first = entries.with_context(|| format!("cannot read {}", self.modules.display()))?.next();
        Ok(first.with_context(|| format!("{} is empty", self.modules.display()))??.path())
    }

    fn machine(&self, share: &Path) -> Qemu {
        let Self { program, kernel, modules } = self.clone();
        Qemu {
            program,
            kernel,
            initramfs: share.join("initramfs"),
            // It lives for minutes and trusts what it runs.
            arguments: ["quiet", "mitigations=off"].map(String::from).into(),
            cpus: CPUS,
            memory: MEMORY_MIB,
            shares: vec![
                Share { tag: "host", dir: "/".into(), access: Access::Read },
                Share { tag: "modules", dir: modules, access: Access::Read },
                Share { tag: "guest", dir: share.to_owned(), access: Access::Write },
            ],
        }
    }
}
