//! A machine's files on this host, and the machine that is made of them.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use capsule_vm::{Accelerator, Disk, Firmware, Machine, Network};

use super::{Hardware, Medium, hardware::SYSTEM};
use crate::{
    substrate::{Node, Plan, Record},
    sys::{self, run},
};

/// Debian's `ovmf`.
const FIRMWARE: &str = "/usr/share/OVMF";
/// By which systemd's boot stub finds words for the kernel in the firmware's tables.
const STUB_WORDS: &str = "io.systemd.stub.kernel-cmdline-extra=";

/// QEMU, as `scripts/setup` fetches it.
pub(super) fn program() -> Result<PathBuf> {
    let path = sys::target_dir().join("guest/qemu/run");
    ensure!(path.exists(), "there is no {}; scripts/setup fetches it", path.display());
    Ok(path)
}

/// Where a machine's files are.
#[derive(Clone, Debug)]
pub struct Files {
    dir: PathBuf,
    bases: PathBuf,
    console: PathBuf,
}

impl Files {
    /// Of a node, whether they are there or not.
    pub fn of(record: &Record, node: &str) -> Self {
        Self { dir: record.dir.join(node), bases: record.dir.join("bases"), console: record.console(node) }
    }

    /// Where its keeper listens.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("keeper.sock")
    }

    /// One of its disks, by name.
    pub fn disk(&self, name: &str) -> Disk {
        if name == SYSTEM {
            Disk::qcow2(self.dir.join("system.qcow2"))
        } else {
            Disk::raw(self.dir.join(format!("{name}.img")))
        }
    }

    /// Makes what is not there yet.
    pub(super) async fn ensure(&self, hardware: &Hardware) -> Result<()> {
        let tpm = self.tpm();
        fs::create_dir_all(&tpm).with_context(|| format!("cannot make {}", tpm.display()))?;
        for (at, bytes) in hardware.data_bytes.iter().enumerate() {
            let disk = self.disk(&hardware.disks()[at + 1]);
            if !disk.path().exists() {
                let file = File::create(disk.path()).and_then(|file| file.set_len(*bytes));
                file.with_context(|| format!("cannot make {}", disk.path().display()))?;
            }
        }
        let system = self.disk(SYSTEM);
        if system.path().exists() {
            return Ok(());
        }
        // Complete under its name, or not there.
        let base = Disk::raw(self.ensure_base(&hardware.image)?);
        let half = base.overlay(self.dir.join("system.half")).await?;
        half.grow(hardware.system_bytes).await?;
        fs::rename(half.path(), system.path())
            .with_context(|| format!("cannot make {}", system.path().display()))
    }

    /// A copy of the image as it is now: overlays are worth nothing once their base changes.
    fn ensure_base(&self, image: &Path) -> Result<PathBuf> {
        let at = || format!("there is no image at {}; `make image` builds one", image.display());
        let facts = image.metadata().with_context(at)?;
        let changed = facts.modified()?.duration_since(std::time::UNIX_EPOCH)?;
        let base = self.bases.join(format!("{}-{}.img", changed.as_millis(), facts.len()));
        if base.exists() {
            return Ok(base);
        }
        fs::create_dir_all(&self.bases).with_context(|| format!("cannot make {}", self.bases.display()))?;
        let half = self.dir.join("base.half");
        run(Command::new("cp").args(["--sparse=always", "--reflink=auto"]).arg(image).arg(&half), "")?;
        fs::rename(&half, &base).with_context(|| format!("cannot make {}", base.display()))?;
        Ok(base)
    }

    fn tpm(&self) -> PathBuf {
        self.dir.join("tpm")
    }

    /// The machine without the disks that are pulled; the others in their order.
    pub(super) fn machine(
        &self,
        (plan, position, node): (&Plan, usize, &Node),
        hardware: &Hardware,
        pulled: &BTreeSet<String>,
        accelerator: Accelerator,
    ) -> Result<Machine> {
        let firmware = |name: &str| Path::new(FIRMWARE).join(name);
        let (code, template) = (firmware("OVMF_CODE_4M.fd"), firmware("OVMF_VARS_4M.fd"));
        let mut words = hardware.kernel_words.clone();
        if hardware.fixed_address {
            let (address, gateway) = (plan.node(position).0, plan.operator().0);
            let _ = write!(words, " capsule.net=static,address={address}/24,gateway={gateway}");
        }
        let network = Network::tap(&Plan::port(&node.name)).mac(plan.mac(position));
        let machine = Machine::new(program()?)
            .accelerator(accelerator)
            .cpus(hardware.cpus)
            .memory_mib(hardware.memory_mib)
            .firmware(Firmware::new(code, template, self.dir.join("variables.fd")))
            .smbios_string(&format!("{STUB_WORDS}{words}"))
            .network(network)
            .watchdog()
            .reboots()
            .console_log(&self.console);
        let machine = if hardware.tpm { machine.tpm(self.tpm()) } else { machine };
        let machine = hardware.clock.iter().fold(machine, |machine, starts_at| machine.clock(starts_at));
        let all = hardware.disks().into_iter().enumerate();
        let present = all.filter(|(_, name)| !pulled.contains(name));
        Ok(present.fold(machine, |machine, (at, name)| {
            // This host does not go down in the middle of a story.
            let disk = self.disk(&name).serial(&name).boot_index(at as u32).flush_to_memory();
            let is_stick = name == SYSTEM && hardware.medium == Medium::Stick;
            machine.disk(if is_stick { disk.usb() } else { disk.hot_plug() })
        }))
    }
}
