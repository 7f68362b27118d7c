//! What makes files of packages a capsule's root: our own files, mount points, and what the packages'
//! scripts would have made of theirs.

use std::{fs, path::Path};

use crate::{Error, Result, elf, packages::Packages, run::Program, tree::Tree};

/// The agent, which is also PID 1.
pub const AGENT: &str = "usr/sbin/capsuled";
/// The agent's program answers to that name.
const DHCP_EVENT: &str = "usr/lib/capsule/dhcp-event";
/// The initramfs' program, which answers to the names after it (`agent/initramfs/src/calls.rs`).
const CALLED: (&str, [&str; 2]) = ("usr/lib/capsule/called", ["dhcp-hook", "modprobe"]);
/// What the capsule has of its own.
const SHARE: &str = "usr/share/capsule";
/// What something is mounted on.
const MOUNT_POINTS: [&str; 9] =
    ["dev", "proc", "sys", "run", "tmp", "var", "perm", "boot/esp", "usr/lib/firmware"];
/// What init copies into `/var`, which is empty at each boot.
const VAR: [&str; 9] =
    ["cache", "lib/caddy", "lib/chrony", "lib/containerd", "lib/dhcpcd", "lib/lvm", "log", "spool", "tmp"];
const VAR_LINKS: [(&str, &str); 2] = [("run", "/run"), ("lock", "/run/lock")];
const CERTIFICATES: &str = "usr/share/ca-certificates/mozilla";
const BUNDLE: &str = "etc/ssl/certs/ca-certificates.crt";

/// What is put into a root besides packages.
#[derive(Clone, Debug)]
pub struct Own<'a> {
    /// `images/contents/files`: copied as it is.
    pub files: &'a Path,
    /// `capsuled`.
    pub agent: &'a Path,
    /// `capsule-initramfs`.
    pub initramfs: &'a Path,
    /// The image's.
    pub version: &'a str,
    /// Public keys whose updates this image accepts: names of files, and their texts.
    pub keys: &'a [(String, String)],
    /// Firmware of devices, as `/usr/lib/firmware` has it.
    pub firmware: Option<&'a Path>,
}

impl Own<'_> {
    /// Puts it in.
    pub fn put(&self, tree: &Tree) -> Result<()> {
        tree.copy(self.files, Path::new(""))?;
        tree.program(AGENT, elf::stripped(self.agent)?)?;
        for name in MOUNT_POINTS {
            tree.directory(name)?;
        }
        tree.file("etc/os-release", self.os_release())?;
        tree.link("etc/resolv.conf", "/run/resolv.conf")?;
        tree.link(DHCP_EVENT, format!("/{AGENT}"))?;
        let (called, names) = CALLED;
        tree.program(called, elf::stripped(self.initramfs)?)?;
        for name in names {
            tree.link(format!("usr/lib/capsule/{name}"), "called")?;
        }
        tree.link("etc/mtab", "/proc/self/mounts")?;
        tree.file(format!("{SHARE}/version"), format!("{}\n", self.version))?;
        for name in VAR {
            tree.directory(format!("{SHARE}/var/{name}"))?;
        }
        for (name, target) in VAR_LINKS {
            tree.link(format!("{SHARE}/var/{name}"), target)?;
        }
        for (name, text) in self.keys {
            tree.file(format!("{SHARE}/keys/{name}"), text)?;
        }
        if let Some(firmware) = self.firmware {
            tree.copy_into(firmware, Path::new("usr/lib/firmware"))?;
        }
        Ok(())
    }

    /// What tells this system from others (os-release(5)).
    pub fn os_release(&self) -> String {
        let version = self.version;
        format!(
            "ID=capsule\nNAME=Capsule\nPRETTY_NAME=\"Capsule {version}\"\nVERSION_ID=\"{version}\"\n\
             IMAGE_ID=capsule\nIMAGE_VERSION=\"{version}\"\n"
        )
    }
}

/// Makes the one file of certificates that programs look for.
pub fn certificates(packages: &Packages, tree: &Tree) -> Result<()> {
    let mut bundle = Vec::new();
    for path in crate::tree::sorted(&packages.tree.join(CERTIFICATES))? {
        bundle.extend(fs::read(&path).map_err(Error::file("read", &path))?);
    }
    tree.file(BUNDLE, bundle)
}

/// Makes the loader's index of libraries.
pub fn loader(tree: &Tree) -> Result<()> {
    Program::new("ldconfig").args(["-X", "-r"]).arg(tree.path()).run()?;
    crate::tree::remove(&tree.path().join("var/cache"))
}

/// Links each of busybox's small tools to it, where there is no larger one of that name.
pub fn busybox(tree: &Tree) -> Result<()> {
    let tools = Program::inside(tree.path(), "usr/bin/busybox").arg("--list").text()?;
    for tool in tools.lines() {
        if !tree.has(format!("usr/bin/{tool}")) && !tree.has(format!("usr/sbin/{tool}")) {
            tree.link(format!("usr/bin/{tool}"), "busybox")?;
        }
    }
    Ok(())
}
