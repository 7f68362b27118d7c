//! A virtual machine: QEMU as a process of this program.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::sys;

/// Between two looks at a machine.
const POLL: Duration = Duration::from_millis(25);

/// A machine as asked for. It is emulated, so that it runs wherever this program does.
#[derive(Clone, Debug)]
pub struct Qemu {
    /// What starts QEMU.
    pub program: PathBuf,
    /// Linux, as its package has it.
    pub kernel: PathBuf,
    /// What the kernel begins with.
    pub initramfs: PathBuf,
    /// More words for the kernel.
    pub arguments: Vec<String>,
    /// Virtual ones.
    pub cpus: u32,
    /// In MiB.
    pub memory: u32,
    /// Directories of the host.
    pub shares: Vec<Share>,
}

/// A directory of the host that the guest mounts by 9p.
#[derive(Clone, Debug)]
pub struct Share {
    /// What it is called in the guest.
    pub tag: &'static str,
    /// On the host.
    pub dir: PathBuf,
    /// What the guest may do with it.
    pub access: Access,
}

/// To a share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Nothing changes.
    Read,
    /// Files are made as the user that runs QEMU.
    Write,
}

/// A running machine; killed when dropped.
#[derive(Debug)]
pub struct Machine {
    process: Child,
    console: PathBuf,
}

impl Qemu {
    fn command(&self, console: &Path) -> Command {
        let mut command = Command::new(&self.program);
        command.args(["-nodefaults", "-no-reboot", "-display", "none", "-monitor", "none"]);
        command.args(["-M", "q35", "-cpu", "max", "-accel", "tcg,thread=multi"]);
        command.args(["-smp", &self.cpus.to_string(), "-m", &self.memory.to_string()]);
        command.arg("-kernel").arg(&self.kernel).arg("-initrd").arg(&self.initramfs);
        command.args(["-append", &format!("console=ttyS0 panic=-1 {}", self.arguments.join(" "))]);
        command.args(["-chardev", &format!("file,id=console,append=on,path={}", console.display())]);
        command.args(["-serial", "chardev:console"]);
        for share in &self.shares {
            let Share { tag, dir, access } = share;
            let readonly = if *access == Access::Read { "on" } else { "off" };
            command.args([
                "-fsdev",
                &format!(
                    "local,id={tag},path={},security_model=none,multidevs=remap,readonly={readonly}",
                    dir.display()
                ),
                "-device",
                &format!("virtio-9p-pci,fsdev={tag},mount_tag={tag}"),
            ]);
        }
        command
    }

    /// Starts it; `console` gets what the guest and QEMU write.
    pub fn start(&self, console: &Path) -> Result<Machine> {
        let said = File::create(console).with_context(|| format!("cannot write {}", console.display()))?;
        let mut command = self.command(console);
        command.stdin(Stdio::null()).stdout(said.try_clone()?).stderr(said);
        let process = command.spawn().with_context(|| format!("cannot run `{}`", sys::show(&command)))?;
        Ok(Machine { process, console: console.to_owned() })
    }
}

impl Machine {
    /// Waits until QEMU ends, as it does when the guest powers off or panics; how it ended.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let end = Instant::now() + limit;
        loop {
            if let Some(status) = self.process.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > end {
                bail!("the guest still runs after {} s; its console:\n{}", limit.as_secs(), self.console());
            }
            thread::sleep(POLL);
        }
    }

    /// What it has written so far.
    pub fn console(&self) -> String {
        fs::read(&self.console).map_or_else(|_| String::new(), |text| String::from_utf8_lossy(&text).into())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // One that has ended needs neither.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
