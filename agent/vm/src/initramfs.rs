//! What a kernel begins with: an archive of programs and modules.

use std::{collections::HashMap, fs, path::Path};

use crate::{Error, Result};

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const DATA: u32 = 0o100_644;
/// Where [`Archive::modules`] puts them.
const MODULES: &str = "modules";

/// cpio's "newc" format, in which Linux takes it (Documentation/driver-api/early-userspace/
/// buffer-format.rst). The kernel runs `/init`.
#[derive(Clone, Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// With a directory. Those above it must be there.
    #[must_use]
    pub fn directory(self, name: &str) -> Self {
        self.entry(name, DIRECTORY, b"")
    }

    /// With an executable file.
    #[must_use]
    pub fn program(self, name: &str, content: &[u8]) -> Self {
        self.entry(name, PROGRAM, content)
    }

    /// With a file.
    #[must_use]
    pub fn file(self, name: &str, content: &[u8]) -> Self {
        self.entry(name, DATA, content)
    }

    /// With `/modules`: these and what they need out of the host's `/lib/modules/VERSION`, and `order`,
    /// their names one a line in the order in which they load.
    pub fn modules(mut self, kernel: &Path, names: &[&str]) -> Result<Self> {
        let list = kernel.join("modules.dep");
        let dependencies = fs::read_to_string(&list).map_err(Error::file("read", &list))?;
        let order = in_order(&dependencies, names);
        let order = order.map_err(|name| Error::NoModule { file: list.clone(), name: name.to_owned() })?;
        self = self.directory(MODULES);
        for path in &order {
            let module = kernel.join(path);
            let content = fs::read(&module).map_err(Error::file("read", &module))?;
            self = self.file(&format!("{MODULES}/{}", name_of(path)), &content);
        }
        let order: String = order.iter().map(|path| format!("{}\n", name_of(path))).collect();
        Ok(self.file(&format!("{MODULES}/order"), order.as_bytes()))
    }

    /// The archive as a file's content.
    pub fn build(self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, b"").bytes
    }

    fn entry(mut self, name: &str, mode: u32, content: &[u8]) -> Self {
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
        self
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

/// Paths of modules and of what they need, which comes first; `dependencies` is a `modules.dep`. Or
/// the name that it lacks.
fn in_order<'a, 'n>(dependencies: &'a str, names: &[&'n str]) -> Result<Vec<&'a str>, &'n str> {
    let lines = dependencies.lines().filter_map(|line| line.split_once(':'));
    let lines: HashMap<&str, (&str, &str)> =
        lines.map(|(path, needs)| (name_of(path).trim_end_matches(".ko"), (path, needs))).collect();
    let mut order = Vec::new();
    for name in names {
        let (path, needs) = lines.get(name).ok_or(*name)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_load_after_what_they_need() {
        let dep = "a/net.ko:\nb/top.ko: b/mid.ko a/net.ko\nb/mid.ko: a/net.ko\n";
        assert_eq!(in_order(dep, &["mid", "top"]).unwrap(), ["a/net.ko", "b/mid.ko", "b/top.ko"]);
        assert_eq!(in_order(dep, &["other"]).unwrap_err(), "other");
    }

    #[test]
    fn an_archive_is_what_cpio_reads() {
        let archive = Archive::new().directory("d").file("d/file", b"words").build();
        let dir = tempfile::tempdir().unwrap();
        let mut cpio = std::process::Command::new("/bin/busybox");
        cpio.args(["cpio", "-i", "-F"]).arg(dir.path().join("archive")).current_dir(dir.path());
        fs::write(dir.path().join("archive"), archive).unwrap();
        assert!(cpio.status().unwrap().success());
        assert_eq!(fs::read(dir.path().join("d/file")).unwrap(), b"words");
    }
}
