//! What a machine is made of.

use std::path::PathBuf;

use crate::{Accelerator, CommandLine, Disk, Network};

/// A machine as asked for; [`Machine::start`] runs it.
#[derive(Clone, Debug)]
pub struct Machine {
    pub(crate) program: PathBuf,
    pub(crate) accelerator: Accelerator,
    pub(crate) cpus: u32,
    pub(crate) memory_mib: u32,
    pub(crate) firmware: Option<Firmware>,
    pub(crate) kernel: Option<Kernel>,
    pub(crate) disks: Vec<Disk>,
    pub(crate) networks: Vec<Network>,
    pub(crate) shares: Vec<Share>,
    pub(crate) watchdog: bool,
    pub(crate) tpm: Option<PathBuf>,
    pub(crate) on_reset: OnReset,
    pub(crate) smbios_strings: Vec<String>,
    pub(crate) console_log: Option<PathBuf>,
    pub(crate) clock: Option<String>,
}

/// What a guest's reset does to its machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnReset {
    End,
    Reboot,
}

/// Linux, booted without a boot loader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    pub(crate) image: PathBuf,
    pub(crate) initramfs: Option<PathBuf>,
    pub(crate) command_line: CommandLine,
}

/// UEFI firmware, as OVMF's package has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Firmware {
    pub(crate) code: PathBuf,
    pub(crate) template: PathBuf,
    pub(crate) variables: PathBuf,
}

/// A directory of the host that the guest mounts by 9p.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// What it is called in the guest.
    pub tag: String,
    /// On the host.
    pub dir: PathBuf,
    /// What the guest may do with it.
    pub access: Access,
}

/// To a disk or a share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Nothing changes.
    Read,
    /// Files of a share are made as the user that runs QEMU.
    Write,
}

impl Machine {
    /// One CPU and 256 MiB, emulated; `program` is QEMU for x86-64.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
            accelerator: Accelerator::Tcg,
            cpus: 1,
            memory_mib: 256,
            firmware: None,
            kernel: None,
            disks: Vec::new(),
            networks: Vec::new(),
            shares: Vec::new(),
            watchdog: false,
            tpm: None,
            on_reset: OnReset::End,
            smbios_strings: Vec::new(),
            console_log: None,
            clock: None,
        }
    }

    /// Another QEMU.
    #[must_use]
    pub fn program(mut self, program: impl Into<PathBuf>) -> Self {
        self.program = program.into();
        self
    }

    /// What executes the guest; [`Accelerator::probe`] tells what can.
    #[must_use]
    pub fn accelerator(mut self, accelerator: Accelerator) -> Self {
        self.accelerator = accelerator;
        self
    }

    /// Virtual ones.
    #[must_use]
    pub fn cpus(mut self, cpus: u32) -> Self {
        self.cpus = cpus;
        self
    }

    /// In MiB.
    #[must_use]
    pub fn memory_mib(mut self, memory: u32) -> Self {
        self.memory_mib = memory;
        self
    }

    /// Boots by UEFI instead of a BIOS, from a disk unless there is a kernel.
    #[must_use]
    pub fn firmware(mut self, firmware: Firmware) -> Self {
        self.firmware = Some(firmware);
        self
    }

    /// Boots it directly.
    #[must_use]
    pub fn kernel(mut self, kernel: Kernel) -> Self {
        self.kernel = Some(kernel);
        self
    }

    /// One more; the first is booted from.
    #[must_use]
    pub fn disk(mut self, disk: Disk) -> Self {
        self.disks.push(disk);
        self
    }

    /// One more.
    #[must_use]
    pub fn network(mut self, network: Network) -> Self {
        self.networks.push(network);
        self
    }

    /// One more.
    #[must_use]
    pub fn share(mut self, share: Share) -> Self {
        self.shares.push(share);
        self
    }

    /// An i6300ESB, which resets the machine once the guest has begun to feed it and stops.
    #[must_use]
    pub fn watchdog(mut self) -> Self {
        self.watchdog = true;
        self
    }

    /// A TPM 2.0 by swtpm, which keeps its state in a directory that exists.
    #[must_use]
    pub fn tpm(mut self, state: impl Into<PathBuf>) -> Self {
        self.tpm = Some(state.into());
        self
    }

    /// Boots again where the guest asks for a reset, panics or leaves its watchdog alone; without
    /// this, each of them ends the machine. [`crate::Vm::wait_for_reset`] tells of it.
    #[must_use]
    pub fn reboots(mut self) -> Self {
        self.on_reset = OnReset::Reboot;
        self
    }

    /// One more string for the guest's firmware tables (SMBIOS type 11, "OEM strings"), by which
    /// programs in the guest take settings: systemd's boot stub reads more words for the kernel from
    /// `io.systemd.stub.kernel-cmdline-extra=…`.
    #[must_use]
    pub fn smbios_string(mut self, text: &str) -> Self {
        self.smbios_strings.push(text.to_owned());
        self
    }

    /// What its own clock says at each power-on, in UTC, such as `2020-01-01T00:00:00`; the host's time without it.
    #[must_use]
    pub fn clock(mut self, starts_at: &str) -> Self {
        self.clock = Some(starts_at.to_owned());
        self
    }

    /// Also appends what the serial line brings to a file, whoever reads [`crate::Console`]. A byte that
    /// nobody was ready for may be in it twice.
    #[must_use]
    pub fn console_log(mut self, file: impl Into<PathBuf>) -> Self {
        self.console_log = Some(file.into());
        self
    }
}

impl Kernel {
    /// Says what it does on the console that [`crate::Console`] reads, and does not stay in a panic.
    pub fn new(image: impl Into<PathBuf>) -> Self {
        let command_line = CommandLine::new().add("console", "ttyS0").add("panic", -1);
        Self { image: image.into(), initramfs: None, command_line }
    }

    /// What it begins with.
    #[must_use]
    pub fn initramfs(mut self, path: impl Into<PathBuf>) -> Self {
        self.initramfs = Some(path.into());
        self
    }

    /// Changes its command line.
    #[must_use]
    pub fn arguments(mut self, change: impl FnOnce(CommandLine) -> CommandLine) -> Self {
        self.command_line = change(self.command_line);
        self
    }
}

impl Firmware {
    /// `variables` is made from `template` if it does not exist, and kept from boot to boot.
    pub fn new(
        code: impl Into<PathBuf>,
        template: impl Into<PathBuf>,
        variables: impl Into<PathBuf>,
    ) -> Self {
        Self { code: code.into(), template: template.into(), variables: variables.into() }
    }
}
