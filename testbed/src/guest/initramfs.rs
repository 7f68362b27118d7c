//! What a kernel begins with: busybox, a script, and modules.

use std::{collections::HashMap, fs, path::Path};

use anyhow::{Context as _, Result};

const BUSYBOX: &str = "/bin/busybox";
const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const DATA: u32 = 0o100_644;
/// Where things are mounted before the guest has its root.
const DIRECTORIES: [&str; 9] = ["bin", "dev", "host", "layer", "lib", "modules", "proc", "root", "sys"];
/// To meet the host's files.
const MODULES: [&str; 4] = ["virtio_pci", "9pnet_virtio", "9p", "overlay"];

/// An archive with `init` and the [`MODULES`] out of `/lib/modules/VERSION`, in the order in which
/// they load.
pub fn build(modules: &Path, init: &str) -> Result<Vec<u8>> {
    let busybox = fs::read(BUSYBOX).with_context(|| format!("cannot read {BUSYBOX}"))?;
    let mut archive = Archive::default();
    for name in DIRECTORIES {
        archive.add(name, DIRECTORY, b"");
    }
    archive.add("bin/busybox", PROGRAM, &busybox);
    archive.add("init", PROGRAM, init.as_bytes());
    let file = modules.join("modules.dep");
    let dependencies =
        fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let mut order = Vec::new();
    for path in in_order(&dependencies, &MODULES)? {
        let module = modules.join(path);
        let content = fs::read(&module).with_context(|| format!("cannot read {}", module.display()))?;
        archive.add(&format!("modules/{}", name_of(path)), DATA, &content);
        order.push(name_of(path));
    }
    archive.add("modules/order", DATA, (order.join("\n") + "\n").as_bytes());
    Ok(archive.end())
}

/// Paths of modules and of what they need, which comes first; `dependencies` is a `modules.dep`.
fn in_order<'a>(dependencies: &'a str, names: &[&str]) -> Result<Vec<&'a str>> {
    let lines = dependencies.lines().filter_map(|line| line.split_once(':'));
    let lines: HashMap<&str, (&str, &str)> =
        lines.map(|(path, needs)| (name_of(path).trim_end_matches(".ko"), (path, needs))).collect();
    let mut order = Vec::new();
    for name in names {
        let (path, needs) = lines.get(name).with_context(|| format!("the kernel has no module {name}"))?;
        // depmod lists them the other way round.
        for path in needs.split_whitespace().rev().chain([*path]) {
            if !order.contains(&path) {
                order.push(path);
            }
        }
    }
    Ok(order)
}

fn name_of(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// cpio's "newc" format, in which Linux takes it (Documentation/driver-api/early-userspace/
/// buffer-format.rst).
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    fn add(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.entries += 1;
        // inode, mode, uid, gid, links, mtime, size, device and rdevice in two parts each, length of
        // the name with its NUL, checksum.
        let fields =
            [self.entries, mode, 0, 0, 1, 0, content.len() as u32, 0, 0, 0, 0, name.len() as u32 + 1, 0];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08x}").bytes());
        }
        self.bytes.extend(name.bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend(content);
        self.align();
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn end(mut self) -> Vec<u8> {
        self.add("TRAILER!!!", 0, b"");
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_load_after_what_they_need() {
        let dep = "a/net.ko:\nb/top.ko: b/mid.ko a/net.ko\nb/mid.ko: a/net.ko\n";
        assert_eq!(in_order(dep, &["mid", "top"]).unwrap(), ["a/net.ko", "b/mid.ko", "b/top.ko"]);
        assert!(in_order(dep, &["other"]).unwrap_err().to_string().contains("no module other"));
    }

    #[test]
    fn an_archive_is_what_cpio_reads() {
        let mut archive = Archive::default();
        archive.add("d", DIRECTORY, b"");
        archive.add("d/file", DATA, b"words");
        let dir = tempfile::tempdir().unwrap();
        let mut cpio = std::process::Command::new(BUSYBOX);
        cpio.args(["cpio", "-i", "-F"]).arg(dir.path().join("archive")).current_dir(dir.path());
        fs::write(dir.path().join("archive"), archive.end()).unwrap();
        assert!(cpio.status().unwrap().success());
        assert_eq!(fs::read(dir.path().join("d/file")).unwrap(), b"words");
    }
}
