//! A small guest.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use capsule_vm::{Kernel, Machine, Vm, initramfs::Archive};
use tempfile::TempDir;

/// For anything that a guest does: an emulated one on a busy host.
pub const LIMIT: Duration = Duration::from_mins(2);
/// What busybox's shell asks with.
pub const PROMPT: &str = "~ # ";
/// Root's password is `secret`.
const PASSWD: &str = "root:$1$abcdefgh$cHJi5PXp/ki/ktXzqlk6I1:0:0:root:/:/bin/sh\n";
const DIRECTORIES: [&str; 8] = ["bin", "dev", "etc", "etc/acpi", "etc/acpi/PWRF", "mnt", "proc", "sys"];

/// Files of a guest, which go with this.
pub struct Guest {
    pub dir: TempDir,
}

impl Guest {
    /// With these modules, and a script that its shell runs first.
    pub fn new(modules: &[&str], script: &str) -> Self {
        let dir = TempDir::new().unwrap();
        let mut archive = Archive::new();
        for name in DIRECTORIES {
            archive = archive.directory(name);
        }
        let archive = archive
            .program("bin/busybox", &fs::read("/bin/busybox").unwrap())
            .program("init", include_bytes!("init.sh"))
            .program("etc/acpi/PWRF/00000080", b"#!/bin/sh\npoweroff -f\n")
            .file("etc/passwd", PASSWD.as_bytes())
            .file("script", script.as_bytes())
            .modules(&modules_dir(), modules)
            .unwrap();
        fs::write(dir.path().join("initramfs"), archive.build()).unwrap();
        Self { dir }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn machine(&self) -> Machine {
        let kernel = Kernel::new(fetched("kernel/vmlinuz")).initramfs(self.path("initramfs"));
        Machine::new(fetched("qemu/run"))
            .kernel(kernel.arguments(|line| line.flag("quiet").set("mitigations", "off")))
    }

    pub async fn start(&self) -> Vm {
        self.machine().start().await.unwrap()
    }
}

/// What `vm`'s shell, which has the console, makes of a command that must succeed.
pub async fn sh(vm: &mut Vm, command: &str) -> String {
    let outcome = vm.console.run_command(command, LIMIT).await.unwrap();
    assert_eq!(outcome.code, 0, "`{command}` wrote {}", outcome.output);
    outcome.output
}

/// A started machine whose shell waits.
pub async fn with_shell(machine: &Machine) -> Vm {
    let mut vm = machine.start().await.unwrap();
    vm.console.wait_for(PROMPT, LIMIT).await.unwrap();
    vm
}

pub fn fetched(path: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/guest").join(path);
    assert!(path.exists(), "there is no {}; scripts/setup fetches it", path.display());
    path
}

fn modules_dir() -> PathBuf {
    let mut versions = fs::read_dir(fetched("kernel/lib/modules")).unwrap();
    versions.next().expect("a kernel's modules").unwrap().path()
}
